"""How many requests may be inside at once; the permit travels with the stream and frees itself."""

from __future__ import annotations

from gateway.core.errors import Overloaded, Unavailable


class Permit:
    """A place inside. `release` is idempotent, so that every exit may call it."""

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission

    def release(self) -> None:
        if self._admission is not None:
            self._admission.inside -= 1
            self._admission = None


class Admission:
    """Counts the requests inside; refuses above `limit`, and everything while draining."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.inside = 0
        self.draining = False

    def enter(self) -> Permit:
        """Raises Overloaded above the limit, Unavailable once draining has begun."""
        if self.draining:
            raise Unavailable("The gateway is shutting down.", code="draining", retry_after=1)
        if self.inside >= self.limit:
            raise Overloaded(
                f"The gateway already serves {self.limit} requests.",
                code="too_many_requests",
                retry_after=1,
            )
        self.inside += 1
        return Permit(self)
