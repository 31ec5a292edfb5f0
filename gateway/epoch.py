"""One configuration's applications, and the requests that began under it.

A listener holds one `Entrance` for as long as the process lives; what stands behind it is an
`Epoch`, and a reload puts the next one there in a single assignment. A request stays with the epoch
that it began with, so it never sees half of each; an epoch that has been left by its last request
can be taken down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.asgi import App, Receive, Scope, Send


class Epoch:
    """The applications of one configuration: the public one, and the admin port's."""

    def __init__(self, public: App, private: App) -> None:
        self.public = public
        self.private = private
        self._requests: set[asyncio.Task[object]] = set()
        self._sessions: set[asyncio.Task[object]] = set()
        self._left = asyncio.Event()

    async def serve(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        group = self._sessions if scope["type"] == "websocket" else self._requests
        group.add(task)
        try:
            await app(scope, receive, send)
        finally:
            group.discard(task)
            if not self.inside:
                self._left.set()

    @property
    def inside(self) -> int:
        return len(self._requests) + len(self._sessions)

    async def left(self) -> None:
        """Until nobody is inside. For an epoch that nobody enters any more."""
        while self.inside:
            self._left.clear()
            await self._left.wait()

    def cut(self) -> None:
        """Cancel the requests inside, which know from `Admission.over` what to tell their clients.

        Sessions are ended by the CompanionEndpoint that holds them.
        """
        for task in tuple(self._requests):
            task.cancel()


class Entrance:
    """An ASGI application that is whatever the current epoch says it is."""

    def __init__(self, current: Callable[[], Epoch], *, private: bool = False) -> None:
        self._current = current
        self._private = private

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        epoch = self._current()
        app = epoch.private if self._private else epoch.public
        await epoch.serve(app, scope, receive, send)
