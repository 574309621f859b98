"""Replace the formula of a normalization by its operator.

With m the mean of x over some axes, d = x - m, v the mean of d² over the same axes:

1. LayerNormalization (opset 17)      d / √(v + ε) · γ + β over the last axis or axes; γ and β may be missing
2.     the same as x · s + (β - m · s), s = γ / √(v + ε)
3.     the same between Casts from and to float16: the operator computes in float32 itself
4. InstanceNormalization (opset 6)    the same over all axes behind the channels, with γ and β for each channel, or none
5. RMSNormalization (opset 23)        x / √(mean(x²) + ε) · γ over the last axis or axes
6. GroupNormalization (opset 21), only where the target states that it has it (``legal``; onnxruntime is half as fast
   with it): Reshape to [N, groups, -1], InstanceNormalization, Reshape back, γ and β for each channel

d² may be a product or a power, the root a Sqrt or a power, the division one by the root or by its reciprocal.

Not recognized: another power, ε outside of the root or missing, axes that differ, that are not the last ones, or are
not kept (1); an inner value that somebody else reads, that is an output of the graph or lies in another graph (2);
unknown ranks, γ or β of another shape are left behind as Mul and Add (3); integers, InstanceNormalization in double,
for which onnxruntime has no kernel (4).
LpNormalization is no x / max(|x|, ε): it gives a row shorter than ε the length 1, and a row of zeros no NaN, so that
x / |x| differs too. MeanVarianceNormalization adds its ε to the root.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.graph import (
    Array,
    Dims,
    attribute,
    constant,
    constant_tensor,
    constant_value,
    dims_of,
    dtype_of,
    is_op,
    only_consumer,
    opset,
    static_shape,
)
from edgeopt.passes.pattern import (
    dtype_name,
    inner_nodes,
    introduced,
    new_node,
    producer,
    reduced,
    scalar,
    split_scalar,
)
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_KINDS = ("float32", "float16", "float64")
_PER_CHANNEL = 21  # from this opset GroupNormalization has γ and β for each channel
_MOST_ONES = 65_536  # bytes of a γ that the formula does not have


@dataclass(frozen=True)
class _Norm:
    """``(x - m) / √(v + ε)`` (centred) or ``x / √(mean(x²) + ε)``, over ``axes``; and γ and β where already known."""

    x: ir.Value
    axes: tuple[int, ...]
    epsilon: float
    centred: bool
    scale: ir.Value | None = None
    bias: ir.Value | None = None


class RecognizeNorms:
    """The rule (see the module's docstring).

    Args:
        legal: Operators that the target has; None for onnxruntime, whose slow ones are then not used.
        max_opset: No operators that came later.
    """

    name = "recognize_norms"
    ops = frozenset({"Div", "Mul", "Add", "Reshape"})
    pays = EVERYWHERE

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
        """Take this node as the division, or (case 2) the last addition, or (case 6) the last Reshape."""
        if dtype_name(node.outputs[0]) not in _KINDS:
            return None
        if is_op(node, "Reshape"):
            usable = self._usable("GroupNormalization", state) and state >= _PER_CHANNEL
            return _group_norm(node) if usable else None
        if is_op(node, "Add"):
            norm = _scaled_and_shifted(node)
        else:
            norm = _division(node) if is_op(node, "Div", "Mul") else None
        if norm is None:
            return None
        if isinstance(norm, str):
            return Skip(node.name or "", norm)
        return self._rewrite(node, norm, state)

    def _usable(self, op: str, version: int) -> bool:
        if version < max(introduced(op), 6) or (self.max_opset is not None and introduced(op) > self.max_opset):
            return False
        return op != "GroupNormalization" if self.legal is None else op in self.legal

    def _rewrite(self, node: ir.Node, norm: _Norm, version: int) -> Answer:
        dims = dims_of(norm.x)
        if dims is None or len(dims) < 2 or not norm.axes or inner_nodes(node, _leaves(norm)) is None:
            return None
        if dtype_name(norm.x) != dtype_name(node.outputs[0]):
            return None
        x, last = norm.x, node
        narrow = producer(x, "Cast")
        after = only_consumer(node.outputs[0])
        if (  # case 3
            narrow is not None
            and narrow.inputs[0] is not None
            and dtype_name(narrow.inputs[0]) == "float16"
            and dtype_name(x) == "float32"
            and after is not None
            and is_op(after, "Cast")
            and after.graph is node.graph
            and dtype_name(after.outputs[0]) == "float16"
            and norm.scale is None
        ):
            x, last = narrow.inputs[0], after
        trailing = norm.axes == tuple(range(len(dims) - len(norm.axes), len(dims)))
        spatial = norm.axes == tuple(range(2, len(dims)))
        op = "LayerNormalization" if norm.centred else "RMSNormalization"
        as_layer = trailing and self._usable(op, version)
        as_instance = spatial and norm.centred and self._usable("InstanceNormalization", version)
        if as_instance and not (as_layer and _scaled_as_layer(last, dims, norm)):
            found = _instance(node, last, norm, x, dims)
            if found is not None:
                return found
        return _layer(node, last, norm, x, dims, op) if as_layer else None


def _channel_shape(dims: Dims) -> tuple[int, ...] | None:
    """``[1, C, 1, …]`` of a tensor with C channels; None if C is open."""
    channels = dims[1]
    return (1, channels, *(1,) * (len(dims) - 2)) if isinstance(channels, int) else None


def _scaled_as_layer(last: ir.Node, dims: Dims, norm: _Norm) -> bool:
    """Whether γ belongs to the normalized axes rather than to the channels (of three axes: or to both)."""
    sizes = tuple(d for d in dims[len(dims) - len(norm.axes) :] if isinstance(d, int))
    channels = _channel_shape(dims)
    if len(sizes) != len(norm.axes) or _factor(last, "Mul", sizes)[0] is None:
        return False
    return len(dims) == 3 or channels is None or _factor(last, "Mul", channels)[0] is None


def _instance(node: ir.Node, last: ir.Node, norm: _Norm, x: ir.Value, dims: Dims) -> Rewrite | None:
    """Case 4."""
    shape = _channel_shape(dims)
    if shape is None or dtype_name(x) == "float64" or norm.scale is not None:
        return None
    scale, last = _factor(last, "Mul", shape)
    bias, last = _factor(last, "Add", shape)
    if scale is None and bias is None and len(dims) < 4:
        return None  # a layer's normalization as well, and more often meant as that
    parts = _channel_affine(scale, bias, shape, x)
    if parts is None:
        return None
    base = node.outputs[0].name
    inputs = [x, constant_value(f"{base}/scale", parts[0]), constant_value(f"{base}/bias", parts[1])]
    return _replaced(last, [norm.x, x], "InstanceNormalization", inputs, [ir.AttrFloat32("epsilon", norm.epsilon)])


def _channel_affine(
    scale: ir.Value | None, bias: ir.Value | None, shape: tuple[int, ...], x: ir.Value
) -> tuple[Array, Array] | None:
    """γ and β as one number for each channel, where they are constant or missing."""
    dtype = dtype_of(x)
    found = [np.full(1, k, dtype) if v is None else constant(v) for v, k in ((scale, 1), (bias, 0))]
    if found[0] is None or found[1] is None:
        return None
    return _fitted(found[0], shape, (shape[1],)), _fitted(found[1], shape, (shape[1],))


def _group_norm(node: ir.Node) -> Rewrite | None:
    """Case 6."""
    inner = producer(node.inputs[0], "InstanceNormalization")
    split = producer(inner.inputs[0], "Reshape") if inner is not None else None
    x = split.inputs[0] if split is not None else None
    if inner is None or split is None or x is None:
        return None
    dims, grouped, back = dims_of(x), dims_of(split.outputs[0]), dims_of(node.outputs[0])
    if dims is None or grouped is None or len(dims) < 3 or len(grouped) != 3 or back != dims or None in dims:
        return None
    channels, groups, shape = dims[1], grouped[1], _channel_shape(dims)
    if shape is None or not isinstance(channels, int) or not isinstance(groups, int) or grouped[0] != dims[0]:
        return None
    own = [constant(v) for v in inner.inputs[1:3]]
    if not groups or channels % groups or own[0] is None or own[1] is None:
        return None
    scale, last = _factor(node, "Mul", shape)
    bias, last = _factor(last, "Add", shape)
    parts = _channel_affine(scale, bias, shape, x)
    if parts is None:
        return None
    gamma, beta = (p.astype(np.float64) for p in parts)
    first, second = (np.repeat(o.astype(np.float64), channels // groups) for o in own)
    base = node.outputs[0].name
    inputs = [
        x,
        constant_value(f"{base}/scale", (first * gamma).astype(parts[0].dtype)),
        constant_value(f"{base}/bias", (second * gamma + beta).astype(parts[0].dtype)),
    ]
    epsilon = float(attribute(inner, "epsilon", 1e-5))
    attributes = [ir.AttrFloat32("epsilon", epsilon), ir.AttrInt64("num_groups", groups)]
    return _replaced(last, [x, x], "GroupNormalization", inputs, attributes)


def _leaves(norm: _Norm) -> list[ir.Value]:
    return [v for v in (norm.x, norm.scale, norm.bias) if v is not None and constant_tensor(v) is None]


def _layer(node: ir.Node, last: ir.Node, norm: _Norm, x: ir.Value, dims: Dims, op: str) -> Rewrite | None:
    """Cases 1, 2, 3 and 5."""
    sizes = [d for d in dims[len(dims) - len(norm.axes) :] if isinstance(d, int)]
    if len(sizes) != len(norm.axes):
        return None
    normalized = tuple(sizes)
    scale, bias = norm.scale, norm.bias
    if scale is None:
        scale, last = _factor(last, "Mul", normalized)
        if op == "LayerNormalization":
            bias, last = _factor(last, "Add", normalized)
    dtype = x.dtype
    assert dtype is not None  # one of _KINDS
    base = node.outputs[0].name
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
            value = constant_value(f"{base}/{name}", _fitted(array, normalized, normalized))
        inputs.append(value)
    attributes = [ir.AttrInt64("axis", -len(normalized)), ir.AttrFloat32("epsilon", norm.epsilon)]
    return _replaced(last, [norm.x, x], op, inputs, attributes)


def _replaced(
    last: ir.Node, sources: list[ir.Value], op: str, inputs: list[ir.Value], attributes: list[ir.Attr]
) -> Rewrite | None:
    """All nodes from ``last`` back to x by one node; a Cast of x goes with them if nobody else reads it."""
    wide, x = sources
    leaves = [v for v in inputs if constant_tensor(v) is None]
    nodes = inner_nodes(last, leaves)
    if nodes is None and wide is not x:  # somebody else reads the wide x: its Cast stays
        nodes = inner_nodes(last, [*leaves, wide])
    if nodes is None:
        return None
    old = last.outputs[0]
    new = new_node(op, inputs, old, name=last.name, attributes=attributes)
    return Rewrite(tuple(nodes), (new,), ((old, new.outputs[0]),))


def _fitted(array: Array, shape: tuple[int, ...], target: tuple[int, ...]) -> Array:
    """The constant spread over ``shape``, which it broadcasts to, and then of shape ``target``."""
    own = array.reshape(array.shape[max(0, array.ndim - len(shape)) :])  # further axes in front are of size 1
    return np.ascontiguousarray(np.broadcast_to(own, shape).reshape(target))


def _fits(value: ir.Value, shape: tuple[int, ...], rank: int) -> bool:
    """Whether a factor has one number for each element of ``shape`` (a constant: or fewer), at no higher rank."""
    tensor = constant_tensor(value)
    if tensor is None:
        return static_shape(value) == shape
    own = tuple(tensor.shape.numpy())
    if len(own) > rank:
        return False
    padded = (1,) * (len(shape) - len(own)) + own
    extra, kept = padded[: len(padded) - len(shape)], padded[len(padded) - len(shape) :]
    return all(d == 1 for d in extra) and all(a in (1, b) for a, b in zip(kept, shape, strict=True))


def _factor(last: ir.Node, op: str, shape: tuple[int, ...]) -> tuple[ir.Value | None, ir.Node]:
    """γ or β of the Mul or Add that alone reads the last node, and that node; else None and the last node itself."""
    reader = only_consumer(last.outputs[0])
    if reader is None or not is_op(reader, op) or reader.graph is not last.graph:
        return None, last
    others = [v for v in reader.inputs if v is not last.outputs[0]]
    dims = dims_of(last.outputs[0])
    if len(others) != 1 or others[0] is None or dims is None or not _fits(others[0], shape, len(dims)):
        return None, last
    return others[0], reader


def _uncast(value: ir.Value | None) -> ir.Value | None:
    """The value before a Cast between float16 and float32; else the value itself."""
    node = producer(value, "Cast")
    source = node.inputs[0] if node is not None else None
    if node is None or source is None:
        return value
    kinds = {dtype_name(source), dtype_name(node.outputs[0])}
    return source if kinds == {"float16", "float32"} else value


def _inverse_root(value: ir.Value | None) -> tuple[ir.Value, float] | str | None:
    """v and ε of ``1 / √(v + ε)``; a text if it looks like it but is not."""
    node = producer(_uncast(value), "Reciprocal", "Div", "Pow")
    if node is None:
        return None
    if node.op_type == "Pow":
        return _with_epsilon(node.inputs[0]) if scalar(node.inputs[1]) == -0.5 else None
    if node.op_type == "Div" and scalar(node.inputs[0]) != 1:
        return None
    return _root(node.inputs[-1])


def _root(value: ir.Value | None) -> tuple[ir.Value, float] | str | None:
    """v and ε of ``√(v + ε)``."""
    node = producer(_uncast(value), "Sqrt", "Pow")
    if node is None:
        shifted = split_scalar(producer(value, "Add"))
        if shifted is not None and producer(shifted[0], "Sqrt") is not None and _is_variance(shifted[0]):
            return "it adds its epsilon to the root, not inside of it"
        return None
    if node.op_type == "Pow" and scalar(node.inputs[1]) != 0.5:
        return None
    return _with_epsilon(node.inputs[0])


def _is_variance(value: ir.Value) -> bool:
    root = value.producer()
    inner = root.inputs[0] if root is not None and root.inputs else None
    return producer(inner, "ReduceMean") is not None


def _with_epsilon(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    parts = split_scalar(producer(value, "Add"))
    return parts if parts is not None and 0 < parts[1] < math.inf else None


def _square(value: ir.Value | None) -> ir.Value | str | None:
    """d of d², or why it is another power."""
    node = producer(value, "Mul", "Pow")
    if node is None or node.inputs[0] is None:
        return None
    if node.op_type == "Mul":
        return node.inputs[0] if node.inputs[0] is node.inputs[1] else None
    exponent = scalar(node.inputs[1])
    if exponent is None:
        exponents = constant(node.inputs[1])
        exponent = float(exponents.reshape(())) if exponents is not None and exponents.size == 1 else None
    return node.inputs[0] if exponent == 2 else f"its variance is the mean of the power {exponent}, not 2"


def _difference(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """x and the axes of ``x - mean(x)``."""
    node = producer(value, "Sub")
    mean = reduced(producer(node.inputs[1], "ReduceMean"), "ReduceMean") if node is not None else None
    return mean if node is not None and mean is not None and node.inputs[0] is mean[0] else None


def _statistics(variance: ir.Value, epsilon: float) -> _Norm | str | None:
    """What is normalized by this variance: the centred x, or x itself."""
    mean = reduced(producer(variance, "ReduceMean"), "ReduceMean")
    square = _square(mean[0]) if mean is not None else None
    if mean is None or square is None or isinstance(square, str):
        return square if isinstance(square, str) else None
    inner = _difference(square) or _difference(_uncast(square))
    if inner is None:
        return _Norm(square, mean[1], epsilon, centred=False)
    if inner[1] != mean[1]:
        return f"its mean is over the axes {list(inner[1])}, its variance over {list(mean[1])}"
    return _Norm(inner[0], mean[1], epsilon, centred=True)


def _division(node: ir.Node) -> _Norm | str | None:
    """``d / √(v + ε)`` or ``d · (1 / √(v + ε))``: cases 1 and 5."""
    if node.op_type == "Div":
        pairs = [(node.inputs[0], _root(node.inputs[1]))]
    else:
        a, b = node.inputs
        pairs = [(a, _inverse_root(b)), (b, _inverse_root(a))]
    for d, root in pairs:
        if d is None or root is None:
            continue
        if isinstance(root, str):
            return root
        norm = _statistics(*root)
        if norm is None or isinstance(norm, str):
            return norm
        if not norm.centred:
            return norm if norm.x is d else None
        own = _difference(d) or _difference(_uncast(d))
        if own is not None and own[0] is norm.x and own[1] == norm.axes:
            return norm
    return None


def _scaled_and_shifted(node: ir.Node) -> _Norm | None:
    """``x · s + (β - m · s)`` with ``s = γ / √(v + ε)``: case 2."""
    for scaled, rest in (node.inputs, node.inputs[::-1]):
        product, shift = producer(scaled, "Mul"), producer(rest, "Sub")
        moved = producer(shift.inputs[1], "Mul") if shift is not None else None
        if product is None or shift is None or moved is None:
            continue
        for x, s in (product.inputs, product.inputs[::-1]):
            mean = next((v for v in moved.inputs if v is not s), None) if s in moved.inputs else None
            about = reduced(producer(mean, "ReduceMean"), "ReduceMean")
            parts = producer(s, "Mul")
            if about is None or parts is None or about[0] is not x:
                continue
            for gamma, inverse in (parts.inputs, parts.inputs[::-1]):
                root = _inverse_root(inverse)
                norm = _statistics(*root) if isinstance(root, tuple) else None
                if not isinstance(norm, _Norm) or not norm.centred or norm.x is not x or norm.axes != about[1]:
                    continue
                dims, beta = dims_of(norm.x), shift.inputs[0]
                shape = [d for d in (dims or ())[-len(norm.axes) :] if isinstance(d, int)]
                if dims is None or len(shape) != len(norm.axes) or gamma is None or beta is None:
                    continue
                if _fits(gamma, tuple(shape), len(dims)) and _fits(beta, tuple(shape), len(dims)):
                    return _Norm(norm.x, norm.axes, norm.epsilon, centred=True, scale=gamma, bias=beta)
    return None
