"""Remove nodes that hand on their input unchanged.

 1. Identity; Dropout in inference (mask unused)
 2. Cast to the type it already has
 3. Reshape, Expand, Tile whose output has the (fixed) shape of its input
 4. Transpose by the identity permutation
 5. Concat, Sum, Mean, Max, Min of one input; Split into one part
 6. Unsqueeze of no axes; Squeeze where no dimension is 1
 7. Flatten of a matrix at axis 1
 8. Pad by zeros everywhere
 9. Slice, Resize that keep every dimension (fixed shapes, or Slice from 0 to beyond any end; forwards with step 1;
    Resize and Upsample by scale 1)
10. x + 0, 0 + x, x - 0, x * 1, 1 * x, x / 1, x ** 1, when the constant does not broadcast x to a larger shape
11. Clip without bounds
12. MaxPool, AveragePool of one element with stride 1 and no padding; GlobalAveragePool, GlobalMaxPool of one element
13. x and true, x or false, x xor false, when the constant does not broadcast x
14. Where by a constant condition, or with the same value on both sides, when the result has that value's shape
15. Expand to ones only, of no more axes than its input has

A node whose removal would turn a graph output into a copy of an input or initializer stays: the driver refuses it.
Near misses that are kept: 0 - x, 1 / x, 1 ** x; adding 0 to a scalar of another rank; Dropout that trains; 0 * x (NaN
and infinity show); Resize in a mode whose coordinates shift even by scale 1; LpPool, which takes the magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, attribute, constant, dims_of, input_or_none, is_op, opset, static_shape
from edgeopt.passes.slicing import END, parts_of
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite


def _always(node: ir.Node) -> bool:
    return True


def _dropout(node: ir.Node) -> bool:
    """Opset 12 and later: training_mode is an input; before 7: the attribute is_test."""
    mode = input_or_none(node, 2)
    if mode is not None:
        value = constant(mode)
        return value is not None and not value.any()
    return True


def _cast(node: ir.Node) -> bool:
    source = node.inputs[0]
    return source is not None and source.dtype is not None and attribute(node, "to") == source.dtype.value


def _same_shape(node: ir.Node) -> bool:
    """Fixed and equal, so that no runtime value can make a difference."""
    source = node.inputs[0]
    before = static_shape(source) if source is not None else None
    return before is not None and before == static_shape(node.outputs[0])


def _reshape(node: ir.Node) -> bool:
    return _same_shape(node)


def _tile(node: ir.Node) -> bool:
    repeats = constant(input_or_none(node, 1))
    return repeats is not None and bool((repeats == 1).all())


def _transpose(node: ir.Node) -> bool:
    perm = attribute(node, "perm")
    if perm is not None:
        return list(perm) == list(range(len(perm)))
    dims = dims_of(node.inputs[0]) if node.inputs[0] is not None else None
    return dims is not None and len(dims) <= 1


def _single_input(node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _single_output(node: ir.Node) -> bool:
    return len(node.outputs) == 1


def _squeeze(node: ir.Node) -> bool:
    """Runtimes disagree on what an empty list of axes means; without a 1 there is nothing to remove either way."""
    shape = static_shape(node.inputs[0]) if node.inputs[0] is not None else None
    return shape is not None and 1 not in shape


def _no_axes(node: ir.Node) -> bool:
    axes = input_or_none(node, 1)
    if axes is not None:
        value = constant(axes)
        return value is not None and value.size == 0
    listed = attribute(node, "axes")
    return listed is not None and len(listed) == 0


def _flatten(node: ir.Node) -> bool:
    dims = dims_of(node.inputs[0]) if node.inputs[0] is not None else None
    axis = attribute(node, "axis", 1)
    return dims is not None and len(dims) == 2 and axis in (1, -1)


def _pad(node: ir.Node) -> bool:
    given = input_or_none(node, 1)
    pads = constant(given) if given is not None else attribute(node, "pads", attribute(node, "paddings"))
    return pads is not None and not np.any(np.asarray(pads))


def _expand(node: ir.Node) -> bool:
    shape, dims = constant(input_or_none(node, 1)), dims_of(node.inputs[0]) if node.inputs[0] is not None else None
    if shape is not None and dims is not None and len(shape) <= len(dims) and (shape == 1).all():
        return True
    return _same_shape(node)


def _slice(node: ir.Node) -> bool:
    """Equal shapes with step 1 mean the whole: a slice cannot shift without losing an element."""
    if not _same_shape(node):
        parts = parts_of(node, 10 if len(node.inputs) > 1 else 9)
        return parts is not None and all(p[0] == 0 and p[1] >= END and p[2] == 1 for p in parts.values())
    if (given := input_or_none(node, 4)) is None:
        return True
    steps = constant(given)
    return steps is not None and bool((steps == 1).all())


def _resize(node: ir.Node) -> bool:
    """By scales that are all 1; the sizes form may still shift by its coordinate mode."""
    scales = constant(input_or_none(node, 2) if len(node.inputs) > 2 else input_or_none(node, 1))
    shifts = attribute(node, "coordinate_transformation_mode") in ("tf_crop_and_resize", "tf_half_pixel_for_nn")
    return scales is not None and scales.size > 0 and scales.dtype.kind == "f" and not shifts and (scales == 1).all()


def _upsample(node: ir.Node) -> bool:
    scales = constant(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "scales")
    return scales is not None and len(scales) > 0 and all(s == 1 for s in scales)


def _clip(node: ir.Node) -> bool:
    bounds = [input_or_none(node, k) for k in (1, 2)]
    return all(b is None for b in bounds) and "min" not in node.attributes and "max" not in node.attributes


def _pool(node: ir.Node) -> bool:
    if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return False
    values = [attribute(node, k, ()) for k in ("kernel_shape", "strides", "dilations")]
    padded = any(attribute(node, "pads", ())) or attribute(node, "auto_pad", "NOTSET") != "NOTSET"
    return bool(values[0]) and all(v == 1 for vs in values for v in vs) and not padded


def _global_pool(node: ir.Node) -> bool:
    dims = dims_of(node.inputs[0]) if node.inputs[0] is not None else None
    return dims is not None and len(dims) > 2 and all(d == 1 for d in dims[2:])


_UNARY: dict[str, Callable[[ir.Node], bool]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "Reshape": _reshape,
    "Expand": _expand,
    "Tile": _tile,
    "Transpose": _transpose,
    "Concat": _single_input,
    "Sum": _single_input,
    "Mean": _single_input,
    "Max": _single_input,
    "Min": _single_input,
    "Split": _single_output,
    "Squeeze": _squeeze,
    "Unsqueeze": _no_axes,
    "Flatten": _flatten,
    "Pad": _pad,
    "Slice": _slice,
    "Resize": _resize,
    "Upsample": _upsample,
    "Clip": _clip,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
}
# Neutral element, and the positions at which it may stand.
_NEUTRAL = {
    **{"Add": (0, (0, 1)), "Sub": (0, (1,)), "Mul": (1, (0, 1)), "Div": (1, (1,)), "Pow": (1, (1,))},
    **{"And": (1, (0, 1)), "Or": (0, (0, 1)), "Xor": (0, (0, 1))},
}


def _neutral_operand(node: ir.Node) -> ir.Value | None:
    """Cases 10 and 13: the operand that the node hands on."""
    neutral, positions = _NEUTRAL[node.op_type]
    for position in positions:
        if len(node.inputs) != 2 or (other := node.inputs[1 - position]) is None:
            return None
        value = constant(node.inputs[position])
        if value is None or value.dtype.kind not in "bfiuV" or value.size == 0 or not bool((value == neutral).all()):
            continue
        if _broadcasts(other, value):
            continue
        return other
    return None


def _broadcasts(x: ir.Value, value: Array) -> bool:
    """Whether the constant's shape may enlarge x."""
    dims = dims_of(x)
    if dims is None or value.ndim > len(dims):
        return True
    tail = dims[len(dims) - value.ndim :]
    return any(size != 1 and size != dim for size, dim in zip(value.shape, tail, strict=True))


