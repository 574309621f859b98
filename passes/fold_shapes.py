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

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt import sizes
from edgeopt.graph import (
    attribute,
    constant,
    constant_tensor,
    constant_value,
    dims_of,
    graphs,
    input_or_none,
    is_op,
    opset,
)
from edgeopt.node_types import infer_outputs
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip
from edgeopt.shape_data import DATA_OPS, ShapeData
from edgeopt.shape_known import product, slice_bounds
from edgeopt.sizes import Size

_MOST_CHAIN = 100  # nodes of one computation
_TO_THE_END = 2**63 - 1
_SOURCES = ("Shape", "Size")


class _State:
    """What ``match`` asks: the data, the opset, and whether the model computes with shapes at all."""

    def __init__(self, model: ir.Model) -> None:
        self.version = opset(model)
        self.known = ShapeData(model)
        self.inputs: dict[tuple[Size, ...], ir.Value] = {}
        self.places: dict[Size, tuple[ir.Value, int]] = {}
        nodes = [n for g in graphs(model) for n in g]
        self.active = any(n.op_type in _SOURCES and is_op(n, *_SOURCES) for n in nodes)
        if not self.active:  # sizes that were folded to constants may have left dims open
            self.active = any(_is_open(v) for n in nodes for v in n.outputs)
        if self.active:
            for node in nodes:
                infer_outputs(node, model.opset_imports, model.ir_version)
            improve(nodes, self.known)
            for value in model.graph.inputs:
                dims = self.known.dims(value)
                if dims is not None and isinstance(value.type, ir.TensorType):
                    self.inputs.setdefault(dims, value)
                    for axis, size in enumerate(dims):
                        if size.symbol is not None:
                            self.places.setdefault(size, (value, axis))


class FoldShapes:
    """The rule (see the module's docstring)."""

    name = "fold_shapes"
    ops = DATA_OPS | {"Expand", "Resize"}
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> _State:
        """Follow all sizes, and fill in dims."""
        return _State(model)

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


def improve(nodes: Iterable[ir.Node], known: ShapeData) -> None:
    """Fill in dims that are missing or that inference only invented a name for, in place; outputs keep theirs."""
    for node in nodes:
        for value in node.outputs:
            if value.is_graph_output() or not isinstance(value.type, ir.TensorType):
                continue
            stated = dims_of(value)
            if stated is not None and not any(d is None or _invented(d) for d in stated):
                known.data(value)
                continue
            found = known.dims(value)
            known.data(value)
            if found is None or (stated is not None and len(stated) != len(found)):
                continue
            given = stated if stated is not None else (None,) * len(found)
            dims = [_dim(f) if d is None or _invented(d) else d for d, f in zip(given, found, strict=True)]
            if list(given) != dims or stated is None:
                value.shape = ir.Shape([d if not _invented(d) or d in given else None for d in dims])


def _is_open(value: ir.Value) -> bool:
    dims = dims_of(value)
    return value.type is None or dims is None or any(_invented(d) for d in dims)


def _invented(dim: int | str | None) -> bool:
    return isinstance(dim, str) and dim.startswith("unk__")


def _dim(size: Size) -> int | str | None:
    number = size.integer
    if number is not None:
        return number if number > 0 else None
    name = size.symbol
    return name if isinstance(name, str) and not name.startswith("?") and "@" not in name else None


# ------------------------------------------------------------------------------------------ computations
def _chain(values: Iterable[ir.Value | None]) -> list[ir.Node] | None:
    """The nodes that compute these values from Shapes on, readers before their producers; None if too many."""
    order: list[ir.Node] = []
    seen: set[ir.Node] = set()
    stack = [(p, False) for p in map(_computing, values) if p is not None]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        if node in seen:
            continue
        seen.add(node)
        if len(seen) > _MOST_CHAIN:
            return None
        stack.append((node, True))
        if not is_op(node, *_SOURCES):
            stack += [(p, False) for p in map(_computing, node.inputs) if p is not None]
    return order[::-1]


def _computing(value: ir.Value | None) -> ir.Node | None:
    """The producer, if it is one that ``shape_data`` can follow."""
    if value is None or constant_tensor(value) is not None:
        return None
    producer = value.producer()
    return producer if producer is not None and is_op(producer, *DATA_OPS) else None


def _sizes(nodes: Sequence[ir.Node], new: Sequence[ir.Node], known: ShapeData) -> dict[ir.Value, Sequence[Size]]:
    """Dims of everything that the nodes read from outside, for the check."""
    inside = {v for n in (*nodes, *new) for v in n.outputs}
    found: dict[ir.Value, Sequence[Size]] = {}
    for node in (*nodes, *new):
        for value in node.inputs:
            if value is None or value in inside or value in found or value.const_value is not None:
                continue
            dims = known.dims(value)
            if dims is not None:
                found[value] = dims
    return found


def _replaced(
    node: ir.Node, chain: Sequence[ir.Node], new: tuple[ir.Node, ...], result: ir.Value, known: ShapeData
) -> Rewrite:
    nodes = (node, *(n for n in chain if n is not node))
    return Rewrite(nodes, new, ((node.outputs[0], result),), _sizes(nodes, new, known))


