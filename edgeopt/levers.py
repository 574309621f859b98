"""Levers and the solver that picks among them: the one place where edgeopt trades accuracy for cost.

A lever is one choice at one place of the graph, with its prices in the two currencies that all choices share:
what it costs on the device (latency, memory, file) and what it costs in accuracy (error at the output). Prices of
different places add up. ``solve`` finds, for one lever per place, the least latency under all budgets: a
multiple-choice knapsack (Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11), solved exactly by
merging the places' Pareto fronts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeopt.errors import UsageError

WHOLE_MODEL = "*"


@dataclass(frozen=True)
class Lever:
    """One choice at one place.

    Attributes:
        place: A node, a region, or ``*`` for the whole model.
        choice: Such as ``float`` or ``int8``.
        latency_ms: On the device, of this place with this choice.
        error: Lost at the output, in the unit of ``--max-drop``; 0 for exact choices.
        memory_bytes: Peak memory attributed to it.
        file_bytes: Bytes in the file.
        preference: Lower wins between choices of equal prices.
    """

    place: str
    choice: str
    latency_ms: float
    error: float = 0.0
    memory_bytes: int = 0
    file_bytes: int = 0
    preference: int = 0


@dataclass(frozen=True)
class Budget:
    """What must not be exceeded; None means no limit. The error budget is never traded for another one."""

    error: float
    latency_ms: float | None = None
    memory_bytes: int | None = None
    file_bytes: int | None = None


@dataclass(frozen=True)
class Solution:
    """One lever per place, in the order in which the places came, and the totals."""

    levers: tuple[Lever, ...]
    missed: tuple[str, ...]

    @property
    def latency_ms(self) -> float:
        """Sum over the places."""
        return sum(lever.latency_ms for lever in self.levers)

    @property
    def error(self) -> float:
        """Sum over the places."""
        return sum(lever.error for lever in self.levers)

    @property
    def memory_bytes(self) -> int:
        """Sum over the places."""
        return sum(lever.memory_bytes for lever in self.levers)

    @property
    def file_bytes(self) -> int:
        """Sum over the places."""
        return sum(lever.file_bytes for lever in self.levers)


def _prices(s: Solution) -> tuple[float, float, float, float, float]:
    return s.latency_ms, s.error, s.memory_bytes, s.file_bytes, sum(lever.preference for lever in s.levers)


def _front(states: Sequence[Solution]) -> list[Solution]:
    """Those that no other one beats or equals in every price."""
    kept: list[Solution] = []
    for state in sorted(states, key=_prices):
        mine = _prices(state)
        if not any(all(a <= b for a, b in zip(_prices(k), mine, strict=True)) for k in kept):
            kept.append(state)
    return kept


def missed_budgets(solution: Solution, budget: Budget) -> tuple[str, ...]:
    """Names of the budgets that the totals exceed."""
    limits = {
        "latency_ms": (solution.latency_ms, budget.latency_ms),
        "memory_bytes": (solution.memory_bytes, budget.memory_bytes),
        "file_bytes": (solution.file_bytes, budget.file_bytes),
    }
    return tuple(name for name, (value, limit) in limits.items() if limit is not None and value > limit)


def _excess(solution: Solution, budget: Budget) -> float:
    """By how much the budgets are exceeded in all, as shares of them."""
    pairs = (
        (solution.latency_ms, budget.latency_ms),
        (solution.memory_bytes, budget.memory_bytes),
        (solution.file_bytes, budget.file_bytes),
    )
    return sum(max(0.0, value / max(limit, 1e-12) - 1) for value, limit in pairs if limit is not None)


def solve(levers: Sequence[Lever], budget: Budget) -> Solution:
    """The choice of one lever per place with the least latency under the budgets.

    Ties go to the smaller error, then the preferred choice, then the smaller file. When no choice meets every
    budget, the error budget still holds, and the total excess over the others (as shares) is smallest;
    ``missed`` then names them.

    Raises:
        UsageError: no levers, or a place where every choice alone exceeds the error budget.
    """
    places: dict[str, list[Lever]] = {}
    for lever in levers:
        places.setdefault(lever.place, []).append(lever)
    if not places:
        raise UsageError("no levers to choose from", where="solve")
    states = [Solution((), ())]
    for choices in places.values():
        merged = [Solution((*s.levers, c), ()) for s in states for c in choices]
        states = _front([s for s in merged if s.error <= budget.error])
        if not states:
            raise UsageError(f"no choice keeps the error within {budget.error:g}", where=f"place {choices[0].place!r}")
    best = min(
        states,
        key=lambda s: (
            _excess(s, budget),
            s.latency_ms,
            s.error,
            sum(lever.preference for lever in s.levers),
            s.file_bytes,
        ),
    )
    return Solution(best.levers, missed_budgets(best, budget))
