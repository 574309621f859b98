from __future__ import annotations

from typing import Any

from edgeopt.effort import EFFORTS, Effort
from edgeopt.progress import silent


def test_more_effort_is_more_of_everything() -> None:
    fast, normal, best = (EFFORTS[name] for name in ("fast", "normal", "best"))
    for less, more in ((fast, normal), (normal, best)):
        assert less.measure_s < more.measure_s
        assert less.search_s < more.search_s
        assert less.trial_s < more.trial_s
        assert less.confirm <= more.confirm


def test_calibration_takes_so_many_samples() -> None:
    data: Any = list(range(10))
    for limit, wanted in ((3, 3), (None, 10), (99, 10)):
        samples, advance = Effort(limit, 1.0, True, 0.0, 0.0).calibration(data, silent)
        found: list[Any] = list(samples)
        assert found == data[:wanted]
        advance()
