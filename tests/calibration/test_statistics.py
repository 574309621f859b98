from __future__ import annotations

import numpy as np
import pytest

from edgeopt.calibration.range_entropy import entropy_range
from edgeopt.calibration.range_mse import mse_range
from edgeopt.calibration.range_percentile import percentile_range
from edgeopt.calibration.statistics import RANGES, Statistics, check_range
from edgeopt.errors import DataError, UsageError
from edgeopt.graph import Array
from edgeopt.quant import activation_parameters
from tests.calibration.distributions import SIGNED, SYMMETRIC, UNSIGNED, VALUES, extremes


def seen(*runs: Array) -> Statistics:
    result = Statistics("t")
    for phase, run in enumerate(runs):
        result.update(run, phase)
    return result


def test_each_method_is_what_it_says() -> None:
    values = VALUES["outliers"]
    found = seen(values, values[:100])
    histogram = found.counts.histogram(extremes(values))
    assert found.range() == found.range("minmax") == extremes(values)
    low, high = extremes(values[:100])
    assert found.range("moving-average") == ((extremes(values)[0] + low) / 2, (extremes(values)[1] + high) / 2)
    assert found.range("percentile") == percentile_range(histogram)
    for scheme in (UNSIGNED, SYMMETRIC):
        assert found.range("entropy", scheme) == entropy_range(histogram, extremes(values), scheme)
        assert found.range("mse", scheme) == mse_range(histogram, extremes(values), scheme)
    assert found.range("mse") == found.range("mse", UNSIGNED)


@pytest.mark.parametrize("method", RANGES)
@pytest.mark.parametrize("name", VALUES)
def test_every_range_can_be_quantized_with(name: str, method: str) -> None:
    values = VALUES[name]
    for scheme in (UNSIGNED, SIGNED, SYMMETRIC):
        low, high = seen(values).range(method, scheme)
        assert min(values.min(), 0) <= low <= high <= max(values.max(), 0)
        parameters = activation_parameters((low, high), scheme)
        assert np.isfinite(parameters.scale)
        assert parameters.scale > 0


@pytest.mark.parametrize("method", RANGES)
def test_nothing_seen(method: str) -> None:
    assert seen().range(method) == (0.0, 0.0)
    assert seen(np.zeros((0, 3), np.float32)).range(method) == (0.0, 0.0)


@pytest.mark.parametrize("method", RANGES)
def test_merged_parts_give_the_ranges_of_the_whole(method: str) -> None:
    rng = np.random.default_rng(4)
    runs = [rng.standard_t(3, (n, 30, 30)).astype(np.float32) for n in (1, 9, 3, 20)]
    parts = [Statistics("t"), Statistics("t")]
    for phase, run in enumerate(runs):
        parts[phase % 2].update(run, phase)
    assert parts[0].merge(parts[1]).range(method) == seen(*runs).range(method) == parts[1].merge(parts[0]).range(method)
    assert parts[0].merge(parts[1]).tensor == "t"


@pytest.mark.parametrize("method", RANGES)
def test_infinite_values_have_no_range(method: str) -> None:
    found = seen(np.array([0.0, -np.inf, 1.0], np.float32))
    with pytest.raises(DataError, match="infinite values or NaN on the calibration data") as caught:
        found.range(method)
    assert "tensor 't'" in str(caught.value)


def test_nan_is_reported_by_name() -> None:
    with pytest.raises(DataError, match="tensor 't'"):
        seen(np.array([np.nan]))


def test_unknown_methods() -> None:
    for method in RANGES:
        check_range(method)
    with pytest.raises(UsageError, match=r"--range: expected one of minmax, moving-average, .*, found 'max'"):
        seen(np.ones(3)).range("max")
