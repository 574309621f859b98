"""Timing, on a clock that only the fake models move: nothing here depends on how fast the machine is."""

from __future__ import annotations

import gc
import math
from typing import Any, cast

import numpy as np
import pytest

from edgeopt.errors import ModelError, UsageError
from edgeopt.latency import Latency, Ratio, measure, median_interval, ratio, summarize
from edgeopt.runtime import Session
from tests.models import model


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now


class Fake:
    """A session whose runs take the given seconds in turn; it notes in what order it is called."""

    def __init__(self, clock: Clock, name: str, seconds: list[float], inputs: list[str] | None = None) -> None:
        self.clock, self.name, self.seconds = clock, name, seconds
        self.input_names = inputs or ["x"]
        self.ort = self
        self.count = 0
        self.gc_was_on: list[bool] = []

    def run(self, first: Any, second: Any = None) -> None:
        fed = first if second is None else second  # Session.run(feed), InferenceSession.run(names, feed)
        assert set(fed) == set(self.input_names)
        self.clock.calls.append(self.name)
        self.clock.now += self.seconds[self.count % len(self.seconds)]
        self.count += 1
        self.gc_was_on.append(gc.isenabled())


def fakes(clock: Clock, **seconds: list[float]) -> dict[str, Session]:
    return {name: cast(Session, Fake(clock, name, values)) for name, values in seconds.items()}


FEED = {"x": np.zeros(1), "only_in_another_model": np.zeros(1)}


def test_median_p90_and_runs() -> None:
    clock = Clock()
    found = measure(fakes(clock, a=[0.001, 0.002, 0.003]), FEED, warmup=3, min_runs=30, max_runs=30, clock=clock)["a"]
    assert found.median_ms == pytest.approx(2.0)
    assert found.p90_ms == pytest.approx(3.0)
    assert found.runs == 30 == len(found.samples_ms)
    assert found.samples_ms[:3] == pytest.approx((1.0, 2.0, 3.0))
    assert found.evidence == "measured"


def test_sessions_take_turns_and_each_round_starts_with_another() -> None:
    clock = Clock()
    sessions = fakes(clock, a=[0.001], b=[0.001], c=[0.001])
    measure(sessions, FEED, warmup=1, min_runs=6, max_runs=6, clock=clock)
    timed = clock.calls[3:]
    rounds = [timed[i : i + 3] for i in range(0, len(timed), 3)]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    starts = [r[0] for r in rounds]
    assert sorted(starts[:3]) == ["a", "b", "c"]
    assert starts[:3] == starts[3:]


def test_the_order_follows_the_seed_only() -> None:
    def order(seed: int) -> list[str]:
        clock = Clock()
        names = {name: [0.001] for name in "abcdefgh"}
        measure(fakes(clock, **names), FEED, min_runs=5, max_runs=5, rng_seed=seed, clock=clock)
        return clock.calls

    assert order(0) == order(0)
    assert order(0) != order(1)


def test_a_slow_spell_hits_all_alike() -> None:
    # the machine is four times slower from the tenth round on: the medians shift, the ratio does not
    clock = Clock()
    spell = [1.0] * 12 + [4.0] * 20
    found = measure(
        fakes(clock, a=[0.002 * s for s in spell], b=[0.001 * s for s in spell]),
        FEED,
        warmup=2,
        min_runs=30,
        max_runs=30,
        clock=clock,
    )
    decided = ratio(found["a"].samples_ms, found["b"].samples_ms)
    assert decided.median == pytest.approx(2.0)
    assert decided.interval_90 == pytest.approx((2.0, 2.0))
    assert decided.faster
    assert not decided.slower


def test_warm_up_is_not_timed() -> None:
    clock = Clock()
    sessions = fakes(clock, a=[9.0, 9.0, 9.0] + [0.001] * 50)
    found = measure(sessions, FEED, warmup=3, min_runs=5, max_runs=20, budget_s=100, clock=clock)["a"]
    assert max(found.samples_ms) == pytest.approx(1.0)


def test_the_budget_ends_the_rounds_but_not_before_the_least_number() -> None:
    clock = Clock()
    assert measure(fakes(clock, a=[0.01]), FEED, budget_s=1.0, clock=clock)["a"].runs == pytest.approx(101, abs=1)
    clock = Clock()
    assert measure(fakes(clock, a=[0.1]), FEED, budget_s=1.0, clock=clock)["a"].runs == 30
    clock = Clock()
    assert measure(fakes(clock, a=[1e-6]), FEED, budget_s=1.0, clock=clock)["a"].runs == 400


