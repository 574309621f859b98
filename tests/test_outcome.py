"""The reasons in the report, for candidates as the tests want them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pytest

from edgeopt.candidates import Candidate
from edgeopt.decisions import FLOAT, INT8, ORIGINAL
from edgeopt.levers import Budget
from edgeopt.outcome import Explanation
from edgeopt.simplifier import Simplified
from tests.test_candidates import MODEL, candidate

BASE = candidate(ORIGINAL, 10.0)


def parts(
    others: Sequence[Candidate],
    shipped: Candidate,
    *,
    replayed: bool = False,
    missed: Sequence[str] = (),
    not_confirmed: Collection[str] = (),
) -> dict[str, Any]:
    explanation = Explanation(
        [BASE, *others], shipped, Budget(0.01), replayed=replayed, missed=missed, not_confirmed=not_confirmed
    )
    return explanation.parts(Simplified(MODEL, []))


def reasons(*others: Candidate, shipped: Candidate, **options: Any) -> dict[str, str]:
    return {c["choice"]: c["reason"] for c in parts(others, shipped, **options)["candidates"]}


def test_the_winner_and_the_reference() -> None:
    fast = candidate(INT8, 5.0, drop=0.0)
    assert reasons(fast, shipped=fast) == {
        ORIGINAL: "the reference; another choice serves the budgets better",
        INT8: "the fastest that keeps all budgets",
    }


@pytest.mark.parametrize(
    ("median_ms", "drop", "reason"),
    [
        (12.0, 0.0, "slower than the original"),
        (10.0, 0.0, "not faster than the original beyond noise"),
        (9.0, 0.0, "another choice serves the budgets better"),
        (5.0, 0.25, "it loses 0.25, more than --max-drop 0.01"),
    ],
)
def test_why_a_candidate_is_not_shipped(median_ms: float, drop: float, reason: str) -> None:
    better = candidate(FLOAT, 4.0, drop=0.0)
    assert reasons(candidate(INT8, median_ms, drop=drop), better, shipped=better)[INT8] == reason


def test_what_did_not_prove_itself() -> None:
    slow, equal = candidate(INT8, 12.0, drop=0.0), candidate(INT8, 10.0, drop=0.0)
    assert reasons(slow, shipped=BASE, not_confirmed=[INT8])[INT8] == "slower than the original when measured again"
    found = parts([equal], BASE, not_confirmed=[INT8])["candidates"]
    assert found[1]["reason"] == "not faster than the original when measured again"


def test_budgets_and_replays() -> None:
    fast = candidate(INT8, 5.0, drop=0.0)
    assert reasons(fast, shipped=fast, replayed=True)[INT8] == "replayed from the recipe"
    assert reasons(fast, shipped=fast, missed=["latency_ms"])[INT8].startswith("no choice keeps all budgets")


def test_before_and_after() -> None:
    fast = candidate(INT8, 5.0, drop=0.005)
    fast.int8 = {"nodes_int8": 3}
    found = parts([fast], fast)
    assert found["int8"] == {"nodes_int8": 3}
    assert found["ratios"]["latency"] == pytest.approx(2.0)
    assert found["before"]["score"]["value"] == pytest.approx(0.7)
    assert found["after"]["score"]["value"] == pytest.approx(0.695)
    assert found["candidates"][1]["drop"] == pytest.approx(0.005)
    assert "int8" not in parts([fast], BASE)
