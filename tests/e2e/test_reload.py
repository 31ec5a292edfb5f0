"""Row 40: another configuration while requests run, and one that cannot be used."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config import load, loads
from gateway.core.registry import UnknownName
from gateway.core.routing import Zone
from gateway.limits.keys import create
from gateway.reload import Reloader
from tests.fakes.artifact import save
from tests.fakes.process import serve
from tests.fakes.running import Running, running
from tests.fakes.upstream import DONE, Conversation, FakeUpstream, chunk, finish

PATH = "/v1/chat/completions"
WORDS = ["one ", "two ", "three ", "four"]


def yaml(url: str, *upstreams: str, alias: str = "", more: str = "") -> str:
    lines = [
        f'  {name}: {{kind: openai, base_url: "{url}", api_key: "${{KEY}}", model: {name}-m}}'
        for name in upstreams
    ]
    models = f"models: {{mine: {{candidates: [{alias}]}}}}\n" if alias else ""
    return "\n".join(["upstreams:", *lines, ""]) + models + more


def body(model: str = "mine") -> dict[str, Any]:
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": "hi"}]}


async def slowly(conversation: Conversation) -> None:
    await conversation.stream_head()
    for word in WORDS:
        await conversation.chunk(chunk(word))
        await asyncio.sleep(0.02)
    await conversation.chunk(finish())
    await conversation.chunk(DONE)
    await conversation.end()


async def streamed(at: Running, **headers: str) -> tuple[str, str]:
    """The route of one answer, and all of its bytes; "" for the route of an error."""
    async with at.http.stream("POST", PATH, json=body(), headers=headers) as answer:
        raw = (await answer.aread()).decode()
    return answer.headers.get("x-tandem-route", ""), raw


def whole(raw: str) -> bool:
    places = [raw.find(f'"{word}"') for word in WORDS]
    return places == sorted(places) and places[0] > 0 and raw.endswith("data: [DONE]\n\n")


def test_row_40_reloads_lose_no_stream() -> None:
    """200 streams while the configuration changes under them: every one is whole, both upstreams
    of the alias served some, and in the end only the last configuration's upstream is left.
    """

    async def scenario() -> None:
        async with FakeUpstream(slowly) as upstream:
            url = upstream.base_url
            async with running(yaml(url, "a", "b", alias="a"), KEY="k") as at:
                gathered = []
                for turn in range(10):
                    gathered += [asyncio.create_task(streamed(at)) for _ in range(20)]
                    await asyncio.sleep(0.02)
                    name = "b" if turn % 2 == 0 else "a"
                    # `a` and `b` come and go, and are built anew each time.
                    text = yaml(url, name, alias=name)
                    await at.gateway.reload(loads(text, env={"KEY": "k"}))
                answers = await asyncio.gather(*gathered)
                assert [raw for _, raw in answers if not whole(raw)] == []
                assert {route for route, _ in answers} == {"a", "b"}
                assert list(at.gateway.backends) == ["a"]
                async with asyncio.timeout(20):
                    while at.gateway.leaving:
                        await asyncio.sleep(0.01)
                assert at.gateway.inside == 0

    asyncio.run(scenario())


def test_row_40_what_is_unchanged_goes_on() -> None:
    """An upstream with the same options keeps its backend and its open breaker; a changed one and
    what is made of it are new; a removed one is closed only when its last stream has ended.
    """

    async def scenario() -> None:
        async with FakeUpstream(slowly) as upstream:
            url = upstream.base_url
            race = "  both: {kind: race, of: [a, b]}\n"
            old = yaml(url, "a", "b", "c") + race + "models: {mine: {candidates: [c]}}\n"
            async with running(old, KEY="k") as at:
                before = dict(at.gateway.backends)
                trial = at.gateway.fleet.within(Zone.PUBLIC).begin("a")
                assert trial is not None
                running_stream = asyncio.create_task(streamed(at))
                while not upstream.requests:
                    await asyncio.sleep(0.01)
                new = (yaml(url, "a", "b") + race).replace("b-m", "other")
                await at.gateway.reload(loads(new, env={"KEY": "k"}))
                after = at.gateway.backends
                assert after["a"] is before["a"]
                assert after["b"] is not before["b"]
                assert after["both"] is not before["both"]
                assert at.gateway.fleet.in_flight()["a"] == 1
                trial.end(None)
                assert at.gateway.fleet.in_flight()["a"] == 0
                route, raw = await running_stream
                assert route == "c"
                assert whole(raw)

    asyncio.run(scenario())


def test_row_40_keys_change_at_once() -> None:
    """After a reload, a new key is good and a removed one is not."""

    async def scenario() -> None:
        (old, old_digest), (new, new_digest) = create(), create()
        async with FakeUpstream(slowly) as upstream:
            base = yaml(upstream.base_url, "a", alias="a")
            text = base + f"keys: [{{digest: '{old_digest}'}}]\n"
            async with running(text, KEY="k") as at:
                assert (await streamed(at, authorization=f"Bearer {old}"))[0] == "a"
                assert (await streamed(at, authorization=f"Bearer {new}"))[0] == ""
                text = base + f"keys: [{{digest: '{new_digest}'}}]\n"
                await at.gateway.reload(loads(text, env={"KEY": "k"}))
                assert (await streamed(at, authorization=f"Bearer {old}"))[0] == ""
                assert (await streamed(at, authorization=f"Bearer {new}"))[0] == "a"

    asyncio.run(scenario())


def test_row_40_what_cannot_be_built_changes_nothing() -> None:
    """A configuration whose upstream cannot be built leaves the old one in force, and serving."""

    async def scenario() -> None:
        async with FakeUpstream(slowly) as upstream:
            base = yaml(upstream.base_url, "a", alias="a")
            async with running(base, KEY="k") as at:
                before = at.gateway.config
                with pytest.raises(UnknownName):
                    await at.gateway.reload(broken(before))
                assert at.gateway.config is before
                assert whole((await streamed(at))[1])

    asyncio.run(scenario())


def broken(config: Any) -> Any:
    """A configuration of which one upstream is of a kind that there is not."""
    options = config.upstreams["a"].model_copy(update={"kind": "nothing"})
    return replace(config, upstreams={"a": options})


def test_row_40_a_bad_file_keeps_the_old_configuration(tmp_path: Path) -> None:
    """Started with -c: a changed file is in force within seconds, SIGHUP reads it too, and a bad
    one is counted, logged with its line, and changes nothing: readiness stays.
    """
    path = tmp_path / "tandem.yaml"
    good = yaml("http://127.0.0.1:9/v1", "a", alias="a")
    path.write_text(good)
    env = {**os.environ, "KEY": "k"}
    with serve("-c", str(path), env=env) as own, own.client() as client:
        path.write_text(good.replace("mine", "yours"))
        wait_until(lambda: "yours" in models(client))
        assert "mine" not in models(client)
        path.write_text(good + "rules: [{name: x, use: nobody}]\n")
        wait_until(lambda: 'reloads_total{result="error"} 1' in client.get("/metrics").text)
        assert "yours" in models(client)
        assert client.get("/readyz").status_code == 200
        path.write_text(good)
        own.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "mine" in models(client))
        assert own.stop() == 0


def models(client: httpx.Client) -> set[str]:
    return {model["id"] for model in client.get("/v1/models").json()["data"]}


def wait_until(holds: Any, within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.05)


def test_row_40_the_error_has_its_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is wrong with a bad file is in the log, with file and line."""

    async def scenario() -> None:
        path = tmp_path / "tandem.yaml"
        path.write_text("upstreams: {}\n")
        told: list[str] = []

        async def apply(config: Any) -> None:
            raise AssertionError("never")

        reloader = Reloader(
            path,
            read=lambda: loads(path.read_text(), env={}, source=str(path)),
            apply=apply,
            told=told.append,
        )
        watch = asyncio.create_task(reloader.run())
        path.write_text("upstreams: {}\nmodles: {}\n")
        reloader.ask()
        async with asyncio.timeout(20):
            while not told:
                await asyncio.sleep(0.01)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        assert told == ["error"]
        assert f"{path}:2:1" in caplog.text
        assert "did you mean" in caplog.text

    asyncio.run(scenario())


