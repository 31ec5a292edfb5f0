"""Prompt lookup: where the text was like this before, and what came then."""

from __future__ import annotations

import random

from backends.engine.lookup import Lookup


def fed(tokens: list[int]) -> Lookup:
    lookup = Lookup()
    for token in tokens:
        lookup.feed(token)
    return lookup


def test_three_tokens_that_were_seen_point_behind_them() -> None:
    """What followed the same three tokens is the draft; two are not enough."""
    text = [1, 2, 3, 4, 5, 6]
    assert fed([*text, 9, 2, 3]).draft(4) == []
    found = fed([*text, 9, 1, 2, 3])
    assert found.draft(2) == [4, 5]
    assert (found.guess, found.agreement) == (4, 3)


def test_a_longer_agreement_goes_before_a_later_one() -> None:
    """Five tokens that agree say more than three seen since."""
    text = [1, 2, 3, 4, 5, 6, 9, 8, 3, 4, 5, 7, 7]
    assert fed([*text, 1, 2, 3, 4, 5]).draft(1) == [6]
    assert fed([*text, 0, 0, 3, 4, 5]).draft(1) == [7]


def test_the_pointer_moves_with_the_text_and_is_lost_with_it() -> None:
    """While the guess holds the agreement grows; a miss is looked up anew."""
    lookup = fed([*range(20), 0, 1, 2])
    lookup.feed(3)
    assert (lookup.guess, lookup.agreement) == (4, 4)
    lookup.feed(17)
    assert lookup.guess is None


def test_a_repetition_goes_on_beyond_the_end() -> None:
    """Where the copy reaches the text's own end it copies itself, as a loop does."""
    assert fed([5, 6, 7, 5, 6, 7]).draft(8) == [5, 6, 7, 5, 6, 7, 5, 6]
    assert fed([4] * 6).draft(5) == [4] * 5


def test_a_prediction_begins_at_its_beginning_and_is_found_again() -> None:
    """A text of its own is pointed at from the start, lost at a difference, and rejoined."""
    lookup = Lookup(range(100, 130))
    lookup.start()
    assert lookup.draft(3) == [100, 101, 102]
    for token in (100, 101, 7, 103, 104):
        lookup.feed(token)
    assert lookup.guess is None
    lookup.feed(105)
    assert lookup.draft(2) == [106, 107]
    for token in range(106, 129):
        lookup.feed(token)
    assert lookup.draft(8) == [129]


def test_drafts_are_always_what_followed_such_a_run() -> None:
    """Random texts over few tokens: the first of a draft followed an equal run of three before."""
    random.seed(4)
    for _ in range(200):
        text = [random.randrange(4) for _ in range(random.randrange(4, 60))]
        lookup, found = fed(text), set()
        for end in range(3, len(text)):
            if text[end - 3 : end] == text[-3:]:
                found.add(text[end])
        draft = lookup.draft(6)
        assert bool(draft) == bool(found)
        if draft:
            assert draft[0] in found
            assert len(draft) == 6
