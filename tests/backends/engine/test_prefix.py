"""The tree of resident sequences against a list of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backends.engine.prefix import PrefixCache, common

LINES = st.lists(st.integers(0, 2), min_size=1, max_size=8)
STORY = st.lists(
    st.tuples(st.sampled_from(["put", "drop"]), st.integers(0, 5), st.sampled_from("ab"), LINES),
    max_size=30,
)


@given(STORY, st.sampled_from("ab"), LINES)
def test_the_longest_beginning_is_found(
    story: list[tuple[str, int, str, list[int]]], tenant: str, asked: list[int]
) -> None:
    """After any puts and drops, a match is what comparing with every sequence would find."""
    cache = PrefixCache()
    held: dict[int, tuple[str, list[int]]] = {}
    for what, sequence, whose, line in story:
        if what == "put":
            cache.put(sequence, whose, line, idle=sequence % 2 == 0)
            held[sequence] = whose, line
        else:
            cache.drop(sequence)
            held.pop(sequence, None)
    mine = {s: line for s, (whose, line) in held.items() if whose == tenant}
    best = max((common(line, asked) for line in mine.values()), default=0)
    length, owner = cache.match(tenant, asked)
    assert length == best
    assert (owner is None) == (best == 0)
    if owner is not None:
        assert common(mine[owner], asked) == best
    assert cache.cells == sum(len(line) for s, (_, line) in held.items() if s % 2 == 0)


def test_the_longest_unused_goes_first() -> None:
    """Eviction takes the idle sequence that was of use longest ago, never a running one."""
    cache = PrefixCache()
    cache.put(0, "a", [1], idle=False)
    cache.put(1, "a", [1, 2], idle=True)
    cache.put(2, "a", [1, 3], idle=True)
    assert cache.oldest() == 1
    cache.touch(1)
    assert cache.oldest() == 2
    assert cache.oldest(but=2) == 1
