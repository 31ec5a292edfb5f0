"""The fault table's rows on the local engine, one test or more for each; the names carry the rows.

A gateway with two local models: `small`, whose answers can be made to last, and `other`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import local_engine_missing
from tests.fakes.damage import tiny
from tests.fakes.gguf_models import write
from tests.fakes.process import Serving, family, serve, workers

CHAT = "/v1/chat/completions"
SMALL, OTHER = "demo-draft", "demo-target"
"""Parts of the model files' names: how a worker's command line is told from another's."""
PAIR = """
upstreams:
  small: {kind: llama_cpp, zone: machine, model: "bundled:draft", context: 16384, slots: 2}
  other: {kind: llama_cpp, zone: machine, model: "bundled:target", slots: 2}
models:
  either: {candidates: [small, other]}
"""
# A context far beyond the trained one, so that an answer lasts longer than what is done to it.
LONG = {
    "model": "small",
    "messages": [{"role": "user", "content": "Write a long program."}],
    "max_tokens": 16000,
    "stream": True,
    "temperature": 1.5,
    "ignore_eos": True,
}
SHORT = {**LONG, "max_tokens": 4, "stream": False}

pytestmark = pytest.mark.skipif(
    local_engine_missing() is not None, reason=str(local_engine_missing())
)


@contextmanager
def gateway(folder: Path, text: str = PAIR, *, all_up: bool = True) -> Iterator[Serving]:
    path = folder / "tandem.yaml"
    path.write_text(text)
    with serve("-c", str(path), all_up=all_up) as running:
        yield running


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Serving]:
    with gateway(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """For tests that break each model at most twice: a third time within a minute is another row's
    affair."""
    with gateway(tmp_path_factory.mktemp("lasting")) as running:
        yield running


def eventually(holds: Callable[[], bool], *, within_s: float = 30) -> None:
    """Wait until something holds; how long it takes is not what is tested here."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.02)


def living(pids: set[int]) -> set[int]:
    """Those that run; zombies do not."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.add(pid)
    return found


def samples(client: httpx.Client, name: str) -> dict[str, float]:
    """A metric's series, by their labels as they are printed."""
    lines = client.get("/metrics").text.splitlines()
    found = (line.rpartition(" ") for line in lines if line.startswith(name + "{"))
    return {key.removeprefix(name): float(value) for key, _, value in found}


def restarts(client: httpx.Client, upstream: str, cause: str) -> float:
    series = samples(client, "tandem_engine_restarts_total")
    return series.get(f'{{cause="{cause}",upstream="{upstream}"}}', 0.0) or series.get(
        f'{{upstream="{upstream}",cause="{cause}"}}', 0.0
    )


def error_of(lines: list[str]) -> dict[str, object]:
    return json.loads(lines[-1].removeprefix("data: "))["error"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("number", "cause"),
    [(signal.SIGKILL, "killed"), (signal.SIGSEGV, "crash")],
)
def test_row_26_a_worker_that_dies_mid_stream(
    pair: Serving, number: signal.Signals, cause: str
) -> None:
    """The stream ends with a typed error and without [DONE], a stream of another model goes on,
    the worker is started again, and the restart is counted with its cause."""
    (worker,) = workers(pair.process.pid, SMALL)
    beside = {**LONG, "model": "other", "max_tokens": 60}
    with pair.client() as client:
        with (
            client.stream("POST", CHAT, json=beside) as untouched,
            client.stream("POST", CHAT, json=LONG) as answer,
        ):
            calm, lines = untouched.iter_lines(), answer.iter_lines()
            next(calm), next(lines)
            os.kill(worker, number)
            rest = [line for line in lines if line]
            others = [line for line in calm if line]
        assert "data: [DONE]" not in rest
        assert error_of(rest)["code"] == "engine_failed"
        assert others[-1] == "data: [DONE]"
        eventually(lambda: client.post(CHAT, json=SHORT).status_code == 200)
        assert workers(pair.process.pid, SMALL) != [worker]
        eventually(lambda: restarts(client, "small", cause) == 1)
        for gauge in ("tandem_engine_rss_bytes", "tandem_engine_load_seconds"):
            assert min(samples(client, gauge).values()) > 0


def test_row_26_before_the_first_byte_another_candidate_answers(lasting: Serving) -> None:
    """A worker that has died when a request comes: the next candidate answers it."""
    (worker,) = workers(lasting.process.pid, SMALL)
    with lasting.client() as client:
        os.kill(worker, signal.SIGKILL)
        answer = client.post(CHAT, json={**SHORT, "model": "either"})
        assert answer.status_code == 200
        assert answer.headers["x-tandem-route"] == "other"
        eventually(lambda: client.post(CHAT, json=SHORT).status_code == 200)


def test_row_26_a_prompt_that_was_there_twice_goes_elsewhere(pair: Serving) -> None:
    """The third time it is answered by the next candidate, without a worker at risk; asked of that
    model alone, it gets a status that clients do not ask again after. Others are served."""
    body = {**LONG, "messages": [{"role": "user", "content": "Rosebud"}]}
    with pair.client() as client:
        for _ in range(2):
            (worker,) = workers(pair.process.pid, SMALL)
            with client.stream("POST", CHAT, json=body) as answer:
                lines = answer.iter_lines()
                next(lines)
                os.kill(worker, signal.SIGKILL)
                assert error_of([line for line in lines if line])["code"] == "engine_failed"
            eventually(lambda: client.post(CHAT, json=SHORT).status_code == 200)
        again = {**body, "stream": False, "max_tokens": 4}
        elsewhere = client.post(CHAT, json={**again, "model": "either"})
        assert (elsewhere.status_code, elsewhere.headers["x-tandem-route"]) == (200, "other")
        refused = client.post(CHAT, json=again)
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "prompt_refused")
        assert "Rosebud" not in refused.text
        assert client.post(CHAT, json=SHORT).status_code == 200
        assert restarts(client, "small", "killed") == 2


