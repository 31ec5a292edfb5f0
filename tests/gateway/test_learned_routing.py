"""The learned policy in a running gateway, from a YAML file to the upstream that is asked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config, ConfigError, load, loads
from gateway.core.routing import Tier
from tests.fakes.artifact import save
from tests.fakes.harness import run
from tests.fakes.running import Running, running
from tests.fakes.upstream import DONE, Conversation, FakeUpstream, chunk, finish

HARD = "Prove that there are infinitely many primes $p$ with $p \\equiv 3 \\pmod 4$; number {}."
EASY = "What is the name of animal {} in the story?\nA. cat\nB. dog\nC. cow\nD. hen"
YAML = """
upstreams:
  near: {{kind: openai, zone: machine, base_url: "{url}", model: a, profile: generic}}
  far:
    {{kind: openai, base_url: "{url}", model: b, profile: generic, price: {{input: 5, output: 9}}}}
models:
  mine: {{candidates: [near, far], policy: [rules, learned, static]{more}}}
rules:
  - {{name: keep, when: {{header.x-private: {{eq: "1"}}}}, locality: machine}}
  - {{name: force, when: {{header.x-force: {{eq: "1"}}}}, use: far}}
{router}
"""


async def briefly(conversation: Conversation) -> None:
    await conversation.stream_head()
    await conversation.chunk(chunk("yes"))
    await conversation.chunk(finish())
    await conversation.chunk(DONE)
    await conversation.end()


def yaml(url: str, more: str = "", router: str = "") -> str:
    return YAML.format(url=url, more=more, router=router)


async def ask(at: Running, prompt: str, **headers: str) -> Any:
    body = {
        "model": "mine",
        "stream": True,
        "max_tokens": 20,
        "messages": [{"role": "user", "content": prompt}],
    }
    answer = await at.http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers


def test_a_share_is_kept_end_to_end() -> None:
    """With a wanted share of 30 %, about that goes to the cloud, and the hard prompts more often;
    a prompt that must stay is never sent, and counts for nothing."""

    async def scenario() -> None:
        async with (
            FakeUpstream(briefly) as upstream,
            running(yaml(upstream.base_url, ", cloud_share: 0.3")) as at,
        ):
            went = {"hard": 0, "easy": 0}
            for number in range(150):
                kind, text = ("hard", HARD) if number % 2 else ("easy", EASY)
                headers = await ask(at, text.format(number))
                assert headers["x-tandem-reason"] == "learned"
                float(headers["x-tandem-score"])
                went[kind] += headers["x-tandem-route"] == "far"
            assert went["hard"] > 2 * went["easy"]
            assert 0.2 < sum(went.values()) / 150 < 0.4
            state = (await at.http.get("/v1/router")).json()["aliases"]["mine"]
            assert state["requests"] == 150
            assert state["cloud_share_lately"] == pytest.approx(sum(went.values()) / 150)
            for number in range(5):
                private = {"x-private": "1"}
                assert (await ask(at, HARD.format(number), **private))["x-tandem-route"] == "near"
            forced = await ask(at, EASY.format(1), **{"x-force": "1"})
            assert forced["x-tandem-reason"] == "rule:force"
            state = (await at.http.get("/v1/router")).json()["aliases"]["mine"]
            assert state["requests"] == 150

    run(scenario())


def test_a_kept_answer_counts_for_nothing() -> None:
    """What the cache answers, or `only-if-cached` refuses, reached nobody: the share is of what
    was asked."""

    async def scenario() -> None:
        async with (
            FakeUpstream(briefly) as upstream,
            running(yaml(upstream.base_url, ", cloud_share: 1.0")) as at,
        ):
            body = {"model": "mine", "temperature": 0, "stream": True}
            body |= {"messages": [{"role": "user", "content": HARD.format(1)}]}
            tiers = []
            for headers in ({}, {}, {}, {"cache-control": "no-cache, only-if-cached"}):
                path = "/v1/chat/completions"
                answer = await at.http.post(path, json=body, headers=headers)
                tiers.append(answer.headers.get("x-tandem-tier"))
            assert tiers == ["cloud", "cache", "cache", None]
            state = (await at.http.get("/v1/router")).json()["aliases"]["mine"]
            assert (state["requests"], state["cloud_share_lately"]) == (1, 1.0)

    run(scenario())


def test_new_words_are_left_to_the_next_policy() -> None:
    """Without a share to keep, a prompt in an unknown tongue gets the operator's order."""

    async def scenario() -> None:
        async with FakeUpstream(briefly) as upstream, running(yaml(upstream.base_url)) as at:
            headers = await ask(at, "今日の天気はどうですか とても寒いですね それでは また明日")
            assert (headers["x-tandem-reason"], headers["x-tandem-route"]) == ("static", "near")

    run(scenario())


