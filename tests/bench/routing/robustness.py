"""Routers beside each other on reworded prompts, by heads that were trained without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from router_policies.learned.model import Blend
from router_policies.learned.wording import Wording
from router_policies.training.data import Floats, Labelled
from router_policies.training.fit import Prepared, fit, predict, prepare
from tests.bench.routing.baselines import lengths, logistic, ngrams
from tests.bench.routing.rewording import PLEAS, REWORDINGS, flips


def table(
    labelled: Labelled,
    prepared: Prepared,
    parts: Floats,
    blend: Blend,
    wording: Wording,
    share: float,
) -> dict[str, dict[str, float]]:
    """By rewording and router, the share of decisions that change; of one fold's prompts."""
    inside, outside = np.flatnonzero(parts == 0), np.flatnonzero(parts != 0)
    prompts = [labelled.rows[at].prompt for at in inside]
    heads = fit(labelled, prepared, outside)
    taught = ngrams([labelled.rows[at].prompt for at in outside])
    weights = logistic(taught, (labelled.gain[outside] > 0).astype(float))

    def learned(texts: Sequence[str]) -> Floats:
        said = prepare(texts, wording)
        return predict(heads, said, np.arange(len(texts))).scores(blend)

    routers: dict[str, Callable[[Sequence[str]], Floats]] = {
        "learned": learned,
        "length": lengths,
        "n-gram LR": lambda texts: np.asarray(ngrams(texts) @ weights),
    }
    before = {name: router(prompts) for name, router in routers.items()}
    return {
        how: {
            name: flips(before[name], router([change(each) for each in prompts]), share)
            for name, router in routers.items()
        }
        for how, change in {**REWORDINGS, **PLEAS}.items()
    }
