from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from edgeopt.calibration import counts as module
from edgeopt.calibration.counts import TAKEN, Counts, Stretch
from edgeopt.calibration.histogram import Histogram
from edgeopt.graph import Array
from tests.calibration.distributions import VALUES, slow_bins

ALL = (-math.inf, math.inf)


def counted(*runs: Array, full: bool = True) -> Counts:
    result = Counts(full)
    for phase, run in enumerate(runs):
        result.update(run, phase)
    return result


def same(a: Histogram, b: Histogram) -> bool:
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in ("lower", "upper", "counts"))


@pytest.mark.parametrize("name", VALUES)
def test_bins_are_those_of_the_bits(name: str) -> None:
    found = counted(VALUES[name]).histogram(ALL)
    assert list(zip(found.lower.tolist(), found.upper.tolist(), found.counts.tolist(), strict=True)) == slow_bins(
        VALUES[name]
    )


def test_special_values() -> None:
    largest = float(np.finfo(np.float32).max)
    values = np.array([0.0, -0.0, 1e-45, np.inf, -np.inf, largest, -largest, 1.0, 1e-39], np.float32)
    found = counted(values).histogram(ALL)
    assert found.counts.tolist() == [1, 3, 1, 1, 1]
    assert found.upper[-1] == np.inf
    assert counted(values).histogram((-largest, largest)).upper[-1] == largest


def test_bins_are_cut_at_the_extremes() -> None:
    found = counted(np.array([-3.0, -1.0, 0.3, 6.0, 6.0], np.float32)).histogram((-3.0, 6.0))
    assert found.lower.tolist() == [-3.0, -1.0078125, 0.298828125, 6.0]
    assert found.upper.tolist() == [-3.0, -1.0, 0.30078125, 6.0]
    assert found.total == 5


def test_other_types_and_shapes() -> None:
    for dtype in (np.float16, np.float64, np.int64, np.uint8, bool):
        found = counted(np.array([[0, 1], [1, 1]], dtype)).histogram((0.0, 1.0))
        assert found.counts.tolist() == [1, 3]
    assert counted(np.array(0.5), np.zeros((0, 3)), np.zeros((3, 2, 2))[:, :, 1]).histogram(ALL).total == 7
    assert counted(np.array([1e300, 1.0])).histogram(ALL).total == 1
    assert counted().histogram((0.0, 0.0)).total == 0


@pytest.mark.parametrize("full", [True, False])
def test_merged_parts_are_the_whole(full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PENDING", 10_000)  # some runs are counted at once, some gathered first
    rng = np.random.default_rng(1)
    runs = [(rng.standard_normal(n) * 10.0 ** rng.integers(-6, 6)).astype(np.float32) for n in (5, 9000, 12_000, 300)]

    def of(*places: int) -> Counts:
        result = Counts(full)
        for place in places:
            result.update(runs[place], 1000 + 17 * place)
        return result

    whole = of(0, 1, 2, 3).histogram(ALL)
    assert (whole.total == 21_305) == full
    for order in permutations(range(4)):
        parts = of(*order[:2]).merge(of(*order[2:]))
        assert same(parts.histogram(ALL), whole)
    assert same(Counts(full).merge(of(0, 1, 2, 3)).histogram(ALL), whole)


def test_merging_changes_neither_part() -> None:
    left, right = counted(VALUES["normal"]), counted(VALUES["relu"])
    before = left.histogram(ALL)
    left.merge(right).update(VALUES["huge"], 0)
    assert same(left.histogram(ALL), before)


@pytest.mark.parametrize("shape", [(1, 64, 56, 56), (3, 1000, 7), (8192,), (1, 4099), (2, 112, 112, 16)])
def test_all_places_have_their_turn(shape: tuple[int, ...]) -> None:
    """No channel, row or column is left out, whatever the layout; each run takes at most TAKEN values."""
    size = math.prod(shape)
    step = module._step(size)
    places = np.zeros(size, int)
    for phase in range(step):
        taken = np.arange(size)[phase % step :: step]
        places[taken] += 1
        assert TAKEN / 4 < taken.size <= TAKEN
        for axis, index in enumerate(np.unravel_index(taken, shape)):
            assert len(set(index.tolist())) == shape[axis] or shape[axis] > TAKEN
    assert (places == 1).all()


def test_the_phase_says_which_values_are_taken() -> None:
    values = np.arange(1, 5 * TAKEN + 1, dtype=np.float32)
    step = module._step(values.size)
    for phase in (0, 1, step + 2):
        found = Counts()
        found.update(values, phase)
        assert same(found.histogram(ALL), counted(values[phase % step :: step]).histogram(ALL))
    assert counted(values).histogram(ALL).total == values.size


def test_subsampled_counts_are_close_to_all() -> None:
    rng = np.random.default_rng(2)
    runs = [rng.standard_normal((16, 30, 31)).astype(np.float32) for _ in range(40)]
    part, whole = (counted(*runs, full=full).histogram(ALL) for full in (False, True))
    shares = [np.interp([-2, -1, 0, 1, 2], h.upper, np.cumsum(h.counts) / h.total) for h in (part, whole)]
    np.testing.assert_allclose(shares[0], shares[1], atol=0.005)


def test_memory_hangs_on_the_spread_not_on_the_number() -> None:
    found = Counts(full=True)
    for seed in range(30):
        found.update(np.random.default_rng(seed).standard_normal(50_000), seed)
    stored = found.positive.counts.size + found.negative.counts.size
    assert stored < 2 * 40 * 128  # 40 powers of two
    assert found.histogram(ALL).total == 1_500_000


def test_stretch_grows_to_what_it_holds() -> None:
    found = Stretch()
    found.add(5, np.zeros(3, np.int64))
    found.add(5, np.zeros(0, np.int64))
    assert found.counts.size == 0
    found.add(5, np.array([0, 2, 0, 1, 0]))
    assert (found.start, found.counts.tolist()) == (6, [2, 0, 1])
    found.add(7, np.array([4]))
    assert (found.start, found.counts.tolist()) == (6, [2, 4, 1])
    found.add(2, np.array([1, 0, 0, 0, 1, 0, 0, 0, 0, 7, 0]))
    assert (found.start, found.counts.tolist()) == (2, [1, 0, 0, 0, 3, 4, 1, 0, 0, 7])
    found.add(0, np.array([0, 0, 1, 0]))
    assert (found.start, found.counts.tolist()) == (2, [2, 0, 0, 0, 3, 4, 1, 0, 0, 7])
    found.add(20, np.array([0, 3]))
    assert (found.start, found.counts[-1], found.counts.size) == (2, 3, 20)
    found.add(30, np.array([0]))
    keys, counts = found.bins()
    assert keys.tolist() == [2, 6, 7, 8, 11, 21]
    assert counts.tolist() == [2, 3, 4, 1, 7, 3]
