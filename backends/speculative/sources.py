"""Where an answer's drafts come from, and which of them is sent for each position.

    prediction   what the client expects the answer to be        costs nothing
    ngram        what followed the same tokens before            costs nothing
    model        the local engine, ahead of the target           draft.py

Lookups follow what the target has settled (engine/lookup.py) and propose a whole run at once; the
model proposes token by token. Per position the source whose guesses held more often lately is
taken; the others are scored all the same, so that the choice can change. A run of the model goes
out only as far as it continues what was already sent: what follows from another guess is worthless.

A further source is a class with `Source`'s calls and a line in `backend.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from backends.engine.lookup import RUNS, Lookup, bucket
from backends.engine.payoff import Odds
from backends.engine.protocol import MAX_DRAFT
from backends.speculative.controller import LEAST_CHANCE
from backends.speculative.session import Commit, Draft

SOURCES = ("prediction", "ngram", "model")
CATCH_UP = 1024
"""Prompt tokens that are indexed at one commit; some 2 ms."""


class Source(Protocol):
    """Drafts that come by themselves, given to `said` as they do."""

    @property
    def lost(self) -> bool:
        """Whether it ended by itself."""

    @property
    def draft_s(self) -> float | None:
        """Seconds a token, while it was free to go on."""

    @property
    def busy(self) -> tuple[int, float]:
        """Tokens that it made, and the seconds that it worked for them."""

    def committed(self, epoch: int, base: int, tokens: Sequence[int]) -> None: ...

    async def aclose(self) -> None: ...


class Guesses:
    """A lookup with its odds: a run of tokens, and the chance that each of them holds."""

    def __init__(self, name: str, lookup: Lookup, odds: Callable[[str, int], Odds]) -> None:
        self.name = name
        self._lookup = lookup
        self._odds = odds

    def feed(self, token: int, *, scored: bool) -> None:
        guess = self._lookup.guess
        if scored and guess is not None:
            held = guess == token
            self._odds(self.name, bucket(self._lookup.agreement)).see(int(held), int(not held))
        self._lookup.feed(token)

    def run(self, most: int, floor: float) -> tuple[list[int], float]:
        """Tokens as long as all of them are likely enough to hold, and the first one's chance."""
        drafted = self._lookup.draft(most)
        chance, first, length = 1.0, 0.0, 0
        for at in range(len(drafted)):
            chance *= self._odds(self.name, bucket(self._lookup.agreement + at)).chance
            first = first or chance
            if chance < floor:
                break
            length = at + 1
        return drafted[:length], first


