"""What every profile promises, by replaying its provider's wire through the real backend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import httpx
import pytest
import respx

from backends.base import Resources
from backends.openai import OpenAIBackend
from backends.openai_options import OpenAIOptions
from backends.profiles import PROFILES
from backends.profiles.base import FEATURE_FIELDS, Others, Reasoning
from backends.rate_limits import Limited
from gateway.core.chat import Completion, Usage
from gateway.core.errors import TandemError, UpstreamRejected
from gateway.core.events import Event, UsageReport, collect
from gateway.core.exchange import Call
from gateway.dialects.openai_chat import OpenAIChat
from tests.fakes.provider_wires import TOOL_CALLS, WIRES, Wire, sse

UNWIRED = {"companion", "generic"}
"""Tandem itself, and nobody in particular."""


@pytest.fixture(params=WIRES, ids=lambda wire: wire.profile)
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.param
    return found


def over(wire: Wire, handler: Callable[..., Any]) -> OpenAIBackend:
    options = OpenAIOptions.model_validate(
        {"kind": wire.profile, "model": wire.model, "base_url": "http://up.test/v1"}
    )
    return OpenAIBackend("up", options, Resources(transport=lambda: httpx.MockTransport(handler)))


async def run(backend: OpenAIBackend, **body: Any) -> list[Event]:
    asked = {"model": "x", "messages": [{"role": "user", "content": "What is 2+2?"}], **body}
    try:
        async with aclosing(backend.stream(OpenAIChat().decode(asked, {}), Call(id="1"))) as events:
            return [event async for event in events]
    finally:
        await backend.aclose()


def answered(
    wire: Wire, response: httpx.Response, **body: Any
) -> tuple[list[Event], dict[str, Any], OpenAIBackend]:
    """The events of one request, the body that the provider got, and the backend."""
    with respx.mock() as router:
        route = router.post(url__regex=r"http://up\.test/.*").mock(return_value=response)
        backend = over(wire, router.async_handler)
        events = asyncio.run(run(backend, **body))
        return events, json.loads(route.calls.last.request.content), backend


def streamed(wire: Wire) -> httpx.Response:
    headers = {"content-type": "text/event-stream; charset=utf-8", **wire.headers}
    return httpx.Response(200, headers=headers, content=sse(wire.stream, comments=wire.comments))


def completed(events: list[Event]) -> Completion:
    async def again() -> AsyncIterator[Event]:
        for event in events:
            yield event

    return asyncio.run(collect(again()))


def expected(wire: Wire) -> Usage:
    return Usage(
        prompt_tokens=wire.prompt,
        completion_tokens=wire.completion,
        cached_tokens=wire.cached,
        reasoning_tokens=wire.reasoning,
        cost_usd=wire.cost,
    )


def test_every_profile_has_a_wire() -> None:
    """A new profile cannot forget this suite."""
    assert {wire.profile for wire in WIRES} | UNWIRED == set(PROFILES)


def test_a_stream_is_read_and_passed_on(wire: Wire) -> None:
    """Text, thoughts and usage come from where this provider has them, and each frame once."""
    events, _, _ = answered(wire, streamed(wire), stream=True)
    completion = completed(events)
    assert completion.choices[0].text == "four"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.choices[0].reasoning == ("hm" if wire.thinks else "")
    assert completion.usage == expected(wire)
    frames = b"".join(event.frame or b"" for event in events)
    assert frames == sse(wire.stream).removesuffix(b"data: [DONE]\n\n")


def test_a_whole_answer_is_read(wire: Wire) -> None:
    """The same answer in one piece says the same."""
    response = httpx.Response(200, json=wire.whole, headers=dict(wire.headers))
    events, _, _ = answered(wire, response)
    completion = completed(events)
    assert completion.choices[0].text == "four"
    assert completion.choices[0].reasoning == ("hm" if wire.thinks else "")
    assert completion.usage == expected(wire)


def test_an_answers_cost_is_known_or_said_to_be_unknown(wire: Wire) -> None:
    """A provider that says what an answer cost is believed; of the others nothing is guessed."""
    events, _, backend = answered(wire, streamed(wire), stream=True)
    [*_, report] = [event for event in events if isinstance(event, UsageReport)]
    assert backend.upstream.cost_of(report.usage) == wire.cost
    assert PROFILES[wire.profile].reports_cost == (wire.cost is not None)


def test_a_refusal_is_told_in_its_words(wire: Wire) -> None:
    """Whatever shape its errors have, a client learns what was wrong with the request."""
    response = httpx.Response(wire.error_status, json=wire.error)
    with pytest.raises(UpstreamRejected) as caught:
        answered(wire, response, stream=True)
    assert wire.message in caught.value.message
    assert caught.value.status == wire.error_status


def test_an_error_inside_a_stream_is_one(wire: Wire) -> None:
    """An error after the first words ends the stream as an error, in this provider's shape too."""
    chunks = (*wire.stream[:3], wire.error)
    headers = {"content-type": "text/event-stream"}
    with pytest.raises(TandemError):
        answered(wire, httpx.Response(200, headers=headers, content=sse(chunks)), stream=True)


