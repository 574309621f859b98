"""Insert QuantizeLinear / DequantizeLinear pairs, so that onnxruntime picks its int8 kernels.

1. Activations: value → Q → DQ. Behind an int8 node all readers are behind the DQ, since its kernel gives integers
   only; behind a float node or an input just the int8 readers are, the others lose nothing. A graph output keeps
   its name and float type
2. Weights: stored as int8 with a DQ, symmetric, per output channel (axis 0 of Conv, the columns of Gemm and MatMul);
   those of a MatMul with more than two axes per tensor, since its kernel takes no more
3. Biases: stored as int32, one axis, with a DQ, scale = input scale times weight scale, zero point 0; weight scales are
   enlarged where the bias would not fit
4. Constant operands of Add, Mul, Where and Concat: stored in the activation type with a DQ
5. A product with a positive number is no node any more: the DQ has the scale of the product
6. Pad computes on the integers themselves, Q → Pad → DQ: in float, as onnxruntime would run it, it is slow
7. Nodes that are to stay float: guarded where onnxruntime would run them in int8 all the same (``int8_guard``)

Which nodes and values take part is decided by ``int8_plan``; what has an int8 kernel only in another form is
rewritten by ``int8_lowering`` first; the ranges come from calibration as plain data. The result differs from the
original by quantization only: with onnxruntime's optimizations off it equals the fake-quantized original.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

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
from edgeopt.passes.int8_guard import guard
from edgeopt.passes.int8_lowering import lower
from edgeopt.passes.int8_plan import WEIGHTED, Plan
from edgeopt.passes.int8_rules import weight_axis
from edgeopt.quant import (
    Parameters,
    Ranges,
    Scheme,
    activation_parameters,
    least_weight_scale,
    quantize,
    weight_parameters,
)

_NOTHING: Mapping[str, Array] = MappingProxyType({})
MINIMUM_OPSET = 13  # DequantizeLinear has its axis from opset 13


@dataclass
class _Writer:
    """Adds constants and nodes to one graph, under fresh names."""

    graph: ir.Graph
    names: Names
    shared: dict[tuple[float, int], tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def parameters(self, found: Parameters, base: str) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point of an activation, stored once."""
        key = (float(found.scale), int(found.zero_point))
        if key not in self.shared:
            self.shared[key] = (
                self.constant(found.scale, f"{base}/scale"),
                self.constant(found.zero_point, f"{base}/zero_point"),
            )
        return self.shared[key]

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


def quantize_int8(
    model: ir.Model, plan: Plan, ranges: Ranges, scheme: Scheme, corrections: Mapping[str, Array] = _NOTHING
) -> Plan:
    """Rewrite the model in place (see the module's docstring).

    Args:
        model: Float model at opset 13 or above; the same graph that ``plan`` was made for.
        plan: Nodes and values to quantize.
        ranges: (low, high) of every value in ``plan.observed()``.
        scheme: The target's operand types.
        corrections: Name of a planned layer to float32 [output channels], added to its bias before that is stored.
            A Conv or Gemm without bias is given one, a MatMul without is left alone.

    Returns:
        The plan as it was carried out: with the nodes that stand for others (``Plan.parts``).

    Raises:
        ModelError: the opset is below 13.
    """
    if opset(model) < MINIMUM_OPSET:
        raise ModelError(
            f"int8 per channel needs opset {MINIMUM_OPSET}, the model has {opset(model)}",
            hint="convert the model to a newer opset first",
        )
    plan = lower(model, plan)
    writer = _Writer(model.graph, Names(model))
    parameters = {t: parameters_of(t, plan, ranges, scheme) for t in (*plan.tensors, *plan.rescaled)}
    layers = [n for n in model.graph if n.name in plan.nodes]
    rescalings = {n for n in layers if n.outputs[0].name in plan.rescaled}
    biases = {n.name: n for n in layers if n.name in plan.biases.values()}
    cache: dict[tuple[str, int], tuple[Parameters, ir.Value]] = {}
    for node in layers:
        if is_op(node, *WEIGHTED):
            adder = biases.get(plan.biases.get(node.name or ""))
            _weights(node, adder, parameters, writer, scheme, cache, corrections.get(node.name or ""))
        elif is_op(node, "Add", "Mul", "Where", "Concat") and node not in rescalings and node.name not in biases:
            _operands(node, writer, scheme)
    _activations(model, plan, parameters, writer)
    guard(model, plan.reasons.keys())
    for name, value in list(model.graph.initializers.items()):  # the float weights that int8 ones replace
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del model.graph.initializers[name]
    return plan


def parameters_of(tensor: str, plan: Plan, ranges: Ranges, scheme: Scheme) -> Parameters:
    """Scale and zero point of a planned value; a multiple of another's has its scale times the factor."""
    name, factor = plan.source(tensor)
    found = activation_parameters(plan.range_of(name, ranges), scheme)
    return Parameters(np.asarray(found.scale * np.float32(factor), dtype=np.float32), found.zero_point)


