"""Merge two linear layers that follow each other directly into one.

    W2 * (W1 * x + b1) + b2 = (W2 W1) * x + (W2 b1 + b2)

where that takes no more weights (so no more multiplications either), that is, where the value in between is wide.

1. Conv → Conv of one tap, without pads: any kernel, stride and pads of the first; strides multiply
2. Conv of one tap, stride 1, without pads → Conv: only without pads of the second, or where W2 b1 = 0 for each tap,
since
   at the border the second reads zeros and not b1
3. grouped and depthwise Convs: the result has as many groups as the greatest common divisor of both
4. MatMul or Gemm → MatMul or Gemm with matrices of constants; the Add of a constant vector between them goes along
   (x W1 + b1) W2 = x (W1 W2) + b1 W2

Not merged: the weights would grow (5; no Skip: most layers are like that), weights are not constant or not finite (6),
the value in between is read elsewhere or is an output of the graph (7), the border (8, see 2), the product overflows
the
element type (9), large weights that others share (10).
Exact up to rounding; composed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import (
    Array,
    attribute,
    constant,
    constant_tensor,
    constant_value,
    dims_of,
    input_or_none,
    is_op,
    only_consumer,
)
from edgeopt.passes.convolutions import Convolution, conv_like, read_conv, regrouped, stored, weights_shared
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip


class MergeLinearChain:
    """The rule (see the module's docstring)."""

    name = "merge_linear_chain"
    ops = frozenset({"Conv", "Gemm", "MatMul"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> Any:
        """Nothing to know beforehand."""
        return None

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Merge the layer before this one into it."""
        return (
            _conv_pair(node) if is_op(node, "Conv") else _matrix_pair(node) if is_op(node, "Gemm", "MatMul") else None
        )


# ------------------------------------------------------------------------------------------------ Convs
def _conv_pair(node: ir.Node) -> Answer:
    value = node.inputs[0]
    before = value.producer() if value is not None else None
    if value is None or before is None or not is_op(before, "Conv"):
        return None
    if not _smaller(before, node):
        return None
    name = node.name or ""
    reason = _held(value, before, node)
    if reason is not None:
        return Skip(name, reason)
    first, second = read_conv(before), read_conv(node)
    if isinstance(first, str) or isinstance(second, str):
        return Skip(name, first if isinstance(first, str) else second if isinstance(second, str) else "")
    return _composed_convs(first, second, node)


def _sizes(node: ir.Node) -> tuple[tuple[int, ...], int] | None:
    tensor = constant_tensor(input_or_none(node, 1))
    shape = tuple(tensor.shape.numpy()) if tensor is not None else ()
    return (shape, int(attribute(node, "group", 1))) if len(shape) >= 3 and 0 not in shape else None


def _smaller(before: ir.Node, node: ir.Node) -> bool:
    """Whether one of both has one tap, and the product has no more elements than both; from dims alone (case 5)."""
    first, second = _sizes(before), _sizes(node)
    if first is None or second is None or len(first[0]) != len(second[0]):
        return False
    taps = [math.prod(s[0][2:]) for s in (first, second)]
    group = math.gcd(first[1], second[1])
    product = second[0][0] * (first[0][1] * first[1] // group) * taps[0] * taps[1]
    return min(taps) == 1 and product <= math.prod(first[0]) + math.prod(second[0])


def _composed_convs(first: Convolution, second: Convolution, node: ir.Node) -> Answer:
    name = node.name or ""
    one_after = math.prod(second.kernel) == 1 and not any((*second.before, *second.behind))
    one_before = math.prod(first.kernel) == 1 and not any((*first.before, *first.behind))
    if not one_after and not (one_before and all(s == 1 for s in first.strides)):
        return Skip(
            name, f"one of {first.node.name!r} and it has pads or strides that the other's kernel cannot express"
        )
    group = math.gcd(first.group, second.group)
    weight, taps = _product(first, second, group, one_after)
    bias = second.bias + taps.reshape(len(second.bias), -1).sum(1)
    if not one_after:
        if any((*second.before, *second.behind)) and taps.any():
            return Skip(name, f"it reads zeros at its border, where {first.node.name!r} adds its bias inside")
        if any(g > 0 for g in second.growth):
            return None  # the second computes more positions than the first
    reason = weights_shared(first.node, node)
    if reason is not None:
        return Skip(name, reason)
    w, b = stored(weight, first.dtype), stored(bias, first.dtype)
    if w is None or b is None:
        return Skip(name, f"the product of its weights and those of {first.node.name!r} overflows {first.dtype}")
    inner = first if one_after else second
    strides = [a * c for a, c in zip(first.strides, second.strides, strict=True)]
    new = conv_like(
        inner,
        first.source,
        w,
        b if bias.any() else None,
        node.outputs[0],
        strides=strides,
        dilations=list(inner.dilations),
        group=[group],
    )
    new.name = node.name
    return Rewrite((node, first.node), (new,), ((node.outputs[0], new.outputs[0]),))


def _product(first: Convolution, second: Convolution, group: int, one_after: bool) -> tuple[Array, Array]:
    """W2 W1 for ``group`` blocks, and W2 b1 for each tap of the second, [Cout, taps]."""
    inner = regrouped(first.weight, first.group, group)  # [C, Cin/g, k1…]
    outer = regrouped(second.weight, second.group, group)  # [Cout, C/g, k2…]
    between, taps1 = len(inner) // group, math.prod(first.kernel)
    a = inner.reshape(group, between, inner.shape[1], taps1)
    b = outer.reshape(group, len(outer) // group, between, -1)
    product = np.einsum("gomt,gmis->goits", b, a)  # one of t and s is a single tap
    kernel = first.kernel if one_after else second.kernel
    shifts = np.einsum("gomt,gm->got", b, first.bias.reshape(group, between))
    return product.reshape(len(outer), inner.shape[1], *kernel), shifts.reshape(len(outer), -1)


# ------------------------------------------------------------------------------------------------ matrices
@dataclass(frozen=True)
class _Matrix:
    """x W + b: the nodes, readers first; W [K, N] and b [N] or [], float64."""

    nodes: tuple[ir.Node, ...]
    source: ir.Value
    weight: Array
    bias: Array
    dtype: np.dtype[np.generic]


def _matrix_pair(node: ir.Node) -> Answer:
    value = node.inputs[0]
    layer, add = _layer_before(value)
    if value is None or layer is None or attribute(node, "transA", 0):
        return None
    shapes = [_matrix_shape(layer), _matrix_shape(node)]
    if shapes[0] is None or shapes[1] is None or shapes[0][1] != shapes[1][0]:
        return None
    (k, between), (_, columns) = shapes[0], shapes[1]
    if k * columns > (k + columns) * between:
        return None
    name = node.name or ""
    for inner, reader in ((value, node), *([(layer.outputs[0], add)] if add is not None else [])):
        producer = inner.producer()
        assert producer is not None  # found by _layer_before
        reason = _held(inner, producer, reader)
        if reason is not None:
            return Skip(name, reason)
    first, second = _read_matrix(layer, add), _read_matrix(node, None)
    if isinstance(first, str) or isinstance(second, str):
        return Skip(name, first if isinstance(first, str) else second if isinstance(second, str) else "")
    reason = weights_shared(layer, node)
    if reason is not None:
        return Skip(name, reason)
    bias = np.broadcast_to(first.bias, (between,)) @ second.weight + second.bias
    weight, shift = stored(first.weight @ second.weight, first.dtype), stored(bias, first.dtype)
    if weight is None or shift is None:
        return Skip(name, f"the product of its weights and those of {layer.name!r} overflows {first.dtype}")
    return _matrix_rewrite(node, first, weight, shift, gemm=is_op(node, "Gemm") or is_op(layer, "Gemm"))


def _layer_before(value: ir.Value | None) -> tuple[ir.Node | None, ir.Node | None]:
    """The layer that gives this value, and the Add of a constant vector between, if there is one."""
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "Add"):
        return (node, None) if is_op(node, "Gemm", "MatMul") else (None, None)
    for main, other in (node.inputs, node.inputs[::-1]):
        layer, tensor = main.producer() if main is not None else None, constant_tensor(other)
        if layer is not None and is_op(layer, "MatMul") and tensor is not None and not attribute(node, "broadcast", 0):
            shape, wanted = tuple(tensor.shape.numpy()), _matrix_shape(layer)
            if wanted is not None and shape in ((wanted[1],), (1,), ()):
                return layer, node
    return None, None


def _matrix_shape(node: ir.Node) -> tuple[int, int] | None:
    tensor = constant_tensor(input_or_none(node, 1))
    shape = tuple(tensor.shape.numpy()) if tensor is not None else ()
    if len(shape) != 2 or 0 in shape:
        return None
    return (shape[1], shape[0]) if is_op(node, "Gemm") and attribute(node, "transB", 0) else (shape[0], shape[1])


def _read_matrix(node: ir.Node, add: ir.Node | None) -> _Matrix | str:
    weight, source = constant(input_or_none(node, 1)), node.inputs[0]
    shape = _matrix_shape(node)
    if weight is None or source is None or shape is None or weight.dtype.kind != "f":
        return f"the weights of {node.name!r} are not constant matrices of floats"
    w, bias = weight.astype(np.float64), np.zeros(())
    if is_op(node, "Gemm"):
        if attribute(node, "transA", 0):
            return f"{node.name!r} has transA"
        w = (w.T if attribute(node, "transB", 0) else w) * attribute(node, "alpha", 1.0)
        given = input_or_none(node, 2)
        found = constant(given)
        if given is not None:
            if found is None or (found.size > 1 and found.shape not in ((shape[1],), (1, shape[1]))) or found.ndim > 2:
                return f"the bias of {node.name!r} is not a constant vector"
            summand = found.astype(np.float64).reshape(-1) * attribute(node, "beta", 1.0)
            bias = summand[0] if summand.size == 1 else summand
    if add is not None:
        number = next(a for v in add.inputs if (a := constant(v)) is not None)
        summand = number.astype(np.float64).reshape(-1)
        bias = summand[0] if summand.size == 1 else summand
    if not (np.isfinite(w).all() and np.isfinite(bias).all()):
        return f"weights of {node.name!r} are infinite or NaN"
    return _Matrix((node,) if add is None else (add, node), source, w, bias, weight.dtype)


def _matrix_rewrite(node: ir.Node, first: _Matrix, weight: Array, bias: Array, *, gemm: bool) -> Rewrite:
    """Gemm with its bias; MatMul, and an Add where there is something to add."""
    name, output = node.name or node.op_type, node.outputs[0]
    rank = dims_of(first.source)
    bare = not bias.any() and not gemm
    inputs: list[ir.Value] = [first.source, constant_value(f"{name}/weight", weight)]
    addend = constant_value(f"{name}/bias", bias)
    result = ir.Value(name=output.name, type=output.type, shape=output.shape)
    if gemm:
        nodes = [ir.Node("", "Gemm", inputs=[*inputs, addend], outputs=[result], name=node.name)]
    elif bare:
        nodes = [ir.Node("", "MatMul", inputs=inputs, outputs=[result], name=node.name)]
    else:
        inner = ir.Value(name=output.name, type=output.type, shape=output.shape if rank is not None else None)
        nodes = [
            ir.Node("", "MatMul", inputs=inputs, outputs=[inner], name=node.name),
            ir.Node("", "Add", inputs=[inner, addend], outputs=[result], name=f"{name}/add"),
        ]
    return Rewrite((node, *first.nodes), tuple(nodes), ((output, result),))


def _held(value: ir.Value, producer: ir.Node, reader: ir.Node) -> str | None:
    """Case 7."""
    if value.is_graph_output():
        return f"the output of {producer.name!r} is an output of the graph"
    if only_consumer(value) is not reader:
        return f"the output of {producer.name!r} is read by other nodes too"
    return f"{producer.name!r} lies in another graph" if producer.graph is not reader.graph else None
