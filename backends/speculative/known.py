"""What is known of a pair: what all its answers share, and how drafts fare by kind of request.

The link, the passes and the drafter's pace are the pair's. How often drafts hold, and so whether
they pay, differs by what is asked and how hotly it is sampled; each kind has estimates of its own,
and one that is new begins with the pair's acceptance, so that the formula can decide at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from backends.speculative.controller import Estimates, Observation
from gateway.core.chat import ChatRequest, Endpoint, Feature

Task: TypeAlias = Literal["fim", "edit", "chat", "completion"]
Heat: TypeAlias = Literal["greedy", "mild", "hot"]
TASKS: tuple[Task, ...] = ("fim", "edit", "chat", "completion")
HEATS: tuple[Heat, ...] = ("greedy", "mild", "hot")
MILD = 0.7


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests whose drafts hold alike: a task class, and a bucket of temperatures."""

    task: Task
    heat: Heat

    @classmethod
    def of(cls, request: ChatRequest) -> Kind:
        """No temperature is hot: OpenAI's default is 1."""
        temperature = request.sampling.temperature
        heat: Heat = "hot"
        if temperature is not None and temperature <= MILD:
            heat = "mild" if temperature > 0 else "greedy"
        if Feature.FIM in request.features:
            return cls("fim", heat)
        if Feature.PREDICTION in request.features:
            return cls("edit", heat)
        return cls("chat" if request.endpoint is Endpoint.CHAT else "completion", heat)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Both, as one value: a moment of what was learnt."""

    pair: Estimates = Estimates()
    kinds: Mapping[Kind, Estimates] = field(default_factory=dict)

    def of(self, kind: Kind) -> Estimates:
        """A kind's own acceptance, rates and decision, with what the pair has measured."""
        pair, own = self.pair, self.kinds.get(kind, Estimates())
        return replace(
            own,
            alpha=pair.alpha if own.alpha is None else own.alpha,
            plain=pair.plain,
            alone=pair.alone,
            draft_s=pair.draft_s,
            rtt_s=pair.rtt_s,
            rtts=pair.rtts,
            verify_s=pair.verify_s,
            correction=pair.correction if own.drafting.tokens == 0 else own.correction,
        )

    def after(self, kind: Kind, seen: Observation) -> Known:
        """What is known once an answer has ended."""
        return Known(
            pair=self.pair.after(seen), kinds={**self.kinds, kind: self.of(kind).after(seen)}
        )
