"""Affine maps per channel folded into the constant weights of a layer, behind it or before it.

Behind, s y + t of y = W x + b:    W' = s W, b' = s b + t                       by output channel
Before, W (s x + t) + b:           W' = W s, b' = b + W t                       by input channel

              W                       output channels                  input channels
Conv          [C, Cin/g, k…]          axis 0                           axis 1, group by group
ConvTranspose [Cin, C/g, k…]          axis 1, group by group           axis 0
Gemm          alpha A' B' + beta C    columns of B'                    rows of B'
MatMul        x B, B of two axes      columns of B                     rows of B
MatMul        A x, A of two axes      rows of A                        columns of A

A padded Conv reads zeros at its border where W t would be missing, and a ConvTranspose adds up fewer taps there: before
them t must be 0. MatMul has no bias: what it would have to add is handed back.
Computed in float64; a result that the element type cannot hold is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, attribute, constant, constant_value, input_or_none, is_op, stored_twice
from edgeopt.parity import is_float
from edgeopt.passes.affine import stored
from edgeopt.passes.affine_paths import Channels, rank_of

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MOST_GROWTH = 4096  # bytes by which a bias may grow


@dataclass(frozen=True)
class Folded:
    """A layer with the map in its weights.

    Attributes:
        node: The layer it is made of.
        index: Of the weights among its inputs.
        weight: In the model's type.
        bias: The same; None if nothing is added.
        addend: What a MatMul would have to add: the constant, in the model's type.
    """

    node: ir.Node
    index: int
    weight: Array
    bias: Array | None
    addend: Array | None = None

    def build(self, source: ir.Value, like: ir.Value, *, gemm: bool = False) -> list[ir.Node]:
        """The layer that reads ``source``, its output typed as ``like``; for a MatMul perhaps an Add behind it.

        Args:
            source: What it reads.
            like: Its output has this type and these dims.
            gemm: Write a MatMul of two matrices and what it adds as one Gemm.
        """
        node, base = self.node, self.node.name or self.node.op_type
        weight = constant_value(f"{base}/weight", self.weight)
        inputs: list[ir.Value] = [weight, source] if self.index == 0 else [source, weight]
        attributes = [a for a in node.attributes.values() if a.name != "beta"]
        added = self.addend if self.bias is None else self.bias
        if added is not None and (self.addend is None or gemm):
            inputs.append(constant_value(f"{base}/bias", added))
        op = "Gemm" if gemm and self.addend is not None else node.op_type
        made = [_node(op, inputs, attributes, node.name, like)]
        if self.addend is not None and op == "MatMul":
            addend = constant_value(f"{base}/bias", self.addend)
            made.append(_node("Add", [made[0].outputs[0], addend], [], f"{base}/add", like))
        return made


def _node(op: str, inputs: list[ir.Value], attributes: list[ir.Attr], name: str | None, like: ir.Value) -> ir.Node:
    output = ir.Value(name=like.name, type=like.type, shape=like.shape.copy() if like.shape is not None else None)
    return ir.Node("", op, inputs=inputs, attributes=attributes, outputs=[output], name=name)


@dataclass(frozen=True)
class _Layer:
    node: ir.Node
    index: int
    weight: Array
    bias: Array | None
    dtype: np.dtype[np.generic]


def _read(node: ir.Node, data: int) -> _Layer | str | None:
    """The layer whose input at ``data`` is computed; None if the weights would have to be the other input."""
    if not is_op(node, *LAYERS):
        return None
    index = 1 if data == 0 else 0
    if data > 1 or (data == 1 and node.op_type != "MatMul"):
        return None
    weight = constant(input_or_none(node, index))
    given = input_or_none(node, 2)
    bias = constant(given)
    what = f"the weights of {node.op_type} {node.name!r}"
    if weight is None and node.op_type == "MatMul" and not any(_dequantized(v) for v in node.inputs):
        return None  # of two computed matrices
    if weight is None or (given is not None and bias is None):
        return f"{what} are not constant"
    if not is_float(weight.dtype) or not weight.size:
        return f"{what} are empty, or no floats"
    if weight.ndim < (2 if node.op_type in ("Gemm", "MatMul") else 3) or (
        node.op_type in ("Gemm", "MatMul") and weight.ndim != 2
    ):
        return f"{what} are no matrix"
    if reason := stored_twice(input_or_none(node, index)):
        return reason
    w = weight.astype(np.float64)
    b = None if bias is None else bias.astype(np.float64)
    if b is not None and node.op_type == "Gemm":
        b = b * attribute(node, "beta", 1.0)
    return _Layer(node, index, w, b, weight.dtype)


def _dequantized(value: ir.Value | None) -> bool:
    return value is not None and is_op(value.producer(), "DequantizeLinear")


def behind(node: ir.Node, map_: Channels) -> Folded | str | None:
    """The map of a layer's output in its weights; why not; None if the node is no layer."""
    data = 1 if is_op(node, "MatMul") and constant(input_or_none(node, 1)) is None else 0
    layer = _read(node, data)
    if layer is None or isinstance(layer, str):
        return layer
    w = layer.weight
    if node.op_type in ("Gemm", "MatMul"):
        return _behind_matrix(layer, map_)
    group = int(attribute(node, "group", 1))
    count = len(w) if node.op_type == "Conv" else w.shape[1] * group
    found = map_.values(1 - w.ndim, count)
    if found is None:
        return f"it changes another axis than the channels of {node.op_type} {node.name!r}"
    scale, shift = found
    ones = [1] * (w.ndim - 2)
    with np.errstate(all="ignore"):
        if node.op_type == "Conv":
            new = w * scale.reshape(-1, 1, *ones)
        else:
            new = (w.reshape(group, -1, *w.shape[1:]) * scale.reshape(group, 1, -1, *ones)).reshape(w.shape)
        bias = (np.zeros(count) if layer.bias is None else layer.bias) * scale + shift
    return _stored(layer, new, bias if layer.bias is not None or shift.any() else None)


