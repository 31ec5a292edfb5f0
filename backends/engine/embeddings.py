"""Requests for embeddings on the gateway's side: vectors come one by one, and go out together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gateway.core.errors import TandemError


@dataclass(slots=True)
class _Waiting:
    answer: asyncio.Future[tuple[bytes, ...]]
    texts: int
    vectors: dict[int, bytes] = field(default_factory=dict)


class Embeddings:
    """What is under way at one worker, by id."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, id: int, texts: int) -> asyncio.Future[tuple[bytes, ...]]:
        """What will be the vectors of so many texts, in order; to be waited for by one."""
        answer: asyncio.Future[tuple[bytes, ...]] = asyncio.get_running_loop().create_future()
        self._waiting[id] = _Waiting(answer, texts)
        return answer

    def deliver(self, id: int, at: int, vector: bytes, error: TandemError | None) -> None:
        """One text's vector, or why the request has none. Of an ended request: ignored."""
        waiting = self._waiting.get(id)
        if waiting is None or waiting.answer.done():
            return
        if error is not None:
            waiting.answer.set_exception(error)
            return
        waiting.vectors[at] = vector
        if len(waiting.vectors) == waiting.texts:
            waiting.answer.set_result(tuple(waiting.vectors[i] for i in range(waiting.texts)))

    def done(self, id: int) -> bool:
        """Forget a request; whether all its vectors had come."""
        waiting = self._waiting.pop(id)
        return len(waiting.vectors) == waiting.texts

    def fail(self, error: TandemError) -> None:
        """The worker has gone: nothing more comes for anybody."""
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(error)
