"""Recognise SpaceToDepth and DepthToSpace, and compute a Conv behind SpaceToDepth on the image itself.

SpaceToDepth with blocks of b × b makes channel k of y[k, h, w] = x[c, b h + i, b w + j]; which (c, i, j) belongs to k
differs by how it is written. A Conv over y is one over x, with its taps spread:

    Σ W[k, u, v] y[k, h s + u - p, w s + v - p] = Σ W'[c, b u + i, b v + j] x[c, …],  kernel b k, stride b s, pads b p

with the same number of multiplications, since each weight is used once.

1. Focus: a Concat over the channels of b² Slices of one x with step b, in any order, before a Conv: that Conv
2. the same before anything else: SpaceToDepth, and a Gather of its channels unless the parts come row by row
3. SpaceToDepth before a Conv: that Conv
4. Reshape to [N, C, H/b, b, W/b, b], Transpose, Reshape: SpaceToDepth (perm 0 3 5 1 2 4), or before a Conv that
   Conv (also for perm 0 1 3 5 2 4, which SpaceToDepth does not have)
5. Reshape, Transpose, Reshape: DepthToSpace, mode DCR (perm 0 3 4 1 5 2) or CRD (perm 0 1 4 2 5 3, opset 11)

Measured on onnxruntime 1.31 (x86, one thread): 1: 14 to 16 % off Focus, Conv and Relu together; 4: 70 %, 5: 50 to 56 %
off the three nodes. The Conv must have one group, no dilation and constant weights, and be the only reader.

Not rewritten: bounds that are not constant or do not cover x (6), an inner value that is read elsewhere or is an output
(7), sizes that are not known (8), large weights that others share (9), types other than float and double, for which
onnxruntime has no kernel (10).
Exact up to the order in which products are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import (
    Array,
    attribute,
    constant,
    constant_value,
    dims_of,
    input_or_none,
    is_op,
    only_consumer,
    opset,
)
from edgeopt.passes.convolutions import Convolution, conv_like, read_conv, weights_shared
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_SPACE_TO_DEPTH, _UNSHUFFLE = (0, 3, 5, 1, 2, 4), (0, 1, 3, 5, 2, 4)
_DCR, _CRD = (0, 3, 4, 1, 5, 2), (0, 1, 4, 2, 5, 3)
_SLICE_STEPS_FROM, _CRD_FROM = 10, 11
_FAR = 2**31 - 1  # an end that is beyond any size


@dataclass(frozen=True)
class _Blocks:
    """y[k, h, w] = x[c, b h + i, b w + j] with (c, i, j) = ``order[k]``; ``nodes`` compute it, readers first."""

    nodes: tuple[ir.Node, ...]
    source: ir.Value
    block: int
    order: tuple[tuple[int, int, int], ...]
    channels: int

    def is_plain(self) -> bool:
        """Whether it is SpaceToDepth: k = (i b + j) C + c."""
        b = self.block
        return self.order == tuple((c, i, j) for i in range(b) for j in range(b) for c in range(self.channels))


class SpaceDepth:
    """The rule (see the module's docstring)."""

    name = "space_depth"
    ops = frozenset({"Conv", "Concat", "Reshape"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: Slice has steps from 10 on, DepthToSpace modes from 11 on."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Recognise what ends at this node."""
        if is_op(node, "Conv"):
            return _conv(node, state)
        if not is_op(node, "Concat", "Reshape") or _is_taken(node):
            return None
        if is_op(node, "Reshape"):
            return _reshaped(node, state)
        found = _focus(node, state)
        if found is None:
            return None
        if not found.is_plain():
            return _ordered(node, found)
        return _moved(node, found.nodes, found.source, "SpaceToDepth", found.block)


# ------------------------------------------------------------------------------------------------ Convs
def _conv(node: ir.Node, version: int) -> Answer:
    """Cases 1, 3 and 4."""
    value = node.inputs[0]
    maker = value.producer() if value is not None else None
    if value is None or maker is None or maker.graph is not node.graph:
        return None
    blocks = _blocks(maker, version)
    if blocks is None:
        return None
    name = node.name or ""
    if only_consumer(value) is not node:
        return Skip(name, f"what {maker.name!r} gives is read by other nodes too, or is an output of the graph")
    conv = _taker(node)
    if isinstance(conv, str):
        return Skip(name, conv)
    if conv.weight.shape[1] != len(blocks.order):
        return None
    b = blocks.block
    weight = spread(_stored(node), blocks)
    new = conv_like(
        conv,
        blocks.source,
        weight,
        constant(input_or_none(node, 2)),
        node.outputs[0],
        strides=[s * b for s in conv.strides],
        pads=[p * b for p in (*conv.before, *conv.behind)],
        dilations=[1, 1],
    )
    return Rewrite((node, *blocks.nodes), (new,), ((node.outputs[0], new.outputs[0]),))


def _taker(node: ir.Node) -> Convolution | str:
    """The Conv, if it can read the image itself, else why not."""
    conv = read_conv(node)
    if isinstance(conv, str):
        return conv
    if conv.group != 1 or any(d != 1 for d in conv.dilations) or len(conv.kernel) != 2:
        return "it has groups or dilations, so it cannot read the image itself"
    return weights_shared(node) or conv


def _is_taken(node: ir.Node) -> bool:
    """Whether a Conv is the only reader, and can compute this on the image itself: it is asked, not this node."""
    value = node.outputs[0]
    reader = only_consumer(value)
    if reader is None or not is_op(reader, "Conv") or reader.graph is not node.graph or reader.inputs[0] is not value:
        return False
    return not isinstance(_taker(reader), str)


def _stored(node: ir.Node) -> Array:
    weight = constant(node.inputs[1])
    assert weight is not None  # read_conv has read it
    return weight


def spread(weight: Array, blocks: _Blocks) -> Array:
    """[Cout, K, kh, kw] as [Cout, C, b kh, b kw]."""
    outputs, _, rows, columns = weight.shape
    b = blocks.block
    result = np.zeros((outputs, blocks.channels, rows, b, columns, b), weight.dtype)
    for k, (c, i, j) in enumerate(blocks.order):
        result[:, c, :, i, :, j] = weight[:, k]
    return result.reshape(outputs, blocks.channels, rows * b, columns * b)


def _blocks(maker: ir.Node, version: int) -> _Blocks | None:
    if is_op(maker, "Concat"):
        return _focus(maker, version)
    if is_op(maker, "SpaceToDepth"):
        source, b = maker.inputs[0], int(attribute(maker, "blocksize", 1))
        channels = _channels(source)
        return None if source is None or not channels else _Blocks((maker,), source, b, _plain(channels, b), channels)
    found = _folded(maker) if is_op(maker, "Reshape") else None
    if found is None or found.perm not in (_SPACE_TO_DEPTH, _UNSHUFFLE):
        return None
    block = _block_of(found)
    if block is None:
        return None
    channels = found.inner[1]
    order = _plain(channels, block)
    if found.perm == _UNSHUFFLE:
        order = tuple((c, i, j) for c in range(channels) for i in range(block) for j in range(block))
    return _Blocks(found.nodes, found.source, block, order, channels)


def _plain(channels: int, block: int) -> tuple[tuple[int, int, int], ...]:
    return tuple((c, i, j) for i in range(block) for j in range(block) for c in range(channels))


def _channels(value: ir.Value | None) -> int | None:
    """Axis 1 of four, if it is fixed."""
    dims = dims_of(value) if value is not None else None
    return dims[1] if dims is not None and len(dims) == 4 and isinstance(dims[1], int) else None


# ------------------------------------------------------------------------------------------------ Focus
def _focus(node: ir.Node, version: int) -> _Blocks | None:
    """Cases 1 and 2: all b² parts of one value, each read only here."""
    if attribute(node, "axis", 0) not in (1, -3) or version < _SLICE_STEPS_FROM:
        return None
    parts = [_part(value, node) for value in node.inputs]
    first = parts[0]
    if first is None or len(parts) < 4 or first.source.dtype not in _TYPES:
        return None
    block, channels = first.step, _channels(first.source)
    known = [p for p in parts if p is not None and p.source is first.source and p.step == block]
    starts = [p.start for p in known]
    if len(known) != len(parts) or not channels or block < 2:
        return None
    if sorted(starts) != [(i, j) for i in range(block) for j in range(block)]:
        return None
    order = tuple((c, i, j) for i, j in starts for c in range(channels))
    leaves = [p.slices[0] for p in known]
    inner = dict.fromkeys(s for p in known for s in p.slices[1:])
    return _Blocks((node, *leaves, *inner), first.source, block, order, channels)


@dataclass(frozen=True)
class _Part:
    """source[:, :, i::step, j::step] with (i, j) = ``start``, by one or two Slices, the last one first."""

    source: ir.Value
    start: tuple[int, int]
    step: int
    slices: tuple[ir.Node, ...]


def _part(value: ir.Value | None, reader: ir.Node) -> _Part | None:
    if value is None or only_consumer(value) is not reader:
        return None
    slices: list[ir.Node] = []
    found: dict[int, tuple[int, int]] = {}
    while len(found) < 2:
        node = value.producer() if value is not None else None
        bounds = _bounds(node) if node is not None and is_op(node, "Slice") and node.graph is reader.graph else None
        if node is None or bounds is None or found.keys() & bounds.keys():
            return None
        slices.append(node)
        found |= bounds
        value = node.inputs[0]
    steps = {step for _, step in found.values()}
    if value is None or found.keys() != {2, 3} or len(steps) != 1:
        return None
    return _Part(value, (found[2][0], found[3][0]), steps.pop(), tuple(slices))


def _bounds(node: ir.Node) -> dict[int, tuple[int, int]] | None:
    """Axis to start and step, where the Slice reaches to the end of each axis; None otherwise (case 6)."""
    dims = dims_of(node.inputs[0]) if node.inputs[0] is not None else None
    arrays = [constant(input_or_none(node, k)) for k in range(1, 5)]
    starts, ends, axes, steps = arrays
    if dims is None or len(dims) != 4 or starts is None or ends is None or axes is None or steps is None:
        return None
    result: dict[int, tuple[int, int]] = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = dims[int(axis) % 4]
        whole = end >= _FAR or (isinstance(size, int) and end >= size)
        if not whole or not 0 <= start < step:
            return None
        result[int(axis) % 4] = (int(start), int(step))
    return result


# ------------------------------------------------------------------------------------------------ Reshapes
@dataclass(frozen=True)
class _Folded:
    """Reshape of x to six axes, Transpose, Reshape to four; sizes with 0 for the batch."""

    nodes: tuple[ir.Node, ...]
    source: ir.Value
    perm: tuple[int, ...]
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    result: tuple[int, ...]


def _folded(node: ir.Node) -> _Folded | None:
    moved = node.inputs[0]
    transpose = moved.producer() if moved is not None else None
    if moved is None or transpose is None or not is_op(transpose, "Transpose"):
        return None
    spread_value = transpose.inputs[0]
    first = spread_value.producer() if spread_value is not None else None
    if spread_value is None or first is None or not is_op(first, "Reshape"):
        return None
    source = first.inputs[0]
    if source is None or source.dtype not in _TYPES:
        return None
    if only_consumer(moved) is not node or only_consumer(spread_value) is not transpose:
        return None
    if transpose.graph is not node.graph or first.graph is not node.graph:
        return None
    sizes = [_sample(source), _shaped(first), _shaped(node)]
    if sizes[0] is None or sizes[1] is None or sizes[2] is None or len({int(np.prod(s[1:])) for s in sizes if s}) != 1:
        return None  # so that axis 0 is the batch in each
    if (len(sizes[0]), len(sizes[1]), len(sizes[2])) != (4, 6, 4):
        return None
    perm = tuple(int(p) for p in attribute(transpose, "perm", ()))
    return _Folded((node, transpose, first), source, perm, sizes[0], sizes[1], sizes[2])


def _sample(value: ir.Value) -> tuple[int, ...] | None:
    """Sizes behind the batch, which counts as 0; None unless all are fixed and positive."""
    dims = dims_of(value)
    rest = tuple(d for d in dims[1:] if isinstance(d, int) and d > 0) if dims else ()
    return (0, *rest) if dims and len(rest) == len(dims) - 1 else None


def _shaped(reshape: ir.Node) -> tuple[int, ...] | None:
    """The same for what a Reshape gives, by its constant shape or as inferred."""
    shape = constant(input_or_none(reshape, 1))
    if shape is not None and shape.size > 1 and (shape[1:] > 0).all():
        return (0, *(int(d) for d in shape[1:]))
    return _sample(reshape.outputs[0])


def _block_of(found: _Folded) -> int | None:
    """The block size of a SpaceToDepth or of its like; None if the sizes fit no such thing."""
    (_, c, h, w), (_, c6, h6, b, w6, b2) = found.outer, found.inner
    fits = c == c6 and b == b2 and (h, w) == (h6 * b, w6 * b) and found.result == (0, c * b * b, h6, w6)
    return b if fits and b > 1 else None


def _reshaped(node: ir.Node, version: int) -> Answer:
    """Cases 4 and 5."""
    found = _folded(node)
    if found is None:
        return None
    if found.perm in (_SPACE_TO_DEPTH, _UNSHUFFLE):
        block = _block_of(found)
        if block is None or (found.perm == _UNSHUFFLE and found.inner[1] != 1):
            return None
        return _moved(node, found.nodes, found.source, "SpaceToDepth", block)
    if found.perm == _DCR:
        _, b, b2, c, h, w = found.inner
    elif found.perm == _CRD and version >= _CRD_FROM:
        _, c, b, b2, h, w = found.inner
    else:
        return None
    if b != b2 or b < 2 or found.outer != (0, c * b * b, h, w) or found.result != (0, c, h * b, w * b):
        return None
    return _moved(node, found.nodes, found.source, "DepthToSpace", b, mode="CRD" if found.perm == _CRD else None)


def _ordered(node: ir.Node, found: _Blocks) -> Rewrite:
    """SpaceToDepth and a Gather that puts the channels in order."""
    b, name, output = found.block, node.name or "Concat", node.outputs[0]
    index = np.array([(i * b + j) * found.channels + c for c, i, j in found.order], np.int64)
    inner = ir.Value(name=output.name, type=output.type, shape=output.shape)
    result = ir.Value(name=output.name, type=output.type, shape=output.shape)
    nodes = (
        ir.Node("", "SpaceToDepth", [found.source], [ir.AttrInt64("blocksize", b)], outputs=[inner], name=node.name),
        ir.Node(
            "",
            "Gather",
            [inner, constant_value(f"{name}/order", index)],
            [ir.AttrInt64("axis", 1)],
            outputs=[result],
            name=f"{name}/order",
        ),
    )
    return Rewrite(found.nodes, nodes, ((output, result),))


def _moved(
    node: ir.Node, nodes: Sequence[ir.Node], source: ir.Value, kind: str, block: int, mode: str | None = None
) -> Rewrite:
    attributes: list[ir.Attr] = [ir.AttrInt64("blocksize", block)]
    if mode is not None:
        attributes.append(ir.AttrString("mode", mode))
    output = node.outputs[0]
    result = ir.Value(name=output.name, type=output.type, shape=output.shape)
    new = ir.Node("", kind, inputs=[source], attributes=attributes, outputs=[result], name=node.name)
    return Rewrite(tuple(nodes), (new,), ((output, result),))
