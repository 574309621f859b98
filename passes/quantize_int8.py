"""Insert QuantizeLinear / DequantizeLinear pairs, so that onnxruntime picks its int8 kernels.

1. Activations: value → Q → DQ, all readers behind the DQ; a graph output keeps its name and float type
2. Weights: stored as int8 with a DQ, symmetric, per output channel (axis 0 of Conv, the columns of Gemm and MatMul)
3. Biases: stored as int32 with a DQ, scale = input scale times weight scale, zero point 0; weight scales are
   enlarged where the bias would not fit
4. Constant operands of Add and Mul: stored in the activation type with a DQ

Which nodes and values take part is decided by ``int8_plan``; the ranges come from calibration as plain data.
The result differs from the original by quantization only: with onnxruntime's optimizations off it equals the
fake-quantized original.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.graph import (
    Array,
    Names,
    attribute,
    constant,
    constant_tensor,
    constant_value,
    input_or_none,
    is_op,
    opset,
)
from edgeopt.passes.int8_plan import WEIGHTED, Plan
from edgeopt.quant import (
    Parameters,
    Ranges,
    Scheme,
    activation_parameters,
    least_weight_scale,
    quantize,
    weight_parameters,
)

MINIMUM_OPSET = 13  # DequantizeLinear has its axis from opset 13


@dataclass
class _Writer:
    """Adds constants and nodes to one graph, under fresh names."""

    graph: ir.Graph
    names: Names

    def constant(self, array: Array, base: str) -> ir.Value:
        value = constant_value(self.names.fresh(base), array)
        self.graph.register_initializer(value)
        return value

    def node(
        self, op: str, inputs: list[ir.Value], like: ir.Value, base: str, dtype: ir.DataType, axis: int | None
    ) -> ir.Node:
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        output = ir.Value(
            name=self.names.fresh(f"{base}/{op}"),
            type=ir.TensorType(dtype),
            shape=like.shape.copy() if like.shape is not None else None,
        )
        return ir.Node("", op, inputs, attributes, outputs=[output], name=self.names.fresh(f"{base}/{op}/node"))

    def dequantized(
        self, array: Array, parameters: Parameters, axis: int | None, base: str, before: ir.Node
    ) -> ir.Value:
        """A stored integer constant and its DQ, in front of ``before``."""
        stored = self.constant(array, f"{base}/quantized")
        scale = self.constant(parameters.scale, f"{base}/scale")
        zero = self.constant(parameters.zero_point, f"{base}/zero_point")
        axis = axis if parameters.scale.ndim else None
        node = self.node("DequantizeLinear", [stored, scale, zero], stored, base, ir.DataType.FLOAT, axis)
        self.graph.insert_before(before, node)
        return node.outputs[0]


def quantize_int8(model: ir.Model, plan: Plan, ranges: Ranges, scheme: Scheme) -> None:
    """Rewrite the model in place (see the module's docstring).

    Args:
        model: Float model at opset 13 or above; the same graph that ``plan`` was made for.
        plan: Nodes and values to quantize.
        ranges: (low, high) of every value in ``plan.observed()``.
        scheme: The target's operand types.

    Raises:
        ModelError: the opset is below 13.
    """
    if opset(model) < MINIMUM_OPSET:
        raise ModelError(
            f"int8 per channel needs opset {MINIMUM_OPSET}, the model has {opset(model)}",
            hint="convert the model to a newer opset first",
        )
    writer = _Writer(model.graph, Names(model))
    parameters = {t: activation_parameters(ranges[plan.root(t)], scheme) for t in plan.tensors}
    layers = [n for n in model.graph if n.name in plan.nodes]
    inputs = {n: parameters.get(n.inputs[0].name or "") for n in layers if n.inputs and n.inputs[0] is not None}
    cache: dict[tuple[str, int], tuple[Parameters, ir.Value]] = {}
    for node in layers:
        if is_op(node, *WEIGHTED):
            _weights(node, inputs[node], writer, scheme, cache)
        elif is_op(node, "Add", "Mul"):
            _operands(node, writer, scheme)
    _activations(model, plan, parameters, writer)
    for name, value in list(model.graph.initializers.items()):  # the float weights that int8 ones replace
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del model.graph.initializers[name]


def weight_axis(node: ir.Node) -> int:
    """The axis of the output channels in the weight of a Conv, Gemm or MatMul."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1


def _weights(
    node: ir.Node,
    input_parameters: Parameters | None,
    writer: _Writer,
    scheme: Scheme,
    cache: dict[tuple[str, int], tuple[Parameters, ir.Value]],
) -> None:
    """Cases 2 and 3."""
    weight_value, bias_value = node.inputs[1], input_or_none(node, 2)
    weight, bias = constant(weight_value), constant(bias_value)
    if weight is None or weight_value is None or input_parameters is None:
        return
    axis = weight_axis(node)
    least = least_weight_scale(bias, float(input_parameters.scale)) if bias is not None else None
    key = (weight_value.name or "", axis)
    if key not in cache or (least is not None and bool((cache[key][0].scale < least).any())):
        found = weight_parameters(weight, axis, scheme, least=least)
        base = weight_value.name or "weight"
        cache[key] = (found, writer.dequantized(quantize(weight, found, axis), found, axis, base, node))
    weights, dequantized = cache[key]
    node.replace_input_with(1, dequantized)
    if bias is not None and bias_value is not None:
        scale = np.asarray(input_parameters.scale * weights.scale, dtype=np.float32)
        stored = Parameters(scale, np.zeros(scale.shape, np.int32))
        base = f"{node.name}/bias"
        node.replace_input_with(2, writer.dequantized(quantize(bias, stored, 0), stored, 0, base, node))


def _operands(node: ir.Node, writer: _Writer, scheme: Scheme) -> None:
    """Case 4."""
    for index, value in enumerate(node.inputs):
        if value is None or constant_tensor(value) is None or (array := constant(value)) is None:
            continue
        found = activation_parameters((float(array.min(initial=0)), float(array.max(initial=0))), scheme)
        base = f"{node.name}/{value.name}"
        node.replace_input_with(index, writer.dequantized(quantize(array, found), found, None, base, node))


def _activations(model: ir.Model, plan: Plan, parameters: dict[str, Parameters], writer: _Writer) -> None:
    """Case 1."""
    values = {v.name or "": v for v in model.graph.inputs} | {o.name or "": o for n in model.graph for o in n.outputs}
    constants: dict[tuple[float, int], tuple[ir.Value, ir.Value]] = {}
    for name in plan.tensors:
        value, found = values[name], parameters[name]
        uses = list(value.uses())
        key = (float(found.scale), int(found.zero_point))
        if key not in constants:
            constants[key] = (
                writer.constant(found.scale, f"{name}/scale"),
                writer.constant(found.zero_point, f"{name}/zero_point"),
            )
        scale, zero = constants[key]
        integer = ir.DataType.from_numpy(found.zero_point.dtype)
        q = writer.node("QuantizeLinear", [value, scale, zero], value, name, integer, None)
        dq = writer.node("DequantizeLinear", [q.outputs[0], scale, zero], value, name, ir.DataType.FLOAT, None)
        producer = value.producer()
        if producer is not None:
            model.graph.insert_after(producer, [q, dq])
        else:
            model.graph.insert_before(model.graph[0], [q, dq])
        new = dq.outputs[0]
        for node, index in uses:
            node.replace_input_with(index, new)
        if value.is_graph_output() and producer is not None:  # an input that is an output too stays as it is
            outputs = model.graph.outputs
            for k, output in enumerate(outputs):
                if output is value:
                    new.type, new.shape = value.type, value.shape
                    value.name, new.name = writer.names.fresh(f"{name}/float"), name
                    outputs[k] = new
