from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeopt.min_cut import cheapest_split
from edgeopt.region_costs import Costs, Line
from edgeopt.regions import Border, Regions


def chain(*elements: int) -> Regions:
    """Units a, b, c, … one behind the other; the value in front of each and the last output have these sizes."""
    names = "abcdefgh"[: len(elements) - 1]
    values = [Border("x", None, (names[0],), elements[0])]
    for k, name in enumerate(names):
        reader = names[k + 1] if k + 1 < len(names) else None
        values.append(Border(f"y_{name}", name, (reader,), elements[k + 1]))
    return Regions({n: (n,) for n in names}, tuple(values))


def price(costs: Costs, regions: Regions, int8: frozenset[str]) -> float:
    return costs.predicted_ms(regions, int8)


def split(costs: Costs, regions: Regions) -> tuple[frozenset[str], float]:
    return cheapest_split(regions, costs.float_ms, costs.int8_ms, costs.quantize, costs.dequantize)


def check(found: tuple[frozenset[str], float], int8: frozenset[str], total_ms: float) -> None:
    assert found[0] == int8
    assert found[1] == pytest.approx(total_ms)


def test_int8_where_it_is_cheaper() -> None:
    costs = Costs({"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 1.0}, Line(0.1, 0.0), Line(0.1, 0.0))
    check(split(costs, chain(1, 1, 1)), frozenset("b"), 1 + 0.1 + 1 + 0.1)


def test_borders_can_cost_more_than_int8_gains() -> None:
    costs = Costs({"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 1.0}, Line(2.5, 0.0), Line(2.5, 0.0))
    check(split(costs, chain(1, 1, 1)), frozenset(), 6.0)


def test_a_slow_unit_between_fast_ones_stays_int8_if_its_borders_are_large() -> None:
    costs = Costs({"a": 5.0, "b": 1.0, "c": 5.0}, {"a": 1.0, "b": 2.0, "c": 1.0}, Line(0.1, 0.01), Line(0.1, 0.01))
    assert split(costs, chain(1, 100, 100, 1))[0] == frozenset("abc")
    assert split(costs, chain(1, 1, 1, 1))[0] == frozenset("ac")


def test_a_value_is_quantized_once_for_all_its_readers() -> None:
    units: dict[str, tuple[str, ...]] = {n: (n,) for n in "abc"}
    borders = (Border("x", None, ("a", "b", "c"), 0), *(Border(f"y_{n}", n, (None,), 0) for n in "abc"))
    costs = Costs(dict.fromkeys("abc", 2.0), dict.fromkeys("abc", 0.5), Line(2.0, 0.0), Line(0.5, 0.0))
    # one unit alone: 1.5 gained, 2.5 paid; all three: 4.5 gained, 2 + 3 * 0.5 paid
    check(split(costs, Regions(units, borders)), frozenset("abc"), 2 + 3 * (0.5 + 0.5))


def test_a_value_is_dequantized_once_for_all_its_readers() -> None:
    units: dict[str, tuple[str, ...]] = {"a": ("a",)}
    borders = (Border("x", None, ("a",), 0), Border("y", "a", (None, None), 0))
    costs = Costs({"a": 2.0}, {"a": 0.5}, Line(0.1, 0.0), Line(0.9, 0.0))
    check(split(costs, Regions(units, borders)), frozenset("a"), 1.5)


NAMES = "abcde"
PRICES = st.fixed_dictionaries({n: st.integers(0, 20).map(lambda v: v / 4) for n in NAMES})
PRODUCERS = st.none() | st.sampled_from(NAMES)
READERS = st.lists(st.none() | st.sampled_from(NAMES), min_size=1, max_size=4, unique=True)


@st.composite
def graphs(draw: st.DrawFn) -> Regions:
    borders = []
    for k in range(draw(st.integers(1, 6))):
        producer = draw(PRODUCERS)
        readers = tuple(r for r in draw(READERS) if r is None or r != producer)
        if readers and (producer is not None or set(readers) != {None}):
            borders.append(Border(f"v{k}", producer, readers, draw(st.integers(0, 8))))
    return Regions({n: (n,) for n in NAMES}, tuple(borders))


@settings(max_examples=60, deadline=None)
@given(graphs(), PRICES, PRICES, st.integers(0, 8), st.integers(0, 8))
def test_no_split_is_cheaper(
    regions: Regions, floats: dict[str, float], integers: dict[str, float], q: int, dq: int
) -> None:
    costs = Costs(floats, integers, Line(q / 4, 0.25), Line(dq / 4, 0.125))
    found, total = split(costs, regions)
    every = (frozenset(n for n, on in zip(NAMES, sides, strict=True) if on) for sides in product((0, 1), repeat=5))
    best = min(price(costs, regions, int8) for int8 in every)
    assert total == pytest.approx(best)
    assert price(costs, regions, found) == pytest.approx(best)
