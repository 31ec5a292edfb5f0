"""What drafting costs and saves in dollars, signed; pure.

    + what the drafter's tokens or seconds cost            its price, or watts at its electricity's
    + what verifying is billed beyond the answer itself    rejected tokens, where they are
    - what the target did not have to do                   only where its electricity is what we pay

A target billed by the token bills the same answer either way, so speed alone saves nothing there.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.chat import Usage
from gateway.core.routing import JOULES_PER_KWH, Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Of one answer: tokens that the drafter made and its busy seconds; passes of the target that
    were saved and what each takes; what was billed for verifying beyond the answer."""

    drafted: int = 0
    draft_s: float = 0.0
    saved_passes: int = 0
    target_s: float = 0.0
    verified: Usage = Usage()


def usd_delta(work: Work, *, draft: Upstream | None, target: Upstream) -> float | None:
    """Dollars of this answer less those of plain streaming; None where nobody knows a price."""
    spent = 0.0 if draft is None else _drafting(work, draft)
    billed = _verifying(work, target)
    return None if spent is None or billed is None else spent + billed - _saved(work, target)


def _drafting(work: Work, draft: Upstream) -> float | None:
    price = draft.price
    if not work.drafted or price is None:
        return 0.0  # our own machine, at no price: what counts there is said as energy
    if price.kwh is not None:
        if draft.watts is None:
            return None
        return draft.watts * work.draft_s / JOULES_PER_KWH * price.kwh
    return price.of(Usage(completion_tokens=work.drafted))


def _verifying(work: Work, target: Upstream) -> float | None:
    extra = work.verified
    if not extra.prompt_tokens and not extra.completion_tokens:
        return 0.0
    return target.cost_of(extra)


def _saved(work: Work, target: Upstream) -> float:
    price = target.price
    if price is None or price.kwh is None or target.watts is None:
        return 0.0
    return target.watts * work.saved_passes * work.target_s / JOULES_PER_KWH * price.kwh
