from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edgeopt import saving
from edgeopt.calibration.collect import collect
from edgeopt.errors import DataError, ModelError
from edgeopt.graph import Array
from tests.models import model

TEXT = "g (float[N,2] x) => (float[N,2] y) { a = Mul(x, x) b = Neg(a) y = Relu(b) }"


def feeds(*values: list[float]) -> Iterator[dict[str, Array]]:
    for value in values:
        yield {"x": np.array([value], np.float32)}


def test_collect() -> None:
    seen: list[None] = []
    made = model(TEXT)
    before = saving.serialize(made)
    ranges = collect(made, ["x", "a", "b", "y", "a"], feeds([1, 2], [-3, 0.5]), progress=lambda: seen.append(None))
    assert ranges == {"x": (-3, 2), "a": (0.25, 9), "b": (-9, -0.25), "y": (0, 0)}
    assert list(ranges) == ["x", "a", "b", "y"]
    assert len(seen) == 2
    assert saving.serialize(made) == before


def test_collect_of_inputs_only_runs_nothing() -> None:
    assert collect(model(TEXT), ["x"], feeds([1, 2])) == {"x": (1, 2)}


def test_collect_of_an_input_with_a_default() -> None:
    made = model("g (float[N,2] x, float w) => (float[N,2] y) <float w = {7}> { y = Mul(x, w) }")
    assert collect(made, ["w", "y"], feeds([1, 2])) == {"w": (7, 7), "y": (7, 14)}


def test_collect_feeds_of_several_sizes() -> None:
    given = [{"x": np.ones((n, 2), np.float32) * n} for n in (1, 3, 2)]
    assert collect(model(TEXT), ["a"], given) == {"a": (1, 9)}


def test_collect_without_samples() -> None:
    with pytest.raises(DataError, match="no samples"):
        collect(model(TEXT), ["a"], [])


def test_collect_of_nan() -> None:
    with pytest.raises(DataError, match="tensor 'a'"):
        collect(model(TEXT), ["a"], feeds([1, 2], [np.inf, 0]))


def test_collect_of_what_is_not_there() -> None:
    with pytest.raises(ModelError, match="no tensor 'c'"):
        collect(model(TEXT), ["c"], feeds([1, 2]))


def test_collect_of_a_sample_that_does_not_fit() -> None:
    with pytest.raises(DataError, match="no value"):
        collect(model(TEXT), ["x"], [{}])
    with pytest.raises(ModelError, match="cannot run"):
        collect(model(TEXT), ["a"], [{"x": np.zeros((1, 3), np.float32)}])
