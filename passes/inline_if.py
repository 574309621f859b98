"""Put the nodes of a branch in the place of an If that always takes it.

1. The condition is a constant: the nodes of the branch taken
2. Both branches are the same, node by node and constant by constant: the nodes of either

The branch's initializers move to the graph around, what it reads from there it reads directly, bodies inside of it
come along. A branch may hand on values from outside, one value twice, or a constant: where that would be an output
of the graph, an Identity keeps it a value of its own. The node count of the file falls: the other branch goes.

Kept: the condition is computed (3); the branch draws random numbers, so that nothing can be compared (4).
Exact: the same nodes on the same values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, is_op
from edgeopt.ops import is_random
from edgeopt.passes.copies import Copier, rewrite
from edgeopt.rewrite import EVERYWHERE, Answer, Skip

_LARGEST = 200  # nodes up to which branches are compared


class InlineIf:
    """The rule (see the module's docstring)."""

    name = "inline_if"
    ops = frozenset({"If"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> None:
        """Nothing to prepare."""

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Take the If apart."""
        then, other = attribute(node, "then_branch"), attribute(node, "else_branch")
        if not is_op(node, "If") or then is None or other is None:
            return None
        condition = constant(node.inputs[0])
        if condition is not None and condition.size == 1:
            branch = then if condition.reshape(-1)[0] else other
        elif _same(then, other):
            branch = then
        else:
            return None
        if any(is_random(inner) for inner in branch.all_nodes()):
            return Skip(node.name or "", "its branch holds random or unknown operators, so nothing can be compared")
        copier = Copier()
        copier.initializers(branch)
        copier.copy(branch)
        return rewrite(node, copier.nodes, [copier.value(v) for v in branch.outputs])


def _same(a: ir.Graph, b: ir.Graph) -> bool:
    """Case 2: bodies inside the branches are not compared, so they count as different."""
    if len(a) != len(b) or len(a) > _LARGEST or len(a.outputs) != len(b.outputs):
        return False
    twins: dict[ir.Value, ir.Value] = {}

    def equal(x: ir.Value | None, y: ir.Value | None) -> bool:
        if x is None or y is None:
            return x is y
        if twins.get(x, x) is y:
            return True
        return x.is_initializer() and y.is_initializer() and x.graph is a and y.graph is b and _same_tensor(x, y)

    for m, n in zip(a, b, strict=True):
        if m.op_identifier() != n.op_identifier() or len(m.inputs) != len(n.inputs) or len(m.outputs) != len(n.outputs):
            return False
        if not all(equal(x, y) for x, y in zip(m.inputs, n.inputs, strict=True)):
            return False
        if m.attributes.keys() != n.attributes.keys():
            return False
        if not all(_same_attribute(m.attributes[k], n.attributes[k]) for k in m.attributes):
            return False
        twins.update(zip(m.outputs, n.outputs, strict=True))
    return all(equal(x, y) for x, y in zip(a.outputs, b.outputs, strict=True))


def _same_tensor(x: ir.Value, y: ir.Value) -> bool:
    return x.const_value is not None and y.const_value is not None and _same_bytes(x.const_value, y.const_value)


def _same_bytes(s: ir.TensorProtocol, t: ir.TensorProtocol) -> bool:
    """Bit by bit: -0.0 is not 0.0, and a NaN is itself."""
    if s is t:
        return True
    if s.dtype != t.dtype or list(s.shape) != list(t.shape):
        return False
    if s.dtype == ir.DataType.STRING:
        return np.array_equal(s.numpy(), t.numpy())
    return s.tobytes() == t.tobytes()


def _same_attribute(s: ir.Attr, t: ir.Attr) -> bool:
    if s.is_ref() or t.is_ref() or s.type != t.type:
        return False
    if s.type == ir.AttributeType.TENSOR:
        return _same_bytes(s.as_tensor(), t.as_tensor())
    plain = (ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.STRING, ir.AttributeType.STRINGS)
    if s.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
        return np.array_equal(np.float32(s.value).view(np.int32), np.float32(t.value).view(np.int32))
    return s.type in plain and s.value == t.value
