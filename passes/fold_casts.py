"""One Cast in place of two, and none before a node that takes either type.

Write A → B → C for the element types of Cast(Cast(x)). The inner Cast may go if B holds every value of A:

1. bool → B → C
2. A → B → A, for integers and floats that B holds: nothing at all
3. integers to wider integers or floats that hold them → C, if C is a float, or holds all of A
4. floats to wider floats → C, if C is a float; and from float16 and bfloat16 through float32 to anything
5. integers to integers of as many bits or fewer, twice: both keep the low bits
6. int32 → int64 before the indices of Gather or GatherElements: they take both

Not folded: a B that loses something: float → int → float, float32 → float16 → float32, int64 → int32 → int64,
anything → bool (7); float32 → double → integer, where out of range values are the runtime's choice (8); the inner
Cast is read elsewhere or is an output (9), unless nothing is left of both. Unknown types, strings, 8-bit floats and
4-bit integers stay (10). A lone Cast to the type it has goes by ``remove_noops``.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgeopt.graph import attribute, is_op
from edgeopt.passes.replacing import by_node, by_value, private
from edgeopt.rewrite import EVERYWHERE, Answer, Skip

T = ir.DataType
_SIGNED = {T.INT8: 8, T.INT16: 16, T.INT32: 32, T.INT64: 64}
_UNSIGNED = {T.UINT8: 8, T.UINT16: 16, T.UINT32: 32, T.UINT64: 64}
_INTEGERS = _SIGNED | _UNSIGNED
_FLOATS = {T.FLOAT16: (11, 5), T.BFLOAT16: (8, 8), T.FLOAT: (24, 8), T.DOUBLE: (53, 11)}  # bits of precision, exponent


class FoldCasts:
    """The rule (see the module's docstring)."""

    name = "fold_casts"
    ops = frozenset({"Cast", "Gather", "GatherElements"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> None:
        """Nothing to prepare."""

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Leave out the Cast before this node."""
        place = 0 if node.op_type == "Cast" else 1
        value = node.inputs[place] if len(node.inputs) > place else None
        inner = value.producer() if value is not None else None
        if not is_op(node, *self.ops) or not is_op(inner, "Cast") or inner is None or inner.graph is not node.graph:
            return None
        name, source = node.name or "", inner.inputs[0]
        first, middle = (source.dtype if source is not None else None), _target(inner)
        if source is None or first is None or middle is None:
            return None
        if node.op_type != "Cast":
            if (first, middle) != (T.INT32, T.INT64):
                return None
            if not private(value, node):
                return Skip(name, f"Cast {inner.name!r} before its indices is read by other nodes too")
            return by_node((node, inner), node.op_type, [node.inputs[0], source], node.attributes.values())
        last = _target(node)
        if last is None:
            return None
        if not _same(first, middle, last):
            return Skip(name, f"{first.name} → {middle.name} → {last.name} may differ from {first.name} → {last.name}")
        if first == last:
            made_here = source.producer() is not None and source.graph is node.graph
            if node.outputs[0].is_graph_output() and (not made_here or source.is_graph_output()):
                return by_node((node, inner), "Identity", [source])  # an output of its own
            return by_value((node, inner), source)
        if not private(value, node):
            return Skip(name, f"Cast {inner.name!r} before it is read by other nodes too, or is an output of the graph")
        return by_node((node, inner), "Cast", [source], node.attributes.values())


def _target(node: ir.Node) -> ir.DataType | None:
    number = attribute(node, "to")
    return ir.DataType(number) if isinstance(number, int) else None  # a name up to opset 5


def holds(wide: ir.DataType, narrow: ir.DataType) -> bool:
    """Whether every value of ``narrow`` is a value of ``wide``."""
    if wide == narrow or narrow == T.BOOL:
        return wide in _INTEGERS or wide in _FLOATS or wide == T.BOOL
    if narrow in _INTEGERS:
        bits = _INTEGERS[narrow] - (narrow in _SIGNED)
        if wide in _FLOATS:
            return bits <= _FLOATS[wide][0] and wide not in (T.FLOAT16, T.BFLOAT16)
        return (
            wide in _INTEGERS
            and not (narrow in _SIGNED and wide in _UNSIGNED)
            and (_INTEGERS[wide] - (wide in _SIGNED) >= bits)
        )
    if narrow in _FLOATS and wide in _FLOATS:
        return all(w >= n for w, n in zip(_FLOATS[wide], _FLOATS[narrow], strict=True))
    return False


def _same(first: ir.DataType, middle: ir.DataType, last: ir.DataType) -> bool:
    """Whether first → middle → last is first → last for every value; cases 1 to 5."""
    known = (*_INTEGERS, *_FLOATS, T.BOOL)
    if first not in known or middle not in known or last not in known:
        return False
    if holds(middle, first):
        if first == T.BOOL or first == last:
            return True
        if first in _INTEGERS:
            return last in _FLOATS or holds(last, first)
        return last in _FLOATS or (first in (T.FLOAT16, T.BFLOAT16) and middle == T.FLOAT)
    trio = [_INTEGERS.get(t) for t in (first, middle, last)]
    a, b, c = trio
    return a is not None and b is not None and c is not None and a >= b >= c
