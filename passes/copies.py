"""Copies of the nodes in a body (a branch, a loop's body, a local function) for a place outside of it.

Three rules take bodies apart: ``inline_if``, ``unroll_loop`` and ``inline_functions``. The nodes they insert are
copies: values of the body become new values, bodies inside of it are copied too, what they read from outside stays.
A body's initializers become constants of the place; one that only bodies further inside read becomes a Constant
node, since the driver registers what new nodes read themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from edgeopt.rewrite import Rewrite

_BODY = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


class Copier:
    """Copies nodes; what it has copied stands in for the original in all later copies.

    Args:
        values: What stands for values of the body: its inputs, say. None is a missing optional input.
        attributes: What references to a function's attributes resolve to; those not named are dropped, as the
            IR specification has it. None leaves references alone.
        prefix: Put before the names of all nodes and values.
    """

    def __init__(
        self,
        values: Mapping[ir.Value, ir.Value | None] | None = None,
        attributes: Mapping[str, ir.Attr] | None = None,
        prefix: str = "",
    ) -> None:
        self.values: dict[ir.Value, ir.Value | None] = dict(values or {})
        self.nodes: list[ir.Node] = []
        self._attributes = attributes
        self._prefix = prefix

    def initializers(self, body: ir.Graph) -> None:
        """Make the body's initializers values of the place."""
        for name, value in body.initializers.items():
            if value in self.values or value.const_value is None:
                continue
            new = ir.Value(name=self._prefix + name, const_value=value.const_value, type=value.type, shape=value.shape)
            read_inside = [use.node.graph is not body for use in value.uses()]
            if read_inside and all(read_inside):
                attr = ir.Attr("value", ir.AttributeType.TENSOR, value.const_value)
                holder = ir.Node("", "Constant", [], [attr], name=self._prefix + name)
                holder.outputs[0].name, holder.outputs[0].type = self._prefix + name, value.type
                holder.outputs[0].shape = value.shape
                self.nodes.append(holder)
                new = holder.outputs[0]
            self.values[value] = new

    def copy(self, nodes: Iterable[ir.Node], prefix: str | None = None) -> None:
        """Append copies of these nodes, which are in topological order, to ``nodes``."""
        self._prefix = self._prefix if prefix is None else prefix
        self.nodes += [self._node(node) for node in nodes]

    def value(self, value: ir.Value) -> ir.Value:
        """What stands for a value: its copy, or itself if it lies outside.

        Raises:
            ValueError: it is an optional input that is missing.
        """
        found = self.values.get(value, value)
        if found is None:
            raise ValueError(f"{value.name!r} is missing")
        return found

    def _node(self, node: ir.Node) -> ir.Node:
        attributes = [a for a in map(self._attribute, node.attributes.values()) if a is not None]
        return ir.Node(
            node.domain,
            node.op_type,
            [None if v is None else self.values.get(v, v) for v in node.inputs],
            attributes,
            overload=node.overload,
            outputs=[self._fresh(v) for v in node.outputs],
            name=self._prefix + (node.name or f"{node.op_type}_{node.outputs[0].name if node.outputs else ''}"),
            doc_string=node.doc_string,
            metadata_props=dict(node.metadata_props),
        )

    def _fresh(self, value: ir.Value) -> ir.Value:
        name = self._prefix + value.name if value.name else ""
        new = ir.Value(name=name, type=value.type, shape=value.shape.copy() if value.shape is not None else None)
        new.doc_string = value.doc_string
        new.metadata_props.update(value.metadata_props)
        self.values[value] = new
        return new

    def _attribute(self, attribute: ir.Attr) -> ir.Attr | None:
        if attribute.is_ref():
            if self._attributes is None:
                return attribute
            given = self._attributes.get(attribute.ref_attr_name or "")
            if given is None:
                return None
            if given.is_ref():
                return ir.RefAttr(attribute.name, given.ref_attr_name or "", given.type)
            return ir.Attr(attribute.name, given.type, given.value)
        if attribute.type == ir.AttributeType.GRAPH:
            return ir.AttrGraph(attribute.name, self._body(attribute.as_graph()))
        if attribute.type == ir.AttributeType.GRAPHS:
            return ir.AttrGraphs(attribute.name, [self._body(g) for g in attribute.as_graphs()])
        return attribute

    def _body(self, body: ir.Graph) -> ir.Graph:
        inputs = [self._fresh(v) for v in body.inputs]
        stored = []
        for value in body.initializers.values():
            new = self.value(value) if value in body.inputs else self._fresh(value)  # a new one in each copy
            new.const_value = value.const_value
            stored.append(new)
        nodes = [self._node(n) for n in body]
        outputs = [self.value(v) for v in body.outputs]
        new_body = ir.Graph(
            inputs, outputs, nodes=nodes, initializers=stored, doc_string=body.doc_string, name=body.name
        )
        new_body.metadata_props.update(body.metadata_props)
        return new_body


def rewrite(node: ir.Node, made: list[ir.Node], results: Sequence[ir.Value]) -> Rewrite:
    """Put ``made`` in the place of ``node``, whose outputs become ``results``.

    An output of the graph must stay a value that its own graph computes, and only one output can be one value: there
    an Identity is added.
    """
    new_nodes, taken, pairs = list(made), set[ir.Value](), []
    inside = {v for n in made for v in n.outputs}
    for old, new in zip(node.outputs, results, strict=True):
        if not (old.uses() or old.is_graph_output()):
            continue
        producer = new.producer()
        own = new in inside or (producer is not None and producer.graph is node.graph)
        if old.is_graph_output() and (not own or new in taken or new.is_graph_output()):
            copy = ir.Node("", "Identity", [new], name=f"{node.name}/{old.name}")
            copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = old.name, old.type, old.shape
            new_nodes.append(copy)
            new = copy.outputs[0]
        if old.is_graph_output():
            taken.add(new)
        pairs.append((old, new))
    return Rewrite((node,), tuple(new_nodes), tuple(pairs))


def node_count(body: Iterable[ir.Node]) -> int:
    """Nodes including those of bodies further inside."""
    total, stack = 0, list(body)
    while stack:
        node = stack.pop()
        total += 1
        for attribute in node.attributes.values():
            if not attribute.is_ref() and attribute.type in _BODY:
                graphs = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs()
                stack += [n for g in graphs for n in g]
    return total
