"""The shared cache with a real redis-server: hit across gateways, and nothing lost without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import local_engine_missing
from tests.fakes.process import clean_env, serve
from tests.fakes.redis_server import RedisServer

CONFIG = """
upstreams:
  draft: {{kind: llama_cpp, zone: organisation, tier: local, model: "bundled:draft", slots: 2}}
cache: {{exact: {{memory: 0, redis: "{url}", secret: "${{CACHE_SECRET}}"}}}}
"""
BODY = {
    "model": "draft",
    "messages": [{"role": "user", "content": "share me"}],
    "max_tokens": 4,
    "temperature": 0,
}
CHAT = "/v1/chat/completions"
missing = local_engine_missing()
pytestmark = pytest.mark.skipif(missing is not None, reason=str(missing))


def test_gateways_share_answers_and_survive_redis(tmp_path: Path) -> None:
    """Two gateways with one secret share an answer; with Redis dead both go on, at a miss."""
    env = clean_env(CACHE_SECRET="common")
    path = tmp_path / "tandem.yaml"
    with RedisServer(tmp_path) as redis:
        path.write_text(CONFIG.format(url=redis.url))
        with (
            serve("-c", str(path), env=env) as one,
            serve("-c", str(path), env=env) as other,
            one.client() as first,
            other.client() as second,
        ):
            assert first.post(CHAT, json=BODY).headers["x-tandem-cache"] == "miss"
            shared = second.post(CHAT, json=BODY)
            assert shared.headers["x-tandem-tier"] == "cache"
            redis.kill()
            for _ in range(3):
                alone = second.post(CHAT, json=BODY)
                assert alone.status_code == 200
                assert alone.headers["x-tandem-tier"] == "local"
            assert 'tandem_dependency_up{dep="redis"} 0.0' in second.get("/metrics").text
