"""Which nodes can run on onnxruntime's int8 kernels, and which tensors must be quantized for it.

Whether a node can at all is asked of ``int8_rules``; what it takes with it is decided here:

1. Conv, Gemm, MatMul: every operand that is not stored is quantized. Conv also needs its output quantized, by one
   Q and nothing else; Gemm and MatMul have kernels that leave a float output, better where only float nodes read it
2. The constant that alone reads a MatMul in an Add is its bias: onnxruntime makes one QGemm of the two
3. Relu or Clip that alone reads a Conv, Gemm, Add or biased MatMul: computed by the quantization of its output
4. Operators of several operands (Add, Mul, Concat, …): one at least comes from an int8 node; float ones are
   quantized, constants stored in the activation type
5. Mul or Div by a positive number, alone behind an int8 node: nothing but another scale in the DQ
6. Data movement (MaxPool, Reshape, Transpose, …): same scale and zero point on all sides
7. Softmax, Sigmoid and HardSigmoid have a fixed range, which no calibration needs to find
8. At the border to float nodes: what only moves data or bends single values is computed in float, behind the DQ
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from edgeopt.graph import constant_tensor, dtype_of, graphs, is_op, only_consumer, opset
from edgeopt.passes.int8_rules import (
    CURVES,
    FUSED,
    MOVEMENT,
    OPERANDS,
    POOLS,
    SHRINKING,
    WEIGHTED,
    becomes_gemm,
    bounds_fit,
    is_bias,
    reason_for_float,
    scalar_factor,
)
from edgeopt.quant import Range, Ranges

__all__ = ["FUSED", "MOVEMENT", "OPERANDS", "WEIGHTED", "Plan", "observable", "plan"]

FIXED: Mapping[str, Range] = MappingProxyType({"Sigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "HardSigmoid": (0.0, 1.0)})
# Not worth a word in a report: they compute nothing, or belong to the shape arithmetic.
_SILENT = frozenset({"Constant", "Shape", "Size", "Cast", "Identity", "Range", "ConstantOfShape"})
_FLOAT32 = np.dtype(np.float32)
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass
class Plan:
    """What is to be quantized.

    Attributes:
        nodes: Names of the nodes that are to run in int8, fused activations included.
        tensors: Names of the values to quantize, in the order in which they are computed.
        tied: Value to the value whose scale and zero point it shares.
        fused: Name of a layer to the value that its quantization follows (behind the fused activation).
        reasons: Name of each node that stays float to the reason.
        fixed: Value to the range that it has whatever the data.
        rescaled: Value to (value, factor) of which it is the product, by nothing but another scale in the DQ.
        biases: Name of a MatMul to the name of the Add that holds its bias.
        parts: Name of a node to the names of the nodes beside itself that stand for it (see ``int8_lowering``).
    """

    nodes: set[str] = field(default_factory=set)
    tensors: list[str] = field(default_factory=list)
    tied: dict[str, str] = field(default_factory=dict)
    fused: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    fixed: dict[str, Range] = field(default_factory=dict)
    rescaled: dict[str, tuple[str, float]] = field(default_factory=dict)
    biases: dict[str, str] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def root(self, tensor: str) -> str:
        """The value whose range decides this one's scale."""
        while tensor in self.tied:
            tensor = self.tied[tensor]
        return tensor

    def source(self, tensor: str) -> tuple[str, float]:
        """The value whose range decides, and the factor by which this value's scale is larger."""
        name, factor = self.root(tensor), 1.0
        while name in self.rescaled:
            before, by = self.rescaled[name]
            name, factor = self.root(before), factor * by
        return name, factor

    def observed(self) -> list[str]:
        """The values whose ranges are needed."""
        return [s for s in dict.fromkeys(self.source(t)[0] for t in self.tensors) if s not in self.fixed]

    def range_of(self, tensor: str, ranges: Ranges) -> Range:
        """(low, high) of a planned value: fixed, or as calibrated, times the factor of its scale."""
        name, factor = self.source(tensor)
        low, high = self.fixed[name] if name in self.fixed else ranges[name]
        return low * factor, high * factor


