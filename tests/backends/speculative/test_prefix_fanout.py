"""Prefix fan-out: what its probe has to see, when it is refused, how it goes on where it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.base import Resources
from backends.speculative.backend import SpeculativeBackend
from backends.speculative.controller import PROBE_TOKENS, Estimates, Span
from backends.speculative.strategies import fanout_wire as wire
from backends.speculative.strategies.base import MOST_PROBE_TOKENS, Surprise
from backends.speculative.strategies.prefix_fanout import PrefixFanout, metered
from gateway.core.chat import ChatRequest
from gateway.core.errors import UpstreamRejected
from gateway.core.events import Event, SpeculationReport, TextDelta, UsageReport
from gateway.core.exchange import Call
from gateway.core.routing import Price
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_completions import OpenAICompletions
from tests.conftest import local_engine_missing
from tests.fakes.bundled_pair import Models, build, loaded
from tests.fakes.vllm_like import PLANTS, VllmLike, vllm_like

HARMLESS = {"one noise"}
"""What only sampled answers must not meet."""
LOSING = Estimates(
    drafting=Span(tokens=100, seconds=200, passes=100),
    plain=Span(tokens=100, seconds=100, passes=100),
)


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    if missing := local_engine_missing():
        pytest.skip(missing)
    with loaded() as both:
        yield both


@asynccontextmanager
async def paired(
    models: Models, plant: str = "", *, always: bool = True, kind: str = "vllm", **options: Any
) -> AsyncIterator[tuple[SpeculativeBackend, VllmLike]]:
    async with vllm_like(models.target, plant=plant) as (server, address):
        price = options.pop("price", None)
        target = build(kind, Resources(), base_url=f"{address}/v1", model="real", price=price)
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


async def proved(pair: SpeculativeBackend) -> PrefixFanout:
    assert pair._ladder is not None
    rung = await pair._ladder.settled()
    assert (rung.state, rung.reason) == ("proved", "")
    strategy = pair._ladder.strategy
    assert isinstance(strategy, PrefixFanout)
    return strategy


def report(events: list[Event]) -> SpeculationReport:
    [found] = [event for event in events if isinstance(event, SpeculationReport)]
    return found


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.parametrize("plant", sorted(set(PLANTS) - HARMLESS))
def test_a_probe_sees_what_is_wrong(models: Models, plant: str) -> None:
    """A server that is wrong in any of these ways is never fanned out to, within the budget."""

    async def story() -> None:
        async with paired(models, plant) as (pair, server):
            assert pair._ladder is not None
            rung = await pair._ladder.settled()
            assert rung.state == "dropped"
            assert rung.reason
            assert rung.probe_tokens <= MOST_PROBE_TOKENS
            rounds = len(server.rounds())
            assert report(await answer(pair)).strategy == f"stream;{rung.reason}"
            assert len(server.rounds()) == rounds

    models.run(story())


def test_the_probe_is_cheap(models: Models) -> None:
    """What it has the server read and write is what it books, and at most 300 tokens."""

    async def story() -> None:
        async with paired(models) as (pair, server):
            await proved(pair)
            assert pair.rung is not None
            assert pair.rung.probe_tokens == server.read + server.wrote <= MOST_PROBE_TOKENS
            assert pair.rung.version == "real@0.11.0"

    models.run(story())


def test_another_version_is_probed_again(models: Models) -> None:
    """What was proved of one release says nothing of the next."""

    async def story() -> None:
        async with paired(models) as (pair, server):
            await proved(pair)
            server.version, server.plant = "0.12.0", "off by one"
            ladder = pair._ladder
            assert ladder is not None
            ladder._look_at = 0.0
            rung = await ladder.settled()
            assert (rung.state, rung.probes) == ("dropped", 2)

    models.run(story())


@pytest.mark.parametrize(
    ("plant", "why"),
    [("no usage", "no-usage"), ("wild ids", "tokenizer"), ("no ids", "no-token-ids")],
)
def test_a_server_that_turns_wrong_is_dropped_at_once(models: Models, plant: str, why: str) -> None:
    """A round that does not add up ends the rung; the answer is the same one all the same."""

    async def story() -> None:
        async with paired(models) as (pair, server):
            await proved(pair)
            whole = text_of(await answer(pair))
            server.plant = plant
            events = await answer(pair)
            assert text_of(events) == whole
            assert report(events).strategy == f"stream;{why}"
            assert pair.rung is not None
            assert (pair.rung.state, pair.rung.reason) == ("dropped", why)

    models.run(story())


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"seed": 1}, "seed"),
        ({"presence_penalty": 0.5}, "frequency_penalty"),
        ({"repetition_penalty": 1.2}, "repeat_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 2}, "n"),
        ({"min_tokens": 4}, "min_tokens"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"length_penalty": 1.0}, "length_penalty"),
        ({"max_tokens": 1}, "short"),
        ({"seed": None, "n": 1, "user": "u", "stop": ["x"]}, ""),
    ],
)
def test_what_counts_from_an_answers_beginning_is_not_fanned_out(
    models: Models, fields: dict[str, Any], why: str
) -> None:
    """Seeds, penalties, forms, and whatever nobody has looked at: the stream has them."""

    async def story() -> None:
        async with paired(models) as (pair, _):
            assert pair._ladder is not None
            assert pair._ladder.strategy.declines(request(**fields)) == why

    models.run(story())


def test_a_metered_upstream_is_never_fanned_out_to(models: Models) -> None:
    """A prefix would be billed for each prompt of each round; it is not even probed."""

    async def story() -> None:
        async with paired(models, price={"input": 1, "output": 2}) as (pair, server):
            assert report(await answer(pair)).strategy == "stream;metered"
            assert server.rounds() == []
            assert pair.rung is not None
            assert pair.rung.state == "unproved"

    models.run(story())


@pytest.mark.parametrize(
    ("price", "is_metered"),
    [
        (None, False),
        (Price(), False),
        (Price(kwh=0.3), False),
        (Price(input=0.1, output=0.2), True),
        (Price(output=0.2), False),
    ],
)
def test_metered_is_by_what_is_read(price: Price | None, is_metered: bool) -> None:
    """Flat rates and electricity do not count prompts."""
    assert metered(price) is is_metered


def test_sampled_answers_need_noise_of_their_own(models: Models) -> None:
    """A server whose equal prompts draw the same noise samples by the stream only."""

    async def story() -> None:
        for plant, how in (("one noise", "stream;temperature"), ("", "prefix_fanout")):
            async with paired(models, plant) as (pair, _):
                await proved(pair)
                events = await answer(pair, request(temperature=0.7))
                assert report(events).strategy == how
                assert text_of(events)

    models.run(story())


def test_rounds_carry_no_seed_and_no_stop(models: Models) -> None:
    """One token for each prompt, each a prefix of the next, and what is meant for one token."""

    async def story() -> None:
        async with paired(models, ahead=3) as (pair, server):
            await proved(pair)
            server.served.clear()
            told = report(await answer(pair, request(stop=["zebra"], top_p=0.9)))
            sent = [body for path, body in server.served if path == "/v1/completions"]
            assert len(sent) == told.rounds
            for body in sent:
                assert body.keys() == {
                    "model", "temperature", "top_p", "return_token_ids", "prompt", "max_tokens"
                }  # fmt: skip
                assert body["max_tokens"] == 1
                assert 1 <= len(body["prompt"]) <= 4
                longest = body["prompt"][-1]
                assert all(longest[: len(each)] == each for each in body["prompt"])
            assert told.verified is not None
            read = sum(len(prompt) for body in sent for prompt in body["prompt"])
            assert told.verified.prompt_tokens == read

    models.run(story())


def test_a_prompt_of_text_and_one_of_ids(models: Models) -> None:
    """Completions are fanned out too, as their own text or their own ids."""

    async def story() -> None:
        ids = list(await models.target.prompts.text("import os\nimport "))
        async with paired(models) as (pair, _):
            await proved(pair)
            texts = set()
            for prompt in ("import os\nimport ", ids):
                body = {"model": "x", "prompt": prompt, "max_tokens": 12, "temperature": 0}
                asked = OpenAICompletions().decode(body, {})
                events = await answer(pair, asked)
                assert report(events).strategy == "prefix_fanout"
                plain = [e async for e in pair._target.stream(asked, Call(id="1"))]
                [document] = plain
                texts.add(text_of(events))
                assert document.completion.choices[0].text in texts  # type: ignore[union-attr]
            assert len(texts) == 1

    models.run(story())


def test_a_clients_odd_ids_end_nothing(models: Models) -> None:
    """Ids that no vocabulary has go to the server, which has a word for them; the rung stands."""

    async def story() -> None:
        async with paired(models) as (pair, server):
            await proved(pair)
            server.fail = 400
            body = {"model": "x", "prompt": [1, 10**6], "max_tokens": 12, "temperature": 0}
            with pytest.raises(UpstreamRejected):
                await answer(pair, OpenAICompletions().decode(body, {}))
            assert pair.rung is not None
            assert pair.rung.state == "proved"

    models.run(story())


def test_after_its_probing_tokens_the_rest_is_a_stream(models: Models) -> None:
    """An unknown pair drafts a little; what is left comes as one stream, timed for comparison."""

    async def story() -> None:
        async with paired(models, always=False) as (pair, server):
            strategy = await proved(pair)
            whole = text_of(await answer(pair, request(seed=1)))  # by the stream
            server.served.clear()
            events = await answer(pair)
            assert text_of(events) == whole
            assert report(events).strategy == "prefix_fanout;off"
            *_, (path, rest) = server.served
            assert path == "/v1/completions"
            assert rest["stream"] is True
            assert rest["max_tokens"] <= 32 - PROBE_TOKENS
            assert strategy.estimates.drafting.tokens > 0
            [used] = [event.usage for event in events if isinstance(event, UsageReport)]
            assert used.completion_tokens <= 32

    models.run(story())


def test_where_it_does_not_pay_it_is_off(models: Models) -> None:
    """Measured slower, the whole answer is the plain stream, frames and all."""

    async def story() -> None:
        async with paired(models, always=False) as (pair, server):
            strategy = await proved(pair)
            strategy.estimates = LOSING
            server.pace_s = 0.005  # or there would be nothing to time
            server.served.clear()
            events = await answer(pair)
            assert report(events).strategy == "prefix_fanout;off"
            assert [path for path, _ in server.served] == ["/v1/chat/completions"]
            assert strategy.estimates.plain.tokens != LOSING.plain.tokens

    models.run(story())


def test_a_round_that_fails_in_the_middle_is_gone_on_from(models: Models) -> None:
    """The ids that stand are the prompt of a plain stream; no byte is lost or said twice."""

    async def story() -> None:
        async with paired(models) as (pair, server):
            await proved(pair)
            whole = text_of(await answer(pair))
            server.fail_rounds_after = len(server.rounds()) + 2
            asked = iter(range(100))

            async def healed() -> None:
                """The server fails rounds only, not the stream that follows."""
                while len(server.rounds()) <= server.fail_rounds_after:
                    await asyncio.sleep(0)
                    next(asked, None)
                server.fail_rounds_after = -1

            healing = asyncio.create_task(healed())
            events = await answer(pair)
            healing.cancel()
            assert text_of(events) == whole
            assert report(events).strategy == "prefix_fanout;broken"

    models.run(story())


def test_a_round_is_read_strictly() -> None:
    """Missing, doubled or odd choices are surprises, not guesses."""
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    good = [{"index": 1, "token_ids": [8]}, {"index": 0, "token_ids": [7], "finish_reason": "stop"}]
    found = wire.read_round({"choices": good, "usage": usage}, 2)
    assert found.said == (wire.Said(7, True), wire.Said(8, False))
    bad: list[dict[str, Any]] = [
        {"choices": good},
        {"choices": good[:1], "usage": usage},
        {"choices": [good[0], good[0]], "usage": usage},
        {"choices": [{"index": 0, "token_ids": [1, 2]}, good[0]], "usage": usage},
        {"choices": [{"index": 0, "token_ids": []}, good[0]], "usage": usage},
        {"choices": [{"index": 0, "token_ids": ["7"]}, good[0]], "usage": usage},
        {"choices": [{"index": 0, "text": "a"}, good[0]], "usage": usage},
        {"choices": "none", "usage": usage},
        {},
    ]
    for document in bad:
        with pytest.raises(Surprise):
            wire.read_round(document, 2)


def test_what_is_settled_ends_at_the_first_difference() -> None:
    """The correction counts; what was drafted behind it does not; an end is an end."""

    def told(*tokens: int, end: int = -1) -> wire.Round:
        said = tuple(wire.Said(token, token == end) for token in tokens)
        return wire.Round(said, usage=None)  # type: ignore[arg-type]

    def kept(round_: wire.Round, drafts: list[int]) -> list[int]:
        return [each.token for each in wire.settled(round_, drafts)]

    assert kept(told(1, 2, 3, 4), [1, 2, 3]) == [1, 2, 3, 4]
    assert kept(told(1, 9, 3, 4), [1, 2, 3]) == [1, 9]
    assert kept(told(9, 2, 3, 4), [1, 2, 3]) == [9]
    assert kept(told(1, 0, 3, 4, end=0), [1, 0, 3]) == [1, 0]
    assert kept(told(5), []) == [5]


def test_a_long_prefix_narrows_a_round() -> None:
    """Beyond what is worth writing down, fewer drafts go along, and at last none."""
    assert wire.width_for(100, 8) == 8
    assert wire.width_for(wire.MOST_IDS // 4, 8) == 3
    assert wire.width_for(wire.MOST_IDS + 1, 8) == -1
