"""Where pairs must be and must not be; every sabotage of a whole model: ``test_int8_check``."""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.passes.int8_lowering import lower
from edgeopt.passes.int8_plan import Plan
from edgeopt.passes.int8_strip import pads_in_float
from edgeopt.passes.int8_structure import pairs_problem, structure_problem
from tests.passes.test_int8_check import LOWERED, Case, quantized


def parts(case: Case) -> tuple[ir.Model, ir.Model, Plan]:
    """The float model as it was quantized, the result with Pads in float, and what was carried out."""
    wanted = case.original.clone()
    plan = lower(wanted, case.plan)
    return wanted, pads_in_float(case.quantized)[0], plan


def test_a_good_model_has_no_problem() -> None:
    wanted, plain, plan = parts(quantized(LOWERED))
    assert structure_problem(wanted, plain, plan) is None
    assert pairs_problem(plain, plan) is None


def test_nodes_that_stand_for_another_are_looked_at_too() -> None:
    wanted, plain, plan = parts(quantized(LOWERED))
    node = next(n for n in plain.graph if n.name == "swish/shift")
    dq = node.inputs[0].producer() if node.inputs[0] is not None else None
    q = dq.inputs[0].producer() if dq is not None and dq.inputs[0] is not None else None
    assert q is not None
    node.replace_input_with(0, q.inputs[0])
    assert structure_problem(wanted, plain, plan) == "output 'c' of node 'conv' is not read by one Q"


def test_an_operand_of_a_product_that_became_a_scale() -> None:
    wanted, plain, plan = parts(quantized(LOWERED))
    node = next(n for n in plain.graph if n.name == "minus")
    node.replace_input_with(0, plain.graph.inputs[0])
    assert structure_problem(wanted, plain, plan) == "input 0 of node 'minus' has no Q/DQ pair"


def test_a_node_that_is_gone() -> None:
    wanted, plain, plan = parts(quantized(LOWERED))
    node = next(n for n in plain.graph if n.name == "last")
    node.name = "another"
    assert structure_problem(wanted, plain, plan) == "node 'last' is missing"
