"""Ports where nobody answers: one that refuses, and one that never takes a connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


def unused_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose listener's backlog is full: further SYNs are dropped, so that connects hang."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()[1]
        finally:
            for filler in fillers:
                filler.close()
