"""The model: a llama-shaped decoder small enough to train on one CPU core.

Read top down. Names follow the GGUF tensors they become (`export.py`), shapes stand in the
margin: B sequences, T tokens, D width, H heads, K key/value heads, C head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Every row length is a multiple of 32, so that Q8_0 covers all matrices."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocab: int = 4096
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def head_size(self) -> int:
        return self.width // self.heads


SHAPES = {
    "draft": Shape(width=128, layers=4, heads=4, kv_heads=2, feed_forward=352),
    "target": Shape(width=256, layers=8, heads=8, kv_heads=4, feed_forward=704),
}


class Block(nn.Module):
    """One layer: attention, then a gated feed-forward, each behind its own norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv = shape.kv_heads * shape.head_size
        self.attn_norm = nn.RMSNorm(shape.width, eps=shape.norm_eps)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, kv, bias=False)
        self.attn_v = nn.Linear(shape.width, kv, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, eps=shape.norm_eps)
        self.ffn_gate = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.ffn_down = nn.Linear(shape.feed_forward, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attend(self.attn_norm(x), cos, sin)
        h = self.ffn_norm(x)
        out: Tensor = x + self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h))
        return out

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        size = self.shape.head_size
        q = self.attn_q(x).view(batch, length, self.shape.heads, size).transpose(1, 2)  # B H T C
        k = self.attn_k(x).view(batch, length, self.shape.kv_heads, size).transpose(1, 2)  # B K T C
        v = self.attn_v(x).view(batch, length, self.shape.kv_heads, size).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        groups = self.shape.heads // self.shape.kv_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.attn_output(y.transpose(1, 2).reshape(batch, length, self.shape.width))
        return out


class Llama(nn.Module):
    """Token ids in, logits out; the embedding is also the output matrix."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab, shape.width)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=shape.norm_eps)
        self._initialise()

    def _initialise(self) -> None:
        for name, weight in self.named_parameters():
            if weight.dim() < 2:
                continue
            std = 0.02
            if name.endswith(("attn_output.weight", "ffn_down.weight")):
                std /= math.sqrt(2 * self.shape.layers)  # keep the residual stream's variance flat
            nn.init.normal_(weight, std=std)

    def hidden(self, tokens: Tensor) -> Tensor:
        x = self.token_embd(tokens)  # B T D
        cos, sin = rope_table(self.shape, tokens.shape[1], x.dtype)
        for block in self.blk:
            x = block(x, cos, sin)
        out: Tensor = self.output_norm(x)
        return out

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.hidden(tokens), self.token_embd.weight)  # B T V


def rope_table(shape: Shape, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    half = shape.head_size // 2
    frequency = shape.rope_base ** (-torch.arange(half) / half)
    angle = torch.outer(torch.arange(length).float(), frequency)  # T C/2
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates interleaved pairs, as llama.cpp does for arch `llama`: no permutation on export."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    return rotated.flatten(-2).to(x.dtype)


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
