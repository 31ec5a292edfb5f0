"""Who is let in when it gets full."""

from __future__ import annotations

import pytest

from gateway.admission import Admission
from gateway.core.chat import Priority
from gateway.core.errors import Overloaded, Unavailable


def fill(admission: Admission, priority: Priority, *, local: bool = False) -> int:
    """How many of a class come in before the first is refused."""
    count = 0
    try:
        while True:
            admission.enter(priority, local=local)
            count += 1
    except Overloaded:
        return count


def test_the_least_urgent_are_shed_first() -> None:
    """Batch leaves room for chat, chat for completions, and all for what must stay local."""
    admission = Admission(limit=100)
    assert fill(admission, Priority.BATCH) == 75
    assert fill(admission, Priority.CHAT) == 15
    assert fill(admission, Priority.BATCH) == 0
    assert fill(admission, Priority.COMPLETION) == 5
    assert fill(admission, Priority.COMPLETION, local=True) == 5
    assert admission.inside == admission.limit


def test_a_released_place_is_free_once() -> None:
    """Releasing twice frees one place."""
    admission = Admission(limit=1)
    permit = admission.enter()
    with pytest.raises(Overloaded):
        admission.enter()
    permit.release()
    permit.release()
    assert admission.inside == 0


def test_nobody_comes_in_while_draining() -> None:
    """Draining refuses every class with 503."""
    admission = Admission(limit=9)
    admission.draining = True
    for priority in Priority:
        with pytest.raises(Unavailable):
            admission.enter(priority, local=True)
