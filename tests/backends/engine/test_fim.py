"""The fill-in-the-middle layout, and what is left out when it does not fit."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from backends.engine.fim import TEXT_SEPARATOR, fim_prompt


@dataclass(frozen=True)
class Ids:
    prefix: int = 1001
    suffix: int = 1002
    middle: int = 1003
    repo: int = -1
    separator: int = -1


def letters(text: str) -> list[int]:
    return [ord(c) for c in text]


def build(
    prefix: str,
    suffix: str,
    snippets: list[tuple[str, str]] | None = None,
    *,
    ids: Ids = Ids(),
    bos: int = -1,
    room: int = 1000,
    batch: int = 512,
) -> tuple[list[int], int]:
    return fim_prompt(
        ids,
        bos,
        letters,
        prefix=prefix,
        suffix=suffix,
        snippets=snippets or [],
        room=room,
        batch=batch,
    )


def test_the_hole() -> None:
    """Prefix, suffix, middle, each behind its token; the BOS first where the model has one."""
    assert build("ab", "c") == ([1001, *letters("ab"), 1002, *letters("c"), 1003], 0)
    assert build("a", "", bos=7)[0] == [7, 1001, *letters("a"), 1002, 1003]


def test_other_files_come_first() -> None:
    """With the vocabulary's own tokens if it has them, else behind a separator of text."""
    tokens, _ = build("a", "b", [("x.py", "xx")], ids=Ids(repo=1, separator=2))
    files = [1, *letters("myproject\n"), 2, *letters("x.py\n"), *letters("xx")]
    assert tokens[: len(files)] == files
    tokens, _ = build("a", "b", [("x.py", "xx")])
    assert tokens[:-5] == letters(TEXT_SEPARATOR + "xx")


def test_a_long_file_keeps_what_is_near_the_hole() -> None:
    """Three quarters of a batch for the end of the prefix, a quarter for the suffix's beginning."""
    tokens, cut = build("a" * 900 + "P", "S" + "b" * 900, room=500, batch=103)
    assert len(tokens) == 103
    assert tokens[:76] == [1001, *letters("a" * 74 + "P")]
    assert tokens[76:79] == [1002, *letters("Sb")]
    assert cut == 1802 - 100


def test_a_short_side_leaves_its_share_to_the_other() -> None:
    """A quarter that the suffix does not need goes to the prefix, and the other way round."""
    assert build("a" * 900, "b", room=103)[0].count(ord("a")) == 99
    assert build("a", "b" * 900, room=103)[0].count(ord("b")) == 99


def test_the_last_of_the_other_files_survive() -> None:
    """What does not fit of other files is left out from the front."""
    tokens, cut = build("a", "b", [("", "old"), ("", "new")], room=5 + 4)
    assert tokens[:4] == letters("\nnew")
    assert cut == 2 * len(TEXT_SEPARATOR) + 6 - 4


@given(
    st.text(max_size=60),
    st.text(max_size=60),
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=20)), max_size=3),
    st.integers(8, 120),
    st.integers(8, 64),
    st.sampled_from([-1, 7]),
)
def test_it_always_fits(
    prefix: str, suffix: str, snippets: list[tuple[str, str]], room: int, batch: int, bos: int
) -> None:
    """Whatever comes, the prompt has room, ends with the middle token, and no hidden cut."""
    tokens, cut = build(prefix, suffix, snippets, room=room, batch=batch, bos=bos)
    assert len(tokens) <= room
    assert tokens[-1] == 1003
    whole, _ = build(prefix, suffix, snippets, room=10_000, batch=batch, bos=bos)
    assert len(tokens) + cut == len(whole)