def test_another_artifact_in_its_place_is_in_force(tmp_path: Path) -> None:
    """The files that the router section names are watched, too: a new artifact is taken up without
    a word to the gateway, and a damaged one leaves the last good one in force."""
    config = tmp_path / "tandem.yaml"
    text = yaml("http://127.0.0.1:9/v1", "a") + (
        "models: {mine: {candidates: [a], policy: [learned]}}\n"
        f"router: {{artifact: {save(tmp_path / 'art')}}}\n"
    )
    config.write_text(text)

    async def scenario() -> None:
        async with running(text, KEY="k") as at:
            told: list[str] = []

            def digest() -> str:
                artifact = at.gateway.config.router.artifact
                return "" if artifact is None else artifact.digest

            async def until(outcomes: list[str]) -> None:
                async with asyncio.timeout(20):
                    while told[-len(outcomes) :] != outcomes:
                        await asyncio.sleep(0.01)

            reloader = Reloader(
                config,
                read=lambda: load(config, {"KEY": "k"}),
                apply=at.gateway.reload,
                told=told.append,
                beside=lambda: at.gateway.config.router.files,
            )
            watch = asyncio.create_task(reloader.run())
            try:
                first = digest()
                save(tmp_path / "art", seed=5)
                await until(["ok"])
                second = digest()
                assert second != first
                (tmp_path / "art" / "router.npz").write_bytes(b"junk")
                await until(["ok", "error"])
                assert digest() == second
                save(tmp_path / "art", seed=6)
                await until(["error", "ok"])
                assert digest() not in (first, second)
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)

    asyncio.run(scenario())
