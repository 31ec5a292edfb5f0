"""Drafts for a target of another vocabulary: a source's tokens become bytes, the line becomes text.

Everything that drafts works as it does for a target of the same vocabulary (sources.py), but that
a position is a byte of the answer's text and what stands there is that byte. So lookups need no
vocabulary at all; a model's tokens pass through an `Alignment`, and what goes out is whole
characters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from backends.engine.payoff import Odds
from backends.engine.protocol import Job
from backends.speculative.alignment import Alignment
from backends.speculative.draft import Drafter
from backends.speculative.seams import Engine
from backends.speculative.session import MAX_DRAFT_TEXT, Commit, Draft
from backends.speculative.sources import Sources
from backends.speculative.spelling import Spelling
from gateway.core.errors import TandemError

Send = Callable[[Draft], Awaitable[None]]

RUNS = (24, 12)
"""Bytes that a lookup looks for: some six and three tokens."""
BYTES_A_TOKEN = 4
"""While nothing is known of the target's."""
LONGEST_CHARACTER = 4


class TextSources(Sources):
    """One answer's drafts, as text. `ahead` is in tokens of the target."""

    def __init__(
        self,
        prompt: bytes,
        *,
        send: Send,
        odds: Callable[[str, int], Odds],
        ahead: int,
        floor: float,
        prediction: bytes = b"",
        ngram: bool = True,
    ) -> None:
        self._wording = Wording(send)
        super().__init__(
            prompt,
            send=self._wording.draft,
            odds=odds,
            ahead=ahead * BYTES_A_TOKEN,
            floor=floor,
            prediction=prediction,
            ngram=ngram,
            runs=RUNS,
            most=MAX_DRAFT_TEXT - LONGEST_CHARACTER,
        )
        self._bytes = self._tokens = 0

    async def hear(self, commit: Commit) -> None:
        base, text = self._bytes, commit.text_bytes
        self._bytes += len(text)
        self._tokens += len(commit.tokens)
        self._wording.settle(self._bytes)
        await self.committed(commit.epoch, base, text)

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        each = self._a_token
        return {
            name: (round(sent / each), round(held / each))
            for name, (sent, held) in super().counts.items()
        }

    @property
    def draft_s(self) -> float | None:
        a_byte = super().draft_s
        return None if a_byte is None else a_byte * self._a_token

    @property
    def _a_token(self) -> float:
        """Bytes that a token of the target has, in this answer."""
        known = self._bytes and self._tokens
        return self._bytes / self._tokens if known else BYTES_A_TOKEN


class Wording:
    """Bytes of drafts become whole characters: what is left of one waits for the rest of it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._line = bytearray()
        self._at = 0

    def settle(self, end: int) -> None:
        """The target has said so many bytes, whole characters."""
        del self._line[: max(0, end - self._at)]
        self._at = end

    async def draft(self, draft: Draft) -> None:
        """Pass a draft of bytes on. What is settled is not: there the target compares by itself."""
        start = draft.base_pos - self._at
        if not 0 <= start <= len(self._line):
            return
        self._line[start:] = bytes(draft.tokens)
        while start and self._line[start] & 0xC0 == 0x80:
            start -= 1
        if text := _whole(bytes(self._line[start:])):
            await self._send(Draft(epoch=draft.epoch, base_pos=self._at + start, text=text))


class TextDrafter:
    """A drafter of another vocabulary, as a source of bytes. `said` hears them."""

    def __init__(
        self,
        engine: Engine,
        job: Job,
        *,
        spelling: Spelling,
        said: Send,
        clock: Callable[[], float],
    ) -> None:
        self._spelling = spelling
        self._said = said
        self._alignment = Alignment()
        self._epoch = 0
        self._made = 0
        self._failed = False
        self._news = asyncio.Event()
        self._drafter = Drafter(engine, job, send=self._guessed, clock=clock)
        self._task = asyncio.create_task(self._realign())

    @property
    def lost(self) -> bool:
        return self._failed or self._drafter.lost

    @property
    def draft_s(self) -> float | None:
        """Seconds a byte."""
        a_token, tokens = self._drafter.draft_s, self._drafter.busy[0]
        return a_token * tokens / self._made if a_token is not None and self._made else None

    @property
    def busy(self) -> tuple[int, float]:
        """In its own tokens, which are what it costs."""
        return self._drafter.busy

    def committed(self, epoch: int, base: int, tokens: Sequence[int]) -> None:
        self._epoch = max(self._epoch, epoch)
        self._alignment.settle(base, bytes(tokens))
        self._mind()

    async def aclose(self) -> None:
        self._task.cancel()
        try:
            await self._drafter.aclose()
        finally:
            await asyncio.wait([self._task])

    async def _guessed(self, draft: Draft) -> None:
        pieces = await self._spelling.of(draft.tokens)
        self._made += sum(map(len, pieces))
        found = self._alignment.guess(draft.epoch, draft.base_pos, draft.tokens, pieces)
        if found is None:
            return
        at, text = found
        self._mind()
        if text and not self._news.is_set():
            await self._said(Draft(epoch=self._epoch, base_pos=at, tokens=tuple(text)))

    def _mind(self) -> None:
        """Tell the drafter what is settled, or have that cut into its tokens first."""
        if self._alignment.wanted is not None:
            self._news.set()
        elif told := self._alignment.news():
            self._drafter.committed(self._alignment.epoch, *told)

    async def _realign(self) -> None:
        try:
            while not self._failed:
                await self._news.wait()
                while wanted := self._alignment.wanted:
                    keep, text = wanted
                    cut = await self._spelling.cut(text)
                    if not self._alignment.fit(keep, text, *cut):
                        self._failed = True  # a vocabulary that cannot say what the target did
                        return
                self._news.clear()
                self._mind()
        except TandemError:
            self._failed = True  # the answer does not need us


def _whole(text: bytes) -> bytes:
    """As far as it is whole characters."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return text[: error.start]
    return text
