"""What a drafter must know of the target's sampling, to take the same noise.

The noise is a function of seed, position and token (backends/engine/gumbel.py), so a seed is all
that has to be shared. A request without one is given one by the companion: to the client it is as
random as before.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from backends.engine.protocol import Job, SamplerSettings
from backends.speculative.session import Opened
from gateway.core.chat import Sampling

HOTTEST = 2.0
"""Beyond what OpenAI's wire allows nobody's draft would hold."""


def seeded(job: Job) -> Job:
    """The job with a seed that can be told, if it samples. Equal seeds, equal noise."""
    settings = job.sampler
    if settings.temperature <= 0:
        return job
    seed = secrets.randbits(62) if settings.seed is None else settings.seed
    signed = (seed + 2**63) % 2**64 - 2**63
    return replace(job, sampler=replace(settings, seed=signed))


def coupling(job: Job) -> tuple[str, Sampling]:
    """`coupling` and `sampling` of an `opened`."""
    settings = job.sampler
    if settings.temperature <= 0 or settings.temperature > HOTTEST:
        return "native", Sampling()
    return "gumbel", Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        min_p=settings.min_p,
        seed=settings.seed,
    )


def guessing(opened: Opened) -> SamplerSettings:
    """The sampler of a drafter: greedy, unless it shares the target's noise."""
    sampling = opened.sampling
    if opened.coupling != "gumbel" or sampling.seed is None:
        return SamplerSettings()
    return SamplerSettings(
        temperature=sampling.temperature or 0.0,
        top_p=1.0 if sampling.top_p is None else sampling.top_p,
        top_k=sampling.top_k or 0,
        min_p=sampling.min_p or 0.0,
        seed=sampling.seed,
    )
