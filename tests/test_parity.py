from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.errors import ModelError
from edgeopt.graph import Array
from edgeopt.parity import (
    Agreement,
    Difference,
    channel_errors,
    channel_shares,
    exact_bound,
    float_channel_errors,
    is_float,
    probabilities,
)


def difference(a: object, b: object) -> Difference:
    found = Difference()
    found.add(np.asarray(a), np.asarray(b))
    return found


def test_difference_of_equals() -> None:
    found = difference([1.0, 2.0], [1.0, 2.0])
    assert (found.max_abs_error, found.sqnr_db) == (0, math.inf)
    assert found.cosine == pytest.approx(1)


def test_difference_formulas() -> None:
    found = difference([3.0, 4.0], [3.0, 5.0])
    assert found.max_abs_error == 1
    assert found.sqnr_db == pytest.approx(10 * math.log10(25 / 1))
    assert found.cosine == pytest.approx((9 + 20) / (5 * math.sqrt(34)))


def test_difference_accumulates_over_samples() -> None:
    found, whole = Difference(), difference([1.0, 2.0, 3.0], [1.5, 2.0, 2.0])
    found.add(np.array([1.0]), np.array([1.5]))
    found.add(np.array([2.0, 3.0]), np.array([2.0, 2.0]))
    assert found == whole


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        ([np.nan, 1.0], [np.nan, 1.0], 0),
        ([np.inf, 1.0], [np.inf, 1.5], 0.5),
        ([np.inf, 1.0], [-np.inf, 1.0], math.inf),
        ([np.nan, 1.0], [0.0, 1.0], math.inf),
        ([np.nan], [np.nan], 0),
        ([], [], 0),
    ],
)
def test_difference_of_what_is_not_finite(a: list[float], b: list[float], error: float) -> None:
    assert difference(a, b).max_abs_error == error


def test_difference_of_a_zero_signal() -> None:
    assert difference([0.0], [1.0]).sqnr_db == -math.inf
    assert difference([0.0], [1.0]).cosine == 0
    assert difference([0.0], [0.0]).cosine == 1
    assert difference([np.nan, 1.0], [0.0, 1.0]).sqnr_db == -math.inf


def test_agreement_of_a_classifier() -> None:
    found = Agreement()
    found.add({"p": np.array([[0.7, 0.2, 0.1]])}, {"q": np.array([[0.1, 0.8, 0.1]])})
    found.add({"p": np.array([[0.7, 0.2, 0.1]])}, {"q": np.array([[0.6, 0.3, 0.1]])})
    assert found.classifier == "p"
    assert found.top1_agreement == 0.5
    assert found.expected_drop == pytest.approx((0.7 - 0.2) / 2)
    assert found.samples == 2
    assert found.worst() is found.outputs["p"]


def test_agreement_counts_only_real_rows_of_a_padded_batch() -> None:
    found = Agreement()
    a = {"p": np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])}
    b = {"p": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])}
    found.add(a, b, valid=2, batch=3)
    assert (found.samples, found.decisions, found.top1_agreement) == (2, 2, 1.0)


@pytest.mark.parametrize(
    "outputs",
    [
        {"a": np.zeros((1, 3)), "b": np.zeros((1, 3))},  # two outputs
        {"a": np.zeros((1, 3, 4, 4))},  # a map
        {"a": np.zeros(3)},  # no batch
        {"a": np.zeros((1, 3), np.int64)},
        {"a": np.eye(3)},  # a table of boxes: three rows for one sample
        {"a": np.array([[1.5]])},  # one column that is no probability: a regression
        {"a": np.array([[0.0, np.nan]])},
        {"a": np.array([[0.0, np.inf]])},
    ],
)
def test_agreement_of_what_is_no_classifier(outputs: dict[str, Array]) -> None:
    found = Agreement()
    found.add(outputs, outputs)
    assert found.top1_agreement is None
    assert found.expected_drop is None
    assert found.classifier is None


def test_a_flat_softmax_tells_no_drop() -> None:
    """An embedding: any other one would pass, since each class is as likely as the next."""
    found = Agreement()
    found.add({"a": np.eye(1, 128, 3)}, {"a": np.eye(1, 128, 5)})
    assert found.top1_agreement == 0.0
    assert found.expected_drop == pytest.approx(1.0)  # a row of probabilities
    found = Agreement()
    found.add({"a": np.eye(1, 128, 3) - np.eye(1, 128, 4)}, {"a": np.eye(1, 128, 5)})
    assert found.top1_agreement == 0.0
    assert found.expected_drop is None


def test_other_shapes_are_infinitely_far_where_they_are_no_error() -> None:
    found = Agreement(strict=False)
    found.add({"a": np.zeros((2, 4))}, {"a": np.zeros((3, 4))})
    worst = found.worst()
    assert worst is not None
    assert (worst.max_abs_error, worst.sqnr_db) == (math.inf, -math.inf)
    assert found.expected_drop is None


