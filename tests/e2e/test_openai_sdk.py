"""The official OpenAI SDK against a gateway that was started with one command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

from tests.fakes.process import Serving

TIERS = {"local": "local", "cloud": "cloud", "tandem": "speculative", "auto": "local"}
QUESTION: Any = [{"role": "user", "content": "What is Tandem?"}]
JSON = {"type": "json_object"}


class Sum(BaseModel):
    """What `add` takes."""

    a: int = Field(ge=0, le=99)
    b: int = Field(ge=0, le=99)


ADD: Any = {
    "type": "function",
    "function": {"name": "add", "description": "Adds", "parameters": Sum.model_json_schema()},
}


def check_sum(arguments: str) -> Sum:
    return Sum.model_validate_json(arguments)


@pytest.fixture(scope="module")
def client(gateway: Serving) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.base_url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(("model", "tier"), TIERS.items())
def test_streams_real_text(client: OpenAI, model: str, tier: str) -> None:
    """Every mode streams text, and x-tandem-tier says where it came from."""
    raw = client.chat.completions.with_raw_response.create(
        model=model,
        messages=QUESTION,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
        seed=7,
        extra_headers={"cache-control": "no-cache"},
    )
    chunks = list(raw.parse())
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    finishes = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert text
    assert raw.headers["x-tandem-tier"] == tier
    assert raw.headers["x-request-id"].startswith("req_")
    assert [f for f in finishes if f] in (["stop"], ["length"])
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert 0 < chunks[-1].usage.completion_tokens <= 24


@pytest.mark.parametrize("model", TIERS)
def test_whole_answers(client: OpenAI, model: str) -> None:
    """Without streaming the same modes answer in one piece, with usage."""
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=8, temperature=0
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_async_client(gateway: Serving) -> None:
    """The async client streams concurrently on one gateway."""

    async def one(client: AsyncOpenAI, at: int) -> str:
        stream = await client.chat.completions.create(
            model="local",
            messages=[{"role": "user", "content": f"Count to {at}."}],
            max_tokens=12,
            stream=True,
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    async def story() -> list[str]:
        async with AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key="x") as client:
            return list(await asyncio.gather(*(one(client, at) for at in range(8))))

    assert all(asyncio.run(story()))


def test_suffix_completion(client: OpenAI) -> None:
    """A completion with a suffix is filled in by the model's own tokens."""
    answer = client.completions.create(
        model="local", prompt="def add(a, b):\n    return ", suffix="\n", max_tokens=8
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    assert "<|fim" not in answer.choices[0].text


def test_stop_string_ends_the_answer(client: OpenAI) -> None:
    """A stop string ends the answer and is not part of it."""
    whole = client.completions.create(model="local", prompt="import ", max_tokens=24, temperature=0)
    text = whole.choices[0].text
    stop = text[3:6]
    cut = client.completions.create(
        model="local", prompt="import ", max_tokens=24, temperature=0, stop=[stop]
    )
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_seed_repeats_a_sample(client: OpenAI) -> None:
    """Equal seeds give equal samples, freshly generated each time."""

    def sample(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="local",
            messages=QUESTION,
            max_tokens=16,
            temperature=1.0,
            seed=seed,
            extra_headers={"cache-control": "no-cache"},
        )
        return answer.choices[0].message.content

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(2, 6)}) > 1


def test_several_choices_cost_one_prompt(client: OpenAI) -> None:
    """`n` gives so many choices, seeded apart and repeatable; the prompt is counted once."""

    def ask() -> openai.types.chat.ChatCompletion:
        return client.chat.completions.create(
            model="tandem-demo-draft", messages=QUESTION, n=3, max_tokens=8, seed=1, temperature=1.5
        )

    answer = ask()
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.finish_reason in ("stop", "length") for choice in answer.choices)
    assert answer.usage is not None and answer.usage.completion_tokens <= 24
    single = client.chat.completions.create(
        model="tandem-demo-draft", messages=QUESTION, max_tokens=1
    )
    assert single.usage is not None
    assert answer.usage.prompt_tokens == single.usage.prompt_tokens


