from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.errors import UsageError
from edgeopt.levers import WHOLE_MODEL, Budget, Lever, Solution, missed_budgets, solve

PRICES = st.integers(0, 5)
LEVERS = st.builds(
    Lever,
    place=st.sampled_from(["a", "b", "c"]),
    choice=st.just("x"),
    latency_ms=PRICES.map(float),
    error=PRICES.map(lambda e: e / 8),  # sums without rounding
    memory_bytes=PRICES,
    file_bytes=PRICES,
    preference=st.integers(0, 2),
)
BUDGETS = st.builds(
    Budget,
    error=PRICES.map(lambda e: e / 8),
    latency_ms=st.none() | PRICES.map(float),
    memory_bytes=st.none() | PRICES,
    file_bytes=st.none() | PRICES,
)


def excess(s: Solution, budget: Budget) -> float:
    """The stated rule, in other words: shares by which budgets are exceeded, added up."""
    total = 0.0
    for value, limit in (
        (s.latency_ms, budget.latency_ms),
        (s.memory_bytes, budget.memory_bytes),
        (s.file_bytes, budget.file_bytes),
    ):
        if limit is not None and value > limit:
            total += value / max(limit, 1e-12) - 1
    return total


def rank(s: Solution, budget: Budget) -> tuple[float, ...]:
    return excess(s, budget), s.latency_ms, s.error, sum(x.preference for x in s.levers), s.file_bytes


@given(st.lists(LEVERS, min_size=1, max_size=9), BUDGETS)
@settings(max_examples=300, deadline=None)
def test_the_solver_is_exact(levers: list[Lever], budget: Budget) -> None:
    places: dict[str, list[Lever]] = {}
    for lever in levers:
        places.setdefault(lever.place, []).append(lever)
    every = [Solution(combination, ()) for combination in itertools.product(*places.values())]
    allowed = [s for s in every if s.error <= budget.error]
    if not allowed:
        with pytest.raises(UsageError, match="no choice keeps the error within"):
            solve(levers, budget)
        return
    found = solve(levers, budget)
    best = min(allowed, key=lambda s: rank(s, budget))
    assert rank(found, budget) == pytest.approx(rank(best, budget))
    assert [x.place for x in found.levers] == list(places)
    assert found.missed == missed_budgets(found, budget)
    assert bool(found.missed) == (excess(found, budget) > 0)


def whole(choice: str, latency_ms: float, **more: float) -> Lever:
    return Lever(WHOLE_MODEL, choice, latency_ms, **more)  # type: ignore[arg-type]


def test_the_fastest_wins() -> None:
    assert (
        solve([whole("float", 3.0), whole("int8", 1.0), whole("original", 2.0)], Budget(0.0)).levers[0].choice == "int8"
    )


@pytest.mark.parametrize(
    ("levers", "winner"),
    [
        ([whole("a", 1.0, error=0.01), whole("b", 1.0, error=0.0)], "b"),
        ([whole("a", 1.0, preference=1), whole("b", 1.0, preference=0)], "b"),
        ([whole("a", 1.0, file_bytes=9), whole("b", 1.0, file_bytes=8)], "b"),
        ([whole("a", 1.0, file_bytes=1, preference=1), whole("b", 1.0, file_bytes=9, preference=0)], "b"),
        ([whole("a", 1.0), whole("b", 1.0)], "a"),
    ],
    ids=["error", "preference", "file", "preference before file", "the first"],
)
def test_ties(levers: list[Lever], winner: str) -> None:
    assert solve(levers, Budget(1.0)).levers[0].choice == winner


def test_the_error_budget_holds_whatever_the_others_say() -> None:
    levers = [whole("fast", 1.0, error=0.02), whole("slow", 9.0)]
    found = solve(levers, Budget(0.01, latency_ms=5.0))
    assert found.levers[0].choice == "slow"
    assert found.missed == ("latency_ms",)


def test_an_infinite_error_is_never_allowed() -> None:
    assert solve([whole("a", 1.0, error=math.inf), whole("b", 2.0)], Budget(1e9)).levers[0].choice == "b"


def test_a_budget_that_costs_speed() -> None:
    levers = [whole("fast", 1.0, file_bytes=10), whole("small", 5.0, file_bytes=2)]
    assert solve(levers, Budget(0.0, file_bytes=10)).levers[0].choice == "fast"
    assert solve(levers, Budget(0.0, file_bytes=9)).levers[0].choice == "small"


def test_missed_budgets_are_named_and_missed_least() -> None:
    levers = [whole("a", 4.0, memory_bytes=10, file_bytes=10), whole("b", 5.0, memory_bytes=2, file_bytes=9)]
    found = solve(levers, Budget(0.0, latency_ms=4.5, memory_bytes=1, file_bytes=1))
    assert found.levers[0].choice == "b"
    assert found.missed == ("latency_ms", "memory_bytes", "file_bytes")


def test_a_budget_of_zero() -> None:
    found = solve([whole("a", 1.0), whole("b", 2.0)], Budget(0.0, latency_ms=0.0))
    assert (found.levers[0].choice, found.missed) == ("a", ("latency_ms",))


def test_totals_add_up_over_places() -> None:
    found = solve([Lever("a", "x", 1.0, 0.25, 3, 5), Lever("b", "y", 2.0, 0.5, 4, 6)], Budget(1.0))
    assert (found.latency_ms, found.error, found.memory_bytes, found.file_bytes) == (3.0, 0.75, 7, 11)


def test_no_levers() -> None:
    with pytest.raises(UsageError, match="solve: no levers to choose from"):
        solve([], Budget(1.0))


def test_the_place_without_a_choice_is_named() -> None:
    with pytest.raises(UsageError, match=r"place 'b': no choice keeps the error within 0.1"):
        solve([Lever("a", "x", 1.0), Lever("b", "y", 1.0, 0.2)], Budget(0.1))
