"""Held-out loss: code from files never trained on, transcripts from a seed never trained on."""

from __future__ import annotations

from itertools import islice
from random import Random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from backends.engine.demo_pair import chat, transcripts
from backends.engine.demo_pair.corpus import Corpus
from backends.engine.demo_pair.model import Llama

CHAT_SEED = 77_000_001


@torch.no_grad()
def code_loss(
    model: Llama, tokenizer: Tokenizer, corpus: Corpus, *, length: int, windows: int
) -> tuple[float, float]:
    """Nats per token and bits per byte over consecutive windows, each without any context."""
    nats, tokens, size = 0.0, 0, 0
    for text in islice(_windows(corpus, tokenizer, length), windows):
        ids = torch.tensor([text])
        loss = F.cross_entropy(model(ids[:, :-1])[0].float(), ids[0, 1:], reduction="sum")
        nats += loss.item()
        tokens += len(text) - 1
        size += len(tokenizer.decode(text[1:]).encode())
    return nats / tokens, nats / size / 0.6931472


def _windows(corpus: Corpus, tokenizer: Tokenizer, length: int) -> list[list[int]]:
    found = []
    for file in corpus.held_out:
        ids = tokenizer.encode(file.text).ids
        found += [ids[i : i + length] for i in range(0, len(ids) - length, length)]
    Random(0).shuffle(found)
    return found


@torch.no_grad()
def chat_loss(model: Llama, tokenizer: Tokenizer, *, conversations: int) -> float:
    """Nats per token over the assistant's words only."""
    rng = Random(CHAT_SEED)
    nats, tokens = 0.0, 0
    for _ in range(conversations):
        found = transcripts.conversation(rng)
        ids: list[int] = []
        mine: list[bool] = []
        for piece, answer in chat.answers(chat.render(found.messages, found.tools)):
            new = tokenizer.encode(piece).ids
            ids += new
            mine += [answer] * len(new)
        row = torch.tensor([ids])
        losses = F.cross_entropy(model(row[:, :-1])[0].float(), row[0, 1:], reduction="none")
        mask = torch.tensor(mine[1:])
        nats += losses[mask].sum().item()
        tokens += int(mask.sum())
    return nats / tokens


def summary(model: Llama, tokenizer: Tokenizer, corpus: Corpus) -> str:
    nats, bits = code_loss(model, tokenizer, corpus, length=256, windows=40)
    talk = chat_loss(model, tokenizer, conversations=60)
    return (
        f"held out: code {nats:.3f} nats/token ({bits:.3f} bits/byte), chat {talk:.3f} nats/token"
    )
