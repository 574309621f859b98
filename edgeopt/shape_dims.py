"""Dims of what a node gives, operator by operator, where ONNX's own inference says too little.

Each rule takes whom to ask (``Known``), the node and which output. None where nothing is known, or for a dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from edgeopt import sizes
from edgeopt.graph import attribute, constant, input_or_none
from edgeopt.shape_known import FLOATS, Known, broadcast, fixed_axes, product, slice_bounds
from edgeopt.sizes import Size

SAME_SHAPE = frozenset(
    {
        "Identity",
        "Cast",
        "CastLike",
        "Dropout",
        "BatchNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "GroupNormalization",
        "LpNormalization",
        "MeanVarianceNormalization",
        "LRN",
        "Relu",
        "LeakyRelu",
        "PRelu",
        "ThresholdedRelu",
        "Elu",
        "Celu",
        "Selu",
        "Gelu",
        "Mish",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Swish",
        "Tanh",
        "Softplus",
        "Softsign",
        "Softmax",
        "LogSoftmax",
        "Hardmax",
        "Clip",
        "Abs",
        "Neg",
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Floor",
        "Ceil",
        "Round",
        "Sign",
        "Erf",
        "Sin",
        "Cos",
        "Tan",
        "Asin",
        "Acos",
        "Atan",
        "Sinh",
        "Cosh",
        "Asinh",
        "Acosh",
        "Atanh",
        "Not",
        "IsNaN",
        "IsInf",
        "BitwiseNot",
        "QuantizeLinear",
        "DequantizeLinear",
        "CumSum",
        "Trilu",
        "ReverseSequence",
        "Shrink",
    }
)
BROADCAST = frozenset(
    {
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Mod",
        "Min",
        "Max",
        "Sum",
        "Mean",
        "And",
        "Or",
        "Xor",
        "Equal",
        "Less",
        "Greater",
        "LessOrEqual",
        "GreaterOrEqual",
        "Where",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "BitShift",
    }
)


def _transposed(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims = of.dims(input_or_none(node, 0))
    if dims is None:
        return None
    perm = attribute(node, "perm", list(range(len(dims)))[::-1])
    return [dims[p] for p in perm] if sorted(perm) == list(range(len(dims))) else None


def _joined(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    shapes = [of.dims(v) for v in node.inputs]
    known = [s for s in shapes if s is not None]
    axis = attribute(node, "axis", 1)
    if not known or any(len(s) != len(known[0]) for s in known) or not -len(known[0]) <= axis < len(known[0]):
        return None
    result: list[Size | None] = []
    for k in range(len(known[0])):
        given = [s[k] for s in known]
        if k == axis % len(known[0]):
            total: Size | None = sizes.number(0) if len(known) == len(shapes) else None
            for size in given:
                total = sizes.add(total, size) if total is not None else None
            result.append(total)
        else:
            result.append(next((g for g in given if g.integer is not None), given[0]))
    return result


def _target(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    """Reshape."""
    data, dims = of.data(input_or_none(node, 1)), of.dims(input_or_none(node, 0))
    if data is None or data.scalar:
        return None
    result: list[Size | None] = []
    open_ = None
    for k, e in enumerate(data.elements):
        if not isinstance(e, Size):
            result.append(None)
        elif e.integer == -1:
            open_ = k
            result.append(None)
        elif e.integer == 0 and not attribute(node, "allowzero", 0):
            result.append(dims[k] if dims is not None and k < len(dims) else None)
        else:
            result.append(e)
    if open_ is not None and dims is not None:
        others = product([r for k, r in enumerate(result) if k != open_])
        total = product(dims)
        found = sizes.quotient(total, others) if total is not None and others is not None else None
        result[open_] = found if found is not None and found.whole else None
    return result


def _expanded(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    data, dims = of.data(input_or_none(node, 1)), of.dims(input_or_none(node, 0))
    wanted = data.numbers() if data is not None and not data.scalar else None
    return broadcast([tuple(wanted), dims]) if wanted is not None and dims is not None else None


def _resized(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims = of.dims(input_or_none(node, 0))
    if dims is None or attribute(node, "axes") is not None:
        return None
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        data = of.data(node.inputs[3])
        plain = attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
        if data is None or not plain or len(data.elements) != len(dims):
            return None
        return [e if isinstance(e, Size) else None for e in data.elements]
    if attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    given = input_or_none(node, 2 if len(node.inputs) > 2 else 1)
    data = of.data(given)
    scales = data.numbers() if data is not None and data.dtype in FLOATS else None
    if scales is None or len(scales) != len(dims):
        return None
    result: list[Size | None] = []
    for size, scale in zip(dims, scales, strict=True):
        scaled = sizes.multiply(size, scale) if scale.integer is not None else None
        result.append(scaled)
    return result


def _windowed(of: Known, node: ir.Node, index: int) -> Sequence[Size | None] | None:
    """Conv and pooling."""
    dims = of.dims(input_or_none(node, 0))
    if dims is None or len(dims) < 3:
        return None
    spatial = len(dims) - 2
    channels: Size | None = dims[1]
    kernel = attribute(node, "kernel_shape")
    if node.op_type == "Conv":
        weight = of.dims(input_or_none(node, 1))
        if weight is None or len(weight) != len(dims):
            return None
        channels = weight[0]
        found = [w.integer for w in weight[2:]]
        kernel = kernel or [k for k in found if k is not None]
    strides, dilations = (attribute(node, k, [1] * spatial) for k in ("strides", "dilations"))
    pads, auto = attribute(node, "pads", [0] * 2 * spatial), attribute(node, "auto_pad", "NOTSET")
    if not kernel or len(kernel) != spatial or attribute(node, "ceil_mode", 0):
        return [dims[0], channels, *[None] * spatial]
    result: list[Size | None] = []
    for k in range(spatial):
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            up = sizes.add(dims[2 + k], sizes.number(strides[k] - 1))
            result.append(sizes.floor_divide(up, sizes.number(strides[k])) if up is not None else None)
            continue
        around = pads[k] + pads[k + spatial] if auto == "NOTSET" else 0
        room = sizes.add(dims[2 + k], sizes.number(around - dilations[k] * (kernel[k] - 1) - 1))
        steps = sizes.floor_divide(room, sizes.number(strides[k])) if room is not None else None
        result.append(sizes.add(steps, sizes.number(1)) if steps is not None else None)
    return [dims[0], channels, *result]


def _pooled(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims = of.dims(input_or_none(node, 0))
    return None if dims is None else [*dims[:2], *[sizes.number(1)] * (len(dims) - 2)]


def _flattened(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims, axis = of.dims(input_or_none(node, 0)), attribute(node, "axis", 1)
    if dims is None:
        return None
    axis = axis + len(dims) if axis < 0 else axis
    return [product(dims[:axis]), product(dims[axis:])]


def _with_axes(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims, axes = of.dims(input_or_none(node, 0)), fixed_axes(node)
    if dims is None or axes is None:
        return None
    rank = len(dims) + len(axes)
    wanted = {a % rank for a in axes}
    rest = iter(dims)
    return [sizes.number(1) if k in wanted else next(rest) for k in range(rank)] if len(wanted) == len(axes) else None


def _without_axes(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims, axes = of.dims(input_or_none(node, 0)), fixed_axes(node)
    if dims is None or axes is None:
        return None
    gone = {a % len(dims) for a in axes} if dims else set()
    return [d for k, d in enumerate(dims) if k not in gone]


def _sliced(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims, bounds = of.dims(input_or_none(node, 0)), slice_bounds(node, of)
    if dims is None or bounds is None:
        return list((None,) * len(dims)) if dims is not None else None
    result: list[Size | None] = list(dims)
    for axis, start, end, step in bounds:
        k = axis % len(dims)
        whole = step == 1 and start == sizes.number(0) and (end == dims[k] or (end.integer or 0) >= 2**31 - 1)
        if not whole:
            result[k] = None
    return result


def _picked(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims, indices, axis = of.dims(input_or_none(node, 0)), of.dims(input_or_none(node, 1)), attribute(node, "axis", 0)
    if dims is None or indices is None or not dims:
        return None
    k = axis % len(dims)
    return [*dims[:k], *indices, *dims[k + 1 :]]


def _multiplied(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    a, b = of.dims(input_or_none(node, 0)), of.dims(input_or_none(node, 1))
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    batch = broadcast([a[:-2], b[:-2]])
    return [*batch, a[-2], b[-1]] if batch is not None else None


def _gemm(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    a, b = of.dims(input_or_none(node, 0)), of.dims(input_or_none(node, 1))
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    return [a[1 if attribute(node, "transA", 0) else 0], b[0 if attribute(node, "transB", 0) else 1]]


def _split(of: Known, node: ir.Node, index: int) -> Sequence[Size | None] | None:
    dims, axis = of.dims(input_or_none(node, 0)), attribute(node, "axis", 0)
    if dims is None or not dims:
        return None
    listed = input_or_none(node, 1)
    lengths = constant(listed) if listed is not None else attribute(node, "split")
    part = None if lengths is None else sizes.number(int(np.asarray(lengths).reshape(-1)[index]))
    return [part if k == axis % len(dims) else d for k, d in enumerate(dims)]


def _padded(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims, given = of.dims(input_or_none(node, 0)), input_or_none(node, 1)
    pads = constant(given) if given is not None else attribute(node, "pads")
    if dims is None or pads is None or input_or_none(node, 3) is not None or len(pads) != 2 * len(dims):
        return None
    return [
        d if not (a or b) else sizes.add(d, sizes.number(int(a) + int(b)))
        for d, a, b in zip(dims, pads[: len(dims)], pads[len(dims) :], strict=True)
    ]


def _filled_dims(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    data = of.data(input_or_none(node, 0))
    return None if data is None or data.scalar else [e if isinstance(e, Size) else None for e in data.elements]


def _rank(of: Known, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims = of.dims(input_or_none(node, 0))
    if dims is None:
        return None
    start, end = attribute(node, "start", 0), attribute(node, "end", len(dims))
    return [sizes.number(len(dims[slice(start, end)]))]


def _carried(of: Known, node: ir.Node, index: int) -> Sequence[Size | None] | None:
    """Loop: what it carries, where a trip gives the dims that it was given."""
    given, body = input_or_none(node, index + 2), attribute(node, "body")
    if body is None or index + 3 > len(body.inputs) or index + 1 >= len(body.outputs):
        return None
    start, end = of.dims(given), of.dims(body.outputs[index + 1])
    if start is None or end is None or len(start) != len(end):
        return None
    return [a if a == b and a.integer is not None else None for a, b in zip(start, end, strict=True)]


DIMS: dict[str, Callable[[Known, ir.Node, int], Sequence[Size | None] | None]] = {
    "Transpose": _transposed,
    "Concat": _joined,
    "Reshape": _target,
    "Expand": _expanded,
    "Resize": _resized,
    "Conv": _windowed,
    "MaxPool": _windowed,
    "AveragePool": _windowed,
    "GlobalAveragePool": _pooled,
    "GlobalMaxPool": _pooled,
    "Flatten": _flattened,
    "Unsqueeze": _with_axes,
    "Squeeze": _without_axes,
    "Slice": _sliced,
    "Gather": _picked,
    "MatMul": _multiplied,
    "Gemm": _gemm,
    "Split": _split,
    "Pad": _padded,
    "ConstantOfShape": _filled_dims,
    "Shape": _rank,
    "Loop": _carried,
}
