"""A second artifact beside the one in force: it scores the same requests and decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router_policies.learned.artifact import Artifact
from router_policies.learned.share import ShareKeeper


class Shadow:
    """What a candidate would have done, at the share that the one in force really sends."""

    def __init__(self, artifact: Artifact, target: float | None) -> None:
        self.artifact = artifact
        self._target = target
        self._keeper = ShareKeeper(target or 0.0, artifact.scores)
        self._requests = 0
        self._strong = 0
        self._would = 0
        self._agreed = 0

    def score(self, text: str) -> float:
        return self.artifact.router.assess(text).score

    def note(self, score: float, *, strong: bool) -> None:
        """A request with this score of ours was sent to one side by the artifact in force."""
        self._requests += 1
        self._strong += strong
        if self._target is None:
            self._keeper.target = self._strong / self._requests
        would = self._keeper.rank(score) >= self._keeper.cut
        self._keeper.note(score, strong=would)
        self._would += would
        self._agreed += would == strong

    def state(self) -> Mapping[str, Any]:
        """How often both agreed, and what share each sends to the strong side."""
        count = max(1, self._requests)
        return {
            "artifact": self.artifact.digest,
            "requests": self._requests,
            "agreed": self._agreed / count,
            "strong_share_in_force": self._strong / count,
            "strong_share_shadow": self._would / count,
        }
