"""What `tandem demo` prints: a table of the answers, and what drafting came to, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.cli.demo_ask import Answer
from gateway.cli.demo_ratio import Comparison

SHOWN = 30
NOTHING = "-"
COLUMNS = tuple("mode,route,tier,reason,first text,TTFT,tok/s,cost,energy,cache".split(","))
BUNDLED = "tandem-demo-"
BUNDLED_SAYS = (
    "The bundled models have about 1.3M and 7M parameters. They show that the parts work together;"
    " what they say is seldom right. The larger one stands in for a cloud."
)
SHARED_SAYS = (
    "Here draft and target share this machine's cores, so each drafted token takes time from the"
    " target, and drafting usually does not pay. It is meant for a target on another machine."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table. `absent` says why a mode was not asked."""

    mode: str
    answer: Answer | None = None
    absent: str = ""

    @property
    def failed(self) -> bool:
        return self.answer is not None and bool(self.answer.error)


def table(rows: Sequence[Row]) -> list[str]:
    """The table as lines; what did not answer is said below it."""
    cells = [COLUMNS, *(_cells(row) for row in rows if row.answer and not row.failed)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(COLUMNS))]
    shown = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in cells
    ]
    shown.insert(1, "  ".join("-" * width for width in widths))
    shown += [f"{row.mode}: not here: {row.absent}" for row in rows if row.absent]
    shown += [
        f"{row.mode}: FAILED: {row.answer.error}" for row in rows if row.answer and row.failed
    ]
    return [line.rstrip() for line in shown]


def _cells(row: Row) -> tuple[str, ...]:
    assert row.answer is not None
    answer, record = row.answer, row.answer.record
    return (
        row.mode,
        str(record.get("upstream") or NOTHING),
        str(record.get("tier") or NOTHING),
        str(record.get("reason") or NOTHING),
        _one_line(answer.text),
        f"{answer.ttft_s * 1e3:.0f} ms" if answer.ttft_s is not None else NOTHING,
        f"{answer.rate:.0f}" if answer.rate and record.get("tier") != "cache" else NOTHING,
        _cost(record.get("cost_usd")),
        _energy(record),
        str(record.get("cache") or NOTHING),
    )


def _one_line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN else flat[: SHOWN - 1] + "…"


def _cost(usd: Any) -> str:
    if usd is None:
        return NOTHING
    return f"${usd:.6f}" if usd else "$0"


def _energy(record: Any) -> str:
    joules = record.get("energy_j")
    if joules is None:
        return NOTHING
    return f"{joules:.2f} J" + (" est." if record.get("energy_estimated", True) else "")


def comparison(found: Comparison | str, *, bundled: bool, shared: bool) -> list[str]:
    """The speculative ratio and what stands behind it."""
    if isinstance(found, str):
        return [f"speculative ratio: none, {found}"]
    spread = f"{min(found.ratios):.2f} to {max(found.ratios):.2f}"
    shown = [
        f"speculative ratio here: {found.ratio:.2f} (tandem / plain streaming of {found.target};"
        f" median of {found.pairs} pairs, {spread})",
        f"  plain     {found.plain:7.0f} tokens/s",
        f"  tandem    {found.tandem:7.0f} tokens/s",
        f"  accepted  {_acceptance(found)}",
        f"  drafting  {_drafting(found)}",
        f"  answers   {_identical(found)}",
    ]
    if shared:
        shown += ["", SHARED_SAYS]
    if bundled:
        shown += ["", BUNDLED_SAYS]
    return shown


def _acceptance(found: Comparison) -> str:
    if found.acceptance is None:
        return "no draft arrived before the target had gone on by itself"
    return f"{found.acceptance:.0%} of {found.drafted} drafted tokens, first trials included"


def _drafting(found: Comparison) -> str:
    # "stream;off" is the controller's own doing, and is told below.
    streamed = {each for each in found.strategies if each.startswith("stream;")}
    without = sorted(streamed - {"stream;off"})
    if without:
        return f"no session with the companion ({', '.join(without)}): plain streaming served"
    if found.drafting == found.pairs:
        return "on: all measured answers were drafted"
    if any(each.endswith(";draft-lost") for each in found.strategies):
        return "the drafter was lost; the target went on alone"
    if found.drafting == 0:
        return "off: the controller tried it, measured no gain here, and stopped it"
    return f"on in {found.drafting} of {found.pairs} measured answers: the controller switches it"


def _identical(found: Comparison) -> str:
    if found.identical == found.pairs:
        return f"all {found.pairs} pairs byte-identical"
    return f"{found.pairs - found.identical} of {found.pairs} pairs DIFFER"


def as_json(rows: Sequence[Row], found: Comparison | str) -> dict[str, Any]:
    """The same for programs. Times in milliseconds, as in records."""
    return {
        "modes": [_row_json(row) for row in rows],
        "speculation": {"none": found} if isinstance(found, str) else _comparison_json(found),
    }


def _row_json(row: Row) -> dict[str, Any]:
    if row.answer is None:
        return {"mode": row.mode, "ok": None, "absent": row.absent}
    answer = row.answer
    return {
        "mode": row.mode,
        "ok": not row.failed,
        "error": answer.error or None,
        "text": answer.text,
        "ttft_ms": None if answer.ttft_s is None else round(answer.ttft_s * 1e3, 3),
        "tokens_per_s": None if answer.rate is None else round(answer.rate, 1),
        "record": dict(answer.record),
    }


def _comparison_json(found: Comparison) -> dict[str, Any]:
    return {
        "target": found.target,
        "plain_tokens_per_s": round(found.plain, 1),
        "tandem_tokens_per_s": round(found.tandem, 1),
        "ratio": round(found.ratio, 3),
        "ratios": [round(each, 3) for each in found.ratios],
        "drafted": found.drafted,
        "accepted": found.accepted,
        "drafted_answers": found.drafting,
        "pairs": found.pairs,
        "identical": found.identical,
        "strategies": list(found.strategies),
    }
