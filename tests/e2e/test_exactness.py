"""DESIGN 2.5 on the running product: `tandem` says exactly what `cloud` says."""

from __future__ import annotations

import httpx
import pytest

from tests.fakes.process import Serving

TOKENS = 128
PROMPTS = [
    "What is Tandem?",
    "Write a Python function that adds two numbers.",
    "Name three colours.",
    "What is 12 + 30?",
    "Write a haiku about rivers.",
    "Give me a JSON object with a name and an age.",
    "Who are you?",
    "Write a Python class for a stack.",
    "List the days of the week.",
    "Hello!",
    "Explain what a cache is.",
    "Write a for loop in Python.",
    "What is the capital of France?",
    "Translate nothing; just say yes.",
    "Résumé, naïve, 東京, emoji 🙂",
    "Write a Python function that reverses a string.",
    "How does a gateway work?",
    "Count from one to ten.",
    "Write a docstring.",
    "Goodbye.",
]
assert len(PROMPTS) == 20


def answer(client: httpx.Client, model: str, body: dict[str, object], path: str) -> httpx.Response:
    fresh = {"cache-control": "no-cache, no-store"}
    found = client.post(path, json={**body, "model": model}, headers=fresh)
    assert found.status_code == 200, found.text
    assert found.headers["x-tandem-cache"] != "hit"
    return found


def test_greedy_answers_are_byte_identical(gateway: Serving) -> None:
    """20 prompts of up to 128 tokens at temperature 0: the same bytes, finish and token count."""
    accepted = 0
    with gateway.client() as client:
        for prompt in PROMPTS:
            body: dict[str, object] = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
            plain = answer(client, "cloud", body, "/v1/completions")
            drafted = answer(client, "tandem", body, "/v1/completions")
            one, other = plain.json(), drafted.json()
            assert one["choices"] == other["choices"], prompt
            assert one["usage"]["completion_tokens"] == other["usage"]["completion_tokens"]
            record = client.get(f"/v1/requests/{drafted.headers['x-request-id']}").json()
            assert record["tier"] == "speculative"
            accepted += record["speculation"]["accepted"]
    assert accepted > 0, "no draft was ever used, so nothing was shown"


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_chat_answers_are_identical(gateway: Serving, temperature: float) -> None:
    """Chat turns too, and samples with a seed: drafts never change what the target says."""
    with gateway.client() as client:
        for prompt in PROMPTS[:6]:
            body: dict[str, object] = {
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": 48,
                "temperature": temperature,
                "seed": 11,
            }
            plain = answer(client, "cloud", body, "/v1/chat/completions").json()
            drafted = answer(client, "tandem", body, "/v1/chat/completions").json()
            assert (
                plain["choices"][0]["message"]["content"]
                == (drafted["choices"][0]["message"]["content"])
            )
