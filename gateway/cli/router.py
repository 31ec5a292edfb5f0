"""`tandem router train | calibrate | evaluate | score | probe | shadow`: the learned policy.

Everything is imported by the command that needs it: `tandem serve` starts without numpy, and
`score` needs neither LightGBM nor labelled data.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from gateway.cli.router_live import add_parsers as add_live

if TYPE_CHECKING:
    from router_policies.learned.artifact import Artifact

PAIR = "[SOURCE=]WEAK,STRONG"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("router", help="train, check and use the learned policy")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    train = actions.add_parser("train", help="an artifact from labelled prompts")
    _data(train, required=False)
    train.add_argument(
        "--labels", type=Path, nargs="+", default=[], metavar="LOG", help="what router.labels wrote"
    )
    train.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="to write it to")
    train.add_argument("--vectors", type=Path, metavar="FOLDER", help="another token table")
    train.add_argument("--notes", type=Path, metavar="JSON", help="put into the manifest")
    train.set_defaults(run=_guarded(run_train))

    calibrate = actions.add_parser("calibrate", help="start the share from your own prompts")
    _artifact(calibrate)
    calibrate.add_argument("--cloud-share", type=_share, default=0.3, help="0 to 1 (0.3)")
    calibrate.add_argument("--out", type=Path, metavar="FOLDER", help="write the artifact there")
    calibrate.set_defaults(run=_guarded(run_calibrate))

    evaluate = actions.add_parser("evaluate", help="a one-page report on labelled prompts")
    _data(evaluate)
    evaluate.add_argument("--artifact", type=Path, metavar="FOLDER", help="as it is, not trained")
    evaluate.add_argument("--report", type=Path, metavar="HTML", help="write the page there")
    evaluate.add_argument("--quick", action="store_true", help="leave no field out")
    evaluate.set_defaults(run=_guarded(run_evaluate))

    score = actions.add_parser("score", help="JSON lines {id, prompt} in, {id, score} out")
    _artifact(score)
    score.set_defaults(run=_guarded(run_score))
    add_live(actions, _guarded)


def _data(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=required,
        default=[],
        metavar="JSONL",
        help="labelled prompts",
    )
    parser.add_argument(
        "--pair",
        action="append",
        required=required,
        default=[],
        metavar=PAIR,
        help="whose answers are compared, in all the data or in one source's",
    )


def _artifact(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--artifact", type=Path, metavar="FOLDER", help="not the built-in one")


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("a share is from 0 to 1")
    return value


def _guarded(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The command with its foreseeable failures as one line and exit status 2."""

    def guarded(arguments: argparse.Namespace) -> int:
        try:
            return run(arguments)
        except ImportError as error:
            print(f"{error}; pip install 'tandem-gateway[router-train]'", file=sys.stderr)
        except (ValueError, OSError) as error:
            print(error, file=sys.stderr)
        return 2

    return guarded


def run_train(arguments: argparse.Namespace) -> int:
    from router_policies.training.data import label, read
    from router_policies.training.own import read_own
    from router_policies.training.train import train, wording_from

    if not arguments.data and not arguments.labels:
        raise ValueError("nothing to learn from: give --data, --labels or both")
    if arguments.data and not arguments.pair:
        raise ValueError(f"--data needs --pair {PAIR}")
    pairs = _pairs(arguments.pair, rows := read(arguments.data))
    artifact = train(
        label(rows, pairs) if arguments.data else None,
        wording_from(arguments.vectors) if arguments.vectors else _loaded(None).router.wording,
        arguments.out,
        pairs=pairs,
        data=arguments.data,
        own=read_own(arguments.labels) if arguments.labels else None,
        notes=json.loads(arguments.notes.read_text()) if arguments.notes else {},
        told=_told,
    )
    print(f"{arguments.out}: artifact {artifact.digest}")
    if arguments.labels:
        print(f"  own traffic: {artifact.manifest['own']}")
    for name, figures in artifact.manifest["metrics"].items():
        print(f"  {name}: {figures}")
    return 0


