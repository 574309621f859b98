"""A streaming histogram that needs no range in advance: counts over the upper 16 bits of float32.

Sign, 8 bits of exponent and 7 of mantissa name one of 65,536 bins, whose width is 2^-7 of the power of two below
the value: fine where values are small, whatever their scale. Such counts merge by addition. Only the stretch of bins
between the smallest and the largest magnitude seen is stored, per sign: some 30 powers of two, 128 bins each.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from edgeopt.calibration.histogram import Histogram
from edgeopt.graph import Array
from edgeopt.quant import Range

TAKEN = 4096  # values taken of a larger tensor in each run
_PENDING = 65_536  # keys gathered before they are counted: counting has a fixed cost
_SIGN, _INFINITE = 0x8000, 0x7F80  # as the upper 16 bits of float32
_UPPER_HALF = 1 if sys.byteorder == "little" else 0


@dataclass
class Stretch:
    """Counts of neighbouring bins.

    Attributes:
        start: Key of the first bin.
        counts: int64 [bins]; the first and the last are at least 1, or there are none.
    """

    start: int = 0
    counts: Array = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, start: int, counts: Array) -> None:
        """Add counts of the bins from ``start`` on; zeros at their ends are dropped."""
        begin, end = self.start, self.start + self.counts.size
        if not counts.size:
            return
        known = slice(max(begin - start, 0), max(end - start, 0))
        if _any(counts[: known.start]) or _any(counts[known.stop :]):
            filled = counts.astype(bool)
            first, last = int(filled.argmax()), filled.size - int(filled[::-1].argmax())
            self._cover(start + first, start + last)
            self.add(start, counts)
        else:
            part = counts[known]
            self.counts[max(start - begin, 0) :][: part.size] += part

    def _cover(self, begin: int, end: int) -> None:
        """Make room for the bins from ``begin`` to before ``end``."""
        if self.counts.size:
            begin, end = min(begin, self.start), max(end, self.start + self.counts.size)
        grown = np.zeros(end - begin, np.int64)
        if self.counts.size:
            grown[self.start - begin :][: self.counts.size] = self.counts
        self.start, self.counts = begin, grown

    def bins(self) -> tuple[Array, Array]:
        """Keys and counts of the non-empty bins, ascending."""
        places = np.flatnonzero(self.counts)
        return places + self.start, self.counts[places]


@dataclass
class Counts:
    """Counts of one tensor's values; infinite values are left out.

    Attributes:
        full: Count every value, rather than at most ``TAKEN`` of each run.
        zeros: How many values are 0 (or below 2^-133 in magnitude).
        positive: Counts of the positive values, by key.
        negative: Counts of the negative values, by the key of their magnitude.
    """

    full: bool = False
    zeros: int = 0
    positive: Stretch = field(default_factory=Stretch)
    negative: Stretch = field(default_factory=Stretch)
    _keys: Array | None = field(default=None, repr=False, compare=False)
    _waiting: int = 0

    def update(self, values: Array, phase: int) -> None:
        """Take in the values of one run, of any shape and type.

        Unless ``full``, large tensors are subsampled: every k-th value in memory order, from place ``phase`` mod k
        on. k shares no divisor with the tensor's size, so that in time all channels, rows and columns have their
        turn; each run of the model then has about the same weight, whatever its size.

        Args:
            values: The values.
            phase: Any number of at least 0; should vary from run to run, and hang on the sample alone, so that the
                order of the samples does not matter.
        """
        if values.dtype != np.float32:
            with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is left out
                values = values.astype(np.float32)
        flat = np.ascontiguousarray(values).reshape(-1)
        keys = flat.view(np.uint16)[_UPPER_HALF::2]
        if not self.full and keys.size > TAKEN:
            step = _step(keys.size)
            keys = keys[phase % step :: step]
        if keys.size >= _PENDING:
            self._count(keys)
            return
        if self._waiting + keys.size > _PENDING:
            self._flush()
        if self._keys is None:
            self._keys = np.empty(_PENDING, np.uint16)
        self._keys[self._waiting : self._waiting + keys.size] = keys
        self._waiting += keys.size

    def merge(self, other: Counts) -> Counts:
        """The counts of all that both have seen."""
        result = Counts(self.full and other.full)
        for part in (self, other):
            part._flush()
            result.zeros += part.zeros
            result.positive.add(part.positive.start, part.positive.counts)
            result.negative.add(part.negative.start, part.negative.counts)
        return result

    def clipped(self, low: float, high: float) -> Counts:
        """The counts of the same values after Clip(low, high), exactly: each bin goes to one bin."""
        self._flush()
        negative, negative_counts = self.negative.bins()
        positive, positive_counts = self.positive.bins()
        keys = np.concatenate([-negative, [0], positive]).clip(_signed_key(low), _signed_key(high))
        counts = np.concatenate([negative_counts, [self.zeros], positive_counts])
        result = Counts(self.full, int(counts[keys == 0].sum()))
        for stretch, sign in ((result.negative, -1), (result.positive, 1)):
            chosen = keys * sign > 0
            stretch.add(0, np.bincount(keys[chosen] * sign, counts[chosen]).astype(np.int64))
        return result

    def histogram(self, bounds: Range) -> Histogram:
        """The bins in ascending order, cut at the exact smallest and largest value."""
        self._flush()
        negative, negative_counts = self.negative.bins()
        positive, positive_counts = self.positive.bins()
        zero = np.zeros(1 if self.zeros else 0)
        lower = np.concatenate([-_magnitude(negative[::-1] + 1), zero, _magnitude(positive)])
        upper = np.concatenate([-_magnitude(negative[::-1]), zero, _magnitude(positive + 1)])
        counts = np.concatenate([negative_counts[::-1], np.array([self.zeros] * zero.size, np.int64), positive_counts])
        return Histogram(np.clip(lower, *bounds), np.clip(upper, *bounds), counts)

    def _flush(self) -> None:
        if self._keys is not None and self._waiting:
            waiting, self._waiting = self._waiting, 0
            self._count(self._keys[:waiting])

    def _count(self, keys: Array) -> None:
        counts = np.bincount(keys)
        self.zeros += int(counts[0]) + int(counts[_SIGN : _SIGN + 1].sum())
        self.positive.add(1, counts[1:_INFINITE])
        self.negative.add(1, counts[_SIGN + 1 : _SIGN + _INFINITE])


@lru_cache(maxsize=1024)
def _step(size: int) -> int:
    """The smallest k that leaves at most ``TAKEN`` values and has no divisor in common with ``size``."""
    step = -(-size // TAKEN)
    while math.gcd(step, size) != 1:
        step += 1
    return step


def _any(counts: Array) -> bool:
    return counts.size > 0 and bool(np.maximum.reduce(counts))  # faster than any()


def _signed_key(value: float) -> int:
    """The key of the bin that holds a value, negative for negative values; 0 for 0."""
    key = int(np.float32(value).view(np.uint32)) >> 16
    return key if key < _SIGN else _SIGN - key


def _magnitude(keys: Array) -> Array:
    """Lower edges of the bins of positive values, float64; infinity for the end of the last one."""
    return (keys.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
