"""Fold the view behind a reduction into its ``keepdims``, and reductions of one kind into one.

 1. Reduce… with keepdims = 0, then Unsqueeze of the reduced axes: keepdims = 1
 2. Reduce… with keepdims = 1, then Squeeze of the reduced axes: keepdims = 0
 3. ArgMax and ArgMin likewise
 4. Reshape or Flatten instead, when its output has just that shape and at most one size of it is not known
 5. ReduceSum of ReduceSum: one over all axes; so ReduceMax, ReduceMin, ReduceProd, ReduceL1, ReduceL2, and ReduceMean
    of floats, where all means are over equally many elements
 6. ReduceSum, ReduceMean, ReduceMax, ReduceMin, ReduceProd over axes of size 1 alone: nothing, or a Squeeze

Not folded: what lies between is read elsewhere or is an output (7), or in another graph (8); axes that are calculated
(9); other axes than the reduced ones (10); in case 5 different ``keepdims`` (11), means of integers, which round (12).
Exact, in case 5 up to the order of summation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant_value, dims_of, input_or_none, is_op, only_consumer, opset
from edgeopt.passes.layout_axes import axes_of, reduces_by_input
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_ARG = ("ArgMax", "ArgMin")
_TWICE = ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceMean")
_NOTHING_OVER_ONE = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
_REDUCE = (*_TWICE, "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")
_VIEWS = ("Squeeze", "Unsqueeze", "Reshape", "Flatten")


class FoldReduceShape:
    """The rule (see the module's docstring)."""

    name = "fold_reduce_shape"
    ops = frozenset({*_VIEWS, *_REDUCE})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: axes are inputs or attributes."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Fold this view, or this reduction, into the reduction before it."""
        value = input_or_none(node, 0) if is_op(node, *self.ops) else None
        if value is None:
            return None
        inner = value.producer()
        if is_op(node, *_VIEWS):
            return _view(node, inner, value) if inner is not None and is_op(inner, *_REDUCE, *_ARG) else None
        if inner is not None and inner.op_type == node.op_type and is_op(inner, *_TWICE):
            answer = _reduced_twice(node, inner, value, state)
            if not isinstance(answer, str):
                return answer
            if (nothing := _over_ones(node, value, state)) is None:
                return Skip(node.name or "", answer)
            return nothing
        return _over_ones(node, value, state)


def reduced_axes(node: ir.Node) -> list[int] | None:
    """The axes that a Reduce… or ArgMax takes away, counted from 0; None if unknown or if it reduces none."""
    source = node.inputs[0]
    dims = dims_of(source) if source is not None else None
    if dims is None:
        return None
    rank = len(dims)
    if is_op(node, *_ARG):
        axis = attribute(node, "axis", 0)
        return [axis % rank] if rank and -rank <= axis < rank else None
    if input_or_none(node, 1) is None and "axes" not in node.attributes:
        return None if attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    return axes_of(node, 1, rank) or None


def _view(node: ir.Node, inner: ir.Node, value: ir.Value) -> Answer:
    """Cases 1 to 4 and 7 to 10."""
    name = node.name or ""
    source = inner.inputs[0]
    axes = reduced_axes(inner)
    if source is None or axes is None:
        return None
    keep = bool(attribute(inner, "keepdims", 1))
    if not _undoes(node, source, axes, keep):
        return None
    if inner.graph is not node.graph:
        return Skip(name, f"{inner.name!r} lies in another graph")
    if only_consumer(value) is not node:
        return Skip(name, f"what {inner.name!r} gives is read by other nodes too, or is an output of the graph")
    attributes = {**inner.attributes, "keepdims": ir.AttrInt64("keepdims", int(not keep))}
    output = node.outputs[0]
    new = ir.Node(
        "",
        inner.op_type,
        inputs=list(inner.inputs),
        attributes=attributes.values(),
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape)],
        name=inner.name,
    )
    return Rewrite((node, inner), (new,), ((output, new.outputs[0]),))


