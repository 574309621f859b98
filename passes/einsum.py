"""Write an Einsum as the MatMul, Mul, ReduceSum or Transpose that it is.

Indices of two operands A and B: a batch index is in A, B and the result, a summed one in A and B alone, the others in
one operand and the result.

1. MatMul: A [batch…, m, k], B [batch…, k, n], result [batch…, m, n], with one summed index; A without n and m, or B
   without n, are its vector forms; without batch indices A may have any number of m
2. MatMul behind a Transpose of A, of B or of both, of a constant at once; also the result n, m by B' A'
3. no summed index, and both in the order of the result: Mul, with an Unsqueeze of one operand where axes are missing
4. one operand: Transpose, ReduceSum, both, or nothing

What this replaces is computed by the same products. An Einsum may become three nodes (two Transposes, a MatMul): it
does
that work inside, and in onnxruntime 1.31 (x86, one thread) it took 15 to 32 % more time than one Transpose and a MatMul
and 80 to 117 % more than two of them and a MatMul.

Left alone: three operands and more, an index twice in one operand, an index that is summed over one operand only, or
several summed ones (5); unknown ranks, or sizes that are not known to be equal, since 1 might broadcast (6); types for
which MatMul has no kernel (7); a result whose order takes one more Transpose (8).
Exact up to the order in which products are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, constant_value, dims_of, is_op, opset, stored_twice
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT32, ir.DataType.INT64)
_ELLIPSIS = "ABCDEFGHIJ"  # stand for the axes of "...", if the equation does not use them itself


class WriteEinsum:
    """The rule (see the module's docstring)."""

    name = "einsum"
    ops = frozenset({"Einsum"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: axes are an input from 13 on."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Write this Einsum in other operators."""
        if not is_op(node, "Einsum"):
            return None
        terms = _terms(node)
        if isinstance(terms, str):
            return Skip(node.name or "", terms)
        builder = _Builder(node, state)
        operands = [v for v in node.inputs if v is not None]
        left = _Term(operands[0], terms[0])
        if len(operands) == 1 and terms[0] == terms[1]:
            return Rewrite((node,), (), ((node.outputs[0], operands[0]),))
        if len(operands) == 1:
            done = _single(builder, left, terms[-1])
        else:
            right = _Term(operands[1], terms[1])
            done = _matmul(builder, left, right, terms[2]) or _matmul(builder, right, left, terms[2])
            done = done or _product(builder, left, right, terms[2])
        if not done:
            return Skip(node.name or "", f"{attribute(node, 'equation')!r} is no single product of matrices")
        return builder.rewrite()


@dataclass(frozen=True)
class _Term:
    """An operand and its indices, one letter each."""

    value: ir.Value
    indices: str


class _Builder:
    """Collects the nodes; the last one's output takes the place of the Einsum's."""

    def __init__(self, node: ir.Node, version: int) -> None:
        self.node, self.version = node, version
        self.nodes: list[ir.Node] = []

    def add(self, kind: str, *inputs: ir.Value, attributes: tuple[ir.Attr, ...] = ()) -> ir.Value:
        """A new node."""
        old = self.node.outputs[0]
        result = ir.Value(name=f"{old.name}/{kind}", type=old.type)
        name = f"{self.node.name}/{kind}"
        self.nodes.append(ir.Node("", kind, inputs=inputs, attributes=attributes, outputs=[result], name=name))
        return result

    def transposed(self, term: _Term, indices: str) -> ir.Value:
        """The operand with its axes in this order."""
        if term.indices == indices:
            return term.value
        perm = [term.indices.index(letter) for letter in indices]
        array = constant(term.value) if stored_twice(term.value) is None else None
        if array is not None:
            return constant_value(f"{self.node.name}/operand", np.ascontiguousarray(array.transpose(perm)))
        return self.add("Transpose", term.value, attributes=(ir.AttrInt64s("perm", perm),))

    def with_axes(self, kind: str, value: ir.Value, axes: list[int], since: int, *more: ir.Attr) -> ir.Value:
        """An operator whose axes are an input from one opset on."""
        if self.version < since:
            return self.add(kind, value, attributes=(ir.AttrInt64s("axes", axes), *more))
        constant_axes = constant_value(f"{self.node.name}/axes", np.array(axes, np.int64))
        return self.add(kind, value, constant_axes, attributes=more)

    def rewrite(self) -> Rewrite:
        """The Einsum replaced."""
        old, last = self.node.outputs[0], self.nodes[-1]
        value = last.outputs[0]
        value.name, value.shape, last.name = old.name, old.shape, self.node.name
        return Rewrite((self.node,), tuple(self.nodes), ((old, value),))


def _terms(node: ir.Node) -> list[str] | str:
    """The indices of each operand, then those of the result; or why it is left alone (cases 5 to 7)."""
    equation = str(attribute(node, "equation", "")).replace(" ", "")
    sides = equation.split("->")
    terms = sides[0].split(",")
    operands = list(node.inputs)
    if len(sides) > 2 or len(terms) != len(operands) or len(operands) > 2:
        return "it has more than two operands"
    if any(v is None or v.dtype not in _TYPES for v in operands):
        return "its type is none that MatMul computes in"
    dims = [dims_of(v) for v in operands if v is not None]
    if any(d is None for d in dims):
        return "the rank of an operand is unknown"
    if len(sides) == 1:
        letters = sorted(set(sides[0]) - {",", "."})
        sides.append(("..." if "..." in sides[0] else "") + "".join(c for c in letters if sides[0].count(c) == 1))
    counts = [len(d or ()) - len(t.replace("...", "")) for t, d in zip(terms, dims, strict=True)]
    dotted = [k for k, t in zip(counts, terms, strict=True) if "..." in t]
    if len(set(dotted)) > 1 or any(k < 0 or ("..." not in t and k) for k, t in zip(counts, terms, strict=True)):
        return "its ellipses stand for different numbers of axes"
    hidden = _ELLIPSIS[: dotted[0]] if dotted else ""
    if set(hidden) & set(equation) or (dotted and len(hidden) < dotted[0]):
        return "its ellipsis cannot be named"
    named = [t.replace("...", hidden) for t in (*terms, sides[1])]
    if any(len(set(t)) != len(t) for t in named):
        return "an index occurs twice in one operand"
    sizes: dict[str, int | str | None] = {}
    for term, shape in zip(named, dims, strict=False):
        for letter, size in zip(term, shape or (), strict=True):
            if letter in sizes and (size is None or sizes[letter] != size):
                return f"the sizes of index {letter!r} are not known to be equal"
            sizes[letter] = size
    return named if set(named[-1]) <= set(sizes) else "its result has an index that no operand has"


def _single(builder: _Builder, term: _Term, result: str) -> bool:
    """Case 4."""
    value, indices = term.value, term.indices
    summed = [k for k, letter in enumerate(indices) if letter not in result]
    if summed:
        value = builder.with_axes("ReduceSum", value, summed, 13, ir.AttrInt64("keepdims", 0))
        indices = "".join(letter for letter in indices if letter in result)
    if indices != result:
        perm = [indices.index(letter) for letter in result]
        builder.add("Transpose", value, attributes=(ir.AttrInt64s("perm", perm),))
    return bool(builder.nodes)


def _matmul(builder: _Builder, left: _Term, right: _Term, result: str) -> bool:
    """Cases 1 and 2, with the left operand's own index before the right's."""
    a, b, out = left.indices, right.indices, result
    both = set(a) & set(b)
    summed = [letter for letter in a if letter in both and letter not in out]
    if len(summed) != 1 or set(out) != (set(a) | set(b)) - {summed[0]}:
        return False
    batch = "".join(letter for letter in out if letter in both)
    rows = "".join(letter for letter in out if letter in a and letter not in both)
    columns = "".join(letter for letter in out if letter in b and letter not in both)
    if out != batch + rows + columns or len(columns) > 1:
        return False
    if batch and (len(rows) != 1 or len(columns) != 1):
        return False
    x = builder.transposed(left, batch + rows + summed[0])
    y = builder.transposed(right, batch + summed[0] + columns)
    builder.add("MatMul", x, y)
    return True


def _product(builder: _Builder, left: _Term, right: _Term, result: str) -> bool:
    """Case 3."""
    a, b = left.indices, right.indices
    if set(a) | set(b) != set(result):
        return False
    missing = []
    for indices in (a, b):
        if indices != "".join(letter for letter in result if letter in indices):
            return False
        here = len(result) - len(indices)
        missing.append([] if result.endswith(indices) else [k for k, c in enumerate(result) if c not in indices])
        if missing[-1] and len(missing[-1]) != here:
            return False
    if missing[0] and missing[1]:
        return False
    values = [
        builder.with_axes("Unsqueeze", t.value, axes, 13) if axes else t.value
        for t, axes in zip((left, right), missing, strict=True)
    ]
    builder.add("Mul", *values)
    return True
