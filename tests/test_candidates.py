"""Prices of candidates, from latencies as the tests choose them."""

from __future__ import annotations

import math

import onnx_ir as ir
import pytest

from edgeopt.candidates import Candidate, loss, price
from edgeopt.decisions import FLOAT, INT8, ORIGINAL, Decisions
from edgeopt.evaluation import Comparison, Score
from edgeopt.latency import ratio, summarize
from edgeopt.levers import Budget
from edgeopt.parity import Agreement
from tests import tiny

MODEL = ir.from_proto(tiny.net())


def candidate(choice: str, median_ms: float, base_ms: float = 10.0, drop: float | None = None) -> Candidate:
    times, base = [median_ms] * 30, [base_ms] * 30
    comparison = None if drop is None else Comparison(Agreement(), Score("top1", 0.7, 9), Score("top1", 0.7 - drop, 9))
    return Candidate(Decisions(choice), MODEL, None, summarize(times), ratio(base, times), None, comparison, 100)


ORIGIN = candidate(ORIGINAL, 10.0)


@pytest.mark.parametrize(
    ("median_ms", "priced_ms"),
    [(5.0, 5.0), (9.9, 10.0), (10.1, 10.0), (10.5, 10.5)],  # within 2 % of the original's: as the original
)
def test_a_latency_counts_only_where_it_can_be_told_from_the_originals(median_ms: float, priced_ms: float) -> None:
    assert price(candidate(FLOAT, median_ms), ORIGIN, Budget(0.01)).latency_ms == pytest.approx(priced_ms)


def test_a_latency_budget_goes_by_the_reported_median() -> None:
    within = price(candidate(FLOAT, 9.9), ORIGIN, Budget(0.01, latency_ms=9.95))
    assert within.latency_ms <= 9.95
    beyond = price(candidate(FLOAT, 9.9), ORIGIN, Budget(0.01, latency_ms=9.8))
    assert beyond.latency_ms > 9.8


@pytest.mark.parametrize(
    ("choice", "drop", "wanted"),
    [(INT8, 0.004, 0.004), (INT8, -0.5, 0.0), (INT8, 0.02, math.inf), (FLOAT, None, 0.0)],
)
def test_loss(choice: str, drop: float | None, wanted: float) -> None:
    assert loss(candidate(choice, 5.0, drop=drop), Budget(0.01)) == pytest.approx(wanted)