def test_row_27_a_worker_that_stands_still(lasting: Serving) -> None:
    """SIGSTOP with a request inside: the next candidate answers it, the gateway answers everybody
    else meanwhile, and the worker is killed and replaced."""
    (worker,) = workers(lasting.process.pid, SMALL)
    with lasting.client() as client:
        os.kill(worker, signal.SIGSTOP)
        with client.stream("POST", CHAT, json={**LONG, "model": "either", "max_tokens": 4}) as held:
            assert client.get("/livez", timeout=5).status_code == 200
            other = client.post(CHAT, json={**SHORT, "model": "other"})
            assert other.status_code == 200
            lines = [line for line in held.iter_lines() if line]
            assert held.headers["x-tandem-route"] == "other"
        assert lines[-1] == "data: [DONE]"
        eventually(lambda: client.post(CHAT, json=SHORT).status_code == 200)
        assert not living({worker})
        eventually(lambda: restarts(client, "small", "hung") == 1)


def test_row_27_also_with_nothing_to_do(lasting: Serving) -> None:
    """A worker that stands still while nobody asks is replaced before somebody does."""
    (worker,) = workers(lasting.process.pid, OTHER)
    os.kill(worker, signal.SIGSTOP)
    eventually(lambda: not living({worker}))
    body = {**SHORT, "model": "other"}
    with lasting.client() as client:
        eventually(lambda: client.post(CHAT, json=body).status_code == 200)


BROKEN = """
upstreams:
  good:   {{kind: llama_cpp, zone: machine, model: "bundled:draft"}}
  cut:    {{kind: llama_cpp, zone: machine, model: "{folder}/cut.gguf"}}
  bad:    {{kind: llama_cpp, zone: machine, model: "{folder}/bad.gguf"}}
  pinned: {{kind: llama_cpp, zone: machine, model: "{folder}/whole.gguf", sha256: "{wrong}"}}
  huge:   {{kind: llama_cpp, zone: machine, model: "{folder}/whole.gguf", cells: 40000000000}}
models:
  any:    {{candidates: [cut, bad, pinned, huge, good]}}
"""