@pytest.mark.parametrize("model", ["local", "tandem-demo-draft"])
@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("functions", [{"name": "f", "parameters": {}}]),
        ("modalities", ["text", "audio"]),
    ],
)
def test_what_the_local_engine_lacks_is_refused(
    client: OpenAI, model: str, param: str, value: object
) -> None:
    """A parameter that the engine does not have yet is a 400 that names it, never ignored."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=model, messages=QUESTION, **{param: value})
    assert caught.value.param == param
    assert caught.value.code == "unsupported_parameter"


def test_logprobs_streamed_and_whole(client: OpenAI) -> None:
    """Chat log-probabilities spell the text, and are the same streamed as whole."""
    asked = {
        "model": "local",
        "messages": QUESTION,
        "max_tokens": 8,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 3,
    }
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.logprobs is not None and choice.logprobs.content
    whole = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in whole).decode() == choice.message.content
    for token in whole:
        assert len(token.top_logprobs) == 3
        assert (token.top_logprobs[0].token, token.top_logprobs[0].logprob) == (
            token.token,
            token.logprob,
        )
        assert token.logprob <= 0
    streamed = [
        token
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices and chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert [token.token for token in streamed] == [token.token for token in whole]
    plain = client.chat.completions.create(
        model="local", messages=QUESTION, max_tokens=8, temperature=0
    )
    assert plain.choices[0].logprobs is None


def test_legacy_logprobs_and_echo(client: OpenAI) -> None:
    """Completions have columns whose offsets point into the text; an echo comes first."""
    asked = {"model": "local", "prompt": "Tandem is", "max_tokens": 8, "temperature": 0}
    choice = client.completions.create(**asked, logprobs=2).choices[0]
    columns = choice.logprobs
    assert columns is not None and columns.tokens
    assert len(columns.token_logprobs) == len(columns.top_logprobs) == len(columns.tokens)
    for token, at, tops in zip(
        columns.tokens, columns.text_offset, columns.top_logprobs, strict=True
    ):
        assert choice.text[at:].startswith(token)
        assert token in tops
    chunks = [c.choices[0] for c in client.completions.create(**asked, logprobs=2, stream=True)]
    offsets = [at for c in chunks if c.logprobs for at in c.logprobs.text_offset]
    assert offsets == columns.text_offset
    echoed = client.completions.create(**asked, echo=True).choices[0]
    assert echoed.text == "Tandem is" + choice.text
    scored = client.completions.create(**asked, echo=True, logprobs=1).choices[0]
    assert scored.text == echoed.text
    columns = scored.logprobs
    assert columns is not None and columns.token_logprobs[0] is None
    for token, at in zip(columns.tokens, columns.text_offset, strict=True):
        assert scored.text[at:].startswith(token)
    only = client.completions.create(**{**asked, "max_tokens": 0}, echo=True, logprobs=1)
    assert only.choices[0].text == "Tandem is"
    assert only.choices[0].logprobs is not None
    count = len(only.choices[0].logprobs.tokens)
    assert only.choices[0].logprobs.token_logprobs == columns.token_logprobs[:count]
    assert only.usage is not None
    assert (only.usage.prompt_tokens, only.usage.completion_tokens) == (count, 0)


def test_best_of(client: OpenAI) -> None:
    """Of several answers the likeliest come back; all of them are counted and none is streamed."""
    asked: Any = {"model": "tandem-demo-draft", "prompt": "Tandem is", "max_tokens": 6}
    # Every answer has all six tokens, so that the count tells how many there were.
    best = client.completions.create(
        **asked, n=2, best_of=4, temperature=1.5, extra_body={"ignore_eos": True}
    )
    assert [choice.index for choice in best.choices] == [0, 1]
    assert all(choice.logprobs is None for choice in best.choices)
    assert best.usage is not None and best.usage.completion_tokens == 4 * 6
    for wrong in ({"best_of": 2, "n": 3}, {"best_of": 2, "stream": True}):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(**asked, **wrong)
        assert caught.value.param == "best_of"


def test_a_bias_outside_the_vocabulary_is_refused(client: OpenAI) -> None:
    """A token id that the model does not have is a 400 that names the parameter."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="local", messages=QUESTION, logit_bias={"99999999": 1})
    assert caught.value.param == "logit_bias"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
@pytest.mark.parametrize("model", ["local", "cloud"])
def test_tool_calls_whole(client: OpenAI, model: str, choice: Any) -> None:
    """A forced tool call is whole and valid, on the draft and on the companion."""
    answer = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        tools=[ADD],
        tool_choice=choice,
        parallel_tool_calls=False,
        max_tokens=120,
    )
    (chosen,) = answer.choices
    assert chosen.finish_reason == "tool_calls"
    assert chosen.message.content is None
    assert chosen.message.tool_calls is not None
    (call,) = chosen.message.tool_calls
    assert (call.type, call.function.name) == ("function", "add")
    assert check_sum(call.function.arguments)


def test_tool_calls_streamed(client: OpenAI) -> None:
    """Streamed, the first piece has id and name, the others arguments, and the last a finish."""
    stream = client.chat.completions.create(
        model="local",
        messages=QUESTION,
        tools=[ADD],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=120,
        stream=True,
    )
    chunks = [chunk.choices[0] for chunk in stream if chunk.choices]
    deltas = [d for c in chunks for d in c.delta.tool_calls or []]
    assert deltas[0].id and deltas[0].type == "function"
    assert deltas[0].function is not None and deltas[0].function.name == "add"
    assert {d.index for d in deltas} == {0}
    assert [d.id or (d.function and d.function.name) for d in deltas[1:]] == [None] * (
        len(deltas) - 1
    )
    assert check_sum("".join(d.function.arguments or "" for d in deltas if d.function))
    assert "".join(c.delta.content or "" for c in chunks) == ""
    assert chunks[-1].finish_reason == "tool_calls"


