"""The generator of the pair's training text; nothing here needs torch."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from backends.engine.demo_pair import chat, transcripts
from backends.engine.demo_pair.library import arithmetic, lists, texts
from backends.engine.demo_pair.transcripts import coding, extraction

WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
}


def test_seed_is_the_corpus() -> None:
    """The same seed writes the same conversations, another seed others."""

    def written(seed: int) -> list[str]:
        rng = Random(seed)
        found = (transcripts.conversation(rng) for _ in range(50))
        return [chat.render(talk.messages, talk.tools) for talk in found]

    assert written(1) == written(1)
    assert written(1) != written(2)


def test_every_generator_answers() -> None:
    """Each generator gives a question and an answer, without holes left in a template."""
    rng = Random(3)
    for _, generate in transcripts.MIX:
        for _ in range(50):
            ask, answer = generate(rng)
            assert ask.strip()
            assert answer.strip()
            assert "```" in answer or "{x}" not in ask + answer


def test_extraction_answers_with_json() -> None:
    """The expected answer of an extraction parses, and its values stand in the question."""
    rng = Random(4)
    for _ in range(200):
        ask, answer = extraction.extraction(rng)
        assert all(str(value) in ask for value in json.loads(answer).values())


def test_snippets_run() -> None:
    """A varied function still compiles and keeps the name that was asked for."""
    rng = Random(5)
    functions = [found for found in coding.snippets() if found.what == "function"]
    for snippet in functions:
        code = coding.source(snippet, rng, name="wanted", typed=False, documented=False)
        namespace: dict[str, Any] = {"__name__": "snippet"}
        exec(code, namespace)
        assert "wanted" in namespace


def test_library_is_right() -> None:
    """A model can only be as right as what it copies."""
    assert arithmetic.primes(12) == [2, 3, 5, 7, 11]
    assert [arithmetic.fibonacci(n) for n in range(6)] == [0, 1, 1, 2, 3, 5]
    assert arithmetic.lcm(4, 6) == 12
    assert arithmetic.is_leap_year(2024)
    assert not arithmetic.is_leap_year(1900)
    assert texts.caesar("Abz", 1) == "Bca"
    assert texts.is_palindrome("never odd or even")
    assert lists.binary_search([1, 3, 5, 7], 5) == 2
    assert lists.quicksort([3, 1, 2]) == lists.bubble_sort([3, 1, 2]) == [1, 2, 3]
    assert lists.median([1, 2, 3, 4]) == 2.5


def test_only_the_assistant_is_imitated() -> None:
    """The pieces of a rendered conversation add up to it, and mark the answers with their end."""
    text = chat.render(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    )
    pieces = chat.answers(text)
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, answer in pieces if answer] == ["Hello!<|im_end|>"]


def test_template_offers_tools_and_shows_calls() -> None:
    """Tools go into the system turn; a call and its result are rendered as they are generated."""
    call = {"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    text = chat.render(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Weather in Oslo?"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "sunny"},
        ],
        [WEATHER],
        generate=True,
    )
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n<tools>\n{")
    assert (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>' in text
    )
    assert "<tool_response>\nsunny\n</tool_response>" in text
    assert text.endswith("<|im_start|>assistant\n")
