"""`tandem bench speculation`: what drafting does for a pair, predicted and realised.

A running gateway, or one that is started for it, is asked the same questions plainly and through
the pair, in turn. The gateway's own records say what it measured: the share of drafts that held,
the pace of target and drafter, what a pass costs by its width, the round trip.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import httpx

from backends.speculative.formulas import never_idle_gain
from gateway.cli.arguments import add_model_dir
from gateway.cli.demo import NotRunning, ready, started
from gateway.cli.demo_ask import UNKEPT, Answer, ask, client

PROMPTS = (
    "def read_lines(path):\n",
    "class Stack:\n    def __init__(self):\n",
    "import os\n\ndef walk(folder):\n",
    "def test_add():\n    assert add(1, 2) == 3\n\n",
)


class NoPair(Exception):
    """There is nothing to measure; the message is a sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReport:
    """Milliseconds; None for what nobody measured. `realised` is plain time over the pair's, the
    median of answers in turn; `predicted` the closed form's at the p90 of the round trip, from the
    figures above it, and `expected` what the controller believed of its last answer.
    """

    plain: str
    pair: str
    answers: int
    alpha: float | None
    t1_ms: float | None
    draft_ms: float | None
    verify_ms: dict[int, float]
    rtt_p50_ms: float | None
    rtt_p90_ms: float | None
    tokens_per_pass: float | None
    predicted: float | None
    expected: float | None
    realised: float
    identical: int
    usd_delta: float | None
    strategies: tuple[str, ...]


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser("speculation", help="what drafting brings, predicted and realised")
    parser.add_argument("--base-url", help="a running gateway; without it one is started")
    parser.add_argument("-c", "--config", type=Path, help="start it with this YAML file")
    parser.add_argument("--pair", default="tandem", help="the speculative model name (tandem)")
    parser.add_argument("--plain", default="cloud", help="its target's own name (cloud)")
    parser.add_argument("--answers", type=int, default=12, help="each way (12)")
    parser.add_argument("--tokens", type=int, default=96, help="an answer (96)")
    add_model_dir(parser)
    parser.add_argument("--local-only", action="store_true", help="nothing leaves this machine")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    try:
        with (
            started(arguments, lambda text: None, config=arguments.config) as base_url,
            client(base_url) as http,
        ):
            names = ready(http)
            for name in (arguments.pair, arguments.plain):
                if name not in names:
                    raise NoPair(f"There is no model {name!r}; there are: {', '.join(names)}.")
            report = measure(
                http, arguments.plain, arguments.pair, arguments.answers, arguments.tokens
            )
    except (NotRunning, NoPair) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(asdict(report)) if arguments.json else "\n".join(table(report)))
    return 0


def measure(http: httpx.Client, plain: str, pair: str, answers: int, tokens: int) -> PairReport:
    """Both ways in turn. Raises NoPair if an answer failed, or was no pair's."""
    one, other = list[Answer](), list[Answer]()
    for turn in range(answers):
        body = {
            "prompt": f"# {secrets.token_hex(4)}\n{PROMPTS[turn % len(PROMPTS)]}",
            "max_tokens": tokens,
            "temperature": 0,
        }
        # Who comes second finds the prompt's prefix already computed, so they take turns.
        for name in (plain, pair) if turn % 2 else (pair, plain):
            answer = ask(http, "/v1/completions", {"model": name, **body}, UNKEPT)
            if answer.error or not answer.rate:
                raise NoPair(f"{name!r} did not answer: {answer.error or 'it said nothing'}")
            (one if name == plain else other).append(answer)
    if not all(answer.record.get("speculation") for answer in other):
        raise NoPair(f"{pair!r} is no speculative model.")
    if one[0].record.get("upstream_model") != other[0].record.get("upstream_model"):
        raise NoPair(f"{plain!r} is another model than the target of {pair!r}.")
    return _report(plain, pair, one, other)


