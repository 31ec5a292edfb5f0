"""One answer by prefix fan-out: rounds while drafting goes on, then one plain stream for the rest.

A round is one request (fanout_wire.py); while it is out, the drafts for the next one are made.
Where drafting ends, because it does not pay, the drafter dies, or a round goes wrong, the rest
comes as a stream from the ids that stand, which is the same answer: no second voice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from backends.engine.drafts import Inbox
from backends.engine.protocol import Job
from backends.engine.text import TextStream
from backends.openai import OpenAIBackend
from backends.speculative.controller import PROBE_TOKENS, Estimates, Observation, Span, abandons
from backends.speculative.draft import Drafter
from backends.speculative.seams import Drafting
from backends.speculative.session import Draft
from backends.speculative.strategies import fanout_wire as wire
from backends.speculative.strategies.base import Declined, Surprise
from backends.speculative.strategies.companion import Pace
from gateway.core.chat import ChatRequest, Endpoint, Usage
from gateway.core.errors import TandemError, UpstreamBroken, UpstreamRejected
from gateway.core.events import Event, Finish, SpeculationReport, TextDelta, UsageReport
from gateway.core.exchange import Call

NAME: Final = "prefix_fanout"
PATIENCE_S = 0.25
"""How long a round waits for its drafts, before one has shown what a round takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What every answer of one pair works with. `spelt` gives tokens' bytes; `fixed` drafts on
    even where it does not pay.
    """

    draft: Drafting
    target: OpenAIBackend
    ahead: int
    fixed: bool
    clock: Callable[[], float]
    spelt: Callable[[Sequence[int]], Awaitable[list[bytes]]]


class Answer:
    """One answer: its ids, its drafter, its books."""

    def __init__(
        self,
        means: Means,
        request: ChatRequest,
        call: Call,
        *,
        limit: int | None,
        estimates: Estimates,
    ) -> None:
        """`limit`: for how many tokens to draft, None for all."""
        self._means = means
        self._estimates = estimates
        self._request = request
        self._call = call
        self._limit = limit
        self._text = TextStream(tuple(s.encode() for s in request.sampling.stop))
        self._shared = wire.common(means.target.body(request))
        self._prompt: list[int] = []
        self._said: list[int] = []
        self._most = 0
        vocabulary = means.draft.vocabulary
        assert vocabulary is not None
        self._vocab = vocabulary.vocab_n
        self._inbox = Inbox(self._vocab)
        self._drafted_more = asyncio.Event()
        self._drafter: Drafter | None = None
        self._draft_s: float | None = None
        self._finish = ""
        self._why_plain = ""
        self._drafting, self._plain, self._window = Pace(), Pace(), Pace()
        self._windows: list[float] = []
        self._round_s = PATIENCE_S
        self._drafted = self._accepted = self._missed = self._rounds = 0
        self._read = self._wrote = 0
        self.surprise = ""

    async def events(self) -> AsyncGenerator[Event, None]:
        await self._begin()
        async with aclosing(self._in_rounds()) as rounds:
            async for text in rounds:
                yield text
        if not self._finish:
            async with aclosing(self._the_rest()) as rest:
                async for text in rest:
                    yield text
        if not self._text.stopped and (tail := self._text.flush()):
            yield TextDelta(text=tail.decode())
        yield self._report()
        yield Finish(reason=self._finish)
        usage = Usage(prompt_tokens=len(self._prompt), completion_tokens=len(self._said))
        yield UsageReport(usage=usage)

    async def aclose(self) -> None:
        if self._drafter is not None:
            drafter, self._drafter = self._drafter, None
            self._draft_s = drafter.draft_s
            await drafter.aclose()

    def observation(self) -> Observation:
        lost = self._why_plain in ("draft-lost", "broken") or bool(self.surprise)
        return Observation(
            drafting=Span() if lost else self._drafting.span,
            plain=self._plain.span,
            draft_s=self._draft_s,
            drafted=self._drafted,
            accepted=self._accepted,
        )

    async def _begin(self) -> None:
        """Prompt ids from the server itself, and a drafter on them. Raises Declined."""
        self._prompt = await self._rendered()
        if not all(token < self._vocab for token in self._prompt):
            raise Surprise("tokenizer")  # no such ids here: the drafter would be given nonsense
        context = self._means.target.upstream.context
        room = (context or len(self._prompt) + 4096) - len(self._prompt)
        self._most = min(self._request.sampling.max_tokens or room, room)
        ours = (self._means.draft.upstream.context or 4096) - len(self._prompt)
        if (
            not self._prompt
            or self._most < 2
            or ours < 2
            or wire.width_for(len(self._prompt), 1) < 1
        ):
            raise Declined("long")
        job = Job(
            id=0,
            tokens=tuple(self._prompt),
            max_tokens=ours,
            role="draft",
            # While a round is on its way the next one's drafts are made.
            ahead=2 * self._means.ahead,
            tenant=self._call.tenant,
        )
        self._drafter = Drafter(
            self._means.draft.engine, job, send=self._take, clock=self._means.clock
        )

    async def _rendered(self) -> list[int]:
        request, body = self._request, self._means.target.body(self._request)
        if isinstance(request.prompt, tuple):
            if not all(token < self._vocab for token in request.prompt):
                raise Declined("refused")  # the client's mistake, and the server says so
            return list(request.prompt)
        asked: dict[str, Any] = {"model": body["model"]}
        if request.endpoint is Endpoint.CHAT:
            asked |= {"messages": body["messages"], "add_generation_prompt": True}
        else:
            asked |= {"prompt": body["prompt"], "add_special_tokens": True}
        try:
            return wire.token_ids(
                await self._means.target.raw.ask("/tokenize", asked, self._call), "tokens"
            )
        except UpstreamRejected:
            raise Declined("refused") from None  # the plain way says what is wrong with it

    async def _take(self, draft: Draft) -> None:
        self._inbox.put(draft.epoch, draft.base_pos, draft.tokens, self._said)
        self._drafted_more.set()

    async def _in_rounds(self) -> AsyncGenerator[TextDelta, None]:
        """Text, as long as drafting goes on; it ends with the answer or before."""
        while not self._finish:
            if self._rounds and (why := self._why_no_round()):
                self._why_plain = why
                await self.aclose()
                return
            drafts = await self._drafts()
            try:
                said = await self._round(drafts)
            except Surprise as surprise:
                if not self._said:
                    raise
                self.surprise = self._why_plain = surprise.reason
            except UpstreamRejected:
                if not self._said:
                    raise Declined("refused") from None
                self._why_plain = "broken"
            except TandemError as error:
                if not self._said or not error.retryable:
                    raise
                self._why_plain = "broken"
            else:
                if text := await self._settle(said):
                    yield text
                continue
            await self.aclose()
            return

    def _why_no_round(self) -> str:
        drafter = self._drafter
        if drafter is None or drafter.lost:
            return "draft-lost"
        if wire.width_for(len(self._prompt) + len(self._said), 1) < 1:
            return "long"
        window = self._window.span
        if window.tokens >= PROBE_TOKENS:
            self._windows.append(window.seconds / window.tokens)
            self._window = Pace()
        spent = self._limit is not None and len(self._said) >= self._limit
        losing = not self._means.fixed and abandons(self._windows, self._estimates.plain_s)
        return "off" if spent or losing else ""

    async def _drafts(self) -> list[int]:
        """What the next round tries. The first goes out at once: the server has a prompt to read
        meanwhile.
        """
        prefix = len(self._prompt) + len(self._said)
        width = min(wire.width_for(prefix, self._means.ahead), self._most - len(self._said) - 1)
        drafter = self._drafter
        assert drafter is not None
        if self._rounds:
            try:
                async with asyncio.timeout(self._round_s):
                    while len(self._inbox.take(len(self._said), width)) < width:
                        if drafter.lost:
                            break
                        self._drafted_more.clear()
                        await self._drafted_more.wait()
            except TimeoutError:
                pass  # what there is goes
        return self._inbox.take(len(self._said), width)

    async def _round(self, drafts: list[int]) -> list[wire.Said]:
        prefix = [*self._prompt, *self._said]
        body = wire.round_body(self._shared, prefix, drafts)
        began = self._means.clock()
        document = await self._means.target.raw.ask("completions", body, self._call)
        self._round_s = min(PATIENCE_S, max(0.01, self._means.clock() - began))
        found = wire.read_round(document, len(drafts) + 1)
        self._read += found.usage.prompt_tokens
        self._wrote += found.usage.completion_tokens
        said = wire.settled(found, drafts)
        if not all(each.token < self._vocab for each in said):
            raise Surprise("tokenizer")
        self._rounds += 1
        self._drafted += len(drafts)
        held = sum(d == s.token for d, s in zip(drafts, said, strict=False))
        self._accepted += held
        self._missed += held < len(drafts)  # one is tried and fails; those behind it are not tried
        return said

    async def _settle(self, said: Sequence[wire.Said]) -> TextDelta | None:
        """Make tokens the answer's, up to its end if it is among them; their text, if any."""
        base, shown = len(self._said), b""
        pieces = await self._means.spelt([each.token for each in said])
        for each, piece in zip(said, pieces, strict=True):
            self._said.append(each.token)
            if each.ends:
                self._finish = "stop"
                break
            shown += self._text.push(piece)
            if self._text.stopped:
                self._finish = "stop"
                break
            if len(self._said) >= self._most:
                self._finish = "length"
                break
        tokens = self._said[base:]
        self._inbox.commit(base, tokens)
        now = self._means.clock()
        if self._drafter is not None:
            self._drafter.committed(self._inbox.epoch, base, tokens)
            self._drafting.note(len(tokens), now)
            self._window.note(len(tokens), now)
        else:
            self._plain.note(len(tokens), now)
        return TextDelta(text=shown.decode(), tokens=len(tokens)) if shown else None

    async def _the_rest(self) -> AsyncGenerator[TextDelta, None]:
        """What is left, as one plain stream from the ids that stand."""
        prefix = [*self._prompt, *self._said]
        body = wire.rest_body(self._shared, prefix, self._most - len(self._said))
        async with aclosing(self._means.target.raw.chunks("completions", body, self._call)) as all_:
            async for chunk in all_:
                for choice in chunk.get("choices") or ():
                    try:
                        tokens = wire.token_ids(choice)
                    except Surprise:
                        raise UpstreamBroken("The upstream stopped naming its tokens.") from None
                    ends = choice.get("finish_reason") == "stop"
                    last = len(tokens) - 1
                    said = [wire.Said(t, ends and i == last) for i, t in enumerate(tokens)]
                    if text := await self._settle(said):
                        yield text
                    self._finish = self._finish or str(choice.get("finish_reason") or "")
                if self._finish:
                    return
        raise UpstreamBroken("The upstream ended its stream without a finish.")

    def _report(self) -> SpeculationReport:
        tried = self._accepted + self._missed
        return SpeculationReport(
            strategy=f"{NAME};{self._why_plain}" if self._why_plain else NAME,
            drafted=self._drafted,
            accepted=self._accepted,
            rounds=self._rounds,
            gain=self._gain(),
            tokens=self._accepted + self._rounds,
            alpha=self._accepted / tried if tried else None,
            verified=Usage(prompt_tokens=self._read, completion_tokens=self._wrote),
        )

    def _gain(self) -> float | None:
        drafting, plain = self._drafting.span, self._plain.span
        plain_s = plain.rate if plain.tells else self._estimates.plain_s
        if plain_s is None or not drafting.tells:
            return None
        tokens, seconds = drafting.tokens + plain.tokens, drafting.seconds + plain.seconds
        return plain_s * tokens / seconds
