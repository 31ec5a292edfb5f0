"""Drafts that the worker makes itself: from where, whether they pay, what became of them.

    prediction   what the client expects the answer to be      lookup.py over that text
    ngram        what followed the same tokens before          lookup.py over the sequence itself
    model        what a small model says                       draft_model.py

One draft is verified as any other is (scheduler.py), so it can cost time but change no token. How
much it is expected to cost and bring decides each time, with payoff.py: decode costs measured at
load, and how often guesses of this kind held lately, in this answer and in the worker's others. A
lookup's odds are known from watching; a model's only from trying, so it is tried now and then, the
more seldom the more often it failed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from backends.engine.draft_model import DraftModel
from backends.engine.lookup import Lookup, bucket
from backends.engine.payoff import Choice, Costs, LiveCosts, Odds, best, could_pay, engages
from backends.engine.protocol import Job

SOURCES = ("ngram", "prediction", "model")
OFF = ("cost", "busy", "acceptance", "no_match")
"""Why a step drafted nothing: verifying never pays here, or not in so full a batch; the guess is
too seldom right; there is none."""
CATCH_UP = 1024
"""Tokens of a prompt that are indexed in one step; some 2 ms."""
LATELY, SELDOM = 0.97, 0.995
"""What a trial keeps of the odds before it: in one answer, and in the worker's."""
PROBES = 6
"""Drafts of a model that are to find out how good it is."""
FIRST_PAUSE, LONGEST_PAUSE = 128, 8192
"""Tokens between two such attempts; doubles with each that fails."""
HOPED = 0.8


class Speculation:
    """One worker's. Without `costs` every draft found is verified, `most` tokens long.

    `exact`: whether widths do not change what strict sequences say; if they do, those do without.
    """

    def __init__(
        self,
        most: int,
        costs: Costs | None = None,
        *,
        model: DraftModel | None = None,
        exact: bool = True,
    ) -> None:
        self.most = most
        self.costs = None if costs is None else LiveCosts(costs)
        self.model = model
        self.exact = exact
        self.counts: Counter[str] = Counter()
        self._odds: dict[tuple[str, int], Odds] = {}
        self._possible: dict[tuple[int, int], bool] = {}
        self._since_probe = self._pause = FIRST_PAUSE

    def begin(self, job: Job) -> Drafting | None:
        """What drafts for a job; None if nothing could ever pay."""
        suits = job.role == "generate" and (self.exact or not job.strict)
        if not suits or self.most < 1:
            return None
        if not self.possible(1, least=2 if job.strict else 1):
            self.counts["off_cost"] += 1
            return None
        return Drafting(self, job)

    def possible(self, rows: int, least: int) -> bool:
        """Whether any draft could pay beside so many rows."""
        if self.costs is None:
            return True
        known = self._possible.get((rows, least))
        if known is None:
            known = could_pay(self.costs.measured, rows=rows, most=self.most, least=least)
            self._possible[rows, least] = known
        return known

    def odds(self, source: str, group: int) -> Odds:
        return self._odds.setdefault((source, group), Odds(keep=SELDOM))

    def probes(self, length: int) -> bool:
        """Whether it is time to try the model again, with a sequence of this length to feed it."""
        self._since_probe += 1
        return self._since_probe >= max(self._pause, 4 * length)

    def probed(self, *, well: bool) -> None:
        self._since_probe = 0
        self._pause = FIRST_PAUSE if well else min(2 * self._pause, LONGEST_PAUSE)

    def stats(self) -> dict[str, int]:
        """Counters since the start, zeros included."""
        names = [
            f"spec_{what}_{source}"
            for what in ("drafts", "draft_tokens", "accepted_tokens")
            for source in SOURCES
        ]
        return {name: self.counts[name.removeprefix("spec_")] for name in names} | {
            f"spec_off_{why}": self.counts[f"off_{why}"] for why in OFF
        }