def _report(plain: str, pair: str, one: Sequence[Answer], other: Sequence[Answer]) -> PairReport:
    told: list[Mapping[str, Any]] = [answer.record["speculation"] for answer in other]
    alphas = [(each["alpha"], each["drafted"]) for each in told if each.get("alpha") is not None]
    drafted = sum(weight for _, weight in alphas)
    alpha = sum(share * weight for share, weight in alphas) / drafted if drafted else None
    t1_ms = _median([answer.record.get("inter_token_ms") for answer in one])
    draft_ms = _median([each.get("draft_ms") for each in told])
    trips = sorted(each["rtt_ms"] for each in told if each.get("rtt_ms") is not None)
    verify = _verify(told)
    p90 = trips[int(0.9 * (len(trips) - 1))] if trips else None
    return PairReport(
        plain=plain,
        pair=pair,
        answers=len(other),
        alpha=alpha,
        t1_ms=t1_ms,
        draft_ms=draft_ms,
        verify_ms=verify,
        rtt_p50_ms=_median(trips),
        rtt_p90_ms=p90,
        tokens_per_pass=_median(
            [each["tokens"] / each["rounds"] for each in told if each.get("rounds")]
        ),
        predicted=_predicted(alpha, t1_ms, draft_ms, p90, verify),
        expected=next((e["predicted"] for e in reversed(told) if e.get("predicted")), None),
        realised=median((b.rate or 0) / (a.rate or 1) for a, b in zip(one, other, strict=True)),
        identical=sum(a.text == b.text for a, b in zip(one, other, strict=True)),
        usd_delta=_sum([each.get("usd_delta") for each in told]),
        strategies=tuple(dict.fromkeys(str(each["strategy"]) for each in told)),
    )


def _verify(told: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    widths: dict[int, list[float]] = {}
    for each in told:
        for width, ms in (each.get("verify_ms") or {}).items():
            widths.setdefault(int(width), []).append(ms)
    return {width: mean(ms) for width, ms in sorted(widths.items())}


def _predicted(
    alpha: float | None,
    t1_ms: float | None,
    draft_ms: float | None,
    rtt_ms: float | None,
    verify_ms: Mapping[int, float],
) -> float | None:
    if alpha is None or not t1_ms or not draft_ms or rtt_ms is None:
        return None
    alone = verify_ms.get(1)
    passes = {1: t1_ms / 1e3}
    if alone:
        passes |= {w: ms / alone * t1_ms / 1e3 for w, ms in verify_ms.items() if w > 1}
    return never_idle_gain(alpha, draft_ms / 1e3, rtt_ms / 1e3, passes)


def table(report: PairReport) -> list[str]:
    widths = ", ".join(f"{width}: {ms:.2f}" for width, ms in report.verify_ms.items()) or "-"
    usd = "-" if report.usd_delta is None else f"{report.usd_delta:+.6f}"
    return [
        f"{report.pair} beside {report.plain}, {report.answers} answers each way, in turn",
        "",
        f"  alpha, share of tried drafts that held    {_said(report.alpha, '.2f')}",
        f"  t1, target's ms a token by itself         {_said(report.t1_ms, '.2f')}",
        f"  T_d, drafter's ms a token                 {_said(report.draft_ms, '.2f')}",
        f"  t_v(w), ms of a pass by its width         {widths}",
        f"  round trip, ms, p50 and p90               {_said(report.rtt_p50_ms, '.2f')} "
        f"{_said(report.rtt_p90_ms, '.2f')}",
        f"  tokens a pass                             {_said(report.tokens_per_pass, '.2f')}",
        f"  gain predicted by formula at p90          {_said(report.predicted, '.2f')}",
        f"  gain the controller expects here          {_said(report.expected, '.2f')}",
        f"  gain realised                             {report.realised:.2f}",
        f"  dollars, drafting less plain              {usd}",
        f"  answers that are identical                {report.identical} of {report.answers}",
        f"  strategies                                {', '.join(report.strategies)}",
        "",
        "Figures of a machine whose cores draft and target share show no formula's gain: what is "
        "realised counts.",
    ]


def _median(values: Sequence[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _sum(values: Sequence[Any]) -> float | None:
    return None if any(value is None for value in values) else float(sum(values))


def _said(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
