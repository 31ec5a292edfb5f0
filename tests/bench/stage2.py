"""What a draft's own evidence is worth beside its prompt. `python tests/bench/stage2.py`

On live drafts of the bundled pair: will the draft model's greedy answer be the target's? The
questions have short answers and were in nobody's training: the next line of held-out library code,
one field of a JSON document, a tool call. Stage 1 is the learned router's own recipe trained on
these very prompts, stage 2 a logistic curve over the signals of `backends/evidence.py`, alone and
with stage 1's score beside it; each is judged on folds that it was not trained on. APGR: random is
.500; the oracle shows what is to be had.

`--fit FILE` also writes the curve, fitted on all prompts, as a cascade's `calibration` takes it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from backends.base import Resources  # noqa: E402 (the path above)
from backends.cascade import with_logprobs  # noqa: E402
from backends.engine.backend import LlamaCppBackend  # noqa: E402
from backends.engine.demo_pair.corpus import collect  # noqa: E402
from backends.engine.demo_pair.transcripts import extraction, tools  # noqa: E402
from backends.engine.options import LlamaCppOptions  # noqa: E402
from backends.evidence import NAMES, Evidence  # noqa: E402
from gateway.core.chat import ChatRequest, Endpoint, Feature, Message, Sampling  # noqa: E402
from gateway.core.exchange import Call  # noqa: E402
from router_policies.learned.artifact import DEFAULT, load  # noqa: E402
from router_policies.training.data import Floats, Labelled, Row, folds  # noqa: E402
from router_policies.training.fit import blend_of, held_out, prepare  # noqa: E402
from router_policies.training.metrics import calibration_error, measure  # noqa: E402

SEED = 77_000_009
AT_ONCE = 8
FOLDS = 5
CONTEXT = 2048
RIDGE = 1.0
BAR = 0.10
ALONE = tuple(name for name in NAMES if name not in ("agrees", "differs"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A question with a short answer, and its text as a router sees it."""

    task: str
    prompt: str
    request: ChatRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case: whether the draft failed, and what its tokens told."""

    case: Case
    failed: bool
    signals: tuple[float, ...]


def chat(text: str, **changes: Any) -> ChatRequest:
    said = Message(role="user", text=text, raw={"role": "user", "content": text})
    plain = ChatRequest(
        endpoint=Endpoint.CHAT,
        dialect="openai_chat",
        model="local",
        messages=(said,),
        sampling=Sampling(max_tokens=64, temperature=0.0),
        features=frozenset({Feature.CHAT}),
    )
    return replace(plain, **changes)


def lines(rng: Random, count: int) -> Iterator[Case]:
    """The next line of code, from files that the pair was not trained on."""
    files = collect().held_out
    while count:
        text = rng.choice(files).text
        end = text.find("\n", rng.randrange(len(text)))
        start = text.rfind("\n", 0, max(0, end - 600)) + 1
        if end < 0 or end - start < 100 or not text[end + 1 :].partition("\n")[0].strip():
            continue
        count -= 1
        request = ChatRequest(
            endpoint=Endpoint.COMPLETION,
            dialect="openai_completions",
            model="local",
            prompt=text[start : end + 1],
            sampling=Sampling(max_tokens=40, temperature=0.0, stop=("\n",)),
            features=frozenset({Feature.COMPLETION}),
        )
        yield Case(task="lines", prompt=text[start : end + 1], request=request)


def fields(rng: Random, count: int) -> Iterator[Case]:
    """One field's value, the document up to it given."""
    while count:
        question, document = extraction.extraction(rng)
        try:
            found = json.loads(document)
        except ValueError:
            continue
        if not isinstance(found, dict) or not found:
            continue
        count -= 1
        name = rng.choice(list(found))
        before = document[: document.index(json.dumps(name)) + len(json.dumps(name))] + ":"
        sampling = Sampling(max_tokens=24, temperature=0.0, stop=(",", "}", "\n"))
        request = chat(question, continues=before, sampling=sampling)
        yield Case(task="fields", prompt=f"{question}\n{before}", request=request)


def calls(rng: Random, count: int) -> Iterator[Case]:
    """A tool call: its name and its arguments."""
    while count:
        talk = tools.conversation(rng, aside=("", ""))
        if "tool_calls" not in talk.messages[1]:
            continue
        count -= 1
        question = str(talk.messages[0]["content"])
        request = chat(
            question,
            body={"tools": talk.tools},
            features=frozenset({Feature.CHAT, Feature.TOOLS}),
        )
        yield Case(task="calls", prompt=question, request=request)


TASKS: tuple[Callable[[Random, int], Iterator[Case]], ...] = (lines, fields, calls)


async def ask(backend: LlamaCppBackend, request: ChatRequest) -> Evidence:
    found = Evidence(request)
    async with aclosing(backend.stream(request, Call(id="bench"))) as events:
        async for event in events:
            found.note(event)
    return found


