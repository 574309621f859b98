"""Entropy ranges: the values' distribution after quantization is closest to the one before (Kullback-Leibler).

The method of TensorRT (Migacz, "8-bit inference with TensorRT", GTC 2017), for the bins that calibration counts and
for the levels that the target has. For a range, with n_b values in bin b and N in all:

    P_b = n_b inside of the range; values outside are added to its first or last bin
    Q_b = the n_b of the values inside, levelled: all values that round to one level are spread evenly over the
          parts of non-empty bins that round to it
    divergence = sum of P_b / N * log((P_b / N) / (Q_b / M)), with M the sum of Q_b

A bin without width (exact zeros, or all values that equal the smallest or the largest one) keeps its count in Q.
Bins within 1/16 of a step of 0 are one bin per sign, from 0 on: what their values are in detail, no level can tell.
Nothing is symmetric about 0 unless the target is, and the levels are those of the target's type, so there are always
many more bins than levels near 0, where most values are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from edgeopt.calibration.histogram import Histogram
from edgeopt.graph import Array
from edgeopt.quant import Range, Scheme, activation_parameters

PER_OCTAVE = 16
OCTAVES = 10
ROUNDS = 4
NEAR = 1 / 16
LEAST_INSIDE = 0.99  # where most is clipped, P and Q agree on what is left, and about nothing else
GAIN = 1e-9  # a smaller gain than this is rounding


def entropy_range(histogram: Histogram, bounds: Range, scheme: Scheme) -> Range:
    """The range of least divergence, 0 included.

    The upper end is searched with the lower one fixed, then the lower one, until neither moves (at most ``ROUNDS``
    times); a symmetric target has one end to search. Candidates: the exact extreme, then the marks of a grid of
    ``PER_OCTAVE`` per power of two, down to 2^-``OCTAVES`` of it; of equal ones the widest.

    Args:
        histogram: Of the tensor's values.
        bounds: Exact smallest and largest value.
        scheme: The target's activation type and symmetry.
    """
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    measured = Divergence(histogram, scheme)
    if scheme.activation_symmetric:
        return _least(measured, (low, high), candidates(max(-low, high)), lambda _, t: (max(low, -t), min(high, t)))
    best: Range = (low, high)
    for _ in range(ROUNDS):
        before = best
        best = _least(measured, best, candidates(high), lambda r, t: (r[0], t))
        best = _least(measured, best, candidates(-low), lambda r, t: (-t, r[1]))
        if best == before:
            break
    return best


def candidates(end: float) -> Iterator[float]:
    """Magnitudes to try for one end of the range, descending from ``end``; the exact end is first."""
    if end <= 0:
        return
    yield end
    mantissa, exponent = np.frexp(end)
    mark = int(exponent) * PER_OCTAVE + int(np.ceil((mantissa * 2 - 1) * PER_OCTAVE)) - 1
    for i in range(mark, mark - OCTAVES * PER_OCTAVE, -1):
        octave, place = divmod(i, PER_OCTAVE)
        yield float(np.ldexp(1 + place / PER_OCTAVE, octave - 1))


def _least(
    measured: Divergence, start: Range, ends: Iterator[float], changed: Callable[[Range, float], Range]
) -> Range:
    best, least = start, measured(start)
    for end in ends:
        found = changed(start, end)
        divergence = measured(found)
        if divergence == float("inf"):  # narrower ones hold even less
            break
        if divergence < least - GAIN:
            best, least = found, divergence
    return best


class Divergence:
    """The divergence of any range of one histogram; infinite where less than ``LEAST_INSIDE`` of it lies inside.

    Args:
        histogram: Of the tensor's values.
        scheme: The target's activation type and symmetry.
    """

    def __init__(self, histogram: Histogram, scheme: Scheme) -> None:
        self._histogram, self._scheme = histogram, scheme
        self._known: dict[Range, float] = {}

    def __call__(self, bounds: Range) -> float:
        """Of the range ``bounds``, whose ends lie on edges of bins."""
        if bounds not in self._known:
            self._known[bounds] = self._of(bounds)
        return self._known[bounds]

    def _of(self, bounds: Range) -> float:
        all_counts = self._histogram.counts
        first = int(np.searchsorted(self._histogram.lower, bounds[0], side="left"))
        last = int(np.searchsorted(self._histogram.upper, bounds[1], side="right"))
        if all_counts[first:last].sum() < LEAST_INSIDE * self._histogram.total:
            return float("inf")
        parameters = activation_parameters(bounds, self._scheme)
        scale = float(parameters.scale)
        within = self._histogram.lower[first:last], self._histogram.upper[first:last], all_counts[first:last]
        lower, upper, counts = _joined_near_zero(*within, scale * NEAR)
        spread = counts.copy()
        wide = upper > lower
        if wide.any():
            info = np.iinfo(np.dtype(self._scheme.activation_dtype))
            levels = np.arange(int(info.min), int(info.max)) - int(parameters.zero_point)
            spread[wide] = _spread(lower[wide], upper[wide], counts[wide], (levels + 0.5) * scale)
        inside = counts.sum()
        counts[0] += all_counts[:first].sum()
        counts[-1] += all_counts[last:].sum()
        share = counts / counts.sum()
        return float(np.sum(share * np.log(share * inside / spread)))


def _joined_near_zero(lower: Array, upper: Array, counts: Array, near: float) -> tuple[Array, Array, Array]:
    """Bins (edges and counts, float64) with those in [-near, 0) made one, and those in (0, near]."""
    wide = upper > lower
    left = int(np.searchsorted(lower, -near, side="left"))
    before = left + int(np.count_nonzero(wide[left:] & (upper[left:] <= 0)))
    right = int(np.searchsorted(upper, near, side="right"))
    after = right - int(np.count_nonzero(wide[:right] & (lower[:right] >= 0)))
    new_lower, new_upper = lower.copy(), upper.copy()
    starts = np.arange(lower.size)
    if before > left:
        new_lower[left], new_upper[left] = lower[left], 0.0
        starts = starts[(starts <= left) | (starts >= before)]
    if after < right:
        new_lower[after], new_upper[after] = 0.0, upper[right - 1]
        starts = starts[(starts <= after) | (starts >= right)]
    return new_lower[starts], new_upper[starts], np.add.reduceat(counts.astype(np.float64), starts)


def _spread(lower: Array, upper: Array, counts: Array, borders: Array) -> Array:
    """Counts per bin after all values of a level were spread evenly over the bins' parts in that level."""
    edges = np.stack([lower, upper], 1).reshape(-1)
    ends = np.cumsum(counts)
    width = upper - lower
    widths = np.cumsum(width)
    counted = np.stack([ends - counts, ends], 1).reshape(-1)
    measured = np.stack([widths - width, widths], 1).reshape(-1)
    level_counts = np.concatenate([[0.0], np.interp(borders, edges, counted), [ends[-1]]])
    level_widths = np.concatenate([[0.0], np.interp(borders, edges, measured), [widths[-1]]])
    across = np.diff(np.interp(measured, level_widths, level_counts))[::2]
    # A bin inside one level: exact for widths that vanish beside the others' sum.
    level = np.searchsorted(borders, lower, side="right")
    one = level == np.searchsorted(borders, upper, side="left")
    spans = np.diff(level_widths)[level]
    within = np.diff(level_counts)[level] * width / np.where(spans > 0, spans, 1.0)
    result: Array = np.where(one & (spans > 0), within, across)
    return result
