from __future__ import annotations

import numpy as np
import pytest

from edgeopt.sensitivity import OutputNoise, by_unit
from tests import models


def scaled(factor: float) -> str:
    return f"agraph (float[1,64] x) => (float[1,64] y) <float f = {{{factor}}}> {{ y = Mul(x, f) }}"


FEEDS = [{"x": np.random.default_rng(k).normal(5, 2, (1, 64)).astype(np.float32)} for k in range(8)]
X = np.concatenate([f["x"] for f in FEEDS])


def test_noise_is_relative_to_the_variance_of_the_output() -> None:
    noise = OutputNoise(models.model(scaled(1.0)), FEEDS)
    assert noise.of(models.model(scaled(1.0))) == 0.0
    assert noise.of(models.model(scaled(1.1))) == pytest.approx(0.01 * float(np.mean(X**2) / np.var(X)), rel=1e-3)


def test_noise_of_outputs_adds_up_and_whole_numbers_do_not_count() -> None:
    two = "agraph (float[1,64] x) => (float[1,64] y, float[1,64] z, int64[1] n) <float f = {%s}, int64[1] m = {1}>"
    body = " { y = Mul(x, f) z = Mul(x, f) n = Identity(m) }"
    noise = OutputNoise(models.model(two % 1.0 + body), FEEDS)
    single = OutputNoise(models.model(scaled(1.0)), FEEDS).of(models.model(scaled(1.1)))
    assert noise.of(models.model(two % 1.1 + body)) == pytest.approx(2 * single)


def test_a_constant_output_that_changes_is_very_noisy() -> None:
    constant = "agraph (float[1,64] x) => (float[1,64] y) <float f = {0}> { z = Mul(x, f) y = Add(z, f) }"
    noise = OutputNoise(models.model(constant), FEEDS)
    assert noise.of(models.model(scaled(1.0))) > 1e20


def test_units_left_over_get_the_mean_of_the_others() -> None:
    ticks = iter(range(100))
    asked: list[str] = []

    def noise_of(unit: str) -> float:
        asked.append(unit)
        return float(ord(unit) - ord("a"))

    found = by_unit("abcdefgh", noise_of, seconds=1.5, clock=lambda: float(next(ticks)))
    assert asked == ["a", "e"]  # from all over the network
    assert found == {"a": 0.0, "e": 4.0} | dict.fromkeys("bcdfgh", 2.0)


def test_with_time_enough_every_unit_is_looked_at() -> None:
    assert by_unit("abcde", lambda unit: float(ord(unit)), seconds=1e9) == {u: float(ord(u)) for u in "abcde"}
    assert by_unit("", lambda unit: 1.0, seconds=1.0) == {}
