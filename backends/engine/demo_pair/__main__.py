"""`python -m backends.engine.demo_pair all`: corpus, tokenizer, training, export, model card."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from backends.engine.demo_pair import corpus as corpora
from backends.engine.demo_pair import tokenizer as tokenizers
from backends.engine.demo_pair.settings import BUNDLED, VOCAB, Settings


def main() -> None:
    arguments = _parse()
    settings = arguments.settings
    settings.work.mkdir(parents=True, exist_ok=True)
    for name in STEPS if arguments.step == "all" else (arguments.step,):
        STEPS[name](settings, arguments)


def _parse() -> argparse.Namespace:
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m backends.engine.demo_pair", description=__doc__)
    parser.add_argument("step", choices=("all", *STEPS))
    parser.add_argument("--work", type=Path, default=defaults.work, help="checkpoints go here")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="GGUF files go here")
    parser.add_argument("--stdlib", type=Path, help="root of a standard library to train on")
    parser.add_argument("--tokens", type=int, help="training tokens, instead of the plan's")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="training time at most")
    arguments = parser.parse_args()
    arguments.settings = Settings(
        work=arguments.work, out=arguments.out, stdlib=arguments.stdlib
    )
    return arguments


def build_tokenizer(settings: Settings, arguments: argparse.Namespace) -> None:
    if settings.tokenizer.exists():
        return
    corpus = corpora.collect(settings.stdlib)
    tokenizers.build(corpus, vocab=VOCAB, seed=settings.seed).save(str(settings.tokenizer))


def train_target(settings: Settings, arguments: argparse.Namespace) -> None:
    from backends.engine.demo_pair.runs import target

    target(settings, tokens=arguments.tokens, seconds=arguments.seconds)


def train_draft(settings: Settings, arguments: argparse.Namespace) -> None:
    from backends.engine.demo_pair.runs import draft

    draft(settings, tokens=arguments.tokens, seconds=arguments.seconds)


STEPS = {"tokenizer": build_tokenizer, "target": train_target, "draft": train_draft}

if __name__ == "__main__":
    main()
