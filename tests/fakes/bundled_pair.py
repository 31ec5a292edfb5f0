"""The bundled pair as two loaded models, once for many tests, on the loop of their stories."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from backends import BACKENDS
from backends.base import Resources
from backends.engine.backend import LlamaCppBackend
from gateway.core.registry import load


@dataclass
class Models:
    """A drafter, and a strict target that takes predictions."""

    runner: asyncio.Runner
    draft: LlamaCppBackend
    target: LlamaCppBackend

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        """A test's story, which has a minute."""
        self.runner.run(asyncio.wait_for(story, 60))


def build(kind: str, resources: Resources, **options: Any) -> Any:
    """A backend of that kind, called as its kind is."""
    cls = load(BACKENDS, kind, what="kind")
    return cls(kind, cls.options_model(kind=kind, **options), resources)


@contextmanager
def loaded() -> Iterator[Models]:
    def local(model: str, **options: Any) -> LlamaCppBackend:
        backend = build("llama_cpp", Resources(), model=model, zone="machine", **options)
        return cast(LlamaCppBackend, backend)

    with asyncio.Runner() as runner:
        draft = local("bundled:draft", slots=2)
        target = local("bundled:target", slots=12, strict=True, speculate="ngram")
        runner.run(draft.start())
        runner.run(target.start())
        try:
            yield Models(runner, draft, target)
        finally:
            runner.run(draft.aclose())
            runner.run(target.aclose())
