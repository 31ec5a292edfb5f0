"""One job under way, as the gateway reads it: its outputs, its pace, its end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Tokens

from backends.engine.protocol import (
    EXPIRED,
    GRAMMAR,
    INVALID,
    OVERLOADED,
    SUPERSEDED,
    TOO_LONG,
    Job,
    Output,
    Wire,
)
from gateway.core.errors import (
    ContextExceeded,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    Superseded,
    TandemError,
    UpstreamTimeout,
)

PAUSE_AT = 256
RESUME_AT = 64
"""Unread outputs of one sequence at which the worker is told to leave it out, and to go on."""


class Sequence:
    """One job under way: an async iterator of its Outputs. Close it; closing early cancels.

    Iteration ends after the Output with `finish`. Raises a TandemError instead of an Output whose
    finish is "error", and EngineFailed when the worker dies.
    """

    def __init__(
        self, job: Job, say: Callable[[Wire], None], forget: Callable[[int], None]
    ) -> None:
        self.job = job
        self._say = say
        self._forget = forget
        self._unread: deque[Output | TandemError] = deque()
        self._news = asyncio.Event()
        self._over = False
        self._full = self._held = self._paused = False
        self._receive: Callable[[Output], bool] | None = None
        self._enough = False
        self._failure: Exception | None = None

    def __aiter__(self) -> Sequence:
        return self

    async def __anext__(self) -> Output:
        while not self._unread:
            if self._over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._taken()

    async def push(self, receive: Callable[[Output], bool]) -> bool:
        """Give Outputs to `receive` as the engine's reader has them, until it returns False.

        Returns whether the sequence has ended. Raises as iteration does, and what `receive` raises.
        """
        while True:
            while self._unread:
                if not receive(self._taken()):
                    return False
            if self._over:
                return True
            self._receive = receive
            self._news.clear()
            try:
                await self._news.wait()
            finally:
                self._receive = None
            if self._failure is not None:
                raise self._failure
            if self._enough:
                self._enough = False
                return False

    def _taken(self) -> Output:
        item = self._unread.popleft()
        if self._full and len(self._unread) <= RESUME_AT:
            self._full = False
            self._settle_pause()
        if isinstance(item, TandemError):
            raise item
        return item

    def _hand_over(self, output: Output) -> None:
        """To `receive`. Who waits in `push` wakes only if that has had enough."""
        assert self._receive is not None
        try:
            self._enough = not self._receive(output)
        except Exception as error:  # it is for who waits: here it would end the engine's reader
            self._failure = error
        if self._enough or self._failure is not None:
            self._receive = None
            self._news.set()

    def draft(self, epoch: int, base: int, tokens: Tokens[int]) -> None:
        """Role target: propose tokens from position `base` on. Sent at once, never refused."""
        self._speak({"op": "draft", "epoch": epoch, "base": base, "tokens": list(tokens)})

    def sync(self, epoch: int, base: int, tokens: Tokens[int]) -> None:
        """Role draft: tell what the target committed from position `base` on."""
        self._speak({"op": "sync", "epoch": epoch, "base": base, "tokens": list(tokens)})

    def hold(self, on: bool) -> None:
        """Leave it out of the worker's steps, or take it in again."""
        self._held = on
        self._settle_pause()

    async def aclose(self) -> None:
        """Cancel, unless it has ended. The worker frees its cells within a step."""
        self._speak({"op": "cancel"})
        self.end(None)

    def deliver(self, output: Output) -> None:
        """From the engine's reader."""
        if self._over:
            return
        if output.finish == "error":
            self.end(failure(output.error or "", output.retry_after))
            return
        if self._receive is not None:
            self._hand_over(output)
        else:
            self._unread.append(output)
            self._news.set()
        if output.finish is not None:
            self.end(None)
        elif len(self._unread) >= PAUSE_AT and not self._full:
            self._full = True
            self._settle_pause()

    def end(self, error: TandemError | None) -> None:
        if self._over:
            return
        self._over = True
        self._forget(self.job.id)
        if error is not None:
            self._unread.append(error)
        self._news.set()

    def _settle_pause(self) -> None:
        on = self._full or self._held
        if on != self._paused:
            self._paused = on
            self._speak({"op": "pause", "on": on})

    def _speak(self, frame: Wire) -> None:
        if not self._over:
            self._say({**frame, "id": self.job.id})


def failure(error: str, retry_after: float | None = None) -> TandemError:
    """The one place where a worker's refusal becomes an error of ours."""
    word, _, sentence = error.partition(": ")
    if word == OVERLOADED:
        return Overloaded(f"the local engine is busy: {sentence}", retry_after=retry_after or 1.0)
    if word == EXPIRED:
        return UpstreamTimeout(f"the local engine is busy: {sentence}")
    if word == SUPERSEDED:
        return Superseded(sentence)
    if word == TOO_LONG:
        return ContextExceeded(f"the request is too long: {sentence}", param="prompt")
    if word == INVALID:
        return InvalidRequest(sentence, param="prompt")
    if word == GRAMMAR:
        return InvalidRequest(sentence, param="grammar")
    return EngineFailed(f"the local engine failed: {sentence or error}")
