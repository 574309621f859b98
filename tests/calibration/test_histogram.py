from __future__ import annotations

import numpy as np
import pytest

from edgeopt.calibration.histogram import Histogram
from tests.calibration.distributions import VALUES, histogram


@pytest.mark.parametrize("name", VALUES)
def test_coarser_bins_hold_the_same_values(name: str) -> None:
    fine = histogram(VALUES[name])
    coarse = fine.coarser(16)
    assert coarse.total == fine.total
    assert (coarse.lower[1:] >= coarse.upper[:-1]).all()
    last = np.searchsorted(fine.counts.cumsum(), coarse.counts.cumsum())
    first = np.append(0, last[:-1] + 1)
    assert np.array_equal(fine.counts.cumsum()[last], coarse.counts.cumsum())
    assert np.array_equal(fine.upper[last], coarse.upper)
    assert np.array_equal(fine.lower[first], coarse.lower)
    least, most = np.minimum(abs(coarse.lower), abs(coarse.upper)), np.maximum(abs(coarse.lower), abs(coarse.upper))
    assert (most - least <= least / 16 * (1 + 1e-9)).all()
    assert (np.sign(coarse.lower) * np.sign(coarse.upper) >= 0).all()


def test_coarser_bins_are_fewer() -> None:
    fine = histogram(VALUES["normal"])
    assert fine.coarser(16).counts.size < fine.counts.size / 2


def test_no_bins() -> None:
    empty = Histogram(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
    assert empty.total == empty.coarser(16).total == 0
