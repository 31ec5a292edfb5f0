"""One HTTP/2 connection to an upstream: many requests out, their answers in, each a stream.

Bytes go through `h2`, which does no I/O. Each stream holds at most its window of what its reader
has not taken; the connection's own window is opened again as bytes arrive, so that a reader who is
slow holds up nobody else. A reader who has had enough is told to the server at once.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, cast

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.frame_buffer
import h2.settings
import httpx
from h2.errors import ErrorCodes
from hyperframe.frame import Frame, GoAwayFrame

from backends.http1_connection import Origin

STREAM_WINDOW: Final = 256 * 1024
"""Bytes of one answer that may wait for their reader: flow control holds the server to it."""

CONNECTION_WINDOW: Final = 4 * 1024 * 1024
"""Opened again by quarters; h2 keeps up to a half of it for bytes of streams that were closed."""

MAX_FRAME: Final = 16 * 1024
MAX_HEAD: Final = 64 * 1024
"""Bytes of one head or trailer, unpacked."""

MAX_UNWRITTEN: Final = 1024 * 1024
"""Beyond this a connection whose server does not read is given up: pings want answers too."""

UNREAD_S: Final = 30.0
"""The same for one whose server has read nothing for so long."""

ASSUMED_STREAMS: Final = 100
"""At once, until the server has said how many; what RFC 9113 6.5.2 asks it to allow at least."""

LAST_STREAM: Final = 2**30
"""Far before the ids run out (2^31), a new connection is taken."""

SILENT_S: Final = 5.0
"""Somebody who gives up after so long without a byte from the server takes the connection out of
use: it may lead nowhere any more, and TCP needs a quarter of an hour to notice."""

Head = list[tuple[bytes, bytes]]


class Pool(Protocol):
    """What hears of a connection's end."""

    def lost(self, connection: Connection) -> None: ...


class Http1Required(httpx.RemoteProtocolError):
    """The server will answer this over HTTP/1.1 only. It has done nothing yet."""


class Stream:
    """One request and its answer: `await answered`, then `read` until b"". `close` it always."""

    def __init__(self, connection: Connection, number: int, body: bytes) -> None:
        self.number = number
        self.status = 0
        self.headers: Head = []
        self.unsent = memoryview(body)
        self.moved = True
        self.unopened = 0  # bytes taken by the reader that the window was not opened for yet
        self.ended = False
        self.error: httpx.TransportError | None = None
        self.asked_at = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._waiting = bytearray()
        self._more: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """What has come of the body since the last read; b"" at its end.

        Raises httpx.TransportError when the body was cut, after what came before has been read.
        """
        while not self._waiting:
            if self.ended:
                return b""
            if self.error is not None:
                raise self.error
            self._more = asyncio.get_running_loop().create_future()
            try:
                await self._more
            finally:
                self._more = None
        part = bytes(self._waiting)
        self._waiting.clear()
        self._connection.taken(self, len(part))
        return part

    async def close(self) -> None:
        self._connection.done(self)

    # What the connection calls.

    def head(self, headers: Head) -> None:
        """Raises ValueError for a status that is no number."""
        self.status = int(headers[0][1])  # h2 has seen to it that :status is there, and first
        self.headers = headers[1:]
        if not self.answered.done():
            self.answered.set_result(None)

    def data(self, data: bytes) -> None:
        self._waiting += data
        self._wake()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def fail(self, error: httpx.TransportError) -> None:
        if self.ended or self.error is not None:
            return
        self.error = error
        if not self.answered.done():
            self.answered.set_exception(error)
            self.answered.exception()  # seen: whoever asked may have left
        self._wake()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)


class _Frames(h2.frame_buffer.FrameBuffer):
    """h2's, but a frame that is too large is refused by its head; h2 waits for all 16 MiB of it."""

    def __next__(self) -> Frame:
        if len(self._data) >= 9:
            self._validate_frame_length(int.from_bytes(self._data[:3], "big"))
        return super().__next__()


class _H2Connection(h2.connection.H2Connection):
    """h2's, but a GOAWAY leaves it open.

    h2 takes every later frame for an error. Servers say GOAWAY after some number of requests, or
    before a restart, and then finish the answers they have begun (RFC 9113 6.8).
    """

    def _receive_goaway_frame(
        self, frame: GoAwayFrame
    ) -> tuple[list[Frame], list[h2.events.Event]]:
        event = h2.events.ConnectionTerminated()
        event.last_stream_id = frame.last_stream_id
        return [], [event]


