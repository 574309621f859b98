"""Fold affine maps per channel into the layers that read their results.

    W (s x + t) + b = (W s) x + (b + W t)        s and t constant, one number or one per channel

The map is read from BatchNormalization, Mul, Div, Add, Sub and Neg with constants, also several in a row (``affine``);
the layer is a Conv, ConvTranspose, Gemm or MatMul with constant weights (``affine_layers``):

1. the layer reads the map's result itself
2. between the two lies what the map commutes with (``affine_paths``): pools, Relu with s > 0, views, Transpose
3. several layers read the result: all of them must be able to take it in; each does so in a rewrite of its own
4. a padded Conv, whose border a shift cannot reach, takes s: s x + t = s (x + t / s). The Add stays, so that this is
   done only where two or more nodes make up the map
5. a MatMul has no bias: of two matrices it becomes a Gemm; else an Add behind takes W t, and is made only where the map
   has two or more nodes

Not folded: somebody else reads the result, or it is an output of the graph (6), a value between is read elsewhere (7),
weights are not constant, as those from DequantizeLinear (8), the map varies along other axes, or enlarges what it
meets (9), shared large weights (10), overflow (11), integers (12), a shift before a ConvTranspose or a padded Conv
(13), scale and shift of a normalization by mean and deviation, which runtimes and other passes look for as a whole
(14).
Maps behind a layer that can take them in (``fold_affine_after``) are left to it: it comes first.
Exact up to float rounding; computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import constant_tensor, constant_value, dims_of, input_or_none, is_op, opset
from edgeopt.passes import affine, affine_layers
from edgeopt.passes.affine_layers import LAYERS, Folded
from edgeopt.passes.affine_paths import Channels, by_channel, copy_of, rank_of, through
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_LONGEST = 8  # nodes between the map and the layer
_MOST_READERS = 16
_BROADCASTS = 7  # the opset from which on operators broadcast as numpy does
_GEMM_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class _Before:
    """What a layer reads: the map, and the nodes on the way from it, the last first."""

    total: affine.Affine
    map: Channels
    way: tuple[ir.Node, ...]


class FoldAffineBefore:
    """The rule (see the module's docstring)."""

    name = "fold_affine_before"
    ops = LAYERS
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Fold the map before this layer into it."""
        if not is_op(node, *LAYERS):
            return None
        data = 1 if is_op(node, "MatMul") and constant_tensor(input_or_none(node, 0)) is not None else 0
        found = _before(node, data, state)
        if found is None:
            return None
        name = node.name or ""
        if isinstance(found, str):
            return Skip(name, found)
        if _of_normalization(found.total.source):
            return Skip(name, f"what {found.total.node.name!r} does before it belongs to a normalization")
        moved = _moved(found)
        if isinstance(moved, str):
            return Skip(name, moved)
        if (reason := _other_readers(found, node)) is not None:
            return Skip(name, reason)
        folded = affine_layers.before(node, data, moved)
        if isinstance(folded, Folded):
            return _rewrite(node, found, folded, state)
        split = _scale_only(node, found, state)
        if split is not None:
            return split
        return None if folded is None else Skip(name, folded)


def _before(node: ir.Node, data: int, version: int) -> _Before | str | None:
    """The map that ends up at the layer's input; why it is none; None if there is nothing like it."""
    value = input_or_none(node, data)
    reader = node
    way: list[ir.Node] = []
    while value is not None and len(way) <= _LONGEST:
        producer = value.producer()
        if producer is None or producer.graph is not reader.graph:
            return None
        if is_op(producer, *affine.AFFINE_OPS):
            break
        if not affine.read_by_one(value) or through(producer, Channels(None, np.ones(1), np.zeros(1)), up=True) is None:
            return None
        way.append(producer)
        value, reader = input_or_none(producer, 0), producer
    else:
        return None
    assert producer is not None  # the loop was left by break
    first = affine.read(producer, version, rank_of(value))
    if first is None or isinstance(first, str):
        return first
    total = affine.chained(first, version)
    least = 1 if not way and is_op(node, "MatMul") else 0
    for number in range(len(total.nodes), 0, -1):  # a shorter chain, where a longer one varies along several axes
        part = total if number == len(total.nodes) else affine.chained(first, version, number)
        map_ = by_channel(part.scale, part.shift, _source_rank(part, value), least)
        if map_ is not None and _fits(part, map_):
            return _Before(part, map_, tuple(way))
    return f"what {producer.name!r} does before it varies along several axes, or enlarges it"


def _source_rank(part: affine.Affine, output: ir.Value) -> int | None:
    """That of x; the constants have not raised the rank of the output where it is above theirs."""
    rank = rank_of(output)
    raised = rank is not None and max(part.scale.ndim, part.shift.ndim) >= rank
    return rank_of(part.source) or (None if raised else rank)


def _fits(part: affine.Affine, map_: Channels) -> bool:
    """Whether x has as many channels as the map: a single one would be repeated."""
    if map_.axis is None or all(is_op(n, "BatchNormalization", "Neg") for n in part.nodes):
        return True
    dims = dims_of(part.source)
    return dims is not None and dims[len(dims) + map_.axis] == len(map_.scale)


def _of_normalization(value: ir.Value) -> bool:
    """Case 14: x / sqrt(…), x * (1 / sqrt(…)), or the Reshape behind an InstanceNormalization."""
    node = value.producer()
    if is_op(node, "Reshape") and node is not None and node.inputs[0] is not None:
        return is_op(node.inputs[0].producer(), "InstanceNormalization")
    if node is None or not is_op(node, "Div", "Mul"):
        return False
    factors = [v.producer() if v is not None else None for v in node.inputs]
    return any(is_op(f, "Sqrt", "Reciprocal", "Pow") for f in (factors[1:] if node.op_type == "Div" else factors))


def _moved(found: _Before) -> Channels | str:
    """The map at the end of the way."""
    map_ = found.map
    for step in found.way[::-1]:
        moved = through(step, map_, up=False)
        if moved is None or isinstance(moved, str):
            return moved or f"it does not commute with {step.op_type} {step.name!r}"
        map_ = moved
    return map_


def _other_readers(found: _Before, node: ir.Node) -> str | None:
    """Cases 3 and 6: why another reader of the map's result cannot take it in."""
    output, home = found.total.output, found.total.node
    if output.is_graph_output():
        return f"the output of {home.name!r} before it is an output of the graph"
    uses = output.uses()
    if len(uses) > _MOST_READERS:
        return f"the output of {home.name!r} before it has {len(uses)} readers"
    for use in uses:
        reader, index, map_ = use.node, use.idx, found.map
        for _ in range(_LONGEST):
            if reader is node or reader.graph is not home.graph or is_op(reader, *LAYERS):
                break
            moved = through(reader, map_, up=False) if index == 0 else None
            if not isinstance(moved, Channels) or not affine.read_by_one(reader.outputs[0]):
                break
            following = next(iter(reader.outputs[0].uses()))
            reader, index, map_ = following.node, following.idx, moved
        if reader is node:
            continue
        folded = affine_layers.before(reader, index, map_) if reader.graph is home.graph else None
        if not isinstance(folded, Folded) or folded.addend is not None:
            return f"the output of {home.name!r} before it is also read by {reader.op_type} {reader.name!r}"
    if len(uses) > 1 and sum(use.node is node for use in uses) > 1:
        return f"it reads the output of {home.name!r} twice"
    return None


def _rewrite(node: ir.Node, found: _Before, folded: Folded, version: int) -> Answer:
    nodes = (node, *found.way, *found.total.nodes)
    gemm = folded.addend is not None and version >= _BROADCASTS and _is_gemm(node, folded)
    if folded.addend is not None and not gemm:
        if len(found.total.output.uses()) > 1:
            return Skip(node.name or "", "it has no bias for the shift before it, which others read too")
        if version < _BROADCASTS or len(found.way) + 2 >= len(nodes):
            return Skip(node.name or "", "it has no bias for the shift before it")
    source, output = found.total.source, node.outputs[0]
    made: list[ir.Node] = []
    for step in found.way[::-1]:
        made.append(copy_of(step, source))
        source = made[-1].outputs[0]
    made += folded.build(source, output, gemm=gemm)
    return Rewrite(nodes, tuple(made), ((output, made[-1].outputs[0]),))


def _is_gemm(node: ir.Node, folded: Folded) -> bool:
    """Case 5: two matrices, of types that runtimes have Gemm for."""
    if node.outputs[0].dtype not in _GEMM_TYPES or folded.index == 0:
        return False
    return rank_of(node.inputs[0]) == 2


def _scale_only(node: ir.Node, found: _Before, version: int) -> Rewrite | None:
    """Case 4."""
    total, map_ = found.total, found.map
    if (
        version < _BROADCASTS
        or not is_op(node, "Conv")
        or found.way
        or len(total.nodes) < 2
        or len(total.output.uses()) > 1
    ):
        return None
    if not map_.shift.any() or not (map_.scale != 0).all() or (map_.scale == 1).all():
        return None
    with np.errstate(all="ignore"):
        addend = affine.stored(np.asarray(total.shift / total.scale), total.dtype)
    folded = affine_layers.before(node, 0, replace(map_, shift=np.zeros_like(map_.shift)))
    if addend is None or not isinstance(folded, Folded):
        return None
    add = affine.node_of(
        "Add", [total.source, constant_value(f"{total.node.name}/shift", addend)], total.node.name or "", total.output
    )
    made = folded.build(add.outputs[0], node.outputs[0])
    return Rewrite((node, *total.nodes), (add, *made), ((node.outputs[0], made[-1].outputs[0]),))