def _chosen(node: ir.Node) -> ir.Value | None:
    """Case 14: what a Where hands on."""
    condition, (yes, no) = constant(node.inputs[0]), node.inputs[1:3]
    kept = yes if yes is no or (condition is not None and condition.all()) else no
    sure = yes is no or (condition is not None and condition.size > 0 and bool(condition.all() or not condition.any()))
    if kept is None or not sure:
        return None
    dims = dims_of(kept)
    return kept if dims is not None and None not in dims and dims == dims_of(node.outputs[0]) else None


class RemoveNoops:
    """The rule (see the module's docstring)."""

    name = "remove_noops"
    ops = frozenset(_UNARY) | frozenset(_NEUTRAL) | {"Where"}
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: a Dropout below 7 trains unless is_test=1; a Pow or Add below 7 broadcasts by attribute."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Hand on the input in place of the node's output."""
        if not is_op(node, *self.ops) or not node.inputs or node.inputs[0] is None:
            return None
        if node.op_type in _NEUTRAL:
            kept = _neutral_operand(node) if state >= 7 else None
        elif node.op_type == "Where":
            kept = _chosen(node)
        else:
            if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
                return None
            if node.op_type == "Dropout" and state < 7 and not attribute(node, "is_test", 0):
                return None
            kept = node.inputs[0] if _UNARY[node.op_type](node) else None
        if kept is None or (kept.dtype is not None and node.outputs[0].dtype not in (None, kept.dtype)):
            return None
        return Rewrite((node,), (), ((node.outputs[0], kept),))
