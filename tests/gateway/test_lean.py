"""`lean` changes what making an object costs, and nothing that can be seen of the object."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace

import pytest

from gateway.core.chat import ChatRequest, Endpoint, Usage
from gateway.core.lean import lean


@lean
@dataclass(frozen=True, slots=True)
class Point:
    """With every kind of default."""

    x: int
    y: int = 2
    tags: tuple[str, ...] = field(default=(), kw_only=True)
    notes: list[str] = field(default_factory=list, kw_only=True, compare=False)


@dataclass(frozen=True, slots=True)
class Frozen:
    x: int


def test_it_is_made_as_the_dataclass_would_have_been() -> None:
    """Places, names and defaults; each object gets a factory's value of its own."""
    point = Point(1, tags=("a",))
    assert (point.x, point.y, point.tags, point.notes) == (1, 2, ("a",), [])
    assert Point(1).notes is not Point(1).notes
    for wrong in ({}, {"x": 1, "z": 2}):
        with pytest.raises(TypeError, match="Point"):
            Point(**wrong)
    with pytest.raises(TypeError):
        Point(1, 2, ("a",))  # type: ignore[misc]


def test_it_stays_a_value() -> None:
    """Equal by its fields, hashable, copied by `replace`, told by `repr`, pickled."""
    one, other = Point(1, notes=["one"]), Point(1, notes=["other"])
    assert one == other and hash(one) == hash(other) and {one: 1}[other] == 1
    assert replace(one, x=3) == Point(3) and one.x == 1
    assert repr(Point(1)) == "Point(x=1, y=2, tags=(), notes=[])"
    assert [each.name for each in fields(Point)] == ["x", "y", "tags", "notes"]
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one)


def test_it_still_has_no_room_for_other_fields() -> None:
    """Slots hold: a typo in an assignment that mypy did not see is an error all the same."""
    with pytest.raises(AttributeError):
        Point(1).z = 1  # type: ignore[attr-defined]
    with pytest.raises(FrozenInstanceError):
        Frozen(1).x = 2  # type: ignore[misc]


def test_the_nouns_of_a_request_are_lean() -> None:
    """Their `__init__` assigns; a frozen one would go through `object.__setattr__`."""
    for noun in (ChatRequest, Usage):
        assert "__setattr__" not in vars(noun)
        assert "object" not in noun.__init__.__code__.co_names
    assert ChatRequest(endpoint=Endpoint.CHAT, dialect="d", model="m").messages == ()