def _again(node: ir.Node, inputs: Sequence[ir.Value | None], **changed: ir.Attr | None) -> ir.Node:
    """The same node with other inputs and attributes (None: without)."""
    attributes = {**node.attributes, **changed}
    output = node.outputs[0]
    return ir.Node(
        "",
        node.op_type,
        inputs,
        [a for a in attributes.values() if a is not None],
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape)],
        name=node.name,
    )


# ------------------------------------------------------------------------------------------ case 1
def _constant(node: ir.Node, state: _State) -> Answer:
    if len(node.outputs) != 1 or all(constant_tensor(v) is not None for v in node.inputs if v is not None):
        return None
    data = state.known.data(node.outputs[0])
    array = data.array() if data is not None else None
    if array is None:
        return None
    chain = _chain([node.outputs[0]])
    if chain is None or not any(is_op(n, *_SOURCES) for n in chain):
        return None
    new = constant_value(node.outputs[0].name or node.name or "size", array)
    if not node.outputs[0].is_graph_output():
        return _replaced(node, chain, (), new, state.known)
    holder = ir.Node("", "Constant", [], [ir.Attr("value", ir.AttributeType.TENSOR, new.const_value)], name=node.name)
    holder.outputs[0].name = new.name
    return _replaced(node, chain, (holder,), holder.outputs[0], state.known)


# ------------------------------------------------------------------------------------------ case 2
def _reshape(node: ir.Node, state: _State) -> Answer:
    target = input_or_none(node, 1)
    if _computing(target) is None:
        return None
    data, dims, name = state.known.data(target), state.known.dims(node.inputs[0]), node.name or ""
    chain = _chain([target])
    if data is None or data.scalar or chain is None or not any(is_op(n, *_SOURCES) for n in chain):
        return None
    zeros = bool(attribute(node, "allowzero", 0))
    found = _target(data.numbers(), dims, zeros)
    if isinstance(found, str):
        numbers = data.numbers()
        shorter = _rebuilt(node, chain, numbers, state) if numbers is not None else None
        return shorter or Skip(name, f"its target stays a computation: {found}")
    new_target = constant_value(f"{name}/target", np.array(found, np.int64))
    keep_zero = ir.AttrInt64("allowzero", 1) if zeros and 0 not in found else None
    new = _again(node, [node.inputs[0], new_target], allowzero=keep_zero if -1 not in found else None)
    return _replaced(node, chain, (new,), new.outputs[0], state.known)


def _target(wanted: list[Size] | None, dims: tuple[Size, ...] | None, zeros: bool) -> list[int] | str:
    """Case 2, or why not."""
    if wanted is None:
        return "it depends on data"
    result: list[int | None] = []
    for k, size in enumerate(wanted):
        number = size.integer
        if number == 0 and zeros:
            return "it asks for an empty tensor"
        if number is not None and number < -1:
            return "it asks for a negative size"
        kept = dims is not None and k < len(dims) and dims[k] == size and number is None
        result.append(0 if kept else number)
    if (free := _free(wanted, result, dims)) is not None:
        wanted, result = [*wanted], [*result]
        k = result.index(-1)
        wanted[k], result[k] = sizes.number(free), free
    unknown = [k for k, r in enumerate(result) if r is None]
    if not unknown:
        return [r for r in result if r is not None]
    if len(unknown) > 1 or -1 in result:
        names = ", ".join(str(wanted[k]) for k in unknown)
        return f"{names} at {'these places' if len(unknown) > 1 else 'this place'} cannot all be written as constants"
    for k, r in enumerate(result):
        number = wanted[k].integer if r != 0 or dims is None else dims[k].integer
        if k not in unknown and not number:
            return f"beside the open size {wanted[unknown[0]]}, {wanted[k]} may be 0"
    return [-1 if r is None else r for r in result]


def _free(wanted: Sequence[Size], result: Sequence[int | None], dims: tuple[Size, ...] | None) -> int | None:
    """The number that a literal -1 stands for."""
    if result.count(-1) != 1 or dims is None:
        return None
    k = result.index(-1)
    others = [dims[j] if result[j] == 0 and j < len(dims) else w for j, w in enumerate(wanted) if j != k]
    total, below = product(dims), product(others)
    found = sizes.quotient(total, below) if total is not None and below is not None else None
    number = found.integer if found is not None else None
    return number if number is not None and number > 0 else None


# ------------------------------------------------------------------------------------------ case 3
def _expand(node: ir.Node, state: _State) -> Answer:
    target, source = input_or_none(node, 1), node.inputs[0]
    data, dims = state.known.data(target), state.known.dims(source)
    wanted = data.numbers() if data is not None and not data.scalar else None
    if _computing(target) is None or wanted is None or dims is None or source is None or len(wanted) > len(dims):
        return None
    one = sizes.number(1)
    if not all(w in (one, d) for w, d in zip(wanted[::-1], dims[::-1], strict=False)):
        return None
    chain = _chain([target])
    return None if chain is None else _replaced(node, chain, (), source, state.known)


