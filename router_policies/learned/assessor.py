"""An alias's own assessor: the shared artifact, and the closed loop of its share and its spending.

Planning reads it and never changes it, so a dry run leaves no trace; a request that ran is noted
afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.core.chat import ChatRequest
from gateway.core.routing import Facts, Route, Tier
from router_policies.learned.artifact import Artifact
from router_policies.learned.model import Assessment
from router_policies.learned.shadow import Shadow
from router_policies.learned.share import ShareKeeper, SpendCap
from router_policies.learned.text import view


class AliasAssessor:
    """Assesses the requests of one alias. `cloud_share` and `usd_per_hour` are None where unset."""

    def __init__(
        self,
        artifact: Artifact,
        clock: Callable[[], float],
        *,
        cloud_share: float | None = None,
        usd_per_hour: float | None = None,
        shadow: Artifact | None = None,
        before: AliasAssessor | None = None,
    ) -> None:
        self.artifact = artifact
        self._clock = clock
        self._requests = 0
        self._keeper = None
        self._cap = None
        self._shadow = None if shadow is None else Shadow(shadow, cloud_share)
        if cloud_share is not None:
            self._keeper = ShareKeeper(cloud_share, artifact.scores)
        if usd_per_hour is not None:
            self._cap = SpendCap(usd_per_hour)
        if before is not None:
            self._go_on_from(before)

    def assess(self, request: ChatRequest) -> Facts:
        """The router's facts of a request; none where there is no text to score."""
        text = view(request)
        if text is None:
            return {}
        facts = self._facts(self.artifact.router.assess(text))
        if self._shadow is not None:
            facts["router.shadow"] = self._shadow.score(text)
        return facts

    def explain(self, request: ChatRequest) -> Mapping[str, float]:
        """What each feature gave to the request's score; the parts add up to it."""
        text = view(request)
        return {} if text is None else self.artifact.router.explain(text)[1]

    def note(self, facts: Facts, route: Route) -> None:
        """A request with these facts took this route."""
        # A rule's route has no score. One by score that was moved past a queue still has it.
        score = route.score
        if score is None:
            return
        strong = route.candidates[0].upstream.tier is not Tier.LOCAL
        self._requests += 1
        if self._keeper is not None:
            self._keeper.note(score, strong=strong)
        if self._shadow is not None:
            self._shadow.note(facts["router.shadow"], strong=strong)

    def kept(self, route: Route) -> None:
        """The draft of the cascade that this route begins with was good enough."""
        first = route.candidates[0].upstream
        sent = first.kind == "cascade" and first.tier is not Tier.LOCAL
        if self._keeper is not None and route.score is not None and sent:
            self._keeper.recall(route.score)

    def spent(self, usd: float) -> None:
        """An answer cost so much."""
        if self._cap is not None and usd > 0:
            self._cap.note(usd, self._clock())

    def state(self) -> Mapping[str, Any]:
        """What an operator may want to see of it."""
        state: dict[str, Any] = {"artifact": self.artifact.digest, "requests": self._requests}
        if self._keeper is not None:
            state |= {"cloud_share": self._keeper.target, "cloud_share_lately": self._keeper.share}
        if self._cap is not None:
            state["spending_capped"] = self._cap.reached(self._clock())
        if self._shadow is not None:
            state["shadow"] = self._shadow.state()
        return state

    def _facts(self, said: Assessment) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "router.score": said.score,
            "router.weak_ok": said.weak_ok,
            "router.strong_ok": said.strong_ok,
            "router.novelty": said.novelty,
        }
        if self._keeper is not None:
            facts["router.rank"] = self._keeper.rank(said.score)
            facts["router.cut"] = self._keeper.cut
        if self._cap is not None:
            facts["router.capped"] = self._cap.reached(self._clock())
        return facts

    def _go_on_from(self, before: AliasAssessor) -> None:
        """Keep what the loop knows, where it still means the same."""
        self._requests = before._requests
        same = before.artifact.digest == self.artifact.digest
        if self._keeper is not None and before._keeper is not None and same:
            target, self._keeper = self._keeper.target, before._keeper
            self._keeper.target = target
        if self._cap is not None and before._cap is not None:
            usd, self._cap = self._cap.usd_per_hour, before._cap
            self._cap.usd_per_hour = usd
        if self._shadow is not None and before._shadow is not None:
            earlier = before._shadow
            if earlier.artifact.digest == self._shadow.artifact.digest and same:
                self._shadow = earlier
