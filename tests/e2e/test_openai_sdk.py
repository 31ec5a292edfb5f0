"""The official OpenAI SDK against a gateway that was started with one command."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.fakes.process import Serving

TIERS = {"local": "local", "cloud": "cloud", "tandem": "speculative", "auto": "local"}
QUESTION = [{"role": "user", "content": "What is Tandem?"}]


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
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": {}}}]),
        ("response_format", {"type": "json_object"}),
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
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**asked, echo=True, logprobs=1)
    assert caught.value.param == "echo"


def test_a_bias_outside_the_vocabulary_is_refused(client: OpenAI) -> None:
    """A token id that the model does not have is a 400 that names the parameter."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="local", messages=QUESTION, logit_bias={"99999999": 1})
    assert caught.value.param == "logit_bias"


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
