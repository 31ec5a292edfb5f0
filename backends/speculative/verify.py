"""The companion's end of a session: a target that never idles, and the drafts that reach it.

The target generates by itself and every pass is pushed at once. Drafts are handed to its worker as
they come; there a draft is used if it continues exactly what stands, and costs nothing but its
verification if it does not. So nothing that an edge sends, or fails to send, can change a byte of
the answer or hold it up.

A session outlives its socket: what was said since the last `ack` is kept, and said again to the
next socket that shows the session's token. Between two sockets the target is halted.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias

from backends.engine.protocol import MAX_DRAFT, Job, Output
from backends.speculative.coupling import coupling, seeded
from backends.speculative.passes import Passes, TargetPace
from backends.speculative.seams import Channel, Ended, Gone, Running, Target
from backends.speculative.session import (
    VERSION,
    WINDOW,
    Ack,
    Cancel,
    Close,
    Commit,
    Draft,
    Failure,
    Fingerprint,
    MalformedMessage,
    Open,
    Opened,
    Resume,
    Stale,
)
from backends.speculative.text_drafts import TextDrafts
from gateway.core.chat import ChatRequest, Feature, Sampling, Usage
from gateway.core.errors import (
    EngineFailed,
    InvalidRequest,
    NotFound,
    Overloaded,
    TandemError,
    Unsupported,
    UpstreamError,
)
from gateway.core.exchange import Caller

logger = logging.getLogger("tandem.companion")

LINGER_S = 1.0
"""For the last `ack`, so that an answer's end is known to have arrived."""
WHY_S = 0.5
MOST_DRAFTS = 64
"""Drafts handed on between two passes: nobody's flood may pile up before the worker."""


Left: TypeAlias = Literal["over", "waits", "replaced"]
"""Of a session whose socket has ended: nothing; it waits for another; it has another already."""

UNSUITED = frozenset({Feature.N, Feature.LOGPROBS, Feature.ECHO})
"""What a target may have and a session does not carry: it tells one text, and no more than that."""