class Sources:
    """One answer's drafts. `send` hears them; `begin` gives the model's a place.

    `ahead` bounds how far a run goes beyond what is settled. `odds` are the pair's, so that a new
    answer begins with what the others showed. `runs` are the lengths that are looked up, and `most`
    is what one draft may hold.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        *,
        send: Callable[[Draft], Awaitable[None]],
        odds: Callable[[str, int], Odds],
        ahead: int,
        floor: float = LEAST_CHANCE,
        prediction: Sequence[int] = (),
        ngram: bool = True,
        runs: Sequence[int] = RUNS,
        most: int = MAX_DRAFT,
    ) -> None:
        self._most = most
        self._send = send
        self._odds = odds
        self._ahead = ahead
        self._floor = floor
        self._unread = list(prompt)
        self._settled: list[int] = []
        self._epoch = 0
        self._line: dict[int, tuple[int, str]] = {}
        self._heard: dict[int, int] = {}
        self._model_epoch = 0
        self._model: Source | None = None
        self._own = Guesses("ngram", Lookup(runs=runs), odds) if ngram else None
        self._predicted: Guesses | None = None
        if prediction:
            expected = Lookup(prediction, runs)
            expected.start()
            self._predicted = Guesses("prediction", expected, odds)
        self.sent = dict.fromkeys(SOURCES, 0)
        self.held = dict.fromkeys(SOURCES, 0)

    async def hear(self, commit: Commit) -> None:
        """What the target settled, as the session tells it."""
        await self.committed(commit.epoch, commit.base_pos, commit.tokens)

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Tokens that were sent and those that held, by the sources that sent any."""
        return {name: (n, self.held[name]) for name, n in self.sent.items() if n}

    def begin(self, model: Source) -> None:
        """Take the model's drafts too; what is settled already it hears now."""
        self._model = model
        if self._settled:
            model.committed(self._epoch, 0, self._settled)

    @property
    def lost(self) -> bool:
        """Whether the model ended by itself; lookups go on without it."""
        return self._model is not None and self._model.lost

    @property
    def alone(self) -> bool:
        """Whether nothing drafts without the model."""
        return self._own is None and self._predicted is None

    @property
    def draft_s(self) -> float | None:
        return self._model.draft_s if self._model is not None else None

    @property
    def busy(self) -> tuple[int, float]:
        return self._model.busy if self._model is not None else (0, 0.0)

    async def committed(self, epoch: int, base: int, tokens: Sequence[int]) -> None:
        """Hear what the target settled, and draft behind it."""
        turned = epoch > self._epoch
        self._epoch = max(self._epoch, epoch)
        self._score(epoch, base, tokens)
        self._settled[base:] = tokens
        if self._model is not None and tokens:
            self._model.committed(epoch, base, tokens)
        self._follow(tokens)
        await self._look()
        if turned:
            await self._again()

    async def said(self, draft: Draft) -> None:
        """The model drafted: pass on what continues what has been sent."""
        self._epoch = max(self._epoch, draft.epoch)
        base, done, fresh = draft.base_pos, len(self._settled), list[int]()
        for position, token in enumerate(draft.tokens, draft.base_pos):
            if position < done:
                # Too late to be of use, and still it may show the target a wrong turn.
                await self._send(Draft(epoch=draft.epoch, base_pos=position, tokens=(token,)))
                continue
            if draft.epoch < self._model_epoch:
                break  # said before it heard of its wrong turn
            self._heard[position] = token
            sent = self._line.get(position)
            if sent is not None and sent[0] != token:
                if self._chance("model") <= self._chance(sent[1]):
                    break
                self._forget(position)
                sent = None
            if sent is not None:
                continue
            if position > done and position - 1 not in self._line:
                break  # it follows from a guess that was not sent, or that failed
            base = base if fresh else position
            fresh.append(token)
            self._line[position] = token, "model"
        if fresh:
            await self._propose(base, fresh, "model")

    async def aclose(self) -> None:
        if self._model is not None:
            await self._model.aclose()

    def _follow(self, tokens: Sequence[int]) -> None:
        if self._predicted is not None:
            for token in tokens:
                self._predicted.feed(token, scored=True)
        if self._own is None:
            return
        for token in self._unread[:CATCH_UP]:
            self._own.feed(token, scored=False)
        del self._unread[:CATCH_UP]
        if self._unread:
            self._unread += tokens
            return
        for token in tokens:
            self._own.feed(token, scored=True)

    def _score(self, epoch: int, base: int, tokens: Sequence[int]) -> None:
        """What became of what was sent, and of what the model said, up to where it was wrong."""
        for position, token in enumerate(tokens, base):
            guess = self._heard.pop(position, None)
            if guess is not None:
                self._odds("model", -1).see(int(guess == token), int(guess != token))
                if guess != token:
                    self._heard.clear()
                    self._model_epoch = epoch
            sent = self._line.pop(position, None)
            if sent is None:
                continue
            held = sent[0] == token
            if sent[1] != "model":
                self._odds(sent[1], -1).see(int(held), int(not held))
            if held:
                self.held[sent[1]] += 1
            else:
                self._line.clear()

    async def _look(self) -> None:
        """Propose the best lookup's run, beyond what was sent of it already."""
        run, chance, name = self._best()
        if self._model is not None and not self._model.lost and chance <= self._chance("model"):
            return
        base, at = len(self._settled), 0
        while at < len(run) and (sent := self._line.get(base + at)) is not None:
            if sent[0] != run[at]:
                self._forget(base + at)
                break
            at += 1
        if at < len(run):
            await self._propose(base + at, run[at:], name)

    def _best(self) -> tuple[list[int], float, str]:
        best: tuple[list[int], float, str] = ([], 0.0, "")
        for guesses in (self._predicted, self._own):
            if guesses is None or (guesses is self._own and self._unread):
                continue
            run, chance = guesses.run(self._ahead, self._floor)
            if run and chance > best[1]:
                best = run, chance, guesses.name
        return best

    async def _again(self) -> None:
        """The target has turned a page: what it holds of the model's it will drop as stale."""
        position, run = len(self._settled), list[int]()
        while (token := self._heard.get(position + len(run))) is not None:
            run.append(token)
        if run and (position not in self._line or self._line[position][1] == "model"):
            self._forget(position)
            await self._propose(position, run, "model", count=False)

    async def _propose(
        self, base: int, tokens: Sequence[int], name: str, *, count: bool = True
    ) -> None:
        for position, token in enumerate(tokens, base):
            self._line[position] = token, name
        self.sent[name] += len(tokens) if count else 0
        for at in range(0, len(tokens), self._most):
            part = tuple(tokens[at : at + self._most])
            await self._send(Draft(epoch=self._epoch, base_pos=base + at, tokens=part))

    def _forget(self, position: int) -> None:
        for later in [at for at in self._line if at >= position]:
            del self._line[later]

    def _chance(self, name: str) -> float:
        """How often a source's guesses held lately, whatever it rested on."""
        return self._odds(name, -1).chance
