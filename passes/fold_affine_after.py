"""Fold affine maps per channel into the layers whose results they change.

    s (W x + b) + t = (s W) x + (s b + t)        s and t constant, one number or one per channel

The map is read from BatchNormalization, Mul, Div, Add, Sub and Neg with constants (``affine``), the layer is a Conv,
ConvTranspose, Gemm or MatMul with constant weights (``affine_layers``). Between the two may lie:

1. nothing: one map after another
2. what the map commutes with (``affine_paths``): pools, Relu with s > 0, views, Transpose
3. Concat, where every operand is such a layer (or leads to one), or a constant; along the channels each takes its part
4. Add and Sum: s goes into each term, so that all must be such layers, t into one of them
5. other maps, which join

A MatMul takes the scale alone; a shift stays behind it as an Add (6).

Not folded: a value between is read elsewhere or is an output of the graph (7), weights are not constant, as those from
DequantizeLinear (8), the map varies along other axes than the layer's channels, or enlarges its result (9), shared
large weights (10), overflow of the element type (11), integers (12), an Add behind a MatMul: it has no bias (13), maps
that round on purpose: x + c - c with large c (14).
Exact up to float rounding; computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, attribute, constant, constant_value, dims_of, is_op, opset, stored_twice
from edgeopt.parity import is_float
from edgeopt.passes import affine, affine_layers
from edgeopt.passes.affine_paths import (
    COMMUTING,
    UNCHANGED,
    Channels,
    by_channel,
    composed,
    copy_of,
    rank_of,
    through,
)
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_MOST_NODES = 64
_BROADCASTS = 7  # the opset from which on operators broadcast as numpy does


class FoldAffineAfter:
    """The rule (see the module's docstring)."""

    name = "fold_affine_after"
    ops = affine.AFFINE_OPS
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Fold this map into the layers before it."""
        if not is_op(node, *affine.AFFINE_OPS):
            return None
        output = node.outputs[0]
        plan = _Plan(state)
        value = plan.absorb(output, node, UNCHANGED)
        if not isinstance(value, ir.Value) or not _fewer(plan):
            affine.discard(plan.made)
            return Skip(node.name or "", value) if isinstance(value, str) and plan.found_layer else None
        plan.made[-1].outputs[0].type = output.type
        return Rewrite(tuple(plan.nodes), tuple(plan.made), ((output, value),))


def _fewer(plan: _Plan) -> bool:
    """Whether nodes go, or at least a BatchNormalization becomes an Add."""
    if len(plan.made) != len(plan.nodes):
        return len(plan.made) < len(plan.nodes)
    return any(is_op(n, "BatchNormalization") for n in plan.nodes)


@dataclass
class _Plan:
    """What is replaced, readers first, and by what, producers first."""

    version: int
    nodes: list[ir.Node] = field(default_factory=list)
    made: list[ir.Node] = field(default_factory=list)
    found_layer: bool = False

    def absorb(self, value: ir.Value, reader: ir.Node, map_: Channels) -> ir.Value | str | None:
        """The value that holds the map of ``value``; why there is none; None if it comes from no layer."""
        node = value.producer()
        if node is None or len(self.nodes) >= _MOST_NODES:
            return None
        first = not self.nodes
        if node.graph is not reader.graph or (not first and not affine.read_by_one(value)):
            if not is_op(node, *affine_layers.LAYERS):
                return None
            self.found_layer = True
            where = "lies in another graph" if node.graph is not reader.graph else "is read elsewhere too"
            return f"the output of {node.op_type} {node.name!r} {where}"
        self.nodes.append(node)
        if is_op(node, *affine_layers.LAYERS):
            return self._into(node, map_)
        if is_op(node, *affine.AFFINE_OPS):
            found = self._joined(node, map_)
            if found is not None and not isinstance(found, str):
                source, joined = found
                return self.absorb(source, node, joined)
            if found is not None or first or not is_op(node, "Add"):
                return found
        if is_op(node, "Concat"):
            return self._into_parts(node, map_)
        if is_op(node, "Add", "Sum"):
            return self._into_terms(node, map_)
        return self._through(node, map_) if is_op(node, *COMMUTING) else None

    def _into(self, node: ir.Node, map_: Channels) -> ir.Value | str | None:
        self.found_layer = True
        same = self.version < _BROADCASTS or (len(self.nodes) == 2 and not is_op(self.nodes[0], "BatchNormalization"))
        if is_op(node, "MatMul") and map_.shift.any() and same:
            return None  # an Add behind a MatMul would be written as the same again (case 13)
        folded = affine_layers.behind(node, map_)
        if folded is None or isinstance(folded, str):
            return folded
        made = folded.build(_data(node, folded.index), node.outputs[0])
        self.made += made
        return made[-1].outputs[0]

    def _joined(self, node: ir.Node, map_: Channels) -> tuple[ir.Value, Channels] | str | None:
        """Case 5: what the node reads, and its map with the one behind it."""
        output = node.outputs[0]
        data = next((v for v in node.inputs if v is not None and constant(v) is None), None)
        rank = rank_of(output) or rank_of(data)
        found = affine.read(node, self.version, rank)
        if found is None or isinstance(found, str):
            self.found_layer |= data is not None and is_op(data.producer(), *affine_layers.LAYERS)
            return found
        producer = found.source.producer()
        least = 1 if is_op(producer, "MatMul") else 0
        inner = by_channel(found.scale, found.shift, rank_of(found.source), least)
        total = None if inner is None else composed(inner, map_)
        if total is None:
            self.found_layer |= is_op(producer, *affine_layers.LAYERS)
            return "it does not change one axis alone, or raises the rank"
        if inner is not None and affine.rounds(inner.shift, map_.scale, map_.shift, found.dtype):
            return "the constants added and taken away round on purpose"
        if not (np.isfinite(total.scale).all() and np.isfinite(total.shift).all()):
            return "the maps together overflow"
        return found.source, total

    def _through(self, node: ir.Node, map_: Channels) -> ir.Value | str | None:
        moved = through(node, map_, up=True)
        if moved is None or isinstance(moved, str):
            return moved
        source = node.inputs[0]
        assert source is not None  # read by through()
        value = self.absorb(source, node, moved)
        if value is None or isinstance(value, str):
            return value
        self.made.append(copy_of(node, value))
        return self.made[-1].outputs[0]

    def _into_parts(self, node: ir.Node, map_: Channels) -> ir.Value | str | None:
        """Case 3."""
        dims = dims_of(node.outputs[0])
        if dims is None or not dims:
            return None
        axis = int(attribute(node, "axis", 1))
        axis -= len(dims) if axis >= 0 else 0
        parts: list[ir.Value] = []
        start = 0
        for value in node.inputs:
            own = dims_of(value) if value is not None else None
            if value is None or own is None:
                return None
            part = map_
            if axis == map_.axis:
                count = own[len(own) + axis]
                if not isinstance(count, int):
                    return f"the number of channels of {value.name!r} is unknown"
                end = start + count
                part, start = Channels(axis, map_.scale[start:end], map_.shift[start:end]), end
            new = self._constant(value, part) if constant(value) is not None else self.absorb(value, node, part)
            if new is None or isinstance(new, str):
                return new
            parts.append(new)
        if axis == map_.axis and start != len(map_.scale):
            return "it enlarges its input"
        return self._copied(node, parts)

    def _copied(self, node: ir.Node, inputs: list[ir.Value]) -> ir.Value:
        copy = copy_of(node, inputs[0])
        for k, value in enumerate(inputs):
            copy.replace_input_with(k, value)
        self.made.append(copy)
        return copy.outputs[0]

    def _constant(self, value: ir.Value, map_: Channels) -> ir.Value | None:
        array = constant(value)
        if array is None or not is_float(array.dtype) or stored_twice(value) or not array.size:
            return None
        with np.errstate(all="ignore"):
            moved = array.astype(np.float64) * _along(map_.scale, map_) + _along(map_.shift, map_)
        result = affine.stored(moved, array.dtype)
        if result is None or result.shape != array.shape:
            return None
        return constant_value(f"{value.name}/mapped", result)

    def _into_terms(self, node: ir.Node, map_: Channels) -> ir.Value | str | None:
        """Case 4."""
        shape = dims_of(node.outputs[0])
        if shape is None or any(v is None or dims_of(v) != shape or constant(v) is not None for v in node.inputs):
            return None
        if any(d is None for d in shape):
            return None
        values = [v for v in node.inputs if v is not None]
        if (map_.scale == 1).all():
            return self._into_one_of(node, values, map_)
        parts: list[ir.Value] = []
        for value in values:
            new = self.absorb(value, node, map_)
            if new is None or isinstance(new, str):
                return new
            parts.append(new)
            map_ = Channels(map_.axis, map_.scale, np.zeros_like(map_.shift))
        return self._copied(node, parts)

    def _into_one_of(self, node: ir.Node, values: list[ir.Value], map_: Channels) -> ir.Value | str | None:
        """Case 4 with s = 1: the first term that can take t in."""
        reason: str | None = None
        for k, value in enumerate(values):
            known, made = len(self.nodes), len(self.made)
            new = self.absorb(value, node, map_)
            if isinstance(new, ir.Value):
                return self._copied(node, [*values[:k], new, *values[k + 1 :]])
            reason = reason or new
            affine.discard(self.made[made:])
            del self.nodes[known:], self.made[made:]
        return reason


def _along(array: Array, map_: Channels) -> Array:
    return array.reshape(-1, *[1] * (-map_.axis - 1)) if map_.axis is not None else array.reshape(())


def _data(node: ir.Node, weight_index: int) -> ir.Value:
    value = node.inputs[0 if weight_index else 1]
    assert value is not None  # the layer was read
    return value
