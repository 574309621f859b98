from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from edgeopt.calibration.minmax import MinMax
from edgeopt.errors import DataError
from edgeopt.graph import Array


def seen(*runs: Array | list[float]) -> MinMax:
    result = MinMax()
    for run in runs:
        result.update(np.asarray(run, None if isinstance(run, np.ndarray) else np.float32), "t")
    return result


def test_update_keeps_the_extremes() -> None:
    found = seen([1.0, 2.0], np.array([[-3.0]]), np.array(0.5))
    assert found.range() == (-3.0, 2.0)
    assert found.runs == 3


def test_nothing_seen() -> None:
    found = seen(np.zeros((0, 3)))
    assert found.range() == found.mean_range() == (0.0, 0.0)
    assert found == MinMax()


def test_nan_is_reported_by_name() -> None:
    found = seen([1.0])
    with pytest.raises(DataError, match="computes NaN on the calibration data") as caught:
        found.update(np.array([0.0, np.nan, np.inf]), "conv1")
    assert "tensor 'conv1'" in str(caught.value)
    assert found.range() == (1.0, 1.0)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, 1e39, -1e300])
def test_what_float32_cannot_hold_is_noted_and_left_out(bad: float) -> None:
    found = seen([1.0], np.array([0.5, bad, 2.0]))
    assert found.infinite
    assert found.range() == (0.5, 2.0)
    assert seen(np.array([bad])).runs == 0
    assert found.merge(seen([1.0])).infinite
    assert seen([1.0]).merge(found).infinite
    assert not seen([1.0]).infinite


def test_the_mean_of_the_runs_extremes() -> None:
    found = seen([-1.0, 4.0], [-2.0, 0.0, 1.0], [0.0, 40.0])
    assert found.mean_range() == (-1.0, 15.0)
    assert found.range() == (-2.0, 40.0)


def test_the_mean_does_not_hang_on_the_order() -> None:
    rng = np.random.default_rng(0)
    runs = [(rng.standard_normal(5) * 10.0**k).astype(np.float32) for k in (-30, 0, 7, 30)]
    low, high = (np.mean([getattr(r, f)() for r in runs], dtype=np.float64) for f in ("min", "max"))
    found = [seen(*order) for order in permutations(runs)]
    assert all(f == found[0] for f in found)
    assert found[0].mean_range() == pytest.approx((low, high), rel=1e-12)


def test_merge_is_what_both_have_seen() -> None:
    runs = [np.array([-1.0, 2.0]), np.array([0.3, 5.0]), np.array([-0.7, 0.1])]
    left, right = seen(runs[0]), seen(*runs[1:])
    assert left.merge(right) == right.merge(left) == seen(*runs)
    assert left.merge(MinMax()) == left
    assert MinMax().merge(MinMax()).range() == (0.0, 0.0)


def test_other_types() -> None:
    for dtype in (np.float16, np.float64, np.int64, np.uint8, bool):
        assert seen(np.array([0, 1, 1], dtype)).range() == (0.0, 1.0)
