"""What the learned policy is worth. `python tests/bench/router.py DATA_FOLDER [--quick]`

Trains on labelled prompts (JSON lines, see router_policies/training/data.py) and tests on others:
by fold, never with a near-duplicate on both sides, and with a whole field of knowledge left out at
a time. Beside it chance, prompt length, logistic regression on hashed n-grams, and the oracle, all
on the same prompts. Then how well a 30 % share is held, and how long a decision takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from router_policies.learned.artifact import DEFAULT, load
from router_policies.learned.model import Blend
from router_policies.learned.wording import Wording
from router_policies.training.data import Floats, Labelled, folds, label, read
from router_policies.training.domains import domain
from router_policies.training.evaluate import by_field, cells, compare, replay, sets
from router_policies.training.fit import Predicted, Prepared, blend_of, held_out, prepare
from router_policies.training.train import FOLDS
from tests.bench.routing import robustness
from tests.bench.routing.baselines import chance, held_out_logistic, lengths, ngrams
from tests.bench.routing.latency import decision_us, path_us
from tests.bench.routing.rewording import REWORDINGS

PAIRS = {
    "routellm": ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"),
    "mmlu-pro": ("Meta-Llama-3_1-8B-Instruct", "gemini-1.5-pro-002"),
    "zeroeval": ("Meta-Llama-3.1-8B-Instruct", "gpt-4o-2024-08-06"),
    "ulab": ("mistral-7b-instruct-v0.3", "llama-3.1-nemotron-51b-instruct"),
}
PUBLISHED = "RouteLLM's best published: mmlu .603 (35.4 / 70.3), gsm8k .622 (33.6 / 63.3)"
TARGET = 0.3
MMLU, GSM8K = "mmlu (routellm)", "gsm8k (routellm)"
OURS, LENGTH = "learned", "length"
# (key, what must be met, what we aim for, whether lower is better)
BARS: tuple[tuple[str, float, float, bool], ...] = (
    ("apgr_mmlu", 0.63, 0.66, False),
    ("lodo_mean", 0.52, 0.535, False),
    ("lodo_min", 0.48, 0.48, False),
    ("share_min", 0.24, 0.27, False),
    ("share_max", 0.36, 0.33, True),
    ("decision_p50_us", 120, 120, True),
    ("decision_p99_us", 350, 350, True),
    ("path_p50_us", 200, 200, True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--quick", action="store_true", help="no field left out, fewer draws")
    arguments = parser.parse_args()
    rounds = 50 if arguments.quick else 500
    labelled = label(read(sorted(arguments.data.glob("*.jsonl.gz"))), PAIRS)
    print(f"{len(labelled.rows)} prompts of {len(PAIRS)} model pairs; seconds on one core follow")
    artifact = load(DEFAULT)
    prompts = [row.prompt for row in labelled.rows]
    prepared = prepare(prompts, artifact.router.wording, copies=True)
    parts = folds([row.group for row in labelled.rows], FOLDS)
    began = time.process_time()
    said = held_out(labelled, prepared, parts)
    scores = said.scores(blend_of(said))
    print(f"{FOLDS} folds trained in {time.process_time() - began:.0f} s")
    figures = quality(labelled, scores, parts, rounds)
    if not arguments.quick:
        fields = np.array([domain(row) for row in labelled.rows])
        alone = held_out(labelled, prepared, fields)
        figures |= left_out(labelled, said, alone, fields)
    figures |= reworded(labelled, prepared, parts, blend_of(said), artifact.router.wording)
    figures |= shares(labelled, scores)
    figures |= latency(labelled)
    verdicts(figures)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


def quality(labelled: Labelled, scores: Floats, parts: Floats, rounds: int) -> dict[str, float]:
    """In-domain tables, and the keys that come of them."""
    prompts = [row.prompt for row in labelled.rows]
    routers = {
        "random": chance(len(prompts)),
        LENGTH: lengths(prompts),
        "n-gram LR": held_out_logistic(ngrams(prompts), labelled.gain > 0, parts),
        OURS: scores,
    }
    figures: dict[str, float] = {}
    print(f"\nAPGR [95 %], CPT50 / CPT80 in % of calls. {PUBLISHED}")
    for name, at in sets(labelled).items():
        found = compare(labelled, routers, at, rounds)
        weak, strong = labelled.weak[at].mean(), labelled.strong[at].mean()
        print(f"\n{name}: {at.sum()} prompts, weak {weak:.3f}, strong {strong:.3f}")
        for router, q in found.items():
            print(
                f"  {router:<10} {q.apgr:.3f} [{q.low:.3f}, {q.high:.3f}]"
                f"  {100 * q.cpt50:5.1f} / {100 * q.cpt80:5.1f}"
            )
        short = {MMLU: "mmlu", GSM8K: "gsm8k"}.get(name)
        if short:
            ours, length = found[OURS], found[LENGTH]
            figures |= {
                f"apgr_{short}": ours.apgr,
                f"apgr_{short}_low": ours.low,
                f"apgr_{short}_high": ours.high,
                f"apgr_length_{short}": length.apgr,
                f"apgr_ngram_{short}": found["n-gram LR"].apgr,
                f"cpt50_{short}": ours.cpt50,
                f"cpt80_{short}": ours.cpt80,
            }
    return figures


def left_out(
    labelled: Labelled, said: Predicted, alone: Predicted, fields: Floats
) -> dict[str, float]:
    """The table of fields that training never saw."""
    # The means of the blend are those of the folds: a field that is new cannot have set them.
    ours = by_field(cells(labelled, alone.scores(blend_of(said))))
    length = by_field(cells(labelled, lengths([row.prompt for row in labelled.rows])))
    print("\nField left out of training: APGR, beside prompt length")
    for field, value in sorted(ours.items(), key=lambda pair: pair[1]):
        print(
            f"  {field:<18} {value:.3f}   {length[field]:.3f}   {(fields == field).sum()} prompts"
        )
    values = list(ours.values())
    print(f"  {'mean':<18} {np.mean(values):.3f}   {np.mean(list(length.values())):.3f}")
    return {
        "lodo_mean": float(np.mean(values)),
        "lodo_min": min(values),
        "lodo_mean_length": float(np.mean(list(length.values()))),
    }


def reworded(
    labelled: Labelled, prepared: Prepared, parts: Floats, blend: Blend, wording: Wording
) -> dict[str, float]:
    """How many decisions at a 30 % share change with the words alone."""
    found = robustness.table(labelled, prepared, parts, blend, wording, TARGET)
    print(f"\nReworded: decisions at a {TARGET:.0%} share that change (chance: 42 %)")
    for how, by_router in found.items():
        print(f"  {how:<14}" + "".join(f"  {name} {v:6.1%}" for name, v in by_router.items()))
    kept = [found[how] for how in REWORDINGS]
    return {
        f"flips_{name}": float(np.mean([each[key] for each in kept]))
        for name, key in ((OURS, OURS), (LENGTH, LENGTH), ("ngram", "n-gram LR"))
    }


def shares(labelled: Labelled, scores: Floats) -> dict[str, float]:
    """How a 30 % share is held over 2,000 requests of each set."""
    start = np.quantile(scores, np.linspace(0, 1, 501)).tolist()
    print(f"\nShare held, target {TARGET:.0%}: after request 500; its windows of 500 from there on")
    found = [
        replay(labelled, scores, at, name=name, target=TARGET, start=start, drifted=drifted)
        for name, at in {**sets(labelled), "all": np.ones(len(scores), bool)}.items()
        for drifted in (False, True)
    ]
    for each in found:
        windows = f"{each.low:.3f} to {each.high:.3f}"
        print(f"  {each.set:<36} {each.order:<9} {each.share:.3f}   {windows}")
    return {
        "share_min": min(each.share for each in found),
        "share_max": max(each.share for each in found),
        "share_window_min": min(each.low for each in found),
        "share_window_max": max(each.high for each in found),
    }


def latency(labelled: Labelled) -> dict[str, float]:
    """Microseconds of a decision, on prompts of all sets."""
    at = np.random.default_rng(1).permutation(len(labelled.rows))[:2000]
    prompts = [labelled.rows[i].prompt for i in at]
    decision, path = decision_us(load(DEFAULT), prompts), path_us(prompts)
    figures = {
        "decision_p50_us": float(np.percentile(decision, 50)),
        "decision_p99_us": float(np.percentile(decision, 99)),
        "path_p50_us": float(np.percentile(path, 50)),
        "path_p99_us": float(np.percentile(path, 99)),
    }
    print("\nCPU microseconds, each prompt's best of three: " + _line(figures))
    return figures


def verdicts(figures: Mapping[str, float]) -> None:
    print()
    for key, must, aim, lower in BARS:
        if key not in figures:
            continue
        value = figures[key]
        word = "met" if (value <= must if lower else value >= must) else "MISSED"
        reached = value <= aim if lower else value >= aim
        print(f"  {key:<18} {value:8.3f}   must {must:g}: {word}; aim {aim:g}: {reached}")
    if "apgr_gsm8k" in figures:
        held = figures["apgr_gsm8k_high"] >= figures["apgr_length_gsm8k"]
        print(
            f"  apgr_gsm8k not below prompt length beyond its interval: {held}; aim .645: "
            f"{figures['apgr_gsm8k'] >= 0.645}"
        )


def _line(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name.removesuffix('_us')} {value:.0f}" for name, value in figures.items())


if __name__ == "__main__":
    main()
