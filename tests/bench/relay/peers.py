"""The gateways that are measured: how each is started before the stub, one worker on one core.

Peers live outside our environment, in `$TANDEM_PEERS` (default: the temporary folder's
`tandem/peers`): `litellm/` and `vllm/` are virtual environments with `litellm[proxy]` and
`vllm-router`, `portkey/` is where `npm install @portkey-ai/gateway` ran; nginx is the system's. One
that is not there is left out, visibly.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.relay.processes import free_port, started
from tests.fakes.process import clean_env

PEERS = Path(os.environ.get("TANDEM_PEERS", Path(tempfile.gettempdir()) / "tandem" / "peers"))
STARTS_WITHIN_S = 90
KEY = "tdm-for-the-benchmark-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A gateway that runs. `headers` are what its requests need beyond the body."""

    name: str
    port: int
    process: subprocess.Popen[str]
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "/v1/chat/completions"


class Absent(Exception):
    """Not installed here."""


Start = Callable[[int, int], "contextlib.AbstractContextManager[Peer]"]
"""(the stub's port, the core to run on)"""

TANDEM = """
server: {{host: 127.0.0.1, port: {port}}}
upstreams:
  stub: {{kind: openai, zone: organisation, base_url: "http://127.0.0.1:{stub}/v1", model: stub,
          profile: openai, price: {{input: 0.59, output: 0.79}}}}
  other: {{kind: openai, zone: public, base_url: "http://127.0.0.1:{stub}/v1", model: stub,
           profile: openai}}
models:
  auto: {{candidates: [stub, other], policy: [rules]}}
  burst: {{candidates: [stub], policy: [rules]}}
  paced: {{candidates: [stub], policy: [rules]}}
rules:
  - {{name: radiology, when: {{header.x-team: {{eq: radiology}}}}, locality: machine}}
  - {{name: long, when: {{prompt_tokens: {{gt: 100000}}}}, use: other}}
cache: {{exact: {{memory: 64MiB}}}}
keys:
  - {{digest: "sha256:{digest}", tenant: bench}}
"""


@contextlib.contextmanager
def tandem(stub: int, core: int) -> Iterator[Peer]:
    """Key check, filters, rules, cache, record and metrics are on."""
    from gateway.limits.keys import digest_of

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tandem.yaml"
        path.write_text(TANDEM.format(port=port, stub=stub, digest=digest_of(KEY)))
        command = [sys.executable, "-m", "gateway", "serve", "-c", str(path), "--model-dir", folder]
        with started(command, core=core, env=clean_env()) as process:
            yield _up(Peer(name="tandem", port=port, process=process, headers=_bearer(KEY)))


@contextlib.contextmanager
def nginx(stub: int, core: int) -> Iterator[Peer]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise Absent("nginx is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder) / "nginx.conf"
        conf.write_text(
            f"""
            daemon off; worker_processes 1; pid {folder}/pid; error_log /dev/null;
            events {{ worker_connections 4096; }}
            http {{
              access_log off; keepalive_requests 100000000;
              client_body_temp_path {folder}; proxy_temp_path {folder};
              fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
              upstream stub {{ server 127.0.0.1:{stub}; keepalive 256; }}
              server {{
                listen 127.0.0.1:{port};
                location / {{
                  proxy_pass http://stub; proxy_http_version 1.1;
                  proxy_set_header Connection ""; proxy_buffering off;
                }}
              }}
            }}"""
        )
        with started([program, "-c", str(conf), "-p", folder], core=core) as process:
            yield _up(Peer(name="nginx", port=port, process=process))


@contextlib.contextmanager
def vllm_router(stub: int, core: int) -> Iterator[Peer]:
    program = _installed("vllm/bin/vllm-router", "pip install vllm-router")
    port = free_port()
    command = [
        str(program),
        "--host=127.0.0.1",
        f"--port={port}",
        f"--prometheus-port={free_port()}",
        "--worker-urls",
        f"http://127.0.0.1:{stub}",
        "--policy=round_robin",
        "--log-level=error",
    ]
    env = clean_env(TOKIO_WORKER_THREADS="1")
    with started(command, core=core, env=env) as process:
        yield _up(Peer(name="vllm-router", port=port, process=process))


@contextlib.contextmanager
def portkey(stub: int, core: int) -> Iterator[Peer]:
    """Its npm build fails on every stream under Node 20: it appends to the headers of a fetched
    Response, which are immutable. Event streams are wrapped anew here, so that it can be measured.
    """
    server = _installed(
        "portkey/node_modules/@portkey-ai/gateway/build/start-server.js",
        "npm install @portkey-ai/gateway",
    )
    node = shutil.which("node")
    if node is None:
        raise Absent("node is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        shim = Path(folder) / "shim.cjs"
        shim.write_text(
            """
            const fetched = globalThis.fetch;
            globalThis.fetch = async (...given) => {
              const answer = await fetched(...given);
              if (!(answer.headers.get("content-type") || "").includes("event-stream"))
                return answer;
              return new Response(answer.body,
                { status: answer.status, headers: new Headers(answer.headers) });
            };"""
        )
        command = [node, "-r", str(shim), str(server), f"--port={port}", "--headless"]
        headers = {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{stub}/v1",
            **_bearer("x"),
        }
        with started(command, core=core, env=clean_env(NODE_ENV="production")) as process:
            yield _up(Peer(name="portkey", port=port, process=process, headers=headers))


@contextlib.contextmanager
def litellm(stub: int, core: int) -> Iterator[Peer]:
    program = _installed("litellm/bin/litellm", "pip install 'litellm[proxy]'")
    port = free_port()
    models = [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"openai/{name}",
                "api_base": f"http://127.0.0.1:{stub}/v1",
                "api_key": "x",
            },
        }
        for name in ("auto", "burst", "paced")
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "litellm.yaml"
        config.write_text(
            json.dumps({"model_list": models, "general_settings": {"master_key": "sk-bench"}})
        )
        command = [
            str(program),
            f"--config={config}",
            "--host=127.0.0.1",
            f"--port={port}",
            "--num_workers=1",
        ]
        env = clean_env(LITELLM_LOG="ERROR", LITELLM_TELEMETRY="False")
        env["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        with started(command, core=core, env=env) as process:
            headers = _bearer("sk-bench")
            yield _up(Peer(name="litellm", port=port, process=process, headers=headers))


PEERS_BY_NAME: dict[str, Start] = {
    "tandem": tandem,
    "vllm-router": vllm_router,
    "nginx": nginx,
    "portkey": portkey,
    "litellm": litellm,
}


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _installed(path: str, how: str) -> Path:
    program = PEERS / path
    if not program.exists():
        raise Absent(f"{program} is not there ({how})")
    return program


def _up(peer: Peer) -> Peer:
    """Wait until it answers a request as it should."""
    from tests.bench.relay.load import request

    body = b'{"model":"auto","messages":[{"role":"user","content":"hello"}]}'
    asked = request(f"127.0.0.1:{peer.port}", peer.path, body, connection="close", **peer.headers)
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        if peer.process.poll() is not None:
            raise Absent(f"{peer.name} ended at once, with {peer.process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", peer.port), timeout=10) as connection:
                connection.sendall(asked)
                if b" 200 " in connection.recv(4096).partition(b"\r\n")[0] + b" ":
                    return peer
        except OSError:
            pass
        time.sleep(0.2)
    raise Absent(f"{peer.name} did not answer within {STARTS_WITHIN_S} s")