def test_what_is_spent_is_capped() -> None:
    """Once the hour's money is gone, requests stay local."""

    async def scenario() -> None:
        more = ", prefer: quality, spend_cap_usd_per_hour: 0.0005"
        async with FakeUpstream(briefly) as upstream, running(yaml(upstream.base_url, more)) as at:
            routes = [(await ask(at, HARD.format(n)))["x-tandem-route"] for n in range(6)]
            assert routes[0] == "far" and routes[-1] == "near"
            state = (await at.http.get("/v1/router")).json()["aliases"]["mine"]
            assert state["spending_capped"] is True

    run(scenario())


def test_a_reload_brings_another_artifact_and_keeps_the_share(tmp_path: Path) -> None:
    """A reload puts another artifact in force at once; what the loop knows goes on with the same
    artifact, and a damaged one changes nothing."""
    other = save(tmp_path / "other", seed=5)

    async def scenario() -> None:
        async with FakeUpstream(briefly) as upstream:
            first = yaml(upstream.base_url, ", cloud_share: 0.3")
            async with running(first) as at:
                before = (await ask(at, HARD.format(1)))["x-tandem-score"]
                await at.gateway.reload(loads(first, env={}))
                state = (await at.http.get("/v1/router")).json()["aliases"]["mine"]
                assert state["requests"] == 1 and state["cloud_share_lately"] is not None
                router = f"router: {{artifact: {other}}}"
                second = yaml(upstream.base_url, ", cloud_share: 0.3", router)
                await at.gateway.reload(loads(second, env={}))
                assert (await ask(at, HARD.format(1)))["x-tandem-score"] != before
                (other / "router.npz").write_bytes(b"junk")
                (other / "manifest.json").touch()
                with pytest.raises(ConfigError, match="SHA-256"):
                    loads(second, env={})
                assert (await ask(at, HARD.format(2)))["x-tandem-reason"] == "learned"

    run(scenario())


def test_a_shadow_scores_and_decides_nothing(tmp_path: Path) -> None:
    """A shadow sees every routed request; routes are those of the artifact in force."""
    other = save(tmp_path / "other", seed=5)

    async def scenario() -> None:
        async with FakeUpstream(briefly) as upstream:
            plain = yaml(upstream.base_url, ", cloud_share: 0.3")
            shadowed = yaml(upstream.base_url, ", cloud_share: 0.3", f"router: {{shadow: {other}}}")
            routes = {}
            for name, text in (("plain", plain), ("shadowed", shadowed)):
                async with running(text) as at:
                    routes[name] = [
                        (await ask(at, (HARD if n % 2 else EASY).format(n)))["x-tandem-route"]
                        for n in range(20)
                    ]
                    state = (await at.http.get("/v1/router")).json()["aliases"]["mine"]
            assert routes["plain"] == routes["shadowed"]
            assert state["shadow"]["requests"] == 20
            assert state["shadow"]["strong_share_in_force"] == routes["plain"].count("far") / 20

    run(scenario())


def explained(at: Running, prompt: str) -> Any:
    from gateway.core.chat import ChatRequest, Endpoint, Message
    from gateway.core.exchange import Caller, Exchange

    request = ChatRequest(
        endpoint=Endpoint.CHAT,
        dialect="openai_chat",
        model="mine",
        messages=(Message(role="user", text=prompt),),
    )
    exchange = Exchange(id="dry", caller=Caller(), request=request, arrived=0.0)
    return at.gateway.pipeline.planner.plan(exchange)


def test_a_dry_run_leaves_no_trace() -> None:
    """Plans that nobody takes move no threshold and count no request."""

    async def scenario() -> None:
        async with (
            FakeUpstream(briefly) as upstream,
            running(yaml(upstream.base_url, ", cloud_share: 0.3")) as at,
        ):
            await ask(at, HARD.format(0))
            before = (await at.http.get("/v1/router")).json()
            first = await explained(at, HARD.format(1))
            for number in range(50):
                await explained(at, HARD.format(number))
            assert (await at.http.get("/v1/router")).json() == before
            again = await explained(at, HARD.format(1))
            assert again.facts == first.facts and first.route.reason == "learned"
            assert {c.upstream.tier for c in first.route.candidates} == {Tier.LOCAL, Tier.CLOUD}

    asyncio.run(scenario())


