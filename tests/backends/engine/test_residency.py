"""Who may be in memory: the books alone, with random histories and a clock that is a number."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from backends.engine.residency import NEVER, Residency, Resident, Step

BUDGET = 100
STAY = 5.0


def books(**sizes: int) -> Residency:
    residency = Residency(budget=BUDGET, min_stay=STAY)
    for name, size in sizes.items():
        residency.add(Resident(name=name, size=size))
    return residency


def into_memory(residency: Residency, name: str, now: float) -> None:
    residency.ask(name, now)
    assert residency.step(now).load == (name,)
    residency.loaded(name, now)
    assert residency.enter(name, now)
    residency.forgo(name, now)
    residency.leave(name, now)


def test_a_model_is_loaded_once_for_all_who_ask() -> None:
    """A second asker while it loads begins nothing."""
    residency = books(a=60)
    residency.ask("a", 0)
    assert residency.step(0) == Step(load=("a",))
    residency.ask("a", 1)
    assert residency.step(1) == Step()


def test_the_least_recently_used_leaves_first_and_its_successor_waits_for_it() -> None:
    """Only when the old one's process is gone does the new one's begin."""
    residency = books(a=40, b=40, c=40)
    into_memory(residency, "a", 0)
    into_memory(residency, "b", 1)
    residency.ask("c", 10)
    assert residency.step(10) == Step(unload=(("a", "memory"),))
    assert residency.step(11) == Step()
    residency.unloaded("a")
    assert residency.step(12) == Step(load=("c",))


def test_a_model_stays_for_a_while_whoever_asks() -> None:
    """Within its first seconds nothing replaces it, and the books say when to look again."""
    residency = books(a=60, b=60)
    into_memory(residency, "a", 0)
    residency.ask("b", 1)
    assert residency.step(1) == Step()
    assert residency.next_at(1) == STAY
    assert residency.step(STAY) == Step(unload=(("a", "memory"),))


def test_the_idle_leave_after_their_time_and_the_busy_do_not() -> None:
    """`keep_alive` counts from the end of the last use."""
    residency = books()
    residency.add(Resident(name="a", size=10, keep_alive=2.0))
    into_memory(residency, "a", 0)
    residency.enter("a", 1)
    assert residency.step(50) == Step()
    residency.leave("a", 50)
    assert residency.next_at(50) == 52
    assert residency.step(52) == Step(unload=(("a", "idle"),))


def test_a_smaller_one_may_pass_only_where_nothing_has_to_leave_for_it() -> None:
    """The first in line is blocked by a busy model; what is free anyhow may be used."""
    residency = books(a=60, b=60, c=30, d=45)
    into_memory(residency, "a", 0)
    residency.enter("a", 1)
    for name in "bcd":
        residency.ask(name, 10)
    assert residency.step(10) == Step(load=("c",))
    residency.leave("a", 11)
    assert residency.step(11) == Step(unload=(("a", "memory"),))
    residency.unloaded("a")
    assert residency.step(12) == Step(load=("b",))


def test_what_can_never_fit_has_no_room() -> None:
    """Pins of others are taken off the budget."""
    residency = books(a=60)
    residency.add(Resident(name="pin", size=50, pinned=True))
    assert residency.room("a") == 50
    residency.ask("a", 0)
    assert residency.step(0) == Step()


@dataclass
class History:
    """A random life of four models, with every promise checked at each step."""

    residency: Residency
    now: float = 0.0
    since: dict[str, float] = field(default_factory=dict)

    def turn(self) -> None:
        before = {n: (m.state, m.idle, m.pinned) for n, m in self.residency.models.items()}
        step = self.residency.step(self.now)
        for name, why in step.unload:
            state, idle, pinned = before[name]
            assert state == "loaded" and idle and not pinned
            if why == "memory":
                assert self.now - self.since[name] >= STAY
        for name in step.load:
            assert before[name][0] == "cold"
        assert self.residency.used <= BUDGET
        at = self.residency.next_at(self.now)
        assert at is None or at > self.now


ACTIONS = st.sampled_from(["ask", "forgo", "leave", "loaded", "unloaded", "wait"])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, BUDGET), st.booleans(), st.sampled_from([0.0, 3.0, NEVER]))),
    st.lists(st.tuples(ACTIONS, st.integers(0, 3), st.floats(0, 4)), max_size=80),
)
def test_whatever_happens_the_promises_hold(
    models: list[tuple[int, bool, float]], history: list[tuple[str, int, float]]
) -> None:
    """Never over the budget, nothing busy, pinned or newly come leaves, nothing loads twice, and
    who can be served is served once everybody has left."""
    residency = Residency(budget=BUDGET, min_stay=STAY)
    for index, (size, pinned, keep_alive) in enumerate(models[:4]):
        model = Resident(name=str(index), size=size, pinned=pinned, keep_alive=keep_alive)
        residency.add(model)
    life = History(residency)
    for action, index, seconds in history:
        model_ = residency.models.get(str(index))
        if model_ is None:
            continue
        name = model_.name
        match action:
            case "ask":
                residency.ask(name, life.now)
            case "forgo" if model_.askers:
                residency.enter(name, life.now)
                residency.forgo(name, life.now)
            case "leave" if model_.users:
                residency.leave(name, life.now)
            case "loaded" if model_.state == "loading":
                residency.loaded(name, life.now)
                life.since[name] = life.now
            case "unloaded" if model_.state == "unloading":
                residency.unloaded(name)
            case "wait":
                life.now += seconds
        life.turn()
    _let_everybody_finish(life)


def _let_everybody_finish(life: History) -> None:
    """Everybody gets through who can: no request is stuck when nobody holds anything for good."""
    residency = life.residency
    pinned = sum(m.size for m in residency.models.values() if m.pinned)
    for _ in range(60):
        for name, model in residency.models.items():
            while model.users:
                residency.leave(name, life.now)
            if model.state == "unloading":
                residency.unloaded(name)
            if model.state == "loading":
                residency.loaded(name, life.now)
                life.since[name] = life.now
            if model.state == "loaded":
                while model.askers:
                    residency.forgo(name, life.now)
            life.turn()
        life.now += STAY
    if pinned <= BUDGET:
        able = [m for n, m in residency.models.items() if m.size <= residency.room(n)]
        assert not any(m.askers for m in able)
