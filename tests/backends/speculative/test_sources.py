"""Where drafts come from: which run is sent for which positions, and what is never sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from backends.engine.payoff import Odds
from backends.speculative.session import Draft
from backends.speculative.sources import CATCH_UP, Sources

PERIOD = [11, 12, 13, 14, 15, 16]


class Model:
    """A source that says nothing by itself and remembers what it is told."""

    lost = False
    draft_s = None
    busy = (0, 0.0)

    def __init__(self) -> None:
        self.told: list[tuple[int, int, tuple[int, ...]]] = []

    def committed(self, epoch: int, base: int, tokens: Sequence[int]) -> None:
        self.told.append((epoch, base, tuple(tokens)))

    async def aclose(self) -> None:
        pass


class Story:
    """Sources, and every draft that they sent."""

    def __init__(
        self,
        prompt: Sequence[int] = (),
        *,
        prediction: Sequence[int] = (),
        ahead: int = 8,
        model: bool = False,
    ) -> None:
        self.sent: list[Draft] = []
        self.odds: dict[tuple[str, int], Odds] = {}
        self.sources = Sources(
            prompt, send=self._send, odds=self._odds, ahead=ahead, prediction=prediction
        )
        self.model = Model()
        if model:
            self.sources.begin(self.model)

    async def _send(self, draft: Draft) -> None:
        self.sent.append(draft)

    def _odds(self, source: str, group: int) -> Odds:
        return self.odds.setdefault((source, group), Odds())

    def trust(self, source: str, held: int, failed: int = 0) -> None:
        for group in range(-1, 5):
            self._odds(source, group).see(held, failed)

    async def settle(self, base: int, *tokens: int, epoch: int = 0) -> list[Draft]:
        self.sent.clear()
        await self.sources.committed(epoch, base, tokens)
        return list(self.sent)

    async def says(self, base: int, *tokens: int, epoch: int = 0) -> list[Draft]:
        self.sent.clear()
        await self.sources.said(Draft(epoch=epoch, base_pos=base, tokens=tokens))
        return list(self.sent)


def tell(story: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await story()

    asyncio.run(run())


def test_what_followed_in_the_prompt_is_proposed() -> None:
    """Three tokens that the prompt has had too: the next ones come as one run, behind them."""

    async def story() -> None:
        told = Story([1, *PERIOD, 2])
        told.trust("ngram", 50)
        assert await told.settle(0, 11, 12) == []
        [draft] = await told.settle(2, 13)
        assert (draft.base_pos, draft.tokens[:3]) == (3, (14, 15, 16))
        [further] = await told.settle(3, 14)
        assert further.base_pos == 3 + len(draft.tokens), "what was sent is not sent again"
        assert told.sources.held["ngram"] == 1

    tell(story)


def test_a_prediction_is_drafted_from_the_first_token() -> None:
    """What the client expects is tried at once, and found again behind an edit."""

    async def story() -> None:
        told = Story(prediction=[21, 22, 23, 24, 25, 26, 27, 28], ahead=3)
        told.trust("prediction", 50)
        [draft] = await told.settle(0)
        assert (draft.base_pos, draft.tokens) == (0, (21, 22, 23))
        await told.settle(0, 21, 9)
        await told.settle(2, 23, 24)
        [draft] = await told.settle(4, 25)
        assert (draft.base_pos, draft.tokens) == (5, (26, 27, 28))

    tell(story)


def test_a_run_ends_where_it_is_no_longer_likely() -> None:
    """A source that fails half of the time sends a few tokens, one that never holds none."""

    async def story() -> None:
        half = Story([1, *PERIOD, 2], ahead=32)
        half.trust("ngram", 50, 50)
        await half.settle(0, 11, 12)
        [draft] = await half.settle(2, 13)
        assert 2 <= len(draft.tokens) <= 5
        never = Story([1, *PERIOD, 2], ahead=32)
        never.trust("ngram", 0, 300)
        await never.settle(0, 11, 12)
        assert await never.settle(2, 13) == []

    tell(story)


def test_the_likelier_source_has_the_position() -> None:
    """A lookup that holds more often than the model goes out; one that does not stays in."""

    async def story() -> None:
        for held, failed, expected in ((100, 0, "ngram"), (10, 90, "")):
            told = Story([1, *PERIOD, 2], model=True)
            told.trust("ngram", held, failed)
            told.trust("model", 60, 40)
            await told.settle(0, 11, 12)
            sent = await told.settle(2, 13)
            assert bool(sent) == bool(expected)

    tell(story)


def test_the_models_other_guess_is_not_sent_against_a_better_one() -> None:
    """Where a run stands that holds more often, the model's disagreement stays at home, and so
    does what follows from it; where they agree, nothing is sent twice."""

    async def story() -> None:
        told = Story([1, *PERIOD, 2], model=True, ahead=3)
        told.trust("ngram", 100)
        told.trust("model", 60, 40)
        await told.settle(0, 11, 12)
        await told.settle(2, 13)
        assert await told.says(3, 99) == []
        assert await told.says(3, 14) == []
        assert [draft.tokens for draft in await told.says(6, 17)] == [(17,)]
        assert await told.says(8, 50) == [], "it follows from a token that was not sent"

    tell(story)


def test_what_a_model_said_is_sent_again_after_a_turn_that_was_not_its_own() -> None:
    """A lookup's miss makes the target drop what it holds; what the model said is still good."""

    async def story() -> None:
        told = Story(model=True)
        await told.says(0, 31)
        await told.says(1, 32)
        await told.says(2, 33)
        [draft] = await told.settle(0, 31, epoch=1)
        assert (draft.epoch, draft.base_pos, draft.tokens) == (1, 1, (32, 33))
        assert told.model.told[-1] == (1, 0, (31,))

    tell(story)


def test_a_models_wrong_turn_ends_its_line() -> None:
    """What it says before it has heard of it is dropped, and what it says after goes out."""

    async def story() -> None:
        told = Story(model=True)
        await told.says(0, 31)
        await told.says(1, 32)
        assert await told.settle(0, 40, epoch=1) == []
        assert await told.says(1, 33, epoch=0) == []
        assert [d.tokens for d in await told.says(1, 41, epoch=1)] == [(41,)]

    tell(story)


def test_a_long_prompt_is_read_in_parts() -> None:
    """No commit waits for a prompt of any length: it is indexed a piece at a time."""

    async def story() -> None:
        # No run of three comes twice before the period.
        prompt = [1000 + at for at in range(3 * CATCH_UP)]
        told = Story([*prompt, *PERIOD])
        told.trust("ngram", 50)
        sent = []
        for position, token in enumerate([*PERIOD[:5], *([7, 8, 9] * 3)]):
            sent += await told.settle(position, token)
        assert told.sources.sent["ngram"] > 0
        assert sent[0].base_pos > 2

    tell(story)
