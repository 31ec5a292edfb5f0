"""A target and a drafter without a model: tokens by a rule, verified as the real worker does.

`ToyTarget` says `sentence` whatever the prompt; it verifies what lies in its inbox and goes on by
itself when there is nothing. A `ToyDrafter` proposes whatever its rule says, right or wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

from backends.engine.drafts import Inbox, Lead
from backends.engine.prompts import Guide, Vocabulary
from backends.engine.protocol import Job, Output, Ready, Role
from gateway.core.chat import ChatRequest
from gateway.core.errors import TandemError
from gateway.core.routing import Upstream, Zone
from tests.fakes.scripted import upstream

END = 0
VOCABULARY = Vocabulary(
    tokenizer_sha="toy",
    template_sha="toy",
    vocab_n=128,
    bos=1,
    eos=END,
    byte_level=True,
    fim=False,
    trained=4096,
    longest=1,
    chat_template=True,
)
Rule = Callable[[int, Sequence[int]], int]
"""(position, tokens so far) → the token to propose."""


class ToySequence:
    """Either role. Asked for an Output, it lets everybody else have a turn first."""

    def __init__(self, job: Job, sentence: Sequence[int], rule: Rule | None) -> None:
        self.job = job
        self.inbox = Inbox(128)
        self.lead = Lead(128)
        self.closed = self.held = False
        self._free = asyncio.Event()
        self._free.set()
        self.drafts_heard = 0
        self.gate: asyncio.Event | None = None
        self.fail_at: tuple[int, TandemError] | None = None
        self._sentence = sentence
        self._rule = rule
        self._said: list[int] = []
        self._synced = asyncio.Event()
        self._over = False

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        for _ in range(20):
            await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        await self._free.wait()
        if self._over:
            raise StopAsyncIteration
        done = len(self._said) if self.job.role == "target" else len(self.lead.tokens)
        if self.fail_at is not None and done >= self.fail_at[0]:
            raise self.fail_at[1]
        return self._verify() if self.job.role == "target" else await self._propose()

    def draft(self, epoch: int, base: int, tokens: Sequence[int]) -> None:
        self.drafts_heard += 1
        self.inbox.put(epoch, base, tokens, self._said)

    def sync(self, epoch: int, base: int, tokens: Sequence[int]) -> None:
        self.lead.sync(epoch, base, tokens)
        self._synced.set()

    def hold(self, on: bool) -> None:
        self.held = on
        if not on:
            self._free.set()
        else:
            self._free.clear()

    async def aclose(self) -> None:
        self.closed = True

    def pending(self, width: int) -> int:
        """How many drafted tokens the next pass would verify."""
        return len(self.inbox.take(len(self._said), width))

    def _verify(self) -> Output:
        draft = self.inbox.take(len(self._said), 8)
        base, accepted = len(self._said), 0
        finish: str | None = None
        for at in range(len(draft) + 1):
            token = self._sentence[len(self._said)]
            self._said.append(token)
            held = at < len(draft) and draft[at] == token
            accepted += held
            if token == END:
                finish = "stop"
            elif len(self._said) == self.job.max_tokens:
                finish = "length"
            if finish is not None or not held:
                break
        self._over = finish is not None
        tokens = tuple(self._said[base:])
        self.inbox.commit(base, tokens)
        return Output(
            id=1,
            base=base,
            tokens=tokens,
            text=bytes(token for token in tokens if token != END),
            epoch=self.inbox.epoch,
            source="self" if not draft else "bonus" if len(tokens) > len(draft) else "draft",
            drafted=len(draft),
            accepted=accepted,
            finish=finish,
            prompt_tokens=len(self.job.tokens),
            completion_tokens=len(self._said),
        )

    async def _propose(self) -> Output:
        while self.lead.ahead >= self.job.ahead:
            self._synced.clear()
            await self._synced.wait()
        assert self._rule is not None
        base = len(self.lead.tokens)
        token = self._rule(base, self.lead.tokens)
        self.lead.tokens.append(token)
        return Output(id=1, base=base, tokens=(token,), epoch=self.lead.epoch)


class ToyEngine:
    """Runs toy sequences and remembers them; `refuse` is raised instead, if it is set."""

    def __init__(self, sentence: Sequence[int], rule: Rule | None = None) -> None:
        self.sentence = sentence
        self.rule = rule
        self.refuse: TandemError | None = None
        self.fail_at: tuple[int, TandemError] | None = None
        self.hold: asyncio.Event | None = None
        self.sequences: list[ToySequence] = []
        self.ready: Ready | None = Ready(
            vocab=128, context=4096, slots=4, threads=1, load_s=0.0, exactness="bitwise"
        )

    async def submit(self, job: Job) -> ToySequence:
        if self.refuse is not None:
            raise self.refuse
        sequence = ToySequence(job, self.sentence, self.rule)
        sequence.fail_at, sequence.gate = self.fail_at, self.hold
        self.sequences.append(sequence)
        return sequence


class ToyModel:
    """What a session needs of a local backend, for either role."""

    def __init__(self, name: str, sentence: str = "", rule: Rule | None = None) -> None:
        tokens = [*sentence.encode("ascii"), END]
        self.engine = ToyEngine(tokens, rule)
        self.upstream: Upstream = replace(upstream(name, zone=Zone.MACHINE), context=4096)
        self.vocabulary: Vocabulary | None = VOCABULARY
        self.requests: list[ChatRequest] = []

    async def prompt(self, request: ChatRequest) -> tuple[int, ...]:
        self.requests.append(request)
        return (1, 2, 3)

    async def prediction(self, request: ChatRequest) -> tuple[int, ...]:
        text = (request.body.get("prediction") or {}).get("content", "")
        return tuple(text.encode("ascii"))

    async def guide(self, request: ChatRequest) -> Guide:
        return Guide()

    def job(
        self,
        request: ChatRequest,
        prompt: tuple[int, ...],
        *,
        tenant: str,
        role: Role,
        guide: Guide,
    ) -> Job:
        return Job(
            id=0,
            tokens=prompt,
            max_tokens=request.sampling.max_tokens or 1000,
            role=role,
            strict=True,
            tenant=tenant,
        )


def knowing(sentence: str) -> Rule:
    """A drafter that is always right."""
    tokens = [*sentence.encode("ascii"), END]
    return lambda position, _: tokens[min(position, len(tokens) - 1)]


def wrong_each(sentence: str, every: int) -> Rule:
    """Right, but for every so many positions."""
    right = knowing(sentence)
    return lambda position, said: 127 if position % every == every - 1 else right(position, said)
