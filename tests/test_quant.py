from __future__ import annotations

import numpy as np
import pytest

from edgeopt.quant import (
    Parameters,
    Scheme,
    activation_parameters,
    dequantize,
    least_weight_scale,
    quantize,
    weight_parameters,
)
from edgeopt.runtime import Level, Session
from tests.models import model

RANGES = [(-1.0, 1.0), (0.0, 6.0), (2.0, 6.0), (-6.0, -2.0), (-0.1, 10.0), (0.0, 0.0), (-1e-30, 1e-30), (-3e38, 3e38)]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("bounds", RANGES)
def test_asymmetric_activations_cover_the_range_and_hold_zero(bounds: tuple[float, float], dtype: str) -> None:
    found = activation_parameters(bounds, Scheme(activation_dtype=dtype))
    assert found.scale.dtype == np.float32
    assert found.zero_point.dtype == np.dtype(dtype)
    assert found.scale.ndim == found.zero_point.ndim == 0
    assert found.scale > 0
    step = float(found.scale)
    assert dequantize(quantize(np.zeros(1), found), found)[0] == 0
    ends = np.array([min(bounds[0], 0), max(bounds[1], 0)])
    assert np.abs(dequantize(quantize(ends, found), found) - ends).max() <= step * 0.5001


def test_asymmetric_activations_formula() -> None:
    found = activation_parameters((-1.0, 3.0), Scheme())
    assert found.scale == np.float32(4 / 255)
    assert found.zero_point == 64  # round(1 / (4 / 255)) = round(63.75)
    found = activation_parameters((-1.0, 3.0), Scheme(activation_dtype="int8"))
    assert found.zero_point == 64 - 128


@pytest.mark.parametrize(("dtype", "middle"), [("int8", 0), ("uint8", 128)])
def test_symmetric_activations(dtype: str, middle: int) -> None:
    found = activation_parameters((-1.0, 3.0), Scheme(activation_dtype=dtype, activation_symmetric=True))
    assert found.zero_point == middle
    assert found.scale == np.float32(3 / 127)
    assert activation_parameters((0, 0), Scheme(activation_symmetric=True)).scale > 0


WEIGHT = np.array([[[1.0, -2.0]], [[0.5, 0.25]], [[0.0, 0.0]]])  # [3, 1, 2]


@pytest.mark.parametrize("axis", [0, -3])
def test_weights_per_channel(axis: int) -> None:
    found = weight_parameters(WEIGHT, axis, Scheme())
    np.testing.assert_allclose(found.scale[:2], [2 / 127, 0.5 / 127], rtol=1e-6)
    assert found.scale.dtype == np.float32
    assert found.scale[2] > 0
    assert found.zero_point.tolist() == [0, 0, 0]
    assert found.zero_point.dtype == np.int8
    assert quantize(WEIGHT, found, axis)[:, 0].tolist() == [[64, -127], [127, 64], [0, 0]]


def test_weights_per_tensor_seven_bits_and_unsigned() -> None:
    assert weight_parameters(WEIGHT, 0, Scheme(weight_per_channel=False)).scale == np.float32(2 / 127)
    assert weight_parameters(WEIGHT, 0, Scheme(weight_per_channel=False, weight_bits=7)).scale == np.float32(2 / 63)
    found = weight_parameters(WEIGHT, 0, Scheme(weight_per_channel=False, weight_dtype="uint8"))
    assert found.zero_point == 128
    assert quantize(WEIGHT, found)[0, 0].tolist() == [128 + 64, 1]
    assert weight_parameters(np.zeros((2, 0)), 0, Scheme()).scale.shape == (2,)


def test_the_bias_fits_into_int32() -> None:
    bias, input_scale = np.array([1e6, 1.0, 0.0]), 1e-4
    least = least_weight_scale(bias, input_scale)
    assert least.tolist() == [1e10 / 2**30, 1e4 / 2**30, 0]
    found = weight_parameters(WEIGHT, 0, Scheme(), least=least)
    assert (np.abs(bias) / (input_scale * found.scale.astype(np.float64)) <= 2**30 * 1.0001).all()
    assert found.scale[1] == np.float32(0.5 / 127)  # large enough as it was
    whole = weight_parameters(WEIGHT, 0, Scheme(weight_per_channel=False), least=least)
    assert whole.scale == np.float32(1e10 / 2**30)


def test_rounds_half_to_even_and_saturates() -> None:
    half = Parameters(np.float32(0.5), np.array(10, np.uint8))  # type: ignore[arg-type]
    values = np.array([0.25, 0.75, -0.25, -0.75, 1000, -1000])
    assert quantize(values, half).tolist() == [10, 12, 10, 8, 255, 0]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_the_same_as_onnxruntime(dtype: str) -> None:
    found = activation_parameters((-1.3, 2.1), Scheme(activation_dtype=dtype))
    text = f"""g (float[N] x, float s, {dtype} z) => ({dtype}[N] q, float[N] y)
        {{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }}"""
    x = np.random.default_rng(0).uniform(-2, 3, 5000).astype(np.float32)
    out = Session(model(text), Level.NONE).run({"x": x, "s": found.scale, "z": found.zero_point})
    assert np.array_equal(out["q"], quantize(x, found))
    assert np.array_equal(out["y"], dequantize(out["q"], found))
    assert dequantize(out["q"], found).dtype == np.float32


def test_dequantize_along_an_axis() -> None:
    found = Parameters(np.array([1, 10], np.float32), np.array([0, 1], np.int8))
    assert dequantize(np.array([[1, 2], [3, 4]], np.int8), found, 1).tolist() == [[1, 10], [3, 30]]
    assert dequantize(np.array([[1, 2], [3, 4]], np.int8), found, 0).tolist() == [[1, 2], [20, 30]]