async def outcomes(cases: Sequence[Case]) -> list[Outcome]:
    """Ask both models, and the draft once more with chance for a second opinion."""
    pair = []
    for name in ("draft", "target"):
        options = LlamaCppOptions(
            kind="llama_cpp",
            model=f"bundled:{name}",
            context=CONTEXT,
            slots=AT_ONCE,
            threads=1,
        )
        backend = LlamaCppBackend(name, options, Resources())
        await backend.start()
        pair.append(backend)
    draft, target = pair
    free = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> Outcome:
        async with free:
            said = await ask(draft, with_logprobs(case.request))
            again = replace(case.request.sampling, temperature=0.7, seed=1)
            said.second_opinion((await ask(draft, replace(case.request, sampling=again))).answer)
            right = (await ask(target, case.request)).answer
        signals = said.signals()
        return Outcome(
            case=case,
            failed=said.answer != right,
            signals=tuple(signals[name] for name in NAMES),
        )

    try:
        return list(await asyncio.gather(*map(one, cases)))
    finally:
        for backend in pair:
            await backend.aclose()


def logistic(numbers: Floats, happened: Floats) -> tuple[Floats, float]:
    """Weights and bias by Newton's method, with a small ridge on standardised numbers."""
    mean, spread = numbers.mean(axis=0), numbers.std(axis=0) + 1e-9
    rows = np.column_stack([(numbers - mean) / spread, np.ones(len(numbers))])
    ridge = np.diag([RIDGE] * numbers.shape[1] + [1e-6])
    found = np.zeros(rows.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-rows @ found))
        slope = rows.T @ (chance - happened) + ridge @ found
        bend = (rows * (chance * (1 - chance))[:, None]).T @ rows + ridge
        found -= np.linalg.solve(bend, slope)
    weights = found[:-1] / spread
    return weights, float(found[-1] - weights @ mean)


def crossed(numbers: Floats, failed: Floats, parts: Any) -> Floats:
    """P(failed) of each case by a curve that was fitted without its fold."""
    said = np.zeros(len(failed))
    for part in np.unique(parts):
        inside = parts == part
        weights, bias = logistic(numbers[~inside], failed[~inside])
        said[inside] = 1 / (1 + np.exp(-(numbers[inside] @ weights + bias)))
    return said


def stage_1(found: Sequence[Outcome], failed: Floats, parts: Any) -> Floats:
    """The learned router's recipe, trained on the other folds of these prompts."""
    rows = tuple(
        Row(
            id=str(at),
            source=each.case.task,
            bench=each.case.task,
            category=each.case.task,
            group=each.case.prompt,
            prompt=each.case.prompt,
            scores={},
        )
        for at, each in enumerate(found)
    )
    right, ones = 1 - failed, np.ones(len(failed))
    labelled = Labelled(
        rows=rows,
        weak=right,
        strong=ones,
        soft_weak=right,
        soft_strong=ones,
        fails=failed,
        weight=ones,
    )
    prepared = prepare([row.prompt for row in rows], load(DEFAULT).router.wording)
    said = held_out(labelled, prepared, parts)
    scores: Floats = said.scores(blend_of(said)) + said.fails
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="questions of each task")
    parser.add_argument("--fit", type=Path, help="write a cascade's calibration here")
    arguments = parser.parse_args()
    rng = Random(SEED)
    cases = [case for task in TASKS for case in task(rng, arguments.count)]
    began = time.perf_counter()
    found = asyncio.run(outcomes(cases))
    print(f"{len(found)} questions asked of both in {time.perf_counter() - began:.0f} s")
    failed = np.array([each.failed for each in found], float)
    tasks = np.array([each.case.task for each in found])
    signals = np.array([each.signals for each in found])
    parts = folds([each.case.prompt for each in found], FOLDS)
    alone = signals[:, [NAMES.index(name) for name in ALONE]]
    first = stage_1(found, failed, parts)
    routers = {
        "length": np.array([float(len(each.case.prompt)) for each in found]),
        "stage 1": first,
        "evidence": crossed(alone, failed, parts),
        "+ second opinion": crossed(signals, failed, parts),
        "+ stage 1": crossed(np.column_stack([signals, first]), failed, parts),
        "oracle": failed,
    }
    figures: dict[str, float] = {}
    for task in ("all", *dict.fromkeys(tasks)):
        at = tasks == task if task != "all" else np.ones(len(tasks), bool)
        print(f"\n{task}: {at.sum()} questions, the draft fails at {failed[at].mean():.2f}")
        for name, scores in routers.items():
            q = measure(scores[at], failed[at])
            print(
                f"  {name:<17} {q.apgr:.3f} [{q.low:.3f}, {q.high:.3f}]"
                f"  CPT50 {100 * q.cpt50:.0f} CPT80 {100 * q.cpt80:.0f}"
            )
            figures[f"{task} {name}"] = q.apgr
    each = list(dict.fromkeys(tasks))
    one = float(np.mean([figures[f"{task} stage 1"] for task in each]))
    two = float(np.mean([figures[f"{task} + stage 1"] for task in each]))
    print(
        f"\ncalibration error of the evidence: {calibration_error(routers['evidence'], failed):.3f}"
    )
    print(f"mean of the tasks: stage 1 {one:.3f}, stage 2 {two:.3f}")
    print(
        f"stage 2 - stage 1 = {two - one:.3f}, bar {BAR}: {'met' if two - one >= BAR else 'MISSED'}"
    )
    if arguments.fit:
        weights, bias = logistic(signals, 1 - failed)
        curve = {name: round(float(w), 4) for name, w in zip(NAMES, weights, strict=True)}
        arguments.fit.write_text(json.dumps({"weights": curve, "bias": round(bias, 4)}) + "\n")
    print(json.dumps({"stage1_apgr_same_task": round(one, 4), "stage2_apgr": round(two, 4)}))


if __name__ == "__main__":
    main()