def plan(model: ir.Model, keep_float: frozenset[str] = frozenset(), refused: Mapping[str, str] = _NOTHING) -> Plan:
    """Decide for every node.

    Args:
        model: Float model.
        keep_float: Names of nodes, or operator types, that must stay float; a name goes before a type.
        refused: Names of nodes that have been found to stay float, with the reason.
    """
    result = Plan()
    keep_float = _by_name(model, keep_float)
    by_int8: set[str] = set()  # values that an int8 node computes
    version = opset(model)
    for node in model.graph:
        name = node.name or ""
        if name in result.nodes:  # decided with its layer
            continue
        reason = _excluded(node, keep_float, refused) or reason_for_float(node, by_int8, version)
        if reason is None:
            _accept(node, result, by_int8, lambda n: _excluded(n, keep_float, refused) is not None)
        elif node.op_type not in _SILENT and any(dtype_of(o) == _FLOAT32 for o in node.outputs):
            result.reasons[name] = reason
    for graph in graphs(model):
        for node in graph:
            if graph is not model.graph and is_op(node, *WEIGHTED):
                result.reasons[node.name or ""] = "lies in the body of an If, Loop or Scan"
    _leave_borders_float(model, result)
    return result


def observable(model: ir.Model) -> list[str]:
    """The values whose ranges some plan may need, whatever is kept float."""
    found: dict[str, None] = {}
    known = (*WEIGHTED, *FUSED, *OPERANDS, *POOLS, *CURVES, *MOVEMENT, "Sub", "Div", "ReduceMean")
    for node in model.graph:
        if not is_op(node, *known):
            continue
        outputs = () if node.op_type in FIXED else node.outputs[:1] if node.op_type == "MaxPool" else node.outputs
        for value in (*node.inputs, *outputs):
            if (
                value is not None
                and value.name
                and dtype_of(value) in (_FLOAT32, None)
                and constant_tensor(value) is None
            ):
                found[value.name or ""] = None
    return list(found)


def _by_name(model: ir.Model, keep_float: frozenset[str]) -> frozenset[str]:
    """Operator types as the names of their nodes; what is the name of a node is not taken for a type."""
    names = {node.name for node in model.graph}
    types = keep_float - names
    return keep_float | {n.name or "" for n in model.graph if n.op_type in types} if types else keep_float


def _excluded(node: ir.Node, keep_float: frozenset[str], refused: Mapping[str, str]) -> str | None:
    if node.name in keep_float:
        return "kept float on request"
    return refused.get(node.name or "")


def _accept(node: ir.Node, found: Plan, by_int8: set[str], excluded: Callable[[ir.Node], bool]) -> None:
    """Put the node on the plan, and with it what it absorbs."""
    name, output = node.name or "", node.outputs[0]
    found.nodes.add(name)
    if is_op(node, *MOVEMENT) and node.inputs[0] is not None:
        for moved in node.outputs[:1] if node.op_type == "MaxPool" else node.outputs:  # its indices are no floats
            _quantized(moved, found)
            by_int8.add(moved.name or "")
            found.tied[moved.name or ""] = found.root(node.inputs[0].name or "")
        return
    factor = _rescaling(node, found, by_int8)
    if factor is not None and node.inputs[0] is not None:
        found.rescaled[output.name or ""] = (node.inputs[0].name or "", factor)
        by_int8.add(output.name or "")
        return
    for value in node.inputs:
        if value is not None and constant_tensor(value) is None and dtype_of(value) in (_FLOAT32, None):
            _quantized(value, found)
    for absorbed in _absorbed(node, excluded):
        found.nodes.add(absorbed.name or "")
        output = absorbed.outputs[0]
        if is_op(absorbed, "Add"):
            found.biases[name] = absorbed.name or ""
    found.fused[name] = output.name or ""
    _quantized(output, found)
    by_int8.add(output.name or "")
    if is_op(node, *FIXED):
        found.fixed[output.name or ""] = FIXED[node.op_type]


def _rescaling(node: ir.Node, found: Plan, by_int8: set[str]) -> float | None:
    """Case 5: the factor; the value is one that a Q follows and nobody else reads.

    Behind a HardSigmoid it is a product like others: ``int8_lowering`` ends it in such a factor itself.
    """
    x = node.inputs[0] if node.inputs else None
    if x is None or x.name not in by_int8 or x.name not in found.tensors or only_consumer(x) is not node:
        return None
    return None if is_op(x.producer(), "HardSigmoid") else scalar_factor(node)