@pytest.mark.parametrize("shape", sorted(TOOL_CALLS))
def test_a_tool_call_is_put_together(wire: Wire, shape: str) -> None:
    """A tool call is the same call in whichever pieces it comes."""
    headers = {"content-type": "text/event-stream"}
    response = httpx.Response(200, headers=headers, content=sse(TOOL_CALLS[shape]))
    events, _, _ = answered(wire, response, stream=True)
    [call] = completed(events).choices[0].tool_calls
    assert (call.id, call.name, json.loads(call.arguments)) == ("call_1", "add", {"a": 2})


def test_its_rate_limits_are_read(wire: Wire) -> None:
    """What its headers say is left can be asked of the backend; half, where these say anything."""
    _, _, backend = answered(wire, streamed(wire), stream=True)
    assert isinstance(backend, Limited)
    said = backend.rate_limits
    assert said.remaining_ratio("tokens", said.seen) == (0.5 if wire.headers else None)
    if wire.headers and wire.profile != "openai":
        assert said.limits[0].window == "minute"


def test_what_it_would_refuse_is_left_out(wire: Wire) -> None:
    """No field goes to a provider that would refuse the whole request for it; the rest goes."""
    profile = PROFILES[wire.profile]
    neutral = {"logprobs": False, "n": 1, "frequency_penalty": 0, "logit_bias": {}}
    odd = {"made_up": 1, "service_tier": "auto", "verbosity": "low"}
    _, sent, backend = answered(wire, streamed(wire), stream=True, **neutral, **odd)
    offered = {name for each in profile.features for name in FEATURE_FIELDS.get(each, ())}
    assert not sent.keys() & (profile.refuses - offered)
    assert ("made_up" in sent) == (profile.others is not Others.REFUSED)
    assert sent.keys() >= offered & neutral.keys()
    assert (backend.upstream.honours is None) == (profile.others is Others.UNKNOWN)


def test_usage_is_asked_for_where_it_must_be(wire: Wire) -> None:
    """`stream_options` goes where it is understood, and nowhere else."""
    _, sent, _ = answered(wire, streamed(wire), stream=True)
    asked = sent.get("stream_options") == {"include_usage": True}
    assert asked == wire.asked_for_usage


def test_where_its_thoughts_are(wire: Wire) -> None:
    """A profile names the place where this wire has the model's thoughts."""
    said = json.dumps(wire.whole["choices"][0]["message"])
    place = {
        Reasoning.CONTENT: '"reasoning_content"',
        Reasoning.FIELD: '"reasoning"',
        Reasoning.PARTS: '"thinking"',
    }.get(PROFILES[wire.profile].reasoning)
    assert (place is not None and place in said) == wire.thinks
