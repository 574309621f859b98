"""Whether a quantized model has its Q/DQ pairs where the plan wants them, and as integer kernels take for granted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, constant_tensor, input_or_none, is_op
from edgeopt.passes.int8_plan import OPERANDS, WEIGHTED, Plan
from edgeopt.passes.int8_rules import weight_axis
from edgeopt.passes.int8_strip import pair_parameters
from edgeopt.quant import Parameters


def structure_problem(original: ir.Model, quantized: ir.Model, plan: Plan) -> str | None:
    """Why the pairs of the planned nodes are not as they should be, or None; nodes are known by their names.

    Args:
        original: The float model, lowered.
        quantized: With every Pad in float.
        plan: What was carried out.
    """
    nodes = {n.name: n for n in quantized.graph}
    for source in original.graph:
        node = nodes.get(source.name)
        if source.outputs and source.outputs[0].name in plan.rescaled:
            if node is not None:
                return f"node {source.name!r} is still there"
            continue
        if node is None:
            return f"node {source.name!r} is missing"
        if source.name not in plan.nodes:
            if (problem := _float_problem(source, node, plan)) is not None:
                return problem
            continue
        if not is_op(source, "Pad") and len(node.inputs) != len(source.inputs):
            return f"node {source.name!r} has {len(node.inputs)} inputs, not {len(source.inputs)}"
        for index, (before, value) in enumerate(zip(source.inputs, node.inputs, strict=False)):
            dq = value.producer() if value is not None else None
            q = dq.inputs[0].producer() if dq is not None and is_op(dq, "DequantizeLinear") and dq.inputs[0] else None
            if before is None:
                continue
            if before.name in (*plan.tensors, *plan.rescaled) and not is_op(q, "QuantizeLinear"):
                return f"input {index} of node {source.name!r} has no Q/DQ pair"
            if _is_stored(source, before) and (dq is None or constant(dq.inputs[0]) is None):
                return f"constant {index} of node {source.name!r} is not stored in integers"
        for before, value in zip(source.outputs, node.outputs, strict=True):
            readers = {u.node for u in value.uses()}
            if before.name in plan.tensors and not (len(readers) == 1 and is_op(next(iter(readers)), "QuantizeLinear")):
                return f"output {before.name!r} of node {source.name!r} is not read by one Q"
        if is_op(source, *WEIGHTED) and (problem := _kernel_rules_problem(node, nodes, plan)) is not None:
            return f"node {source.name!r}: {problem}"
    for before, value in zip(original.graph.outputs, quantized.graph.outputs, strict=True):
        if (
            not _by_int8(before, plan)
            and is_op(value.producer(), "DequantizeLinear")
            and not is_op(before.producer(), "DequantizeLinear")
        ):
            return f"output {before.name!r} is quantized, though float nodes compute it"
    return None


def _is_stored(node: ir.Node, value: ir.Value) -> bool:
    """Whether an int8 node's constant must be in integers: all floats that are no bounds, shapes or scales."""
    tensor = constant_tensor(value)
    return is_op(node, *WEIGHTED, *OPERANDS) and tensor is not None and tensor.dtype == ir.DataType.FLOAT


def pairs_problem(quantized: ir.Model, plan: Plan) -> str | None:
    """Why a pair is none, or None: Q and DQ have the same scale and zero point, or the factor between them."""
    factors = dict(plan.rescaled.values())
    for node in quantized.graph:
        q = node.inputs[0].producer() if is_op(node, "DequantizeLinear") and node.inputs[0] is not None else None
        if q is None or not is_op(q, "QuantizeLinear") or q.inputs[0] is None:
            continue
        before, after = pair_parameters(q), pair_parameters(node)
        if before is not None:
            factor = np.float32(factors.get((q.inputs[0].name or "").removesuffix("/float"), 1.0))
            before = Parameters(np.asarray(before.scale * factor, dtype=np.float32), before.zero_point)
        if not _same(before, after):
            users = sorted({u.node.name or "" for u in node.outputs[0].uses()})
            return f"Q and DQ of {q.inputs[0].name!r} differ in scale or zero point, in front of {', '.join(users)}"
    return None


def _by_int8(value: ir.Value, plan: Plan) -> bool:
    producer = value.producer()
    return producer is not None and producer.name in plan.nodes


def _float_problem(source: ir.Node, node: ir.Node, plan: Plan) -> str | None:
    """What a float node gives to float nodes loses nothing on the way."""
    for index, (before, value) in enumerate(zip(source.inputs, node.inputs, strict=True)):
        if before is None or value is None or _by_int8(before, plan):
            continue
        if is_op(value.producer(), "DequantizeLinear") and not is_op(before.producer(), "DequantizeLinear"):
            return f"input {index} of node {source.name!r} is quantized, though float nodes compute and read it"
    return None


def _same(a: Parameters | None, b: Parameters | None) -> bool:
    if a is None or b is None:
        return False
    return np.array_equal(a.scale, b.scale) and np.array_equal(a.zero_point, b.zero_point)


def _kernel_rules_problem(node: ir.Node, nodes: Mapping[str | None, ir.Node], plan: Plan) -> str | None:
    """What integer kernels take for granted and do not look at."""
    x, weight, bias = (_behind(node, i) for i in range(3))
    if x is None or weight is None:
        return "the scale of its input or weights is not constant"
    dq = node.inputs[1].producer() if node.inputs[1] is not None else None
    if weight.scale.ndim and dq is not None and attribute(dq, "axis", 1) != weight_axis(node):
        return f"the scales of its weights lie along axis {attribute(dq, 'axis', 1)}, not {weight_axis(node)}"
    if node.name in plan.biases:
        adder = nodes[plan.biases[node.name]]
        index = next(i for i, v in enumerate(adder.inputs) if v is not node.outputs[0])
        bias = _behind(adder, index)
    if bias is not None and bool(bias.zero_point.any()):
        return "its bias has a zero point"
    if bias is not None and not np.allclose(bias.scale, x.scale * weight.scale, rtol=1e-5, atol=0):
        return "the scale of its bias is not input scale times weight scale"
    return None


def _behind(node: ir.Node, index: int) -> Parameters | None:
    """Scale and zero point of the DQ in front of an input."""
    value = input_or_none(node, index)
    dq = value.producer() if value is not None else None
    return pair_parameters(dq) if dq is not None and is_op(dq, "DequantizeLinear") else None
