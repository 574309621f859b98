"""Write operators that a target lacks by operators that it has.

1. Activations      HardSigmoid, HardSwish, Mish, Softplus, Softsign, Swish, Gelu (both), Elu, Celu, Selu, LeakyRelu,
                    PRelu, ThresholdedRelu
2. Softmax, LogSoftmax, with the maximum taken away first
3. Reductions       ReduceL1, ReduceL2, ReduceSumSquare, ReduceLogSum
4. Normalizations   LayerNormalization and RMSNormalization (float16 is computed in float32, as the operators do),
                    InstanceNormalization, GroupNormalization (opset 21)

What one formula needs and the target lacks as well is written out in turn: GroupNormalization by
InstanceNormalization, and that by reductions. No formula is longer than its values need: the same sums over the same
axes, nothing that overflows where the operator does not.

Left alone: integers (5), ranks that are unknown where axes depend on them (6), Softmax before opset 13 over another
than the last axis (7), further outputs that are read (8), scales of the last two normalizations that are not constant
(9), opsets below 7 (10).

This pass makes more nodes, on purpose, and undoes what the ``recognize`` passes do: it is no part of ``simplify``, and
those must not run with it for the same operators (their ``legal`` and ``max_opset``).
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgeopt.graph import dtype_of, is_op, opset
from edgeopt.passes.decompositions import FORMULAS, Writer
from edgeopt.passes.pattern import introduced
from edgeopt.rewrite import Answer, Pays, Rewrite, Skip

_KINDS = ("float32", "float16", "float64")


class Decompose:
    """The rule (see the module's docstring).

    Args:
        unsupported: Operators to write out; those without a formula are ignored.
    """

    name = "decompose"
    pays = Pays(False, "only for runtimes that lack the operator")

    def __init__(self, unsupported: Collection[str]) -> None:
        self.ops = frozenset(unsupported) & FORMULAS.keys()

    def prepare(self, model: ir.Model) -> int:
        """The opset: where reductions and Clip have their parameters."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: int) -> Answer:
        """Write this operator out."""
        if not is_op(node, *self.ops) or node.inputs[0] is None:
            return None
        name = node.name or ""
        dtype = dtype_of(node.inputs[0])
        if state < 7 or dtype is None or dtype.name not in _KINDS:
            return Skip(name, f"{node.op_type} of {dtype.name if dtype is not None else 'unknown type'} has no formula")
        writer = Writer(node, state)
        result = FORMULAS[node.op_type](writer)
        if result is None:
            return Skip(name, f"{node.op_type}: its rank, its axes or its scale are unknown, or other outputs are read")
        writer.nodes[-1].name = node.name
        old = node.outputs[0]
        return Rewrite((node,), tuple(writer.nodes), ((old, result),))


def decompose_for(version: int | None = None, unsupported: Collection[str] = ()) -> tuple[Decompose, ...]:
    """Rules that write out what a target lacks; none if it lacks nothing that has a formula.

    Args:
        version: Newest opset that the target knows; operators that came later are written out.
        unsupported: Further operators that it lacks.
    """
    later = {op for op in FORMULAS if version is not None and introduced(op) > version}
    rule = Decompose(later | set(unsupported))
    return (rule,) if rule.ops else ()
