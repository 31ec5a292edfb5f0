"""Starting, leaving, dying: what is promised when a client, a worker or the gateway goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import local_engine_missing
from tests.fakes.process import Serving, clean_env, family, serve, workers

CHAT = "/v1/chat/completions"
LONG = {
    "model": "local",
    "messages": [{"role": "user", "content": "Write a long program."}],
    "max_tokens": 400,
    "stream": True,
    "temperature": 1.5,
}

pytestmark = pytest.mark.skipif(
    local_engine_missing() is not None, reason=str(local_engine_missing())
)


@pytest.fixture
def own() -> Iterator[Serving]:
    """A gateway of this test's own, to be broken."""
    with serve() as running:
        yield running


def eventually(holds: Callable[[], bool], *, within_s: float = 30) -> None:
    """Wait until something holds; how long it takes is not what is tested here."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.02)


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists() and not zombie(pid)}


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def busy(serving: Serving) -> float:
    """Requests inside any upstream now, as the record store and metrics see it."""
    with serving.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith("tandem_inflight{"))


@pytest.mark.parametrize("model", ["local", "cloud", "tandem"])
def test_a_client_that_leaves_frees_its_slot(own: Serving, model: str) -> None:
    """Closing a stream ends the work behind it: in-flight goes to zero, the record says so."""
    with own.client() as client:
        with client.stream("POST", CHAT, json={**LONG, "model": model}) as answer:
            request_id = answer.headers["x-request-id"]
            next(answer.iter_bytes())
        record = f"/v1/requests/{request_id}"
        eventually(lambda: client.get(record).status_code == 200)
        assert client.get(record).json()["outcome"] in ("cancelled", "ok")
        eventually(lambda: busy(own) == 0)
        assert client.post(CHAT, json={**LONG, "model": model, "stream": False}).status_code == 200


def test_a_killed_worker_ends_its_stream_and_comes_back(tmp_path: Path) -> None:
    """kill -9 mid-stream: a typed error ends the stream, without [DONE], and the next one works."""
    # A context far beyond the trained one, so that the answer lasts longer than the kill takes.
    path = tmp_path / "tandem.yaml"
    path.write_text(
        'upstreams: {draft: {kind: llama_cpp, zone: machine, model: "bundled:draft",'
        " context: 16384, slots: 1}}\n"
    )
    body = {**LONG, "max_tokens": 16000, "ignore_eos": True}
    with serve("-c", str(path)) as own, own.client() as client:
        (worker,) = workers(own.process.pid)
        with client.stream("POST", CHAT, json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            os.kill(worker, signal.SIGKILL)
            rest = [line for line in lines if line]
        assert "data: [DONE]" not in rest
        error = json.loads(rest[-1].removeprefix("data: "))["error"]
        assert error["code"] == "engine_failed"
        short = {**LONG, "stream": False}
        eventually(lambda: client.post(CHAT, json=short).status_code == 200)
        assert "tandem_engine_restarts_total" in client.get("/metrics").text


def test_the_companion_comes_back(own: Serving) -> None:
    """A killed companion process is started again on the same port."""
    pid = own.process.pid
    companion = [
        child
        for child in family(pid)
        if b"--companion" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    assert companion
    os.kill(companion[0], signal.SIGKILL)
    with own.client() as client:
        body = {**LONG, "model": "cloud", "stream": False, "max_tokens": 4}
        eventually(lambda: client.post(CHAT, json=body).status_code == 200)


def test_sigterm_lets_streams_finish_and_leaves_nothing(own: Serving) -> None:
    """SIGTERM: a running stream ends well, the exit status is 0, and no process is left."""
    pid = own.process.pid
    children = family(pid)
    assert len(workers(pid)) == 2
    with own.client() as client, client.stream("POST", CHAT, json=LONG) as answer:
        lines = answer.iter_lines()
        next(lines)
        own.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert own.process.wait(timeout=40) == 0
    eventually(lambda: not alive(children))


def test_a_service_manager_s_sigterm_lets_local_streams_finish(tmp_path: Path) -> None:
    """SIGTERM to every process at once, as systemd sends it: the worker leaves after its streams,
    not before them.
    """
    path = tmp_path / "tandem.yaml"
    path.write_text(
        'upstreams: {draft: {kind: llama_cpp, zone: machine, model: "bundled:draft",'
        " context: 4096, slots: 1}}\n"
    )
    body = {**LONG, "max_tokens": 2000, "ignore_eos": True}
    with serve("-c", str(path)) as own, own.client() as client:
        children = family(own.process.pid)
        with client.stream("POST", CHAT, json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            for child in children:
                os.kill(child, signal.SIGTERM)
            own.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert own.process.wait(timeout=40) == 0
        eventually(lambda: not alive(children))


def test_row_41_a_stream_that_outlasts_the_grace(tmp_path: Path) -> None:
    """SIGTERM with a stream longer than `server.drain`: it is told so, exit 0, no process left."""
    path = tmp_path / "tandem.yaml"
    path.write_text(
        "server: {drain: 500ms}\n"
        'upstreams: {draft: {kind: llama_cpp, zone: machine, model: "bundled:draft",'
        " context: 16384, slots: 1}}\n"
    )
    body = {**LONG, "max_tokens": 16000, "ignore_eos": True}
    with serve("-c", str(path)) as own, own.client() as client:
        children = family(own.process.pid)
        with client.stream("POST", CHAT, json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            own.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "draining"
        assert own.process.wait(timeout=40) == 0
        eventually(lambda: not alive(children))


def test_row_40_a_local_model_changes_beside_its_stream(tmp_path: Path) -> None:
    """A local model with other options is loaded beside the old one, whose stream ends well and
    whose worker then goes.
    """
    path = tmp_path / "tandem.yaml"
    text = (
        'upstreams: {draft: {kind: llama_cpp, zone: machine, model: "bundled:draft",'
        " context: 4096, slots: %d}}\n"
    )
    path.write_text(text % 1)
    body = {**LONG, "max_tokens": 2000, "ignore_eos": True}
    with serve("-c", str(path)) as own, own.client() as client:
        (before,) = workers(own.process.pid)
        with client.stream("POST", CHAT, json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            path.write_text(text % 2)
            eventually(lambda: "tandem_config_reloads_total{" in client.get("/metrics").text)
            assert client.post(CHAT, json={**LONG, "stream": False}).status_code == 200
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        eventually(lambda: workers(own.process.pid) not in ([], [before]))
        eventually(lambda: before not in workers(own.process.pid))
        metrics = client.get("/metrics").text
        assert 'tandem_config_reloads_total{result="ok"} 1' in metrics
        assert own.stop() == 0


def test_sigkill_leaves_no_orphans(own: Serving) -> None:
    """Even when the gateway is killed outright, its workers and its companion go too."""
    children = family(own.process.pid)
    own.process.kill()
    own.process.wait()
    eventually(lambda: not alive(children))


def test_a_first_start_warns_of_nothing(tmp_path: Path) -> None:
    """With no configuration and nothing found there is nothing that a newcomer must look into,
    neither at the start nor at the end.
    """
    command = [sys.executable, "-m", "gateway", "serve", "--port", "0", "--local-only"]
    process = subprocess.Popen(
        [*command, "--model-dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_env(),
    )
    assert process.stdout is not None
    while "auto" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "is up" in said
    assert "WARNING" not in said and "ERROR" not in said


def test_ctrl_c_exits_zero(own: Serving) -> None:
    """SIGINT drains like SIGTERM."""
    assert own.stop(signal.SIGINT) == 0


def test_keys_are_needed_once_set() -> None:
    """With TANDEM_API_KEY set, no key or a wrong one is a 401 in OpenAI's words."""
    with serve(env=clean_env(TANDEM_API_KEY="tdm-right")) as keyed, keyed.client() as client:
        for headers in ({}, {"authorization": "Bearer tdm-wrong"}):
            answer = client.post(CHAT, json=LONG, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert client.get("/v1/models", headers=headers).status_code == 401
        right = {"authorization": "Bearer tdm-right"}
        assert client.get("/v1/models", headers=right).status_code == 200
        body = {**LONG, "stream": False, "max_tokens": 2}
        mine = client.post(CHAT, json=body, headers=right)
        assert mine.status_code == 200
        record = f"/v1/requests/{mine.headers['x-request-id']}"
        assert client.get(record).status_code == 401
        assert client.get(record, headers=right).json()["key_id"]
        assert client.get("/livez").status_code == 200


def test_refuses_to_be_an_open_gateway() -> None:
    """Binding beyond loopback without keys is refused, with the sentence that says how to."""
    command = [sys.executable, "-m", "gateway", "serve", "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, env=clean_env(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "without keys" in done.stderr


def test_local_only_closes_the_zone() -> None:
    """--local-only ignores provider keys and keeps every request on the machine."""
    env = {**clean_env(), "GROQ_API_KEY": "gsk-not-real"}
    with serve("--local-only", env=env) as closed:
        assert "prompts stay on this machine" in closed.output
        assert "groq" not in closed.output
        with closed.client() as client:
            body = {**LONG, "stream": False, "max_tokens": 2}
            answer = client.post(CHAT, json=body)
            record = client.get(f"/v1/requests/{answer.headers['x-request-id']}").json()
    assert record["zone"] == "machine"


def test_provider_keys_are_announced() -> None:
    """A provider key in the environment is announced before the first request, never shown."""
    env = {**clean_env(), "GROQ_API_KEY": "gsk-not-real"}
    with serve(env=env) as keyed:
        assert "groq" in keyed.output
        assert "prompts may leave this machine, to: groq" in keyed.output
        assert "gsk-not-real" not in keyed.output
        with keyed.client() as client:
            listed = {model["id"] for model in client.get("/v1/models").json()["data"]}
    assert "groq" in listed


def test_a_taken_port_is_a_clear_error(gateway: Serving) -> None:
    """A second gateway on the same port says so and leaves, without a traceback."""
    port = httpx.URL(gateway.base_url).port
    command = [sys.executable, "-m", "gateway", "serve", "--port", str(port)]
    done = subprocess.run(command, env=clean_env(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """What stops the start is said as it is: not every failure is one of listening."""
    (tmp_path / "file").touch()
    path = tmp_path / "tandem.yaml"
    path.write_text(
        'upstreams: {draft: {kind: llama_cpp, zone: machine, model: "bundled:draft"}}\n'
        "router: {labels: {path: file/labels.jsonl}}\n"
    )
    command = [sys.executable, "-m", "gateway", "serve", "--port", "0", "-c", str(path)]
    done = subprocess.run(command, env=clean_env(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, "the configuration is wrong"
    assert "router.labels.path" in done.stderr and "Not a directory" in done.stderr
    assert "listen" not in done.stderr and "Traceback" not in done.stderr
