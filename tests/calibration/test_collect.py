from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edgeopt import saving
from edgeopt.calibration.collect import collect
from edgeopt.calibration.statistics import RANGES, Statistics
from edgeopt.errors import DataError, ModelError
from edgeopt.graph import Array
from edgeopt.quant import Ranges
from tests.models import model

TEXT = "g (float[N,2] x) => (float[N,2] y) { a = Mul(x, x) b = Neg(a) y = Relu(b) }"


def minmax(found: dict[str, Statistics]) -> Ranges:
    return {t: s.range() for t, s in found.items()}


def feeds(*values: list[float]) -> Iterator[dict[str, Array]]:
    for value in values:
        yield {"x": np.array([value], np.float32)}


def test_collect() -> None:
    seen: list[None] = []
    made = model(TEXT)
    before = saving.serialize(made)
    found = collect(made, ["x", "a", "b", "y", "a"], feeds([1, 2], [-3, 0.5]), progress=lambda: seen.append(None))
    assert minmax(found) == {"x": (-3, 2), "a": (0.25, 9), "b": (-9, -0.25), "y": (0, 0)}
    assert list(found) == ["x", "a", "b", "y"]
    assert len(seen) == 2
    assert saving.serialize(made) == before


def test_collect_of_inputs_only_runs_nothing() -> None:
    assert minmax(collect(model(TEXT), ["x"], feeds([1, 2]))) == {"x": (1, 2)}


def test_collect_of_an_input_with_a_default() -> None:
    made = model("g (float[N,2] x, float w) => (float[N,2] y) <float w = {7}> { y = Mul(x, w) }")
    assert minmax(collect(made, ["w", "y"], feeds([1, 2]))) == {"w": (7, 7), "y": (7, 14)}


def test_collect_feeds_of_several_sizes() -> None:
    given = [{"x": np.ones((n, 2), np.float32) * n} for n in (1, 3, 2)]
    assert minmax(collect(model(TEXT), ["a"], given)) == {"a": (1, 9)}


def test_collect_without_samples() -> None:
    with pytest.raises(DataError, match="no samples"):
        collect(model(TEXT), ["a"], [])


def test_collect_of_nan() -> None:
    with pytest.raises(DataError, match="tensor 'x'"):
        collect(model(TEXT), ["x", "a"], feeds([1, 2], [np.nan, 0]))


def test_infinite_values_matter_only_where_a_range_is_asked_for() -> None:
    found = collect(model(TEXT), ["x", "a", "b", "y"], feeds([1, 2], [-1e30, 0]))
    assert found["x"].range()[0] == pytest.approx(-1e30)
    for name in ("a", "b", "y"):
        with pytest.raises(DataError, match=f"tensor '{name}'"):
            found[name].range()


@pytest.mark.parametrize("full", [False, True])
def test_parts_of_the_data_merge_into_the_whole_in_any_order(full: bool) -> None:
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((n, 2)).astype(np.float32)} for n in (3000, 1, 7000, 12_345, 5000, 9)]
    whole, one, two = (collect(model(TEXT), ["x", "a", "y"], part, full=full) for part in (data, data[4:], data[3::-1]))
    for name, statistics in whole.items():
        merged = one[name].merge(two[name])
        assert merged.extremes == statistics.extremes
        for method in RANGES:
            assert merged.range(method) == statistics.range(method)
    counted = whole["a"].counts.histogram(whole["a"].range()).total
    assert (counted == 2 * 27_355) == full


def test_samples_differ_in_which_values_are_counted() -> None:
    made = model("g (float[N] x) => (float[N] y) { y = Neg(x) }")
    values = np.arange(1, 20_001, dtype=np.float32)
    found = [collect(made, ["y"], [{"x": values + k}])["y"].range("percentile") for k in range(4)]
    assert len(set(found)) > 1


def test_collect_of_what_is_not_there() -> None:
    with pytest.raises(ModelError, match="no tensor 'c'"):
        collect(model(TEXT), ["c"], feeds([1, 2]))


def test_collect_of_a_sample_that_does_not_fit() -> None:
    with pytest.raises(DataError, match="no value"):
        collect(model(TEXT), ["x"], [{}])
    with pytest.raises(ModelError, match="cannot run"):
        collect(model(TEXT), ["a"], [{"x": np.zeros((1, 3), np.float32)}])
