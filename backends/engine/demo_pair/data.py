"""Training rows: documents drawn at random, tokenized, packed to a length, weighted per token.

A row begins where a document begins, as a prompt does; what follows in it comes after an
end-of-text token. Rows are made while training runs: one seed is one endless stream, and nothing
but the seed has to be stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer

from backends.engine.demo_pair import chat, transcripts
from backends.engine.demo_pair.corpus import Corpus
from backends.engine.demo_pair.tokenizer import END, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX
from backends.engine.demo_pair.transcripts import coding

# What the user says is context, not something to imitate.
USER_WEIGHT = 0.1
IGNORED = 0.0

CODE, CHAT, LIBRARY = "code", "chat", "library"
# Shares of documents by kind.
MIX = {CODE: 0.36, CHAT: 0.50, LIBRARY: 0.14}
FIM_SHARE = 0.5
SEAM_SHARE = 0.6
_CHARS_PER_TOKEN = 3.2


@dataclass(frozen=True)
class Row:
    tokens: list[int]  # length + 1: inputs and, shifted by one, labels
    weights: list[float]


class Stream:
    """An endless, seeded source of rows."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, *, length: int, seed: int) -> None:
        self.files = corpus.train
        self.sizes = [len(file.text) for file in corpus.train]
        self.tokenizer = tokenizer
        self.length = length
        self.rng = Random(seed)
        self.end = tokenizer.token_to_id(END)

    def __iter__(self) -> Iterator[Row]:
        while True:
            yield self._row()

    def _row(self) -> Row:
        tokens: list[int] = []
        weights: list[float] = []
        wanted = self.length + 1
        while len(tokens) < wanted:
            room = wanted - len(tokens)
            new, weight = self._document(room)
            if len(new) > room and tokens and room > 24:
                # It would be cut. Code may be; a conversation gets a second draw that is code.
                new, weight = self._code(room)
            tokens += new
            weights += weight
        return Row(tokens[:wanted], weights[:wanted])

    def _document(self, room: int) -> tuple[list[int], list[float]]:
        kind = self.rng.choices(list(MIX), list(MIX.values()))[0]
        if kind == CHAT and room > 24:
            return self._chat(room)
        if kind == LIBRARY:
            return self._plain_or_fim(coding.module(self.rng), room)
        return self._code(room)

    def _chat(self, room: int) -> tuple[list[int], list[float]]:
        for _ in range(4):  # one that fits, if a few draws find one
            found = transcripts.conversation(self.rng)
            text = chat.render(found.messages, found.tools, sort_keys=self.rng.random() < 0.3)
            pieces = chat.answers(text)
            tokens: list[int] = []
            weights: list[float] = []
            for piece, answer in pieces:
                new = self.tokenizer.encode(piece).ids
                tokens += new
                weights += [1.0 if answer else USER_WEIGHT] * len(new)
            if len(tokens) < room:
                break
        return [*tokens, self.end], [*weights, IGNORED]

    def _code(self, room: int) -> tuple[list[int], list[float]]:
        text = self.rng.choices(self.files, self.sizes)[0].text
        start = self.rng.randrange(len(text))
        # Begin at a line, most often at one that begins a definition or a class.
        start = text.find("\n", start) + 1
        if self.rng.random() < 0.5:
            found = text.find("\ndef ", start, start + 4000)
            start = found + 1 if found >= 0 else start
        if self.rng.random() < 0.15:
            start = 0
        return self._plain_or_fim(text[start : start + int(room * 5)], room)

    def _plain_or_fim(self, text: str, room: int) -> tuple[list[int], list[float]]:
        if self.rng.random() < FIM_SHARE and room > 64:
            tokens = self._fim(text, room)
        else:
            tokens = [*self._cut_and_encoded(text), self.end]
        return tokens, [1.0] * len(tokens)

    def _cut_and_encoded(self, text: str) -> list[int]:
        """Plain text, often with a seam where a cursor might stand.

        A prompt may end after an indentation, whose tokens then differ from those of running text:
        without such seams the model has never seen what it is asked to continue.
        """
        tokens: list[int] = []
        while text and self.rng.random() < SEAM_SHARE:
            cut = self.rng.randrange(min(len(text), 400))
            if self.rng.random() < 0.7:
                cut = text.find("\n", cut) + 1
                while cut < len(text) and text[cut] == " ":
                    cut += 1
            tokens += self.tokenizer.encode(text[:cut]).ids
            text = text[cut:]
        return tokens + self.tokenizer.encode(text).ids

    def _fim(self, text: str, room: int) -> list[int]:
        """Prefix, suffix, middle, end: an editor's request and what it wants back."""
        size = min(len(text), int((room - 8) * _CHARS_PER_TOKEN * self.rng.uniform(0.3, 0.95)))
        text = text[:size]
        if len(text.strip()) < 20:
            return [*self.tokenizer.encode(text).ids, self.end]
        a, b = fim_cut(text, self.rng)
        while not text[a:b].strip():  # an empty middle is always the likeliest single answer
            a, b = fim_cut(text, self.rng)
        encode = self.tokenizer.encode
        return [
            self.tokenizer.token_to_id(FIM_PREFIX),
            *encode(text[:a]).ids,
            self.tokenizer.token_to_id(FIM_SUFFIX),
            *encode(text[b:]).ids,
            self.tokenizer.token_to_id(FIM_MIDDLE),
            *encode(text[a:b]).ids,
            self.end,
        ]


def fim_cut(text: str, rng: Random) -> tuple[int, int]:
    """Where the hole is: the rest of a line, a few lines, or any span of characters."""
    a = rng.randrange(1, len(text))
    style = rng.random()
    if style < 0.5:  # from the cursor to the end of its line
        end = text.find("\n", a)
        return a, end if end >= 0 else len(text)
    if style < 0.75:  # whole lines, the first one after its indentation
        a = text.rfind("\n", 0, a) + 1
        while a < len(text) and text[a] == " ":
            a += 1
        end = a
        for _ in range(rng.randint(1, 4)):
            found = text.find("\n", end + 1)
            end = found if found >= 0 else len(text)
        return a, end
    return a, min(len(text), a + rng.randint(1, 120))
