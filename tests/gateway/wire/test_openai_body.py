from __future__ import annotations

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
