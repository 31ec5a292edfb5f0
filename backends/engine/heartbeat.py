"""Is a worker's process running at all? Asked every moment, busy or idle.

A thread of the worker's answers each ping, also while another computes for a long time, so silence
means that the whole process stands still: stopped, frozen, or its interpreter held. That needs no
patience, unlike a long step (client.py). Two things must not look like it:

- our own loop was held up: so ticks are counted, not seconds, and between two of them the answer
  that lies in the socket is read;
- the machine is so busy that the process gets no turn, or waits for its disk: then it is runnable,
  or uses the processor, or is inside the kernel.
"""

from __future__ import annotations

from pathlib import Path

BEAT_S = 0.6
MISSED = 4
"""Ticks without an answer: 2.4 to 3 s, so that a stopped worker is replaced within 5."""
UNSEEN = 4
"""So many times as long where there is no /proc: one that gets no turn looks the same there."""


class Heartbeat:
    """The count for one process."""

    def __init__(self, pid: int, *, missed: int = MISSED) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._limit = missed if self._stat.exists() else UNSEEN * missed
        self._missed = 0
        self._asked = False
        self._used = -1

    def answered(self) -> None:
        self._asked, self._missed = False, 0

    def tick(self) -> bool:
        """To be called at each ping, before it is sent; whether the process counts as hung."""
        state, used = self._process()
        stands = state not in ("R", "D") and used in (self._used, -1)
        self._used = used
        self._missed = self._missed + 1 if self._asked and stands else 0
        self._asked = True
        return self._missed >= self._limit

    def _process(self) -> tuple[str, int]:
        """Its state's letter, and its processor time; ("", -1) where there is no /proc."""
        try:
            fields = self._stat.read_text().rpartition(")")[2].split()
        except OSError:
            return "", -1
        return fields[0], int(fields[11]) + int(fields[12])
