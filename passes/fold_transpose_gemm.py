"""Fold a Transpose before the flattening of a batch into the weight behind it.

    flat(transpose(x)) W = flat(x) W'     with the rows of W put in the order in which flat(x) has its elements

What exporters of networks that keep channels last write: Transpose, Reshape or Flatten to a matrix, Gemm or MatMul.

1. MatMul      W [K, M]: rows
2. Gemm        B [K, M]: rows; with transB, B [M, K]: columns
3. Flatten at axis 1, or Reshape to [N, K] by a constant shape, K the elements of one sample

Not folded: the weight is not constant (4), an intermediate value is read elsewhere or leaves the graph (5), the batch
moves or a size within a sample is not known (6), the matrix has not one row per sample (7), a Gemm with transA (8), a
large shared weight that would be stored twice (9).
Exact up to the order in which the products are added.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import (
    Array,
    attribute,
    constant,
    constant_value,
    dims_of,
    input_or_none,
    is_op,
    only_consumer,
    stored_twice,
)
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip


def reordered(weight: Array, sizes: tuple[int, ...], order: tuple[int, ...], axis: int) -> Array:
    """The weight for a sample that is not transposed.

    Args:
        weight: [K, M] or [M, K].
        sizes: Of one sample before the Transpose; their product is K.
        order: Axis k of the transposed sample is axis ``order[k]`` of the sample.
        axis: Where K lies in ``weight``.
    """
    rows = np.arange(weight.shape[axis]).reshape([sizes[k] for k in order])
    return np.take(weight, rows.transpose(np.argsort(order)).reshape(-1), axis)


class FoldTransposeGemm:
    """The rule (see the module's docstring)."""

    name = "fold_transpose_gemm"
    ops = frozenset({"Gemm", "MatMul"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> Any:
        """Nothing to know beforehand."""
        return None

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Fold the Transpose before this layer."""
        flat = node.inputs[0] if is_op(node, *self.ops) else None
        flattening = flat.producer() if flat is not None else None
        if flat is None or flattening is None or not is_op(flattening, "Reshape", "Flatten"):
            return None
        moved = flattening.inputs[0]
        transpose = moved.producer() if moved is not None else None
        if moved is None or transpose is None or not is_op(transpose, "Transpose"):
            return None
        name = node.name or ""
        if only_consumer(flat) is not node or only_consumer(moved) is not flattening:
            return Skip(name, f"what {transpose.name!r} gives is read by other nodes too, or is an output of the graph")
        if transpose.graph is not node.graph or flattening.graph is not node.graph:
            return Skip(name, f"{transpose.name!r} lies in another graph")
        source = transpose.inputs[0]
        order = _order(transpose)
        sizes = _sample(source)
        if source is None or order is None or sizes is None or len(order) != len(sizes):
            return Skip(name, f"{transpose.name!r} moves the batch, or the size of a sample is not known")
        if not _one_row_per_sample(flattening, math.prod(sizes)):
            return Skip(name, f"{flattening.name!r} may not make one row of each sample")
        weight = constant(input_or_none(node, 1))
        reason = _unfit(node, weight, math.prod(sizes))
        if weight is None or reason:
            return Skip(name, reason or "its weights are not constant")
        return _rewrite(node, flattening, transpose, source, reordered(weight, sizes, order, _axis(node)))


def _axis(node: ir.Node) -> int:
    """Where K lies in the weight."""
    return 1 if is_op(node, "Gemm") and attribute(node, "transB", 0) else 0


def _order(transpose: ir.Node) -> tuple[int, ...] | None:
    """The permutation within a sample, counted from 0; None if the batch moves (or all axes turn round)."""
    perm = attribute(transpose, "perm")
    return tuple(int(p) - 1 for p in perm[1:]) if perm is not None and len(perm) and perm[0] == 0 else None


def _sample(value: ir.Value | None) -> tuple[int, ...] | None:
    """The sizes behind axis 0, if all are fixed."""
    dims = dims_of(value) if value is not None else None
    fixed = tuple(d for d in dims[1:] if isinstance(d, int)) if dims else ()
    return fixed if dims and len(fixed) == len(dims) - 1 and math.prod(fixed) > 0 else None


def _one_row_per_sample(node: ir.Node, elements: int) -> bool:
    """Cases 3 and 7; a 0 in a shape stands for the input's size there, which only the batch keeps."""
    if is_op(node, "Flatten"):
        return bool(attribute(node, "axis", 1) == 1)
    shape = constant(input_or_none(node, 1))
    if shape is None or shape.size != 2 or (attribute(node, "allowzero", 0) and not shape.all()):
        return False
    if shape[1] == -1:
        dims = dims_of(node.outputs[0])
        return bool(shape[0] == 0) or (dims is not None and len(dims) == 2 and dims[1] == elements)
    return bool(shape[1] == elements)


def _unfit(node: ir.Node, weight: Array | None, elements: int) -> str | None:
    """Cases 4, 8 and 9."""
    if weight is None:
        return "its weights are not constant"
    if attribute(node, "transA", 0):
        return "transA is set"
    if weight.ndim != 2 or weight.shape[_axis(node)] != elements:
        return f"its weights have shape {list(weight.shape)}, not one row for each of {elements} elements"
    return stored_twice(input_or_none(node, 1))


def _rewrite(node: ir.Node, flattening: ir.Node, transpose: ir.Node, source: ir.Value, weight: Array) -> Rewrite:
    flat, output = flattening.outputs[0], node.outputs[0]
    again = ir.Node(
        "",
        flattening.op_type,
        inputs=[source, *flattening.inputs[1:]],
        attributes=flattening.attributes.values(),
        outputs=[ir.Value(name=flat.name, type=flat.type, shape=flat.shape)],
        name=flattening.name,
    )
    layer = ir.Node(
        "",
        node.op_type,
        inputs=[again.outputs[0], constant_value(f"{node.name}/weight", weight), *node.inputs[2:]],
        attributes=node.attributes.values(),
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape)],
        name=node.name,
    )
    return Rewrite((node, flattening, transpose), (again, layer), ((output, layer.outputs[0]),))
