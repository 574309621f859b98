"""Fold a Pad into the ``pads`` of the Conv, AveragePool or MaxPool behind it.

1. Conv: a Pad of zeros; pads of the Conv plus those of the Pad; auto_pad VALID counts as no pads
2. AveragePool: the same, and count_include_pad = 1, since the zeros of the Pad were counted
3. MaxPool: a Pad of the least number of the type or minus infinity, as the pool's own pads count; or of a number that
   is at most 0, if what it pads is known not to be negative (``NOT_NEGATIVE``, also through ``KEEPS_SIGN``)

Between Q and DQ a Pad is computed in float by onnxruntime; in ``pads`` it costs nothing.

Not folded: the Pad fills with another value, or by another mode (4), crops (5), or pads the batch or channels (6); its
pads are not constant or its rank is unknown (7); somebody reads the Pad who cannot take it over, or it is an output of
the graph (8). auto_pad SAME depends on the padded size (9). A pool with ceil_mode, or with pads as large as its kernel;
an AveragePool with pads that it does not count, or of opset 6, where all are counted (10). A MaxPool that is dilated,
since a window might hold nothing but pads, or whose Indices are used (11).
Exact: the same zeros enter the same sums; each window of a MaxPool holds at least one number that is no pad.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, constant_tensor, dims_of, dtype_of, input_or_none, is_op, opset
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_TAKERS = ("Conv", "AveragePool", "MaxPool")
NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softplus", "Softmax", "Abs", "Exp", "Sqrt")
KEEPS_SIGN = ("Identity", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Transpose", "Reshape")
_FARTHEST = 4  # nodes back to one that is never negative


class FoldPad:
    """The rule (see the module's docstring)."""

    name = "fold_pad"
    ops = frozenset(_TAKERS)
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: Pad has inputs from opset 11, attributes before."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Fold the Pad in front of this layer."""
        pad = _pad_before(node)
        if pad is None or pad.graph is not node.graph:
            return None
        name, pads = node.name or "", spatial_pads(pad, state)
        if isinstance(pads, str):
            return Skip(name, f"Pad {pad.name!r} {pads}")
        if pad.outputs[0].is_graph_output():
            return Skip(name, f"the output of {pad.name!r} is an output of the graph")
        for use in pad.outputs[0].uses():
            taker = use.idx == 0 and is_op(use.node, *_TAKERS) and use.node.graph is pad.graph
            reason = _unfit(use.node, pad, pads, state) if taker else "reads it"
            if reason is not None:
                return Skip(name, f"Pad {pad.name!r} must stay: {use.node.op_type} {use.node.name!r} {reason}")
        return _rewrite(node, pad, pads, state)


def _pad_before(node: ir.Node) -> ir.Node | None:
    value = input_or_none(node, 0) if is_op(node, *_TAKERS) else None
    producer = value.producer() if value is not None else None
    return producer if is_op(producer, "Pad") else None


def spatial_pads(pad: ir.Node, version: int) -> list[int] | str:
    """Elements before each spatial axis, then behind each ([2 × axes], as ``pads`` of a Conv), or why not.

    Cases 4 to 7.
    """
    if attribute(pad, "mode", "constant") != "constant":
        return f"has mode {attribute(pad, 'mode')}"
    stored = constant(input_or_none(pad, 1)) if version >= 11 else attribute(pad, "pads" if version > 1 else "paddings")
    dims = dims_of(pad.outputs[0]) or (dims_of(pad.inputs[0]) if pad.inputs[0] is not None else None)
    chosen = input_or_none(pad, 3)
    if stored is None or (chosen is not None and constant_tensor(chosen) is None):
        return "has pads that are not constant"
    given = [int(p) for p in stored]
    if dims is None and chosen is not None:
        return "names its axes, and the rank is unknown"
    rank = len(dims) if dims is not None else len(given) // 2
    axes = constant(chosen) if chosen is not None else np.arange(rank)
    if axes is None or rank < 3 or len(given) != 2 * len(axes):
        return f"pads {len(given) // 2} axes"
    result = [0] * (2 * rank)
    for k, axis in enumerate(axes):
        result[int(axis) % rank] = given[k]
        result[int(axis) % rank + rank] = given[k + len(axes)]
    if any(p < 0 for p in result):
        return "crops"
    if any((*result[:2], *result[rank : rank + 2])):
        return "pads the batch or the channels"
    return result[2:rank] + result[rank + 2 :]


def _filling(pad: ir.Node, version: int) -> float | None:
    if version < 11:
        return float(attribute(pad, "value", 0.0))
    value = input_or_none(pad, 2)
    array = constant(value)
    return 0.0 if value is None else float(array.reshape(-1)[0]) if array is not None and array.size else None


def _unfit(node: ir.Node, pad: ir.Node, pads: list[int], version: int) -> str | None:
    """Cases 4 and 9 to 11."""
    filling = _filling(pad, version)
    if is_op(node, "MaxPool"):
        if any(pads) and not _below_all(filling, pad.inputs[0], version):
            return "takes the maximum, and the Pad's value may be larger than what it pads"
    elif filling != 0:
        return "takes only zeros, and the Pad fills with another value than 0, or one that is not constant"
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"has auto_pad {attribute(node, 'auto_pad')}"
    own = _own_pads(node, len(pads))
    if len(own) != len(pads):
        return "has pads for other axes"
    return None if is_op(node, "Conv") else _pool_unfit(node, own, pads, version)


def _pool_unfit(node: ir.Node, own: list[int], pads: list[int], version: int) -> str | None:
    """Cases 10 and 11."""
    kernel = attribute(node, "kernel_shape", ())
    average = is_op(node, "AveragePool")
    if average and version < 7:
        return "has no count_include_pad before opset 7"
    if attribute(node, "ceil_mode", 0):
        return "rounds its size up"
    if average and any(own) and not attribute(node, "count_include_pad", 0):
        return "does not count its own pads"
    if len(kernel) * 2 != len(pads) or any(a + b >= k for a, b, k in zip(own, pads, [*kernel, *kernel], strict=True)):
        return "would have pads as large as its kernel"
    if not average and any(d != 1 for d in attribute(node, "dilations", ())):
        return "is dilated"
    if not average and any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return "has Indices that are used, which count the pads"
    return None


def _below_all(filling: float | None, source: ir.Value | None, version: int) -> bool:
    """Case 3: whether no number that is padded is smaller than the filling."""
    dtype = dtype_of(source) if source is not None else None
    if filling is None or dtype is None or math.isnan(filling):
        return False
    if dtype.kind in "iu":
        return filling <= np.iinfo(dtype).min
    if dtype.kind != "f":
        return False
    return filling <= float(np.finfo(dtype).min) or (filling <= 0 and bool(_proof(source, version)))


def _proof(value: ir.Value | None, version: int) -> tuple[ir.Node, ...]:
    """The nodes, back to one that is never negative, by which this value is not either; () if that is not known."""
    found: list[ir.Node] = []
    for _ in range(_FARTHEST):
        node = value.producer() if value is not None else None
        if node is None or value is not node.outputs[0]:
            return ()
        found.append(node)
        if is_op(node, *NOT_NEGATIVE):
            return tuple(found)
        if is_op(node, "Clip"):
            low = attribute(node, "min") if version < 11 else constant(input_or_none(node, 1))
            return tuple(found) if low is not None and np.size(low) == 1 and np.reshape(low, -1)[0] >= 0 else ()
        if not is_op(node, *KEEPS_SIGN):
            return ()
        value = node.inputs[0]
    return ()


def _own_pads(node: ir.Node, count: int) -> list[int]:
    if attribute(node, "auto_pad", "NOTSET") == "VALID":
        return [0] * count
    return [int(p) for p in attribute(node, "pads", [0] * count)]


def _rewrite(node: ir.Node, pad: ir.Node, pads: list[int], version: int) -> Rewrite:
    attributes = dict(node.attributes)
    attributes.pop("auto_pad", None)
    total = [a + b for a, b in zip(_own_pads(node, len(pads)), pads, strict=True)]
    attributes["pads"] = ir.AttrInt64s("pads", total)
    if is_op(node, "AveragePool") and any(pads):
        attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
    output = node.outputs[0]
    new = ir.Node(
        "",
        node.op_type,
        inputs=[pad.inputs[0], *node.inputs[1:]],
        attributes=attributes.values(),
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape)],
        name=node.name,
    )
    proof = _proof(pad.inputs[0], version) if is_op(node, "MaxPool") else ()  # they stay; the check needs their values
    return Rewrite((node, pad, *proof), (new,), ((output, new.outputs[0]),))
