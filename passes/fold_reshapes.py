"""Fold chains of Reshape, Flatten, Squeeze and Unsqueeze into one of them, or none.

All four hand on the same elements in the same order under another shape (a *view*), so that only the first shape and
the last one matter.

1. The last shape is the first: both go. Also a single Reshape to a constant shape that differs from the input's in
   one size at most, which then must be the same too
2. Unsqueeze of Unsqueeze, Squeeze of Squeeze: one with all axes, whatever the sizes
3. Unsqueeze of Squeeze, Squeeze of Unsqueeze by the same axes: none
4. Reshape of any view, to a constant shape without 0: it reads what the other one read
5. Anything else: one Reshape, if at most one size of the result is not known; a 0 in a shape stands for the size that
   the *other* view's output has there, so that shapes with 0 are written anew
6. With element-wise operators of one operand in between: they compute in the first shape

Not folded: the inner view is read elsewhere or is an output (7; it is in case 1), lies in another graph (8), more than
one size of the result is not known (9), a dimension is 0 (10), the shape is calculated (11; cases 4 and 5), allowzero
with a 0 in the shape (12), opset below 5 (13). Canonical: a chain ends as Squeeze or Unsqueeze (2) or Reshape (4 to
6); a view alone keeps its form. Exact: no number changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Dims, attribute, constant, constant_value, dims_of, input_or_none, is_op, only_consumer, opset
from edgeopt.passes.layout_axes import axes_of, reduces_by_input
from edgeopt.passes.layout_ops import UNARY
from edgeopt.passes.layout_perms import view_shape
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_MOST_BETWEEN = 8


class FoldReshapes:
    """The rule (see the module's docstring)."""

    name = "fold_reshapes"
    ops = frozenset(VIEWS)
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: shapes and axes are inputs or attributes."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Fold this view into the one before it."""
        value = node.inputs[0] if is_op(node, *VIEWS) else None
        if value is None or state < 5:
            return None
        if _keeps_shape(node, value):
            return Rewrite((node,), (), ((node.outputs[0], value),))
        between, inner = _inner(node, value)
        if inner is None or inner.inputs[0] is None:
            return None
        name, source = node.name or "", inner.inputs[0]
        if inner.graph is not node.graph:
            return Skip(name, f"{inner.name!r} lies in another graph")
        same = _same_shape(node, inner, source)
        first = inner.outputs[0]
        if only_consumer(first) is not (between[-1] if between else node):
            if same and not between:
                return Rewrite((node, inner), (), ((node.outputs[0], source),))
            return Skip(name, f"what {inner.name!r} gives is read by other nodes too, or is an output of the graph")
        made = None if same else _joined(node, inner, source, state)
        if isinstance(made, str):
            return Skip(name, made)
        return _rewrite(node, between, inner, source, made)


def _inner(node: ir.Node, value: ir.Value) -> tuple[list[ir.Node], ir.Node | None]:
    """The element-wise nodes before this view (last one first), and the view before them."""
    between: list[ir.Node] = []
    producer = value.producer()
    while producer is not None and is_op(producer, *UNARY) and len(between) < _MOST_BETWEEN:
        if (
            only_consumer(producer.outputs[0]) is not (between[-1] if between else node)
            or producer.graph is not node.graph
        ):
            return between, None
        if producer.inputs[0] is None:
            return between, None
        between.append(producer)
        producer = producer.inputs[0].producer()
    return between, producer if producer is not None and is_op(producer, *VIEWS) else None


def _keeps_shape(node: ir.Node, value: ir.Value) -> bool:
    """Case 1, one Reshape: all sizes but one are kept, so that one is too."""
    shape = constant(input_or_none(node, 1)) if is_op(node, "Reshape") else None
    dims = dims_of(value)
    if shape is None or dims is None or shape.size != len(dims) or node.outputs[0].dtype not in (None, value.dtype):
        return False
    copies = not attribute(node, "allowzero", 0)
    open_ones = 0
    for size, dim in zip(shape.tolist(), dims, strict=True):
        if size == 0 and copies:
            continue
        if size == -1:
            open_ones += 1
        elif size != dim or dim == 0:
            return False
    return open_ones <= 1 and 0 not in dims


def _axes(node: ir.Node, rank: int | None) -> list[int] | None:
    """Of a Squeeze or Unsqueeze; ``rank`` is that of the larger side."""
    if is_op(node, "Squeeze") and input_or_none(node, 1) is None and "axes" not in node.attributes:
        source = node.inputs[0]
        dims = dims_of(source) if source is not None else None
        if dims is None or not all(isinstance(d, int) for d in dims):
            return None
        return [k for k, d in enumerate(dims) if d == 1]
    if rank is None:
        found = axes_of(node, 1, 64)  # counted from the front: the rank does not matter
        given = constant(input_or_none(node, 1)) if input_or_none(node, 1) is not None else attribute(node, "axes", ())
        return None if found is None or given is None or any(a < 0 for a in given) else found
    return axes_of(node, 1, rank)


def _large_rank(node: ir.Node) -> int | None:
    value = node.inputs[0] if is_op(node, "Squeeze") else node.outputs[0]
    dims = dims_of(value) if value is not None else None
    return len(dims) if dims is not None else None


def _same_shape(node: ir.Node, inner: ir.Node, source: ir.Value) -> bool:
    """Cases 1 and 3."""
    before, after = dims_of(source), dims_of(node.outputs[0])
    if before is not None and before == after and None not in before:
        return True
    kinds = {node.op_type, inner.op_type}
    if kinds != {"Squeeze", "Unsqueeze"}:
        return False
    first, second = _axes(inner, _large_rank(inner)), _axes(node, _large_rank(node))
    return first is not None and second is not None and sorted(first) == sorted(second)


def _joined(node: ir.Node, inner: ir.Node, source: ir.Value, version: int) -> ir.Node | str:
    """Cases 2, 4 and 5: one view from the source to the node's output, or why there is none."""
    if node.op_type == inner.op_type and is_op(node, "Squeeze", "Unsqueeze"):
        axes = _joined_axes(node, inner)
        if axes is not None:
            return _with_axes(node, source, axes, version)
    shape = constant(input_or_none(node, 1)) if is_op(node, "Reshape") else None
    if is_op(node, "Reshape") and shape is None:
        return "its shape is calculated"
    if shape is not None and attribute(node, "allowzero", 0) and (shape == 0).any():
        return "its shape asks for a dimension of 0"
    if shape is not None and (shape != 0).all():
        return _reshape(node, source, shape.astype(np.int64).tolist())
    before, after = dims_of(source), dims_of(node.outputs[0])
    if before is None or after is None:
        return f"the rank of what {inner.name!r} reads or of what it gives is not known"
    if 0 in before or 0 in after:
        return "a dimension is 0"
    wanted = view_shape(before, after)
    if wanted is None:
        return "more than one size of its result is not known"
    return _reshape(node, source, wanted)


def _joined_axes(node: ir.Node, inner: ir.Node) -> list[int] | None:
    """Case 2: the axes that the outer side has and the inner one has not, or the other way round."""
    first, second = _axes(inner, _large_rank(inner)), _axes(node, _large_rank(node))
    if first is None or second is None:
        return None
    if is_op(node, "Unsqueeze"):
        own, other = second, first
    else:
        own, other = first, second
    left = [k for k in range(len(own) + max(other, default=0) + 1) if k not in own]
    return sorted([*own, *(left[k] for k in other)])


def _with_axes(node: ir.Node, source: ir.Value, axes: Sequence[int], version: int) -> ir.Node:
    inputs: list[ir.Value | None] = [source]
    attributes = []
    if reduces_by_input(node.op_type, version):
        inputs.append(constant_value(f"{node.name}/axes", np.array(axes, np.int64)))
    else:
        attributes.append(ir.AttrInt64s("axes", list(axes)))
    return _view(node, node.op_type, inputs, attributes)


def _reshape(node: ir.Node, source: ir.Value, shape: list[int]) -> ir.Node:
    target = constant_value(f"{node.name}/shape", np.array(shape, np.int64))
    return _view(node, "Reshape", [source, target], [])


def _view(node: ir.Node, kind: str, inputs: Sequence[ir.Value | None], attributes: Sequence[ir.Attr]) -> ir.Node:
    output = node.outputs[0]
    result = ir.Value(name=output.name, type=output.type, shape=output.shape)
    return ir.Node("", kind, inputs=inputs, attributes=attributes, outputs=[result], name=node.name)


def _rewrite(node: ir.Node, between: list[ir.Node], inner: ir.Node, source: ir.Value, view: ir.Node | None) -> Rewrite:
    """Case 6: the element-wise nodes read the source; then the view, if one is left."""
    value = source
    dims: Dims | None = dims_of(source)
    new: list[ir.Node] = []
    for old in between[::-1]:
        output = ir.Value(
            name=f"{old.outputs[0].name}/moved",
            type=old.outputs[0].type,
            shape=ir.Shape(dims) if dims is not None else None,
        )
        new.append(
            ir.Node(
                "",
                old.op_type,
                inputs=[value, *old.inputs[1:]],
                attributes=old.attributes.values(),
                outputs=[output],
                name=old.name,
            )
        )
        value = output
    if view is not None:
        view.replace_input_with(0, value)
        new.append(view)
        value = view.outputs[0]
    return Rewrite((node, *between, inner), tuple(new), ((node.outputs[0], value),))