def test_agreement_skips_sequences_and_texts() -> None:
    found = Agreement()
    found.add({"s": [np.zeros(2)], "t": np.array(["a"], object)}, {"s": [np.zeros(2)], "t": np.array(["b"], object)})
    assert found.outputs == {}
    assert found.unjudged == {"s", "t"}
    assert found.worst() is None


def test_agreement_refuses() -> None:
    with pytest.raises(ModelError, match=r"shape \[2\] in the first model, \[3\]") as caught:
        Agreement().add({"a": np.zeros(2)}, {"b": np.zeros(3)})
    assert "output 'a' / 'b'" in str(caught.value)
    with pytest.raises(ModelError, match="has 1 outputs, the second 0"):
        Agreement().add({"a": np.zeros(2)}, {})


def test_probabilities() -> None:
    np.testing.assert_allclose(probabilities(np.array([[0.25, 0.75]])), [[0.25, 0.75]])
    np.testing.assert_allclose(probabilities(np.array([[0.0, math.log(3)]])), [[0.25, 0.75]])
    np.testing.assert_allclose(probabilities(np.array([[0.75]])), [[0.25, 0.75]])
    np.testing.assert_allclose(
        probabilities(np.array([[math.log(3)], [-1000.0]])), [[0.25, 0.75], [1.0, 0.0]], atol=1e-9
    )
    assert np.isfinite(probabilities(np.array([[1e30, -1e30]]))).all()


def test_exact_bound() -> None:
    assert exact_bound(np.dtype(np.float32)) == 1e-5
    assert exact_bound(np.dtype(np.float16)) > exact_bound(np.dtype(np.float32)) > exact_bound(np.dtype(np.float64)) > 0
    assert exact_bound(np.dtype(ir.DataType.BFLOAT16.numpy())) == 3e-2
    assert exact_bound(np.dtype(np.int64)) == 0


def test_is_float() -> None:
    assert is_float(np.dtype(np.float16))
    assert is_float(np.dtype(ir.DataType.BFLOAT16.numpy()))
    assert not is_float(np.dtype(np.int8))
    assert not is_float(np.dtype(bool))
    assert not is_float(np.dtype(object))
    assert not is_float(np.dtype([("a", np.float32)]))


def test_channel_errors_see_a_small_channel_beside_a_large_one() -> None:
    a = np.ones((1, 3, 2, 2), np.float32)
    a[:, 0] *= 1e6
    b = a.copy()
    b[:, 1] *= 1.001
    absolute, relative = channel_errors(a, b)
    assert absolute == pytest.approx(0.001, rel=1e-3)
    assert relative == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("axis", [1, 2])
def test_channel_errors_of_three_axes_look_along_both(axis: int) -> None:
    a = np.ones((2, 3, 4), np.float32)
    scale = np.array([1e6, 1, 1, 1][: a.shape[axis]], np.float32)
    a *= scale.reshape([-1 if i == axis else 1 for i in range(3)])
    b = a.copy()
    b[(slice(None),) * axis + (1,)] *= 1.001
    assert channel_errors(a, b)[1] == pytest.approx(0.001, rel=1e-3)


def test_channel_errors_by_element() -> None:
    a = np.array([1e6, 1.0], np.float32)
    b = np.array([1e6, 1.001], np.float32)
    assert channel_errors(a, b)[1] < 1e-8
    assert channel_errors(a, b, by_element=True)[1] == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros(2), np.zeros(3)),
        (np.zeros(2), np.zeros(2, np.float32)),
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([np.nan, 1.0]), np.array([1.0, np.nan])),
        (np.array([np.inf]), np.array([-np.inf])),
        (np.array([np.inf]), np.array([1.0])),
        (np.array(["a"], object), np.array(["b"], object)),
        (np.array([True]), np.array([False])),
    ],
)
def test_channel_errors_of_what_differs_in_kind(a: Array, b: Array) -> None:
    assert channel_errors(a, b) == (math.inf, math.inf)
    assert channel_errors(a, b, by_element=True) == (math.inf, math.inf)


@pytest.mark.parametrize(
    "a",
    [
        np.zeros((0, 3)),
        np.array([np.nan, np.inf, -np.inf, 0.0]),
        np.array([1, 2]),
        np.array(2.5),
        np.array(["a"], object),
    ],
)
def test_channel_errors_of_equals(a: Array) -> None:
    assert channel_errors(a, a.copy()) == (0, 0)


def test_float_channel_errors_of_nothing() -> None:
    assert float_channel_errors(np.zeros(0), np.zeros(0)) == (0, 0)


def test_channel_errors_of_an_error_on_zero() -> None:
    assert channel_errors(np.zeros((1, 2)), np.array([[0, 1e-9]]))[1] > 1e100


def test_channel_shares() -> None:
    a, b = np.array([[1.0, 10.0], [2.0, np.inf]]), np.array([[1.5, 10.0], [2.0, np.inf]])
    assert [s.tolist() for s in channel_shares(a, b)] == [[0.25, 0.0]]
    assert channel_shares(a, b, by_element=True)[0].tolist() == [[0.5, 0], [0, 0]]
    assert [s.tolist() for s in channel_shares(np.array(2.0), np.array(3.0))] == [0.5]
