"""Ranges of least mean square error: what is lost by rounding and by clipping together is smallest.

With the values of a bin evenly spread, the error of a bin [a, b] is the mean of (x - Q(x))^2 over it, and that
integral has a closed form: with step s, and x as k steps and a remainder of r steps (|r| <= 1/2), the integral of
(x - Q(x))^2 from 0 to x is s^3 (k/12 + r^3/3); beyond an end e of the range it grows by (x - e)^3 / 3. So a bin
wider than a step loses s^2/12, a narrow one the true distance to its level, and one that an end cuts both parts.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from edgeopt.calibration.histogram import Histogram
from edgeopt.graph import Array
from edgeopt.quant import Range, Scheme, activation_parameters

_COARSE_PER_OCTAVE = 16
_OCTAVES = 12  # how far below the largest value an end may go
_ROUNDS = 5


def mse_range(histogram: Histogram, bounds: Range, scheme: Scheme) -> Range:
    """The range whose grid of the target's levels, with 0 on it, has the least mean square error.

    Ends on a grid of half powers of two are tried in all pairs, on coarser bins; the best pair is refined on all
    bins, in steps that halve down to 1 % of an end.

    Args:
        histogram: Of the tensor's values.
        bounds: Exact smallest and largest value.
        scheme: The target's activation type and symmetry.
    """
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    if scheme.activation_symmetric:
        low, high = 0.0, max(0.0, -low, high)
    shrunk = 2.0 ** -(np.arange(2 * _OCTAVES + 1) / 2)
    lows, highs = (shrunk if low < 0 else shrunk[:1]), (shrunk if high > 0 else shrunk[:1])
    pairs = [(low * a, high * b) for a, b in product(lows, highs)]
    coarse = histogram.coarser(_COARSE_PER_OCTAVE)
    best = pairs[int(np.argmin(errors(coarse, pairs, scheme)))]
    step = 2.0**0.25
    for _ in range(_ROUNDS):
        factors = [step**i for i in (0, -2, -1, 1, 2)]  # ties go to the range found before
        pairs = [(max(best[0] * a, low), min(best[1] * b, high)) for a, b in product(factors, factors)]
        pairs = list(dict.fromkeys(pairs))
        best = pairs[int(np.argmin(errors(histogram, pairs, scheme)))]
        step **= 0.5
    if scheme.activation_symmetric:
        return max(min(bounds[0], 0.0), -best[1]), min(best[1], max(bounds[1], 0.0))
    return best


def errors(histogram: Histogram, pairs: list[Range], scheme: Scheme) -> Array:
    """Mean square error of each range, float64 [len(pairs)], zero point and scale rounded as they will be."""
    info = np.iinfo(np.dtype(scheme.activation_dtype))
    found = [activation_parameters(pair, scheme) for pair in pairs]
    scale = np.array([float(p.scale) for p in found])[:, None]
    zero = np.array([int(p.zero_point) for p in found])[:, None]
    low, high = (int(info.min) - zero) * scale, (int(info.max) - zero) * scale
    wide = histogram.upper > histogram.lower
    width = (histogram.upper - histogram.lower)[wide]
    integral = _integral(histogram.upper[wide], scale, low, high) - _integral(histogram.lower[wide], scale, low, high)
    at = histogram.lower[~wide]
    kept = np.clip(at, low, high)
    point = (at - scale * np.rint(kept / scale)) ** 2
    total: Array = integral @ (histogram.counts[wide] / width) + point @ histogram.counts[~wide]
    return np.asarray(total / max(histogram.total, 1))


def _integral(x: Array, scale: Array, low: Array, high: Array) -> Array:
    """Of (t - Q(t))^2 from 0 to x: [ranges, B] for x [B] and the others [ranges, 1]."""
    inside = np.clip(x, low, high)
    steps = inside / scale
    whole = np.rint(steps)
    rest = steps - whole
    beyond = x - inside
    result: Array = (scale * scale * scale) * (whole / 12 + rest * rest * rest / 3) + beyond * beyond * beyond / 3
    return result
