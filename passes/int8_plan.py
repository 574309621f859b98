"""Which nodes can run on onnxruntime's int8 kernels, and which tensors must be quantized for it.

The rules are those of onnxruntime's QDQ selectors (onnxruntime/core/optimizer/qdq_transformer), as of 1.31:

1. Conv, Gemm, MatMul with constant float32 weights: input quantized. Conv also needs its output quantized, by one
   Q and nothing else; Gemm and MatMul have kernels that leave a float output, better where only float nodes read it
2. Relu or Clip that alone reads a Conv, Gemm or Add: computed by the quantization of its output
3. Add, Mul, Concat: one operand at least comes from an int8 node; float ones are quantized, constants of Add and
   Mul stored in int8
4. AveragePool, GlobalAveragePool, LeakyRelu: the input comes from an int8 node
5. Data movement (MaxPool, Reshape, Transpose, Split, …): same scale and zero point on all sides
6. Everything else stays float, with the reason
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant_tensor, dtype_of, graphs, input_or_none, is_op, only_consumer, opset

WEIGHTED = ("Conv", "Gemm", "MatMul")
FUSED = ("Relu", "Clip")
OPERANDS = ("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu")
MOVEMENT = (
    "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "DepthToSpace", "Slice", "Split", "Gather",
)  # fmt: skip
# Not worth a word in a report: they compute nothing, or belong to the shape arithmetic.
_SILENT = frozenset({"Constant", "Shape", "Size", "Cast", "Identity", "Range", "ConstantOfShape"})
_FLOAT32 = np.dtype(np.float32)


@dataclass
class Plan:
    """What is to be quantized.

    Attributes:
        nodes: Names of the nodes that are to run in int8, fused activations included.
        tensors: Names of the values to quantize, in the order in which they are computed.
        tied: Value to the value whose scale and zero point it shares.
        fused: Name of a layer to the value that its quantization follows (behind the fused activation).
        reasons: Name of each node that stays float to the reason.
    """

    nodes: set[str] = field(default_factory=set)
    tensors: list[str] = field(default_factory=list)
    tied: dict[str, str] = field(default_factory=dict)
    fused: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def root(self, tensor: str) -> str:
        """The value whose range decides this one's scale."""
        while tensor in self.tied:
            tensor = self.tied[tensor]
        return tensor

    def observed(self) -> list[str]:
        """The values whose ranges are needed."""
        return list(dict.fromkeys(self.root(t) for t in self.tensors))


def plan(model: ir.Model, keep_float: frozenset[str] = frozenset()) -> Plan:
    """Decide for every node; ``keep_float`` names nodes (or operator types) that must stay float."""
    result = Plan()
    by_int8: set[str] = set()  # values that an int8 node computes
    for node in model.graph:
        name = node.name or ""
        reason = _excluded(node, keep_float) or _reason(node, model, result, by_int8)
        if name in result.nodes:  # a fused activation, decided with its layer
            continue
        if reason is None:
            _accept(node, result, by_int8)
        elif node.op_type not in _SILENT and any(dtype_of(o) == _FLOAT32 for o in node.outputs):
            result.reasons[name] = reason
    for graph in graphs(model):
        for node in graph:
            if graph is not model.graph and is_op(node, *WEIGHTED):
                result.reasons[node.name or ""] = "lies in the body of an If, Loop or Scan"
    _leave_outputs_float(model, result)
    return result


def observable(model: ir.Model) -> list[str]:
    """The values whose ranges some plan may need, whatever is kept float."""
    found: dict[str, None] = {}
    for node in model.graph:
        if not is_op(node, *WEIGHTED, *FUSED, *OPERANDS, *MOVEMENT):
            continue
        for value in (*(node.inputs[:1] if is_op(node, *WEIGHTED) else node.inputs), *node.outputs):
            if value is not None and dtype_of(value) in (_FLOAT32, None) and constant_tensor(value) is None:
                found[value.name or ""] = None
    return list(found)


def _excluded(node: ir.Node, keep_float: frozenset[str]) -> str | None:
    if node.name in keep_float or node.op_type in keep_float:
        return "kept float on request"
    return None


def _reason(node: ir.Node, model: ir.Model, found: Plan, by_int8: set[str]) -> str | None:
    """Why the node cannot run in int8, or None."""
    if is_op(node, *WEIGHTED):
        return _weighted_reason(node)
    if is_op(node, "Relu", "Clip"):
        return f"{node.op_type} has no int8 kernel of its own, and follows no int8 layer that it alone reads"
    if is_op(node, *OPERANDS):
        return _operand_reason(node, by_int8)
    if is_op(node, *MOVEMENT):
        if node.inputs[0] is None or node.inputs[0].name not in by_int8:
            return "its input is float"
        if node.op_type == "MaxPool" and any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
            return "its indices are used"
        if node.op_type == "MaxPool" and opset(model) < 12:
            return "MaxPool takes int8 from opset 12 only"
        return None
    return f"no int8 kernel for {node.op_type} on this runtime"


