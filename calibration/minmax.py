"""The observer of smallest and largest values: streaming, mergeable, a few bytes per tensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeopt.errors import DataError
from edgeopt.graph import Array
from edgeopt.quant import Range


@dataclass
class MinMax:
    """Smallest and largest value of one tensor over all samples.

    Attributes:
        low: Smallest value; +inf before the first sample.
        high: Largest value; -inf before the first sample.
    """

    low: float = float("inf")
    high: float = float("-inf")

    def update(self, values: Array, tensor: str) -> None:
        """Take in one sample of any shape.

        Raises:
            DataError: NaN or infinite values, naming the tensor.
        """
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(
                "the model computes NaN or infinite values on the calibration data",
                where=f"tensor {tensor!r}",
                hint="is the preprocessing the one the model was trained with?",
            )
        self.low, self.high = min(self.low, low), max(self.high, high)

    def merge(self, other: MinMax) -> MinMax:
        """The observer that has seen what both have seen."""
        return MinMax(min(self.low, other.low), max(self.high, other.high))

    def range(self) -> Range:
        """(low, high); (0, 0) if nothing was seen."""
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)
