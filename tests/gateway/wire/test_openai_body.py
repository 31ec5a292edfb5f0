from __future__ import annotations

from dataclasses import fields

from gateway.core.chat import ChatRequest, Endpoint, Message, Sampling, Snippet
from gateway.wire.openai_body import openai_body


def test_chat() -> None:
    """Turns go on as they came; one that has no wire form gets OpenAI's."""
    raw = {"role": "user", "content": "hi", "name": "ada"}
    request = ChatRequest(
        endpoint=Endpoint.CHAT,
        dialect="other",
        model="m",
        messages=(
            Message(role="system", text="be brief"),
            Message(role="user", text="hi", raw=raw),
        ),
        sampling=Sampling(max_tokens=5, temperature=0.0, stop=("\n",)),
    )
    assert openai_body(request) == {
        "messages": [{"role": "system", "content": "be brief"}, raw],
        "max_tokens": 5,
        "temperature": 0.0,
        "stop": ["\n"],
    }


def test_infill() -> None:
    """A fill-in-the-middle request keeps prefix and suffix, and its snippets lead the prefix."""
    request = ChatRequest(
        endpoint=Endpoint.INFILL,
        dialect="llama_server",
        model="m",
        prompt="def f(",
        suffix="):\n    pass",
        snippets=(Snippet(text="x = 1", filename="a.py"), Snippet(text="y = 2")),
    )
    assert openai_body(request) == {
        "prompt": "a.py\nx = 1\ny = 2\ndef f(",
        "suffix": "):\n    pass",
    }


def test_token_prompt_and_the_rest() -> None:
    """Token prompts stay tokens, and every sampling field that was said is sent."""
    said = Sampling(
        top_p=0.9, top_k=5, min_p=0.1, seed=3, frequency_penalty=0.5, presence_penalty=-1.0
    )
    request = ChatRequest(
        endpoint=Endpoint.COMPLETION, dialect="other", model="m", prompt=(1, 2), sampling=said
    )
    assert openai_body(request) == {
        "prompt": [1, 2],
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "seed": 3,
        "frequency_penalty": 0.5,
        "presence_penalty": -1.0,
    }


def test_every_sampling_field_goes_on() -> None:
    """Whatever a client of another dialect said about sampling reaches a server of this one."""
    said = Sampling(
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        seed=3,
        stop=("x",),
        frequency_penalty=0.1,
        presence_penalty=0.2,
        typical_p=0.8,
        repeat_penalty=1.1,
        repeat_last_n=64,
        dry_multiplier=0.5,
        dry_base=1.7,
        dry_allowed_length=3,
        dry_penalty_last_n=9,
        logit_bias=((7, -100.0),),
        ignore_eos=True,
        min_tokens=2,
    )
    request = ChatRequest(
        endpoint=Endpoint.INFILL, dialect="llama_server", model="m", prompt="a", sampling=said
    )
    body = openai_body(request)
    # Log-probabilities have another form in each dialect, and a Feature of their own; the infill
    # sampler is llama.cpp's own choice for its own endpoint.
    for each in fields(Sampling):
        if each.name not in ("logprobs", "infill"):
            assert each.name in body, f"{each.name} would be ignored in silence"
    assert body["logit_bias"] == {"7": -100.0}
