from __future__ import annotations

import math

import numpy as np
import pytest

from edgeopt.calibration.collect import collect
from edgeopt.calibration.counts import Counts
from edgeopt.calibration.derived import Derived, derivations
from tests.calibration.distributions import VALUES
from tests.models import model

TEXT = """g (float[N,3,8,8] x, float low) => (float[N,192] y)
<float six = {6}, float one = {1}, float none = {0}, float third = {0.3333333}, int64[2] shape = {0, -1}>
{
    a = Mul(x, x)
    b = Sub(x, a)
    c = Relu(b)
    d = Clip(b, , six)
    e = Clip(d, none, third)
    t = Transpose<perm=[0,2,3,1]>(e)
    u = Clip(b, low)
    v = Clip(b, six, one)
    n = Neg(u)
    y = Reshape(t, shape)
}
"""
INF = math.inf


def test_derivations() -> None:
    third = float(np.float32(0.3333333))
    assert derivations(model(TEXT), list("xabcdetuvny")) == {
        "c": Derived("b", 0.0, INF),
        "d": Derived("b", -INF, 6.0),
        "e": Derived("b", 0.0, third),
        "t": Derived("b", 0.0, third),
        "y": Derived("b", 0.0, third),
    }


def test_only_from_tensors_that_are_wanted() -> None:
    assert derivations(model(TEXT), ["c", "t", "y"]) == {"y": Derived("t")}
    assert derivations(model(TEXT), ["x", "b"]) == {}


def test_bounds_as_attributes() -> None:
    made = model('<ir_version: 3, opset_import: ["" : 6]> g (float[N] x) => (float[N] y) { y = Clip<max=2.5>(x) }')
    assert derivations(made, ["x", "y"]) == {"y": Derived("x", -INF, 2.5)}


@pytest.mark.parametrize("bounds", [(0.0, INF), (-INF, 6.0), (0.0, 0.3333333), (-0.7, 0.7), (0.5, 9.0), (-INF, -0.2)])
@pytest.mark.parametrize("name", VALUES)
def test_clipped_counts_are_those_of_the_clipped_values(name: str, bounds: tuple[float, float]) -> None:
    low, high = (float(np.float32(v)) for v in bounds)
    source, expected = Counts(full=True), Counts(full=True)
    source.update(VALUES[name], 0)
    expected.update(np.clip(VALUES[name], np.float32(low), np.float32(high)), 0)
    found = source.clipped(low, high).histogram((-INF, INF))
    wanted = expected.histogram((-INF, INF))
    for part in ("lower", "upper", "counts"):
        assert np.array_equal(getattr(found, part), getattr(wanted, part))


def test_derived_statistics_are_those_of_the_values_themselves() -> None:
    rng = np.random.default_rng(3)
    feeds = [
        {"x": rng.standard_normal((n, 3, 8, 8)).astype(np.float32), "low": np.array(-0.5, np.float32)}
        for n in (1, 4, 2)
    ]
    together = collect(model(TEXT), list("bcdety"), feeds, full=True)
    for name in "bcdety":
        alone = collect(model(TEXT), [name], feeds, full=True)[name]
        assert together[name].extremes == alone.extremes
        for method in ("minmax", "moving-average", "percentile", "entropy", "mse"):
            assert together[name].range(method) == alone.range(method)
