"""How long the target's passes take by their width, as either end of a session sees them."""

from __future__ import annotations

from collections.abc import Mapping

from backends.speculative.session import Opened

ENOUGH_PASSES = 4
SMOOTHING = 0.2
MOST_WIDTHS = 32
PLAUSIBLE_MS = (1e-3, 1e6)
"""What another end says of a pass beyond these is left out: times that are nearly nothing, or
endless, would come back as divisions by zero and infinite leads."""


class Passes:
    """Seconds of the target's passes by their width, from commit to commit."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._seen: dict[int, tuple[int, float]] = {}

    def note(self, width: int, now: float) -> None:
        if self._last is not None:
            count, seconds = self._seen.get(width, (0, 0.0))
            self._seen[width] = count + 1, seconds + now - self._last
        self._last = now

    @property
    def seconds(self) -> dict[int, float]:
        """Of the widths that were seen often enough for a late packet not to count as a pass."""
        return {
            width: seconds / count
            for width, (count, seconds) in self._seen.items()
            if count >= ENOUGH_PASSES and seconds > 0
        }


def pass_seconds(opened: Opened) -> dict[int, float]:
    """What the other end says of its passes, by width; it may say anything."""
    least, most = PLAUSIBLE_MS
    return {
        int(width): ms / 1e3
        for width, ms in opened.tv_ms.items()
        if width.isascii() and width.isdigit() and len(width) < 4 and least <= ms <= most
    }


class TargetPace:
    """Of one target, over its sessions: what a companion tells an edge that has measured nothing.

    From commit to commit, so with whatever else runs in the target's batch: that is what the next
    answer will meet, too.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def see(self, seconds: Mapping[int, float]) -> None:
        """What one session's passes took."""
        for width, took in seconds.items():
            old = self._seconds.get(width)
            if old is not None:
                self._seconds[width] = old + SMOOTHING * (took - old)
            elif len(self._seconds) < MOST_WIDTHS:
                self._seconds[width] = took

    @property
    def t1_ms(self) -> float | None:
        """Milliseconds of a pass without drafts; None if none was seen."""
        alone = self._seconds.get(1)
        return None if alone is None else round(1e3 * alone, 3)

    @property
    def tv_ms(self) -> dict[str, float]:
        """The same by width, for the wire."""
        return {str(width): round(1e3 * s, 3) for width, s in sorted(self._seconds.items())}