def _undoes(node: ir.Node, source: ir.Value, axes: Sequence[int], keep: bool) -> bool:
    """Whether the view gives what the reduction with the other ``keepdims`` gives."""
    dims = dims_of(source)
    assert dims is not None  # the axes were counted with it
    wanted = [1 if k in axes else d for k, d in enumerate(dims) if not keep or k not in axes]
    if is_op(node, "Squeeze", "Unsqueeze"):
        if is_op(node, "Squeeze") != keep:
            return False
        found = axes_of(node, 1, len(dims))
        return found is not None and sorted(found) == sorted(axes)
    after = dims_of(node.outputs[0])
    if after is None or len(after) != len(wanted):
        return False
    differing = [(a, b) for a, b in zip(after, wanted, strict=True) if a != b or a is None]
    if 0 in after or 0 in dims or len(differing) > 1:
        return False
    # one size that is not known is what the other sizes leave: the same in both
    return all(not isinstance(a, int) or not isinstance(b, int) for a, b in differing)


def _reduced_twice(node: ir.Node, inner: ir.Node, value: ir.Value, version: int) -> Answer | str:
    """Cases 5, 7 to 9, 11 and 12."""
    source = inner.inputs[0]
    first, second = reduced_axes(inner), reduced_axes(node)
    if source is None or first is None or second is None:
        return "the axes of one of both reductions are not known"
    keep = bool(attribute(node, "keepdims", 1))
    if keep != bool(attribute(inner, "keepdims", 1)):
        return f"{inner.name!r} has other keepdims"
    if inner.op_type == "ReduceMean" and (source.dtype is None or not source.dtype.is_floating_point()):
        return "means of integers round"
    if inner.graph is not node.graph:
        return f"{inner.name!r} lies in another graph"
    if only_consumer(value) is not node:
        return f"what {inner.name!r} gives is read by other nodes too, or is an output of the graph"
    dims = dims_of(source) or ()
    left = [k for k in range(len(dims)) if keep or k not in first]
    axes = sorted({*first, *(left[k] for k in second)})
    output = node.outputs[0]
    new = _with_axes(node, source, axes, reduces_by_input(node.op_type, version))
    return Rewrite((node, inner), (new,), ((output, new.outputs[0]),))


def _with_axes(node: ir.Node, source: ir.Value, axes: Sequence[int], as_input: bool) -> ir.Node:
    attributes = {k: v for k, v in node.attributes.items() if k not in ("axes", "noop_with_empty_axes")}
    inputs = [source]
    if as_input:
        inputs.append(constant_value(f"{node.name}/axes", np.array(axes, np.int64)))
    else:
        attributes["axes"] = ir.AttrInt64s("axes", list(axes))
    output = node.outputs[0]
    result = ir.Value(name=output.name, type=output.type, shape=output.shape)
    return ir.Node("", node.op_type, inputs=inputs, attributes=attributes.values(), outputs=[result], name=node.name)


def _over_ones(node: ir.Node, value: ir.Value, version: int) -> Answer:
    """Case 6."""
    axes, dims = reduced_axes(node), dims_of(value)
    if not is_op(node, *_NOTHING_OVER_ONE) or axes is None or dims is None or any(dims[a] != 1 for a in axes):
        return None
    output = node.outputs[0]
    if attribute(node, "keepdims", 1):
        return Rewrite((node,), (), ((output, value),))
    inputs = [value]
    attributes = []
    if reduces_by_input("Squeeze", version):
        inputs.append(constant_value(f"{node.name}/axes", np.array(sorted(axes), np.int64)))
    else:
        attributes.append(ir.AttrInt64s("axes", sorted(axes)))
    result = ir.Value(name=output.name, type=output.type, shape=output.shape)
    new = ir.Node("", "Squeeze", inputs=inputs, attributes=attributes, outputs=[result], name=node.name)
    return Rewrite((node,), (new,), ((output, new.outputs[0]),))
