"""From an upstream's stream, or a kept answer, to the client's sink; settled once, however it ends.

A backend that can hands its events over from within the read of its socket: after the first content
each chunk then costs one callback, and no task wakes for it. From all others they are pulled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import cast

from gateway.core.errors import UpstreamBroken
from gateway.core.events import Collector, Event
from gateway.core.sink import Sink
from gateway.settle import Tally


class Relay:
    """One answer on its way. Is the sink that its upstream's stream may take.

    `settle` is called exactly once, with what ended it (None: it ended well); `keep` after that,
    for an answer that ended well. `verdict` says what a cancellation means.
    """

    def __init__(
        self,
        stream: AsyncGenerator[Event, None],
        held: Iterable[Event],
        *,
        upstream: str,
        tally: Tally,
        collector: Collector,
        verdict: Callable[[BaseException], BaseException],
        settle: Callable[[BaseException | None], None],
        keep: Callable[[], Awaitable[None]],
    ) -> None:
        self._stream = stream
        self._held = held
        self._upstream = upstream
        self._tally = tally
        self._collector = collector
        self._verdict = verdict
        self._settle = settle
        self._keep = keep
        self._settled = False
        self._flushing: asyncio.Handle | None = None

    async def into(self, sink: Sink) -> None:
        """Pass everything on. Raises what ended the stream before its end; what was put before
        that, the sink may still have to flush.
        """
        self._sink = sink
        error: BaseException | None = None
        try:
            await self._pass_on()
            if not self._tally.finished:
                raise UpstreamBroken(f"{self._upstream!r} stopped without finishing.")
        except BaseException as caught:
            error = self._verdict(caught)
            if error is caught:
                raise
            raise error from None
        finally:
            # The books first, in one go without an await, and then the one await: a second
            # cancellation may cut that short, but nothing is left unsettled.
            self._settled = True
            self._settle(error)
            await self._stream.aclose()
        await self._keep()

    async def aclose(self) -> None:
        """For who did not come to the end of `into`, or did not begin with it."""
        if self._settled:
            return
        self._settled = True
        self._settle(self._verdict(asyncio.CancelledError()))
        await self._stream.aclose()

    # The sink that an upstream's stream sees.

    def put(self, event: Event) -> None:
        self._tally.note(event)
        self._collector.add(event)
        self._sink.put(event)

    def flush(self) -> None:
        self._flushing = None
        self._sink.flush()

    def hand(self, event: Event) -> bool:
        self._tally.note(event)
        self._collector.add(event)
        return self._sink.hand(event)

    @property
    def full(self) -> bool:
        return self._sink.full

    async def room(self) -> None:
        self.flush()
        await self._sink.room()

    async def _pass_on(self) -> None:
        for event in self._held:
            self.put(event)
        # A generator that has no use for what it is sent does not look at it.
        stream = cast(AsyncGenerator[Event, Sink], self._stream)
        soon = asyncio.get_running_loop().call_soon
        try:
            while True:
                if self._flushing is None:
                    # What a stream has ready in this turn of the loop goes out in one write.
                    self._flushing = soon(self.flush)
                if self.full:
                    await self.room()
                self.put(await stream.asend(self))
        except StopAsyncIteration:
            return


class Replay:
    """A kept answer, as if it came from its upstream. `note` sees each event before it goes."""

    def __init__(
        self,
        events: Iterable[Event],
        *,
        note: Callable[[Event], None],
        settle: Callable[[BaseException | None], None],
    ) -> None:
        self._events = events
        self._note = note
        self._settle = settle
        self._settled = False

    async def into(self, sink: Sink) -> None:
        """Pass everything on."""
        error: BaseException | None = None
        try:
            for event in self._events:
                self._note(event)
                sink.put(event)
                if sink.full:
                    await sink.room()
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._settled = True
            self._settle(error)

    async def aclose(self) -> None:
        """For who did not come to the end of `into`, or did not begin with it."""
        if not self._settled:
            self._settled = True
            self._settle(asyncio.CancelledError())