def test_a_very_slow_model_is_timed_a_few_times_only() -> None:
    clock = Clock()
    found = measure(fakes(clock, a=[20.0]), FEED, budget_s=1.0, clock=clock)["a"]
    assert found.runs == 5
    assert clock.calls.count("a") == 1 + 5  # one warm-up


def test_garbage_collection_is_off_while_timing_and_as_before_afterwards() -> None:
    clock = Clock()
    session = Fake(clock, "a", [0.001])
    assert gc.isenabled()
    measure({"a": cast(Session, session)}, FEED, warmup=2, min_runs=5, max_runs=5, clock=clock)
    assert session.gc_was_on == [True] * 2 + [False] * 5
    assert gc.isenabled()
    gc.disable()
    try:
        measure({"a": cast(Session, session)}, FEED, min_runs=5, max_runs=5, clock=clock)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_wrong_arguments() -> None:
    clock = Clock()
    with pytest.raises(UsageError, match="nothing to measure"):
        measure({}, FEED)
    with pytest.raises(UsageError, match="found 4 and 400"):
        measure(fakes(clock, a=[1.0]), FEED, min_runs=4)
    with pytest.raises(UsageError, match="found 30 and 20"):
        measure(fakes(clock, a=[1.0]), FEED, max_runs=20)


def test_a_model_that_cannot_run_says_why() -> None:
    session = Session(model("g (float[2] x) => (float[2] y) { y = Relu(x) }"))
    with pytest.raises(ModelError, match="cannot run the model"):
        measure({"a": session}, {"x": np.zeros(3, np.float32)})


def test_a_real_session() -> None:
    session = Session(model("g (float[2] x) => (float[2] y) { y = Relu(x) }"))
    found = measure({"a": session, "b": session}, {"x": np.zeros(2, np.float32)}, min_runs=5, max_runs=5)
    assert [v.runs for v in found.values()] == [5, 5]
    assert all(s > 0 for v in found.values() for s in v.samples_ms)


def covered(n: int, low: int, high: int) -> float:
    """P(X₍low₎ ≤ median ≤ X₍high₎), ranks counted from 1."""
    return sum(math.comb(n, k) for k in range(low, high)) / float(2**n)


@pytest.mark.parametrize("n", [5, 6, 7, 8, 11, 30, 100, 399, 400])
def test_the_interval_is_the_narrowest_with_90_percent(n: int) -> None:
    low, high = median_interval([float(v) for v in range(n, 0, -1)])  # the ranks themselves, unsorted
    assert low + high == n + 1
    assert covered(n, int(low), int(high)) >= 0.9
    assert covered(n, int(low) + 1, int(high) - 1) < 0.9


def test_few_samples_give_their_extremes() -> None:
    assert median_interval([3.0]) == (3.0, 3.0)
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    with pytest.raises(UsageError, match="no samples"):
        median_interval([])
    with pytest.raises(UsageError, match="no samples"):
        summarize([])


def test_the_interval_holds_the_true_median_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        low, high = median_interval(list(rng.exponential(1.0, 31)))
        hits += low <= math.log(2) <= high  # the median of the distribution
    assert 0.88 < hits / 2000 < 0.97


def test_json() -> None:
    text = Latency(3.91234567, 4.1, 30, (3.8, 4.2), (3.9,)).as_json()
    assert text == {"median": 3.912346, "p90": 4.1, "runs": 30, "evidence": "measured", "interval_90": [3.8, 4.2]}


def test_ratio_decides_beyond_noise_only() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(1, 0.05, 50)
    same = ratio(list(noise), list(rng.normal(1, 0.05, 50)))
    assert not same.faster
    assert not same.slower
    slower = ratio(list(noise), [2 * v for v in noise])
    assert slower.slower
    assert slower.median == pytest.approx(0.5)


def test_what_two_sessions_of_one_model_differ_by_is_no_gain() -> None:
    assert not Ratio(1.015, (1.012, 1.018)).faster
    assert not Ratio(0.985, (0.982, 0.988)).slower
    assert Ratio(1.03, (1.025, 1.035)).faster
    assert Ratio(0.95, (0.94, 0.96)).slower


def test_ratio_needs_pairs() -> None:
    with pytest.raises(UsageError, match="2 and 1 samples"):
        ratio([1.0, 2.0], [1.0])
    with pytest.raises(UsageError, match="no samples"):
        ratio([], [])
    with pytest.raises(UsageError, match="not positive"):
        ratio([1.0], [0.0])
    with pytest.raises(UsageError, match="not positive"):
        ratio([math.nan], [1.0])
