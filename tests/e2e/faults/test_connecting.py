"""Rows 1 to 6: no connection, or none that answers. The next candidate does, and nobody waits long.

Timeouts are short so that the tests are quick. What is asserted is who was asked and what came of
it, never how long it took.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.faults import fault, ok
from tests.fakes.fronting import QUICK, fronting, misbehaving, run, until
from tests.fakes.ports import full_backlog, unused_port
from tests.fakes.upstream import FakeUpstream


async def falls_back(address: str, result: str, **options: Any) -> None:
    """`bad` at this address comes to this result, and `good` answers."""
    async with (
        FakeUpstream(ok) as good,
        fronting({"bad": address, "good": good.base_url}, **options) as front,
    ):
        for stream in (True, False):
            answer = await front.ask(stream=stream)
            assert (answer.status, answer.text, answer.error) == (200, "one two", {})
            assert answer.headers["x-tandem-reason"] == "fallback"
            assert await front.attempts(answer) == [("bad", result), ("good", "ok")]
        counted = f'tandem_upstream_requests_total{{class="{result}",upstream="bad"}}'
        assert front.metric(counted) == 2


def test_row_01_connection_refused() -> None:
    """Where nobody listens the next candidate answers, and it is counted as `connect`."""
    run(falls_back(f"http://127.0.0.1:{unused_port()}/v1", "connect"))


def test_row_02_connecting_hangs() -> None:
    """A connection that is never taken ends at the connect timeout; the next candidate answers."""
    with full_backlog() as port:
        run(falls_back(f"http://127.0.0.1:{port}/v1", "timeout", timeouts=QUICK))


def test_row_03_a_name_that_does_not_resolve() -> None:
    """While a name is looked up others are served; without one the next candidate answers."""

    async def story() -> None:
        asked, told = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        plain = loop.getaddrinfo

        async def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
            if host not in ("gpu-box.example", b"gpu-box.example"):
                return await plain(host, *args, **options)
            asked.set()
            await told.wait()
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]
        async with (
            FakeUpstream(ok) as good,
            fronting({"bad": "http://gpu-box.example/v1", "good": good.base_url}) as front,
        ):
            waiting = asyncio.create_task(front.ask())
            await asked.wait()
            assert (await front.ask("good")).text == "one two"
            assert not waiting.done()
            told.set()
            answer = await waiting
            assert answer.text == "one two"
            assert await front.attempts(answer) == [("bad", "connect"), ("good", "ok")]

    run(story())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1".split()
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{path}.key", "-out", str(path)]
    try:
        done = subprocess.run([*command, *names], capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    assert done.returncode == 0, done.stderr
    path.write_text(path.read_text() + Path(f"{path}.key").read_text())
    return path


def test_row_04_a_certificate_nobody_vouches_for(certificate: Path) -> None:
    """It is asked once and gets no request; the next candidate answers; the class is `tls`."""

    async def story() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        async with FakeUpstream(ok, tls=context) as pretender, FakeUpstream(ok) as good:
            address = f"https://127.0.0.1:{pretender.port}/v1"
            async with fronting({"bad": address, "good": good.base_url}) as front:
                answer = await front.ask()
                assert answer.text == "one two"
                assert await front.attempts(answer) == [("bad", "tls"), ("good", "ok")]
                pinned = await front.ask("bad")
                assert (pinned.status, pinned.error["code"]) == (502, "upstream_tls")
                counted = 'tandem_upstream_requests_total{class="tls",upstream="bad"}'
                assert front.metric(counted) == 2
            assert pretender.requests == []

    run(story())


def test_row_05_a_kept_connection_that_has_gone_stale() -> None:
    """A connection closed while we picked it up is replaced at once, by the same upstream and free
    of any budget: the record has one attempt."""

    async def story() -> None:
        async with misbehaving(fault("stale")) as (front, bad, good):
            for count in (1, 2, 3):
                answer = await front.ask(stream=False)
                assert (answer.status, answer.text) == (200, "one two")
                assert await front.attempts(answer) == [("bad", "ok")]
                assert bad.connections == count
            assert front.gateway.fleet.vitals()["bad"].retry_budget == 1
            assert good.requests == []

    run(story())


def test_row_05_once_only() -> None:
    """An upstream that closes the fresh connection too is left: two requests, one attempt."""

    async def story() -> None:
        async with misbehaving(fault("close-unanswered")) as (front, bad, _):
            answer = await front.ask()
            assert answer.text == "one two"
            assert await front.attempts(answer) == [("bad", "connect"), ("good", "ok")]
            assert len(bad.requests) == 2

    run(story())


@pytest.mark.parametrize("silence", ["hang-headers", "hang-in-head"])
@pytest.mark.parametrize("stream", [True, False])
def test_row_06_headers_never_come(silence: str, stream: bool) -> None:
    """Silence after the request ends at the first-content timeout; the next candidate answers."""

    async def story() -> None:
        async with misbehaving(fault(silence), timeouts=QUICK) as (front, bad, _):
            answer = await front.ask(stream=stream)
            assert (answer.status, answer.text) == (200, "one two")
            assert await front.attempts(answer) == [("bad", "timeout"), ("good", "ok")]
            await until(bad.hung_up.is_set)
            assert len(bad.requests) == 1
            await front.at_rest()

    run(story())
