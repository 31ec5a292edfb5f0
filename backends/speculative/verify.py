"""The companion's end of a session: a target that never idles, and the drafts that reach it.

The target generates by itself and every pass is pushed at once. Drafts are handed to its worker as
they come; there a draft is used if it continues exactly what stands, and costs nothing but its
verification if it does not. So nothing that an edge sends, or fails to send, can change a byte of
the answer or hold it up.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from backends.engine.protocol import MAX_DRAFT, Job, Output
from backends.speculative.seams import Channel, Ended, Gone, Running, Target
from backends.speculative.session import (
    VERSION,
    Cancel,
    Commit,
    Draft,
    Failure,
    Fingerprint,
    MalformedMessage,
    Open,
    Opened,
    Stale,
)
from gateway.core.chat import ChatRequest, Feature, Usage
from gateway.core.errors import (
    EngineFailed,
    InvalidRequest,
    Overloaded,
    TandemError,
    Unsupported,
    UpstreamError,
)
from gateway.core.exchange import Caller

OPEN_S = 10.0
"""A socket that has said nothing by then is closed."""
MOST_DRAFTS = 64
"""Drafts handed on between two passes: nobody's flood may pile up before the worker."""


UNSUITED = frozenset({Feature.TOOLS, Feature.JSON_MODE, Feature.GRAMMAR})
"""What a target may have and a session does not carry: text is all that it tells."""


