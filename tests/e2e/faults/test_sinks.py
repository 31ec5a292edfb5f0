"""Row 39: where logs and metrics go is down or hangs. No request notices, memory is bounded."""

from __future__ import annotations

import asyncio
import io
import os
import threading

from gateway.record import JsonLog
from tests.fakes.faults import ok
from tests.fakes.fronting import fronting, run, until
from tests.fakes.upstream import FakeUpstream

WAITING = 5


class Hung(io.RawIOBase):
    """A log whose reader has stopped: writing waits until it is let go."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.go_on.wait(60)
        return len(data)  # type: ignore[arg-type]


async def answered(log: JsonLog, requests: int) -> None:
    """So many requests, all of them answered, while the log is as it is."""
    async with (
        FakeUpstream(ok) as good,
        fronting({"good": good.base_url}, log=log) as front,
    ):
        for _ in range(requests):
            answer = await front.ask()
            assert (answer.status, answer.text, answer.done) == (200, "one two", True)
        await front.at_rest()
        dropped = front.metric("tandem_log_dropped_total")
        assert dropped == log.dropped


def test_row_39_a_log_that_hangs() -> None:
    """Requests go on, at most `max_waiting` lines wait, and what is beyond is dropped, counted."""
    pipe = Hung()
    log = JsonLog(pipe, max_waiting=WAITING)  # type: ignore[arg-type]
    try:
        run(answered(log, 3 * WAITING))
        # One batch is in the hung write, and `max_waiting` lines wait.
        assert log.dropped >= WAITING
    finally:
        pipe.go_on.set()


def test_row_39_a_log_that_is_gone() -> None:
    """A pipe whose reader has left takes no line and stops no request."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as gone:
        log = JsonLog(gone)
        run(answered_and_dropped(log))


async def answered_and_dropped(log: JsonLog) -> None:
    async with FakeUpstream(ok) as good, fronting({"good": good.base_url}, log=log) as front:
        for _ in range(3):
            assert (await front.ask()).text == "one two"
        await until(lambda: log.dropped == 3)


def test_row_39_a_scraper_that_reads_nothing() -> None:
    """Scrapes that are asked for and never read hold up nobody."""

    async def story() -> None:
        async with FakeUpstream(ok) as good, fronting({"good": good.base_url}) as front:
            scrapers = []
            for _ in range(20):
                url = front.http.base_url
                reader, writer = await asyncio.open_connection(url.host, url.port, limit=16)
                writer.write(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
                scrapers.append((reader, writer))
            for _ in range(3):
                assert (await front.ask()).text == "one two"
            for _, writer in scrapers:
                writer.close()

    run(story())
