"""Several choices of one request: a job for each, read as one stream.

The prompt is computed once: the scheduler lets the later jobs wait for the first one's prefill and
share its cells. Where it cannot (strict engines), each choice would pay for the prompt, so `n` is
not offered there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from dataclasses import replace

from backends.engine.client import Engine
from backends.engine.protocol import Job, Output
from backends.engine.sequence import Sequence
from gateway.core.chat import ChatRequest
from gateway.core.errors import InvalidRequest


def wanted(request: ChatRequest, *, at_most: int | None = None) -> tuple[int, int]:
    """How many choices a request asks for, and of how many these are to be the best.

    `at_most`: what the queue holds; more would be refused as an overload at every try. Raises
    InvalidRequest.
    """
    count: int = request.body.get("n") or request.body.get("n_cmpl") or 1
    of: int = request.body.get("best_of") or count
    if of < count:
        raise InvalidRequest(f"'best_of' must be at least 'n', {count}.", param="best_of")
    if of > count and request.stream:
        raise InvalidRequest("The best of several answers cannot be streamed.", param="best_of")
    if at_most is not None and of > at_most:
        param = "n" if of == count else "best_of"
        raise InvalidRequest(f"{param!r} is at most {at_most} for this model.", param=param)
    return count, of


def jobs(job: Job, count: int, *, ranked: bool = False) -> list[Job]:
    """One for each choice. Seeds differ, or all choices of a seeded request would be the same.

    `ranked`: their log-probabilities will be needed.
    """
    seed = job.sampler.seed
    job = replace(job, logprobs=job.logprobs or 0) if ranked else job
    return [
        replace(job, sampler=replace(job.sampler, seed=None if seed is None else seed + i))
        for i in range(count)
    ]


def best(held: list[list[Output]]) -> list[list[Output]]:
    """Ended sequences, best first: by the mean log-probability of the answer's tokens."""

    def mean(outputs: list[Output]) -> float:
        scores = [
            logprob
            for output in outputs
            if not output.prompt
            for _, logprob, _ in output.logprobs
            if logprob is not None
        ]
        return sum(scores) / len(scores) if scores else -math.inf

    return sorted(held, key=mean, reverse=True)


async def outputs(engine: Engine, asked: list[Job]) -> AsyncGenerator[tuple[int, Output], None]:
    """What each job says, as it comes: (choice, output). The first error ends all. Close it."""
    sequences: list[Sequence] = []
    readers: list[asyncio.Task[None]] = []
    # Bounded, so that a slow client still makes the engine pause: unread outputs stay in the
    # sequences, which tell the worker.
    news: asyncio.Queue[tuple[int, Output] | BaseException] = asyncio.Queue(len(asked))

    async def read(choice: int, sequence: Sequence) -> None:
        try:
            async for output in sequence:
                await news.put((choice, output))
        except Exception as error:  # handed over whole: it is raised where the answer is read
            await news.put(error)

    try:
        for job in asked:
            sequence = await engine.submit(job)
            sequences.append(sequence)  # one by one: what has been submitted is closed below
        readers += [asyncio.create_task(read(i, s)) for i, s in enumerate(sequences)]
        left = len(asked)
        while left:
            item = await news.get()
            if isinstance(item, BaseException):
                raise item
            left -= item[1].finish is not None
            yield item
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        for sequence in sequences:
            await sequence.aclose()