def _weighted_reason(node: ir.Node) -> str | None:
    weight = constant_tensor(input_or_none(node, 1))
    x = node.inputs[0]
    if weight is None:
        return "its second operand is not constant" if node.op_type == "MatMul" else "its weights are not constant"
    if x is None or dtype_of(x) not in (_FLOAT32, None) or weight.dtype != ir.DataType.FLOAT:
        return f"computes in {weight.dtype.name.lower()}, not float32"
    if constant_tensor(x) is not None:
        return "its input is constant"
    if x.is_initializer():
        return "its input is an initializer that callers may override"
    bias = input_or_none(node, 2)
    if bias is not None and constant_tensor(bias) is None:
        return "its bias is not constant"
    if node.op_type == "MatMul" and len(weight.shape) != 2:
        return f"its weights have {len(weight.shape)} dimensions; the kernel takes 2"
    if node.op_type == "Gemm":
        if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
            return "transA, alpha or beta is set"
        tensor = constant_tensor(bias)
        if tensor is not None and (len(tensor.shape) != 1 or tensor.shape[0] == 1):
            return f"its bias has shape {list(tensor.shape)}; the kernel takes one value per column"
    return None


def _operand_reason(node: ir.Node, by_int8: set[str]) -> str | None:
    dynamic = [v for v in node.inputs if v is not None and constant_tensor(v) is None]
    if not dynamic or (len(dynamic) < len([v for v in node.inputs if v is not None]) and node.op_type == "Concat"):
        return "an operand is constant"
    if any(v.is_initializer() for v in dynamic):
        return "an operand is an initializer that callers may override"
    missing = [v for v in dynamic if v.name not in by_int8]
    if len(missing) == len(dynamic):
        return f"its operand {missing[0].name!r} is float"
    if any(dtype_of(v) != _FLOAT32 for v in missing):
        return f"its operand {missing[0].name!r} is not known to be float32"
    if len(dynamic) < len(node.inputs) and is_op(node, "Add") and is_op(dynamic[0].producer(), "MatMul"):
        return "the bias of a MatMul: onnxruntime fuses the two into one float Gemm"
    if node.op_type == "AveragePool" and attribute(node, "count_include_pad", 0) and any(attribute(node, "pads", ())):
        return "AveragePool that counts its padding"
    return None


def _accept(node: ir.Node, found: Plan, by_int8: set[str]) -> None:
    """Put the node on the plan, and with it the activation that it absorbs."""
    found.nodes.add(node.name or "")
    if is_op(node, *MOVEMENT) and node.inputs[0] is not None:
        for output in node.outputs[:1] if node.op_type == "MaxPool" else node.outputs:  # its indices are no floats
            _quantized(output, found)
            by_int8.add(output.name or "")
            found.tied[output.name or ""] = found.root(node.inputs[0].name or "")
        return
    operands = node.inputs[:1] if is_op(node, *WEIGHTED) else node.inputs
    for value in operands:
        if value is not None and constant_tensor(value) is None:
            _quantized(value, found)
    output = node.outputs[0]
    absorbed = _absorbed(node)
    if absorbed is not None:
        found.nodes.add(absorbed.name or "")
        output = absorbed.outputs[0]
    found.fused[node.name or ""] = output.name or ""
    _quantized(output, found)
    by_int8.add(output.name or "")


def _absorbed(node: ir.Node) -> ir.Node | None:
    """Case 2: the activation behind the node that the quantization of its output computes."""
    reader = only_consumer(node.outputs[0])
    if reader is None or not is_op(node, "Conv", "Gemm", "Add") or not is_op(reader, *FUSED):
        return None
    fits = reader.graph is node.graph and reader.inputs[0] is node.outputs[0] and _constant_bounds(reader)
    return reader if fits else None


def _constant_bounds(node: ir.Node) -> bool:
    """Relu, or a Clip whose bounds are attributes or constants and include 0."""
    if node.op_type == "Relu":
        return True
    bounds = []
    for index, (key, default) in enumerate((("min", -np.inf), ("max", np.inf)), start=1):
        value = input_or_none(node, index)
        tensor = constant_tensor(value)
        if value is not None and (tensor is None or tensor.size != 1):
            return False
        bounds.append(
            float(tensor.numpy().reshape(-1)[0]) if tensor is not None else float(attribute(node, key, default))
        )
    return bounds[0] <= 0 <= bounds[1]


def _quantized(value: ir.Value, found: Plan) -> None:
    if value.name not in found.tensors:
        found.tensors.append(value.name or "")


def _leave_outputs_float(model: ir.Model, found: Plan) -> None:
    """Case 1: a Gemm or MatMul that no int8 node reads keeps a float output."""
    for node in model.graph:
        output = node.outputs[0] if node.outputs else None
        if output is None or not is_op(node, "Gemm", "MatMul") or node.name not in found.nodes:
            continue
        if found.fused[node.name or ""] != output.name:
            continue  # the fused activation needs the quantization
        if not any(u.node.name in found.nodes for u in output.uses()) and output.name in found.tensors:
            found.tensors.remove(output.name or "")
