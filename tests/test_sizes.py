from __future__ import annotations

from fractions import Fraction

import pytest

from edgeopt import sizes
from edgeopt.sizes import Size, add, floor_divide, multiply, number, quotient, remainder, subtract, symbol

H, W = symbol("H"), symbol("W")
TWO, THREE = number(2), number(3)


def times(*factors: Size) -> Size:
    total: Size | None = number(1)
    for f in factors:
        assert total is not None
        total = multiply(total, f)
    assert total is not None
    return total


def plus(a: Size, b: Size) -> Size:
    total = add(a, b)
    assert total is not None
    return total


def test_equal_sizes_are_equal_whatever_way_they_were_computed() -> None:
    assert times(H, W, TWO) == times(TWO, W, H)
    assert plus(H, H) == times(TWO, H)
    assert subtract(H, H) == number(0)
    assert hash(plus(H, W)) == hash(plus(W, H))
    assert times(plus(H, number(1)), plus(H, number(-1))) == subtract(times(H, H), number(1))


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        (times(number(6), H, W), times(TWO, W), times(THREE, H)),
        (plus(times(number(4), H), number(8)), number(4), plus(H, TWO)),
        (H, TWO, times(number(Fraction(1, 2)), H)),
        (plus(H, W), plus(W, H), number(1)),
        (plus(times(TWO, H), TWO), plus(H, number(1)), TWO),
        (plus(times(TWO, H), THREE), plus(H, number(1)), None),
        (number(0), plus(H, number(1)), number(0)),
        (H, W, None),
        (times(H, W), plus(H, W), None),
        (H, number(0), None),
        (number(0), number(0), None),
    ],
)
def test_quotients(a: Size, b: Size, wanted: Size | None) -> None:
    assert quotient(a, b) == wanted


def test_rounded_quotients_are_symbols_of_their_own() -> None:
    half = floor_divide(plus(H, number(1)), TWO)
    assert half == floor_divide(plus(number(1), H), TWO) != floor_divide(H, TWO)
    assert half is not None
    assert (half.symbol, half.whole, half.integer) == (half.terms[0][0][0], True, None)
    assert [half.value({"H": h}.__getitem__) for h in (4, 5)] == [2, 3]
    assert floor_divide(times(number(6), H), TWO) == times(THREE, H)
    assert floor_divide(number(7), TWO) == number(3)
    assert floor_divide(number(7), number(-2)) is None
    assert floor_divide(H, number(0)) is None
    assert str(half) == "floor(1 + H, 2)"


def test_remainders() -> None:
    assert remainder(times(number(6), H), TWO) == number(0)
    assert remainder(number(7), TWO) == number(1)
    odd = remainder(H, TWO)
    assert odd is not None
    assert [odd.value({"H": h}.__getitem__) for h in (4, 5)] == [0, 1]
    assert remainder(H, number(0)) is None
    assert remainder(number(1), number(0)) is None


@pytest.mark.parametrize(
    ("size", "known"),
    [(H, True), (number(0), True), (number(-1), False), (plus(H, number(-1)), False), (plus(H, number(1)), True)],
)
def test_signs(size: Size, known: bool) -> None:
    assert size.at_least_zero is known
    rounded = floor_divide(size, W)
    assert rounded is None or size.number is not None or rounded.at_least_zero is known


def test_sizes_that_grow_without_end_are_unknown() -> None:
    many: Size | None = number(1)
    for k in range(20):
        many = add(many, symbol(f"s{k}")) if many is not None else None
    assert many is None
    assert multiply(times(*[H] * 8), H) is None
    wide = number(0)
    for k in range(10):
        wide = plus(wide, symbol(f"s{k}"))
    assert multiply(wide, plus(H, W)) is None


def test_numbers_and_texts() -> None:
    assert number(0).number == 0
    assert number(0.5).integer is None
    assert H.number is None
    assert not number(0.5).whole
    assert [str(s) for s in (number(0), times(TWO, H), plus(H, number(-1)))] == ["0", "2*H", "-1 + H"]
    assert plus(times(H, W), TWO).value({"H": 3, "W": 5}.__getitem__) == 17
    by_nothing = Size((((sizes.Rounded("floor", H, W),), Fraction(1)),))
    assert by_nothing.value({"H": 3, "W": 0}.__getitem__) == 0
