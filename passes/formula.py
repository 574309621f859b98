"""What the passes that replace an element-wise formula by one operator share: the walk, and what is allowed.

A finder reads the formula that ends at a node and yields what it may be, the best first; the first one that the
opset and the target have, and whose inner nodes nobody else needs, is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import ClassVar

import onnx_ir as ir

from edgeopt.graph import constant_tensor, dims_of, is_op, opset
from edgeopt.passes.pattern import Found, dtype_name, inner_nodes, introduced, new_node
from edgeopt.rewrite import Answer, Pays, Rewrite

Finder = Callable[[ir.Node, int], Iterator[Found]]

MEASURED = Pays(False, "one kernel instead of several, where the runtime has it")

_SLOW = frozenset({"Swish", "Softplus", "Elu", "PRelu"})
"""Operators that onnxruntime 1.31 computes more slowly than their formulas, on one x86 core, [1,32,56,56]: 35 to 61,
206 to 1132, 84 to 189 and 70 to 432 microseconds."""

_ONE_AXIS = frozenset({"Softmax", "LogSoftmax"})
"""The same for these over another axis than the last; over the last they take half of the time."""

_SINCE = {"LeakyRelu": 6, "HardSigmoid": 6, "Elu": 6, "PRelu": 7}  # before: other attributes, broadcasting
_DOUBLE = {"Softmax": 6, "LogSoftmax": 6, "Sigmoid": 13}  # kernels for double, since


class FormulaRule:
    """A rule made of finders.

    Args:
        legal: Operators that the target has; None for onnxruntime, whose slow ones are then not used.
        max_opset: No operators that came later.
    """

    finders: ClassVar[Mapping[str, tuple[Finder, ...]]]
    pays = MEASURED

    def __init__(self, legal: Collection[str] | None = None, max_opset: int | None = None) -> None:
        self.legal = frozenset(legal) if legal is not None else None
        self.max_opset = max_opset

    @property
    def ops(self) -> frozenset[str]:
        """The last operators of the formulas."""
        return frozenset(self.finders)

    def prepare(self, model: ir.Model) -> int:
        """The opset: it decides which operators exist, and where Clip and reductions keep their parameters."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: int) -> Answer:
        """Take this node as the last of a formula."""
        if not is_op(node, *self.finders) or len(node.outputs) != 1 or state < 7:  # before: broadcasting by attribute
            return None
        kind = dtype_name(node.outputs[0])
        if kind not in ("float32", "float16", "float64"):
            return None
        for finder in self.finders[node.op_type]:
            for found in finder(node, state):
                if not self._usable(found, state, kind):
                    continue
                nodes = inner_nodes(node, [v for v in found.inputs if constant_tensor(v) is None])
                if nodes is not None and len(nodes) > 1 + found.times_input:
                    return _rewrite(nodes, found)
        return None

    def _usable(self, found: Found, version: int, kind: str) -> bool:
        since = introduced(found.op)
        if version < max(since, _SINCE.get(found.op, 1)) or (self.max_opset is not None and since > self.max_opset):
            return False
        if kind == "float64" and version < _DOUBLE.get(found.op, 10_000):
            return False
        if self.legal is not None:
            return found.op in self.legal
        return found.op not in _SLOW and (found.op not in _ONE_AXIS or _over_last_axis(found))


def _rewrite(nodes: list[ir.Node], found: Found) -> Rewrite:
    root, x = nodes[0], found.inputs[0]
    old = root.outputs[0]
    if found.times_input:
        gate = new_node(found.op, found.inputs, attributes=found.attributes)
        gate.outputs[0].name = f"{old.name}/gate"
        gate.outputs[0].type, gate.outputs[0].shape = x.type, x.shape.copy() if x.shape is not None else None
        last = new_node("Mul", [x, gate.outputs[0]], old, name=root.name)
        return Rewrite(tuple(nodes), (gate, last), ((old, last.outputs[0]),))
    node = new_node(found.op, found.inputs, old, name=root.name, attributes=found.attributes)
    return Rewrite(tuple(nodes), (node,), ((old, node.outputs[0]),))


def _over_last_axis(found: Found) -> bool:
    dims = dims_of(found.inputs[0])
    return dims is not None and int(found.attributes[0].value) == len(dims) - 1
