"""Why onnxruntime left a node in float that a QDQ model asks for in int8: the rule that failed.

onnxruntime says nothing about it, so its rules (``qdq_selectors.cc`` and its neighbours, as of 1.31) are gone through
one by one on the QDQ graph; the first that the node breaks is the reason. ``RULES`` is the table:

1. ``float_operand``, ``float_constant``, ``float_weight``: everything that is computed with comes from a DQ
2. ``weight_axis``: scales per channel lie along the output channels
3. ``bias_type``, ``bias_zero_point``, ``bias_scale``: int32, 0, input scale times weight scale within 2 %
4. ``activation``: a Relu or Clip before the Q is computed by it, so the Q must reach no further
5. ``output_readers``: one Q reads the output of the node, and nothing else
6. ``types_differ``, ``weights_type``, ``constant_type``: the same type on all sides, int8 weights for int8
7. ``scales_differ``: data movement keeps scale and zero point
8. ``shared_int8``: int8 that several nodes read cannot be converted to uint8, as x86 needs it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, constant_tensor, dtype_of, input_or_none, is_op, only_consumer
from edgeopt.passes.int8_rules import FUSED, MOVEMENT, OPERANDS, WEIGHTED, weight_axis
from edgeopt.quant import Parameters

BIAS_TOLERANCE = 0.02  # measured on 1.31: 1.5 % is fused, 2 % is not
_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Rule:
    """A rule of onnxruntime; ``broken`` tells what of the node breaks it, or None."""

    name: str
    text: str
    broken: Callable[[ir.Node], str | None]


@dataclass(frozen=True)
class Broken:
    """The rule that a node breaks.

    Attributes:
        rule: Its name in ``RULES``.
        text: For a report.
        culprit: Name of the node to leave in float instead, if another one than this.
    """

    rule: str
    text: str
    culprit: str | None = None


def broken_rule(node: ir.Node) -> Broken | None:
    """The first rule of the table that a node of a QDQ model breaks; None if it keeps them all."""
    for rule in RULES:
        found = rule.broken(node)
        if found is not None:
            activation = _activation(node)
            culprit = activation.name if rule.name == "activation" and activation is not None else None
            return Broken(rule.name, f"{rule.text}: {found}", culprit)
    return None


def dequantize_before(node: ir.Node, index: int) -> ir.Node | None:
    """The DequantizeLinear in front of an input."""
    value = input_or_none(node, index)
    producer = value.producer() if value is not None else None
    return producer if is_op(producer, "DequantizeLinear") else None


def parameters_of(pair: ir.Node | None) -> Parameters | None:
    """Scale and zero point of a Q or DQ, if they are constant."""
    scale = constant(input_or_none(pair, 1)) if pair is not None else None
    zero = constant(input_or_none(pair, 2)) if pair is not None else None
    if pair is not None and scale is not None and input_or_none(pair, 2) is None:
        stored = constant_tensor(pair.inputs[0])
        zero = np.zeros(scale.shape, stored.dtype.numpy() if stored is not None else np.uint8)
    return None if scale is None or zero is None else Parameters(scale, zero)


def _operands(node: ir.Node) -> list[int]:
    """Which inputs are computed with."""
    if is_op(node, *WEIGHTED):
        return [0, 1]
    if is_op(node, "Where"):
        return [1, 2]
    return list(range(len(node.inputs))) if is_op(node, *OPERANDS) else [0]


def _activation(node: ir.Node) -> ir.Node | None:
    reader = only_consumer(node.outputs[0])
    return reader if is_op(reader, *FUSED) else None


def _quantizer(node: ir.Node) -> ir.Node | None:
    """The Q that the output goes to, maybe through Relu or Clip."""
    reader = only_consumer((_activation(node) or node).outputs[0])
    return reader if is_op(reader, "QuantizeLinear") else None


def _float_operand(node: ir.Node) -> str | None:
    for index in _operands(node):
        value = input_or_none(node, index)
        if value is None or dequantize_before(node, index) is not None or constant_tensor(value) is not None:
            continue
        if dtype_of(value) in (None, _FLOAT32):
            return f"operand {index} is float"
    return None


def _float_constant(node: ir.Node) -> str | None:
    if is_op(node, *WEIGHTED):
        return None
    for index in _operands(node):
        tensor = constant_tensor(input_or_none(node, index))
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT:
            return f"operand {index} is a float32 constant"
    return None


def _float_weight(node: ir.Node) -> str | None:
    tensor = constant_tensor(node.inputs[1]) if is_op(node, *WEIGHTED) else None
    return "they are float32" if tensor is not None and tensor.dtype == ir.DataType.FLOAT else None


def _weight_axis(node: ir.Node) -> str | None:
    dq = dequantize_before(node, 1) if is_op(node, *WEIGHTED) else None
    found = parameters_of(dq)
    if dq is None or found is None or found.scale.size == 1:
        return None
    axis, wanted = attribute(dq, "axis", 1), weight_axis(node)
    return None if axis in (wanted, wanted - _rank(dq)) else f"axis {axis}, not {wanted}"


def _rank(dq: ir.Node) -> int:
    value = dq.inputs[0]
    return len(value.shape) if value is not None and value.shape is not None else 0


def _bias(node: ir.Node) -> ir.Node | None:
    return dequantize_before(node, 2) if is_op(node, "Conv", "Gemm") else None


def _bias_type(node: ir.Node) -> str | None:
    dq = _bias(node)
    tensor = constant_tensor(dq.inputs[0]) if dq is not None else None
    return f"it is {tensor.dtype.name.lower()}" if tensor is not None and tensor.dtype != ir.DataType.INT32 else None


def _bias_zero_point(node: ir.Node) -> str | None:
    found = parameters_of(_bias(node))
    return "it is not 0" if found is not None and bool(found.zero_point.any()) else None


def _bias_scale(node: ir.Node) -> str | None:
    bias, x, weight = (parameters_of(p) for p in (_bias(node), dequantize_before(node, 0), dequantize_before(node, 1)))
    if bias is None or x is None or weight is None:
        return None
    ratio = bias.scale / (x.scale * weight.scale)
    far = float(np.abs(ratio - 1).max(initial=0))
    return f"it is {far:.1%} off" if far >= BIAS_TOLERANCE * 0.9 else None


def _activation_reaches(node: ir.Node) -> str | None:
    activation, q = _activation(node), _quantizer(node)
    found = parameters_of(q)
    if activation is None or found is None:
        return None
    info = np.iinfo(found.zero_point.dtype)
    zero, scale = int(found.zero_point), float(found.scale)
    if activation.op_type == "Relu":
        return None if zero == info.min else f"Relu wants a zero point of {info.min}, not {zero}"
    low, high = (constant(input_or_none(activation, k)) for k in (1, 2))
    if low is not None and round(float(low) / scale) + zero > info.min:
        return f"Clip starts at {float(low):g}, the Q at {(info.min - zero) * scale:g}"
    if high is not None and round(float(high) / scale) + zero < info.max:
        return f"Clip ends at {float(high):g}, the Q at {(info.max - zero) * scale:g}"
    return None


def _output_readers(node: ir.Node) -> str | None:
    value = (_activation(node) or node).outputs[0]
    readers = [u.node for u in value.uses()]
    if is_op(node, "MatMul", "Gemm") and not any(is_op(r, "QuantizeLinear") for r in readers):
        return None  # kernels that leave a float output
    others = [f"{r.op_type} {r.name!r}" for r in readers if not is_op(r, "QuantizeLinear")]
    if value.is_graph_output():
        others.append("the graph's outputs")
    if len(readers) - len(others) + value.is_graph_output() > 1:
        others.append("more than one Q")
    return f"it is read by {', '.join(others)}" if others else None if readers else "nothing reads it"


def _types(node: ir.Node) -> tuple[np.dtype, np.dtype] | None:
    x, y = parameters_of(dequantize_before(node, _operands(node)[0])), parameters_of(_quantizer(node))
    return None if x is None or y is None else (x.zero_point.dtype, y.zero_point.dtype)


def _types_differ(node: ir.Node) -> str | None:
    found = _types(node)
    return f"{found[0]} in, {found[1]} out" if found is not None and found[0] != found[1] else None


def _weights_type(node: ir.Node) -> str | None:
    x, weight = (parameters_of(dequantize_before(node, k)) for k in (0, 1)) if is_op(node, *WEIGHTED) else (None, None)
    if x is None or weight is None or x.zero_point.dtype != np.int8 or weight.zero_point.dtype == np.int8:
        return None
    return f"{weight.zero_point.dtype} weights"


def _constant_type(node: ir.Node) -> str | None:
    if not is_op(node, *OPERANDS):
        return None
    types = {k: p.zero_point.dtype for k in _operands(node) if (p := parameters_of(dequantize_before(node, k)))}
    return ", ".join(f"operand {k} is {t}" for k, t in types.items()) if len(set(types.values())) > 1 else None


def _scales_differ(node: ir.Node) -> str | None:
    x, y = parameters_of(dequantize_before(node, 0)), parameters_of(_quantizer(node))
    if not is_op(node, *MOVEMENT) or x is None or y is None:
        return None
    same = np.array_equal(x.scale, y.scale) and np.array_equal(x.zero_point, y.zero_point)
    return None if same else f"scale {float(x.scale):g} in, {float(y.scale):g} out"


def _shared_int8(node: ir.Node) -> str | None:
    sides = [dq.inputs[0] for k in _operands(node) if (dq := dequantize_before(node, k)) is not None]
    q = _quantizer(node)
    for value in [*sides, *(q.outputs if q is not None else ())]:
        if value is None or constant_tensor(value) is not None or dtype_of(value) != np.dtype(np.int8):
            continue
        readers = [u.node for dq in value.uses() for u in dq.node.outputs[0].uses()]
        if len(readers) > 1:
            return f"{value.name!r} is read by {len(readers)} nodes"
    return None


RULES: tuple[Rule, ...] = (
    Rule("float_operand", "an int8 kernel takes its operands from DQs", _float_operand),
    Rule("float_constant", "an int8 kernel takes constants in the type of the activations", _float_constant),
    Rule("float_weight", "an int8 kernel takes its weights in integers", _float_weight),
    Rule("weight_axis", "weights are quantized along another axis than that of the output channels", _weight_axis),
    Rule("bias_type", "an int8 kernel takes its bias in int32", _bias_type),
    Rule("bias_zero_point", "an int8 kernel takes a bias with zero point 0", _bias_zero_point),
    Rule("bias_scale", "the scale of a bias must be input scale times weight scale", _bias_scale),
    Rule("activation", "an activation is computed by a Q that reaches no further than it", _activation_reaches),
    Rule("output_readers", "the output of an int8 kernel goes to one Q and nowhere else", _output_readers),
    Rule("types_differ", "an int8 kernel has the same type on both sides", _types_differ),
    Rule("weights_type", "int8 activations want int8 weights", _weights_type),
    Rule("constant_type", "an int8 kernel has the same type for all operands", _constant_type),
    Rule("scales_differ", "moved data keep scale and zero point", _scales_differ),
    Rule("shared_int8", "int8 that several nodes read is not converted to uint8, which x86 computes in", _shared_int8),
)
