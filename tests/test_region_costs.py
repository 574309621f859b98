from __future__ import annotations

import pytest

from edgeopt.node_times import NodeTime
from edgeopt.region_costs import Costs, Line, crossings, layout_ms
from edgeopt.regions import Border, Regions
from tests.test_min_cut import chain


def times(**latencies_ms: float) -> list[NodeTime]:
    """Keys: the node, or ``OP`` or ``OP__number`` of what onnxruntime added."""
    found = []
    for key, latency_ms in latencies_ms.items():
        op = key.split("__")[0]
        found.append(NodeTime(key, op if op[0].isupper() else "Conv", latency_ms, 0.1, "compute"))
    return found


TWO_NODES = Regions({"a": ("a", "relu")}, (Border("x", None, ("a",), 10),))


def test_case_1_a_unit_costs_what_its_nodes_cost() -> None:
    costs = Costs()
    costs.learn_units(TWO_NODES, frozenset(), times(a=1.0, relu=0.5, other=9.0))
    costs.learn_units(TWO_NODES, frozenset("a"), times(a=0.25))
    assert costs.float_ms == {"a": 1.5}
    assert costs.int8_ms == {"a": 0.25}


def test_case_3_a_later_profile_can_lower_the_prices_of_its_own_sides() -> None:
    regions = chain(1, 1, 1)
    costs = Costs({"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0})
    costs.learn_units(regions, frozenset("a"), times(a=0.5, b=1.5))
    assert (costs.int8_ms, costs.float_ms) == ({"a": 0.5, "b": 4.0}, {"a": 1.0, "b": 1.5})
    costs.learn_units(regions, frozenset("a"), times(a=0.6, b=9.0))
    assert (costs.int8_ms, costs.float_ms) == ({"a": 0.5, "b": 4.0}, {"a": 1.0, "b": 1.5})


def test_case_3_what_a_profile_does_not_show_says_nothing() -> None:
    regions, costs = chain(1, 1, 1), Costs({"a": 1.0}, {})
    costs.learn_units(regions, frozenset(), times(c=1.0))
    assert costs.float_ms == {"a": 1.0, "b": 0.0}
    costs.learn_units(regions, frozenset(), times(b=0.25))
    assert costs.float_ms == {"a": 1.0, "b": 0.25}


def test_case_2_borders_have_a_fixed_part_and_a_part_per_element() -> None:
    regions, costs = chain(100, 300, 200), Costs()  # b in int8: a value of 300 is quantized, one of 200 comes back
    costs.learn_borders(
        regions, frozenset("b"), times(a=1, b=1, QuantizeLinear=0.033, DequantizeLinear=0.023, Transpose=0.005)
    )
    assert costs.quantize.fixed_ms == costs.dequantize.fixed_ms == 0.003
    assert costs.quantize.per_element_ms == pytest.approx(0.030 / 300 + 0.005 / 500)
    assert costs.dequantize.per_element_ms == pytest.approx(0.020 / 200 + 0.005 / 500)


def test_case_2_the_cheapest_border_seen_is_the_fixed_part() -> None:
    regions, costs = chain(100, 300, 100, 300), Costs()
    costs.learn_borders(regions, frozenset("b"), times(QuantizeLinear=0.001, DequantizeLinear=0.9))
    assert costs.quantize == Line(0.001, 0.0)


def test_case_2_layout_changes_of_the_float_model_are_not_the_borders_fault() -> None:
    regions, costs = chain(100, 300, 200), Costs()
    profile = times(QuantizeLinear=0.003, DequantizeLinear=0.003, ReorderOutput=0.005)
    costs.learn_borders(regions, frozenset("b"), profile, layout_before_ms=0.005)
    assert costs.quantize == costs.dequantize == Line(0.003, 0.0)


def test_case_2_without_a_border_in_the_profile_there_is_a_guess() -> None:
    costs = Costs()
    costs.learn_borders(chain(1, 1, 1), frozenset("b"), times(a=1.0))
    assert costs.quantize == costs.dequantize == Line()


def test_a_model_s_own_transpose_is_no_layout_change() -> None:
    regions = Regions({"Transpose__1": ("Transpose__1",)}, ())
    assert layout_ms(regions, times(Transpose__1=1.0, Transpose__2=0.5, ReorderInput=0.25)) == 0.75


def test_crossings() -> None:
    regions = chain(1, 2, 3, 4)
    quantized, dequantized = crossings(regions, frozenset("b"))
    assert [b.tensor for b in quantized] == ["y_a"]
    assert [b.tensor for b in dequantized] == ["y_b"]
    assert crossings(regions, frozenset()) == ([], [])


def test_predicted() -> None:
    costs = Costs({"a": 1.0, "b": 5.0}, {"a": 3.0, "b": 1.0}, Line(0.1, 0.01), Line(0.2, 0.02))
    regions = chain(10, 20, 30)
    assert costs.predicted_ms(regions, frozenset()) == 6.0
    assert costs.predicted_ms(regions, frozenset("b")) == pytest.approx(1 + (0.1 + 0.2) + 1 + (0.2 + 0.6))
