"""Replace the formula of a normalization by its operator.

With m the mean of x over some axes, d = x - m, v the mean of d² over the same axes:

1. LayerNormalization (opset 17)      d / √(v + ε) · γ + β over the last axis or axes; γ and β may be missing
2.     the same as x · s + (β - m · s), s = γ / √(v + ε)
3.     the same between Casts from and to float16, if nobody else reads the wide x: the operator computes in float32
4. InstanceNormalization (opset 6)    the same over all axes behind the channels, with γ and β for each channel, or none
5. RMSNormalization (opset 23)        x / √(mean(x²) + ε) · γ over the last axis or axes

d² may be a product or a power, the root a Sqrt or a power, the division one by the root or by its reciprocal.
onnxruntime 1.31 computes the first and the last as fast as their formulas, which it recognizes itself, and the
InstanceNormalization of [1,32,56,56] in 35 microseconds instead of 96.

Not recognized: another power (6), ε outside of the root or missing (7), axes that differ, that are not the last ones,
or are not kept (8); an inner value that somebody else reads, that is an output of the graph or lies in another graph
(9); unknown ranks or sizes (10); integers, InstanceNormalization in double, for which onnxruntime has no kernel (11).
γ or β of another shape are left behind as Mul and Add (12).
LpNormalization is no x / max(|x|, ε): it gives a row shorter than ε the length 1, and a row of zeros no NaN, so that
x / |x| differs too. MeanVarianceNormalization adds its ε to the root.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Dims, constant, constant_tensor, constant_value, dims_of, is_op, only_consumer, opset
from edgeopt.passes.formula import MEASURED
from edgeopt.passes.norm_formulas import (
    Norm,
    channel_affine,
    channel_shape,
    division,
    fitted,
    replaced,
    scale_or_shift,
    scaled_and_shifted,
)
from edgeopt.passes.pattern import dtype_name, inner_nodes, introduced, producer
from edgeopt.rewrite import Answer, Rewrite, Skip

_KINDS = ("float32", "float16", "float64")
_MOST_ONES = 65_536  # bytes of a γ that the formula does not have


class RecognizeNorms:
    """The rule (see the module's docstring).

    Args:
        legal: Operators that the target has; None for onnxruntime, whose slow ones are then not used.
        max_opset: No operators that came later.
    """

    name = "recognize_norms"
    ops = frozenset({"Div", "Mul", "Add"})
    pays = MEASURED

    def __init__(self, legal: Collection[str] | None = None, max_opset: int | None = None) -> None:
        self.legal = frozenset(legal) if legal is not None else None
        self.max_opset = max_opset

    def prepare(self, model: ir.Model) -> int:
        """The opset."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: int) -> Answer:
        """Take this node as the division, or (case 2) as the last addition."""
        if dtype_name(node.outputs[0]) not in _KINDS or state < 7:
            return None
        if not is_op(node, *self.ops):
            return None
        norm = scaled_and_shifted(node) if is_op(node, "Add") else division(node)
        if norm is None:
            return None
        if isinstance(norm, str):
            return Skip(node.name or "", norm)
        return self._rewrite(node, norm, state)

    def _usable(self, op: str, version: int) -> bool:
        if version < max(introduced(op), 6) or (self.max_opset is not None and introduced(op) > self.max_opset):
            return False
        return self.legal is None or op in self.legal

    def _rewrite(self, node: ir.Node, norm: Norm, version: int) -> Answer:
        dims = dims_of(norm.x)
        if dims is None or len(dims) < 2 or not norm.axes or inner_nodes(node, _leaves(norm)) is None:
            return None
        if dtype_name(norm.x) != dtype_name(node.outputs[0]):
            return None
        for x, last in (*_between_casts(node, norm), (norm.x, node)):
            found = self._written(last, norm, x, dims, version)
            if found is not None:
                return found
        return None

    def _written(self, last: ir.Node, norm: Norm, x: ir.Value, dims: Dims, version: int) -> Rewrite | None:
        trailing = norm.axes == tuple(range(len(dims) - len(norm.axes), len(dims)))
        spatial = norm.axes == tuple(range(2, len(dims)))
        op = "LayerNormalization" if norm.centred else "RMSNormalization"
        as_layer = trailing and self._usable(op, version)
        as_instance = spatial and norm.centred and self._usable("InstanceNormalization", version)
        if as_instance and not (as_layer and _scaled_as_layer(last, dims, norm)):
            found = _instance(last, norm, x, dims)
            if found is not None:
                return found
        return _layer(last, norm, x, dims, op) if as_layer else None


def _between_casts(node: ir.Node, norm: Norm) -> list[tuple[ir.Value, ir.Node]]:
    """Case 3: the float16 value that is widened, and the Cast behind the division that narrows it again."""
    narrow = producer(norm.x, "Cast")
    source = narrow.inputs[0] if narrow is not None else None
    after = only_consumer(node.outputs[0])
    if source is None or norm.scale is not None or after is None:
        return []
    if not is_op(after, "Cast") or after.graph is not node.graph:
        return []
    kinds = (dtype_name(source), dtype_name(norm.x), dtype_name(after.outputs[0]))
    return [(source, after)] if kinds == ("float16", "float32", "float16") else []


def _scaled_as_layer(last: ir.Node, dims: Dims, norm: Norm) -> bool:
    """Whether γ belongs to the normalized axes rather than to the channels (of three axes: or to both)."""
    sizes = tuple(d for d in dims[len(dims) - len(norm.axes) :] if isinstance(d, int))
    channels = channel_shape(dims)
    if len(sizes) != len(norm.axes) or scale_or_shift(last, "Mul", sizes)[0] is None:
        return False
    return len(dims) == 3 or channels is None or scale_or_shift(last, "Mul", channels)[0] is None


def _instance(last: ir.Node, norm: Norm, x: ir.Value, dims: Dims) -> Rewrite | None:
    """Case 4."""
    shape = channel_shape(dims)
    if shape is None or dtype_name(x) == "float64" or norm.scale is not None:
        return None
    scale, last = scale_or_shift(last, "Mul", shape)
    bias, last = scale_or_shift(last, "Add", shape)
    if scale is None and bias is None and len(dims) < 4:
        return None  # a layer's normalization as well, and more often meant as that
    parts = channel_affine(scale, bias, shape, x)
    if parts is None:
        return None
    base = last.outputs[0].name
    inputs = [x, constant_value(f"{base}/scale", parts[0]), constant_value(f"{base}/bias", parts[1])]
    return replaced(last, "InstanceNormalization", inputs, [ir.AttrFloat32("epsilon", norm.epsilon)])


def _leaves(norm: Norm) -> list[ir.Value]:
    return [v for v in (norm.x, norm.scale, norm.bias) if v is not None and constant_tensor(v) is None]


def _layer(last: ir.Node, norm: Norm, x: ir.Value, dims: Dims, op: str) -> Rewrite | None:
    """Cases 1, 2, 3 and 5."""
    sizes = [d for d in dims[len(dims) - len(norm.axes) :] if isinstance(d, int)]
    if len(sizes) != len(norm.axes):
        return None
    normalized = tuple(sizes)
    scale, bias = norm.scale, norm.bias
    if scale is None:
        scale, last = scale_or_shift(last, "Mul", normalized)
        if op == "LayerNormalization":
            bias, last = scale_or_shift(last, "Add", normalized)
    dtype = x.dtype
    assert dtype is not None  # one of _KINDS
    base = last.outputs[0].name
    if scale is None:
        ones = np.ones(normalized, dtype.numpy())
        if ones.nbytes > _MOST_ONES:
            return None
        scale = constant_value(f"{base}/scale", ones)
    inputs = [x]
    for value, name in ((scale, "scale"), (bias, "bias")):
        if value is None:
            continue
        array = constant(value) if constant_tensor(value) is not None else None
        if array is not None and array.shape != normalized:
            if np.dtype(array.dtype).itemsize * np.prod(normalized) > max(_MOST_ONES, array.nbytes):
                return None
            value = constant_value(f"{base}/{name}", fitted(array, normalized, normalized))
        inputs.append(value)
    attributes = [ir.AttrInt64("axis", -len(normalized)), ir.AttrFloat32("epsilon", norm.epsilon)]
    return replaced(last, op, inputs, attributes)
