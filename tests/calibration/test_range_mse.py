from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from edgeopt.calibration.range_mse import errors, mse_range
from edgeopt.quant import Range, Scheme
from tests.calibration.distributions import SIGNED, SYMMETRIC, UNSIGNED, VALUES, error, extremes, histogram

SCHEMES = {
    "uint8": UNSIGNED,
    "int8": SIGNED,
    "symmetric": SYMMETRIC,
    "symmetric uint8": Scheme(activation_symmetric=True),
}
DISCRETE = {"two values", "constant", "zero", "one value"}


def grid(bounds: Range, scheme: Scheme) -> list[Range]:
    """Fine: the lower ends and the upper ends in all pairs, down to 1/30."""
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    if scheme.activation_symmetric:
        return [(-t, t) for t in np.geomspace(1 / 30, 1, 150) * max(-low, high)]
    shares = np.geomspace(1 / 30, 1, 35)
    return list(product(low * shares if low < 0 else [0.0], high * shares if high > 0 else [0.0]))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", VALUES)
def test_no_range_of_a_fine_grid_is_better(name: str, scheme: str) -> None:
    """Judged on the values themselves, quantized."""
    values = VALUES[name]
    found = mse_range(histogram(values), extremes(values), SCHEMES[scheme])
    least = min(error(values, bounds, SCHEMES[scheme]) for bounds in grid(extremes(values), SCHEMES[scheme]))
    assert error(values, found, SCHEMES[scheme]) <= least * 1.01
    assert min(extremes(values)[0], 0.0) <= found[0] <= 0.0 <= found[1] <= max(extremes(values)[1], 0.0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", sorted(set(VALUES) - DISCRETE))
def test_errors_are_those_of_the_values(name: str, scheme: str) -> None:
    values = VALUES[name]
    low, high = min(extremes(values)[0], 0.0), max(extremes(values)[1], 0.0)
    pairs = [(low, high), (low / 2, high), (low, high / 2), (low / 5, high / 7)]
    for bounds, found in zip(pairs, errors(histogram(values), pairs, SCHEMES[scheme]), strict=True):
        assert found == pytest.approx(error(values, bounds, SCHEMES[scheme]), rel=0.06)


def test_errors_by_numerical_integration() -> None:
    """Evenly spread values, bins wider and narrower than a step, and one that the range's end cuts."""
    parts = [np.linspace(start, end, 20_001)[:20_000] for start, end in [(0.25, 0.251953), (1.5, 1.507812)]]
    values = np.concatenate([*parts, *(-p for p in parts)]).astype(np.float32)
    measured = histogram(values)
    assert measured.counts.size == 4
    for bounds in [(-1.6, 1.6), (-1.6, 1.503), (-0.2505, 1.6), (-100.0, 3.0), (-1.5, 0.1)]:
        for scheme in (UNSIGNED, SYMMETRIC):
            found = errors(measured, [bounds], scheme)[0]
            assert found == pytest.approx(error(values, bounds, scheme), rel=2e-3)


def test_one_sided_data_keeps_zero() -> None:
    assert mse_range(histogram(VALUES["relu"]), extremes(VALUES["relu"]), SYMMETRIC)[0] == 0.0
    assert mse_range(histogram(VALUES["negative"]), extremes(VALUES["negative"]), UNSIGNED)[1] == 0.0


def test_values_on_the_levels_lose_nothing() -> None:
    for name in ("constant", "zero", "two values"):
        found = mse_range(histogram(VALUES[name]), extremes(VALUES[name]), UNSIGNED)
        assert error(VALUES[name], found, UNSIGNED) <= 1e-13