class VerifySession:
    """One session, from its first message to its last, over one socket after another.

    Whoever makes it calls `serve` for each socket until one ends it, and `aclose` at the end.
    `distrusted` has the names of targets whose verification an audit has found wrong; all sessions
    share it.
    """

    def __init__(
        self,
        caller: Caller,
        *,
        resolve: Callable[[str], Target],
        read: Callable[[Open, Caller], ChatRequest],
        clock: Callable[[], float] = time.monotonic,
        linger_s: float = LINGER_S,
        distrusted: set[str] | None = None,
        paces: dict[str, TargetPace] | None = None,
    ) -> None:
        # Bound to the caller whose key opened it, and not to be guessed by another. The token is
        # not in any record: whoever reads those can resume nothing.
        self.id = secrets.token_urlsafe(18)
        self.token = secrets.token_urlsafe(24)
        self.caller = caller
        self._resolve = resolve
        self._read = read
        self._clock = clock
        self._linger_s = linger_s
        self._distrusted = set() if distrusted is None else distrusted
        self._paces = {} if paces is None else paces
        self._passes = Passes()
        self._began = clock()
        self._model = ""
        self._usage = Usage()
        self._running: Running | None = None
        self._opened: Opened | None = None
        self._unread: deque[Commit] = deque()
        self._acked = 0
        self._heard = asyncio.Event()
        self._held = False
        self._epoch = 0
        self._position = 0
        self._takes_drafts = False
        self._way = ""
        self._text: TextDrafts | None = None
        self._since_pass = 0
        self._rounds = self._drafted = self._accepted = self._resumes = 0
        self._margin: float | None = None
        self._outcome = "cancelled"
        self._socket: asyncio.Future[str] | None = None
        self._turn = asyncio.Lock()
        self.finished = False
        """Whether the answer is whole; what is missing is at most its arrival."""

    async def serve(self, channel: Channel, first: Open | Resume) -> Left:
        """Serve one socket; what is left of the session after it."""
        stopped = asyncio.get_running_loop().create_future()
        before, self._socket = self._socket, stopped
        if before is not None and not before.done():
            before.set_result("replaced")  # a half-open socket, that nobody knew was dead
        async with self._turn:
            return await self._serve(channel, first, stopped)

    async def _serve(
        self, channel: Channel, first: Open | Resume, stopped: asyncio.Future[str]
    ) -> Left:
        try:
            word = await self._converse(channel, first, stopped)
        except Gone as gone:
            word = "left" if gone.left or self._opened is None else "broken"
        except MalformedMessage as error:
            word = await self._fail(channel, Failure(code="bad_message", message=str(error)))
        except TandemError as error:
            word = await self._fail(channel, failure_of(error))
        finally:
            self._halt(True)
        if self._socket is not stopped:
            return "replaced"
        self._socket = None
        if word in ("broken", "unheard"):
            return "waits"
        if not self.finished and word != "left":
            self._outcome = word
        return "over"

    def may_resume(self, caller: Caller, resume: Resume) -> bool:
        """Whether this caller shows the session's secret. Compared in constant time."""
        same = (caller.tenant, caller.key_id) == (self.caller.tenant, self.caller.key_id)
        return secrets.compare_digest(resume.token.encode(), self.token.encode()) and same

    def stop(self, error: TandemError) -> None:
        """End the session from our side; the edge is told why."""
        if self._socket is not None and not self._socket.done():
            self._socket.set_exception(error)
            self._socket.exception()  # heard, even if the session is over before it is told

    async def aclose(self) -> Ended:
        """Free the target. What became of the session, for its record."""
        running, self._running = self._running, None
        if seconds := self._passes.seconds:
            self._paces.setdefault(self._model, TargetPace()).see(seconds)
        if self._text is not None:
            await self._text.aclose()
        if running is not None:
            await running.aclose()
        return Ended(
            session=self.id,
            caller=self.caller,
            model=self._model,
            outcome=self._outcome,
            usage=self._usage,
            rounds=self._rounds,
            drafted=self._drafted,
            accepted=self._accepted,
            seconds=self._clock() - self._began,
            exactness=self._opened.exactness if self._opened else "",
            margin_min=self._margin,
            resumes=self._resumes,
            drafts=self._way,
        )

    async def _converse(
        self, channel: Channel, first: Open | Resume, stopped: asyncio.Future[str]
    ) -> str:
        # Answering and listening run side by side: whichever ends first ends the session, so a
        # cancel is heard while the prompt is still waiting for its turn.
        answering = asyncio.create_task(self._answer(channel, first))
        listening = asyncio.create_task(self._listen(channel))
        try:
            sides: list[asyncio.Future[str]] = [answering, listening, stopped]
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
            if answering.done() and isinstance(answering.exception(), Gone):
                # Who speaks hears only that it is over; who listens, why.
                sides = [listening, stopped, answering]
                await asyncio.wait(sides[:2], timeout=WHY_S, return_when=asyncio.FIRST_COMPLETED)
            return next(side for side in sides if side.done()).result()
        finally:
            await _ended(answering, listening)

    async def _answer(self, channel: Channel, first: Open | Resume) -> str:
        if isinstance(first, Resume):
            await self._again(channel, first)
        else:
            await self._begin(channel, first)
        assert self._running is not None
        await self._push(channel, self._running)
        try:
            async with asyncio.timeout(self._linger_s):
                while self._acked < self._position:
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            return "unheard"
        return "ok"

    async def _begin(self, channel: Channel, opening: Open) -> None:
        target = self._resolve(opening.model)
        self._model = target.upstream.name
        self._check(opening, target)
        request = self._read(opening, self.caller)
        missing = request.features - (target.upstream.features - UNSUITED)
        if missing:
            param = min(missing).param
            raise Unsupported(f"The target does not have {param!r}.", param=param)
        guide = await target.guide(request)
        tokens = await target.prompt(request)
        job = target.job(request, tokens, tenant=self.caller.tenant, role="target", guide=guide)
        job = seeded(replace(job, ahead=max(0, opening.max_width - 1)))
        self._running = await target.engine.submit(job)
        if self._way == "text":
            self._text = TextDrafts(self._running, target.prompts)
        self._opened = replace(self._promise(target, job), family=guide.family)
        await channel.send(self._opened)

    async def _again(self, channel: Channel, resume: Resume) -> None:
        """Say again what the last socket did not bring. Raises NotFound if that is not known."""
        assert self._opened is not None
        borders = {commit.base_pos for commit in self._unread} | {self._position}
        if resume.have_pos not in borders:
            raise NotFound("The session does not know that position.")
        self._resumes += 1
        self._ack(resume.have_pos)
        missing = tuple(self._unread)
        await channel.send(replace(self._opened, pos=resume.have_pos, prompt_ids=()))
        for commit in missing:
            await channel.send(commit)

    def _check(self, opening: Open, target: Target) -> None:
        """Raises what makes a session impossible, and plain streaming not."""
        if opening.v != VERSION:
            raise InvalidRequest(
                f"This companion speaks version {VERSION}.", code="version_mismatch"
            )
        if not opening.self_generate:
            raise InvalidRequest("A target that waits for drafts is not served.")
        self._way = _way(opening, Fingerprint.of(target.vocabulary))
        ready = target.engine.ready
        if ready is not None and ready.meta.get("verify") == "0":
            raise Unsupported(
                "The target's sequences cannot be rewound, so it verifies nothing.",
                code="cannot_rewind",
            )
        self._takes_drafts = (
            self._way != ""
            and opening.max_width > 1
            and target.upstream.name not in self._distrusted
        )

    def _promise(self, target: Target, job: Job) -> Opened:
        ready = target.engine.ready
        by_token, pace = self._way != "text", self._paces.get(self._model)
        coupled, sampling = coupling(job) if by_token else ("native", Sampling())
        return Opened(
            session=self.id,
            token=self.token,
            prompt_ids=job.tokens if self._takes_drafts and by_token else (),
            model_fp=Fingerprint.of(target.vocabulary),
            max_ahead=MAX_DRAFT if self._takes_drafts else 0,
            # The worker has probed whether widths of two and more agree bit for bit; strict rows
            # are never decoded alone, and so never at width one, which does not (9.2).
            exactness=ready.exactness if ready and job.strict else "tie-tolerant",
            width_class="2+" if job.strict else "any",
            coupling=coupled,
            sampling=sampling,
            epsilon=ready.epsilon if ready else None,
            t1_ms=None if pace is None else pace.t1_ms,
            tv_ms={} if pace is None else pace.tv_ms,
            drafts=self._way or "tokens",
        )

    async def _push(self, channel: Channel, running: Running) -> None:
        self._halt(self._ahead)
        if self.finished:
            return
        async for output in running:
            if output.error is not None:
                raise EngineFailed("The target's engine gave this answer up.")
            epoch = output.epoch if self._text is None else self._text.note(output)
            commit = _commit(output, epoch)
            # Kept before it is sent: a socket that breaks in between loses nothing.
            self._note(output, commit)
            await channel.send(commit)
            if self.finished:
                return
        raise EngineFailed("The target's engine ended without finishing.")

    def _note(self, output: Output, commit: Commit) -> None:
        self._unread.append(commit)
        self._since_pass = 0
        self._rounds += bool(output.tokens)
        self._drafted += output.drafted
        self._accepted += output.accepted
        self._epoch = commit.epoch
        self._position = max(self._position, output.base + len(output.tokens))
        if output.tokens and not self._held:
            self._passes.note(output.drafted + 1, self._clock())
        if not output.trusted and self._takes_drafts:
            # Its worker verifies no more; whoever opens from now on is told not to draft.
            self._takes_drafts = False
            self._distrusted.add(self._model)
            logger.error("%s: an audit found its verification wrong; drafts are off", self._model)
        if output.margin is not None:
            least = output.margin if self._margin is None else self._margin
            self._margin = min(output.margin, least)
        self._usage = Usage(
            prompt_tokens=output.prompt_tokens,
            completion_tokens=output.completion_tokens,
            cached_tokens=output.cached_tokens,
        )
        if output.finish is not None:
            self.finished, self._outcome = True, "ok"
        elif self._ahead:
            self._halt(True)

    @property
    def _ahead(self) -> bool:
        return self._position - self._acked >= WINDOW

    def _halt(self, on: bool) -> None:
        if self._running is not None and on != self._held and not self.finished:
            self._held = on
            self._running.hold(on)

    def _ack(self, position: int) -> None:
        if not self._acked <= position <= self._position:
            raise MalformedMessage("'pos' is not a position of this answer.")
        self._acked = position
        # One without tokens, at the very end, goes with the others only when all is read.
        while self._unread and _end(self._unread[0]) <= position:
            self._unread.popleft()
        self._heard.set()
        if not self._ahead:
            self._halt(False)

    async def _listen(self, channel: Channel) -> str:
        while True:
            message = await channel.receive()
            match message:
                case Draft():
                    await self._draft(channel, message)
                case Ack():
                    self._ack(message.pos)
                case Cancel() | Close():
                    return "cancelled"
                case _:
                    raise MalformedMessage(f"{message.type!r} came out of turn.")

    async def _draft(self, channel: Channel, draft: Draft) -> None:
        if bool(draft.text) != (self._way == "text"):
            raise MalformedMessage(f"Drafts of this session are {self._way or 'tokens'}.")
        of_no_use = not self._takes_drafts or draft.epoch < self._epoch
        of_no_use = of_no_use or self._since_pass >= MOST_DRAFTS
        if self._running is not None and not of_no_use:
            self._since_pass += 1
            # Also when it lies behind the target: there it may still show that the drafter took a
            # wrong turn, and what follows from it need not be verified.
            if self._text is not None:
                of_no_use = not self._text.put(draft)
            else:
                self._running.draft(draft.epoch, draft.base_pos, draft.tokens)
                of_no_use = draft.base_pos + len(draft.tokens) <= self._position
        if of_no_use:
            try:
                await channel.send(Stale(epoch=draft.epoch, base_pos=draft.base_pos))
            except Gone:
                pass  # there may be more to hear: the last `ack`, and why it is over

    async def _fail(self, channel: Channel, failure: Failure) -> str:
        try:
            await channel.send(failure)
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


def _end(commit: Commit) -> int:
    return commit.base_pos + len(commit.tokens)


def _way(opening: Open, ours: Fingerprint | None) -> str:
    """What the session's drafts will be made of; "" if there are none. Raises InvalidRequest."""
    theirs = opening.model_fp
    if theirs is None:
        return ""
    if ours is not None and "tokens" in opening.drafts and theirs.drafts_for(ours):
        return "tokens"
    if ours is not None and "text" in opening.drafts:
        return "text"
    raise InvalidRequest(
        "The drafter has another vocabulary than the target.", code="fingerprint_mismatch"
    )


def _commit(output: Output, epoch: int) -> Commit:
    margin = output.margin
    return Commit(
        epoch=epoch,
        base_pos=output.base,
        tokens=output.tokens,
        text_bytes=output.text,
        n_draft_used=output.drafted,
        n_accepted=output.accepted,
        source=output.source,
        finish=output.finish,
        width=output.drafted + 1,
        margin_min=None if margin is None or margin == float("inf") else margin,
        prompt_tokens=output.prompt_tokens,
        cached_tokens=output.cached_tokens,
        completion_tokens=output.completion_tokens,
    )
