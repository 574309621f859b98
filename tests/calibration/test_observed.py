from __future__ import annotations

import numpy as np
import pytest

from edgeopt.calibration.observed import Observed
from edgeopt.errors import ModelError
from edgeopt.runtime import Session
from tests.models import model

TEXT = "g (float[N,M] x) => (float[N,M] y) { a = Mul(x, x) y = Neg(a) }"


def x(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array([values], np.float32)}


def test_values_of_the_middle() -> None:
    observed = Observed(model(TEXT), ["a"], 1)
    for value in (1, 2, 3, -4):
        assert observed.run(x(value, 0))["a"].tolist() == [[value * value, 0]]


def test_arrays_are_written_again_from_the_second_run_on() -> None:
    observed = Observed(model(TEXT), ["a", "y"], 1)
    observed.run(x(1))
    second = observed.run(x(2))["a"]
    assert observed.run(x(3))["a"] is second
    assert second.tolist() == [[9]]


def test_feeds_of_several_shapes() -> None:
    observed = Observed(model(TEXT), ["y"], 1)
    for values in ([1], [2], [3, 4], [5, 6], [7], [8, 9, 10], [8, 9, 11]):
        assert observed.run(x(*values))["y"].tolist() == [[-v * v for v in values]]


def test_shapes_that_hang_on_the_data() -> None:
    observed = Observed(model("g (float[N] x) => (int64[1,M] y) { y = NonZero(x) }"), ["y"], 1)
    for values in ([1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 0], [0, 1, 0]):
        found = observed.run({"x": np.array(values, np.float32)})["y"]
        assert found.tolist() == [np.flatnonzero(values).tolist()]


def test_types_that_cannot_be_written_again() -> None:
    observed = Observed(model("g (string[N] x) => (string[N] y) { y = Identity(x) }"), ["y"], 1)
    for text in ("a", "b", "c"):
        assert observed.run({"x": np.array([text], object)})["y"].tolist() == [text]


def test_a_feed_in_another_memory_order() -> None:
    observed = Observed(model(TEXT), ["a"], 1)
    for _ in range(3):
        given = np.arange(6, dtype=np.float32).reshape(2, 3).T
        assert observed.run({"x": given})["a"].tolist() == (given * given).tolist()


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_a_feed_that_does_not_fit(before: int) -> None:
    observed = Observed(model(TEXT), ["a"], 1)
    for _ in range(before):
        observed.run(x(1))
    with pytest.raises(ModelError, match="cannot run"):
        observed.run({"x": np.zeros((1, 1), np.float64)})
    with pytest.raises(ModelError, match="cannot run"):
        observed.run({"z": np.zeros((1, 1), np.float32)})
    assert observed.run(x(2))["a"].tolist() == [[4]]


def test_a_failure_in_a_later_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model("g (float[3] x, int64[1] i) => (float[1] y) { y = Gather(x, i) }")
    observed = Observed(made, ["y"], 1)
    values = np.array([5, 6, 7], np.float32)
    for place in (0, 2, 1):
        assert observed.run({"x": values, "i": np.array([place])})["y"].tolist() == [values[place]]
    with pytest.raises(ModelError, match="cannot run"):
        observed.run({"x": values, "i": np.array([3])})


def test_the_models_own_outputs_are_not_doubled() -> None:
    assert Observed(model(TEXT), ["y", "a"], 1).run(x(2))["y"].tolist() == [[-4]]
    assert Session(model(TEXT)).output_names == ["y"]
