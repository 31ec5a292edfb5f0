"""`FakeUpstream` over HTTP/2: the same scripts, one a stream, and what only HTTP/2 can do wrong."""

from __future__ import annotations

import asyncio
import ssl

import h2.config
import h2.connection
import h2.events
import h2.settings
from h2.errors import ErrorCodes

from tests.fakes.upstream import Conversation, FakeUpstream, Script, Seen


class Http2Conversation(Conversation):
    """One stream. `hung_up` is its own: set when the client has reset it."""

    def __init__(self, connection: ServerConnection, number: int, request: Seen) -> None:
        super().__init__(request, connection.reader, connection.writer, asyncio.Event())
        self.connection = connection
        self.number = number
        self.reset_code: int | None = None
        self.ended = False

    async def head(self, status: int = 200, /, **headers: str) -> None:
        lines = [(":status", str(status))]
        lines += [(name.replace("_", "-"), value) for name, value in headers.items()]
        own = [line for line in lines if line[0] not in ("connection", "transfer-encoding")]
        if not self.hung_up.is_set():
            self.connection.h2.send_headers(self.number, own)
            await self.connection.flush()

    async def raw(self, data: bytes) -> None:
        """Bytes of the body, as the client's windows open."""
        while data:
            if self.hung_up.is_set():
                raise ConnectionResetError("the client has reset the stream")
            h2_ = self.connection.h2
            room = min(h2_.local_flow_control_window(self.number), h2_.max_outbound_frame_size)
            if room <= 0:
                await self.connection.change()
                continue
            h2_.send_data(self.number, data[:room])
            data = data[room:]
            await self.connection.flush()

    async def chunk(self, data: bytes) -> None:
        await self.raw(data)

    async def end(self) -> None:
        if not self.ended and not self.hung_up.is_set():
            self.ended = True
            self.connection.h2.end_stream(self.number)
            await self.connection.flush()

    async def hang(self) -> None:
        await self.hung_up.wait()

    async def refuse(self, code: ErrorCodes = ErrorCodes.REFUSED_STREAM) -> None:
        self.ended = True
        self.connection.h2.reset_stream(self.number, code)
        await self.connection.flush()

    async def goaway(self, last: int | None = None) -> None:
        """No new streams, and none of those after `last` (default: this one) was looked at.

        Typed by hand: h2 itself would send nothing more.
        """
        frame = b"\x00\x00\x08\x07\x00" + bytes(4)
        frame += (self.number if last is None else last).to_bytes(4, "big") + bytes(4)
        await self.connection.flush()
        self.writer.write(frame)


class ServerConnection:
    """One connection of an `Http2Upstream`."""

    def __init__(
        self, upstream: Http2Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.upstream = upstream
        self.reader = reader
        self.writer = writer
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        code = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
        self.h2.local_settings = h2.settings.Settings(
            client=False, initial_values={code: upstream.streams}
        )
        self._asked: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._open: dict[int, Http2Conversation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def change(self) -> None:
        """Until something has come from the client."""
        self._changed.clear()
        await self._changed.wait()

    async def serve(self) -> None:
        try:
            self.h2.initiate_connection()
            await self.flush()
            while data := await self.reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._happened(event)
                self._changed.set()
                await self.flush()
        finally:
            for conversation in self._open.values():
                if not conversation.ended:
                    conversation.hung_up.set()
                    self.upstream.hung_up.set()
            self._changed.set()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _happened(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                headers = {str(name): str(value) for name, value in event.headers}
                self._asked[event.stream_id] = headers, bytearray()
            case h2.events.DataReceived():
                self._asked[event.stream_id][1].extend(event.data)
                if self.upstream.reads:
                    size = event.flow_controlled_length
                    self.h2.acknowledge_received_data(size, event.stream_id)
            case h2.events.StreamEnded():
                self._begin(event.stream_id)
            case h2.events.StreamReset():
                self.upstream.resets.append(int(event.error_code))
                self.upstream.hung_up.set()
                if conversation := self._open.get(event.stream_id):
                    conversation.hung_up.set()

    def _begin(self, number: int) -> None:
        headers, body = self._asked.pop(number)
        seen = Seen(headers[":method"], headers[":path"], headers, bytes(body))
        scripts = self.upstream.scripts
        script = scripts[min(len(self.upstream.requests), len(scripts) - 1)]
        self.upstream.requests.append(seen)
        conversation = self._open[number] = Http2Conversation(self, number, seen)
        task = asyncio.create_task(self._converse(script, conversation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, script: Script, conversation: Http2Conversation) -> None:
        try:
            await script(conversation)
            await conversation.end()
        except ConnectionError:
            self.upstream.hung_up.set()
        finally:
            self._open.pop(conversation.number, None)


class Http2Upstream(FakeUpstream):
    """A server of HTTP/2 at https://localhost. A script's return ends its stream.

    `streams` is how many it allows at once; `resets` holds the codes of those that the client has
    reset. With `reads=False` it opens no window for what is sent to it.
    """

    def __init__(
        self, *scripts: Script, tls: ssl.SSLContext, streams: int = 100, reads: bool = True
    ) -> None:
        super().__init__(*scripts, tls=tls)
        self.streams = streams
        self.reads = reads
        self.resets: list[int] = []

    @property
    def base_url(self) -> str:
        return f"https://localhost:{self.port}/v1"

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await ServerConnection(self, reader, writer).serve()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            writer.close()
            self._tasks.discard(task)
