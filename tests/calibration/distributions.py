"""Synthetic distributions on which ranges are judged: float32 values, the same ones each time."""

from __future__ import annotations

import math
import struct
from collections import Counter

import numpy as np

from edgeopt.calibration.counts import Counts
from edgeopt.calibration.histogram import Histogram
from edgeopt.graph import Array
from edgeopt.quant import Range, Scheme, activation_parameters, dequantize, quantize

UNSIGNED, SYMMETRIC = Scheme(), Scheme(activation_dtype="int8", activation_symmetric=True)
SIGNED = Scheme(activation_dtype="int8")


def _made(size: int) -> dict[str, Array]:
    rng = np.random.default_rng(5)
    normal = rng.standard_normal(size)
    silu = rng.standard_normal(size) * 3
    return {
        "normal": normal,
        "outlier": np.append(normal, 40.0),
        "outliers": np.append(normal, [40.0, -90.0, 41.0]),
        "relu": np.maximum(normal, 0),
        "relu6": np.clip(normal * 4, 0, 6),
        "negative": -np.abs(normal) - 0.5,
        "silu": silu / (1 + np.exp(-silu)),
        "bimodal": np.concatenate([rng.normal(-8, 0.3, size // 2), rng.normal(2, 0.5, size - size // 2)]),
        "heavy tail": rng.standard_t(3, size),
        "one-sided heavy tail": rng.lognormal(0, 1.0, size),
        "tiny": normal * 1e-20,
        "huge": normal * 1e30,
        "two values": rng.integers(0, 2, size) * 3.0,
        "constant": np.full(50, 3.0),
        "zero": np.zeros(50),
        "one value": np.array(-0.3),
    }


VALUES = {name: values.astype(np.float32) for name, values in _made(1500).items()}


def extremes(values: Array) -> Range:
    return float(values.min()), float(values.max())


def histogram(values: Array) -> Histogram:
    """Of all values, as calibration makes it."""
    counts = Counts(full=True)
    counts.update(values, 0)
    return counts.histogram(extremes(values))


def slow_bins(values: Array, bounds: Range = (-math.inf, math.inf)) -> list[tuple[float, float, int]]:
    """Bins (lower edge, upper edge, count) from the bits of each value, ascending, cut at the bounds."""
    found: Counter[tuple[float, float]] = Counter()
    for value in values.reshape(-1).tolist():
        bits = struct.unpack("<I", struct.pack("<f", abs(value)))[0] >> 16
        ends = [struct.unpack("<f", struct.pack("<I", k << 16))[0] for k in (bits, bits + 1)]
        if bits == 0:
            found[0.0, 0.0] += 1
        elif math.isfinite(value):
            found[(ends[0], ends[1]) if value > 0 else (-ends[1], -ends[0])] += 1
    return [(max(low, bounds[0]), min(high, bounds[1]), count) for (low, high), count in sorted(found.items())]


def error(values: Array, bounds: Range, scheme: Scheme) -> float:
    """Mean square error of the values themselves, quantized and dequantized."""
    parameters = activation_parameters(bounds, scheme)
    found = dequantize(quantize(values, parameters), parameters)
    return float(np.mean((found.astype(np.float64) - values.astype(np.float64)) ** 2))