def run_calibrate(arguments: argparse.Namespace) -> int:
    from router_policies.learned.artifact import DEFAULT, resave

    router = _loaded(arguments.artifact).router
    scores = sorted(router.assess(each["prompt"]).score for each in _prompts(sys.stdin))
    if not scores:
        raise ValueError("no prompts on standard input")
    at = min(len(scores) - 1, int(len(scores) * (1 - arguments.cloud_share)))
    print(f"{len(scores)} prompts; {arguments.cloud_share:.0%} score {scores[at]:.4f} or more")
    if arguments.out is not None:
        resave(arguments.artifact or DEFAULT, arguments.out, scores)
        print(f"{arguments.out}: an alias with cloud_share starts from these scores")
    return 0


def run_evaluate(arguments: argparse.Namespace) -> int:
    import numpy as np

    from router_policies.training.data import folds, label, read
    from router_policies.training.domains import domain
    from router_policies.training.fit import blend_of, held_out, prepare
    from router_policies.training.report import Evaluated, latencies, page, summary
    from router_policies.training.train import FOLDS

    pairs = _pairs(arguments.pair, rows := read(arguments.data))
    labelled = label(rows, pairs)
    prompts = [row.prompt for row in labelled.rows]
    router = _loaded(arguments.artifact).router
    alone = None
    if arguments.artifact is not None:
        said = [router.assess(prompt) for prompt in prompts]
        scores, fails = np.array([s.score for s in said]), np.array([s.fails for s in said])
        note = "Scored by a finished artifact: believe it only if it was not trained on these."
    else:
        prepared = prepare(prompts, router.wording)
        parts = folds([row.group for row in labelled.rows], FOLDS)
        predicted = held_out(labelled, prepared, parts, _told)
        blend = blend_of(predicted)
        scores, fails = predicted.scores(blend), predicted.fails
        note = f"Each scored by a router trained on the other {FOLDS - 1} of {FOLDS} folds."
        if not arguments.quick:
            fields = np.array([domain(row) for row in labelled.rows])
            alone = held_out(labelled, prepared, fields, _told).scores(blend)
    found = Evaluated(
        labelled=labelled,
        scores=scores,
        fails=fails,
        title="A router on labelled prompts",
        held_out=note,
        left_out=alone,
        latency_us=latencies(router, prompts[:1000]),
    )
    for name, figures in summary(found).items():
        for which, quality in figures.items():
            print(
                f"{name:<36} {which:<14} {quality.apgr:.3f} [{quality.low:.3f}, {quality.high:.3f}]"
            )
    if arguments.report is not None:
        arguments.report.write_text(page(found))
        print(f"{arguments.report} written")
    return 0


def run_score(arguments: argparse.Namespace) -> int:
    router = _loaded(arguments.artifact).router
    for each in _prompts(sys.stdin):
        score = router.assess(each["prompt"]).score
        sys.stdout.write(json.dumps({"id": each.get("id"), "score": round(score, 6)}) + "\n")
    return 0


def _loaded(folder: Path | None) -> Artifact:
    from router_policies.learned.artifact import DEFAULT, load

    return load(folder or DEFAULT)


def _prompts(lines: TextIO) -> Iterator[Mapping[str, Any]]:
    """The objects of JSON lines that have a prompt. Raises ValueError naming the line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            each = json.loads(line)
        except ValueError:
            raise ValueError(f"line {number} is not JSON") from None
        if not isinstance(each, dict) or not isinstance(each.get("prompt"), str):
            raise ValueError(f"line {number} has no prompt")
        yield each


def _pairs(given: Iterable[str], rows: Iterable[Any]) -> dict[str, tuple[str, str]]:
    """--pair as {source: (weak, strong)}; without a source it is for all that have none."""
    pairs: dict[str, tuple[str, str]] = {}
    sources = {row.source for row in rows}
    for text in given:
        source, equals, models = text.partition("=")
        weak, comma, strong = (models if equals else text).rpartition(",")
        if not comma or not weak or not strong:
            raise ValueError(f"--pair {text}: expects {PAIR}")
        if equals and source not in sources:
            known = ", ".join(sorted(sources))
            raise ValueError(f"--pair {text}: no such source in the data; it has {known}")
        for name in [source] if equals else sorted(sources - pairs.keys()):
            pairs[name] = (weak, strong)
    return pairs


def _told(line: str) -> None:
    print(line, file=sys.stderr)
