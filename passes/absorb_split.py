"""Convs read the whole value instead of a part of its channels: their weights are zero for the rest.

    W * x[:, part] = W' * x   with W'[:, part] = W and zeros elsewhere

The copy that Split, Slice or Gather makes is gone, and the value can stay in the runtime's layout for convolutions;
the price is multiplications by zero, so whether it pays must be measured. What can be absorbed, where x has a known
number of channels (axis 1) and all readers can take the whole:

1. Split along the channels: all of its outputs
2. Slice of channels with constant bounds
3. Gather of channels with constant indices, each at most once
4. Readers: Conv of one group with constant weights
5. Readers through activations of single elements: these are computed for the whole
6. Readers through Concat along the channels: the whole takes the part's place, once if several parts are of one value
7. Left alone: parts that anything else reads, that are outputs of the graph, or that bodies read

Exact as long as the values are finite: channels that were not read before now meet zero weights. Where a Concat held
a channel twice (6), the weights of both are added, which is exact up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, attribute, constant, constant_tensor, dims_of, input_or_none, is_op
from edgeopt.passes.channelwise import is_finite_unary
from edgeopt.passes.widening import Replacements


@dataclass(frozen=True)
class Place:
    """A node that picks channels, and whose readers can do without it.

    Attributes:
        name: Of the Split, Slice or Gather.
        nodes: It, and every node that gets more channels to read, in the graph's order.
        channels: Of the whole value.
        read: Channels of the parts, summed over the Convs that read them.
    """

    name: str
    nodes: tuple[str, ...]
    channels: int
    read: int


@dataclass(frozen=True)
class _Part:
    """A value is the channels ``picked`` of ``whole``, which has ``channels``."""

    whole: ir.Value
    picked: tuple[int, ...]
    channels: int


def places(model: ir.Model) -> list[Place]:
    """The nodes that can be absorbed, in the graph's order."""
    order = {node: k for k, node in enumerate(model.graph)}
    found = []
    for node in model.graph:
        parts = _parts(node)
        if parts is None:
            continue
        readers = _readers_of_whole(node.outputs, model.graph)
        if readers is not None:
            read = sum(len(p.picked) * sum(is_op(u.node, "Conv") for u in v.uses()) for v, p in parts.items())
            nodes = (node, *sorted(readers, key=order.__getitem__))
            channels = next(iter(parts.values())).channels
            found.append(Place(node.name or "", tuple(n.name or "" for n in nodes), channels, read))
    return found


def apply(model: ir.Model, names: Collection[str]) -> ir.Model:
    """A copy with these places absorbed; names that are no place's are passed over."""
    result = model.clone()
    chosen = {place.name for place in places(result)} & set(names)
    replacements = Replacements(result)
    parts: dict[ir.Value, _Part] = {}
    absorbed: list[ir.Node] = []
    for node in result.graph:
        if node.name in chosen and (found := _parts(node)) is not None:
            parts |= found
            absorbed.append(node)
        elif not any(value in parts for value in node.inputs if value is not None):
            continue
        elif is_op(node, "Conv"):
            _widen(node, parts, replacements)
        else:
            part = _concatenate(node, parts) if is_op(node, "Concat") else _whole_input(node, parts)
            output = node.outputs[0]
            parts[output] = part
            if output.shape is not None:
                output.shape = ir.Shape([part.channels if axis == 1 else d for axis, d in enumerate(output.shape)])
    for node in absorbed:
        result.graph.remove(node, safe=True)
    replacements.finish()
    return result


def _parts(node: ir.Node) -> dict[ir.Value, _Part] | None:
    """What the outputs are of the input's channels; None if the node picks no channels."""
    if not is_op(node, "Split", "Slice", "Gather"):
        return None
    source = node.inputs[0]
    channels = _channels(source)
    if source is None or channels is None or constant_tensor(source) is not None:
        return None
    pick = {"Split": _split, "Slice": _slice, "Gather": _gather}[node.op_type]
    picked = pick(node, channels)
    if picked is None or any(not p for p in picked):
        return None
    return {v: _Part(source, p, channels) for v, p in zip(node.outputs, picked, strict=True)}


def _channels(value: ir.Value | None) -> int | None:
    """The size of axis 1, if it is fixed and the value is a batch of channels over space."""
    dims = dims_of(value) if value is not None else None
    return dims[1] if dims is not None and len(dims) >= 3 and isinstance(dims[1], int) else None


def _is_channel_axis(node: ir.Node, axis: int) -> bool:
    dims = dims_of(node.inputs[0]) if node.inputs[0] is not None else None
    return dims is not None and axis in (1, 1 - len(dims))