def test_row_28_models_that_cannot_be_loaded(tmp_path: Path) -> None:
    """A cut file, one that llama.cpp refuses, a wrong checksum and too little memory: each is
    unavailable and readiness says why; what names it gets a typed error; the tries are few; and
    who may be answered elsewhere is."""
    meta, tensors = tiny()
    whole = tmp_path / "whole.gguf"
    write(whole, meta, tensors)
    (tmp_path / "cut.gguf").write_bytes(whole.read_bytes()[:-4096])
    write(tmp_path / "bad.gguf", {**meta, "llama.attention.head_count": 4}, tensors)
    text = BROKEN.format(folder=tmp_path, wrong="0" * 64)
    with gateway(tmp_path, text, all_up=False) as own, own.client() as client:
        ready = client.get("/readyz")
        assert ready.status_code == 200
        why = ready.json()["down"]
        assert set(why) == {"cut", "bad", "pinned", "huge"}
        assert "cut off" in why["cut"]
        assert "sha256" in why["pinned"]
        assert "GiB" in why["huge"]
        for name in why:
            refused = client.post(CHAT, json={**SHORT, "model": name})
            assert refused.status_code == 503, name
            assert refused.json()["error"]["code"] == "no_healthy_upstream"
        answer = client.post(CHAT, json={**SHORT, "model": "any"})
        assert answer.headers["x-tandem-route"] == "good"

        def given_up() -> bool:
            return samples(client, "tandem_engine_quarantined")['{upstream="bad"}'] == 1

        eventually(given_up)
        assert restarts(client, "bad", "load") == 3
        eventually(lambda: "quarantined" in client.get("/readyz").json()["down"]["bad"])


def test_row_42_a_second_sigterm_leaves_at_once_and_nothing_behind(pair: Serving) -> None:
    """With a stream that would last: two signals, and there is no process of ours, no listener on
    the port, and nothing new in shared memory."""
    shared = set(os.listdir("/dev/shm"))
    children = family(pair.process.pid)
    assert len(children) == 4  # two workers and their helpers
    with pair.client() as client, client.stream("POST", CHAT, json=LONG) as answer:
        lines = answer.iter_lines()
        next(lines)
        pair.process.send_signal(signal.SIGTERM)
        eventually(lambda: not_ready(pair))
        pair.process.send_signal(signal.SIGTERM)
        pair.process.wait(timeout=20)  # the first alone would wait for the stream
        assert "data: [DONE]" not in list(until_it_breaks(lines))
    eventually(lambda: not living(children))
    assert port_is_free(pair)
    assert set(os.listdir("/dev/shm")) <= shared


@pytest.mark.parametrize("first", [None, signal.SIGSTOP])
def test_row_42_sigkill_leaves_nothing_behind(pair: Serving, first: signal.Signals | None) -> None:
    """kill -9 while it works, also with its children stopped: they go, and the port is free."""
    shared = set(os.listdir("/dev/shm"))
    children = family(pair.process.pid)
    with pair.client() as client, client.stream("POST", CHAT, json=LONG) as answer:
        next(answer.iter_lines())
        if first is not None:
            for child in children:
                os.kill(child, first)
        pair.process.kill()
        pair.process.wait()
    eventually(lambda: not living(children))
    assert port_is_free(pair)
    assert set(os.listdir("/dev/shm")) <= shared


def until_it_breaks(lines: Iterator[str]) -> Iterator[str]:
    """What still comes of a stream whose server is gone, in good order or not."""
    try:
        yield from lines
    except httpx.HTTPError:
        return


def not_ready(serving: Serving) -> bool:
    """Whether it drains: it says so, or takes no more connections."""
    try:
        return httpx.get(f"{serving.base_url}/readyz", trust_env=False).status_code == 503
    except httpx.HTTPError:
        return True


def port_is_free(serving: Serving) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", httpx.URL(serving.base_url).port or 0))
    return True
