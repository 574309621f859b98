"""Write a reduction over all of space as the global pool that it is.

1. ReduceMean over every axis behind the channels, keepdims 1: GlobalAveragePool
2. ReduceMax likewise: GlobalMaxPool
3. ReduceMean or ReduceMax with keepdims 0, and an Unsqueeze that puts the axes back: the same
4. AveragePool and MaxPool whose kernel covers the whole map, without pads: the same

Runtimes know global pools in their layouts for Convs and in int8; of a reduction many know less. A global pool and the
Flatten behind it are left as they are: one ReduceMean in their place was 0 to 2 % slower in onnxruntime.

Not rewritten: other axes (5; those of networks that keep channels last), axes that are not constant, or an unknown rank
(6), rank below 3 or above 5 (7), another type than float or float16 (8), a kernel smaller than the map (9), Indices
that
are used (10), an inner value that others read (11).
Exact up to the order of the sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, dims_of, input_or_none, is_op, only_consumer, opset
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_POOLS = {
    "ReduceMean": "GlobalAveragePool",
    "AveragePool": "GlobalAveragePool",
    "ReduceMax": "GlobalMaxPool",
    "MaxPool": "GlobalMaxPool",
}
_AXES_INPUT_FROM = 18


class ReduceToPool:
    """The rule (see the module's docstring)."""

    name = "reduce_to_pool"
    ops = frozenset({*_POOLS, "Unsqueeze"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: the axes of reductions are an input from 18 on, those of Unsqueeze from 13 on."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Write this node as a global pool."""
        if is_op(node, "ReduceMean", "ReduceMax"):
            if not attribute(node, "keepdims", 1) or not _over_space(node, state):
                return None
            return _rewrite(node, node)
        if is_op(node, "AveragePool", "MaxPool"):
            return _whole_map(node)
        return _put_back(node, state) if is_op(node, "Unsqueeze") else None


def _rank(value: ir.Value | None) -> int:
    """0 where unknown, or where no pool takes the type."""
    if value is None or value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return 0
    return len(dims_of(value) or ())


def _axes(node: ir.Node, version: int, input_from: int) -> list[int] | None:
    found = attribute(node, "axes") if version < input_from else constant(input_or_none(node, 1))
    return None if found is None else [int(a) for a in np.reshape(found, -1)]


def _over_space(node: ir.Node, version: int) -> bool:
    """Cases 5 to 8."""
    rank = _rank(node.inputs[0])
    axes = _axes(node, version, _AXES_INPUT_FROM) or []
    return 3 <= rank <= 5 and sorted(a % rank for a in axes) == list(range(2, rank))


def _put_back(node: ir.Node, version: int) -> Answer:
    """Case 3."""
    value = node.inputs[0]
    reduced = value.producer() if value is not None else None
    if value is None or reduced is None or not is_op(reduced, "ReduceMean", "ReduceMax"):
        return None
    if attribute(reduced, "keepdims", 1) or not _over_space(reduced, version) or reduced.graph is not node.graph:
        return None
    rank = _rank(reduced.inputs[0])
    axes = _axes(node, version, 13)
    if axes is None or sorted(a % rank for a in axes) != list(range(2, rank)):
        return None
    if only_consumer(value) is not node:
        return Skip(node.name or "", f"what {reduced.name!r} gives is read by other nodes too, or is an output")
    return _rewrite(node, reduced)


def _whole_map(node: ir.Node) -> Answer:
    """Case 4."""
    source, kernel = node.inputs[0], attribute(node, "kernel_shape", ())
    dims = dims_of(source) if source is not None else None
    if dims is None or not 3 <= _rank(source) <= 5 or list(kernel) != list(dims[2:]):
        return None
    if any(attribute(node, "pads", ())) or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    if any(d != 1 for d in attribute(node, "dilations", ())):
        return None
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return Skip(node.name or "", "its Indices are used")
    return _rewrite(node, node)


def _rewrite(node: ir.Node, pool: ir.Node) -> Rewrite:
    output = node.outputs[0]
    new = ir.Node(
        "",
        _POOLS[pool.op_type],
        inputs=[pool.inputs[0]],
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape)],
        name=node.name,
    )
    return Rewrite((node,) if pool is node else (node, pool), (new,), ((output, new.outputs[0]),))