class Connection(asyncio.Protocol):
    """One socket. `speaks` is False if the TLS handshake did not choose HTTP/2: close it then."""

    def __init__(self, pool: Pool, origin: Origin) -> None:
        self.origin = origin
        self.speaks = False
        self.idle_since = 0.0
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Stream] = {}
        self._sending: dict[int, Stream] = {}
        self._most = ASSUMED_STREAMS
        self._unopened = 0
        self._heard = 0.0
        self._paused: asyncio.TimerHandle | None = None
        self._due: asyncio.Handle | None = None
        self._retired = False
        self._gone = False
        # Unvalidated: heads are made of checked options, and the checks cost a tenth of a request.
        self._h2 = _H2Connection(
            h2.config.H2Configuration(header_encoding=None, validate_outbound_headers=False)
        )
        codes = h2.settings.SettingCodes
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                codes.ENABLE_PUSH: 0,
                codes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                codes.MAX_FRAME_SIZE: MAX_FRAME,
                codes.MAX_HEADER_LIST_SIZE: MAX_HEAD,
            },
        )
        self._h2.incoming_buffer = _Frames()
        self._h2.decoder.max_header_list_size = MAX_HEAD

    @property
    def has_room(self) -> bool:
        """Whether one more request may go out on it."""
        return not (self._gone or self._retired) and len(self._streams) < self._most

    @property
    def busy(self) -> bool:
        return bool(self._streams)

    def ask(self, head: Head, body: bytes, write_s: float) -> Stream:
        """Send a request; `write_s` is how long its body may stand still on its way out.

        Raises httpx.LocalProtocolError for a head that must not be sent.
        """
        number = self._h2.get_next_available_stream_id()
        stream = Stream(self, number, body)
        try:
            self._h2.send_headers(number, head, end_stream=not body)
        except h2.exceptions.H2Error as error:
            raise httpx.LocalProtocolError("the request has no place in HTTP/2") from error
        if number > LAST_STREAM:
            self._retired = True
        stream.asked_at = self._loop.time()
        self._streams[number] = stream
        if body:
            self._sending[number] = stream
            self._send_bodies()
            if stream.unsent:
                self._limit(stream, write_s)
        self._flush()
        return stream

    def taken(self, stream: Stream, size: int) -> None:
        """The reader has taken so many bytes: the server may send as many."""
        stream.unopened += size
        if stream.unopened >= STREAM_WINDOW // 2 and not (stream.ended or stream.error):
            self._h2.increment_flow_control_window(stream.unopened, stream.number)
            stream.unopened = 0
            self._flush()

    def done(self, stream: Stream) -> None:
        """The reader has had enough; the server hears of it unless all was said. Idempotent."""
        if self._streams.pop(stream.number, None) is None:
            return
        self._forget_body(stream)
        if not self._gone:
            if stream.error is None and (not stream.ended or stream.unsent):
                self._reset(stream)
            now = self._loop.time()
            if not stream.status and now - max(self._heard, stream.asked_at) > SILENT_S:
                self._retired = True
            self.idle_since = now
            self._close_if_over()

    def close(self) -> None:
        if self._transport is not None and not self._gone:
            if self._due is not None:
                self._write()  # a reset may be in it
            self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not its subclasses
        tls = transport.get_extra_info("ssl_object")
        self.speaks = tls is not None and tls.selected_alpn_protocol() == "h2"
        self.idle_since = self._heard = self._loop.time()
        if self.speaks:
            self._h2.initiate_connection()
            self._h2.increment_flow_control_window(
                CONNECTION_WINDOW - self._h2.inbound_flow_control_window
            )
            self._flush()

    def data_received(self, data: bytes) -> None:
        if not self.speaks or self._gone:
            return
        self._heard = self._loop.time()
        try:
            for event in self._h2.receive_data(data):
                self._happened(event)
        except (h2.exceptions.H2Error, ValueError):
            self._fail(httpx.RemoteProtocolError("Server does not speak HTTP/2."))
            return
        if self._sending:
            self._send_bodies()
        self._flush()
        self._close_if_over()

    def connection_lost(self, error: Exception | None) -> None:
        self._gone = True
        self.resume_writing()
        self._pool.lost(self)
        for stream in list(self._streams.values()):
            self._forget_body(stream)
            stream.fail(_cut(stream))

    def pause_writing(self) -> None:
        if self._paused is None:
            self._paused = self._loop.call_later(UNREAD_S, self._unread)

    def resume_writing(self) -> None:
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        if self._sending and not self._gone:
            self._send_bodies()
            self._flush()

    # Events of h2.

    def _happened(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.DataReceived():
                self._data(event)
            case h2.events.ResponseReceived():
                if stream := self._streams.get(event.stream_id):
                    stream.head(event.headers)
            case h2.events.StreamEnded():
                if stream := self._streams.get(event.stream_id):
                    stream.end()
            case h2.events.StreamReset():
                if stream := self._streams.get(event.stream_id):
                    self._forget_body(stream)
                    stream.fail(_reset_by_server(stream, event.error_code))
            case h2.events.RemoteSettingsChanged():
                self._most = min(self._h2.remote_settings.max_concurrent_streams, 2**16)
            case h2.events.ConnectionTerminated():
                self._retired = True
                last = event.last_stream_id or 0
                for number, stream in list(self._streams.items()):
                    if number > last:  # it says itself that it has not begun with these
                        self._forget_body(stream)
                        stream.fail(_unanswered())
            case _:
                pass  # interim heads, trailers, pings, priorities: nobody here asks for them

    def _data(self, event: h2.events.DataReceived) -> None:
        size = event.flow_controlled_length
        self._unopened += size
        if self._unopened >= CONNECTION_WINDOW // 4:
            self._h2.increment_flow_control_window(self._unopened)
            self._unopened = 0
        if stream := self._streams.get(event.stream_id):
            if event.data:
                stream.data(event.data)
            if event.stream_ended is None and size > len(event.data):
                self.taken(stream, size - len(event.data))  # padding has no other reader

    # Bytes out.

    def _send_bodies(self) -> None:
        for number, stream in list(self._sending.items()):
            while stream.unsent and self._paused is None:
                room = min(self._h2.local_flow_control_window(number), MAX_FRAME)
                if room <= 0:
                    break
                part, stream.unsent = stream.unsent[:room], stream.unsent[room:]
                self._h2.send_data(number, bytes(part), end_stream=not stream.unsent)
                stream.moved = True
                if len(stream.unsent):
                    self._write()  # at once, so that a full socket is noticed here
            if not stream.unsent:
                self._forget_body(stream)

    def _forget_body(self, stream: Stream) -> None:
        self._sending.pop(stream.number, None)
        if stream.timer is not None:
            stream.timer.cancel()
            stream.timer = None

    def _limit(self, stream: Stream, write_s: float) -> None:
        """Give the stream up if no byte of its body goes out for so long."""
        stream.moved = False
        stream.timer = self._loop.call_later(write_s, self._look, stream, write_s)

    def _look(self, stream: Stream, write_s: float) -> None:
        if stream.moved:
            self._limit(stream, write_s)
            return
        self._forget_body(stream)
        if not stream.ended:
            stream.fail(httpx.WriteTimeout("the server does not take the request"))
            self._reset(stream)

    def _reset(self, stream: Stream) -> None:
        self._h2.reset_stream(stream.number, ErrorCodes.CANCEL)
        self._flush()

    def _flush(self) -> None:
        """Write what h2 has to say, once for all that is said in this turn of the loop."""
        if self._due is None and not self._gone:
            self._due = self._loop.call_soon(self._write)

    def _write(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        data = self._h2.data_to_send()
        if data and self._transport is not None and not self._gone:
            self._transport.write(data)
            if self._paused and self._transport.get_write_buffer_size() > MAX_UNWRITTEN:
                self._unread()

    def _unread(self) -> None:
        self._fail(httpx.WriteTimeout("the server does not read"))

    def _fail(self, error: httpx.TransportError) -> None:
        for stream in list(self._streams.values()):
            stream.fail(error)
        self._retired = True
        self.close()

    def _close_if_over(self) -> None:
        if not self._streams and (self._retired or not self._most):
            self.close()


def _cut(stream: Stream) -> httpx.TransportError:
    if not stream.status:
        return _unanswered()
    return httpx.RemoteProtocolError("peer closed connection in the body")


def _reset_by_server(stream: Stream, code: int | None) -> httpx.TransportError:
    if not stream.status and code == ErrorCodes.REFUSED_STREAM:
        return _unanswered()  # RFC 9113 8.7: nothing was done, it may be asked again
    if not stream.status and code == ErrorCodes.HTTP_1_1_REQUIRED:
        return Http1Required("Server disconnected: it asks for HTTP/1.1.")
    return httpx.RemoteProtocolError("peer reset the stream")


def _unanswered() -> httpx.RemoteProtocolError:
    return httpx.RemoteProtocolError("Server disconnected without sending a response.")
