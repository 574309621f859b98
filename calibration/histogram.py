"""Counts of values in bins: what the range methods look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeopt.graph import Array


@dataclass(frozen=True)
class Histogram:
    """Non-empty bins in ascending order; they do not overlap. Within a bin, values are taken as evenly spread.

    Attributes:
        lower: Lower edges, float64 [B].
        upper: Upper edges, float64 [B]; equal to ``lower`` where all values are the same (exact zeros, for example).
        counts: Values in each bin, int64 [B], at least 1.
    """

    lower: Array
    upper: Array
    counts: Array

    @property
    def total(self) -> int:
        """The number of values."""
        return int(self.counts.sum())

    def coarser(self, per_octave: int) -> Histogram:
        """Neighbours between the same two marks of a grid merged; the grid has so many marks per power of two.

        Zero stays a bin of its own. Merged bins span from their lowest lower edge to their highest upper edge.
        """
        middle = (self.lower + self.upper) / 2
        mantissa, exponent = np.frexp(middle)
        mark = np.sign(middle) * (exponent * 2.0 * per_octave + np.floor(np.abs(mantissa) * 2 * per_octave) + 2.0**20)
        first = np.flatnonzero(np.diff(mark, prepend=np.nan) != 0) if mark.size else np.zeros(0, np.int64)
        last = np.append(first[1:], mark.size)[: first.size] - 1
        counts = np.add.reduceat(self.counts, first) if first.size else self.counts
        return Histogram(self.lower[first], self.upper[last], counts)
