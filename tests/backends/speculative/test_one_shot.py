"""One-shot predictions: what a probe has to see, what goes along with them, what they cost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.base import Resources
from backends.speculative.backend import SpeculativeBackend
from backends.speculative.controller import Estimates, Span
from backends.speculative.strategies.base import MOST_PROBE_TOKENS
from backends.speculative.strategies.one_shot import REFUSALS
from gateway.core.chat import ChatRequest
from gateway.core.errors import UpstreamRejected
from gateway.core.events import Event, SpeculationReport, TextDelta, UsageReport
from gateway.core.exchange import Call
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_completions import OpenAICompletions
from tests.conftest import local_engine_missing
from tests.fakes.bundled_pair import Models, build, loaded
from tests.fakes.predicting import PREDICTION_PLANTS, Predicting, predicting

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PRICE = {"input": 2.0, "output": 8.0}


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    if missing := local_engine_missing():
        pytest.skip(missing)
    with loaded() as both:
        yield both


@asynccontextmanager
async def paired(
    models: Models,
    plant: str = "",
    *,
    model: str = "gpt-4o",
    profile: str = "openai",
    always: bool = True,
    **options: Any,
) -> AsyncIterator[tuple[SpeculativeBackend, Predicting]]:
    async with predicting(models.target, plant=plant) as (server, address):
        target = build(
            "openai",
            Resources(),
            base_url=f"{address}/v1",
            model=model,
            profile=profile,
            price=PRICE,
        )
        parts = {"near": models.draft, "far": target}
        pair = build(
            "speculative",
            Resources(backends=parts),
            draft="near",
            target="far",
            always=always,
            **options,
        )
        try:
            yield pair, server
        finally:
            await pair.aclose()
            await target.aclose()


def request(**fields: Any) -> ChatRequest:
    body = {
        "model": "x",
        "messages": [{"role": "user", "content": "What is Tandem?"}],
        "max_tokens": 32,
        "temperature": 0,
        "stream": True,
        **fields,
    }
    return OpenAIChat().decode(body, {})


async def answer(pair: SpeculativeBackend, asked: ChatRequest | None = None) -> list[Event]:
    return [event async for event in pair.stream(asked or request(), Call(id="1"))]


def report(events: list[Event]) -> SpeculationReport:
    [found] = [event for event in events if isinstance(event, SpeculationReport)]
    return found


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize("plant", PREDICTION_PLANTS)
def test_a_probe_sees_what_is_wrong(models: Models, plant: str) -> None:
    """An upstream that is wrong in any of these ways gets no prediction, within the budget."""

    async def story() -> None:
        async with paired(models, plant) as (pair, server):
            assert pair._ladder is not None
            rung = await pair._ladder.settled()
            assert rung.state == "dropped"
            assert rung.reason
            assert 0 < rung.probe_tokens <= MOST_PROBE_TOKENS
            server.served.clear()
            assert report(await answer(pair)).strategy == f"stream;{rung.reason}"
            assert all("prediction" not in body for _, body in server.served)

    models.run(story())


def test_the_probe_is_cheap_and_says_nothing_of_anybodys(models: Models) -> None:
    """Three short questions of our own, and their cost is known."""

    async def story() -> None:
        async with paired(models) as (pair, server):
            assert pair._ladder is not None
            rung = await pair._ladder.settled()
            assert (rung.state, rung.probes) == ("proved", 1)
            assert rung.probe_tokens == server.read + server.wrote <= MOST_PROBE_TOKENS
            assert len(server.served) == 3
            assert rung.version == "gpt-4o@fp_1"
            assert (await pair.health()).detail == "one_shot proved"

    models.run(story())


def test_another_fingerprint_is_probed_again(models: Models) -> None:
    """Weights that have changed under one name are another upstream."""

    async def story() -> None:
        async with paired(models) as (pair, server):
            ladder = pair._ladder
            assert ladder is not None
            await ladder.settled()
            server.fingerprint = "fp_2"
            await answer(pair)
            ladder._look_at = 0.0
            rung = await ladder.settled()
            assert (rung.version, rung.probes) == ("gpt-4o@fp_2", 2)

    models.run(story())


def test_what_held_is_in_usage_and_report(models: Models) -> None:
    """The upstream's own counts: accepted and rejected, and the rejected are paid for."""

    async def story() -> None:
        async with paired(models) as (pair, _):
            assert pair._ladder is not None
            await pair._ladder.settled()
            events = await answer(pair)
            told = report(events)
            assert told.strategy == "one_shot"
            [used] = [event.usage for event in events if isinstance(event, UsageReport)]
            assert told.accepted == used.accepted_prediction_tokens > 0
            assert told.drafted - told.accepted == used.rejected_prediction_tokens
            cost = pair.upstream.cost_of(used)
            assert cost == pytest.approx(
                (2.0 * used.prompt_tokens + 8.0 * used.completion_tokens) / 1e6
            )

    models.run(story())


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 1.0}, "frequency_penalty"),
        ({"max_tokens": None, "max_completion_tokens": 32}, "max_completion_tokens"),
        ({"max_tokens": 1}, "short"),
        ({"prediction": {"type": "content", "content": "mine"}}, "own-prediction"),
    ],
)
def test_what_does_not_go_with_it_goes_without(
    models: Models, fields: dict[str, Any], why: str
) -> None:
    """Such a request is sent as it is: no draft, no prediction but the client's own."""

    async def story() -> None:
        async with paired(models) as (pair, server):
            assert pair._ladder is not None
            assert pair._ladder.strategy.declines(request(**fields)) == why
            assert server.served == []

    models.run(story())


