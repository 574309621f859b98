"""Which nodes onnxruntime left in float though they were asked to be int8, and why.

Read from onnxruntime's own optimized graph (``kernels``); the reason is the rule that fails on the QDQ graph
(``passes.kernel_rules``). Nodes found here are planned anew as float: a Q/DQ pair around a float node costs time and
precision for nothing. Where only what a layer has absorbed is in the way (a Relu, the bias of a MatMul), that alone
goes back to float.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeopt.graph import is_op
from edgeopt.kernels import Kernels
from edgeopt.passes.int8_plan import FUSED, MOVEMENT, Plan
from edgeopt.passes.kernel_rules import broken_rule


def left_float(model: ir.Model, quantized: ir.Model, found: Plan, made: Kernels) -> dict[str, str]:
    """Name of each node to plan as float, to the reason; empty if all that was asked for runs in int8.

    Args:
        model: The float model that was quantized.
        quantized: The result.
        found: What was asked for, its ``parts`` filled in.
        made: What onnxruntime made of ``quantized``.
    """
    nodes = {n.name or "": n for n in quantized.graph}
    biases = {adder: layer for layer, adder in found.biases.items()}
    result: dict[str, str] = {}
    for node in model.graph:
        name = node.name or ""
        if name not in found.nodes or (is_op(node, *FUSED) and not _alone(node, found)):
            continue
        for part in (name, *found.parts.get(name, ())):
            computed = _in_float(part, nodes.get(part), made)
            if computed is None:
                continue
            reason = f"asked for int8, but onnxruntime computes it in float, as {computed}"
            broken = broken_rule(nodes[part]) if part in nodes else None
            if name in biases:
                broken = None
            if broken is not None:
                reason = f"{reason}: {broken.text}"
            culprit = broken.culprit if broken is not None and broken.culprit in found.nodes else None
            result[culprit or name] = reason
            break
    return result


def to_refuse(quantized: ir.Model, found: Plan, left: Mapping[str, str]) -> dict[str, str]:
    """Those of ``left`` to plan as float now: not a node that only reads what another of them leaves in float.

    Once that other one is planned as float, a Q stands between the two, and this one may run in int8. Not empty
    unless ``left`` is: the first of them in the graph's order reads none of the others.
    """
    nodes = {n.name or "": n for n in quantized.graph}
    owners = {part: name for name, parts in found.parts.items() for part in parts}

    def waits(name: str, part: str) -> bool:
        node = nodes.get(part)
        broken = broken_rule(node) if node is not None and name not in found.biases.values() else None
        if node is None or broken is None or broken.rule != "float_operand":
            return False
        producers = [p.name or "" for v in node.inputs if v is not None and (p := v.producer()) is not None]
        return any(owner != name and owner in left for owner in (owners.get(p, p) for p in producers))

    return {n: why for n, why in left.items() if not any(waits(n, part) for part in (n, *found.parts.get(n, ())))}


def _alone(node: ir.Node, found: Plan) -> bool:
    """Whether an activation is on the plan without a layer that has absorbed it."""
    return node.outputs[0].name not in found.fused.values()


def _in_float(name: str, node: ir.Node | None, made: Kernels) -> str | None:
    """The operator that computes the node in float; None if it runs in int8, or moves integers, or is no more."""
    computed = made.floating.get(name)
    if computed is None or (is_op(node, *MOVEMENT, *FUSED) and name not in made.dequantized):
        return None
    return computed
