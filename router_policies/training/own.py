"""Labels from a gateway's own traffic: what its log of labels says, as rows to learn from.

A request was answered by one side only. How good that answer was comes from its signals; what the
other side would have said nobody knows, so there the router that was in force is believed: of its
own doubts nothing new is learnt from that half. Weights are router.md's: what somebody said, or a
form that did not come out, counts 1, a draft that a cascade or a verifier judged .5, a turn that
was asked again .3, silence nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router_policies.learned.features import NAMES
from router_policies.learned.wording import BITS
from router_policies.training.data import BadData, Floats, Labelled, Row

SOURCE = "own traffic"
SAID, FORM, JUDGED, AGAIN = 1.0, 1.0, 0.5, 0.3
ENOUGH_ACCEPTED = 0.5
"""A draft of which a verifier took so much would have been a good answer by itself."""
FAULTS: Mapping[str, float] = {
    "form": FORM, "tool_call": FORM, "empty": FORM, "loop": FORM, "refusal": AGAIN,
}  # fmt: skip

Verdict = tuple[str, float, float]
"""(kind of signal, quality 0 to 1, weight)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What can be learnt from: `labelled` without prompts, their numbers, their pairs' hashes.

    `seen` is how many requests the logs have, `kinds` how many signals of each kind were used.
    """

    labelled: Labelled
    numbers: NDArray[np.float32]
    hashes: tuple[NDArray[np.uint32], ...]
    seen: int
    kinds: Mapping[str, int]


def read_own(paths: Iterable[Path]) -> Own:
    """The labelled requests of some logs. Of a log at `x` the older half is at `x.1`: give both.

    A line that a crash cut short is skipped. Raises BadData if there is nothing to learn from,
    OSError.
    """
    requests: OrderedDict[tuple[str, str], Mapping[str, Any]] = OrderedDict()
    scores: dict[tuple[str, str], float] = {}
    again: dict[tuple[str, str], str] = {}
    for line in _lines(paths):
        try:
            at = str(line["key_id"]), str(line["id"])
            if line["kind"] == "request" and len(line["numbers"]) == len(NAMES):
                requests[at] = line
            elif line["kind"] == "feedback":
                scores[at] = min(1.0, max(0.0, float(line["score"])))
            elif line["kind"] == "again":
                again[at] = str(line["how"])
        except (KeyError, TypeError, ValueError):
            continue
    rows, weak, strong, weights, kept = [], [], [], [], []
    kinds: Counter[str] = Counter()
    for at, line in requests.items():
        sides = verdicts(line, scores.get(at), again.get(at))
        if not any(sides):
            continue
        kinds.update(kind for side in sides for kind, _, _ in side)
        weak.append(_quality(sides[0], float(line["weak_ok"])))
        strong.append(_quality(sides[1], float(line["strong_ok"])))
        weights.append(max(weight for side in sides for _, _, weight in side))
        rows.append(_row(line, at))
        kept.append(line)
    if not rows:
        raise BadData(f"none of {len(requests)} logged requests has a signal to learn from")
    weak_, strong_ = np.array(weak), np.array(strong)
    return Own(
        labelled=Labelled(
            rows=tuple(rows),
            weak=weak_,
            strong=strong_,
            soft_weak=weak_,
            soft_strong=strong_,
            fails=1.0 - weak_,
            weight=np.array(weights),
        ),
        numbers=np.array([line["numbers"] for line in kept], np.float32),
        hashes=tuple(_hashes(line) for line in kept),
        seen=len(requests),
        kinds=dict(sorted(kinds.items())),
    )


def verdicts(
    line: Mapping[str, Any], score: float | None, again: str | None
) -> tuple[list[Verdict], list[Verdict]]:
    """What a request's signals say of the weak and of the strong side.

    What a person says of an answer stands alone: no other signal of that side is asked.
    """
    weak: list[Verdict] = []
    strong: list[Verdict] = []
    if line.get("outcome") != "ok":
        return weak, strong
    answered = weak if line.get("tier") == "local" else strong
    if line.get("escalated") is not None:
        weak.append(("cascade", float(not line["escalated"]), JUDGED))
    if line.get("tier") == "speculative" and line.get("accepted") is not None:
        weak.append(("acceptance", float(line["accepted"] >= ENOUGH_ACCEPTED), JUDGED))
    if score is not None:
        answered[:] = [("feedback", score, SAID)]
        return weak, strong
    if line.get("fault") in FAULTS:
        answered.append((str(line["fault"]), 0.0, FAULTS[str(line["fault"])]))
    if again is not None:
        answered.append((again, 0.0, AGAIN))
    return weak, strong


def _quality(side: list[Verdict], believed: float) -> float:
    if not side:
        return believed
    total = sum(weight for _, _, weight in side)
    return sum(quality * weight for _, quality, weight in side) / total


def _row(line: Mapping[str, Any], at: tuple[str, str]) -> Row:
    alike = json.dumps([line["numbers"], line.get("pairs")]).encode()
    return Row(
        id="/".join(at),
        source=SOURCE,
        bench="",
        category=SOURCE,
        group=hashlib.sha256(alike).hexdigest()[:16],
        prompt="",
        scores={},
    )


def _hashes(line: Mapping[str, Any]) -> NDArray[np.uint32]:
    pairs: NDArray[np.uint32] = np.array(line.get("pairs", ()), np.uint32)
    return pairs << np.uint32(32 - BITS)


def _lines(paths: Iterable[Path]) -> Iterator[Mapping[str, Any]]:
    for path in paths:
        with path.open("rb") as file:
            for raw in file:
                try:
                    line = json.loads(raw)
                except ValueError:
                    continue
                if isinstance(line, dict):
                    yield line


def joined(one: Labelled, other: Labelled) -> Labelled:
    """The rows of both."""

    def both(a: Floats, b: Floats) -> Floats:
        return np.concatenate([a, b])

    return Labelled(
        rows=one.rows + other.rows,
        weak=both(one.weak, other.weak),
        strong=both(one.strong, other.strong),
        soft_weak=both(one.soft_weak, other.soft_weak),
        soft_strong=both(one.soft_strong, other.soft_strong),
        fails=both(one.fails, other.fails),
        weight=both(one.weight, other.weight),
    )
