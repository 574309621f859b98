"""What calibration keeps of one tensor, and the ranges that can be had from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeopt.calibration.counts import Counts
from edgeopt.calibration.minmax import MinMax
from edgeopt.calibration.range_entropy import entropy_range
from edgeopt.calibration.range_mse import mse_range
from edgeopt.calibration.range_percentile import percentile_range
from edgeopt.errors import DataError, UsageError
from edgeopt.graph import Array
from edgeopt.quant import Range, Scheme

RANGES = ("minmax", "moving-average", "percentile", "entropy", "mse")


def check_range(method: str) -> None:
    """Raise UsageError for a way of choosing ranges that does not exist."""
    if method not in RANGES:
        raise UsageError(f"expected one of {', '.join(RANGES)}, found {method!r}", where="--range")


@dataclass
class Statistics:
    """What is known of one tensor after the pass over the data; the size does not hang on the number of samples.

    Attributes:
        tensor: Its name.
        extremes: Smallest and largest value, of all values.
        counts: How often which values occur.
    """

    tensor: str = ""
    extremes: MinMax = field(default_factory=MinMax)
    counts: Counts = field(default_factory=Counts)

    def update(self, values: Array, phase: int = 0) -> Range | None:
        """Take in the tensor's values of one run, of any shape.

        Args:
            values: The values.
            phase: See ``Counts.update``.

        Returns:
            The smallest and largest value of the run; None if it had no finite value.

        Raises:
            DataError: NaN, naming the tensor.
        """
        found = self.extremes.update(values, self.tensor)
        self.counts.update(values, phase)
        return found

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of all that both have seen."""
        return Statistics(self.tensor, self.extremes.merge(other.extremes), self.counts.merge(other.counts))

    def range(self, method: str = "minmax", scheme: Scheme | None = None) -> Range:
        """(low, high) by one of ``RANGES``, for a target's operand types; (0, 0) if nothing was seen.

        ``minmax`` gives the exact extremes; ``moving-average`` the means of the runs' extremes. The others look at
        the distribution, lie within the extremes, and include 0; see their modules for definitions.

        Raises:
            DataError: infinite values were seen: no range covers them.
            UsageError: there is no such method.
        """
        check_range(method)
        if self.extremes.infinite:
            raise DataError(
                "the model computes infinite values or NaN on the calibration data",
                where=f"tensor {self.tensor!r}",
                hint="keep the nodes that read it in float (--keep-float), or, in a mask, put -1e4 in place of -inf",
            )
        if method == "minmax":
            return self.extremes.range()
        if method == "moving-average":
            return self.extremes.mean_range()
        histogram = self.counts.histogram(self.extremes.range())
        if not histogram.counts.size:
            return (0.0, 0.0)
        if method == "percentile":
            return percentile_range(histogram)
        search = entropy_range if method == "entropy" else mse_range
        return search(histogram, self.extremes.range(), scheme or Scheme())
