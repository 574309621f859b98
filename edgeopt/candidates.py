"""Models that could be shipped, and their prices in the currencies of the solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from edgeopt.decisions import FLOAT, INT8, LAYOUT, MIXED, ORIGINAL, Decisions
from edgeopt.evaluation import Comparison
from edgeopt.latency import SESSION_NOISE, Latency, Ratio
from edgeopt.levers import WHOLE_MODEL, Budget, Lever
from edgeopt.memory import Memory

_PREFERENCE = (FLOAT, ORIGINAL, LAYOUT, INT8, MIXED)  # of equal prices, the simpler choice


@dataclass
class Candidate:
    """A model that could be shipped, and what is known of it.

    Attributes:
        decisions: How it was made.
        model: With its metadata, checked.
        int8: The report's part on int8.
    """

    decisions: Decisions
    model: ir.Model
    int8: dict[str, Any] | None = None
    latency: Latency | None = None
    speedup: Ratio | None = None
    memory: Memory | None = None
    comparison: Comparison | None = None
    file_bytes: int = 0

    @property
    def choice(self) -> str:
        """Its name among the candidates."""
        return self.decisions.choice


def price(candidate: Candidate, original: Candidate, budget: Budget) -> Lever:
    """Prices; latencies that cannot be told from the original's count as equal to it."""
    if candidate.speedup is None or original.latency is None:  # not timed: the prices are those of the original
        speedup, base_ms = 1.0, 0.0
    else:
        # In doubt against the candidate: a gain must be certain, a loss need only be likely.
        told_apart = candidate.speedup.faster or candidate.speedup.median < 1 / (1 + SESSION_NOISE)
        speedup, base_ms = candidate.speedup.median if told_apart else 1.0, original.latency.median_ms
    time_ms = base_ms / speedup
    if (limit := budget.latency_ms) is not None and candidate.latency is not None:
        # the budget is kept or missed by the median that is reported, not by the paired price
        median_ms = candidate.latency.median_ms
        time_ms = min(time_ms, limit) if median_ms <= limit else max(time_ms, median_ms)
    peak = candidate.memory.runtime_peak_bytes if candidate.memory is not None else None
    return Lever(
        WHOLE_MODEL,
        candidate.choice,
        time_ms,
        loss(candidate, budget),
        peak or 0,
        candidate.file_bytes,
        _PREFERENCE.index(candidate.decisions.kind),
    )


def loss(candidate: Candidate, budget: Budget) -> float:
    """0 for exact choices; else the drop, or infinity where it is unsafe.

    Exact choices lose nothing without onnxruntime's optimizations; a drop with them is a drop all the same.
    """
    if candidate.choice == ORIGINAL or candidate.comparison is None:
        return 0.0
    if candidate.choice in (FLOAT, LAYOUT):  # the oracle has compared the outputs that no figure covers
        return 0.0 if candidate.comparison.equivalent(budget.error) else float("inf")
    if not candidate.comparison.safe(budget.error):
        return float("inf")
    drop = max(0.0, candidate.comparison.drop() or 0.0)
    return min(drop, budget.error)  # what is safe but for rounding must not fail by it
