"""`tandem models quantize` and `compare`: long work on files, with progress."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from backends.engine.gguf import GgufError, read
from backends.engine.offline_client import OfflineFailed, run
from gateway.cli.model_file import model_file

TYPES = ("Q4_K_M", "Q5_K_M", "Q8_0")


def add_parsers(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    quantize = actions.add_parser("quantize", help="write a model in fewer bits")
    quantize.add_argument("source", type=model_file, help="a GGUF file, best in F16 or BF16")
    quantize.add_argument("target", type=Path, help="the file to write")
    quantize.add_argument("--type", choices=TYPES, default="Q4_K_M", help="(Q4_K_M)")
    quantize.add_argument("--force", action="store_true", help="replace TARGET if it exists")
    quantize.set_defaults(run=run_quantize)
    compare = actions.add_parser("compare", help="what a quantization costs: two files, one text")
    compare.add_argument("a", type=model_file, help="the better one, that the other is held to")
    compare.add_argument("b", type=model_file, help="the quantized one")
    compare.add_argument("--text", type=Path, help="a text that neither was trained on")
    compare.set_defaults(run=run_compare)
    for parser in (quantize, compare):
        threads = max(1, (os.cpu_count() or 2) - 1)
        parser.add_argument("--threads", type=int, default=threads, help=f"({threads})")


def run_quantize(arguments: argparse.Namespace) -> int:
    source, target = arguments.source, arguments.target
    try:
        before = read(source)
        if target.exists() and target.samefile(source):
            raise OfflineFailed("source and target are the same file.")
        if target.exists() and not arguments.force:
            raise OfflineFailed(f"{target} exists; --force replaces it.")
        if before.bits < 15:
            print(
                f"{source.name} is already quantized ({before.quantization}): what it has lost is"
                " lost, and some more goes now. Better start from F16 or BF16.",
                file=sys.stderr,
            )
        done = run(
            "quantize",
            _progress("quantizing"),
            source=str(source),
            target=str(target),
            type=arguments.type,
            threads=arguments.threads,
        )
        after = read(target)
    except (GgufError, OfflineFailed) as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"{target}: {after.size / 1e6:.1f} MB, {after.bits:.2f} bits a weight"
        f" (from {before.size / 1e6:.1f} MB, {before.bits:.2f})"
    )
    if done["fallback"]:
        print(
            f"{done['fallback']} tensors have rows that are no multiple of 256; they are in a"
            " neighbouring type of a few more bits"
        )
    return 0


def run_compare(arguments: argparse.Namespace) -> int:
    try:
        a, b = read(arguments.a), read(arguments.b)
        done = run(
            "compare",
            _progress("comparing"),
            a=str(arguments.a),
            b=str(arguments.b),
            text=str(arguments.text) if arguments.text else None,
            threads=arguments.threads,
        )
    except (GgufError, OfflineFailed) as error:
        print(error, file=sys.stderr)
        return 1
    what = arguments.text or "a text of ours"
    print(f"A  {arguments.a.name}: {a.bits:.2f} bits, perplexity {done['perplexity_a']:.3f}")
    print(f"B  {arguments.b.name}: {b.bits:.2f} bits, perplexity {done['perplexity_b']:.3f}")
    print(f"KL(A||B)   {done['kl']:.5f} nats a token")
    print(f"same token {100 * done['agreement']:.2f} % of {done['tokens']} ({what})")
    return 0


def _progress(what: str) -> Callable[[float], None]:
    """A line that is rewritten on a terminal; elsewhere nothing, as logs want no progress."""

    def show(share: float) -> None:
        if sys.stderr.isatty():
            end = "\n" if share >= 1 else ""
            print(f"\r{what} {100 * share:3.0f} %", end=end, file=sys.stderr, flush=True)

    return show
