"""Compute once what several nodes compute from the same inputs.

Two nodes are the same if operator, inputs and attributes are:

1. Inputs are compared by identity (equal initializers are one value after ``dedupe_initializers``); equalities
   cascade, since a node is looked at after its inputs
2. The two operands of Add, Mul, Max, Min, Sum, Mean, And, Or, Xor, Equal and the bitwise operators in any order
3. An attribute that states its default is the same as none; empty optional inputs count only before others
4. A body may use what the graph around it has computed before, but not what a sibling body has
5. A graph output may take the place of another value, and the other way round

Left alone: random operators, Dropout in training, unknown domains and function calls (6), nodes with bodies (7),
two outputs of the graph that are the same (8), DequantizeLinear and QuantizeLinear, whose copies belong to the
layers they stand at (9), Constant nodes, which are weights (10), and twins with an output that the other lacks (11).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import onnx
import onnx_ir as ir

from edgeopt.graph import STANDARD_DOMAINS, graphs, has_subgraph, opset
from edgeopt.ops import bodies, is_random
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite

_COMMUTATIVE = frozenset(
    {"Add", "Mul", "Max", "Min", "Sum", "Mean", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}
)
_KEPT = frozenset({"Constant", "QuantizeLinear", "DequantizeLinear"})


@dataclass
class _Seen:
    """Nodes by graph and key, the order of all nodes, and which node holds which graph."""

    version: int
    order: dict[ir.Node, int] = field(default_factory=dict)
    holders: dict[ir.Graph, ir.Node] = field(default_factory=dict)
    known: dict[tuple[ir.Graph, Hashable], ir.Node] = field(default_factory=dict)


class CommonSubexpressions:
    """The rule (see the module's docstring)."""

    name = "common_subexpressions"
    ops = None
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> _Seen:
        """The order of the nodes: a value can only be used after it was computed."""
        state = _Seen(opset(model))
        found = list(graphs(model))
        state.order = {node: k for k, node in enumerate(node for graph in found for node in graph)}
        if len(found) > 1:
            state.holders = {body: node for node in state.order for body in bodies(node)}
        return state

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Read the twin's outputs in place of this node's."""
        if any(v is not None and len(v.uses()) < 2 for v in node.inputs) or not _comparable(node, state.version):
            return None  # a twin would read the same values; once it does, the driver asks again
        key = _key(node, state.version)
        graph, place = node.graph, node
        while graph is not None:
            twin = state.known.get((graph, key))
            if twin is not None and twin is not node and _usable(twin, place, graph, key, state):
                return _rewrite(node, twin)
            if twin is not None and twin is not node and place is node and _usable(node, twin, graph, key, state):
                state.known[graph, key] = node
                return _rewrite(twin, node)  # the twin came to be one while this node waited
            holder = state.holders.get(graph)
            graph, place = (holder.graph, holder) if holder is not None else (None, place)
        state.known[node.graph, key] = node
        return None


def _comparable(node: ir.Node, version: int) -> bool:
    """Cases 6, 7, 9 and 10."""
    if node.domain not in STANDARD_DOMAINS or node.op_type in _KEPT or not node.outputs or has_subgraph(node):
        return False
    if node.op_type == "Dropout" and version < 7:  # trains unless is_test=1
        return False
    return not is_random(node) and not any(a.is_ref() for a in node.attributes.values())


def _usable(twin: ir.Node, place: ir.Node, graph: ir.Graph, key: Hashable, state: _Seen) -> bool:
    """The twin is still there and the same as when it was entered, and stands before the place that wants it."""
    return twin.graph is graph and state.order[twin] < state.order[place] and _key(twin, state.version) == key


def _rewrite(node: ir.Node, twin: ir.Node) -> Rewrite | None:
    pairs = []
    for k, value in enumerate(node.outputs):
        if not value.uses() and not value.is_graph_output():
            continue
        if k >= len(twin.outputs) or twin.outputs[k].name == "":
            return None
        pairs.append((value, twin.outputs[k]))
    return Rewrite((node, twin), (), tuple(pairs)) if pairs else None  # the twin stays, and the check sees both


def _key(node: ir.Node, version: int) -> Hashable:
    """What two nodes have in common exactly if they compute the same."""
    inputs = [id(v) if v is not None else 0 for v in node.inputs]
    while inputs and not inputs[-1]:
        inputs.pop()
    if node.op_type in _COMMUTATIVE and len(inputs) == 2 and version >= 7:  # before, only the second broadcasts
        inputs.sort()
    defaults = _defaults(node.op_type, version)
    attributes = []
    for name in sorted(node.attributes):
        written = _attribute(node.attributes[name])
        if defaults.get(name) != written:
            attributes.append((name, written))
    return node.op_type, tuple(inputs), tuple(attributes)


def _attribute(attr: ir.Attr) -> bytes:
    """Type and value to the bit: 0.0 is not -0.0, and a tensor has a type and a shape."""
    message: onnx.AttributeProto = ir.serde.serialize_attribute(attr)
    message.ClearField("name")
    message.ClearField("doc_string")
    if message.HasField("t"):
        message.t.ClearField("name")
        message.t.ClearField("doc_string")
    return message.SerializeToString(deterministic=True)


@lru_cache(maxsize=1024)
def _defaults(op_type: str, version: int) -> dict[str, bytes]:
    try:
        schema = onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return {}
    found = {}
    for name, attribute in schema.attributes.items():
        message = onnx.AttributeProto()
        message.CopyFrom(attribute.default_value)
        if message.type:
            message.ClearField("name")
            message.ClearField("doc_string")
            found[name] = message.SerializeToString(deterministic=True)
    return found
