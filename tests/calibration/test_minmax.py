from __future__ import annotations

import numpy as np
import pytest

from edgeopt.calibration.minmax import MinMax
from edgeopt.errors import DataError


def test_update_keeps_the_extremes() -> None:
    seen = MinMax()
    for values in ([1.0, 2.0], [[-3.0]], 0.5):
        seen.update(np.array(values, np.float32), "t")
    assert seen.range() == (-3.0, 2.0)


def test_nothing_seen() -> None:
    seen = MinMax()
    seen.update(np.zeros((0, 3)), "t")
    assert seen.range() == (0.0, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_update_refuses_what_is_not_finite(bad: float) -> None:
    seen = MinMax()
    seen.update(np.array([1.0]), "t")
    with pytest.raises(DataError, match="NaN or infinite") as caught:
        seen.update(np.array([0.0, bad, 1.0]), "conv1")
    assert "tensor 'conv1'" in str(caught.value)
    assert seen.range() == (1.0, 1.0)


def test_merge_is_what_both_have_seen() -> None:
    left, right = MinMax(-1, 2), MinMax(0, 5)
    assert left.merge(right) == right.merge(left) == MinMax(-1, 5)
    assert left.merge(MinMax()) == left
    assert MinMax().merge(MinMax()).range() == (0.0, 0.0)
    assert left == MinMax(-1, 2)


def test_other_types() -> None:
    for dtype in (np.float16, np.int64, np.uint8, bool):
        seen = MinMax()
        seen.update(np.array([0, 1, 1], dtype), "t")
        assert seen.range() == (0.0, 1.0)
