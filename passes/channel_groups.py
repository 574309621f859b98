"""Which channels of a network's [N, C, H, W] values must change together, if their number is to change.

The channels of a value are a sequence of segments (``Layout``), and each segment belongs to a group:

1. A Conv of one group with constant weights starts a segment, and ends those of its input: on both sides its weights
   can take more channels
2. Operators that work channel by channel hand the layout on: activations, pools, Pad and Resize in space, reductions
   over space, depthwise Conv and BatchNormalization (whose constants have to follow)
3. Add, Sub, Mul, Max, Min, Sum, Mean of values with equal segments join these; their constants per channel have to
   follow. An operand with one channel for all is left alone. x / constant and PRelu are the same
4. Concat along the channels puts layouts in a row; along any other axis it joins them
5. Whatever else reads or makes a value freezes its segments: other operators, inputs and outputs of the graph, bodies
   of If, Loop and Scan, weights that are not constant

Operators that could make something infinite of a channel of zeros are not in the lists (Log, Reciprocal, x / y, …),
nor are constants that are not finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeopt.graph import (
    Array,
    attribute,
    constant,
    constant_tensor,
    dims_of,
    input_or_none,
    is_op,
    opset,
)
from edgeopt.passes.channelwise import RANK, is_channelwise, more_outputs, states_channels

_WEIGHT_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_LEAST_OPSET = 7  # below, Add and its like broadcast by attribute
_FILL = {"Add": 0.0, "Sub": 0.0, "Sum": 0.0, "Mean": 0.0, "Max": 0.0, "Min": 0.0, "PRelu": 0.0, "Mul": 1.0, "Div": 1.0}
_STATISTICS = (1.0, 0.0, 0.0, 1.0)  # scale, bias, mean, variance that turn 0 into 0


@dataclass(frozen=True)
class Segment:
    """So many channels in a row that belong to one group (``group`` is a key of ``ChannelGroups.find``)."""

    group: int
    size: int


Layout = tuple[Segment, ...]


@dataclass(frozen=True)
class Edit:
    """A constant that follows a layout: input ``index`` of ``node`` has these segments along ``axis``."""

    node: ir.Node
    index: int
    axis: int
    layout: Layout
    fill: float


@dataclass
class Group:
    """Channels that change together.

    Attributes:
        size: How many there are.
        producers: The Convs that make them, in the graph's order.
        nodes: Every node that reads or makes them, in the graph's order.
    """

    size: int
    producers: list[ir.Node] = field(default_factory=list)
    nodes: dict[ir.Node, None] = field(default_factory=dict)


def widened(array: Array, axis: int, sizes: Iterable[tuple[int, int]], fill: float) -> Array:
    """The array with channels of ``fill`` put behind segments: pairs (size, how many to put behind it)."""
    pieces, start = [], 0
    for size, extra in sizes:
        pieces.append(np.take(array, range(start, start + size), axis))
        shape = [extra if i == axis else n for i, n in enumerate(array.shape)]
        pieces.append(np.full(shape, fill, array.dtype))
        start += size
    return np.concatenate(pieces, axis)


class ChannelGroups:
    """The groups of a model's main graph.

    Attributes:
        layouts: Value to the segments of its axis 1.
        edits: The constants that follow.
        depthwise: Convs whose ``group`` is the number of channels, with the layout.
        sizes: Resize nodes whose input 3 states the number of channels (at index 1), with the layout.
    """

    def __init__(self, model: ir.Model) -> None:
        self.layouts: dict[ir.Value, Layout] = {}
        self.edits: list[Edit] = []
        self.depthwise: list[tuple[ir.Node, Layout]] = []
        self.sizes: list[tuple[ir.Node, Layout]] = []
        self._graph = model.graph
        self._opset = opset(model)
        self._parent: list[int] = []
        self._frozen: set[int] = set()
        self._producers: list[tuple[ir.Node, int]] = []
        if self._opset < _LEAST_OPSET:
            return
        for node in model.graph:
            layout = self._handed_on(node)
            if layout is None:
                for value in node.inputs:
                    if value is not None:
                        self.freeze(self.layouts.get(value, ()))
            else:
                self._set(node.outputs[0], layout)

    def groups(self) -> dict[int, Group]:
        """Groups that can change, by key, in the order of their first producers."""
        found: dict[int, Group] = {}
        frozen = {self.find(g) for g in self._frozen}
        for node, start in self._producers:
            key = self.find(start)
            if key not in frozen:
                found.setdefault(key, Group(self.layouts[node.outputs[0]][0].size)).producers.append(node)
        for node in self._graph:
            for value in (*node.inputs, *node.outputs):
                for segment in self.layouts.get(value, ()) if value is not None else ():
                    if (group := found.get(self.find(segment.group))) is not None:
                        group.nodes[node] = None
        return found

    def find(self, group: int) -> int:
        """The key of the group that this one has been joined to."""
        while self._parent[group] != group:
            self._parent[group] = self._parent[self._parent[group]]
            group = self._parent[group]
        return group

    def with_extra(self, layout: Layout, extra: Mapping[int, int]) -> list[tuple[int, int]]:
        """Pairs (size, channels to add) of the segments; ``extra`` goes by the groups' keys."""
        return [(s.size, extra.get(self.find(s.group), 0)) for s in layout]

    def freeze(self, layout: Layout) -> None:
        """These channels cannot change."""
        self._frozen.update(s.group for s in layout)

    def _handed_on(self, node: ir.Node) -> Layout | None:
        """The layout of the node's output; None if the node freezes what it reads."""
        handlers = {"Conv": self._conv, "Concat": self._concat, "BatchNormalization": self._normalization}
        if is_op(node, *handlers):
            return handlers[node.op_type](node)
        return self._elementwise(node) if is_op(node, *_FILL) else self._channelwise(node)

    def _new(self) -> int:
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def _set(self, value: ir.Value, layout: Layout) -> None:
        self.layouts[value] = layout
        if value.is_graph_output() or any(use.node.graph is not self._graph for use in value.uses()):
            self.freeze(layout)

    def _layout(self, value: ir.Value | None, channels: int | None = None) -> Layout | None:
        """The layout; that of a value from elsewhere is one frozen segment, or None if its size is not known."""
        if value is None:
            return None
        if value not in self.layouts:
            dims = dims_of(value)
            if dims is not None and len(dims) != RANK:
                return None
            size = dims[1] if dims is not None and isinstance(dims[1], int) else channels
            if not isinstance(size, int):
                return None
            self.layouts[value] = (Segment(self._new(), size),)
            self.freeze(self.layouts[value])
        layout = self.layouts[value]
        return layout if channels in (None, _total(layout)) else None

    def _join(self, layouts: list[Layout]) -> Layout:
        """One layout for all; frozen where their segments differ."""
        first = layouts[0]
        if len({tuple(s.size for s in layout) for layout in layouts}) > 1:
            for layout in layouts:
                self.freeze(layout)
            return first
        for layout in layouts[1:]:
            for a, b in zip(first, layout, strict=True):
                self._parent[self.find(b.group)] = self.find(a.group)
        return first

    def _conv(self, node: ir.Node) -> Layout | None:
        weight, bias = constant_tensor(input_or_none(node, 1)), input_or_none(node, 2)
        if weight is None or len(weight.shape) != RANK or weight.dtype not in _WEIGHT_TYPES:
            return None
        if bias is not None and constant_tensor(bias) is None:
            return None
        outputs, inputs = weight.shape.numpy()[:2]
        groups = attribute(node, "group", 1)
        source = self._layout(node.inputs[0], inputs * groups)
        if source is None:
            return None
        if groups == 1:
            start = self._new()
            self._producers.append((node, start))
            result: Layout = (Segment(start, outputs),)
            self.edits.append(Edit(node, 1, 1, source, 0.0))
        elif inputs == 1 and outputs == groups:
            result = source
            self.depthwise.append((node, result))
        else:
            return None
        self.edits.append(Edit(node, 1, 0, result, 0.0))
        if bias is not None:
            self.edits.append(Edit(node, 2, 0, result, 0.0))
        return result

    def _normalization(self, node: ir.Node) -> Layout | None:
        trained = attribute(node, "training_mode", 0) or self._opset < 9
        if trained or more_outputs(node) or any(constant_tensor(v) is None for v in node.inputs[1:]):
            return None
        layout = self._layout(node.inputs[0])
        if layout is not None:
            self.edits += [Edit(node, k, 0, layout, fill) for k, fill in enumerate(_STATISTICS, 1)]
        return layout

    def _channelwise(self, node: ir.Node) -> Layout | None:
        layout = self._layout(node.inputs[0]) if is_channelwise(node) else None
        if layout is not None and states_channels(node):
            self.sizes.append((node, layout))
        return layout

    def _elementwise(self, node: ir.Node) -> Layout | None:
        layouts: list[Layout] = []
        constants: list[tuple[int, Array]] = []
        for index, value in enumerate(node.inputs):
            if (tensor := constant(value)) is not None:
                constants.append((index, tensor))
            elif value is None or (is_op(node, "Div", "PRelu") and index):
                return None
            elif value in self.layouts or not _one_channel(dims_of(value)):
                layout = self._layout(value)
                if layout is None:
                    return None
                layouts.append(layout)
        if not layouts:
            return None
        channels = max(_total(layout) for layout in layouts)
        for layout in layouts:
            if _total(layout) != channels:  # one channel for all stays one channel
                self.freeze(layout)
        result = self._join([layout for layout in layouts if _total(layout) == channels])
        edits = []
        for index, array in constants:
            finite = array.dtype.kind == "f" and np.isfinite(array).all()
            if not finite or array.ndim > RANK or (is_op(node, "Div") and not array.all()):
                return None
            if array.ndim >= 3 and array.shape[-3] != 1:
                if array.shape[-3] != channels:
                    return None
                edits.append(Edit(node, index, array.ndim - 3, result, _FILL[node.op_type]))
        self.edits += edits
        return result

    def _concat(self, node: ir.Node) -> Layout | None:
        layouts = [self._layout(v) for v in node.inputs]
        known = [layout for layout in layouts if layout is not None]
        axis = attribute(node, "axis")
        if len(known) < len(layouts) or axis is None:
            return None
        if axis in (1, 1 - RANK):
            return tuple(segment for layout in known for segment in layout)
        return self._join(known)


def _total(layout: Layout) -> int:
    return sum(segment.size for segment in layout)


def _one_channel(dims: tuple[int | str | None, ...] | None) -> bool:
    """Whether an operand of these dimensions has the same value in every channel of a [N, C, H, W]."""
    return dims is not None and len(dims) <= RANK and (len(dims) < 3 or dims[-3] == 1)
