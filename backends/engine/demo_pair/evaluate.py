"""What the exported pair can do: exact answers, next lines, agreement of draft and target."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from backends.engine.demo_pair import prompts
from backends.engine.demo_pair.corpus import Corpus
from backends.engine.demo_pair.prompts import Case
from backends.engine.demo_pair.runner import Runner


@dataclass(frozen=True)
class Agreement:
    """Over the target's own greedy answers: would the draft have proposed the same token?"""

    tokens: int
    agreed: float  # share of tokens
    per_round: float  # accepted of 4 proposed, mean over rounds


def exact_answers(model: Runner, *, count: int) -> dict[str, float]:
    """Share of prompts answered with exactly the expected text."""
    found = {
        name: _share(model, prompts.chat_cases(pairs, count))
        for name, pairs in prompts.EXACT.items()
    }
    found["tool calls"] = _share(model, prompts.tool_cases(count))
    return found


def _share(model: Runner, cases: list[Case]) -> float:
    return sum(model.answer(prompt) == expected.strip() for prompt, expected in cases) / len(cases)


def valid_json(model: Runner, *, count: int) -> float:
    """Share of extraction answers that parse, without any grammar to help."""
    cases = prompts.chat_cases(prompts.EXACT["JSON extraction"], count)
    return sum(_parses(model.answer(prompt)) for prompt, _ in cases) / len(cases)


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def next_lines(model: Runner, corpus: Corpus, *, count: int) -> float:
    """Share of held-out lines continued with exactly the line that follows."""
    hits = 0
    for prompt, expected in prompts.line_cases(corpus, count):
        text = model.decode(model.greedy(prompt, limit=64, one_line=True))
        lines = [line for line in text.splitlines() if line.strip()]
        hits += bool(lines) and lines[0].rstrip() == expected.rstrip()
    return hits / count


def line_ends(model: Runner, corpus: Corpus, *, count: int) -> float:
    """Share of fill-in-the-middle holes, each the rest of a line, filled exactly."""
    return _share(model, prompts.fim_cases(corpus, count))


def agreement(target: Runner, draft: Runner, cases: list[Case], *, proposed: int = 4) -> Agreement:
    tokens = agreed = rounds = accepted = 0
    for prompt, _ in cases:
        start = target.encode(prompt)
        answer = target.greedy(prompt)
        if not answer:
            continue
        guesses = draft.choices([*start, *answer])[len(start) - 1 : -1]
        same = [a == b for a, b in zip(guesses, answer, strict=True)]
        tokens += len(same)
        agreed += sum(same)
        position = 0
        while position < len(same):
            run = 0
            while run < proposed and position + run < len(same) and same[position + run]:
                run += 1
            rounds += 1
            accepted += run
            position += run + 1  # the target adds one token of its own
    return Agreement(tokens, agreed / tokens, accepted / rounds)


def agreement_by_class(
    target: Runner, draft: Runner, corpus: Corpus, *, count: int
) -> dict[str, Agreement]:
    classes: dict[str, list[Case]] = {
        name: prompts.chat_cases(pairs, count)
        for name, pairs in (prompts.EXACT | prompts.OPEN).items()
    }
    classes["tool calls"] = prompts.tool_cases(count)
    classes["code continuation"] = prompts.line_cases(corpus, count)
    classes["fill in the middle"] = prompts.fim_cases(corpus, count)
    return {name: agreement(target, draft, cases) for name, cases in classes.items()}


def everything(
    draft: Path, target: Path, corpus: Corpus, *, context: int, count: int
) -> dict[str, object]:
    big, small = Runner(target, context=context), Runner(draft, context=context)
    return {
        "exact_answers": {
            role: _rounded(exact_answers(model, count=count))
            for role, model in (("draft", small), ("target", big))
        },
        "valid_json": {
            "draft": valid_json(small, count=count),
            "target": valid_json(big, count=count),
        },
        "next_line": {
            "draft": next_lines(small, corpus, count=count * 3),
            "target": next_lines(big, corpus, count=count * 3),
        },
        "rest_of_line_fim": {
            "draft": line_ends(small, corpus, count=count * 3),
            "target": line_ends(big, corpus, count=count * 3),
        },
        "acceptance": {
            name: _rounded(asdict(found))
            for name, found in agreement_by_class(big, small, corpus, count=count // 2).items()
        },
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
