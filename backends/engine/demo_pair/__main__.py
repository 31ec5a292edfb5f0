"""`python -m backends.engine.demo_pair all`: tokenizer, target, draft, GGUF files, model card.

Every step keeps what it made in the work folder and is skipped or resumed when run again. To use
several cores, run the training steps under torchrun, one process per core (`train.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from backends.engine.demo_pair import corpus as corpora
from backends.engine.demo_pair.settings import BUNDLED, VOCAB, Settings

Step = Callable[[Settings, argparse.Namespace], None]


def main() -> None:
    arguments = _parse()
    settings = Settings(work=arguments.work, out=arguments.out, stdlib=arguments.stdlib)
    settings.work.mkdir(parents=True, exist_ok=True)
    for name in STEPS if arguments.step == "all" else (arguments.step,):
        STEPS[name](settings, arguments)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m backends.engine.demo_pair", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("step", choices=("all", *STEPS))
    parser.add_argument(
        "--work", type=Path, default=Settings().work, help="folder of checkpoints (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=BUNDLED, help="folder of the finished files")
    parser.add_argument("--stdlib", type=Path, help="root of the standard library to train on")
    parser.add_argument("--tokens", type=int, help="training tokens, instead of the plan's")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="end training after this time"
    )
    parser.add_argument("--count", type=int, default=100, help="prompts per class to evaluate on")
    return parser.parse_args()


def build_tokenizer(settings: Settings, arguments: argparse.Namespace) -> None:
    from backends.engine.demo_pair import tokenizer

    if not settings.tokenizer.exists():
        corpus = corpora.collect(settings.stdlib)
        tokenizer.build(corpus, vocab=VOCAB, seed=settings.seed).save(str(settings.tokenizer))


def train_target(settings: Settings, arguments: argparse.Namespace) -> None:
    from backends.engine.demo_pair import runs

    runs.train_target(settings, tokens=arguments.tokens, seconds=arguments.seconds)


def train_draft(settings: Settings, arguments: argparse.Namespace) -> None:
    from backends.engine.demo_pair import runs

    runs.train_draft(settings, tokens=arguments.tokens, seconds=arguments.seconds)


def export(settings: Settings, arguments: argparse.Namespace) -> None:
    from backends.engine.demo_pair import finish

    finish.export(settings)


def evaluate(settings: Settings, arguments: argparse.Namespace) -> None:
    from backends.engine.demo_pair import finish

    finish.measure(settings, count=arguments.count)


def card(settings: Settings, arguments: argparse.Namespace) -> None:
    from backends.engine.demo_pair import finish

    finish.describe(settings)


# In order; torch is imported only by the steps that need it.
STEPS: dict[str, Step] = {
    "tokenizer": build_tokenizer,
    "target": train_target,
    "draft": train_draft,
    "export": export,
    "evaluate": evaluate,
    "card": card,
}

if __name__ == "__main__":
    main()
