"""Whether onnxruntime's CPU provider has an int8 kernel for a node, seen from the float graph.

The rules are those of onnxruntime's QDQ selectors (onnxruntime/core/optimizer/qdq_transformer), as of 1.31:

1. Conv: constant float32 weights. MatMul: any two float32 operands of two or more dimensions. Gemm: alpha = beta = 1
   unless its weights are constant (they are then multiplied in), bias constant, one value per column
2. Relu, Clip: no kernel of their own
3. Add, Mul, Where, Concat: all operands in integers of one type, constants included
4. AveragePool, GlobalAveragePool, LeakyRelu, Sigmoid, Softmax: one operand
5. Data movement: kernels for integers, as long as scale and zero point stay the same
6. Rewritten first (``int8_lowering``): HardSwish, HardSigmoid, ReduceMean over all of the space, Sub and Div by a
   constant
7. Everything else stays float
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeopt.graph import (
    attribute,
    constant,
    constant_tensor,
    dims_of,
    dtype_of,
    input_or_none,
    is_op,
)

WEIGHTED = ("Conv", "Gemm", "MatMul")
FUSED = ("Relu", "Clip")
OPERANDS = ("Add", "Mul", "Where", "Concat")
POOLS = ("AveragePool", "GlobalAveragePool")
CURVES = ("LeakyRelu", "Sigmoid", "Softmax", "HardSwish", "HardSigmoid")
MOVEMENT = (
    "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "DepthToSpace", "Slice", "Split", "Gather",
    "GatherElements", "ReduceMax", "ReduceMin", "Resize", "Expand", "Tile", "Pad",
)  # fmt: skip
SHRINKING = ("MaxPool", "Slice", "Gather", "GatherElements", "ReduceMax", "ReduceMin")
# Masks add or select values far outside everything else; no 8 bits hold both.
MASK = 1e3
_FLOAT32 = np.dtype(np.float32)


def reason_for_float(node: ir.Node, by_int8: set[str], opset: int) -> str | None:
    """Why the node cannot run in int8, or None.

    Args:
        node: Of the float model.
        by_int8: Names of the values that int8 nodes compute.
        opset: Of the model.
    """
    if is_op(node, *WEIGHTED):
        return _weighted(node)
    if is_op(node, *FUSED):
        return f"{node.op_type} has no int8 kernel of its own, and follows no int8 layer that it alone reads"
    if is_op(node, *OPERANDS):
        return _operands(node, by_int8)
    if is_op(node, "Sub", "Div"):
        return _by_constant(node, by_int8)
    if is_op(node, *POOLS, *CURVES, *MOVEMENT, "ReduceMean"):
        if node.inputs[0] is None or node.inputs[0].name not in by_int8:
            return "its input is float"
        return _single(node, opset)
    return f"no int8 kernel for {node.op_type} on this runtime"


def _weighted(node: ir.Node) -> str | None:
    x, weight = node.inputs[0], node.inputs[1]
    stored = constant_tensor(weight)
    if stored is None and node.op_type == "Conv":
        return "its weights are not constant"
    if x is None or weight is None or dtype_of(x) not in (_FLOAT32, None):
        return "does not compute in float32"
    if stored is not None and stored.dtype != ir.DataType.FLOAT:
        return f"computes in {stored.dtype.name.lower()}, not float32"
    if stored is None and dtype_of(weight) != _FLOAT32:
        return "its second operand is not known to be float32"
    if constant_tensor(x) is not None and (stored is not None or node.op_type != "MatMul"):
        return "its input is constant"
    for value in (x, weight):
        if constant_tensor(value) is None and value.is_initializer():
            return "its input is an initializer that callers may override"
    bias = input_or_none(node, 2)
    if bias is not None and constant_tensor(bias) is None:
        return "its bias is not constant"
    return _matmul(node) if node.op_type == "MatMul" else _gemm(node, stored) if node.op_type == "Gemm" else None


def _matmul(node: ir.Node) -> str | None:
    for value in node.inputs:
        dims = dims_of(value) if value is not None else None
        if dims is not None and len(dims) < 2:
            return "an operand has fewer than 2 dimensions"
    return None


def _gemm(node: ir.Node, weight: ir.TensorProtocol | None) -> str | None:
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    bias = constant_tensor(input_or_none(node, 2))
    if (alpha != 1 and weight is None) or alpha == 0:
        return "alpha is set"
    if attribute(node, "transA", 0):
        return "transA is set"
    columns = None if weight is None else int(weight.shape.numpy()[0 if attribute(node, "transB", 0) else 1])
    if bias is not None and not _per_column(bias, columns if columns is not None else bias.size):
        return f"its bias has shape {list(bias.shape)}; the kernel takes one value per column"
    return "beta is set" if bias is not None and beta == 0 else None


def _operands(node: ir.Node, by_int8: set[str]) -> str | None:
    values = [v for v in (node.inputs[1:] if node.op_type == "Where" else node.inputs) if v is not None]
    dynamic = [v for v in values if constant_tensor(v) is None]
    if not dynamic:
        return "all operands are constant"
    if any(v.is_initializer() for v in dynamic):
        return "an operand is an initializer that callers may override"
    missing = [v for v in dynamic if v.name not in by_int8]
    if len(missing) == len(dynamic):
        return f"its operand {missing[0].name!r} is float"
    if any(dtype_of(v) != _FLOAT32 for v in missing):
        return f"its operand {missing[0].name!r} is not known to be float32"
    if is_op(node, "Add") and len(dynamic) < len(values) and _adds_to_float(dynamic[0].producer(), node):
        return "the bias of a MatMul, better added to its float output"
    return _constants(values)


def _adds_to_float(matmul: ir.Node | None, node: ir.Node) -> bool:
    return matmul is not None and is_op(matmul, "MatMul") and not becomes_gemm(matmul, node)


def _constants(values: list[ir.Value]) -> str | None:
    for value in values:
        tensor = constant_tensor(value)
        if tensor is None:
            continue
        if tensor.dtype != ir.DataType.FLOAT:
            return "a constant operand is not float32"
        array = tensor.numpy()
        if not np.isfinite(array).all() or float(np.abs(array).max(initial=0)) > MASK:
            return f"a constant operand is not finite or beyond {MASK:g}: 8 bits cannot hold it and the rest"
    return None


def _by_constant(node: ir.Node, by_int8: set[str]) -> str | None:
    """Case 6: x - c is x + (-c), x / c is x times 1 / c."""
    x, tensor = node.inputs[0], constant_tensor(node.inputs[1])
    if x is None or x.name not in by_int8:
        return f"its operand {x.name if x is not None else ''!r} is float"
    if tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return f"no int8 kernel for {node.op_type} by anything but a float32 constant"
    if node.op_type == "Div" and not bool((np.abs(tensor.numpy()) > 1 / MASK).all()):
        return "no int8 kernel for Div by constants close to 0"
    return _constants([v for v in node.inputs if v is not None])


def _single(node: ir.Node, opset: int) -> str | None:
    if node.op_type == "MaxPool":
        if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
            return "its indices are used"
        return "MaxPool takes int8 from opset 12 only" if opset < 12 else None
    if node.op_type in ("ReduceMax", "ReduceMin") and opset < 12:
        return f"{node.op_type} takes int8 from opset 12 only"
    if node.op_type == "Resize":
        crops = attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        return "Resize in int8 takes the nearest value only" if crops or not _nearest(node) else None
    if node.op_type == "Pad":
        return None if pads_zero(node) else "pads with another value than 0"
    if node.op_type == "HardSigmoid" and attribute(node, "alpha", 0.2) <= 0:
        return "HardSigmoid that does not rise"
    if node.op_type == "Softmax" and opset < 13:
        return "Softmax over several axes before opset 13"
    if node.op_type == "ReduceMean" and not averages_space(node):
        return "no int8 kernel for ReduceMean over other axes than all of the space"
    return None


def _nearest(node: ir.Node) -> bool:
    return bool(attribute(node, "mode", "nearest") == "nearest")


def pads_zero(node: ir.Node) -> bool:
    """Whether a Pad fills with zeros, or repeats what is there."""
    if attribute(node, "mode", "constant") != "constant":
        return True
    value = input_or_none(node, 2)
    filling = constant(value) if value is not None else np.zeros(1, np.float32)
    return filling is not None and not bool(np.any(filling))


def averages_space(node: ir.Node) -> bool:
    """Whether a ReduceMean averages over all axes behind the second, as GlobalAveragePool does."""
    x = node.inputs[0]
    dims = dims_of(x) if x is not None else None
    if dims is None or len(dims) < 3:
        return False
    stored = constant(input_or_none(node, 1)) if input_or_none(node, 1) is not None else attribute(node, "axes")
    if stored is None:
        return False
    return sorted(int(a) % len(dims) for a in stored) == list(range(2, len(dims)))


def weight_axis(node: ir.Node) -> int:
    """The axis of the output channels in the weight of a Conv, Gemm or MatMul."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    dims = dims_of(node.inputs[1]) if node.inputs[1] is not None else None
    return len(dims) - 1 if dims is not None else 1