def _behind_matrix(layer: _Layer, map_: Channels) -> Folded | str:
    node, w = layer.node, layer.weight
    transposed = bool(attribute(node, "transB", 0)) or layer.index == 0
    count = w.shape[0 if transposed else 1]
    axis = -2 if layer.index == 0 else -1
    if layer.index == 0 and (rank_of(node.inputs[1]) or 0) < 2:
        return f"the rank of what MatMul {node.name!r} multiplies is unknown, or 1"
    found = map_.values(axis, count)
    if found is None:
        return f"it changes another axis than the columns of {node.op_type} {node.name!r}"
    scale, shift = found
    with np.errstate(all="ignore"):
        new = w * (scale[:, None] if transposed else scale)
        if node.op_type == "MatMul":
            added = shift[:, None] if layer.index == 0 else shift
            return _stored(layer, new, None, _smallest(added))
        bias = (np.zeros(1) if layer.bias is None else layer.bias) * scale + shift
    if layer.bias is not None and bias.nbytes > layer.bias.nbytes + _MOST_GROWTH and bias.size > count:
        return f"C of Gemm {node.name!r} would grow from {layer.bias.shape} to {bias.shape}"
    return _stored(layer, new, bias if layer.bias is not None or shift.any() else None)


def _smallest(added: Array) -> Array | None:
    return added if added.any() else None


def before(node: ir.Node, data: int, map_: Channels) -> Folded | str | None:
    """The map of what a layer reads at input ``data`` in its weights; why not; None if the node is no layer."""
    layer = _read(node, data)
    if layer is None or isinstance(layer, str):
        return layer
    w = layer.weight
    if not np.isfinite(w).all():
        return f"the weights of {node.op_type} {node.name!r} are infinite or NaN"
    if node.op_type in ("Gemm", "MatMul"):
        return _before_matrix(layer, map_)
    group = int(attribute(node, "group", 1))
    count = w.shape[1] * group if node.op_type == "Conv" else len(w)
    found = map_.values(1 - w.ndim, count)
    if found is None:
        return f"it changes another axis than the channels that {node.op_type} {node.name!r} reads"
    scale, shift = found
    if shift.any() and (node.op_type == "ConvTranspose" or is_padded(node)):
        return f"{node.op_type} {node.name!r} reads zeros at its border, which a shift would have to reach"
    ones = [1] * (w.ndim - 2)
    bias = layer.bias
    with np.errstate(all="ignore"):
        if node.op_type == "ConvTranspose":
            return _stored(layer, w * scale.reshape(-1, 1, *ones), bias)
        parts = w.reshape(group, -1, *w.shape[1:])  # [g, C/g, Cin/g, k…]
        new = (parts * scale.reshape(group, 1, -1, *ones)).reshape(w.shape)
        if shift.any():
            sums = parts.reshape(*parts.shape[:3], -1).sum(3)
            moved = np.einsum("goi,gi->go", sums, shift.reshape(group, -1)).reshape(-1)
            bias = moved if bias is None else bias + moved
    return _stored(layer, new, bias)


def _before_matrix(layer: _Layer, map_: Channels) -> Folded | str:
    node, w = layer.node, layer.weight
    if attribute(node, "transA", 0):
        return f"Gemm {node.name!r} reads its input transposed"
    by_row = not attribute(node, "transB", 0) and layer.index == 1  # the summed axis is axis 0 of the weights
    count = w.shape[0 if by_row else 1]
    if rank_of(node.inputs[1 - layer.index]) is None and map_.axis is not None:
        return f"the rank of what {node.op_type} {node.name!r} multiplies is unknown"
    if layer.index == 0 and (rank_of(node.inputs[1]) or 0) < 2:
        return f"the rank of what MatMul {node.name!r} multiplies is unknown, or 1"
    found = map_.values(-2 if layer.index == 0 else -1, count)
    if found is None:
        return f"it changes another axis than {node.op_type} {node.name!r} sums over"
    scale, shift = found
    with np.errstate(all="ignore"):
        new = w * (scale[:, None] if by_row else scale)
        moved = shift @ w if by_row else w @ shift
        if node.op_type == "MatMul":
            return _stored(layer, new, None, _smallest(moved[:, None] if layer.index == 0 else moved))
        if not shift.any():
            return _stored(layer, new, layer.bias)
        moved = moved * attribute(node, "alpha", 1.0)
        bias = moved if layer.bias is None else layer.bias + moved
    if layer.bias is not None and bias.nbytes > layer.bias.nbytes + _MOST_GROWTH and bias.size > moved.size:
        return f"C of Gemm {node.name!r} would grow from {layer.bias.shape} to {bias.shape}"
    return _stored(layer, new, bias)


def is_padded(conv: ir.Node) -> bool:
    """Whether the Conv may read beyond its input."""
    automatic = attribute(conv, "auto_pad", "NOTSET")
    return automatic not in ("NOTSET", "VALID") or (automatic == "NOTSET" and any(attribute(conv, "pads", [])))


def _stored(layer: _Layer, weight: Array, bias: Array | None, addend: Array | None = None) -> Folded | str:
    w = stored(weight, layer.dtype)
    rest = [None if a is None else stored(a, layer.dtype) for a in (bias, addend)]
    if w is None or any(a is not None and b is None for a, b in zip((bias, addend), rest, strict=True)):
        return f"the folded weights of {layer.node.op_type} {layer.node.name!r} overflow {layer.dtype}"
    return Folded(layer.node, layer.index, w, rest[0], rest[1])