def _weights(
    node: ir.Node,
    adder: ir.Node | None,
    activations: dict[str, Parameters],
    writer: _Writer,
    scheme: Scheme,
    cache: dict[tuple[str, int], tuple[Parameters, ir.Value]],
    correction: Array | None,
) -> None:
    """Cases 2 and 3; ``adder`` is the Add that holds the bias of a MatMul."""
    x, weight_value = node.inputs[0], node.inputs[1]
    if x is None or weight_value is None or (source := activations.get(x.name or "")) is None:
        _operands(node, writer, scheme)  # a constant times a value
        return
    holder, index = (node, 2) if adder is None else (adder, _bias_index(adder))
    bias_value = input_or_none(holder, index)
    bias = constant(bias_value)
    bias = bias.reshape(-1) if bias is not None else None
    if correction is not None and (bias is not None or not is_op(node, "MatMul")):
        bias = correction if bias is None else bias + correction
    weight = constant(weight_value)
    if weight is None:
        weights = activations[weight_value.name or ""]
    else:
        axis = weight_axis(node)
        least = least_weight_scale(bias, float(source.scale)) if bias is not None else None
        key = (weight_value.name or "", axis)
        if key not in cache or (least is not None and bool((cache[key][0].scale < least).any())):
            whole = replace(scheme, weight_per_channel=False)  # weights of more axes have one scale
            found = weight_parameters(
                weight, axis, scheme if weight.ndim == 2 or is_op(node, "Conv") else whole, least=least
            )
            base = weight_value.name or "weight"
            cache[key] = (found, writer.dequantized(quantize(weight, found, axis), found, axis, base, node))
        weights, dequantized = cache[key]
        node.replace_input_with(1, dequantized)
    if bias is not None:
        scale = np.asarray(source.scale * weights.scale, dtype=np.float32)
        stored = Parameters(scale, np.zeros(scale.shape, np.int32))
        base = f"{node.name}/bias"
        if len(holder.inputs) <= index:
            holder.resize_inputs(index + 1)
        holder.replace_input_with(index, writer.dequantized(quantize(bias, stored, 0), stored, 0, base, node))


def _bias_index(adder: ir.Node) -> int:
    return 1 if constant_tensor(adder.inputs[0]) is None else 0


def _operands(node: ir.Node, writer: _Writer, scheme: Scheme) -> None:
    """Case 4."""
    for index, value in enumerate(node.inputs):
        tensor = constant_tensor(value)
        if value is None or tensor is None or tensor.dtype != ir.DataType.FLOAT:  # the condition of Where
            continue
        array = np.asarray(tensor.numpy())
        found = activation_parameters((float(array.min(initial=0)), float(array.max(initial=0))), scheme)
        base = f"{node.name}/{value.name}"
        node.replace_input_with(index, writer.dequantized(quantize(array, found), found, None, base, node))


def _activations(model: ir.Model, plan: Plan, parameters: dict[str, Parameters], writer: _Writer) -> None:
    """Cases 1, 5 and 6."""
    values = {v.name or "": v for v in model.graph.inputs} | {o.name or "": o for n in model.graph for o in n.outputs}
    products = {source: name for name, (source, _) in plan.rescaled.items()}
    for name in plan.tensors:
        value, found = values[name], parameters[name]
        producer = value.producer()
        integers_only = producer is not None and producer.name in plan.nodes
        uses = [u for u in value.uses() if integers_only or u.node.name in plan.nodes]
        scale, zero = writer.parameters(found, name)
        integer = ir.DataType.from_numpy(found.zero_point.dtype)
        nodes: list[ir.Node] = []
        stored = value
        if integers_only and is_op(producer, "Pad") and producer is not None:
            _pad_integers(producer, zero, integer)
        else:
            nodes.append(writer.node("QuantizeLinear", [value, scale, zero], value, name, integer, None))
            stored = nodes[0].outputs[0]
        if name in products:
            product = values[products[name]]
            scale, zero = writer.parameters(parameters[products[name]], products[name])
            uses, name = list(product.uses()), products[name]
            replaced = product
        else:
            replaced = value
        dq = writer.node("DequantizeLinear", [stored, scale, zero], replaced, name, ir.DataType.FLOAT, None)
        nodes.append(dq)
        if producer is not None:
            model.graph.insert_after(producer, nodes)
        else:
            model.graph.insert_before(model.graph[0], nodes)
        new = dq.outputs[0]
        for node, index in uses:
            node.replace_input_with(index, new)
        if replaced.is_graph_output() and integers_only:
            outputs = model.graph.outputs
            for k, output in enumerate(outputs):
                if output is replaced:
                    new.type, new.shape = ir.TensorType(ir.DataType.FLOAT), replaced.shape
                    replaced.name, new.name = writer.names.fresh(f"{name}/float"), name
                    outputs[k] = new
        gone = replaced.producer()
        if replaced is not value and gone is not None:
            model.graph.remove(gone, safe=True)


def _pad_integers(node: ir.Node, zero: ir.Value, integer: ir.DataType) -> None:
    """Case 6: behind the Q instead of behind its DQ, filled with the zero point."""
    value = node.inputs[0]
    dq = value.producer() if value is not None else None
    if dq is None:
        return
    node.replace_input_with(0, dq.inputs[0])
    if attribute(node, "mode", "constant") == "constant":
        while len(node.inputs) < 3:
            node.resize_inputs(len(node.inputs) + 1)
        node.replace_input_with(2, zero)
    node.outputs[0].type = ir.TensorType(integer)
    if not dq.outputs[0].uses() and not dq.outputs[0].is_graph_output() and dq.graph is not None:
        dq.graph.remove(dq, safe=True)
