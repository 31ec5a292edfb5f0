"""How a server of OpenAI's wire is asked to go on with an answer, and what it says first.

A chat template may trim a message, so a prefix is sent without its trailing blanks, and the model
says them again. Some servers say the whole prefix again. Either is taken off the beginning of what
comes, so that exactly what follows the prefix is left (`ChatRequest.continues`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from os.path import commonprefix
from typing import Any

from backends.profiles import Continuation
from gateway.core.chat import ChatRequest, Endpoint
from gateway.core.events import Event, Finish, Frame, TextDelta


def ask(body: dict[str, Any], request: ChatRequest, how: Continuation) -> None:
    """Change a body so that it asks for what follows `request.continues`."""
    if request.endpoint is not Endpoint.CHAT:
        assert isinstance(request.prompt, str)
        body["prompt"] = request.prompt + request.continues
        return
    begun = request.continues.rstrip()
    if not begun:
        return  # an empty message would be refused; what is asked anew begins with these blanks
    turn: dict[str, Any] = {"role": "assistant", "content": begun}
    if how is Continuation.PREFIX:
        turn["prefix"] = True
    body["messages"] = [*body["messages"], turn]
    if how is Continuation.FLAG:
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False


async def rest(
    events: AsyncGenerator[Event, None], request: ChatRequest, *, repeats: bool
) -> AsyncGenerator[Event, None]:
    """What follows the prefix. Without frames, for its text is not the upstream's any more.

    `repeats`: whether the server may say the whole prefix again.
    """
    seam = Seam(request, repeats=repeats)
    async with aclosing(events):
        async for event in events:
            if isinstance(event, TextDelta) and event.choice == 0:
                if text := seam.push(event.text):
                    yield replace(event, text=text, frame=None)
                continue
            if isinstance(event, Finish) and (text := seam.flush()):
                yield TextDelta(text=text)
            if not isinstance(event, Frame):
                yield replace(event, frame=None)
    if text := seam.flush():
        yield TextDelta(text=text)


class Seam:
    """Takes off the beginning of a text what the client already has. Pure."""

    def __init__(self, request: ChatRequest, *, repeats: bool) -> None:
        chat = request.endpoint is Endpoint.CHAT
        begun = request.continues
        self._blanks = begun[len(begun.rstrip()) :] if chat else ""
        # Where a server does not repeat, an answer that repeats itself must not lose a turn.
        self._whole = begun.rstrip() if chat and repeats else ""
        self._held = ""
        self._open = bool(self._whole or self._blanks)

    def push(self, text: str) -> str:
        """More of what the server says; returns what is new in it as far as that is clear."""
        if not self._open:
            return text
        self._held += text
        if self._undecided(self._held):
            return ""
        return self.flush()

    def flush(self) -> str:
        """What is new in the held text, when no more of it comes."""
        if not self._open:
            return ""
        self._open = False
        held, self._held = self._held, ""
        if self._whole and held.startswith(self._whole):
            held = held[len(self._whole) :]
        return held[len(commonprefix([held, self._blanks])) :]

    def _undecided(self, held: str) -> bool:
        if self._whole and held.startswith(self._whole):
            held = held[len(self._whole) :]
        elif self._whole.startswith(held) and self._whole:
            return True
        return len(held) < len(self._blanks) and self._blanks.startswith(held)
