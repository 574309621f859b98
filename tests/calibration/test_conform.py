from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from edgeopt.calibration.conform import conform
from edgeopt.errors import DataError
from edgeopt.graph import TensorSpec
from tests.calibration.specs import noise, spec


def test_the_batch_axis_is_added() -> None:
    assert conform(noise(3, 4), spec("x", "N", 3, 4), 0, "here").shape == (1, 3, 4)
    assert conform(noise(1, 3, 4), spec("x", "N", 3, 4), 0, "here").shape == (1, 3, 4)
    assert conform(noise(2, 8), spec("x", 2, "N", 8), 1, "here").shape == (2, 1, 8)
    assert conform(noise(2, 8), spec("x", 2, 1, 8), None, "here").shape == (2, 1, 8)
    assert conform(np.array(3.0), spec("x", "N"), None, "here").shape == (1,)
    assert conform(np.array(3.0), spec("x"), None, "here").shape == ()
    unknown = TensorSpec("x", np.dtype(np.float32), None)
    assert conform(noise(2, 3), unknown, None, "here").shape == (2, 3)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.array([0, 255], np.uint8), np.float32),
        (np.array([0.5, 1e300 * 0]), np.float32),
        (np.array([1, 2**31 - 1]), np.int32),
        (np.array([1.0, -2.0]), np.int64),
        (np.array([0, 1]), np.bool_),
        (np.array([True, False]), np.float32),
        (np.array([1.5, 2.0]), np.float16),
        (np.array([1.5, 2.0]), ml_dtypes.bfloat16),
        (np.array([-8, 7]), ml_dtypes.int4),
        (np.arange(2, dtype=">f4"), np.float32),
    ],
)
def test_safe_conversions(value: Any, dtype: Any) -> None:
    result = conform(value, spec("x", "N", 2, dtype=dtype), 0, "here")
    assert result.dtype == np.dtype(dtype)
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result[0].astype(np.float64), value.astype(np.float64))


def test_strings() -> None:
    result = conform(np.array(["a", "b"]), spec("x", "N", 2, dtype=object), 0, "here")
    assert result.tolist() == [["a", "b"]]


def test_non_contiguous_data_is_copied_into_order() -> None:
    result = conform(noise(4, 3).T, spec("x", "N", 3, 4), 0, "here")
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result[0], noise(4, 3).T)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.array([1.0, 2.5]), np.int64, "with fractions (such as 2.5)"),
        (np.array([0, 300]), np.uint8, "values from 0 to 300 do not fit into uint8 (0 to 255)"),
        (np.array([-1, 3]), np.uint8, "do not fit"),
        (np.array([0, 2]), np.bool_, "do not fit into bool"),
        (np.array([0, 9]), ml_dtypes.int4, "do not fit into int4"),
        (np.array([1.0, 1e30]), np.int32, "do not fit"),
        (np.array([1.0, 1e300]), np.float32, "values up to 1e+300 do not fit into float32"),
        (np.array([1.0, 1e6]), np.float16, "do not fit into float16"),
        (np.array([1.0, np.nan]), np.float32, "1 NaN and 0 Inf among 2 values"),
        (np.array([-np.inf, np.inf]), np.float32, "0 NaN and 2 Inf"),
        (np.array([np.nan, 1]), np.int64, "1 NaN"),
        (np.array(["a", "b"]), np.float32, "the model takes float32"),
        (np.array([1, 2]), object, "the model takes strings"),
    ],
)
def test_unsafe_values(value: Any, dtype: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        conform(value, spec("x", "N", 2, dtype=dtype), 0, "file, sample 3")
    assert message in str(caught.value)
    assert str(caught.value).startswith("file, sample 3, input 'x': ")


@pytest.mark.parametrize(
    ("shape", "dims", "message"),
    [
        ((8, 8, 3), ("N", 3, 8, 8), "NHWC data for a model that takes NCHW: transpose it by (0, 3, 1, 2)"),
        ((3, 8, 8), ("N", 8, 8, 3), "NCHW data for a model that takes NHWC: transpose it by (0, 2, 3, 1)"),
        ((3, 9, 8), ("N", 3, 8, 8), "shape (1, 3, 9, 8), the model takes float32[N,3,8,8]"),
        ((8, 8), ("N", 1, 8, 8), 'layout = "NHW"'),
        ((1, 1, 3, 8, 8), ("N", 3, 8, 8), "has rank 5"),
        ((5,), (), "rank 0"),
        ((5,), ("N", 4), "shape (1, 5)"),
        ((0, 4), ("N", "T", 4), "is empty"),
    ],
)
def test_wrong_shapes(shape: tuple[int, ...], dims: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError) as caught:
        conform(np.zeros(shape, np.float32), spec("x", *dims), 0 if dims else None, "here")
    assert message in str(caught.value)


def test_sequences_cannot_be_fed() -> None:
    with pytest.raises(DataError, match="sequence or map"):
        conform(noise(2), TensorSpec("x", None, None), None, "here")
