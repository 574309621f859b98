"""Computations of sizes as a whole: what ``fold_shapes`` knows before it matches, and how it replaces one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from edgeopt.graph import constant_tensor, dims_of, graphs, is_op, opset
from edgeopt.node_types import infer_outputs
from edgeopt.rewrite import Rewrite
from edgeopt.shape_data import DATA_OPS, ShapeData
from edgeopt.sizes import Size

MOST_CHAIN = 100  # nodes of one computation

SOURCES = ("Shape", "Size")


class State:
    """What ``match`` asks: the data, the opset, and whether the model computes with shapes at all."""

    def __init__(self, model: ir.Model) -> None:
        self.version = opset(model)
        self.known = ShapeData(model)
        self.inputs: dict[tuple[Size, ...], ir.Value] = {}
        self.places: dict[Size, tuple[ir.Value, int]] = {}
        nodes = [n for g in graphs(model) for n in g]
        self.active = any(n.op_type in SOURCES and is_op(n, *SOURCES) for n in nodes)
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


def chain_of(values: Iterable[ir.Value | None]) -> list[ir.Node] | None:
    """The nodes that compute these values from Shapes on, readers before their producers; None if too many."""
    order: list[ir.Node] = []
    seen: set[ir.Node] = set()
    stack = [(p, False) for p in map(computing, values) if p is not None]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        if node in seen:
            continue
        seen.add(node)
        if len(seen) > MOST_CHAIN:
            return None
        stack.append((node, True))
        if not is_op(node, *SOURCES):
            stack += [(p, False) for p in map(computing, node.inputs) if p is not None]
    return order[::-1]


def computing(value: ir.Value | None) -> ir.Node | None:
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


def replaced(
    node: ir.Node, chain: Sequence[ir.Node], new: tuple[ir.Node, ...], result: ir.Value, known: ShapeData
) -> Rewrite:
    """The rewrite of a node and of its computation by new nodes."""
    nodes = (node, *(n for n in chain if n is not node))
    return Rewrite(nodes, new, ((node.outputs[0], result),), _sizes(nodes, new, known))


def again(node: ir.Node, inputs: Sequence[ir.Value | None], **changed: ir.Attr | None) -> ir.Node:
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


def owned(reader: ir.Node, chain: Sequence[ir.Node]) -> int:
    """How many nodes of the computation nobody else needs."""
    own = {reader}
    for node in chain:
        outputs = node.outputs
        if not any(v.is_graph_output() for v in outputs) and all(u.node in own for v in outputs for u in v.uses()):
            own.add(node)
    return len(own) - 1