def _absorbed(node: ir.Node, excluded: Callable[[ir.Node], bool]) -> list[ir.Node]:
    """Cases 2 and 3: what behind the node becomes a part of it."""
    result: list[ir.Node] = []
    reader = only_consumer(node.outputs[0])
    if is_op(node, "MatMul"):
        if reader is None or reader.graph is not node.graph or excluded(reader) or not is_bias(reader, node):
            return []
        result.append(reader)
        reader = only_consumer(reader.outputs[0])
    elif not is_op(node, "Conv", "Gemm", "Add"):
        return []
    if reader is None or reader.graph is not node.graph or excluded(reader) or not is_op(reader, *FUSED):
        return result
    before = result[-1] if result else node
    return [*result, reader] if reader.inputs[0] is before.outputs[0] and bounds_fit(reader) else result


def _quantized(value: ir.Value, found: Plan) -> None:
    if value.name not in found.tensors and value.name not in found.rescaled:
        found.tensors.append(value.name or "")


def _leave_borders_float(model: ir.Model, found: Plan) -> None:
    """Cases 1 and 8, from the outputs upwards.

    What only moves data for float nodes stays only if less is left to dequantize behind it (MaxPool, Slice, …). A
    float Concat needs no common scale; Sigmoid and its like in float are as fast as their tables, and lose nothing.
    """
    for node in reversed(model.graph):
        name = node.name or ""
        if name not in found.nodes:
            continue
        if is_op(node, "Gemm", "MatMul") and name in found.fused:
            _leave_output_float(node, found)
        elif is_op(node, *MOVEMENT, *CURVES, "Concat") and not is_op(node, *SHRINKING):
            if not any(_read_by_int8(o, found) for o in node.outputs):
                _drop(node, found, f"{_WHY[is_op(node, *CURVES)]} for float nodes only")
        elif node.outputs[0].name in found.rescaled and not _read_by_int8(node.outputs[0], found):
            producer = node.inputs[0].producer() if node.inputs[0] is not None else None
            if is_op(producer, "MatMul", "Gemm") or (producer is not None and producer.name in found.biases.values()):
                _drop(node, found, f"{_WHY[True]} for float nodes only")
    values = {v.name or "": v for v in model.graph.inputs} | {o.name or "": o for n in model.graph for o in n.outputs}
    found.tensors = [t for t in found.tensors if _touches_int8(values[t], found)]
    found.fixed = {name: bounds for name, bounds in found.fixed.items() if name in found.tensors}


_WHY = {True: "computes single values", False: "moves data"}


def _drop(node: ir.Node, found: Plan, reason: str) -> None:
    found.nodes.remove(node.name or "")
    found.fused.pop(node.name or "", None)
    found.reasons[node.name or ""] = reason
    for output in node.outputs:
        for of in (found.tied, found.rescaled, found.fixed):
            of.pop(output.name or "", None)


def _leave_output_float(node: ir.Node, found: Plan) -> None:
    """Case 1: a Gemm or MatMul that no int8 node reads keeps a float output, an activation behind it too."""
    value = _end(node, found)
    if _read_by_int8(value, found) or (is_op(node, "MatMul") and becomes_gemm(node, only_consumer(value))):
        return
    found.tensors.remove(value.name or "")
    activation = value.producer()
    if activation is not None and is_op(activation, *FUSED):
        _drop(activation, found, f"{_WHY[True]} for float nodes only")
        before = activation.inputs[0]
        found.fused[node.name or ""] = (before.name or "") if before is not None else ""


def _end(node: ir.Node, found: Plan) -> ir.Value:
    """The value behind what a layer has absorbed."""
    value = node.outputs[0]
    while value.name != found.fused[node.name or ""]:
        reader = only_consumer(value)
        if reader is None:
            break
        value = reader.outputs[0]
    return value


def _read_by_int8(value: ir.Value, found: Plan) -> bool:
    return any(u.node.name in found.nodes for u in value.uses())


def _touches_int8(value: ir.Value, found: Plan) -> bool:
    producer = value.producer()
    return (producer is not None and producer.name in found.nodes) or _read_by_int8(value, found)
