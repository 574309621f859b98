from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from edgeopt.calibration.range_entropy import Divergence, candidates, entropy_range
from edgeopt.graph import Array
from edgeopt.quant import Range, Scheme, activation_parameters
from tests.calibration.distributions import SIGNED, SYMMETRIC, UNSIGNED, VALUES, extremes, histogram, slow_bins

Bins = list[tuple[float, float, int]]
SCHEMES = {"uint8": UNSIGNED, "symmetric": SYMMETRIC}


def slow_divergence(bins: Bins, bounds: Range, scheme: Scheme) -> float:
    """The definition in range_entropy's docstring, one bin and one level at a time."""
    parameters = activation_parameters(bounds, scheme)
    scale, zero = float(parameters.scale), int(parameters.zero_point)
    info = np.iinfo(parameters.zero_point.dtype)
    total = sum(n for _, _, n in bins)
    below = sum(n for low, _, n in bins if low < bounds[0])
    above = sum(n for _, high, n in bins if high > bounds[1])
    inside: list[list[float]] = []
    for low, high, n in bins:
        if low < bounds[0] or high > bounds[1]:
            continue
        if low < high <= 0 and low >= -scale / 16:
            if inside and inside[-1][1] == 0.0 and inside[-1][0] < 0:
                inside[-1][2] += n
            else:
                inside.append([low, 0.0, n])
        elif 0 <= low < high <= scale / 16:
            if inside and inside[-1][0] == 0.0 and inside[-1][1] > 0:
                inside[-1][1:] = [high, inside[-1][2] + n]
            else:
                inside.append([0.0, high, n])
        else:
            inside.append([low, high, n])
    kept = sum(n for _, _, n in inside)
    if kept < 0.99 * total:
        return math.inf

    def parts(low: float, high: float) -> Iterator[tuple[int, float]]:
        """The levels that [low, high] rounds to, and how much of it does."""
        level = max(int(info.min) - zero, math.floor(low / scale + 0.5) - 1)
        while True:
            start = -math.inf if level == int(info.min) - zero else (level - 0.5) * scale
            end = math.inf if level == int(info.max) - zero else (level + 0.5) * scale
            if min(high, end) > max(low, start):
                yield level, min(high, end) - max(low, start)
            if end >= high:
                return
            level += 1

    counted: dict[int, float] = {}
    width: dict[int, float] = {}
    for low, high, count in inside:
        for level, part in parts(low, high):
            counted[level] = counted.get(level, 0.0) + count * part / (high - low)
            width[level] = width.get(level, 0.0) + part
    result = 0.0
    for place, (low, high, count) in enumerate(inside):
        q = sum(counted[level] * part / width[level] for level, part in parts(low, high)) if high > low else count
        p = count + (below if place == 0 else 0) + (above if place == len(inside) - 1 else 0)
        result += p / total * math.log(p / total / (q / kept))
    return result


def slow_range(values: Array, scheme: Scheme) -> Range:
    """All candidates in all the rounds."""
    bounds = extremes(values)
    bins = slow_bins(values, bounds)
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)

    def ends(end: float) -> list[float]:
        marks = [math.ldexp(16 + p, e - 4) for e in range(-150, 129) for p in range(16)]
        return [end, *sorted((m for m in marks if m < end), reverse=True)[:160]] if end > 0 else []

    def least(start: Range, tried: list[Range]) -> Range:
        best, divergence = start, slow_divergence(bins, start, scheme)
        for bounds in tried:
            if (found := slow_divergence(bins, bounds, scheme)) < divergence - 1e-9:
                best, divergence = bounds, found
        return best

    if scheme.activation_symmetric:
        return least((low, high), [(max(low, -t), min(high, t)) for t in ends(max(-low, high))])
    best: Range = (low, high)
    for _ in range(4):
        before = best
        best = least(best, [(best[0], t) for t in ends(high)])
        best = least(best, [(-t, best[1]) for t in ends(-low)])
        if best == before:
            break
    return best


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", VALUES)
def test_it_is_the_range_of_the_slow_reference(name: str, scheme: str) -> None:
    values = VALUES[name]
    expected = slow_range(values, SCHEMES[scheme])
    assert entropy_range(histogram(values), extremes(values), SCHEMES[scheme]) == expected
    assert expected[0] <= 0 <= expected[1]


def test_signed_levels_are_those_of_unsigned_ones() -> None:
    values = VALUES["silu"]
    assert entropy_range(histogram(values), extremes(values), SIGNED) == slow_range(values, SIGNED)


@pytest.mark.parametrize("name", VALUES)
def test_divergences_are_those_of_the_slow_reference(name: str) -> None:
    values = VALUES[name]
    low, high = extremes(values)
    measured = Divergence(histogram(values), UNSIGNED)
    bins = slow_bins(values, (low, high))
    for share in (1.0, 0.5, 0.25):
        bounds = (min(low, 0.0), max(high, 0.0) * share)
        if share < 1 and high > 0:
            bounds = (bounds[0], next(c for c in candidates(high) if c <= bounds[1]))
        expected = slow_divergence(bins, bounds, UNSIGNED)
        assert measured(bounds) == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert expected >= -1e-9


def test_one_outlier_is_clipped() -> None:
    low, high = entropy_range(histogram(VALUES["outlier"]), extremes(VALUES["outlier"]), UNSIGNED)
    assert -4.5 < low < -2.5
    assert 2.5 < high < 5.5


def test_both_modes_are_kept() -> None:
    for scheme in SCHEMES.values():
        low, high = entropy_range(histogram(VALUES["bimodal"]), extremes(VALUES["bimodal"]), scheme)
        assert low < -8
        assert high > 2.5


def test_one_sided_data_keeps_zero() -> None:
    assert entropy_range(histogram(VALUES["relu"]), extremes(VALUES["relu"]), SYMMETRIC)[0] == 0.0
    assert entropy_range(histogram(VALUES["negative"]), extremes(VALUES["negative"]), UNSIGNED)[1] == 0.0


@pytest.mark.parametrize("name", ["outlier", "relu", "bimodal", "silu", "heavy tail"])
def test_onnxruntime_gives_another_range(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With its defaults there are as many bins as levels, so that there is but one candidate: everything."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    values = VALUES[name]
    collector = calibrate.HistogramCollector("entropy", False, 128, 128, 99.999, "same")
    collector.collect({"t": [values]})
    theirs = [float(v) for v in collector.compute_collection_result()["t"][:2]]
    capsys.readouterr()  # it prints
    low, high = extremes(values)
    assert theirs == pytest.approx([low, high], abs=1e-6)
    ours = entropy_range(histogram(values), (low, high), UNSIGNED)  # the reference's: see above
    bins = slow_bins(values, (low, high))
    assert slow_divergence(bins, ours, UNSIGNED) < slow_divergence(bins, (min(low, 0.0), max(high, 0.0)), UNSIGNED)


def test_candidates_descend_from_the_end() -> None:
    assert list(candidates(0.0)) == []
    found = list(candidates(6.1))
    assert found[:4] == [6.1, 6.0, 5.75, 5.5]
    assert len(found) == 161
    assert list(candidates(8.0))[:2] == [8.0, 7.75]
    assert found == sorted(found, reverse=True)