class Drafting:
    """One sequence's drafts."""

    def __init__(self, speculation: Speculation, job: Job) -> None:
        self._of = speculation
        self._job = job
        self._least = 2 if job.strict else 1
        self._prompt = len(job.tokens)
        self._own = Lookup()
        self._predicted = Lookup(job.prediction) if job.prediction else None
        if self._predicted is not None:
            self._predicted.start()
        self._odds: dict[tuple[str, int], Odds] = {}
        self._engaged = False
        self._source = ""
        self._probing = 0
        self.prediction = (0, 0)
        """Tokens drafted from the client's prediction that held, and that did not."""

    def draft(self, tokens: Sequence[int], most: int, rows: int) -> list[int]:
        """At most `most` tokens to verify after `tokens`, the prompt's and the generated ones.

        `rows`: the batch's without them.
        """
        most = min(most, self._of.most)
        if most < 1:
            return []
        if not self._of.possible(rows, self._least):
            return self._off("busy")
        if not self._follow(tokens):
            return []
        found = Choice()
        guesses: list[int] = []
        for source, lookup in (("prediction", self._predicted), ("ngram", self._own)):
            drafted = lookup.draft(most) if lookup is not None else []
            if not drafted or lookup is None:
                continue
            choice = self._choose(source, lookup.agreement, len(drafted), rows)
            if choice.gain > found.gain or not guesses:
                found, guesses, self._source = choice, drafted, source
        if engages(found, engaged=self._engaged):
            self._engaged = True
            return guesses[: found.tokens]
        self._engaged = False
        if self._of.model is not None:
            return self._model_draft(self._of.model, tokens, most, rows)
        return self._off("acceptance" if guesses else "no_match")

    def settle(self, drafted: int, accepted: int) -> None:
        """What became of the last draft."""
        counts, source = self._of.counts, self._source
        counts[f"drafts_{source}"] += 1
        counts[f"draft_tokens_{source}"] += drafted
        counts[f"accepted_tokens_{source}"] += accepted
        if source == "prediction":
            held, failed = self.prediction
            self.prediction = held + accepted, failed + drafted - accepted
        if source == "model":
            self._see(source, 0, accepted, int(accepted < drafted))

    def close(self) -> None:
        if self._of.model is not None:
            self._of.model.drop(self._job.id)

    def _off(self, why: str) -> list[int]:
        self._of.counts[f"off_{why}"] += 1
        return []

    def _follow(self, tokens: Sequence[int]) -> bool:
        """Let the lookups see what is new; whether they have seen all of it."""
        at = len(self._own)
        for token in tokens[at : at + CATCH_UP]:
            if at >= self._prompt:
                self._score("ngram", self._own, token)
                if self._predicted is not None:
                    self._score("prediction", self._predicted, token)
                    self._predicted.feed(token)
            self._own.feed(token)
            at += 1
        return at == len(tokens)

    def _score(self, source: str, lookup: Lookup, token: int) -> None:
        guess = lookup.guess
        if guess is not None:
            held = guess == token
            self._see(source, bucket(lookup.agreement), int(held), int(not held))

    def _see(self, source: str, group: int, held: int, failed: int) -> None:
        self._lately(source, group).see(held, failed)
        self._of.odds(source, group).see(held, failed)

    def _lately(self, source: str, group: int) -> Odds:
        known = self._odds.get((source, group))
        if known is None:
            prior = self._of.odds(source, group).chance
            known = self._odds[source, group] = Odds(prior=prior, weight=8, keep=LATELY)
        return known

    def _choose(self, source: str, agreement: int, most: int, rows: int) -> Choice:
        costs = self._of.costs
        if costs is None:
            return Choice(most, float("inf"))
        chances = [self._lately(source, bucket(agreement + i)).chance for i in range(most)]
        return best(chances, costs, rows=rows, least=self._least)

    def _model_draft(
        self, model: DraftModel, tokens: Sequence[int], most: int, rows: int
    ) -> list[int]:
        self._source = "model"
        choice = self._model_choice(model, self._lately("model", 0).chance, most, rows)
        if self._probing:
            self._probing -= 1
            if not self._probing:
                self._of.probed(well=engages(choice, engaged=False))
        elif not engages(choice, engaged=True) and self._of.probes(len(tokens)):
            self._probing = PROBES
        if self._probing:
            choice = self._model_choice(model, HOPED, most, rows)
        if not engages(choice, engaged=True):
            return self._off("acceptance")
        return model.draft(self._job.id, list(tokens), choice.tokens)

    def _model_choice(self, model: DraftModel, chance: float, most: int, rows: int) -> Choice:
        if self._of.costs is None:
            return Choice(most, float("inf"))
        return best(
            [chance] * most,
            self._of.costs,
            rows=rows,
            draft_s=model.draft_s,
            least=self._least,
        )
