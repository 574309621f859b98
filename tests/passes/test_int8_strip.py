"""Taken apart again, an int8 model is the float model that it came from; what cannot be taken apart is told."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from edgeopt.graph import is_op
from edgeopt.passes.int8_lowering import lower
from edgeopt.passes.int8_strip import pads_in_float, pair_parameters, stripped
from tests import models
from tests.passes.test_int8_check import LOWERED, NET_18, quantized


def test_stripped_is_the_original() -> None:
    case = quantized(NET_18)
    plain = stripped(case.original, case.quantized, case.plan)
    assert not [n for n in plain.graph if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert [n.name for n in plain.graph] == [n.name for n in case.original.graph]
    models.assert_same(case.original, plain, tolerance=0)


def test_stripped_when_a_quantized_value_is_an_output() -> None:
    case = quantized("g (float[N,2,4,4] x) => (float[N,2,4,4] y) <float[2,2,1,1] w> { [c] y = Conv(x, w) }")
    assert case.verdict() is None
    plain = stripped(case.original, case.quantized, case.plan)
    assert [v.name for v in plain.graph.outputs] == ["y"]
    models.assert_same(case.original, plain, tolerance=0)


def test_stripped_when_nodes_were_rewritten_first() -> None:
    """The products that became scales are back, and every Pad of integers is one of floats."""
    case = quantized(LOWERED)
    wanted = case.original.clone()
    plan = lower(wanted, case.plan)
    plain, problem = pads_in_float(case.quantized)
    assert problem is None
    found = stripped(wanted, plain, plan)
    assert not [n for n in found.graph if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {n.name for n in found.graph} == {n.name for n in wanted.graph}
    models.assert_same(wanted, found, tolerance=0)
    models.assert_same(case.original, found)


def test_pads_in_float_have_pairs_on_both_sides() -> None:
    case = quantized(LOWERED)
    plain, _ = pads_in_float(case.quantized)
    node = next(n for n in plain.graph if n.op_type == "Pad")
    assert node.inputs[0] is not None
    assert is_op(node.inputs[0].producer(), "DequantizeLinear")
    assert [u.node.op_type for u in node.outputs[0].uses()] == ["QuantizeLinear"]
    models.assert_same(case.quantized, plain, tolerance=0)


def test_a_pad_that_does_not_fill_with_the_zero_point() -> None:
    case = quantized(LOWERED)
    node = next(n for n in case.quantized.graph if n.op_type == "Pad")
    node.replace_input_with(2, None)
    assert pads_in_float(case.quantized)[1] == "node 'pad' does not fill with the zero point"


@pytest.mark.parametrize(
    ("body", "known"),
    [
        ("q = QuantizeLinear(x, s, z)", True),
        ("q = QuantizeLinear(x, s)", False),
        ("q = QuantizeLinear(x, t, z)", False),
    ],
)
def test_parameters_of_a_pair(body: str, known: bool) -> None:
    text = f"g (float[4] x, float t) => (uint8[4] q) <float s = {{0.5}}, uint8 z = {{3}}> {{ {body} }}"
    node: ir.Node = models.model(text).graph[0]
    found = pair_parameters(node)
    assert (found is not None) == known
    if found is not None:
        assert (float(found.scale), int(found.zero_point)) == (0.5, 3)
