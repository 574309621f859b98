"""Fold a Transpose of a Transpose, and write one that moves no element as a Reshape.

    Transpose(Transpose(x, a), b) = Transpose(x, c)  with c[k] = a[b[k]]

1. c moves nothing: both go
2. Else one Transpose by c, if nobody else reads the inner one
3. The inner one stays for its other readers where it has some; the outer one goes as in 1
4. Both turn all axes round by default, whatever the rank: as in 1
5. Only axes of size 1 move: a Reshape, which copies nothing, if at most one size is not known. Canonical: no pass makes
   a Reshape into a Transpose

Not folded: the rank is not known and one permutation is the default (6), the inner one lies in another graph (7), or
is read elsewhere or an output and c moves something (8). Exact: no number changes.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgeopt.graph import dims_of, is_op, only_consumer, opset
from edgeopt.passes.layout_perms import composed, is_identity, moves_only_ones, perm_of, transposing, view_shape
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip


class FoldTransposePairs:
    """The rule (see the module's docstring)."""

    name = "fold_transpose_pairs"
    ops = frozenset({"Transpose"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: Reshape has its shape as an input from opset 5."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Fold this Transpose into the one before it, or make it a Reshape."""
        value = node.inputs[0] if is_op(node, "Transpose") else None
        if value is None:
            return None
        inner = value.producer()
        if inner is not None and is_op(inner, "Transpose"):
            answer = _pair(node, inner, value)
            if answer is not None:
                return answer
        return _view(node, value) if state >= 5 else None


def _pair(node: ir.Node, inner: ir.Node, value: ir.Value) -> Answer:
    """Cases 1 to 4 and 6 to 8."""
    name, source, output = node.name or "", inner.inputs[0], node.outputs[0]
    if source is None:
        return None
    if inner.graph is not node.graph:
        return Skip(name, f"{inner.name!r} lies in another graph")
    if "perm" not in node.attributes and "perm" not in inner.attributes:
        return Rewrite((node, inner), (), ((output, source),))
    first, second = perm_of(inner), perm_of(node)
    if first is None or second is None or len(first) != len(second):
        return Skip(name, f"the rank of what {inner.name!r} reads is not known")
    perm = composed(first, second)
    if is_identity(perm):
        return Rewrite((node, inner), (), ((output, source),))
    if only_consumer(value) is not node:
        return Skip(name, f"what {inner.name!r} gives is read by other nodes too, or is an output of the graph")
    new = ir.Node(
        "",
        "Transpose",
        inputs=[source],
        attributes=[ir.AttrInt64s("perm", list(perm))],
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape)],
        name=node.name,
    )
    return Rewrite((node, inner), (new,), ((output, new.outputs[0]),))


def _view(node: ir.Node, value: ir.Value) -> Answer:
    """Case 5."""
    dims, perm = dims_of(value), perm_of(node)
    if dims is None or perm is None or len(dims) != len(perm) or is_identity(perm) or not moves_only_ones(dims, perm):
        return None
    if view_shape(dims, tuple(dims[k] for k in perm)) is None:
        return Skip(node.name or "", "only axes of size 1 move, but a Reshape would need more than one open size")
    new = transposing(value, perm, node.name)
    return Rewrite((node,), (new,), ((node.outputs[0], new.outputs[0]),))
