"""The draft's objective: say what the target would say.

A draft is not asked for good text, it is asked for the target's text: every proposed token that
the target would not have chosen is thrown away. So its labels are the target's distribution
(Kullback-Leibler), with some weight on the target's first choice, which is what greedy
verification compares.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backends.engine.demo_pair.model import Llama
from backends.engine.demo_pair.train import Objective

FIRST_CHOICE_WEIGHT = 0.5


def from_target(target: Llama) -> Objective:
    for parameter in target.parameters():
        parameter.requires_grad_(False)

    def loss(draft: Llama, tokens: Tensor, weights: Tensor) -> Tensor:
        inputs = tokens[:, :-1]
        weight = weights[:, 1:].flatten()
        with torch.no_grad():
            wanted = F.log_softmax(target(inputs).flatten(0, 1).float(), dim=-1)  # BT V
        said = F.log_softmax(draft(inputs).flatten(0, 1).float(), dim=-1)
        divergence = (wanted.exp() * (wanted - said)).sum(-1)
        first = F.nll_loss(said, wanted.argmax(-1), reduction="none")
        return ((divergence + FIRST_CHOICE_WEIGHT * first) * weight).sum() / weight.sum().clamp(
            min=1.0
        )

    return loss


@torch.no_grad()
def same_choice(target: Llama, draft: Llama, rows: list[tuple[Tensor, Tensor]]) -> float:
    """Share of weighted positions where both would choose the same token."""
    same = total = 0.0
    for tokens, weights in rows:
        counted = weights[:, 1:] >= 1.0
        equal = target(tokens[:, :-1]).argmax(-1) == draft(tokens[:, :-1]).argmax(-1)
        same += (equal & counted).sum().item()
        total += counted.sum().item()
    return same / total
