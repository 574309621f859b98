"""End-to-end latency on this machine, measured so that two models can be compared.

All models under comparison run in turn, A B C A B C …, each round starting with another one, so that clock
changes and neighbours on the machine hit all alike; Python's garbage collector is off meanwhile. The interval of
the median is the distribution-free one between two order statistics: with X₍₁₎ ≤ … ≤ X₍ₙ₎ and B binomial(n, ½),
P(X₍ₖ₎ ≤ median ≤ X₍ₙ₊₁₋ₖ₎) = 1 − 2·P(B < k), and k is the largest that keeps this at 90 % or more (David and
Nagaraja, "Order Statistics", 3rd edition, section 7.1). Whether B is faster than A is decided on the ratios
within the rounds, not on the two medians, and a difference that two sessions of one model may show is not counted.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeopt.errors import UsageError
from edgeopt.graph import Array
from edgeopt.runtime import Session

Samples = Sequence[float]

LEAST_ROUNDS = 5  # below this no two order statistics enclose the median with 90 %
SESSION_NOISE = 0.02
"""Two sessions of one model differ for as long as they live, by up to 1.7 % over 18 models here (where their memory
lies, most likely); no number of rounds averages that away."""

_PATIENCE = 10  # a slow model may take this many times the budget to complete its least number of runs


@dataclass(frozen=True)
class Latency:
    """Latency of one model, batch as fed, in milliseconds.

    Attributes:
        median_ms: Median of the runs.
        p90_ms: 90th percentile, linearly interpolated.
        runs: How many were timed.
        interval_90: 90 % confidence interval of the median.
        samples_ms: Every timed run in order; run ``i`` of models that were measured together is one round.
        evidence: ``measured``.
    """

    median_ms: float
    p90_ms: float
    runs: int
    interval_90: tuple[float, float]
    samples_ms: tuple[float, ...] = field(repr=False)
    evidence: str = "measured"

    def as_json(self) -> dict[str, Any]:
        """The keys of ``report.json``."""
        return {
            "median": round(self.median_ms, 6),
            "p90": round(self.p90_ms, 6),
            "runs": self.runs,
            "evidence": self.evidence,
            "interval_90": [round(v, 6) for v in self.interval_90],
        }


@dataclass(frozen=True)
class Ratio:
    """How many times faster B is than A: the median of ``a / b`` over the rounds, and its 90 % interval."""

    median: float
    interval_90: tuple[float, float]

    @property
    def faster(self) -> bool:
        """B is faster than A beyond the noise of the measurement and of the session."""
        return self.interval_90[0] > 1 + SESSION_NOISE

    @property
    def slower(self) -> bool:
        """B is slower than A beyond the noise of the measurement and of the session."""
        return self.interval_90[1] < 1 / (1 + SESSION_NOISE)


def median_interval(samples: Samples, confidence: float = 0.9) -> tuple[float, float]:
    """The narrowest pair of order statistics that holds the median with at least this confidence.

    With fewer than 5 samples no pair reaches 90 %; the smallest and the largest are returned.

    Raises:
        UsageError: there are no samples.
    """
    if not samples:
        raise UsageError("no samples, at least one is needed", where="latency")
    ordered, n = sorted(samples), len(samples)
    below = _share(n, 0)  # P(B < k + 1), summed until another term would cost too much confidence
    k = 0
    while k < n // 2 and 1 - 2 * below >= confidence:
        k += 1
        below += _share(n, k)
    return ordered[max(k - 1, 0)], ordered[n - max(k, 1)]


def _share(n: int, k: int) -> float:
    """P(B = k); by logarithms, as exact binomial coefficients of thousands of samples take seconds."""
    return math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))


def summarize(samples: Samples) -> Latency:
    """Median, 90th percentile and interval of samples in milliseconds.

    Raises:
        UsageError: there are no samples.
    """
    interval = median_interval(samples)
    median, p90 = (float(v) for v in np.percentile(samples, [50, 90]))
    return Latency(median, p90, len(samples), interval, tuple(samples))


def ratio(a: Samples, b: Samples) -> Ratio:
    """Paired ratios ``a[i] / b[i]`` of two models that were measured together: above 1, B is the faster one.

    Raises:
        UsageError: the numbers of samples differ, there are none, or a time is not positive.
    """
    if len(a) != len(b):
        raise UsageError(f"found {len(a)} and {len(b)} samples, expected pairs of the same rounds", where="ratio")
    if any(not v > 0 for v in (*a, *b)):
        raise UsageError("found a time that is not positive", where="ratio")
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    interval = median_interval(ratios)
    return Ratio(float(np.median(ratios)), interval)


def measure(
    sessions: Mapping[str, Session],
    feed: Mapping[str, Array],
    *,
    warmup: int = 5,
    min_runs: int = 30,
    max_runs: int = 400,
    budget_s: float = 3.0,
    rng_seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Time several sessions on the same feed, interleaved.

    Args:
        sessions: Name to session; one is enough.
        feed: Input name to array; each session takes the inputs it has.
        warmup: Untimed rounds first; cut short (to one at least) when they use up ``budget_s``.
        min_runs: Timed rounds at least, even beyond ``budget_s``, but no more than 5 once ten budgets are spent.
        max_runs: Timed rounds at most.
        budget_s: Seconds for the timed rounds of all sessions together.
        rng_seed: Decides the order in which the sessions take turns.
        clock: Seconds; replaced in tests.

    Returns:
        Name to latency; the samples of one round have the same index in each.

    Raises:
        UsageError: no sessions, fewer than 5 runs asked for, or ``max_runs`` below ``min_runs``.
        ModelError: a model cannot be run (found out in its first, untimed run).
    """
    if not sessions:
        raise UsageError("nothing to measure", where="latency.measure")
    if min_runs < LEAST_ROUNDS or max_runs < min_runs:
        raise UsageError(
            f"expected {LEAST_ROUNDS} ≤ min_runs ≤ max_runs, found {min_runs} and {max_runs}", where="latency.measure"
        )
    names = list(sessions)
    order = [names[i] for i in np.random.default_rng(rng_seed).permutation(len(names))]
    feeds = {name: {k: v for k, v in feed.items() if k in sessions[name].input_names} for name in names}
    begin = clock()
    for name in names:
        sessions[name].run(feeds[name])  # with a time-out, and errors that say what is wrong
    for _ in range(warmup - 1):
        if clock() - begin > budget_s:
            break
        for name in names:
            sessions[name].ort.run(None, feeds[name])
    samples: dict[str, list[float]] = {name: [] for name in names}
    with _no_garbage_collection():
        begin = clock()
        for round_number in range(max_runs):
            spent = clock() - begin
            enough = min_runs if spent <= _PATIENCE * budget_s else LEAST_ROUNDS
            if spent > budget_s and round_number >= enough:
                break
            turn = round_number % len(order)
            for name in (*order[turn:], *order[:turn]):
                run, inputs = sessions[name].ort.run, feeds[name]
                start = clock()
                run(None, inputs)
                samples[name].append((clock() - start) * 1e3)
    return {name: summarize(samples[name]) for name in names}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
