from __future__ import annotations

import math

import numpy as np
import pytest

from edgeopt.calibration.range_percentile import PERCENTILE, percentile_range
from edgeopt.graph import Array
from tests.calibration.distributions import VALUES, histogram


def slow(values: Array, percentile: float) -> tuple[float, float]:
    """numpy's quantiles of the values themselves."""
    cut = (100 - percentile) / 200
    low, high = np.quantile(values.astype(np.float64), [cut, 1 - cut])
    return min(float(low), 0.0), max(float(high), 0.0)


def bin_width(value: float) -> float:
    return 0.0 if value == 0 else math.ldexp(1, math.frexp(value)[1] - 1 - 7)


@pytest.mark.parametrize("percentile", [PERCENTILE, 99.0, 90.0])
@pytest.mark.parametrize("name", VALUES)
def test_it_is_the_quantile_within_the_width_of_a_bin(name: str, percentile: float) -> None:
    found, expected = percentile_range(histogram(VALUES[name]), percentile), slow(VALUES[name], percentile)
    for a, b in zip(found, expected, strict=True):
        assert abs(a - b) <= max(bin_width(a), bin_width(b))


def test_one_sided_data_keeps_zero() -> None:
    assert percentile_range(histogram(VALUES["relu"]), 50.0)[0] == 0.0
    assert percentile_range(histogram(VALUES["negative"]), 50.0)[1] == 0.0


def test_outliers_are_cut_at_both_ends() -> None:
    low, high = percentile_range(histogram(VALUES["outliers"]), 99.0)
    assert -4 < low < -2
    assert 2 < high < 4


@pytest.mark.parametrize("name", ["outlier", "relu", "bimodal"])
def test_onnxruntime_is_farther_off(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One far value makes all of its bins as wide as its distance asks for, half of them where no value is."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    values = np.append(VALUES[name], 3e4).astype(np.float32)
    collector = calibrate.HistogramCollector("percentile", False, 2048, 128, 99.8, "same")
    collector.collect({"t": [values]})
    theirs = [float(v) for v in collector.compute_collection_result()["t"][:2]]
    capsys.readouterr()  # it prints
    expected = slow(values, 99.8)
    ours = percentile_range(histogram(values), 99.8)
    assert all(abs(a - b) <= max(bin_width(a), bin_width(b)) for a, b in zip(ours, expected, strict=True))
    assert max(abs(a - b) for a, b in zip(theirs, expected, strict=True)) > 1.0