BASE = """
upstreams:
  near: {kind: openai, zone: machine, base_url: "http://127.0.0.1:9/v1", model: a, profile: generic}
models:
  mine: {candidates: [near], policy: [learned]%s}
router: %s
"""


def read(alias: str = "", router: str = "{}", folder: Path = Path()) -> Config:
    return loads(BASE % (alias, router), env={}, source="t.yaml", folder=folder)


@pytest.mark.parametrize(
    ("alias", "router", "message"),
    [
        (", cloud_share: 1.5", "{}", r"t.yaml:5:.*cloud_share.*less than or equal to 1"),
        (", prefer: best", "{}", r"t.yaml:5:.*prefer"),
        (", weights: {pricy: 1}", "{}", r"t.yaml:5:.*unknown key 'pricy'; did you mean 'price'"),
        (", spend_cap_usd_per_hour: -1", "{}", r"t.yaml:5:.*spend_cap"),
        ("", "{artefact: x}", r"t.yaml:6:.*did you mean 'artifact'"),
        ("", "{artifact: nowhere}", r"t.yaml:6:.*router.artifact.*no artifact there"),
        ("", "{shadow: nowhere}", r"t.yaml:6:.*router.shadow.*no artifact there"),
        ("", "{abilities: nowhere.json}", r"t.yaml:6:.*router.abilities.*cannot read"),
        ("", "{novelty_limit: 2}", r"t.yaml:6:.*novelty_limit"),
    ],
)
def test_mistakes_have_their_line(alias: str, router: str, message: str) -> None:
    """What is wrong with the learned policy's keys or files is said with its line."""
    with pytest.raises(ConfigError, match=message):
        read(alias, router)


@pytest.mark.parametrize(
    "said",
    ["cloud_share: 0.3", "spend_cap_usd_per_hour: 1", "prefer: cheap", "weights: {price: 1}"],
)
def test_what_nobody_would_heed_is_a_mistake(said: str) -> None:
    """A share, a cap or weights on an alias without the learned policy would do nothing: refused,
    with its line, instead of a spending cap that caps nothing."""
    text = BASE.replace("[learned]", "[rules, static]") % (f", {said}", "{}")
    key = said.partition(":")[0]
    with pytest.raises(ConfigError, match=rf"t.yaml:5:.*mine.{key}: {key} is for .*`learned`"):
        loads(text, env={}, source="t.yaml")


@pytest.mark.parametrize("content", ["", "[]", '{"abilities": 3}', '{"abilities": {"near": {}}}',
                                     '{"abilities": {"near": {"ability": 99}}}',
                                     '{"abilities": {"near": {"ability": NaN}}}'])  # fmt: skip
def test_a_strange_abilities_file_is_refused(tmp_path: Path, content: str) -> None:
    """Only what `tandem router probe` writes is read."""
    (tmp_path / "abilities.json").write_text(content)
    with pytest.raises(ConfigError, match="abilities"):
        read(router="{abilities: abilities.json}", folder=tmp_path)


def test_files_are_beside_the_configuration(tmp_path: Path) -> None:
    """Artifact and abilities are looked for where the configuration lies; other names are left."""
    save(tmp_path / "mine")
    entry = {"near": {"ability": -0.5}, "gone": {"ability": 1.0}}
    (tmp_path / "abilities.json").write_text(json.dumps({"abilities": entry}))
    text = BASE % (", prefer: fast", "{artifact: mine, abilities: abilities.json}")
    (tmp_path / "t.yaml").write_text(text)
    config = load(tmp_path / "t.yaml", {})
    assert config.router.artifact is not None
    assert config.router.artifact.manifest["rows"] == 0
    assert config.policy_settings.abilities == {"near": -0.5}
    assert config.aliases["mine"].weights_for("mine").latency > 0.1


def test_nothing_is_read_that_nobody_uses() -> None:
    """Without the policy in some alias, no artifact is loaded."""
    assert Config.build(upstreams={}).router.artifact is None