def test_a_conversation_with_tools(client: OpenAI) -> None:
    """A call and its result go back as the SDK gives them, and the model answers in text."""
    first = client.chat.completions.create(
        model="local", messages=QUESTION, tools=[ADD], tool_choice="required", max_tokens=120
    )
    said = first.choices[0].message
    assert said.tool_calls
    results = [{"role": "tool", "tool_call_id": c.id, "content": "3"} for c in said.tool_calls]
    second = client.chat.completions.create(
        model="local",
        messages=[*QUESTION, said, *results],  # type: ignore[list-item]
        tools=[ADD],
        tool_choice="none",
        max_tokens=12,
    )
    assert second.choices[0].message.content
    assert second.choices[0].message.tool_calls is None


def test_structured_output(client: OpenAI) -> None:
    """json_schema gives a document of the schema, through the SDK's own pydantic helper too."""
    parsed = client.chat.completions.parse(
        model="local", messages=QUESTION, response_format=Sum, max_tokens=120, seed=3
    )
    assert isinstance(parsed.choices[0].message.parsed, Sum)
    for seed in range(3):
        answer = client.chat.completions.create(
            model="local",
            messages=QUESTION,
            response_format={"type": "json_object"},
            max_tokens=200,
            seed=seed,
        )
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


def test_forms_go_with_choices_and_logprobs(client: OpenAI) -> None:
    """Each of several choices has its own calls, and log-probabilities spell a guided text."""
    answer = client.chat.completions.create(
        model="tandem-demo-draft",
        messages=QUESTION,
        tools=[ADD],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=120,
        n=2,
        seed=5,
        logprobs=True,
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls or []
        assert call.type == "function" and check_sum(call.function.arguments)
    parsed = client.chat.completions.parse(
        model="local",
        messages=QUESTION,
        response_format=Sum,
        max_tokens=120,
        logprobs=True,
        extra_body={"min_tokens": 100},
    )
    (choice,) = parsed.choices
    assert choice.logprobs is not None and choice.logprobs.content
    spelt = b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content)
    assert spelt.decode() == choice.message.content


def test_a_schema_without_a_grammar_is_refused(client: OpenAI) -> None:
    """What the engine cannot enforce is a 400 that says where it stands."""
    schema = {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}
    with pytest.raises(openai.BadRequestError, match=r"schema\.properties\.a\.not") as caught:
        client.chat.completions.create(
            model="local",
            messages=QUESTION,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        )
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(("param", "value"), [("tools", [ADD]), ("response_format", JSON)])
def test_speculation_carries_forms(client: OpenAI, param: str, value: object) -> None:
    """Tools and JSON go through a session as they go to the target alone: the same answer."""
    asked: dict[str, object] = {param: value, "temperature": 0, "max_tokens": 60}
    pair, alone = (
        client.chat.completions.create(model=model, messages=QUESTION, **asked)  # type: ignore[call-overload]
        for model in ("tandem", "cloud")
    )
    said, wanted = pair.choices[0], alone.choices[0]
    assert said.finish_reason == wanted.finish_reason
    assert said.message.content == wanted.message.content
    called, calls = (
        [(call.function.name, call.function.arguments) for call in each.message.tool_calls or ()]
        for each in (said, wanted)
    )
    assert called == calls


def test_errors_have_the_sdk_classes(client: OpenAI) -> None:
    """Unknown models and bad values come back as the SDK's own exceptions, with all four keys."""
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="local", messages=QUESTION, temperature=9)
    assert bad.value.param == "temperature"
    assert isinstance(bad.value.body, dict)
    assert set(bad.value.body) == {"message", "type", "param", "code"}


def test_context_is_exceeded_with_numbers(client: OpenAI) -> None:
    """A prompt that does not fit is refused with both numbers; nothing is truncated."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="local", messages=[{"role": "user", "content": "word " * 3000}]
        )
    assert caught.value.code == "context_length_exceeded"
    assert "512" in caught.value.message
    with pytest.raises(openai.BadRequestError) as huge:
        client.chat.completions.create(
            model="local", messages=[{"role": "user", "content": "word " * 1_000_000}]
        )
    assert huge.value.code == "context_length_exceeded"


def test_lists_models(client: OpenAI) -> None:
    """The model list has aliases and upstreams, each retrievable, with tier and context."""
    listed = {model.id: model for model in client.models.list()}
    assert set(TIERS) <= set(listed)
    one = client.models.retrieve("tandem-demo-pair")
    assert one.model_extra is not None
    assert one.model_extra["tier"] == "speculative"
    assert one.model_extra["context_length"] == listed["local"].model_extra["context_length"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


@pytest.mark.parametrize("model", ["local", "cloud", "tandem"])
def test_the_ends_of_the_range(client: OpenAI, model: str) -> None:
    """No token, more than the context holds, and no prompt at all: an answer, not an error."""
    none = client.completions.create(model=model, prompt="def f", max_tokens=0)
    assert (none.choices[0].text, none.choices[0].finish_reason) == ("", "length")
    assert none.usage is not None
    assert none.usage.prompt_tokens > 0
    much = client.completions.create(
        model=model, prompt="def f", max_tokens=32000, temperature=0, stop=["def"]
    )
    assert much.choices[0].finish_reason in ("stop", "length")
    empty = client.completions.create(model=model, prompt="", max_tokens=4)
    assert empty.usage is not None
    assert empty.usage.completion_tokens > 0
