"""Row 45: the cloud is down and the local model is full. A real worker, a real queue."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.conftest import local_engine_missing
from tests.fakes.fronting import CHAT, run
from tests.fakes.ports import unused_port
from tests.fakes.process import serve

QUEUE = 2
CONFIG = """
upstreams:
  cloud: {kind: openai, profile: openai, model: m, base_url: "http://127.0.0.1:%d/v1"}
  local: {kind: llama_cpp, zone: machine, model: "bundled:draft", slots: 1, queue: %d}
models:
  auto: {candidates: [cloud, local]}
"""
BODY = {
    "model": "auto",
    "messages": [{"role": "user", "content": "Write a long program."}],
    "max_tokens": 300,
    "temperature": 1.5,
    "ignore_eos": True,
}

pytestmark = pytest.mark.skipif(
    local_engine_missing() is not None, reason=str(local_engine_missing())
)


def test_row_45_a_full_queue_says_when(tmp_path: Path) -> None:
    """What the slot and the queue hold is answered, what is beyond gets a 429 with a Retry-After
    in OpenAI's shape, and afterwards requests are answered again."""
    path = tmp_path / "tandem.yaml"
    path.write_text(CONFIG % (unused_port(), QUEUE))

    async def story(base_url: str) -> None:
        async with httpx.AsyncClient(base_url=base_url, timeout=50, trust_env=False) as client:
            answers = await asyncio.gather(*(client.post(CHAT, json=BODY) for _ in range(12)))
            refused = [each for each in answers if each.status_code != 200]
            assert len(answers) - len(refused) >= 1 + QUEUE
            assert refused
            for answer in refused:
                assert answer.status_code == 429
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["type"] == "rate_limit_error"
            assert (await client.post(CHAT, json=BODY)).status_code == 200

    with serve("-c", str(path), all_up=False) as running:
        run(story(running.base_url))
