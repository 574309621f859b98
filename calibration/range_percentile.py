"""Percentile ranges: the range that holds a given share of the values, the rest cut evenly at both ends."""

from __future__ import annotations

import numpy as np

from edgeopt.calibration.histogram import Histogram
from edgeopt.quant import Range

PERCENTILE = 99.99


def percentile_range(histogram: Histogram, percentile: float = PERCENTILE) -> Range:
    """The quantiles (100 - p)/200 and 1 - (100 - p)/200 of the values, widened to include 0.

    A quantile f is the linear interpolation between the values at the ranks below and above f (n - 1), counted from
    0: numpy's default. Each of the two is known to within the width of its bin. Data of one sign keeps 0 as its
    other end, as after Relu.
    """
    cut = (100 - percentile) / 200
    return min(_quantile(histogram, cut), 0.0), max(_quantile(histogram, 1 - cut), 0.0)


def _quantile(histogram: Histogram, share: float) -> float:
    rank = share * (histogram.total - 1)
    below, above = _at_rank(histogram, int(np.floor(rank))), _at_rank(histogram, int(np.ceil(rank)))
    return below + (above - below) * (rank % 1)


def _at_rank(histogram: Histogram, rank: int) -> float:
    """The value of that rank, if the values of its bin are evenly spread."""
    ends = np.cumsum(histogram.counts)
    place = int(np.searchsorted(ends, rank, side="right"))
    count = int(histogram.counts[place])
    within = (rank - (int(ends[place]) - count) + 0.5) / count
    lower, upper = float(histogram.lower[place]), float(histogram.upper[place])
    return lower + (upper - lower) * within
