"""Drafts of text for a target of another vocabulary: cut into its tokens, beside its worker.

Text is read from the target's last token on, not from its beginning: what it has said it has cut in
its own way. The helper process does it, as it does for prompts, and nothing in a draft is a control
token. While the text grows its last token is kept back, since the next letter may make another of
it; if it has not grown during a pass, that is all there is.

A cut that the target does not share costs only itself: the text may still be right, and then is cut
again from where the target is. So the worker's epochs, which count tokens that disagreed, and those
of the session, which count texts, are two things here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from backends.engine.drafts import MAX_PENDING
from backends.engine.protocol import Output
from backends.speculative.seams import Running, Tokenizer
from backends.speculative.session import Draft
from backends.speculative.text_line import TextLine
from gateway.core.errors import TandemError


class TextDrafts:
    """One session's. Whoever makes it closes it."""

    def __init__(self, running: Running, tokenizer: Tokenizer) -> None:
        self._running = running
        self._tokenizer = tokenizer
        self._line = TextLine()
        self._done = 0
        self._epoch = 0
        self._given: tuple[int, Sequence[int]] = (0, ())
        self._grown = False
        self._whole = False
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def put(self, draft: Draft) -> bool:
        """Take a draft; False if it comes too late to be of use."""
        used = self._line.put(draft.epoch, draft.base_pos, draft.text)
        if used:
            self._grown, self._whole = True, False
            self._news.set()
        return used

    def note(self, output: Output) -> int:
        """The target has made a pass; the session's epoch after it."""
        self._line.commit(output.raw)
        self._done = max(self._done, output.base + len(output.tokens))
        dropped = output.epoch > self._epoch
        if dropped:
            self._epoch, self._given = output.epoch, (self._done, ())
        if self._line.rest:
            base, tokens = self._given
            used_up = self._done >= base + len(tokens)
            self._whole = self._whole or not self._grown
            if dropped or used_up:
                self._news.set()
        self._grown = False
        return self._line.epoch

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            rest, base, epoch = self._line.rest, self._done, self._epoch
            if not rest:
                continue
            try:
                tokens = await self._tokenizer.plain(rest.decode(), "draft")
            except TandemError:
                continue  # the answer does not need it
            if self._epoch == epoch:
                self._give(base, tokens if self._whole else tokens[:-1])

    def _give(self, base: int, tokens: Sequence[int]) -> None:
        tokens = tokens[:MAX_PENDING]
        if not tokens:
            return
        before, given = self._given
        # Tokens at positions that others were given for: a new epoch, or both would stand there.
        overlap = given[base - before : base - before + len(tokens)] if base >= before else ()
        longer = base >= before and before + len(given) > base + len(tokens)
        if longer or tuple(overlap) != tuple(tokens[: len(overlap)]):
            self._epoch += 1
        self._given = base, tokens
        self._running.draft(self._epoch, base, tokens)
