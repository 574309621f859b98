"""How operators that do not care about the order of axes look in another order.

The twin of a value v under a permutation p is the tensor v' with v = Transpose(v', perm = p): axis i of v is axis
p[i] of v'. An operator is a relation between the axes of its data inputs and those of its outputs: groups of axes
that correspond to each other, and axes of one side alone (reduced, squeezed, indexed, of size 1). From the
permutation on one side follows the one on the other; the twin of the node computes the twin of its output from the
twins of its inputs, with axes and constants moved accordingly.

1. Element by element, with broadcasting: constants get all axes and are transposed; single elements stay
2. An axis or several as attribute or constant: Softmax, Concat, Split, Slice, Pad, Reduce…, ArgMax, Squeeze,
   Unsqueeze, Gather by a scalar or a vector, CumSum, TopK, Resize, Upsample, Tile, Expand
3. Reshape that only splits, merges or adds axes, as long as merged axes lie side by side in the twin too
4. BatchNormalization, InstanceNormalization where the channels stay axis 1; global pools become ReduceMean and
   ReduceMax where they do not

No relation (None): parameters that are not constant, an unknown rank, two operands of different ranks, a large
shared constant that would be stored twice, Softmax before opset 13 over several axes, Resize by a region of interest.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from edgeopt.graph import Dims, dims_of, input_or_none, is_op
from edgeopt.passes.layout_axes import AXIS, arg_of, cumsum, gather, one_axis, reduce, squeeze, unsqueeze
from edgeopt.passes.layout_relations import Relation, as_it_is, same, used, with_constants
from edgeopt.passes.layout_sizes import GLOBAL_POOLS, channels, pad, per_axis, reshape, resize, slice_of


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


UNARY = _words(
    "Abs Acos Acosh Asin Asinh Atan Atanh Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish "
    "Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh "
    "Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Clip"
)
"""One operand; further inputs are single elements."""

_NARY = _words(
    "Add Sub Mul Div Pow Max Min Sum Mean And Or Xor Equal Greater Less GreaterOrEqual LessOrEqual Where Mod PRelu"
)

_REDUCE = _words(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)

_MAKERS: tuple[tuple[frozenset[str], Callable[[ir.Node, Dims, int], Relation | None]], ...] = (
    (frozenset(AXIS), one_axis),
    (_REDUCE, reduce),
    (frozenset({"ArgMax", "ArgMin"}), arg_of),
    (frozenset({"Squeeze"}), squeeze),
    (frozenset({"Unsqueeze"}), unsqueeze),
    (frozenset({"Gather"}), gather),
    (frozenset({"CumSum"}), cumsum),
    (frozenset({"Slice"}), slice_of),
    (frozenset({"Pad"}), pad),
    (frozenset({"Tile", "Expand"}), per_axis),
    (frozenset({"Resize", "Upsample"}), resize),
    (frozenset({"Reshape", "Flatten"}), reshape),
    (frozenset({"BatchNormalization", "InstanceNormalization", *GLOBAL_POOLS}), channels),
)


def relation(node: ir.Node, version: int) -> Relation | None:
    """How the axes of this node's inputs and outputs belong together, or None."""
    source = input_or_none(node, 0)
    dims = dims_of(source) if source is not None else None
    if dims is None or not is_op(node, node.op_type) or any(used(o) and dims_of(o) is None for o in node.outputs):
        return None
    kind = node.op_type
    if kind in UNARY:
        return _unary(node, dims)
    if kind in _NARY:
        return _nary(node, version)
    for kinds, make in _MAKERS:
        if kind in kinds:
            return make(node, dims, version)
    return None


def _unary(node: ir.Node, dims: Dims) -> Relation | None:
    if any(used(o) for o in node.outputs[1:]):
        return None
    return Relation((0,), same(len(dims)), (len(dims), len(dims)), as_it_is(node))


def _nary(node: ir.Node, version: int) -> Relation | None:
    """Case 1; before opset 7 an attribute said how to broadcast."""
    dims = dims_of(node.outputs[0])
    if version < 7 or dims is None:
        return None
    return with_constants(node, len(dims), as_it_is(node))
