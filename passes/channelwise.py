"""Operators that compute each channel of a [N, C, H, W] from the same channel of their input, and nothing else.

1. On single elements (``UNARY``): finite numbers in, finite numbers out; Clip with constant finite bounds; Dropout in
   inference
2. MaxPool (without its indices), AveragePool and their global forms
3. Reductions over space that keep the dimensions
4. Pad in space by a constant amount with a finite value
5. Resize and Upsample in space, by constant scales or to constant sizes

None of them makes something infinite of zeros, which Log or Reciprocal would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, dims_of, input_or_none, is_op

RANK = 4
UNARY = frozenset({
    "Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Celu", "Softplus",
    "Softsign", "Gelu", "Mish", "Erf", "Abs", "Neg", "Identity", "Dropout",
})  # fmt: skip
_SIZES = 3  # the input of Resize that states the size of every axis


def is_channelwise(node: ir.Node) -> bool:
    """Whether the node is one of these, given that its input has four axes."""
    check = next((check for ops, check in _CHECKS if is_op(node, *ops)), None)
    return check is not None and not more_outputs(node) and check(node)


def is_finite_unary(node: ir.Node) -> bool:
    """Case 1, of any rank."""
    return is_op(node, *UNARY) and not more_outputs(node) and _unary(node)


def states_channels(node: ir.Node) -> bool:
    """Whether it is a Resize whose constant sizes name the number of channels too (at index 1 of input 3)."""
    sizes = constant(input_or_none(node, _SIZES)) if is_op(node, "Resize") else None
    return sizes is not None and sizes.size == RANK


def more_outputs(node: ir.Node) -> bool:
    """Whether outputs behind the first are used."""
    return any(o.uses() or o.is_graph_output() for o in node.outputs[1:])


def _unary(node: ir.Node) -> bool:
    if is_op(node, "Clip"):
        bounds = [constant(v) for v in node.inputs[1:] if v is not None]
        bounds += [np.asarray(attribute(node, k, 0.0)) for k in ("min", "max")]
        return all(b is not None and bool(np.isfinite(b).all()) for b in bounds)
    if is_op(node, "Dropout"):
        mode = input_or_none(node, 2)
        value = constant(mode)
        return mode is None or (value is not None and not value.any())
    return True


def _pool(node: ir.Node) -> bool:
    return True


def _reduction(node: ir.Node) -> bool:
    given = input_or_none(node, 1)
    axes = constant(given) if given is not None else attribute(node, "axes")
    return axes is not None and _spatial(axes) and bool(attribute(node, "keepdims", 1))


def _pad(node: ir.Node) -> bool:
    """From opset 11 the amounts and the value are inputs, from 18 the axes may be."""
    given, value, axes = (input_or_none(node, k) for k in (1, 2, 3))
    pads = constant(given) if given is not None else attribute(node, "pads")
    filled = constant(value) if value is not None else np.asarray(attribute(node, "value", 0.0))
    if pads is None or filled is None or not np.isfinite(filled).all():
        return False
    if axes is not None:
        listed = constant(axes)
        return listed is not None and _spatial(listed)
    amounts = np.asarray(pads)
    return amounts.size == 2 * RANK and not amounts.reshape(2, RANK)[:, :2].any()


def _resize(node: ir.Node) -> bool:
    if attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return False
    if (axes := attribute(node, "axes")) is not None:
        return _spatial(axes)
    given = input_or_none(node, 2 if len(node.inputs) > 2 else 1)
    scales = constant(given) if given is not None else attribute(node, "scales")
    if scales is not None and np.size(scales):
        return np.size(scales) == RANK and list(scales[:2]) == [1, 1]
    sizes = constant(input_or_none(node, _SIZES))
    dims = dims_of(node.inputs[0]) if node.inputs[0] is not None else None
    stretched = attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
    return sizes is not None and sizes.size == RANK and dims is not None and sizes[1] == dims[1] and stretched


def _spatial(axes: Iterable[int]) -> bool:
    listed = [int(a) for a in axes]
    return bool(listed) and all(a in (2, 3, -1, -2) for a in listed)


_CHECKS: tuple[tuple[Iterable[str], Callable[[ir.Node], bool]], ...] = (
    (UNARY, _unary),
    (("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    (("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"), _reduction),
    (("Pad",), _pad),
    (("Resize", "Upsample"), _resize),
)
