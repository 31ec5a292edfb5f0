"""The helper process: from messages, text or a hole in a file to token ids.

It loads the vocabulary only. It is a process of its own because of what it runs: a chat template is
a program that came with a downloaded file (one Jinja expression can hold the interpreter for 25 s,
which no thread can stop), and tokenizing is C code fed by strangers. prompts.py kills it at its
time limit; its memory limit ends it with an answer or without.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jinja2 import Template, TemplateError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from backends.engine import process
from backends.engine.constrained import SWOLLEN_S
from backends.engine.conversation import PROBE, malformed, takes_objects, with_arguments
from backends.engine.fim import fim_prompt
from backends.engine.grammar import json_schema
from backends.engine.guides import FieldRefused, checked_tools, guide
from backends.engine.llama import library
from backends.engine.llama.grammar import Grammar, GrammarFailed
from backends.engine.llama.model import LoadFailed, Model
from backends.engine.protocol import Wire, encode, receive
from backends.engine.tools import family_of

HEADROOM = 512 * 1024 * 1024
"""Bytes that a request may use beyond what the loaded vocabulary takes."""
TRIAL = 12
"""Tokens that a client's own grammar is tried on."""
OPENERS = ("[[[[", "[[", "[", '{"', "{")
"""What goes deeper wherever a schema lets it, in as few tokens as the vocabulary has for it."""
DEEP = 16
"""Tokens that a schema with references is followed downwards."""
GUIDES = 64
"""Grammars kept: an agent sends the same tools with every turn."""

_TEMPLATE_FAULTS = (
    TemplateError,
    AssertionError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
)


class Refused(Exception):
    """The request, or the model's template, is at fault; the message may be shown."""


