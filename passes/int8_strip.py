"""A quantized model as a float model again, for the check: what was put in is taken out, what was stored put back.

1. ``pads_in_float``: every Pad of integers, Q → Pad → DQ, becomes Q → DQ → Pad → Q → DQ, as other movement
2. ``stripped``: no Q/DQ pairs; the constants of the original, and its products with numbers that became scales
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, attribute, constant, constant_value, input_or_none, is_op
from edgeopt.passes.int8_plan import WEIGHTED, Plan
from edgeopt.quant import Parameters


def pair_parameters(node: ir.Node) -> Parameters | None:
    """Scale and zero point of a Q or DQ, if both are constant."""
    scale = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return None if scale is None or zero is None else Parameters(scale, zero)


def pads_in_float(quantized: ir.Model) -> tuple[ir.Model, str | None]:
    """Case 6: every Pad of integers, Q → Pad → DQ, as Q → DQ → Pad → Q → DQ; and what is wrong with one."""
    model = quantized.clone()
    for node in list(model.graph):
        q = node.inputs[0].producer() if is_op(node, "Pad") and node.inputs[0] is not None else None
        if q is None or not is_op(q, "QuantizeLinear"):
            continue
        parameters, filling = pair_parameters(q), constant(input_or_none(node, 2))
        if parameters is None or (
            attribute(node, "mode", "constant") == "constant" and not _equal(filling, parameters.zero_point)
        ):
            return model, f"node {node.name!r} does not fill with the zero point"
        _in_float(node, q, model.graph)
    return model, None


def _equal(a: Array | None, b: Array) -> bool:
    return a is not None and a.dtype == b.dtype and np.array_equal(a, b)


def _in_float(node: ir.Node, q: ir.Node, graph: ir.Graph) -> None:
    """A DQ in front of the Pad, a Q behind it."""
    base, readers = f"{node.name}/in float", list(node.outputs[0].uses())
    before = ir.Node("", "DequantizeLinear", [q.outputs[0], *q.inputs[1:]], name=f"{base}/DQ")
    after = ir.Node("", "QuantizeLinear", [node.outputs[0], *q.inputs[1:]], name=f"{base}/Q")
    before.outputs[0].name, after.outputs[0].name = f"{base}/x", f"{base}/y"
    for value in (before.outputs[0], node.outputs[0]):
        value.type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, before)
    node.replace_input_with(0, before.outputs[0])
    if len(node.inputs) > 2:
        node.replace_input_with(2, None)
    graph.insert_after(node, after)
    for reader, index in readers:
        reader.replace_input_with(index, after.outputs[0])


def stripped(original: ir.Model, quantized: ir.Model, plan: Plan) -> ir.Model:
    """Case 4: the quantized model without its Q/DQ pairs, with the original's constants and products."""
    model = quantized.clone()
    sources = {n.name: n for n in original.graph}
    products = {
        plan.rescaled[n.outputs[0].name or ""][0]: n for n in original.graph if n.outputs[0].name in plan.rescaled
    }
    floats: dict[str, ir.Value] = {}
    for node in list(model.graph):
        if node.name in sources:
            if is_op(node, *WEIGHTED):
                node.resize_inputs(len(sources[node.name].inputs))  # a bias that only holds a correction
            _restore_constants(node, sources[node.name], model.graph, floats)
    for node in list(model.graph):
        if not is_op(node, "DequantizeLinear") or node.name in sources:
            continue
        q = node.inputs[0].producer() if node.inputs[0] is not None else None
        if q is None or q.inputs[0] is None:
            continue
        output, source = node.outputs[0], q.inputs[0]
        product = products.get((source.name or "").removesuffix("/float"))
        if product is not None:
            source = _restored(product, source, node, model.graph)
        if output.is_graph_output():
            source.name, output.name = output.name, f"{output.name}/dequantized"
            source.type, source.shape = output.type, output.shape
        output.replace_all_uses_with(source, replace_graph_outputs=True)
    for node in reversed(list(model.graph)):
        unused = not any(o.uses() or o.is_graph_output() for o in node.outputs)
        if unused and node.name not in sources:
            model.graph.remove(node, safe=True)
    return model


def _restored(product: ir.Node, source: ir.Value, dq: ir.Node, graph: ir.Graph) -> ir.Value:
    """The original's product of a value and a number, in front of the DQ that stands for it."""
    array = constant(product.inputs[1])
    number = constant_value(f"{product.name}/original", array if array is not None else np.ones(1, np.float32))
    graph.register_initializer(number)
    node = ir.Node("", product.op_type, [source, number], name=product.name)
    node.outputs[0].name = f"{product.name}/original product"
    graph.insert_before(dq, node)
    return node.outputs[0]


def _restore_constants(node: ir.Node, source: ir.Node, graph: ir.Graph, floats: dict[str, ir.Value]) -> None:
    for index, value in enumerate(node.inputs):
        dq = value.producer() if value is not None else None
        if dq is None or not is_op(dq, "DequantizeLinear") or index >= len(source.inputs):
            continue
        wanted, before = constant(source.inputs[index]), source.inputs[index]
        if wanted is None or before is None or before is value:
            continue
        name = before.name or ""
        if name not in floats:
            fresh = constant_value(f"{name}/original", wanted)
            graph.register_initializer(fresh)
            floats[name] = fresh
        node.replace_input_with(index, floats[name])
