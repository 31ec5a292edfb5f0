"""A streamed answer's events, encoded in the client's dialect, on their way to its socket."""

from __future__ import annotations

from collections.abc import Callable

from gateway.asgi import Outlet, Send
from gateway.core.events import Event


class Frames:
    """A sink that encodes events in the client's dialect, for any ASGI server: frames wait here for
    somebody who can wait while they are sent.
    """

    def __init__(self, encode: Callable[[Event], bytes], send: Send) -> None:
        self._encode = encode
        self._send = send
        self._waiting: list[bytes] = []

    def put(self, event: Event) -> None:
        data = self._encode(event)
        if data:
            self._waiting.append(data)

    def flush(self) -> None:
        pass

    def hand(self, event: Event) -> bool:
        self.put(event)
        return not self._waiting

    @property
    def full(self) -> bool:
        return bool(self._waiting)

    async def room(self) -> None:
        if data := self.rest():
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    def rest(self) -> bytes:
        """What was put and has not gone out."""
        waiting, self._waiting = self._waiting, []
        return waiting[0] if len(waiting) == 1 else b"".join(waiting)


class DirectFrames(Frames):
    """The same, for a server that can be written to at any time."""

    def __init__(self, encode: Callable[[Event], bytes], send: Send, outlet: Outlet) -> None:
        super().__init__(encode, send)
        self._outlet = outlet

    def flush(self) -> None:
        waiting = self._waiting
        if len(waiting) == 1:  # nearly always
            self._outlet.write(waiting.pop())
        elif waiting:
            self._outlet.write(self.rest())

    def hand(self, event: Event) -> bool:
        if self._waiting:
            self.put(event)
            self.flush()
        elif data := self._encode(event):
            self._outlet.write(data)
        return not self._outlet.full

    @property
    def full(self) -> bool:
        return self._outlet.full

    async def room(self) -> None:
        await self._outlet.room()