def _split(node: ir.Node, channels: int) -> list[tuple[int, ...]] | None:
    """Case 1: sizes are an input (from opset 13), an attribute (before), or equal; the last may be smaller."""
    if not _is_channel_axis(node, attribute(node, "axis", 0)):
        return None
    given, count = input_or_none(node, 1), len(node.outputs)
    sizes: list[int]
    if given is not None:
        array = constant(given)
        if array is None:
            return None
        sizes = [int(s) for s in array]
    else:
        step = math.ceil(channels / count)
        sizes = [int(s) for s in attribute(node, "split", [step] * (count - 1) + [channels - step * (count - 1)])]
    if len(sizes) != count or sum(sizes) != channels or min(sizes) < 0:
        return None
    ends = np.cumsum(sizes)
    return [tuple(range(int(end) - size, int(end))) for size, end in zip(sizes, ends, strict=True)]


def _slice(node: ir.Node, channels: int) -> list[tuple[int, ...]] | None:
    """Case 2: bounds are inputs (from opset 10) or attributes (before)."""
    names = ("starts", "ends", "axes", "steps")
    bounds: list[Array | None] = []
    for index, name in enumerate(names, 1):
        given = input_or_none(node, index)
        stated = attribute(node, name)
        if given is not None and constant(given) is None:
            return None
        bounds.append(constant(given) if given is not None else None if stated is None else np.asarray(stated))
    starts, ends, axes, steps = bounds
    if starts is None or ends is None or axes is None or axes.size != 1 or not _is_channel_axis(node, int(axes[0])):
        return None
    step = 1 if steps is None else int(steps[0])
    return [tuple(range(channels)[int(starts[0]) : int(ends[0]) : step])] if step > 0 else None


def _gather(node: ir.Node, channels: int) -> list[tuple[int, ...]] | None:
    """Case 3."""
    indices = constant(input_or_none(node, 1))
    if indices is None or indices.ndim != 1 or not _is_channel_axis(node, attribute(node, "axis", 0)):
        return None
    picked = tuple(int(i) % channels for i in indices)
    return [picked] if len(set(picked)) == len(picked) else None


def _readers_of_whole(values: Sequence[ir.Value], graph: ir.Graph) -> set[ir.Node] | None:
    """Cases 4 to 7: the nodes that get more channels to read; None if one of the values must stay as it is."""
    readers: set[ir.Node] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if value.is_graph_output():
            return None
        for use in value.uses():
            node = use.node
            if not _takes_whole(node, use.idx, graph):
                return None
            if node not in readers and not is_op(node, "Conv"):
                waiting.append(node.outputs[0])
            readers.add(node)
    return readers


def _takes_whole(node: ir.Node, index: int, graph: ir.Graph) -> bool:
    """Whether this input may get more channels, as far as the node itself is concerned."""
    if node.graph is not graph:
        return False
    if is_op(node, "Conv"):
        return index == 0 and constant_tensor(input_or_none(node, 1)) is not None and attribute(node, "group", 1) == 1
    if is_op(node, "Concat"):
        return _is_channel_axis(node, attribute(node, "axis", 0)) and None not in map(_channels, node.inputs)
    return index == 0 and is_finite_unary(node)


def _whole_input(node: ir.Node, parts: dict[ir.Value, _Part]) -> _Part:
    """Case 5: the node reads the whole; what its output now is."""
    source = node.inputs[0]
    assert source is not None  # it is one of the parts
    part = parts[source]
    node.replace_input_with(0, part.whole)
    return _Part(node.outputs[0], part.picked, part.channels)


def _widen(node: ir.Node, parts: dict[ir.Value, _Part], replacements: Replacements) -> None:
    """Case 4."""
    part = _whole_input(node, parts)
    weight = constant(node.inputs[1])
    assert weight is not None  # checked by _takes_whole
    wide = np.zeros((weight.shape[0], part.channels, *weight.shape[2:]), weight.dtype)
    for column, channel in enumerate(part.picked):  # a Concat may hold a channel twice
        wide[:, channel] += weight[:, column]
    replacements.put(node, 1, wide)


def _concatenate(node: ir.Node, parts: dict[ir.Value, _Part]) -> _Part:
    """Case 6: wholes in the place of parts; what the output now is."""
    wholes: dict[ir.Value, int] = {}  # value to its first channel in the new output
    picked: list[int] = []
    total = 0
    for value in node.inputs:
        assert value is not None  # Concat has no optional inputs
        channels = _channels(value)
        part = parts.get(value)
        if part is None:
            assert channels is not None  # checked by _takes_whole
            part = _Part(value, tuple(range(channels)), channels)
        if part.whole not in wholes:
            wholes[part.whole] = total
            total += part.channels
        picked += [wholes[part.whole] + channel for channel in part.picked]
    node.resize_inputs(len(wholes))
    for index, whole in enumerate(wholes):
        node.replace_input_with(index, whole)
    return _Part(node.outputs[0], tuple(picked), total)
