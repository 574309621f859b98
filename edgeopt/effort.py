"""How much work an effort level does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from edgeopt.calibration import Dataset, Sample
from edgeopt.progress import Progress, counting


@dataclass(frozen=True)
class Effort:
    """How much work an effort level does.

    Attributes:
        calibration_samples: At most so many; None for all.
        measure_s: Seconds of timed runs per comparison of three candidates; more of them get more.
        confirm: Whether the winner is timed once more in fresh sessions.
        search_s: Seconds for the search of int8 regions, once per layout, and of gentler ones; 0: no search.
        trial_s: Seconds of timed runs per trial of a search.
        full_counts: Calibration counts every value, not an evenly spaced part of those of large tensors.
    """

    calibration_samples: int | None
    measure_s: float
    confirm: bool
    search_s: float
    trial_s: float
    full_counts: bool = False

    def calibration(self, data: Dataset, progress: Progress) -> tuple[Iterable[Sample], Callable[[], None]]:
        """The samples to calibrate with, and what to call after each of them."""
        limit = self.calibration_samples
        total = len(data) if limit is None else min(limit, len(data))
        return islice(data, limit), counting(progress, "calibrating", total)


EFFORTS = {
    "fast": Effort(64, 1.5, False, 5.0, 0.25),
    "normal": Effort(512, 4.0, True, 20.0, 0.5),
    "best": Effort(None, 12.0, True, 60.0, 1.0, True),
}