def test_a_text_completion_goes_without(models: Models) -> None:
    """`prediction` is chat's."""

    async def story() -> None:
        async with paired(models) as (pair, _):
            asked = OpenAICompletions().decode({"model": "x", "prompt": "import os"}, {})
            assert pair._ladder is not None
            assert pair._ladder.strategy.declines(asked) == "endpoint"

    models.run(story())


@pytest.mark.parametrize(
    ("model", "profile", "strategy", "why"),
    [
        ("gpt-5", "openai", "auto", "model"),
        ("gpt-5", "openai", "one_shot", ""),
        ("gpt-4.1-mini", "openai", "auto", ""),
        ("gpt-oss-120b", "cerebras", "auto", ""),
        ("codestral-2501", "mistral", "auto", ""),
        ("mistral-small-latest", "mistral", "auto", "model"),
    ],
)
def test_models_are_known_or_named(
    models: Models, model: str, profile: str, strategy: str, why: str
) -> None:
    """Which models take predictions the profile knows; an operator may say so of another."""

    async def story() -> None:
        options = {"model": model, "profile": profile, "strategy": strategy}
        async with paired(models, **options) as (pair, _):  # type: ignore[arg-type]
            assert pair._ladder is not None
            assert pair._ladder.strategy.declines(request()) == why

    models.run(story())


def test_a_budget_bounds_the_draft(models: Models) -> None:
    """What is not drafted in time is not sent; the answer is the plain one."""

    async def story() -> None:
        async with paired(models, draft_for="1ms") as (pair, server):
            assert pair._ladder is not None
            await pair._ladder.settled()
            server.served.clear()
            events = await answer(pair)
            assert report(events).strategy == "stream;no-draft"
            assert text_of(events)
            assert all("prediction" not in body for _, body in server.served)

    models.run(story())


def test_refusals_in_a_row_end_it(models: Models) -> None:
    """Each is answered plainly; then the rung is dropped, and nothing is drafted in vain."""

    async def story() -> None:
        async with paired(models) as (pair, server):
            assert pair._ladder is not None
            await pair._ladder.settled()
            server.plant = "refuses prediction"
            for _ in range(REFUSALS):
                events = await answer(pair)
                assert report(events).strategy == "stream;refused"
                assert text_of(events)
            assert pair._ladder.rung.reason == "refused"

    models.run(story())


def test_a_clients_mistakes_end_nothing(models: Models) -> None:
    """What the upstream refuses without a prediction too is no word against predictions."""

    async def story() -> None:
        async with paired(models) as (pair, _):
            assert pair._ladder is not None
            await pair._ladder.settled()
            for _ in range(REFUSALS + 1):
                with pytest.raises(UpstreamRejected):
                    await answer(pair, request(unheard_of=True))
            assert pair._ladder.rung.state == "proved"

    models.run(story())


def test_where_it_does_not_pay_it_is_off(models: Models) -> None:
    """Measured slower, it sends no prediction and says so; what it measures then is plain."""

    async def story() -> None:
        async with paired(models, always=False) as (pair, server):
            assert pair._ladder is not None
            await pair._ladder.settled()
            losing = Estimates(
                drafting=Span(tokens=100, seconds=200, passes=100),
                plain=Span(tokens=100, seconds=100, passes=100),
            )
            pair._ladder.strategy.estimates = losing  # type: ignore[attr-defined]
            server.served.clear()
            assert report(await answer(pair)).strategy == "one_shot;off"
            assert all("prediction" not in body for _, body in server.served)

    models.run(story())
