"""Affine maps per channel, and the nodes that they commute with.

    f(s x + t) = s f(x) + t        for f one of

1. AveragePool, GlobalAveragePool,   weights that sum to 1; with zeros of pads that count (count_include_pad)
   ReduceMean, Resize                or may count (ceil_mode) only for t = 0; not over the channels; no crop of Resize
2. MaxPool, GlobalMaxPool,           s > 0; pads count as -inf
   ReduceMax, ReduceMin
3. Relu, LeakyRelu, PRelu, Abs       s > 0 and t = 0
4. Transpose, Reshape, Flatten,      the channels lie on another axis, or several elements of it belong to one channel
   Squeeze, Unsqueeze
5. DepthToSpace                      from its output to its input: a channel is made of several
6. Pad                               not of the channels; zeros only for t = 0
7. ReduceSum                         t = 0
8. Identity

A map that is one number commutes with views of any shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, attribute, constant, dims_of, input_or_none, is_op
from edgeopt.passes.fold_pads import amounts
from edgeopt.passes.fold_reduce_shape import reduced_axes

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_POOLS = ("AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool")
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum")
_POSITIVE = ("Relu", "LeakyRelu", "PRelu", "Abs")
_OTHERS = ("Transpose", "Identity", "DepthToSpace", "Pad", "Resize")
COMMUTING = frozenset({*_POOLS, *_REDUCTIONS, *_POSITIVE, *_OTHERS, *VIEWS})
_MOST_ELEMENTS = 1 << 22  # of one sample, that a view is followed through


@dataclass(frozen=True)
class Channels:
    """y = scale x + shift, by the channels of one axis.

    Attributes:
        axis: Counted from the end: negative; None if scale and shift are one number.
        scale: Float64, [C] or [1].
        shift: The same size.
    """

    axis: int | None
    scale: Array
    shift: Array

    def values(self, axis: int, count: int) -> tuple[Array, Array] | None:
        """Scale and shift of each of ``count`` channels on this axis (from the end); None if they lie elsewhere."""
        if self.axis is None:
            return np.full(count, self.scale[0]), np.full(count, self.shift[0])
        return (self.scale, self.shift) if self.axis == axis and len(self.scale) == count else None


UNCHANGED = Channels(None, np.ones(1), np.zeros(1))


def rank_of(value: ir.Value | None) -> int | None:
    """From its dims, else from the layer that makes it."""
    dims = dims_of(value) if value is not None else None
    if dims is not None or value is None:
        return None if dims is None else len(dims)
    producer = value.producer()
    if is_op(producer, "Gemm"):
        return 2
    if producer is not None and is_op(producer, "Conv", "ConvTranspose"):
        weight = constant(input_or_none(producer, 1))
        return None if weight is None else weight.ndim
    return None


def by_channel(scale: Array, shift: Array, rank: int | None, most: int = 0) -> Channels | None:
    """The map by the channels of one axis; None if it varies along several, or raises the rank.

    Args:
        scale: Broadcasts against x.
        shift: The same.
        rank: Of x; None if unknown.
        most: The least rank that x is known to have, then.
    """
    if max(scale.ndim, shift.ndim) > (most if rank is None else rank):
        return None
    shape = np.broadcast_shapes(scale.shape, shift.shape)
    wide = [k for k, d in enumerate(shape) if d != 1]
    if not wide:
        return Channels(None, scale.reshape(1), shift.reshape(1))
    if len(wide) > 1:
        return None
    count = shape[wide[0]]
    flat = [np.broadcast_to(a.reshape(-1), (count,)) for a in (scale, shift)]
    return Channels(wide[0] - len(shape), *flat)


def composed(inner: Channels, outer: Channels) -> Channels | None:
    """``outer`` of ``inner``; None if they lie on different axes."""
    if inner.axis is not None and outer.axis is not None and inner.axis != outer.axis:
        return None
    if inner.axis is not None and outer.axis is not None and len(inner.scale) != len(outer.scale):
        return None
    axis = outer.axis if inner.axis is None else inner.axis
    with np.errstate(all="ignore"):
        scale, shift = np.broadcast_arrays(inner.scale * outer.scale, inner.shift * outer.scale + outer.shift)
    return Channels(axis, scale, shift)


def through(node: ir.Node, map_: Channels, *, up: bool) -> Channels | str | None:
    """The map on the other side of a node that it commutes with; why it does not; None for other nodes.

    Args:
        node: Any.
        map_: On its output if ``up``, else on its first input.
        up: From the output to the input.
    """
    source, output = input_or_none(node, 0), node.outputs[0]
    if source is None or not is_op(node, *COMMUTING) or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return None
    if node.op_type in _POSITIVE:
        fits = (map_.scale > 0).all() and not map_.shift.any()
        return map_ if fits else f"{node.op_type} {node.name!r} commutes with positive factors only"
    if node.op_type == "Identity":
        return map_
    if node.op_type in _POOLS:
        return _pool(node, map_, rank_of(source) or rank_of(output))
    if node.op_type == "Transpose":
        return _transposed(node, map_, rank_of(source) or rank_of(output), up)
    if node.op_type in _REDUCTIONS:
        return _reduction(node, map_, rank_of(source), up)
    if node.op_type == "DepthToSpace":
        return _depth_to_space(node, map_, up)
    if node.op_type == "Pad":
        return _pad(node, map_)
    if node.op_type == "Resize":
        return _resize(node, map_, source)
    if map_.axis is None:
        return map_
    return _view(node, map_, output if up else source, source if up else output)


def _pool(node: ir.Node, map_: Channels, rank: int | None) -> Channels | str:
    if map_.axis is not None and (rank is None or map_.axis not in (1 - rank, -rank)):
        return f"it changes another axis than the channels of {node.op_type} {node.name!r}"
    if "Max" in node.op_type:
        return map_ if (map_.scale > 0).all() else f"{node.op_type} {node.name!r} commutes with positive factors only"
    padded = any(attribute(node, "pads", [])) or "auto_pad" in node.attributes
    counted = (attribute(node, "count_include_pad", 0) and padded) or attribute(node, "ceil_mode", 0)
    if counted and map_.shift.any():
        return f"the pads of {node.op_type} {node.name!r} count as zeros"
    return map_


def _reduction(node: ir.Node, map_: Channels, rank: int | None, up: bool) -> Channels | str:
    what = f"{node.op_type} {node.name!r}"
    if node.op_type in ("ReduceMax", "ReduceMin") and not (map_.scale > 0).all():
        return f"{what} commutes with positive factors only"
    if node.op_type == "ReduceSum" and map_.shift.any():
        return f"{what} adds the shift up"
    if map_.axis is None:
        return map_
    axes = reduced_axes(node)
    if rank is None or axes is None:
        return f"the axes of {what} are unknown"
    kept = [k for k in range(rank) if k not in axes or attribute(node, "keepdims", 1)]
    here = len(kept) + map_.axis if up else rank + map_.axis
    if here < 0:
        return f"it changes no axis of {what}"
    inside = kept[here] if up else here
    if inside in axes:
        return f"{what} is over the axis that it changes"
    return Channels(inside - rank if up else kept.index(inside) - len(kept), map_.scale, map_.shift)


def _depth_to_space(node: ir.Node, map_: Channels, up: bool) -> Channels | str:
    if map_.axis is None:
        return map_
    if not up or map_.axis != -3:
        return f"DepthToSpace {node.name!r} makes one channel of several"
    parts = int(attribute(node, "blocksize", 1)) ** 2
    if attribute(node, "mode", "DCR") == "CRD":
        return Channels(-3, np.repeat(map_.scale, parts), np.repeat(map_.shift, parts))
    return Channels(-3, np.tile(map_.scale, parts), np.tile(map_.shift, parts))


def _pad(node: ir.Node, map_: Channels) -> Channels | str:
    added = amounts(node, 11 if input_or_none(node, 1) is not None else 10)
    if isinstance(added, str):
        return f"Pad {node.name!r} {added}"
    if map_.axis is not None and (added.shape[1] + map_.axis < 0 or added[:, map_.axis].any()):
        return f"Pad {node.name!r} is along the axis that it changes"
    value = input_or_none(node, 2)
    stored = constant(value) if value is not None else np.asarray(attribute(node, "value", 0.0))
    zeros = stored is not None and not stored.any() and not map_.shift.any()
    if attribute(node, "mode", "constant") == "constant" and not zeros:
        return f"the border that Pad {node.name!r} adds would change"
    return map_


def _resize(node: ir.Node, map_: Channels, source: ir.Value) -> Channels | str:
    if len(node.inputs) < 3 or attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return f"Resize {node.name!r} crops, or is of an early opset"
    if map_.axis is None:
        return map_
    dims, others = dims_of(source), dims_of(node.outputs[0])
    if dims is None or others is None or len(dims) + map_.axis < 0:
        return f"the dims around Resize {node.name!r} are unknown"
    if not dims[map_.axis] == others[map_.axis] == len(map_.scale):
        return f"Resize {node.name!r} is along the axis that it changes"
    return map_


def _transposed(node: ir.Node, map_: Channels, rank: int | None, up: bool) -> Channels | str:
    if map_.axis is None:
        return map_
    perm: Sequence[int] | None = attribute(node, "perm")
    perm = list(perm) if perm is not None else None if rank is None else list(range(rank))[::-1]
    if perm is None or len(perm) + map_.axis < 0:
        return f"the rank of {node.name!r} is unknown"
    here = len(perm) + map_.axis
    there = perm[here] if up else perm.index(here)
    return Channels(there - len(perm), map_.scale, map_.shift)


def _view(node: ir.Node, map_: Channels, here: ir.Value, there: ir.Value) -> Channels | str:
    """Case 4: find the axis whose elements make up the same block of memory as the channels' axis."""
    dims, others = dims_of(here), dims_of(there)
    if map_.axis is None or dims is None or others is None or len(dims) + map_.axis < 0:
        return f"the dims around {node.op_type} {node.name!r} are unknown"
    tail = [d for d in dims[len(dims) + map_.axis :] if isinstance(d, int)]
    if len(tail) != -map_.axis or tail[0] != len(map_.scale) or not 0 < math.prod(tail) <= _MOST_ELEMENTS:
        return f"the dims around {node.op_type} {node.name!r} are open"
    block = 1
    for axis in range(-1, -len(others) - 1, -1):
        size = others[axis]
        if not isinstance(size, int) or size < 1:
            break
        inner, block = block, block * size
        if block == math.prod(tail) and size > 1:
            parts = [np.repeat(a, math.prod(tail[1:])).reshape(size, inner) for a in (map_.scale, map_.shift)]
            if all((p == p[:, :1]).all() for p in parts):
                return Channels(axis, *(np.ascontiguousarray(p[:, 0]) for p in parts))
    return f"{node.op_type} {node.name!r} puts several channels into one"


def copy_of(node: ir.Node, source: ir.Value) -> ir.Node:
    """The node with another first input."""
    outputs = [
        ir.Value(name=o.name, type=o.type, shape=o.shape.copy() if o.shape is not None else None) for o in node.outputs
    ]
    return ir.Node(
        "",
        node.op_type,
        inputs=[source, *node.inputs[1:]],
        attributes=list(node.attributes.values()),
        outputs=outputs,
        name=node.name,
    )
