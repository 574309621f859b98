"""Rewrites of the usual form: one new node, or one value, takes the place of a node's first output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from edgeopt.graph import dims_of
from edgeopt.rewrite import Rewrite


def by_node(
    nodes: Sequence[ir.Node], op_type: str, inputs: Sequence[ir.Value | None], attributes: Iterable[ir.Attr] = ()
) -> Rewrite:
    """A new node of the standard domain in place of ``nodes[0]``, whose type, dims and name it keeps."""
    node = nodes[0]
    output = node.outputs[0]
    new = ir.Node(
        "",
        op_type,
        inputs=inputs,
        attributes=attributes,
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape)],
        name=node.name,
    )
    return Rewrite(tuple(nodes), (new,), ((output, new.outputs[0]),))


def by_value(nodes: Sequence[ir.Node], value: ir.Value) -> Rewrite:
    """A value that exists already in place of the output of ``nodes[0]``."""
    return Rewrite(tuple(nodes), (), ((nodes[0].outputs[0], value),))


def axis_of(axis: int, value: ir.Value | None) -> int | None:
    """The axis counted from the front; None if it counts from the back and the rank is unknown."""
    if axis >= 0:
        return axis
    dims = dims_of(value) if value is not None else None
    return None if dims is None else axis + len(dims)


def private(value: ir.Value | None, reader: ir.Node) -> bool:
    """Whether only this node reads the value, in the graph that makes it, and it is no output of the graph."""
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return False
    producer = value.producer()
    return producer is not None and producer.graph is reader.graph
