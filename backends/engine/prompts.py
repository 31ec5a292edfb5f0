"""The gateway's side of the helper process: prompts in, token ids out, within a time limit.

One request at a time: the limit then measures that request and no other, and killing the helper
harms nobody else. A round trip without the work takes some ten microseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.engine.process import Child, ended_by
from backends.engine.protocol import FrameError, Wire
from gateway.core.errors import EngineFailed, InvalidRequest

START_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What is known of a model's tokens. Equal `tokenizer_sha` means equal ids for equal text.

    `byte_level`: a text's UTF-8 length bounds its tokens. `trained` is the context in training.
    `longest` is the longest token in bytes.
    """

    tokenizer_sha: str
    template_sha: str
    vocab_n: int
    bos: int
    eos: int
    byte_level: bool
    fim: bool
    trained: int
    chat_template: bool
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Guide:
    """An answer's form. `grammar` "" is none; `family` is the format of its calls, "" without."""

    grammar: str = ""
    family: str = ""
    shown: tuple[int, ...] = ()


_GUIDING = ("grammar", "tools", "response_format")


class Prompts:
    """One helper process over one GGUF file; restarted when it had to be killed."""

    def __init__(self, path: Path, *, limit_s: float = 2.0) -> None:
        self._path = path
        self._limit_s = limit_s
        self._child: Child | None = None
        self._turn = asyncio.Lock()
        self._closed = False
        self.vocabulary: Vocabulary | None = None

    async def start(self) -> None:
        """Load the vocabulary. Raises EngineFailed if the file has none that can be read."""
        async with self._turn:
            await self._spawn()

    async def chat(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[Any] = ()
    ) -> tuple[int, ...]:
        request = {"op": "chat", "messages": list(messages), "tools": list(tools)}
        return tuple((await self._ask(request, "messages"))["tokens"])

    async def guide(self, **fields: Any) -> Guide:
        """What the answer must look like: `guides.guide`'s fields, as the client sent them."""
        param = next((name for name in _GUIDING if fields.get(name)), "response_format")
        reply = await self._ask({"op": "guide", **fields}, param)
        return Guide(grammar=reply["grammar"], family=reply["family"], shown=tuple(reply["shown"]))

    async def text(self, prompt: str, param: str = "prompt") -> tuple[int, ...]:
        return tuple((await self._ask({"op": "text", "text": prompt}, param))["tokens"])

    async def plain(self, text: str, param: str) -> tuple[int, ...]:
        """A part of a text: no token is added to it, and none of it is a control token."""
        return tuple((await self._ask({"op": "plain", "text": text}, param))["tokens"])

    async def pieces(self, tokens: Sequence[int]) -> tuple[bytes, ...]:
        """The tokens' bytes, b"" for control tokens. Ids must be of the vocabulary."""
        reply = await self._ask({"op": "pieces", "tokens": list(tokens)}, "prompt")
        return tuple(reply["pieces"])

    async def infill(
        self,
        prefix: str,
        suffix: str,
        snippets: Sequence[tuple[str, str]],
        *,
        room: int,
        batch: int,
    ) -> tuple[tuple[int, ...], int]:
        """Token ids, at most `room`, and how many tokens of text were left out."""
        request = {
            "op": "infill",
            "prefix": prefix,
            "suffix": suffix,
            "snippets": [list(snippet) for snippet in snippets],
            "room": room,
            "batch": batch,
        }
        reply = await self._ask(request, "suffix")
        return tuple(reply["tokens"]), reply["cut"]

    async def rest(self) -> None:
        """End the helper; the next question starts it again."""
        async with self._turn:
            if self._child is not None:
                await self._drop(self._child)

    async def aclose(self) -> None:
        self._closed = True
        if self._child is not None:
            self._child.kill()  # whoever waits for an answer hears at once that there is none
        async with self._turn:
            if self._child is not None:
                await self._drop(self._child)

    async def _ask(self, request: Wire, param: str) -> Wire:
        """Raises InvalidRequest naming `param` when the request cannot be prepared.

        Shielded: a caller who leaves must not leave an answer in the pipe for the next one.
        """
        return await asyncio.shield(asyncio.create_task(self._in_turn(request, param)))

    async def _in_turn(self, request: Wire, param: str) -> Wire:
        async with self._turn:
            if self._child is None:
                await self._spawn()
            child = self._child
            assert child is not None
            try:
                child.write(request)
            except FrameError:
                raise InvalidRequest("the prompt is too large", param=param) from None
            try:
                async with asyncio.timeout(self._limit_s):
                    reply = await child.read()
            except TimeoutError:
                await self._drop(child)
                raise InvalidRequest(
                    f"the prompt could not be prepared within {self._limit_s:g} s", param=param
                ) from None
            except FrameError as error:
                await self._drop(child)
                raise EngineFailed(f"the prompt helper sent what it should not: {error}") from None
            if reply is None:
                await self._drop(child)
                raise InvalidRequest("preparing the prompt exceeded its limits", param=param)
        if "refused" in reply:
            raise InvalidRequest(reply["refused"], param=reply.get("param", param))
        return reply

    async def _spawn(self) -> None:
        if self._closed:
            raise EngineFailed("the engine is closed")
        environment = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "GGML_NO_BACKTRACE": "1",
        }
        try:
            child = await Child.spawn("backends.engine.prepare", str(self._path), environment)
        except OSError as error:
            raise EngineFailed(f"the prompt helper cannot be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(START_LIMIT_S):
                child.write({"op": "facts"})
                facts = await child.read()
        except TimeoutError:
            facts = {"detail": f"no vocabulary within {START_LIMIT_S:g} s"}
        except FrameError as error:
            facts = {"detail": f"the prompt helper sent what it should not: {error}"}
        except BaseException:
            await child.stop()
            raise
        if facts is None or "detail" in facts:
            died = f"reading its vocabulary ended the process ({ended_by(await child.stop())})"
            raise EngineFailed((facts or {}).get("detail") or f"{died} {child.last_words}".strip())
        self.vocabulary = Vocabulary(**facts)
        self._child = child

    async def _drop(self, child: Child) -> None:
        if self._child is child:
            self._child = None
        await child.stop()
