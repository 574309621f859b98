"""Fold BatchNormalization into the Conv, ConvTranspose or Gemm before it.

    bn(y) = gamma (y - mean) / sqrt(var + epsilon) + beta = s y + t
        with s = gamma / sqrt(var + epsilon) and t = beta - mean s, one value per channel     [C]
    bn(W * x + b) = (s W) * x + (s b + t)

Where the output channels lie in W:

1. Conv           W [C, Cin/g, k…]      axis 0
2. ConvTranspose  W [Cin, C/g, k…]      axis 1, group by group: rows of group i make channels i C/g … (i+1) C/g - 1
3. Gemm           y = alpha A' B' + beta C: columns of B'; beta C becomes s beta C + t with beta = 1

Not folded: the product is read elsewhere or is a graph output (4), weights or statistics are not constant (5),
training mode or per-element statistics (6), other outputs of the normalization are used (7), the folded weights
would overflow (8), large shared weights would have to be stored twice (9), or scale or shift is infinite or NaN
(11). A missing bias counts as 0 (10).
Exact up to float rounding; computed in float64. Formula: Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import (
    Array,
    attribute,
    constant,
    constant_value,
    input_or_none,
    is_op,
    only_consumer,
    opset,
    stored_twice,
)
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip


def affine(node: ir.Node) -> tuple[Array, Array] | None:
    """Scale s and shift t, float64 [C], of a BatchNormalization node; None if a parameter is not constant."""
    parameters = [constant(input_or_none(node, k)) for k in range(1, 5)]
    gamma, beta, mean, var = (None if p is None else p.astype(np.float64) for p in parameters)
    if gamma is None or beta is None or mean is None or var is None:
        return None
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(var + float(np.float32(attribute(node, "epsilon", 1e-5))))
        return scale, beta - mean * scale


def fold_conv(weight: Array, scale: Array) -> Array:
    """Case 1: [C, Cin/g, k…] times [C]."""
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))


def fold_conv_transpose(weight: Array, scale: Array, group: int) -> Array:
    """Case 2: [Cin, C/g, k…] times [C]."""
    parts = weight.reshape(group, -1, *weight.shape[1:])
    factor = scale.reshape(group, 1, -1, *[1] * (weight.ndim - 2))
    return (parts * factor).reshape(weight.shape)


def fold_gemm(weight: Array, scale: Array, transposed: bool) -> Array:
    """Case 3: B is [K, C], or [C, K] with transB."""
    return weight * (scale[:, None] if transposed else scale[None, :])


class FoldBatchnorm:
    """The rule (see the module's docstring)."""

    name = "fold_batchnorm"
    ops = frozenset({"BatchNormalization"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: below 7 a BatchNormalization without is_test=1 trains."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Fold this BatchNormalization into its producer."""
        if not is_op(node, "BatchNormalization"):
            return None
        name = node.name or ""
        product = node.inputs[0]
        producer = product.producer() if product is not None else None
        if product is None or not is_op(producer, "Conv", "ConvTranspose", "Gemm") or producer is None:
            return Skip(
                name, f"its input comes from {producer.op_type if producer else 'outside the graph'}, not from a layer"
            )
        reason = inference_problem(node, state) or _layer_unfit(producer, product, node)
        if reason:
            return Skip(name, reason)
        found, weight = affine(node), constant(input_or_none(producer, 1))
        bias = constant(producer.inputs[2]) if input_or_none(producer, 2) is not None else np.zeros(())
        if found is None:
            return Skip(name, "its statistics are not constant")
        if weight is None or bias is None:
            return Skip(name, f"the weights of {producer.op_type} {producer.name!r} are not constant")
        scale, shift = found
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            return Skip(name, "its statistics are not finite, or a variance is not positive")
        new_weight, new_bias = _fold(producer, weight, bias, scale, shift)
        with np.errstate(all="ignore"):
            stored_weight, stored_bias = new_weight.astype(weight.dtype), new_bias.astype(weight.dtype)
        if np.isfinite(new_weight).all() and not np.isfinite(stored_weight).all():
            return Skip(name, f"the folded weights overflow {weight.dtype}")
        return _rewrite(node, producer, stored_weight, stored_bias)


def inference_problem(node: ir.Node, version: int) -> str | None:
    """Why a BatchNormalization is more than one affine map per channel, or None (cases 6 and 7)."""
    if attribute(node, "training_mode", 0) or (version < 7 and not attribute(node, "is_test", 0)):
        return "training mode: mean and variance come from the batch"
    if not attribute(node, "spatial", 1):
        return "spatial=0: statistics per element, not per channel"
    if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return "its running statistics are used elsewhere"
    return None


def _layer_unfit(producer: ir.Node, product: ir.Value, node: ir.Node) -> str | None:
    """Cases 4 and 9."""
    if product.is_graph_output():
        return f"the output of {producer.name!r} is an output of the graph"
    if only_consumer(product) is not node:
        return f"the output of {producer.name!r} is read by other nodes too"
    if producer.graph is not node.graph:
        return f"{producer.name!r} lies in another graph"
    return stored_twice(input_or_none(producer, 1))


def _fold(producer: ir.Node, weight: Array, bias: Array, scale: Array, shift: Array) -> tuple[Array, Array]:
    """Folded weight and bias in float64."""
    w, b = weight.astype(np.float64), bias.astype(np.float64)
    with np.errstate(all="ignore"):
        if producer.op_type == "Conv":
            return fold_conv(w, scale), b * scale + shift
        if producer.op_type == "ConvTranspose":
            return fold_conv_transpose(w, scale, attribute(producer, "group", 1)), b * scale + shift
        transposed = bool(attribute(producer, "transB", 0))
        return fold_gemm(w, scale, transposed), b * attribute(producer, "beta", 1.0) * scale + shift


def _rewrite(node: ir.Node, producer: ir.Node, weight: Array, bias: Array) -> Rewrite:
    attributes = dict(producer.attributes)
    if producer.op_type == "Gemm":
        attributes.pop("beta", None)
    output = node.outputs[0]
    base = producer.name or producer.op_type
    constants = [constant_value(f"{base}/weight", weight), constant_value(f"{base}/bias", bias)]
    new = ir.Node(
        "",
        producer.op_type,
        inputs=[producer.inputs[0], *constants],
        attributes=attributes.values(),
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape)],
        name=base,
    )
    return Rewrite((node, producer), (new,), ((output, new.outputs[0]),))