def bounds_fit(node: ir.Node) -> bool:
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


def becomes_gemm(matmul: ir.Node, reader: ir.Node | None) -> bool:
    """Whether onnxruntime may make one Gemm of a MatMul and the Add behind it, a float one without a Q in between.

    It does for inputs of two axes; of more only if their shape is fixed.
    """
    x = matmul.inputs[0]
    dims = dims_of(x) if x is not None else None
    return is_op(reader, "Add") and (dims is None or len(dims) == 2 or all(isinstance(d, int) for d in dims))


def is_bias(node: ir.Node, matmul: ir.Node) -> bool:
    """Whether the Add holds one value per column of the MatMul, and onnxruntime makes one QGemm of the two."""
    weight, x = constant_tensor(matmul.inputs[1]), matmul.inputs[0]
    dims = dims_of(x) if x is not None else None
    if not becomes_gemm(matmul, node) or weight is None or dims is None or len(weight.shape) != 2:
        return False
    other = node.inputs[1] if node.inputs[0] is matmul.outputs[0] else node.inputs[0]
    bias = constant_tensor(other)
    if bias is None or bias.dtype != ir.DataType.FLOAT or constant_tensor(x) is not None:
        return False
    return _per_column(bias, int(weight.shape.numpy()[1])) and len(bias.shape) <= len(dims)


def _per_column(bias: ir.TensorProtocol, columns: int) -> bool:
    """[columns], or the same with axes of size 1 in front."""
    shape = bias.shape.numpy()
    return bool(shape) and shape[-1] == columns == math.prod(shape)


def scalar_factor(node: ir.Node) -> float | None:
    """The positive number by which a Mul or Div multiplies its first operand, or None."""
    if not is_op(node, "Mul", "Div") or constant_tensor(node.inputs[0]) is not None:
        return None
    x, tensor = node.inputs[0], constant_tensor(node.inputs[1])
    dims = dims_of(x) if x is not None else None
    if dims is None or tensor is None or tensor.size != 1 or len(tensor.shape) > len(dims):
        return None
    number = float(tensor.numpy().reshape(-1)[0])
    factor = number if node.op_type == "Mul" else (1 / number if number else math.inf)
    return factor if 1 / MASK <= factor <= MASK else None
