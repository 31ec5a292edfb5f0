"""The runs that make the pair: the target from text, then the draft from the target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

import torch
from tokenizers import Tokenizer
from torch import Tensor

from backends.engine.demo_pair import corpus as corpora
from backends.engine.demo_pair import distil, heldout, tokenizer
from backends.engine.demo_pair.corpus import Corpus
from backends.engine.demo_pair.data import Stream
from backends.engine.demo_pair.model import SHAPES, Llama
from backends.engine.demo_pair.settings import Settings
from backends.engine.demo_pair.train import Plan, State, Trainer, load_weights

CONTEXT = 512  # the longest rows either model was trained on

TARGET = Plan(tokens=10_000_000)
DRAFT = Plan(tokens=6_000_000, lengths=((0.0, 256), (0.75, 512)), decay_from=0.5)


@dataclass(frozen=True)
class Material:
    """What every run reads."""

    corpus: Corpus
    tokenizer: Tokenizer

    @classmethod
    def of(cls, settings: Settings) -> Material:
        return cls(corpora.collect(settings.stdlib), tokenizer.load(settings.tokenizer))

    def stream(self, length: int, seed: int) -> Stream:
        return Stream(self.corpus, self.tokenizer, length=length, seed=seed)


def train_target(settings: Settings, *, tokens: int | None, seconds: float) -> State:
    torch.manual_seed(settings.seed)
    material = Material.of(settings)
    return Trainer(
        Llama(SHAPES["target"]),
        replace(TARGET, tokens=tokens or TARGET.tokens, seconds=seconds),
        checkpoint=settings.checkpoint("target"),
        stream=material.stream,
        report=lambda model: heldout.summary(model, material.tokenizer, material.corpus),
        pause=settings.pause,
    ).run()


def train_draft(settings: Settings, *, tokens: int | None, seconds: float) -> State:
    """Needs the target's checkpoint."""
    torch.manual_seed(settings.seed + 1)
    material = Material.of(settings)
    target = load_weights(Llama(SHAPES["target"]), settings.checkpoint("target"))
    rows = islice(material.stream(256, settings.seed + 2), 32)
    probe = [(_tensor(row.tokens), _tensor(row.weights)) for row in rows]

    def report(draft: Llama) -> str:
        same = distil.same_choice(target, draft, probe)
        text = heldout.summary(draft, material.tokenizer, material.corpus)
        return f"{text}; same choice as the target {same:.3f}"

    return Trainer(
        Llama(SHAPES["draft"]),
        replace(DRAFT, tokens=tokens or DRAFT.tokens, seconds=seconds),
        checkpoint=settings.checkpoint("draft"),
        stream=material.stream,
        objective=distil.from_target(target),
        report=report,
        pause=settings.pause,
    ).run()


def _tensor(values: list[int] | list[float]) -> Tensor:
    return torch.tensor(values)[None]