# ------------------------------------------------------------------------------------------ case 4
def _resize(node: ir.Node, state: _State) -> Answer:
    asked = input_or_none(node, 3)
    if asked is None or state.version < 11 or _computing(asked) is None:
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
    chain = _chain([asked])
    if chain is None:
        return None
    array = constant_value(f"{node.name}/scales", np.array(scales, np.float32))
    new = _again(node, [node.inputs[0], node.inputs[1], array])
    return _replaced(node, chain, (new,), new.outputs[0], state.known)


# ------------------------------------------------------------------------------------------ case 5
def _slice(node: ir.Node, state: _State) -> Answer:
    if state.version < 10 or all(_computing(input_or_none(node, k)) is None for k in (1, 2)):
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
    chain = _chain(node.inputs[1:3])
    if chain is None:
        return None
    if whole == len(bounds):
        return _replaced(node, chain, (), source, state.known)
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
    new = _again(node, [source, *arrays])
    return _replaced(node, chain, (new,), new.outputs[0], state.known)


# ------------------------------------------------------------------------------------------ case 6
def _shape(node: ir.Node, state: _State) -> Answer:
    source = input_or_none(node, 0)
    dims = state.known.dims(source)
    if source is None or dims is None or source.producer() is None or source.is_graph_output():
        return None
    if not all(is_op(use.node, *_SOURCES) for use in source.uses()):
        return None
    earlier = state.inputs.get(dims)
    if earlier is None:
        earlier = _root(source, dims, state.known)
    if earlier is None or earlier is source:
        return None
    new = _again(node, [earlier])
    return _replaced(node, [], (new,), new.outputs[0], state.known)


def _root(value: ir.Value, dims: tuple[Size, ...], known: ShapeData) -> ir.Value | None:
    """The farthest value above of the same dims, through nodes that only sizes are asked of."""
    best, current = None, value
    for _ in range(_MOST_CHAIN):
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


# ------------------------------------------------------------------------------------------ case 7
def _gather(node: ir.Node, state: _State) -> Answer:
    shape = _computing(node.inputs[0])
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
    new = _again(node, [asked.outputs[0], place])
    return _replaced(node, [shape], (asked, new), new.outputs[0], state.known)


# ------------------------------------------------------------------------------------------ case 8
def _rebuilt(node: ir.Node, chain: list[ir.Node], wanted: list[Size], state: _State) -> Rewrite | None:
    """A shorter computation of a Reshape's target: constants around parts of the Shape of its own input."""
    source, name = node.inputs[0], node.name or ""
    dims = state.known.dims(source)
    zeros = bool(attribute(node, "allowzero", 0))
    if source is None or dims is None or zeros or state.version < 15:
        return None
    parts: list[list[int] | slice] = []
    for k, size in enumerate(wanted):
        number = 0 if k < len(dims) and dims[k] == size and size.integer is None else size.integer
        last = parts[-1] if parts else None
        if number is not None:
            if isinstance(last, list):
                last.append(number)
            else:
                parts.append([number])
        elif isinstance(last, slice) and last.stop < len(dims) and dims[last.stop] == size:
            parts[-1] = slice(last.start, last.stop + 1)
        elif size in dims:
            parts.append(slice(dims.index(size), dims.index(size) + 1))
        else:
            return None
    made: list[ir.Node] = []
    vectors: list[ir.Value] = []
    for part in parts:
        if isinstance(part, list):
            vectors.append(constant_value(f"{name}/sizes", np.array(part, np.int64)))
            continue
        attributes = [ir.AttrInt64("start", part.start), ir.AttrInt64("end", part.stop)]
        asked = ir.Node("", "Shape", [source], attributes, name=f"{name}/shape")
        asked.outputs[0].name, asked.outputs[0].type = f"{name}/shape", ir.TensorType(ir.DataType.INT64)
        made.append(asked)
        vectors.append(asked.outputs[0])
    if len(vectors) > 1:
        joined = ir.Node("", "Concat", vectors, [ir.AttrInt64("axis", 0)], name=f"{name}/target")
        joined.outputs[0].name, joined.outputs[0].type = f"{name}/target", ir.TensorType(ir.DataType.INT64)
        made.append(joined)
    if not made or len(made) >= _owned(node, chain):
        return None
    new = _again(node, [source, made[-1].outputs[0]])
    return _replaced(node, chain, (*made, new), new.outputs[0], state.known)


def _owned(reader: ir.Node, chain: Sequence[ir.Node]) -> int:
    """How many nodes of the computation nobody else needs."""
    own = {reader}
    for node in chain:
        outputs = node.outputs
        if not any(v.is_graph_output() for v in outputs) and all(u.node in own for v in outputs for u in v.uses()):
            own.add(node)
    return len(own) - 1


_RULES = {
    "Gather": _gather,
    "Reshape": _reshape,
    "Expand": _expand,
    "Resize": _resize,
    "Slice": _slice,
    "Shape": _shape,
}
