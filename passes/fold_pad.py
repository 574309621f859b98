"""Fold a Pad of zeros into the ``pads`` of the Conv or AveragePool behind it.

1. Conv: pads of the Conv plus those of the Pad; auto_pad VALID counts as no pads
2. AveragePool: the same, and count_include_pad = 1, since the zeros of the Pad were counted

Between Q and DQ a Pad is computed in float by onnxruntime; in ``pads`` it costs nothing.

Not folded: the Pad fills with anything but zeros, or by another mode (3), crops (4), or pads the batch or channels
(5); its pads are not constant or its rank is unknown (6); somebody reads the Pad who cannot take it over, or it is
an output of the graph (7). auto_pad SAME depends on the padded size (8). An AveragePool with pads that it does not
count, with ceil_mode, with pads as large as its kernel, or of opset 6, where all are counted (9).
MaxPool is left alone: the zeros of a Pad take part in its maximum, its own pads do not.
Exact: the same zeros enter the same sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, constant_tensor, dims_of, input_or_none, is_op, opset
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_TAKERS = ("Conv", "AveragePool")


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
        """Fold the Pad in front of this Conv or AveragePool."""
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
            reason = _unfit(use.node, pads, state) if taker else "reads it"
            if reason is not None:
                return Skip(name, f"Pad {pad.name!r} must stay: {use.node.op_type} {use.node.name!r} {reason}")
        return _rewrite(node, pad, pads)


def _pad_before(node: ir.Node) -> ir.Node | None:
    value = input_or_none(node, 0) if is_op(node, *_TAKERS) else None
    producer = value.producer() if value is not None else None
    return producer if is_op(producer, "Pad") else None


def spatial_pads(pad: ir.Node, version: int) -> list[int] | str:
    """Elements before each spatial axis, then behind each ([2 × axes], as ``pads`` of a Conv), or why not.

    Cases 3 to 6.
    """
    if attribute(pad, "mode", "constant") != "constant":
        return f"has mode {attribute(pad, 'mode')}"
    if _filling(pad, version) != 0:
        return "fills with another value than 0, or one that is not constant"
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


def _unfit(node: ir.Node, pads: list[int], version: int) -> str | None:
    """Cases 8 and 9."""
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return f"has auto_pad {attribute(node, 'auto_pad')}"
    own = _own_pads(node, len(pads))
    if len(own) != len(pads):
        return "has pads for other axes"
    if is_op(node, "Conv"):
        return None
    kernel = attribute(node, "kernel_shape", ())
    if version < 7:
        return "has no count_include_pad before opset 7"
    if attribute(node, "ceil_mode", 0):
        return "rounds its size up"
    if any(own) and not attribute(node, "count_include_pad", 0):
        return "does not count its own pads"
    if len(kernel) * 2 != len(pads) or any(a + b >= k for a, b, k in zip(own, pads, [*kernel, *kernel], strict=True)):
        return "would have pads as large as its kernel"
    return None


def _own_pads(node: ir.Node, count: int) -> list[int]:
    if attribute(node, "auto_pad", "NOTSET") == "VALID":
        return [0] * count
    return [int(p) for p in attribute(node, "pads", [0] * count)]


def _rewrite(node: ir.Node, pad: ir.Node, pads: list[int]) -> Rewrite:
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
    return Rewrite((node, pad), (new,), ((output, new.outputs[0]),))
