"""Which drafts a target tries, and how far a drafter leads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.engine.drafts import MAX_PENDING, Inbox, Lead

VOCAB = 100


def test_a_draft_that_continues_is_taken() -> None:
    """A draft at the end of what is committed is offered, up to the width asked for."""
    inbox = Inbox(VOCAB)
    assert inbox.put(0, 2, [7, 8, 9], committed=[5, 6])
    assert inbox.take(2, 8) == [7, 8, 9]
    assert inbox.take(2, 2) == [7, 8]


def test_a_late_draft_that_agrees_is_trimmed() -> None:
    """What the target has generated meanwhile is cut off the front of a draft that foresaw it."""
    inbox = Inbox(VOCAB)
    assert inbox.put(0, 0, [5, 6, 7], committed=[5, 6])
    assert inbox.take(2, 8) == [7]
    assert inbox.epoch == 0


def test_a_late_draft_that_disagrees_is_dropped() -> None:
    """A draft that did not foresee what was generated is useless behind that point: a new epoch."""
    inbox = Inbox(VOCAB)
    assert not inbox.put(0, 0, [5, 9, 7], committed=[5, 6])
    assert inbox.take(2, 8) == []
    assert inbox.epoch == 1


def test_an_early_draft_waits_for_its_turn() -> None:
    """A draft beyond the committed end is kept, and offered when the gap has closed."""
    inbox = Inbox(VOCAB)
    inbox.put(0, 3, [8, 9], committed=[5])
    assert inbox.take(1, 8) == []
    inbox.put(0, 1, [6, 7], committed=[5])
    assert inbox.take(1, 8) == [6, 7, 8, 9]


def test_a_mismatch_starts_a_new_epoch() -> None:
    """After a draft token failed, all that was guessed behind it is gone, and its epoch closed."""
    inbox = Inbox(VOCAB)
    inbox.put(0, 0, [5, 6, 7], committed=[])
    inbox.commit(0, [5, 9])
    assert inbox.epoch == 1
    assert inbox.take(2, 8) == []
    assert not inbox.put(0, 2, [7], committed=[5, 9])
    assert inbox.put(1, 2, [4], committed=[5, 9])
    assert inbox.take(2, 8) == [4]


def test_a_newer_epoch_replaces_the_older() -> None:
    """A drafter that noticed its error first is believed: its older guesses are forgotten."""
    inbox = Inbox(VOCAB)
    inbox.put(0, 1, [6, 7, 8], committed=[5])
    inbox.put(1, 1, [9], committed=[5])
    assert inbox.take(1, 8) == [9]


def test_tokens_outside_the_vocabulary_are_refused() -> None:
    """No id reaches the model that it does not have, nor a position before the answer."""
    inbox = Inbox(VOCAB)
    assert not inbox.put(0, 0, [VOCAB], committed=[])
    assert not inbox.put(0, 0, [-1], committed=[])
    assert not inbox.put(0, -1, [1, 2], committed=[])
    assert inbox.take(0, 8) == []


def test_the_inbox_is_bounded() -> None:
    """However much is drafted, only MAX_PENDING positions are kept."""
    inbox = Inbox(VOCAB)
    inbox.put(0, 0, [1] * (MAX_PENDING + 50), committed=[])
    assert len(inbox.take(0, 10_000)) == MAX_PENDING


@given(
    committed=st.lists(st.integers(0, 3), max_size=12),
    drafts=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 14), st.lists(st.integers(0, 3), max_size=6)),
        max_size=12,
    ),
)
def test_the_epoch_never_falls_and_offers_follow_on(
    committed: list[int], drafts: list[tuple[int, int, list[int]]]
) -> None:
    """Whatever arrives, in whatever order: offers are of the newest epoch, which only rises."""
    inbox, done, newest = Inbox(4), [], {}
    for epoch, base, tokens in drafts:
        before = inbox.epoch
        inbox.put(epoch, base, tokens, done)
        assert inbox.epoch >= before
        if inbox.epoch > before:
            newest = {}
        if epoch == inbox.epoch:
            newest |= dict(enumerate(tokens, base))
        for offset, token in enumerate(inbox.take(len(done), 8)):
            assert newest[len(done) + offset] == token
        if committed:
            before = inbox.epoch
            inbox.commit(len(done), [committed[0]])
            done.append(committed.pop(0))
            if inbox.epoch > before:
                newest = {}


def test_a_sync_that_agrees_confirms() -> None:
    """Tokens that the target committed as guessed are confirmed; the guess behind them stays."""
    lead = Lead(VOCAB)
    lead.tokens = [5, 6, 7]
    assert lead.sync(0, 0, [5, 6]) is None
    assert (lead.tokens, lead.confirmed, lead.ahead, lead.epoch) == ([5, 6, 7], 2, 1, 0)


def test_a_sync_that_disagrees_rewinds() -> None:
    """From the first token that came otherwise, the guess is replaced, under a new epoch."""
    lead = Lead(VOCAB)
    lead.tokens = [5, 6, 7, 8]
    assert lead.sync(0, 0, [5, 9]) == 1
    assert (lead.tokens, lead.ahead, lead.epoch) == ([5, 9], 0, 1)
    assert lead.sync(1, 2, [3]) is None
    assert lead.tokens == [5, 9, 3]


def test_a_drafter_that_lags_catches_up() -> None:
    """Tokens that the target generated faster than they were guessed are taken over."""
    lead = Lead(VOCAB)
    lead.tokens = [5]
    assert lead.sync(0, 0, [5, 6, 7]) is None
    assert (lead.tokens, lead.confirmed, lead.epoch) == ([5, 6, 7], 3, 0)


def test_a_sync_with_a_gap_is_ignored() -> None:
    """A drafter never invents what it was not told: it lags instead."""
    lead = Lead(VOCAB)
    lead.tokens = [5]
    assert lead.sync(0, 2, [7]) is None
    assert lead.sync(0, 1, [VOCAB]) is None
    assert (lead.tokens, lead.confirmed) == ([5], 0)


def test_both_sides_meet_in_one_epoch() -> None:
    """After a mismatch, the drafter's next guess carries the epoch that the target waits for."""
    inbox, lead = Inbox(VOCAB), Lead(VOCAB)
    lead.tokens = [5, 6]
    inbox.put(lead.epoch, 0, lead.tokens, committed=[])
    inbox.commit(0, [5, 9])
    lead.sync(inbox.epoch, 0, [5, 9])
    assert lead.epoch == inbox.epoch == 1
    assert inbox.put(lead.epoch, 2, [4], committed=[5, 9])


def test_both_sides_meet_when_the_drafter_notices_first() -> None:
    """The drafter rewinds for a token of the target's own while its late draft fails there."""
    inbox, lead = Inbox(VOCAB), Lead(VOCAB)
    lead.tokens = [5]
    inbox.commit(0, [9])  # its own token, before the draft came
    inbox.put(lead.epoch, 0, [5], committed=[9])  # the draft comes: useless
    lead.sync(0, 0, [9])  # the commit, sent before that, arrives
    assert lead.epoch == inbox.epoch == 1
    assert inbox.put(lead.epoch, 1, [4], committed=[9])
