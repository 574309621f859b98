from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeopt.export_check import DisagreementError, agree
from edgeopt.graph import Array


def refused() -> list[Array] | None:
    raise AssertionError("float64 was asked for, though the outputs are close")


def nothing() -> list[Array] | None:
    return None


def test_equal_and_nearly_equal_outputs_agree_without_float64() -> None:
    a = np.array([[1.0, -4.0]], dtype=np.float32)
    assert agree(a, a.copy(), 0, refused) == (0.0, 0.0)
    absolute, relative = agree(a, a * np.float32(1 + 5e-6), 0, refused)
    assert absolute == pytest.approx(2e-5, rel=0.1)
    assert relative == pytest.approx(5e-6, rel=0.1)


@pytest.mark.parametrize("exact", [nothing, lambda: []])
def test_a_channel_wrong_by_one_in_a_thousand(exact: Any) -> None:
    a = np.array([[640.0, 1.0]], dtype=np.float32)  # a small channel beside a large one
    b = np.array([[640.0, 1.001]], dtype=np.float32)
    with pytest.raises(DisagreementError, match=r"output 3 differs from the original's by 0\.001 at a scale of 640"):
        agree(a, b, 3, exact)


def test_float64_does_not_excuse_a_wrong_channel() -> None:
    a = np.array([[640.0, 1.0]], dtype=np.float32)
    b = np.array([[640.0, 1.001]], dtype=np.float32)
    with pytest.raises(DisagreementError):
        agree(a, b, 0, lambda: [a.astype(np.float64) + 1e-5])


def test_float64_excuses_an_error_like_the_originals_own() -> None:
    a = np.array([[640.0, 1.0]], dtype=np.float32)
    b = np.array([[640.0, 1.0002]], dtype=np.float32)
    assert agree(a, b, 0, lambda: [np.array([[640.0, 1.0001]])])[0] == pytest.approx(2e-4, rel=0.01)
    with pytest.raises(DisagreementError):
        agree(a, b, 0, lambda: [np.array([[640.0, 1.00001]])])


@pytest.mark.parametrize(
    "found",
    [np.zeros((1, 3), np.float32), np.zeros((2,), np.float32), np.zeros((1, 2), np.float64)],
)
def test_another_shape_or_type(found: Array) -> None:
    with pytest.raises(DisagreementError, match="the original's is float32"):
        agree(np.zeros((1, 2), np.float32), found, 0, refused)


@pytest.mark.parametrize("dtype", [np.int64, bool, object])
def test_what_has_no_rounding_must_be_equal(dtype: Any) -> None:
    a = np.array([["a", "b"]], dtype=object) if dtype is object else np.array([[0, 1]]).astype(dtype)
    assert agree(a, a.copy(), 0, refused) == (0.0, 0.0)
    with pytest.raises(DisagreementError, match="has other values"):
        agree(a, a[:, ::-1].copy(), 0, refused)


def test_nan_and_infinity_must_be_in_the_same_places() -> None:
    a = np.array([[np.nan, np.inf, 1.0]], dtype=np.float32)
    assert agree(a, a.copy(), 0, refused) == (0.0, 0.0)
    for wrong in ([0.0, np.inf, 1.0], [np.nan, -np.inf, 1.0], [np.nan, np.inf, np.nan]):
        with pytest.raises(DisagreementError):
            agree(a, np.array([wrong], dtype=np.float32), 0, lambda: [a.astype(np.float64)])


def test_outputs_without_elements_and_of_zeros() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert agree(empty, empty.copy(), 0, refused) == (0.0, 0.0)
    zeros = np.zeros((1, 3), np.float32)
    assert agree(zeros, zeros.copy(), 0, refused) == (0.0, 0.0)
    with pytest.raises(DisagreementError):
        agree(zeros, zeros + np.float32(1e-3), 0, nothing)
