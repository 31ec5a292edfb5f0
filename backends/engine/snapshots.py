"""Evicted sequences kept in RAM: llama.cpp's state of each, found again by its tokens.

The memory is one anonymous file that the gateway makes and every worker of a model inherits. So it
outlives a worker that was unloaded for another model or crashed, and nothing is left behind however
the gateway ends. It is a ring: a new snapshot overwrites the oldest. A snapshot says itself what it
is, and counts only once the header has moved past it, so a worker may die at any byte.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backends.engine.prefix import common

_MAGIC = b"tandem01"
_HEADER = struct.Struct("<8s32sQQ")  # magic, fingerprint, first byte in use, first byte free
_ENTRY = struct.Struct("<QII")  # bytes of state, tokens, bytes of the tenant's name
_SKIP = (1 << 64) - 1
"""In place of a state's size: the ring goes on at its beginning."""
START = 4096
MARGIN = 32
"""Tokens that a snapshot must save beyond what is resident; copying is not free."""


def fingerprint(path: Path, *facts: str) -> bytes:
    """Of a model file as it is now, and of all else that a state's bytes depend on.

    Of the file its size, its time and its first 4 MiB (metadata and the table of tensors): reading
    all of it would cost more than the snapshots save.
    """
    told = path.stat()
    digest = hashlib.sha256(f"{told.st_size} {told.st_mtime_ns} {facts!r}".encode())
    with path.open("rb") as file:
        digest.update(file.read(4 * 1024 * 1024))
    return digest.digest()


def shared_memory(size: int) -> int:
    """The descriptor of an anonymous file of so many bytes; -1 where there is no such thing.

    Linux only. Pages that were never written take no memory.
    """
    if not hasattr(os, "memfd_create"):
        return -1
    descriptor = os.memfd_create("tandem-snapshots")
    os.ftruncate(descriptor, START + size)
    return descriptor


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`at` is where in the memory its bytes begin, `state` where those of llama.cpp do."""

    at: int
    end: int
    tenant: str
    tokens: tuple[int, ...]
    state: int


class Snapshots:
    """The ring over a shared memory. Raises nothing: what does not fit is not kept."""

    def __init__(self, memory: mmap.mmap, fingerprint: bytes) -> None:
        self._memory = memory
        self._fingerprint = fingerprint
        self._kept: deque[Snapshot] = deque()
        self._head = START
        if len(memory) > START:
            self._read()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def used(self) -> int:
        """Bytes."""
        return sum(kept.end - kept.at for kept in self._kept)

    def match(self, tenant: str, tokens: Sequence[int]) -> tuple[int, Snapshot | None]:
        """How many tokens the best snapshot shares with the beginning of `tokens`; the shortest
        such one, since all of it is copied."""
        line = tuple(tokens)
        best: tuple[int, Snapshot | None] = (0, None)
        for kept in self._kept:
            if kept.tenant != tenant:
                continue
            same = common(kept.tokens, line)
            shortest = best[1] is not None and len(kept.tokens) < len(best[1].tokens)
            if same > best[0] or (same and same == best[0] and shortest):
                best = same, kept
        return best

    def put(self, tenant: str, tokens: Sequence[int], state: memoryview) -> bool:
        """Keep a sequence's state, unless a longer one covers it already or it does not fit."""
        line, name = tuple(tokens), tenant.encode()
        if self.match(tenant, line)[0] == len(line):
            return False
        size = _ENTRY.size + len(name) + 4 * len(line) + len(state)
        if size + _ENTRY.size > len(self._memory) - START:
            return False
        at = self._room(size)
        entry = _ENTRY.pack(len(state), len(line), len(name))
        head = entry + name + np.array(line, np.int32).tobytes()
        self._memory[at : at + len(head)] = head
        self._memory[at + len(head) : at + size] = state
        self._kept.append(Snapshot(at, at + size, tenant, line, at + len(head)))
        self._head = at + size
        self._write_header()
        return True

    def __contains__(self, snapshot: Snapshot) -> bool:
        """Whether it is still whole: each `put` may overwrite others."""
        return snapshot in self._kept

    def state(self, snapshot: Snapshot) -> memoryview:
        """Its bytes; release the view before the next `put`."""
        return memoryview(self._memory)[snapshot.state : snapshot.end]

    def _room(self, size: int) -> int:
        """Where so many bytes may be written; what lay there is forgotten first."""
        # A note that the ring goes on at its beginning must always fit behind a snapshot.
        if self._head + size + _ENTRY.size > len(self._memory):
            while self._kept and self._kept[0].at >= self._head:
                self._kept.popleft()
            if self._head + _ENTRY.size <= len(self._memory):
                skip = _ENTRY.pack(_SKIP, 0, 0)
                self._memory[self._head : self._head + len(skip)] = skip
            self._head = START
        end = self._head + size + _ENTRY.size
        while self._kept and self._head <= self._kept[0].at < end:
            self._kept.popleft()
        self._write_header()
        return self._head

    def _write_header(self) -> None:
        first = self._kept[0].at if self._kept else self._head
        header = _HEADER.pack(_MAGIC, self._fingerprint, first, self._head)
        self._memory[: len(header)] = header

    def _read(self) -> None:
        """What an earlier worker left, if it was of the same model and settings."""
        magic, fingerprint, at, head = _HEADER.unpack_from(self._memory)
        if (magic, fingerprint) != (_MAGIC, self._fingerprint):
            self._write_header()
            return
        wrapped = False
        while at != head:
            if at + _ENTRY.size > len(self._memory):
                size = _SKIP
            else:
                size, tokens, name = _ENTRY.unpack_from(self._memory, at)
            if size == _SKIP:
                if wrapped:
                    break  # not a ring that we wrote
                at, wrapped = START, True
                continue
            state = at + _ENTRY.size + name + 4 * tokens
            if state + size > len(self._memory):
                break
            tenant = self._memory[at + _ENTRY.size : at + _ENTRY.size + name].decode(
                "utf-8", "replace"
            )
            line = np.frombuffer(self._memory, np.int32, tokens, at + _ENTRY.size + name).tolist()
            self._kept.append(Snapshot(at, state + size, tenant, tuple(line), state))
            at = state + size
        self._head = head
