"""Replace computations of sizes by what they always give, for every value of the symbolic dimensions.

Exporters write the shape of a dynamic model as a computation: Shape, Gather, Mul, Concat, then Reshape.
``shape_data`` follows it with symbols in place of numbers. A computation counts as a whole: its nodes up to the Shape
or Size that it starts from; those that nobody else reads go.

1. A size, or a truth about sizes, that is the same number whatever the symbols are: a constant. So for Gather of a
   fixed dim of a Shape where other dims are open, and for the condition of an If
2. Reshape to computed sizes: a constant target, with 0 where the input's own dim at that place is kept, and -1 for
   at most one that is open. A literal -1 becomes its number where that is known
3. Expand to sizes that the input has already, or to 1: nothing
4. Resize to ``sizes`` that are fixed multiples of the input's: constant ``scales``, from opset 11 on
5. Slice from 0 to the dim's own size: to the largest integer where other axes are cut, nothing where none is
6. Shape of a value that only Shapes read: of an earlier value of the same dims, or of the graph input that has them,
   so that what lies between can go
7. One dim out of the Shape of an inner value: out of that of the graph input that has it, so that inner values are
   read by layers only, which other rules fold into each other
8. A Reshape target of several open sizes that are dims of the input: constants around parts of the input's Shape, from
   opset 15 on, where that is shorter

Exactness: sizes are integers, and 4 is left alone unless the scale is exactly a float32, so that the runtime gets the
same scale from it as from the sizes. A -1 is written only where all other dims are never 0: a runtime cannot tell
the size of the -1 of an empty tensor.

Left alone: a target of two open sizes that are not the input's own at their places, or of sizes that are data (9);
an open size beside another one that may be 0 (10).
Types of inner values that ONNX's own inference leaves open are filled in on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt import sizes
from edgeopt.graph import attribute, constant, constant_tensor, constant_value, input_or_none, is_op
from edgeopt.passes.shape_chains import MOST_CHAIN, SOURCES, State, again, chain_of, computing, replaced
from edgeopt.passes.shape_targets import expand_target, reshape_target
from edgeopt.rewrite import EVERYWHERE, Answer, Skip
from edgeopt.shape_data import DATA_OPS, ShapeData
from edgeopt.shape_known import slice_bounds
from edgeopt.sizes import Size

_TO_THE_END = 2**63 - 1


class FoldShapes:
    """The rule (see the module's docstring)."""

    name = "fold_shapes"
    ops = DATA_OPS | {"Expand", "Resize"}
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> State:
        """Follow all sizes, and fill in dims."""
        return State(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Look at one node in the order of the cases."""
        if not state.active or not is_op(node, *self.ops):
            return None
        answer = _constant(node, state) if node.op_type in DATA_OPS else None
        if answer is None and node.op_type in _RULES:
            answer = _RULES[node.op_type](node, state)
        return answer


def _constant(node: ir.Node, state: State) -> Answer:
    if len(node.outputs) != 1 or all(constant_tensor(v) is not None for v in node.inputs if v is not None):
        return None
    data = state.known.data(node.outputs[0])
    array = data.array() if data is not None else None
    if array is None:
        return None
    chain = chain_of([node.outputs[0]])
    if chain is None or not any(is_op(n, *SOURCES) for n in chain):
        return None
    new = constant_value(node.outputs[0].name or node.name or "size", array)
    if not node.outputs[0].is_graph_output():
        return replaced(node, chain, (), new, state.known)
    holder = ir.Node("", "Constant", [], [ir.Attr("value", ir.AttributeType.TENSOR, new.const_value)], name=node.name)
    holder.outputs[0].name = new.name
    return replaced(node, chain, (holder,), holder.outputs[0], state.known)


def _resize(node: ir.Node, state: State) -> Answer:
    asked = input_or_none(node, 3)
    if asked is None or state.version < 11 or computing(asked) is None:
        return None
    data, dims = state.known.data(asked), state.known.dims(node.inputs[0])
    wanted = data.numbers() if data is not None else None
    if wanted is None or dims is None:
        return None
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return Skip(node.name or "", "its sizes stay a computation: it keeps the aspect ratio")
    if attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return Skip(node.name or "", "its sizes stay a computation: it crops")
    axes = attribute(node, "axes", range(len(dims)))
    if len(axes) != len(wanted) or any(not -len(dims) <= a < len(dims) for a in axes):
        return None
    scales: list[float] = []
    for axis, size in zip(axes, wanted, strict=True):
        exact = sizes.quotient(size, dims[axis])
        scale = exact.number if exact is not None else None
        if scale is None or scale <= 0 or float(np.float32(float(scale))) != scale:
            return Skip(node.name or "", f"its sizes stay a computation: {size} is no fixed multiple of {dims[axis]}")
        scales.append(float(scale))
    chain = chain_of([asked])
    if chain is None:
        return None
    array = constant_value(f"{node.name}/scales", np.array(scales, np.float32))
    new = again(node, [node.inputs[0], node.inputs[1], array])
    return replaced(node, chain, (new,), new.outputs[0], state.known)


def _slice(node: ir.Node, state: State) -> Answer:
    if state.version < 10 or all(computing(input_or_none(node, k)) is None for k in (1, 2)):
        return None
    bounds, dims, source = slice_bounds(node, state.known), state.known.dims(node.inputs[0]), node.inputs[0]
    if bounds is None or dims is None or source is None:
        return None
    starts: list[int] = []
    ends: list[int] = []
    whole = 0
    for axis, start, end, step in bounds:
        first, last = start.integer, end.integer
        if not -len(dims) <= axis < len(dims) or first is None or step < 1:
            return None
        if last is None:
            if end != dims[axis] or first < 0:
                return None
            last = _TO_THE_END
        everything = last >= 2**31 - 1 or (last == dims[axis].integer)
        whole += first == 0 and step == 1 and everything
        starts.append(first)
        ends.append(last)
    chain = chain_of(node.inputs[1:3])
    if chain is None:
        return None
    if whole == len(bounds):
        return replaced(node, chain, (), source, state.known)
    narrow = any(v is not None and v.dtype == ir.DataType.INT32 for v in node.inputs[1:4])

    def vector(name: str, numbers: Sequence[int]) -> ir.Value:
        array = np.array(numbers, np.int64)
        fitting = np.clip(array, -(2**31), 2**31 - 1).astype(np.int32) if narrow else array
        return constant_value(f"{node.name}/{name}", fitting)

    arrays = [vector("starts", starts), vector("ends", ends)]
    if len(node.inputs) > 3:
        arrays.append(vector("axes", [b[0] for b in bounds]))
    if len(node.inputs) > 4:
        arrays.append(vector("steps", [b[3] for b in bounds]))
    new = again(node, [source, *arrays])
    return replaced(node, chain, (new,), new.outputs[0], state.known)


def _shape(node: ir.Node, state: State) -> Answer:
    source = input_or_none(node, 0)
    dims = state.known.dims(source)
    if source is None or dims is None or source.producer() is None or source.is_graph_output():
        return None
    if not all(is_op(use.node, *SOURCES) for use in source.uses()):
        return None
    earlier = state.inputs.get(dims)
    if earlier is None:
        earlier = _root(source, dims, state.known)
    if earlier is None or earlier is source:
        return None
    new = again(node, [earlier])
    return replaced(node, [], (new,), new.outputs[0], state.known)


def _root(value: ir.Value, dims: tuple[Size, ...], known: ShapeData) -> ir.Value | None:
    """The farthest value above of the same dims, through nodes that only sizes are asked of."""
    best, current = None, value
    for _ in range(MOST_CHAIN):
        node = current.producer()
        if node is None or (current is not value and not _only_for(current, node)):
            break
        above = next((v for v in node.inputs if v is not None and known.dims(v) == dims), None)
        if above is None or constant_tensor(above) is not None or not isinstance(above.type, ir.TensorType):
            break
        best = current = above
    return best


def _only_for(value: ir.Value, node: ir.Node) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output() and len(node.outputs) == 1


def _gather(node: ir.Node, state: State) -> Answer:
    shape = computing(node.inputs[0])
    source = shape.inputs[0] if shape is not None and is_op(shape, "Shape") else None
    if shape is None or source is None or source.is_graph_input() or len(shape.outputs[0].uses()) != 1:
        return None
    data, index = state.known.data(node.outputs[0]), constant(input_or_none(node, 1))
    if data is None or index is None or index.size != 1 or shape.outputs[0].is_graph_output():
        return None
    found = state.places.get(data.elements[0]) if isinstance(data.elements[0], Size) else None
    if found is None:
        return None
    value, axis = found
    asked = ir.Node("", "Shape", [value], name=shape.name)
    asked.outputs[0].name, asked.outputs[0].type = shape.outputs[0].name, ir.TensorType(ir.DataType.INT64)
    place = constant_value(f"{node.name}/axis", np.full(index.shape, axis, np.int64))
    new = again(node, [asked.outputs[0], place])
    return replaced(node, [shape], (asked, new), new.outputs[0], state.known)


_RULES = {
    "Gather": _gather,
    "Reshape": reshape_target,
    "Expand": expand_target,
    "Resize": _resize,
    "Slice": _slice,
    "Shape": _shape,
}
