"""The runs that make the pair: the target from text, then the draft from the target."""

from __future__ import annotations

from dataclasses import replace

import torch

from backends.engine.demo_pair import corpus as corpora
from backends.engine.demo_pair import heldout, tokenizer
from backends.engine.demo_pair.data import Stream
from backends.engine.demo_pair.model import SHAPES, Llama
from backends.engine.demo_pair.settings import Settings
from backends.engine.demo_pair.train import Plan, State, Trainer

TARGET = Plan(tokens=16_000_000)
# A short run on text alone, so that the distillation starts from something.
FIRST_DRAFT = Plan(tokens=2_000_000, lengths=((0.0, 256),), decay_from=0.9)


def target(settings: Settings, *, tokens: int | None = None, seconds: float) -> State:
    return _on_text(settings, "target", replace(TARGET, tokens=tokens or TARGET.tokens, seconds=seconds))


def first_draft(settings: Settings, *, tokens: int | None = None, seconds: float) -> State:
    plan = replace(FIRST_DRAFT, tokens=tokens or FIRST_DRAFT.tokens, seconds=seconds)
    return _on_text(settings, "draft", plan)


draft = first_draft


def _on_text(settings: Settings, role: str, plan: Plan) -> State:
    torch.manual_seed(settings.seed)
    corpus = corpora.collect(settings.stdlib)
    words = tokenizer.load(settings.tokenizer)
    return Trainer(
        Llama(SHAPES[role]),
        plan,
        checkpoint=settings.checkpoint(role),
        stream=lambda length, seed: Stream(corpus, words, length=length, seed=seed),
        report=lambda model: heldout.summary(model, words, corpus),
        pause=settings.pause,
    ).run()
