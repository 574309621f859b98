"""The observer of smallest and largest values: streaming, mergeable, a few bytes per tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeopt.errors import DataError
from edgeopt.graph import Array
from edgeopt.quant import Range

_UNIT_EXPONENT = 149  # every float32 is a whole multiple of 2^-149, so sums of such multiples are exact
_LARGEST = float(np.finfo(np.float32).max)


@dataclass
class MinMax:
    """Smallest and largest value of one tensor over all samples, and their sums over the runs of the model.

    Attributes:
        low: Smallest finite value; +inf before the first sample.
        high: Largest finite value; -inf before the first sample.
        runs: Runs with at least one finite value.
        low_sum: Sum of the smallest values of the runs, in units of 2^-149: exact, whatever the order.
        high_sum: Sum of the largest values of the runs, likewise.
        infinite: Some value was infinite, or beyond float32; NaN too, where the caller goes on.
    """

    low: float = float("inf")
    high: float = float("-inf")
    runs: int = 0
    low_sum: int = 0
    high_sum: int = 0
    infinite: bool = False

    def update(self, values: Array, tensor: str) -> Range | None:
        """Take in the values of one run, of any shape. Infinite values are noted and left out.

        Returns:
            The smallest and largest value of the run; None if it had no finite value.

        Raises:
            DataError: NaN, naming the tensor.
        """
        if values.size == 0:
            return None
        low, high = float(np.minimum.reduce(values, None)), float(np.maximum.reduce(values, None))  # NaN if any is
        if math.isnan(low):
            raise DataError(
                "the model computes NaN on the calibration data",
                where=f"tensor {tensor!r}",
                hint="is the preprocessing the one the model was trained with?",
            )
        if low < -_LARGEST or high > _LARGEST:
            self.infinite = True
            finite = values[np.abs(values) <= _LARGEST]
            if finite.size == 0:
                return None
            low, high = float(finite.min()), float(finite.max())
        self.observe(low, high)
        return low, high

    def observe(self, low: float, high: float) -> None:
        """Take in one run by its smallest and largest value, both finite in float32."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.runs += 1
        self.low_sum += int(math.ldexp(low, _UNIT_EXPONENT))
        self.high_sum += int(math.ldexp(high, _UNIT_EXPONENT))

    def merge(self, other: MinMax) -> MinMax:
        """The observer that has seen what both have seen."""
        return MinMax(
            min(self.low, other.low),
            max(self.high, other.high),
            self.runs + other.runs,
            self.low_sum + other.low_sum,
            self.high_sum + other.high_sum,
            self.infinite or other.infinite,
        )

    def range(self) -> Range:
        """(low, high); (0, 0) if nothing was seen."""
        return (self.low, self.high) if self.runs else (0.0, 0.0)

    def mean_range(self) -> Range:
        """The "moving average": the mean over the runs of the smallest and of the largest value of each run.

        Every run has the same weight 1/n, so that the order of the samples does not matter (an exponential average
        remembers the last ones best). (0, 0) if nothing was seen.
        """
        if not self.runs:
            return (0.0, 0.0)
        unit = self.runs << _UNIT_EXPONENT
        return (self.low_sum / unit, self.high_sum / unit)
