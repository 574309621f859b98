"""Quantization arithmetic, defined once.

    real = scale * (q - zero_point)                        ONNX operator DequantizeLinear
    q = saturate(round_half_to_even(real / scale) + zero_point)          ONNX operator QuantizeLinear

``scale`` and ``zero_point`` mean what ONNX means by them, everywhere in edgeopt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeopt.graph import Array

Range = tuple[float, float]
Ranges = dict[str, Range]  # tensor name → smallest and largest value seen
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny) * 2**10
_BIAS_LIMIT = 2**30  # half of int32: the accumulator adds the products to the bias


@dataclass(frozen=True)
class Scheme:
    """How a target's integer kernels want their operands.

    Attributes:
        activation_dtype: uint8 or int8.
        activation_symmetric: Zero point fixed in the middle of the type's range.
        weight_dtype: int8 or uint8; weights are symmetric, zero point 0 (128 for uint8).
        weight_per_channel: One scale per output channel, rather than one per tensor.
        weight_bits: 8, or 7 where pairs of products saturate in int16 (x86 without VNNI).
    """

    activation_dtype: str = "uint8"
    activation_symmetric: bool = False
    weight_dtype: str = "int8"
    weight_per_channel: bool = True
    weight_bits: int = 8


@dataclass(frozen=True)
class Parameters:
    """Scale and zero point: scalars for a tensor, [C] for a tensor quantized per channel."""

    scale: Array
    zero_point: Array


def activation_parameters(bounds: Range, scheme: Scheme) -> Parameters:
    """Parameters (scalars, float32 and the activation type) that cover ``bounds`` and represent 0 exactly.

    Asymmetric: scale = (hi - lo) / (qmax - qmin), zero_point = round(qmin - lo / scale), with lo ≤ 0 ≤ hi
    (Jacob et al. 2018, arXiv:1712.05877, section 3). Symmetric: scale = max |x| / 127, zero point in the middle.
    """
    dtype = np.dtype(scheme.activation_dtype)
    info = np.iinfo(dtype)
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    if scheme.activation_symmetric:
        middle = 0 if dtype.kind == "i" else 128
        scale = max(max(-low, high) / 127, _SMALLEST_SCALE)
        return Parameters(np.asarray(scale, dtype=np.float32), np.array(middle, dtype))
    scale32 = np.float32(max((high - low) / (int(info.max) - int(info.min)), _SMALLEST_SCALE))
    zero = int(info.min) + round(-low / float(scale32))
    return Parameters(np.asarray(scale32), np.array(min(max(zero, int(info.min)), int(info.max)), dtype))


def weight_parameters(weight: Array, axis: int, scheme: Scheme, *, least: Array | None = None) -> Parameters:
    """Symmetric parameters of a weight: scale = max |w| / (2^(bits-1) - 1), per channel along ``axis``.

    Args:
        weight: Float weights, any shape.
        axis: The output channels.
        scheme: Bits, type, per channel or per tensor.
        least: Smallest scale allowed per channel, so that the layer's bias fits into int32.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    largest = np.abs(weight.astype(np.float64)).max(axis=others if scheme.weight_per_channel else None, initial=0.0)
    scale = np.maximum(largest / (2 ** (scheme.weight_bits - 1) - 1), _SMALLEST_SCALE)
    if least is not None:
        scale = np.maximum(scale, least if scheme.weight_per_channel else float(np.max(least, initial=0.0)))
    middle = 128 if scheme.weight_dtype == "uint8" else 0
    scale32 = np.asarray(scale, dtype=np.float32)
    return Parameters(scale32, np.full(scale32.shape, middle, np.dtype(scheme.weight_dtype)))


def least_weight_scale(bias: Array, input_scale: float) -> Array:
    """Smallest weight scale per channel with which the bias, at scale input_scale * weight_scale, fits into int32."""
    least: Array = np.abs(bias.astype(np.float64)) / (input_scale * _BIAS_LIMIT)
    return least


def quantize(values: Array, parameters: Parameters, axis: int | None = None) -> Array:
    """QuantizeLinear: round half to even, saturate; per channel along ``axis`` if the parameters are [C]."""
    dtype = parameters.zero_point.dtype
    info = np.iinfo(dtype)
    scale, zero = _along(parameters.scale, values, axis), _along(parameters.zero_point, values, axis)
    rounded = np.rint(values.astype(np.float64) / scale.astype(np.float64)) + zero.astype(np.int64)
    result: Array = np.clip(rounded, int(info.min), int(info.max)).astype(dtype)
    return result


def dequantize(values: Array, parameters: Parameters, axis: int | None = None) -> Array:
    """DequantizeLinear, float32."""
    scale, zero = _along(parameters.scale, values, axis), _along(parameters.zero_point, values, axis)
    result: Array = ((values.astype(np.int64) - zero.astype(np.int64)) * scale).astype(np.float32)
    return result


def _along(parameter: Array, values: Array, axis: int | None) -> Array:
    """[C] reshaped to broadcast along ``axis``; scalars as they are."""
    if parameter.ndim == 0 or axis is None:
        return parameter
    shape: list[Any] = [1] * values.ndim
    shape[axis] = -1
    return parameter.reshape(shape)