class VerifySession:
    """One session, from its first message to its last. `run` returns when it is over."""

    def __init__(
        self,
        channel: Channel,
        caller: Caller,
        *,
        resolve: Callable[[str], Target],
        read: Callable[[Open, Caller], ChatRequest],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Bound to the caller whose key opened it, and not to be guessed by another.
        self.id = secrets.token_urlsafe(18)
        self._channel = channel
        self._caller = caller
        self._resolve = resolve
        self._read = read
        self._clock = clock
        self._began = clock()
        self._model = ""
        self._usage = Usage()
        self._running: Running | None = None
        self._epoch = 0
        self._position = 0
        self._takes_drafts = False
        self._since_pass = 0
        self._rounds = self._drafted = self._accepted = 0
        self._stopped: asyncio.Future[str] | None = None

    async def run(self) -> Ended:
        try:
            outcome = await self._converse()
        except Gone:
            outcome = "cancelled"
        except MalformedMessage as error:
            outcome = await self._fail(Failure(code="bad_message", message=str(error)))
        except TandemError as error:
            outcome = await self._fail(failure_of(error))
        return Ended(
            session=self.id,
            caller=self._caller,
            model=self._model,
            outcome=outcome,
            usage=self._usage,
            rounds=self._rounds,
            drafted=self._drafted,
            accepted=self._accepted,
            seconds=self._clock() - self._began,
        )

    def stop(self, error: TandemError) -> None:
        """End the session from our side, once it has begun; the edge is told why."""
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_exception(error)
            self._stopped.exception()  # heard, even if the session is over before it is told

    async def _converse(self) -> str:
        try:
            async with asyncio.timeout(OPEN_S):
                opening = await self._channel.receive()
        except TimeoutError:
            raise MalformedMessage("No 'open' came.") from None
        if not isinstance(opening, Open):
            raise MalformedMessage("A session begins with 'open'.")
        self._stopped = asyncio.get_running_loop().create_future()
        # Answering and listening run side by side: whichever ends first ends the session, so a
        # cancel is heard while the prompt is still waiting for its turn.
        answering = asyncio.create_task(self._answer(opening))
        listening = asyncio.create_task(self._listen())
        try:
            sides = (answering, listening, self._stopped)
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
            return next(side for side in sides if side.done()).result()
        finally:
            await _ended(answering, listening)

    async def _answer(self, opening: Open) -> str:
        target = self._resolve(opening.model)
        self._model = target.upstream.name
        self._check(opening, target)
        request = self._read(opening, self._caller)
        missing = request.features - (target.upstream.features - UNSUITED)
        if missing:
            param = min(missing).param
            raise Unsupported(f"The target does not have {param!r}.", param=param)
        tokens = await target.prompt(request)
        job = target.job(request, tokens, tenant=self._caller.tenant, role="target")
        job = replace(job, ahead=max(0, opening.max_width - 1))
        running = await target.engine.submit(job)
        try:
            await self._channel.send(self._opened(target, job))
            self._running = running
            return await self._push(running)
        finally:
            self._running = None
            await running.aclose()

    def _check(self, opening: Open, target: Target) -> None:
        """Raises what makes a session impossible, and plain streaming not."""
        if opening.v != VERSION:
            raise InvalidRequest(
                f"This companion speaks version {VERSION}.", code="version_mismatch"
            )
        if not opening.self_generate:
            raise InvalidRequest("A target that waits for drafts is not served.")
        theirs, ours = opening.model_fp, Fingerprint.of(target.vocabulary)
        if theirs is not None and not (ours is not None and theirs.drafts_for(ours)):
            raise InvalidRequest(
                "The drafter has another vocabulary than the target.", code="fingerprint_mismatch"
            )
        self._takes_drafts = theirs is not None and opening.max_width > 1

    def _opened(self, target: Target, job: Job) -> Opened:
        ready = target.engine.ready
        return Opened(
            session=self.id,
            prompt_ids=job.tokens if self._takes_drafts else (),
            model_fp=Fingerprint.of(target.vocabulary),
            max_ahead=MAX_DRAFT,
            # The worker has probed whether widths of two and more agree bit for bit; strict rows
            # are never decoded alone, and so never at width one, which does not (9.2).
            exactness=ready.exactness if ready and job.strict else "tie-tolerant",
            width_class="2+" if job.strict else "any",
        )

    async def _push(self, running: Running) -> str:
        async for output in running:
            if output.error is not None:
                raise EngineFailed("The target's engine gave this answer up.")
            self._note(output)
            await self._channel.send(_commit(output))
            if output.finish is not None:
                return "ok"
        raise EngineFailed("The target's engine ended without finishing.")

    def _note(self, output: Output) -> None:
        self._since_pass = 0
        self._rounds += bool(output.tokens)
        self._drafted += output.drafted
        self._accepted += output.accepted
        self._epoch = output.epoch
        self._position = max(self._position, output.base + len(output.tokens))
        self._usage = Usage(
            prompt_tokens=output.prompt_tokens,
            completion_tokens=output.completion_tokens,
            cached_tokens=output.cached_tokens,
        )

    async def _listen(self) -> str:
        while True:
            message = await self._channel.receive()
            match message:
                case Draft():
                    await self._draft(message)
                case Cancel():
                    return "cancelled"
                case _:
                    raise MalformedMessage(f"{message.type!r} came out of turn.")

    async def _draft(self, draft: Draft) -> None:
        of_no_use = not self._takes_drafts or draft.epoch < self._epoch
        of_no_use = of_no_use or self._since_pass >= MOST_DRAFTS
        if self._running is not None and not of_no_use:
            self._since_pass += 1
            # Also when it lies behind the target: there it may still show that the drafter took a
            # wrong turn, and what follows from it need not be verified.
            self._running.draft(draft.epoch, draft.base_pos, draft.tokens)
        if of_no_use or draft.base_pos + len(draft.tokens) <= self._position:
            await self._channel.send(Stale(epoch=draft.epoch, base_pos=draft.base_pos))

    async def _fail(self, failure: Failure) -> str:
        try:
            await self._channel.send(failure)
        except Gone:
            pass
        return failure.code


async def _ended(*tasks: asyncio.Task[str]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # heard, even if the other task's end is the one that is told


def failure_of(error: TandemError) -> Failure:
    """An error of the tree as the session says it. Over HTTP, the same request may fare better."""
    return Failure(
        code=error.code or error.type,
        message=error.message,
        retry=isinstance(error, Overloaded | UpstreamError),
        fallback="stream",
    )


def _commit(output: Output) -> Commit:
    return Commit(
        epoch=output.epoch,
        base_pos=output.base,
        tokens=output.tokens,
        text_bytes=output.text,
        n_draft_used=output.drafted,
        n_accepted=output.accepted,
        source=output.source,
        finish=output.finish,
        width=output.drafted + 1,
        prompt_tokens=output.prompt_tokens,
        cached_tokens=output.cached_tokens,
        completion_tokens=output.completion_tokens,
    )
