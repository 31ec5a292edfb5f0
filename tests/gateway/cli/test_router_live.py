"""`tandem router probe` and `shadow` against upstreams and a gateway on real sockets."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.cli.router_live import probe, run_shadow
from gateway.config import load
from gateway.limits.keys import digest_of
from router_policies.training.probe import tasks
from tests.fakes.artifact import save
from tests.fakes.harness import run
from tests.fakes.running import running
from tests.fakes.upstream import DONE, Conversation, FakeUpstream, chunk, finish

ANSWERS = {task.prompt: task.answer for task in tasks(40)}


def knowing(share: float) -> Any:
    """A model that answers so much of the tasks rightly."""
    known = list(ANSWERS)[: int(len(ANSWERS) * share)]

    async def answer(conversation: Conversation) -> None:
        if conversation.request.method == "GET":  # a look at its health
            await conversation.head(content_length="0")
            return
        prompt = conversation.request.json["messages"][-1]["content"]
        await conversation.stream_head()
        await conversation.chunk(chunk(ANSWERS[prompt] if prompt in known else "no idea"))
        await conversation.chunk(finish())
        await conversation.chunk(DONE)
        await conversation.end()

    return answer


def posts(upstream: FakeUpstream) -> int:
    return sum(request.method == "POST" for request in upstream.requests)


def config(folder: Path, able: str, poor: str) -> Path:
    path = folder / "tandem.yaml"
    path.write_text(
        f"upstreams:\n"
        f"  able: {{kind: openai, zone: machine, base_url: '{able}', model: a, profile: generic}}\n"
        f"  poor: {{kind: openai, zone: machine, base_url: '{poor}', model: b, profile: generic}}\n"
        f"models: {{mine: {{candidates: [able, poor], policy: [learned]}}}}\n"
        f"router: {{abilities: abilities.json}}\n"
    )
    return path


def arguments(folder: Path, **changes: Any) -> argparse.Namespace:
    given = {
        "config": folder / "tandem.yaml",
        "out": folder / "abilities.json",
        "upstream": None,
        "tasks": 40,
        "at_once": 4,
        "again": False,
        "model_dir": folder,
    }
    return argparse.Namespace(**{**given, **changes})


def test_who_knows_more_is_abler_and_asked_once(tmp_path: Path) -> None:
    """Abilities follow what was answered rightly, are kept, and reach the policy's settings."""

    async def scenario() -> None:
        async with FakeUpstream(knowing(0.9)) as able, FakeUpstream(knowing(0.2)) as poor:
            (tmp_path / "abilities.json").write_text('{"abilities": {}}')
            config(tmp_path, able.base_url, poor.base_url)
            found = await probe(arguments(tmp_path))
            assert found["able"]["right"] == 0.9 and found["poor"]["right"] == 0.2
            assert found["able"]["ability"] > 0.5 > -0.5 > found["poor"]["ability"]
            assert (posts(able), posts(poor)) == (40, 40)
            assert await probe(arguments(tmp_path)) == found
            assert (posts(able), posts(poor)) == (40, 40)
            assert (await probe(arguments(tmp_path, upstream=["poor"], again=True))) == found
            assert (posts(able), posts(poor)) == (40, 80)
            settings = load(tmp_path / "tandem.yaml", {}).policy_settings
            assert settings.abilities["able"] == found["able"]["ability"]

    run(scenario())


def test_who_does_not_answer_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An upstream that is down gets no ability, and why is said; the others are measured all the
    same, and nobody takes their answers for clients' labels."""

    async def scenario() -> None:
        async with FakeUpstream(knowing(0.5)) as able:
            (tmp_path / "abilities.json").write_text('{"abilities": {}}')
            path = config(tmp_path, able.base_url, "http://127.0.0.1:9/v1")
            text = path.read_text().replace("json}", "json, labels: {path: labels.jsonl}}")
            path.write_text(text)
            assert set(await probe(arguments(tmp_path, tasks=10))) == {"able"}

    run(scenario())
    said = capsys.readouterr().out
    assert "poor: gave no answer, left out (" in said and "connect" in said
    assert not (tmp_path / "labels.jsonl").exists()


def test_an_unknown_upstream_is_named(tmp_path: Path) -> None:
    """A name that is none is an error before anybody is asked."""
    (tmp_path / "abilities.json").write_text('{"abilities": {}}')
    config(tmp_path, "http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match="'abel'"):
        asyncio.run(probe(arguments(tmp_path, upstream=["abel"])))


def test_shadow_shows_what_the_other_would_have_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints one line for each alias that has a shadow."""
    other = save(tmp_path / "other")

    async def scenario() -> int:
        async with FakeUpstream(knowing(0.5)) as upstream:
            text = config(tmp_path, upstream.base_url, upstream.base_url).read_text()
            text = text.replace("abilities: abilities.json", f"shadow: {other}")
            async with running(text) as at:
                body = {"model": "mine", "stream": True}
                body |= {"messages": [{"role": "user", "content": next(iter(ANSWERS))}]}
                await at.http.post("/v1/chat/completions", json=body)
                given = argparse.Namespace(url=f"http://127.0.0.1:{at.port}")
                return await asyncio.to_thread(run_shadow, given)

    status = run(scenario())
    assert status == 0
    shown = capsys.readouterr().out
    assert shown.startswith("mine") and "the same side" in shown
    assert json.loads((other / "manifest.json").read_text())["schema"] == 1


def test_shadow_comes_in_with_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where keys are needed the command says so in one line, and takes one from the environment;
    the admin port needs none, and what is no gateway is one line, too."""
    other = save(tmp_path / "other")

    async def scenario() -> None:
        async with FakeUpstream(knowing(0.5)) as upstream:
            text = config(tmp_path, upstream.base_url, upstream.base_url).read_text()
            text = text.replace("abilities: abilities.json", f"shadow: {other}")
            text += f'keys: [{{digest: "sha256:{digest_of("tdm-mine")}"}}]\n'
            async with running(text) as at:
                given = argparse.Namespace(url=f"http://127.0.0.1:{at.port}")
                monkeypatch.delenv("TANDEM_API_KEY", raising=False)
                with pytest.raises(OSError, match="needs a key: set TANDEM_API_KEY"):
                    await asyncio.to_thread(run_shadow, given)
                monkeypatch.setenv("TANDEM_API_KEY", "tdm-mine")
                assert await asyncio.to_thread(run_shadow, given) == 0
                operators = httpx.ASGITransport(at.gateway.admin())
                async with httpx.AsyncClient(transport=operators, base_url="http://x") as admin:
                    assert (await admin.get("/v1/router")).json()["aliases"]["mine"]["shadow"]
                given.url = f"http://127.0.0.1:{at.port}/nowhere"
                with pytest.raises(OSError, match="404; is it a gateway"):
                    await asyncio.to_thread(run_shadow, given)

    run(scenario())
    assert "0 requests" in capsys.readouterr().out
