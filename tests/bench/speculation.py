"""What speculation brings over a line, and what it costs where it brings nothing.

    python tests/bench/speculation.py [--quick] [--only paced,overhead,unpaced] [--virtual]

Two cores cannot show what a target on another machine and a drafter on this one do for each other.
So passes are paced: the scheduler, both ends of the session, the endpoint, the drafter and the
backend are the real ones, but behind the decoder's seam a pass of the target lasts t1 and one of
the drafter T_d by the clock, and the line between them is an in-process one with a round trip
(tests/fakes/paced.py). Three ways in one run: plain streaming (the engine's outputs on that line,
with no protocol at all), rounds in turn (draft, send, wait; as long as serves best), never idle.
Beside them the closed form of never idle, and the one that counts whole passes: drafts that come
during a pass wait for its end, which the closed form takes for a continuum. Both take the target's
pace from plain streaming in the same run. Which drafts hold is
tossed at alpha 0.85 and at the bundled pair's, or (`r`) replayed from what the bundled draft model
says along the bundled target's own answers, where hits come in runs and no formula is asked.

`overhead`: a session without drafts over a real WebSocket on loopback, each answer with one of its
own, beside the same target's plain stream over HTTP from the least server there can be, and beside
the engine's outputs with no protocol at all. Wall time, and CPU time of both ends together.
`unpaced`: the bundled pair through `tandem serve`, draft and target on these cores,
where the controller must find out that drafting does not pay. `--virtual` takes the paced table in
virtual time, where no neighbour can blur it. Keys: DESIGN 10.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvloop

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from backends.engine.client import Engine  # noqa: E402 (the path above)
from backends.engine.prompts import Prompts  # noqa: E402 (the path above)
from backends.engine.protocol import Job  # noqa: E402 (the path above)
from backends.engine.settings import EngineSettings  # noqa: E402 (the path above)
from gateway.cli.demo_ratio import Comparison, compare  # noqa: E402 (the path above)
from tests.fakes import virtual_time  # noqa: E402 (the path above)
from tests.fakes.paced import Weather, coin  # noqa: E402
from tests.fakes.paced_pair import Pair, never_idle, over_loopback, rounds, streaming  # noqa: E402
from tests.fakes.process import serve  # noqa: E402 (the path above)

BUNDLED = ROOT / "backends" / "engine" / "bundled"
TARGET = BUNDLED / "tandem-demo-target-q8_0.gguf"
DRAFT = BUNDLED / "tandem-demo-draft-q8_0.gguf"
RTTS_MS = (0.0, 10.0, 20.0, 40.0, 80.0, 150.0)
PACES_MS = ((10.0, 5.0), (20.0, 6.7), (33.0, 5.0))
"""Milliseconds a token of target and drafter: those of the design's table."""
SET_ALPHA = 0.85
TOKENS, QUICK_TOKENS, SHORT_TOKENS = 192, 96, 24
TOGETHER = 6
"""Answers under way at once: they mostly wait, and a token of each costs well under a ms."""
TEXTS = (
    "import os\nimport sys\n\n\nclass Stack:\n",
    'def parse(text):\n    """Return a list of words."""\n',
    "import unittest\n\n\nclass TestQueue(unittest.TestCase):\n",
    "def main(argv=None):\n    parser = argparse.ArgumentParser()\n",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row of the table: wall seconds of an answer each way, and the formula's."""

    name: str
    pair: Pair
    rtt_s: float
    plain_s: float
    rounds_s: float
    never_idle_s: float
    drafted: int
    accepted: int

    @property
    def gain(self) -> float:
        return self.plain_s / self.never_idle_s

    @property
    def measured(self) -> Pair:
        """With the target's pace as plain streaming had it: on a busy machine timers are late."""
        pace = (self.plain_s - self.rtt_s) / self.pair.tokens
        return replace(self.pair, target_s=pace)

    @property
    def error(self) -> float:
        """Against the closed form."""
        return self.never_idle_s / self.measured.predicted(self.rtt_s) - 1

    @property
    def error_in_passes(self) -> float:
        """Against the form in whole passes."""
        return self.never_idle_s / self.measured.in_passes(self.rtt_s) - 1

    def row(self) -> str:
        pair = self.measured
        formula, passes = pair.predicted(self.rtt_s), pair.in_passes(self.rtt_s)
        return (
            f"{self.name:>8}{1e3 * self.pair.target_s:>5.0f}{1e3 * self.pair.draft_s:>6.1f}"
            f"{1e3 * self.rtt_s:>6.0f}{self.plain_s:>9.3f}{self.rounds_s:>9.3f}"
            f"{self.never_idle_s:>11.3f}{formula:>9.3f}{100 * self.error:>+7.1f}%"
            f"{passes:>10.3f}{100 * self.error_in_passes:>+7.1f}%"
            f"{self.plain_s / self.rounds_s:>8.2f}{self.gain:>7.2f}"
            f"{self.accepted:>6}/{self.drafted}"
        )


HEAD = (
    f"{'alpha':>8}{'t1':>5}{'T_d':>6}{'RTT':>6}{'plain s':>9}{'rounds':>9}{'never-idle':>11}"
    f"{'formula':>9}{'off by':>8}{'in passes':>10}{'off by':>8}{'rounds':>8}{'gain':>7}"
    "  held/verified"
)


async def cell(name: str, pair: Pair, rtt_s: float) -> Cell:
    weather = Weather(rtt_s=rtt_s)
    plain_s = await streaming(pair, weather)
    rounds_s = await rounds(pair, weather)
    taken = await never_idle(pair, weather)
    return Cell(
        name=name,
        pair=pair,
        rtt_s=rtt_s,
        plain_s=plain_s,
        rounds_s=rounds_s,
        never_idle_s=taken.wall_s,
        drafted=taken.report.drafted,
        accepted=taken.report.accepted,
    )


def paced(pairs: Sequence[tuple[str, Pair]], rtts: Sequence[float], *, virtual: bool) -> list[Cell]:
    if virtual:
        return [virtual_time.run(cell(name, pair, rtt)) for name, pair in pairs for rtt in rtts]

    async def all_of_them() -> list[Cell]:
        places = asyncio.Semaphore(TOGETHER)

        async def one(name: str, pair: Pair, rtt: float) -> Cell:
            async with places:
                return await cell(name, pair, rtt)

        return await asyncio.gather(*(one(*pair, rtt) for pair in pairs for rtt in rtts))

    return asyncio.run(all_of_them())


async def trace(count: int) -> tuple[bool, ...]:
    """For each token of the bundled target's answers: would the draft model have said it?"""
    target = Engine(EngineSettings(model=str(TARGET), context=1024))
    draft = Engine(EngineSettings(model=str(DRAFT), context=1024))
    helper = Prompts(TARGET)
    held: list[bool] = []
    try:
        await asyncio.gather(target.start(), draft.start(), helper.start())
        for text in TEXTS:
            prompt = await helper.text(text)
            answer: list[int] = []
            asked = Job(id=0, tokens=prompt, max_tokens=count)
            async for output in await target.submit(asked):
                answer += output.tokens
            read = Job(id=0, tokens=(*prompt, *answer), max_tokens=1, scored=True, logprobs=1)
            entries = []
            async for output in await draft.submit(read):
                if output.prompt:
                    entries += output.logprobs
            held += [token == top[0][0] for token, _, top in entries[-len(answer) :]]
    finally:
        await asyncio.gather(target.aclose(), draft.aclose(), helper.aclose())
    return tuple(held)


def replayed(held: Sequence[bool]) -> Callable[[int], bool]:
    return lambda position: held[position % len(held)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """A session without drafts over plain streaming: share of wall time, CPU seconds a token.

    `session_s` is what a session costs once, its connection above all; `whole_s` has both, a token;
    `bare_s` is that over the engine's outputs, which nobody can read on another machine.
    """

    share: float
    cpu_s: float
    session_s: float
    whole_s: float
    bare_s: float


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one way's answers, by the clock and of this process's CPU."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    async def note(self, answer: Awaitable[object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        await answer
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def beyond(self, other: Spent) -> float:
        """The median of the differences, run by run."""
        return statistics.median(a - b for a, b in zip(self.cpu, other.cpu, strict=True))


@dataclass(frozen=True, slots=True)
class Ways:
    """With no protocol, over HTTP, as a session."""

    bare: Spent = field(default_factory=Spent)
    plain: Spent = field(default_factory=Spent)
    session: Spent = field(default_factory=Spent)


async def overhead(target_s: float, tokens: int, runs: int) -> Overhead:
    """Interleaved runs; of wall times the least counts, of CPU times the median of differences.

    Short answers beside long ones tell what a token costs from what making a connection does.
    """
    short = await ways(target_s, SHORT_TOKENS, 2 * runs)
    long = await ways(target_s, tokens, runs)
    beyond = short.session.beyond(short.plain), long.session.beyond(long.plain)
    token_s = (beyond[1] - beyond[0]) / (tokens - SHORT_TOKENS)
    return Overhead(
        share=min(long.session.wall) / min(long.plain.wall) - 1,
        cpu_s=token_s,
        session_s=beyond[0] - SHORT_TOKENS * token_s,
        whole_s=beyond[1] / tokens,
        bare_s=long.session.beyond(long.bare) / tokens,
    )


async def ways(target_s: float, tokens: int, runs: int) -> Ways:
    """Answers of one length, each way in turn."""
    pair = Pair(target_s=target_s, draft_s=1.0, holds=lambda at: False, tokens=tokens)
    spent = Ways()
    async with over_loopback(pair, draft=None, ngram=False) as backend:
        await backend.plain()  # imports, and uvicorn's first connection
        await backend.answer()
        for _ in range(runs):
            await spent.bare.note(streaming(pair, Weather()))
            await spent.plain.note(backend.plain())
            await spent.session.note(backend.answer())
    return spent


@dataclass(frozen=True, slots=True)
class Short:
    """Short answers: plain streaming's time over a session's, its connection made for it or before.

    A handshake over loopback costs what its round trips do, TLS none here.
    """

    rtt_s: float
    tokens: int
    cold: float
    warm: float


async def short(rtt_s: float, tokens: int, runs: int) -> Short:
    """Without drafts, so that nothing but the way is compared."""
    pair = Pair(target_s=0.02, draft_s=1.0, holds=lambda at: False, tokens=tokens)
    plain, cold, warm = list[float](), list[float](), list[float]()
    async with over_loopback(pair, rtt_s, draft=None, ngram=False) as backend:
        spare = backend.backend._spare
        assert spare is not None
        await backend.plain()
        await backend.answer()
        for _ in range(runs):
            plain.append(await backend.plain())
            await asyncio.sleep(3 * rtt_s + 0.1)  # for a person to read the answer
            warm.append((await backend.answer()).wall_s)
            await asyncio.sleep(3 * rtt_s + 0.1)
            if (ready := spare.take()) is not None:
                await ready.aclose(ended=True)
            cold.append((await backend.answer()).wall_s)
    middle = statistics.median(plain)
    return Short(rtt_s, tokens, middle / statistics.median(cold), middle / statistics.median(warm))


def unpaced() -> Comparison | str:
    with serve("--local-only") as serving, serving.client() as http:
        return compare(http, "cloud", "tandem")


def main(arguments: argparse.Namespace) -> None:
    every = {"paced", "overhead", "short", "unpaced"}
    only = set(arguments.only.split(",")) if arguments.only else every
    quick, found = arguments.quick, dict[str, float]()
    print(
        f"load average {' '.join(f'{each:.2f}' for each in os.getloadavg())}, "
        f"{os.cpu_count()} cores"
    )
    if "paced" in only:
        tokens = QUICK_TOKENS if quick else TOKENS
        pairs: list[tuple[str, Pair]] = []
        held = asyncio.run(trace(96)) if TARGET.is_file() and DRAFT.is_file() else ()
        alpha = sum(held) / len(held) if held else 0.0
        sources = [(f"{SET_ALPHA:g}", coin(SET_ALPHA, 3))]
        if held:
            found["acceptance_bundled_pair"] = round(alpha, 3)
            sources += [(f"{alpha:.2f}", coin(alpha, 3)), (f"{alpha:.2f} r", replayed(held))]
        for name, holds in sources:
            for target_ms, draft_ms in PACES_MS[1:2] if quick else PACES_MS:
                pairs.append(
                    (
                        name,
                        Pair(
                            target_s=target_ms / 1e3,
                            draft_s=draft_ms / 1e3,
                            holds=holds,
                            tokens=tokens,
                        ),
                    )
                )
        rtts = [ms / 1e3 for ms in ((0.0, 20.0, 80.0) if quick else RTTS_MS)]
        where = "virtual" if arguments.virtual else "real"
        print(
            f"\npaced in {where} time, {tokens} tokens an answer: passes last as long as they are "
            "told to, for two cores\ncannot show a compute gain; milliseconds and seconds; "
            "`r`: replayed, hits in runs"
        )
        print(HEAD)
        cells = paced(pairs, rtts, virtual=arguments.virtual)
        for each in cells:
            print(each.row())
        found["never_idle_vs_streaming_min"] = round(min(each.gain for each in cells), 3)
        tossed = [each for each in cells if not each.name.endswith("r")]
        found["formula_error_max"] = round(max(abs(each.error) for each in tossed), 3)
        found["passes_error_max"] = round(max(abs(each.error_in_passes) for each in tossed), 3)
        for each in cells:
            if each.name == f"{SET_ALPHA:g}" and (each.pair.target_s, each.rtt_s) == (0.02, 0.02):
                found["never_idle_gain_20ms"] = round(each.gain, 3)
    if "overhead" in only:
        print("\na session without drafts, beside plain streaming over HTTP, both on loopback:")
        for target_ms in (10.0,) if quick else (10.0, 20.0, 33.0):
            seen = uvloop.run(overhead(target_ms / 1e3, TOKENS, 3 if quick else 5))
            print(
                f"  t1 {target_ms:g} ms: {100 * seen.share:+.2f} % wall, "
                f"{1e6 * seen.cpu_s:+.0f} us CPU a token and {1e3 * seen.session_s:+.1f} ms a "
                f"session ({1e6 * seen.whole_s:+.0f} us a token in all, "
                f"{1e6 * seen.bare_s:+.0f} beyond no protocol at all)"
            )
            found.setdefault("companion_overhead", round(seen.share, 4))
            found.setdefault("companion_us_per_token", round(1e6 * seen.cpu_s, 1))
            found.setdefault("companion_us_per_token_in_all", round(1e6 * seen.whole_s, 1))
            found.setdefault("companion_ms_per_session", round(1e3 * seen.session_s, 1))
    if "short" in only:
        print(
            "\nshort answers over real sockets, t1 20 ms, no drafts: plain streaming's time over a "
            "session's\n  RTT ms  tokens    cold    warm"
        )
        seen_short = [
            uvloop.run(short(ms / 1e3, tokens, 3 if quick else 5))
            for ms in ((20.0, 150.0) if quick else RTTS_MS)
            for tokens in (16, 64)
        ]
        for one in seen_short:
            print(f"{1e3 * one.rtt_s:8g}{one.tokens:8}{one.cold:8.2f}{one.warm:8.2f}")
        found["short_cold_min"] = round(min(one.cold for one in seen_short), 3)
        found["short_warm_min"] = round(min(one.warm for one in seen_short), 3)
    if "unpaced" in only:
        print(
            "\nunpaced, the bundled pair through `tandem serve`, draft and target on these cores:"
        )
        here = unpaced()
        if isinstance(here, str):
            print(f"  none, {here}")
        else:
            low, high = min(here.ratios), max(here.ratios)
            print(
                f"  plain {here.plain:.0f} tokens/s, tandem {here.tandem:.0f}; ratio "
                f"{here.ratio:.2f} ({low:.2f} to {high:.2f}); {here.drafting} of {here.pairs} "
                f"measured answers drafted to the end; {here.identical} identical; "
                f"strategies {', '.join(here.strategies)}"
            )
            found["unpaced_ratio"] = round(here.ratio, 3)
    print(json.dumps(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--virtual", action="store_true", help="the paced table in virtual time")
    parser.add_argument("--only", help="of paced, overhead, short, unpaced")
    main(parser.parse_args())
