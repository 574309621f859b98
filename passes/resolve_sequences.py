"""Take sequences and optionals apart whose structure is fixed.

A sequence is fixed if it is made by SequenceConstruct, SequenceEmpty, and SequenceInsert or SequenceErase at constant
places.

1. SequenceAt a constant place: the tensor that was put there
2. SequenceLength: a constant
3. ConcatFromSequence: Concat, with an Unsqueeze of each where it makes a new axis
4. SplitToSequence into parts of known sizes, all read by SequenceAt a constant place: Split (and Squeeze, where each
   part is one slice without its axis)
5. OptionalGetElement of Optional of something, or of something that is no optional: that
6. OptionalHasElement: a constant, for what is known to be there or known not to be

Few device runtimes have sequences at all; onnxruntime copies each tensor that goes in.

Left alone, without a word: places or sizes that are computed, sequences from elsewhere, sequences that leave the
graph or enter a body.
Exact: the same tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, constant_value, graphs, input_or_none, is_op, opset, static_shape
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite

_MOST = 64  # elements, and nodes in a row
_READERS = ("SequenceAt", "SequenceLength", "ConcatFromSequence")


class ResolveSequences:
    """The rule (see the module's docstring)."""

    name = "resolve_sequences"
    ops = frozenset({*_READERS, "SplitToSequence", "OptionalGetElement", "OptionalHasElement"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> tuple[int, dict[ir.Node, int]]:
        """The opset (Split and Unsqueeze have inputs from 13 on, attributes before), and the order of SequenceAts."""
        found = [n for g in graphs(model) for n in g if is_op(n, "SequenceAt")]
        return opset(model), {n: k for k, n in enumerate(found)}

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """One reader, or one split, at a time."""
        if not is_op(node, *self.ops):
            return None
        version, order = state
        if node.op_type.startswith("Optional"):
            return _optional(node)
        if node.op_type == "SplitToSequence":
            return _split(node, version, order)
        chain: list[ir.Node] = []
        parts = _elements(node.inputs[0], chain)
        if parts is None:
            return None
        nodes = (node, *chain)
        output = node.outputs[0]
        if node.op_type == "SequenceAt":
            place = _place(node.inputs[1], len(parts), len(parts) - 1)
            return None if place is None else Rewrite(nodes, (), ((output, parts[place]),))
        if node.op_type == "SequenceLength":
            length = constant_value(output.name or "length", np.array(len(parts), np.int64))
            return _handed(node, nodes, length)
        return _concat(node, nodes, parts, version)


def _place(value: ir.Value | None, count: int, last: int) -> int | None:
    """A constant place, counted from the front; None if it is computed or out of range."""
    found = constant(value)
    if found is None or found.size != 1:
        return None
    place = int(found.reshape(-1)[0])
    place = place + count if place < 0 else place
    return place if 0 <= place <= last else None


def _elements(value: ir.Value | None, chain: list[ir.Node]) -> list[ir.Value] | None:
    """What is in a sequence, in order; the nodes that make it are added to ``chain``, readers first."""
    steps: list[ir.Node] = []
    while True:
        node = value.producer() if value is not None else None
        if node is None or len(steps) >= _MOST:
            return None
        steps.append(node)
        if is_op(node, "SequenceConstruct", "SequenceEmpty"):
            break
        if not is_op(node, "SequenceInsert", "SequenceErase"):
            return None
        value = node.inputs[0]
    parts = [v for v in steps[-1].inputs if v is not None]
    for step in steps[-2::-1]:
        if step.op_type == "SequenceInsert":
            given, element = input_or_none(step, 2), step.inputs[1]
            place = len(parts) if given is None else _place(given, len(parts), len(parts))
            if place is None or element is None:
                return None
            parts.insert(place, element)
        else:
            given = input_or_none(step, 1)
            place = len(parts) - 1 if given is None else _place(given, len(parts), len(parts) - 1)
            if place is None or place < 0:
                return None
            del parts[place]
    chain += steps
    return parts if len(parts) <= _MOST else None


def _handed(node: ir.Node, nodes: tuple[ir.Node, ...], value: ir.Value) -> Rewrite:
    """A constant in the node's place; an output of the graph stays a node's output."""
    output = node.outputs[0]
    if not output.is_graph_output():
        return Rewrite(nodes, (), ((output, value),))
    assert value.const_value is not None
    attr = ir.Attr("value", ir.AttributeType.TENSOR, value.const_value)
    holder = ir.Node("", "Constant", [], [attr], name=node.name)
    holder.outputs[0].name = output.name
    return Rewrite(nodes, (holder,), ((output, holder.outputs[0]),))


def _concat(node: ir.Node, nodes: tuple[ir.Node, ...], parts: Sequence[ir.Value], version: int) -> Answer:
    axis, output = attribute(node, "axis"), node.outputs[0]
    if not parts or axis is None:
        return None
    made: list[ir.Node] = []
    pieces = list(parts)
    if attribute(node, "new_axis", 0):
        made = [_axis_node("Unsqueeze", v, axis, version, f"{node.name}/{k}") for k, v in enumerate(parts)]
        pieces = [m.outputs[0] for m in made]
    joined = ir.Node("", "Concat", pieces, [ir.AttrInt64("axis", axis)], name=node.name)
    joined.outputs[0].name, joined.outputs[0].type = output.name, output.type
    joined.outputs[0].shape = output.shape
    return Rewrite(nodes, (*made, joined), ((output, joined.outputs[0]),))


def _axis_node(op_type: str, value: ir.Value, axis: int, version: int, name: str) -> ir.Node:
    if version >= 13:
        node = ir.Node("", op_type, [value, constant_value(f"{name}/axes", np.array([axis], np.int64))], name=name)
    else:
        node = ir.Node("", op_type, [value], [ir.AttrInt64s("axes", [axis])], name=name)
    node.outputs[0].name, node.outputs[0].type = name, value.type
    return node


def _split(node: ir.Node, version: int, order: Mapping[ir.Node, int]) -> Answer:
    """Case 4, all readers at once; the Split goes to the first of them."""
    output, source = node.outputs[0], node.inputs[0]
    if source is None or output.is_graph_output() or not output.uses():
        return None
    lengths = _lengths(node, source)
    if lengths is None or not 0 < len(lengths) <= _MOST:
        return None
    readers = {use.node for use in output.uses()}
    if not all(is_op(r, "SequenceAt") and r.graph is node.graph for r in readers):
        return None
    places = {r: _place(r.inputs[1], len(lengths), len(lengths) - 1) for r in readers}
    if None in places.values() or not all(r in order for r in readers):
        return None
    ordered = sorted(readers, key=lambda r: order[r])
    axis, name = attribute(node, "axis", 0), node.name or ""
    results = [ir.Value(name=f"{name}/{k}", type=source.type) for k in range(len(lengths))]
    if len(lengths) == 1:
        splitter = ir.Node("", "Identity", [source], outputs=results, name=name)
    elif version >= 13:
        sizes = constant_value(f"{name}/sizes", np.array(lengths, np.int64))
        splitter = ir.Node("", "Split", [source, sizes], [ir.AttrInt64("axis", axis)], outputs=results, name=name)
    else:
        attributes = [ir.AttrInt64("axis", axis), ir.AttrInt64s("split", lengths)]
        splitter = ir.Node("", "Split", [source], attributes, outputs=results, name=name)
    made = [splitter]
    if input_or_none(node, 1) is None and not attribute(node, "keepdims", 1):
        made += [_axis_node("Squeeze", v, axis, version, f"{name}/{k}") for k, v in enumerate(results)]
        results = [m.outputs[0] for m in made[1:]]
    pairs = [(r.outputs[0], results[places[r] or 0]) for r in ordered]
    return Rewrite((*ordered, node), tuple(made), tuple(pairs))


def _lengths(node: ir.Node, source: ir.Value) -> list[int] | None:
    """Sizes of the parts of a SplitToSequence."""
    shape, axis = static_shape(source), attribute(node, "axis", 0)
    given = input_or_none(node, 1)
    listed = constant(given)
    if given is not None and listed is None:
        return None
    if listed is not None and listed.ndim == 1:
        return [int(n) for n in listed]
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    size, step = shape[axis], 1 if listed is None else int(listed)
    if step < 1 or math.ceil(size / step) > _MOST:
        return None
    return [min(step, size - start) for start in range(0, size, step)]


def _optional(node: ir.Node) -> Answer:
    source, output = input_or_none(node, 0), node.outputs[0]
    maker = source.producer() if source is not None else None
    inside: ir.Value | None
    nodes: tuple[ir.Node, ...] = (node,)
    if source is None:
        inside = None
    elif maker is not None and is_op(maker, "Optional"):
        inside, nodes = input_or_none(maker, 0), (node, maker)
    elif isinstance(source.type, ir.TensorType | ir.SequenceType):
        inside = source
    else:
        return None
    if node.op_type == "OptionalGetElement":
        return None if inside is None else Rewrite(nodes, (), ((output, inside),))
    return _handed(node, nodes, constant_value(output.name or "has", np.array(inside is not None)))
