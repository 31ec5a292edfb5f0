"""The training loop: Muon for the matrices, AdamW for the rest, checkpoints it can resume from.

One process uses one thread; more cores are used by more processes (`torchrun --nproc-per-node N
-m backends.engine.demo_pair train target`), which average their gradients once a step. Two
threads in one process were slower than one on a busy machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from backends.engine.demo_pair.data import Row, Stream
from backends.engine.demo_pair.model import Llama

# (model, tokens B T+1, weights B T+1) -> loss
Objective = Callable[[Llama, Tensor, Tensor], Tensor]
Report = Callable[[Llama], str]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one training run does; it ends at `tokens`, or after `seconds` if that is sooner."""

    tokens: int
    seconds: float = float("inf")
    rows: int = 12  # per process and step, at the short length
    # (from this share of the run on, row length): long rows cost more, so they come last
    lengths: tuple[tuple[float, int], ...] = ((0.0, 256), (0.65, 512))
    matrix_rate: float = 0.02
    other_rate: float = 0.005
    warm_up: int = 30
    decay_from: float = 0.6  # then the rate falls in a straight line to `last_rate`
    last_rate: float = 0.02
    report_every: int = 150
    save_every_s: float = 60.0

    def length(self, progress: float) -> int:
        return [length for start, length in self.lengths if progress >= start][-1]

    def rate(self, step: int, progress: float) -> float:
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        if progress < self.decay_from:
            return 1.0
        left = max(0.0, (1 - progress) / (1 - self.decay_from))
        return self.last_rate + (1 - self.last_rate) * left


@dataclass
class State:
    """How far a run has come; survives a restart with the weights."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # pauses not counted

    def progress(self, plan: Plan) -> float:
        return min(1.0, max(self.tokens / plan.tokens, self.seconds / plan.seconds))


def cross_entropy(model: Llama, tokens: Tensor, weights: Tensor) -> Tensor:
    logits = model(tokens[:, :-1]).flatten(0, 1).float()
    weight = weights[:, 1:].flatten()
    losses = F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none")
    return (losses * weight).sum() / weight.sum().clamp(min=1.0)


class Trainer:
    def __init__(
        self,
        model: Llama,
        plan: Plan,
        *,
        checkpoint: Path,
        stream: Callable[[int, int], Stream],  # (row length, seed) -> rows
        objective: Objective = cross_entropy,
        report: Report | None = None,
        pause: Path | None = None,
    ) -> None:
        torch.set_num_threads(1)
        self.model = model
        self.plan = plan
        self.checkpoint = checkpoint
        self.stream = stream
        self.report = report
        self.pause = pause
        self.state = State()
        self.rank, self.ranks = _join()
        self.optimizers = _optimizers(model, plan)
        self.loss = torch.compile(lambda t, w: objective(model, t, w), dynamic=False)
        if checkpoint.exists():
            self._load()

    def run(self) -> State:
        length = 0
        rows: Iterator[Row] = iter(())
        saved = time.monotonic()
        while (progress := self._agreed_progress()) < 1.0:
            self._wait_while_paused()
            if self.plan.length(progress) != length:
                length = self.plan.length(progress)
                # A restart must not repeat rows, nor two processes share them.
                seed = hash((self.state.step, self.rank, length)) & 0x7FFFFFFF
                rows = iter(self.stream(length, seed))
            began = time.monotonic()
            count = max(1, self.plan.rows * self.plan.lengths[0][1] // length)
            loss = self._step(list(islice(rows, count)), progress)
            self.state.seconds += time.monotonic() - began
            self.state.step += 1
            self.state.tokens += count * length * self.ranks
            if self.rank == 0:
                self._tell(loss, progress)
                if time.monotonic() - saved > self.plan.save_every_s:
                    saved = time.monotonic()
                    self._save()
        if self.rank == 0:
            self._save()
        return self.state

    def _step(self, rows: list[Row], progress: float) -> float:
        tokens = torch.tensor([row.tokens for row in rows])
        weights = torch.tensor([row.weights for row in rows])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss: Tensor = self.loss(tokens, weights)
        loss.backward()
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        _average([p.grad for p in parameters if p.grad is not None], self.ranks)
        clip_grad_norm_(parameters, 1.0)
        rate = self.plan.rate(self.state.step, progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_rate"] * rate
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    def _agreed_progress(self) -> float:
        """All processes follow the first one's clock; a disagreement would end in a deadlock."""
        progress = torch.tensor([self.state.progress(self.plan)])
        if self.ranks > 1:
            dist.broadcast(progress, 0)
        return progress.item()

    def _wait_while_paused(self) -> None:
        while self.pause is not None and self.pause.exists():
            time.sleep(1.0)

    def _tell(self, loss: float, progress: float) -> None:
        state = self.state
        if state.step % 10 == 0:
            speed = state.tokens / max(state.seconds, 1e-9)
            print(
                f"step {state.step} tokens {state.tokens / 1e6:.2f}M loss {loss:.3f} "
                f"progress {progress:.3f} {speed:.0f} tokens/s",
                flush=True,
            )
        if self.report and state.step % self.plan.report_every == 0:
            self.model.eval()
            print(self.report(self.model), flush=True)
            self.model.train()

    def _save(self) -> None:
        found: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "state": vars(self.state),
        }
        unfinished = self.checkpoint.with_suffix(".part")
        torch.save(found, unfinished)
        unfinished.replace(self.checkpoint)

    def _load(self) -> None:
        found = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(found["model"])
        for optimizer, state in zip(self.optimizers, found["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.state = State(**found["state"])


def load_weights(model: Llama, checkpoint: Path) -> Llama:
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    return model.eval()


def _optimizers(model: Llama, plan: Plan) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and n.startswith("blk.")]
    others = [p for n, p in model.named_parameters() if p.dim() < 2 or not n.startswith("blk.")]
    muon = torch.optim.Muon(matrices, lr=plan.matrix_rate, momentum=0.95, weight_decay=0.1)
    adam = torch.optim.AdamW(
        others, lr=plan.other_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return [muon, adam]


def _join() -> tuple[int, int]:
    """Rank and number of processes: (0, 1) unless torchrun started us."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def _average(gradients: list[Tensor], ranks: int) -> None:
    if ranks == 1:
        return
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= ranks
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