def _raise(message: object) -> NoReturn:
    """Templates call it to refuse a conversation, as `raise_exception`."""
    raise Refused(f"the model's chat template refuses this conversation: {str(message)[:200]}")


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    """As transformers has it: no HTML escaping, unlike Jinja's own."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


class Preparer:
    """A vocabulary and its chat template."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._source = model.chat_template
        self._environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._environment.filters["tojson"] = _tojson
        self._environment.globals["raise_exception"] = _raise
        self._environment.globals["strftime_now"] = _strftime_now
        self._template: Template | None = None
        self._objects: bool | None = None
        self._family = family_of(self._source)
        self._guides: OrderedDict[str, Wire] = OrderedDict()
        self._bos = self._text(model.bos)
        self._eos = self._text(model.eos)

    def _text(self, token: int) -> str:
        return (
            self._model.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""
        )

    def facts(self) -> Wire:
        """What the gateway needs to know of the vocabulary.

        `tokenizer_sha` is over every piece in id order, so that equal digests mean equal ids.
        """
        digest = hashlib.sha256()
        pieces = self._model.pieces(special=True)
        for piece in pieces:
            digest.update(len(piece).to_bytes(4, "little") + piece)
        template = self._source.encode()
        return {
            "tokenizer_sha": digest.hexdigest(),
            "template_sha": hashlib.sha256(template).hexdigest() if template else "",
            "vocab_n": self._model.tokens,
            "bos": self._model.bos,
            "eos": self._model.eos,
            "byte_level": self._model.byte_level,
            "fim": self._model.fim.usable,
            "trained": self._model.trained,
            "longest": max(map(len, pieces)),
            "chat_template": bool(template),
        }

    def chat(self, messages: list[dict[str, Any]], tools: Any = None) -> list[int]:
        """Render and tokenize a conversation, open for the assistant's turn."""
        if fault := malformed(messages):
            raise Refused(fault)
        listed = checked_tools(tools or [])
        if any(message.get("tool_calls") for message in messages):
            messages = with_arguments(messages, objects=self._takes_objects())
        messages = self._family.messages(messages, listed)
        text = self._render(messages, listed if self._family.native else [])
        # A template that writes the BOS itself must not get a second one from the tokenizer.
        special = not (self._bos and text.startswith(self._bos))
        return self._tokenize(text, special=special)

    def _takes_objects(self) -> bool:
        """Whether the template wants a call's arguments as an object; found out once."""
        if self._objects is None:
            try:
                probe = self._render(self._family.messages(PROBE, ()), [])
                self._objects = takes_objects(probe)
            except Refused:
                self._objects = False
        return self._objects

    def _render(self, messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        if not self._source:
            turns = [f"{m.get('role', '')}: {m.get('content', '')}\n" for m in messages]
            return "".join(turns) + "assistant:"
        try:
            # Not at start: Jinja computes constants when it compiles, so that needs the limits too.
            if self._template is None:
                self._template = self._environment.from_string(self._source)
            return self._template.render(
                messages=messages,
                tools=tools or None,
                add_generation_prompt=True,
                bos_token=self._bos,
                eos_token=self._eos,
            )
        except SecurityError:
            raise Refused("the model's chat template does what the sandbox forbids") from None
        except _TEMPLATE_FAULTS as error:
            kind = type(error).__name__
            raise Refused(
                f"the model's chat template fails on this conversation ({kind})"
            ) from None

    def guide(self, request: Wire) -> Wire:
        """The grammar of an answer, read once by llama.cpp here, where it may die of it."""
        key = json.dumps(request)  # not sorted: members come in the order of the schema
        if key in self._guides:
            self._guides.move_to_end(key)
            return self._guides[key]
        text, calls = guide(self._family, **request)
        self._try_references(request)
        if text:
            try:
                grammar = Grammar(self._model, text)
                self._walk(grammar, TRIAL if request.get("grammar") else 1)
                grammar.close()
            except GrammarFailed as error:
                param = "grammar" if request.get("grammar") else "response_format"
                raise FieldRefused(param, f"llama.cpp cannot read it: {error}") from None
        shown = self._control_tokens() if calls else []
        made = {"grammar": text, "family": self._family.name if calls else "", "shown": shown}
        self._guides[key] = made
        if len(self._guides) > GUIDES:
            self._guides.popitem(last=False)
        return made

    def _try_references(self, request: Wire) -> None:
        """Follow schemas with references downwards, each by itself: behind a call's name nobody
        would come that far. Raises FieldRefused."""
        tools = [tool["function"].get("parameters") for tool in request.get("tools") or ()]
        said = request.get("response_format") or {}
        form = said.get("schema") or (said.get("json_schema") or {}).get("schema")
        named = [("tools", tool and {"type": "object", **tool}) for tool in tools]
        for param, schema in (*named, ("response_format", form)):
            if '"$ref"' not in json.dumps(schema):
                continue
            grammar = Grammar(self._model, json_schema(schema))
            try:
                self._descend(grammar)
            except GrammarFailed as error:
                raise FieldRefused(param, str(error)) from None
            finally:
                grammar.close()

    def _descend(self, grammar: Grammar) -> None:
        """Open one bracket after another. A union whose branches open alike has as many states more
        with each, multiplied: what the worker would find out with everybody waiting shows here.
        """
        cut = [self.following(text) for text in OPENERS]
        openers = [tokens[0] for tokens in cut if len(tokens) == 1]
        for _ in range(DEEP):
            token = next((token for token in openers if grammar.allows(token)), None)
            if token is None and (token := self._going_on(grammar)) is None:
                return
            began = time.thread_time()
            grammar.accept(token)
            if time.thread_time() - began > SWOLLEN_S:
                raise GrammarFailed("too many alternatives that begin alike lie in each other")

    def _going_on(self, grammar: Grammar) -> int | None:
        """The longest token that may come and closes nothing, such as the rest of a key."""
        allowed = np.flatnonzero(grammar.mask(np.zeros(self._model.tokens, np.float32)) > -np.inf)
        pieces = {token: self._model.piece(token) for token in allowed.tolist()}
        open = [t for t, piece in pieces.items() if piece and not set(piece) & set(b"]}")]
        return max(open, key=lambda token: len(pieces[token]), default=None)

    def _walk(self, grammar: Grammar, steps: int) -> None:
        """Go some tokens along: what is ambiguous beyond use shows here, in our time limit."""
        chance = random.Random(steps)
        logits = np.zeros(self._model.tokens, np.float32)
        for _ in range(steps):
            allowed = np.flatnonzero(grammar.mask(logits) > -np.inf).tolist()
            token = chance.choice(allowed) if allowed else self._model.eos
            if not allowed or self._model.ends(token):
                return
            grammar.accept(token)

    def _control_tokens(self) -> list[int]:
        """Tokens that the family's pieces are written with and that show no text by themselves."""
        family = self._family
        pieces = (family.marker, family.opening, family.before, family.middle)
        found = set()
        for piece in (*pieces, family.after, family.between, family.closing):
            raw = piece.encode()
            found.update(self._model.tokenize(raw, add_special=False, parse_special=True))
        return sorted(token for token in found if not self._model.piece(token))

    def text(self, prompt: str) -> list[int]:
        return self._tokenize(prompt, special=True)

    def following(self, text: str) -> list[int]:
        """Text in the middle of a sequence: as a model would have said it."""
        raw = text.encode("utf-8", "replace")
        tokens = self._plain(text)
        if b"".join(map(self._model.piece, tokens)) == raw:
            return tokens
        # Vocabularies of the SentencePiece kind put a blank before the first word of a text; after
        # a line break they do not.
        anchored = self._plain("\n" + text)
        before = b""
        for at, token in enumerate(anchored):
            if before.lstrip(b" ") == b"\n":
                return anchored[at:]
            before += self._model.piece(token)
        return tokens

    def infill(
        self, prefix: str, suffix: str, snippets: list[tuple[str, str]], room: int, batch: int
    ) -> tuple[list[int], int]:
        """A fill-in-the-middle prompt of at most `room` tokens, and how many did not fit."""
        return fim_prompt(
            self._model.fim,
            self._model.bos if self._model.adds_bos else -1,
            self._plain,
            prefix=prefix,
            suffix=suffix,
            snippets=snippets,
            room=room,
            batch=batch,
        )

    def _plain(self, text: str) -> list[int]:
        """User's file text: no special tokens, neither added nor recognised."""
        raw = text.encode("utf-8", "replace")
        return self._model.tokenize(raw, add_special=False, parse_special=False)

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        raw = text.encode("utf-8", "replace")
        return self._model.tokenize(raw, add_special=special, parse_special=True)

    def answer(self, request: Wire) -> Wire:
        match request["op"]:
            case "facts":
                return self.facts()
            case "chat":
                return {"tokens": self.chat(request["messages"], request.get("tools"))}
            case "guide":
                return self.guide({k: v for k, v in request.items() if k != "op"})
            case "text":
                return {"tokens": self.text(request["text"])}
            case "plain":
                return {"tokens": self.following(request["text"])}
            case "pieces":
                return {"pieces": [self._model.piece(token) for token in request["tokens"]]}
            case "infill":
                snippets = [(name, text) for name, text in request["snippets"]]
                tokens, cut = self.infill(
                    request["prefix"],
                    request["suffix"],
                    snippets,
                    request["room"],
                    request["batch"],
                )
                return {"tokens": tokens, "cut": cut}
            case other:
                raise Refused(f"no such operation: {other}")


def serve(connection: socket.socket, path: Path) -> None:
    library.start()
    try:
        preparer = Preparer(Model(path, vocab_only=True))
    except LoadFailed as error:
        connection.sendall(encode({"op": "fatal", "detail": str(error)}))
        return
    process.bound_memory(HEADROOM)  # where there is no such limit, the time limit alone must do
    while (request := receive(connection)) is not None:
        try:
            reply = preparer.answer(request)
        except Refused as error:
            reply = {"refused": str(error)}
        except FieldRefused as error:
            said = str(error)
            named = said if said.startswith(error.param) else f"{error.param}: {said}"
            reply = {"refused": named, "param": error.param}
        except (MemoryError, RecursionError):
            reply = {"refused": "the prompt takes too much memory to prepare"}
        connection.sendall(encode(reply))


def main() -> None:
    connection, argument = process.arguments()
    try:
        serve(connection, Path(argument))
    except OSError:
        pass  # the gateway is gone
    os._exit(0)


if __name__ == "__main__":
    main()
