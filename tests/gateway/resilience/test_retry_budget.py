"""Who may take how many fallbacks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.resilience.retry_budget import BUCKET, LEAST, SHARE, RetryBudget


def test_a_healthy_upstream_takes_every_fallback() -> None:
    """A hundred requests whose first upstream died at once all reach the second."""
    budget = RetryBudget()
    assert all(budget.begin(retry=True) for _ in range(100))


def test_a_failing_upstream_takes_few() -> None:
    """Below half of the bucket only a fifth of what is active may be retries, three at least;
    first attempts are never refused."""
    budget = RetryBudget()
    for _ in range(6):
        assert budget.begin(retry=False)
        budget.end(retry=False, failed=True)
    assert not budget.healthy
    assert [budget.begin(retry=True) for _ in range(5)] == [True] * LEAST + [False] * 2
    assert all(budget.begin(retry=False) for _ in range(40))
    allowed = sum(budget.begin(retry=True) for _ in range(40))
    assert LEAST + allowed <= 1 + SHARE * budget.active


def test_successes_open_it_again() -> None:
    """Ten successes outweigh a failure."""
    budget = RetryBudget(tokens=BUCKET / 2)
    for _ in range(2):
        budget.begin(retry=False)
        budget.end(retry=False, failed=False)
    assert budget.healthy


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([True, False, None])), max_size=200))
def test_the_books_balance(tries: list[tuple[bool, bool | None]]) -> None:
    """Whatever comes, counts return to zero and the bucket stays within its bounds."""
    budget = RetryBudget()
    begun = [(retry, failed) for retry, failed in tries if budget.begin(retry=retry)]
    assert budget.active == len(begun)
    for retry, failed in begun:
        budget.end(retry=retry, failed=failed)
        assert 0 <= budget.tokens <= BUCKET
    assert (budget.active, budget.retries) == (0, 0)
