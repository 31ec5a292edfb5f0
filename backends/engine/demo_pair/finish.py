"""From checkpoints to what ships: GGUF files, measurements, manifest and model card."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch

from backends.engine.demo_pair import card, corpus, heldout, tokenizer
from backends.engine.demo_pair import export as gguf_file
from backends.engine.demo_pair.evaluate import everything
from backends.engine.demo_pair.model import SHAPES, Llama, parameter_count
from backends.engine.demo_pair.runner import Runner
from backends.engine.demo_pair.runs import CONTEXT
from backends.engine.demo_pair.settings import Settings
from backends.engine.demo_pair.train import load_weights


def export(settings: Settings) -> None:
    words = tokenizer.load(settings.tokenizer)
    settings.out.mkdir(parents=True, exist_ok=True)
    for role in card.ROLES:
        path = settings.out / card.file_name(role)
        gguf_file.write(_model(settings, role), words, path, role=role, context=CONTEXT)
        _check_tokenizer(path, settings)


def _check_tokenizer(path: Path, settings: Settings) -> None:
    """llama.cpp must cut every held-out file into the ids that training saw."""
    words = tokenizer.load(settings.tokenizer)
    shipped = Runner(path, context=CONTEXT)
    for file in corpus.collect(settings.stdlib).held_out:
        assert shipped.encode(file.text) == words.encode(file.text).ids, file.name


def measure(settings: Settings, *, count: int) -> None:
    torch.set_num_threads(1)
    found = corpus.collect(settings.stdlib)
    words = tokenizer.load(settings.tokenizer)
    losses: dict[str, dict[str, float]] = {}
    for role in card.ROLES:
        model = _model(settings, role)
        nats, bits = heldout.code_loss(model, words, found, length=CONTEXT, windows=100)
        talk = heldout.chat_loss(model, words, conversations=300)
        losses[role] = {
            "code_nats_per_token": round(nats, 3),
            "code_bits_per_byte": round(bits, 3),
            "chat_nats_per_token": round(talk, 3),
        }
    draft, target = (settings.out / card.file_name(role) for role in card.ROLES)
    results = {
        "held_out_loss": losses,
        **everything(draft, target, found, context=CONTEXT, count=count),
        "prompts_per_class": count,
    }
    settings.results.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def describe(settings: Settings) -> None:
    found = corpus.collect(settings.stdlib)
    facts: dict[str, Any] = {
        "seed": settings.seed,
        "corpus_sha256": found.sha256,
        "corpus": f"standard library of Python {platform.python_version()}",
        "corpus_files": {"trained": len(found.train), "held_out": len(found.held_out)},
        "parameters": {role: parameter_count(Llama(SHAPES[role])) for role in card.ROLES},
        "training": {role: _training(settings, role) for role in card.ROLES},
        "measured": json.loads(settings.results.read_text(encoding="utf-8")),
    }
    manifest = card.write_manifest(settings.out, context=CONTEXT, facts=facts)
    card.write_card(settings.out, manifest)


def _training(settings: Settings, role: str) -> dict[str, float]:
    state = torch.load(settings.checkpoint(role), weights_only=True)["state"]
    return {"tokens": state["tokens"], "steps": state["step"], "seconds": round(state["seconds"])}


def _model(settings: Settings, role: str) -> Llama:
    return load_weights(Llama(SHAPES[role]), settings.checkpoint(role))
