"""Multiply-accumulates of one node.

A multiply-accumulate (MAC) is one product that is added to a sum. Biases, activations, normalizations, poolings
and element-wise arithmetic have none. With ``out`` the number of output elements:

    Conv, ConvInteger, QLinearConv     out × (C_in / group) × ∏ kernel
    DeformConv                         the same
    ConvTranspose                      input elements × (C_out / group) × ∏ kernel
    Gemm                               M × N × K
    MatMul, MatMulInteger, …           out × K
    Einsum                             ∏ of all index sizes, once for each operand after the first
    RNN, GRU, LSTM                     steps × batch × directions × gates × hidden × (input + hidden)
    Attention (ONNX opset 23)          batch × heads × queries × keys × (head size of Q + head size of V)
    LinearClassifier, LinearRegressor  rows × coefficients
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import onnx_ir as ir

from edgeopt.graph import STANDARD_DOMAINS, attribute, dims_of, input_or_none

KNOWN_DOMAINS = (*STANDARD_DOMAINS, "ai.onnx.ml", "com.microsoft")


class _UnknownShape(Exception):
    """A shape that a count needs is not known."""


class _Shapes:
    """Shapes of a node's inputs and outputs, with symbols replaced."""

    def __init__(self, node: ir.Node, assumed: Mapping[str, int]) -> None:
        self.node = node
        self._assumed = assumed

    def _of(self, value: ir.Value | None) -> tuple[int, ...]:
        dims = None if value is None else dims_of(value)
        if dims is None and value is not None and value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        if dims is None:
            raise _UnknownShape
        sizes = [self._assumed.get(d or "") if not isinstance(d, int) else d for d in dims]
        known = tuple(d for d in sizes if d is not None)
        if len(known) < len(sizes):
            raise _UnknownShape
        return known

    def input(self, index: int) -> tuple[int, ...]:
        return self._of(input_or_none(self.node, index))

    def output(self) -> tuple[int, ...]:
        return self._of(self.node.outputs[0])


def _conv(weight: int) -> Callable[[_Shapes], int]:
    return lambda s: math.prod(s.output()) * math.prod(s.input(weight)[1:])


def _conv_transpose(s: _Shapes) -> int:
    return math.prod(s.input(0)) * math.prod(s.input(1)[1:])


def _gemm(s: _Shapes) -> int:
    a = s.input(0)
    return math.prod(s.output()) * (a[0] if attribute(s.node, "transA", 0) else a[-1])


def _matmul(s: _Shapes) -> int:
    a = s.input(0)
    return math.prod(s.output()) * (a[-1] if a else 1)


def _fused_matmul(s: _Shapes) -> int:
    a = s.input(0)
    return math.prod(s.output()) * (a[-2] if attribute(s.node, "transA", 0) and len(a) > 1 else a[-1])


def _recurrent(gates: int) -> Callable[[_Shapes], int]:
    def macs(s: _Shapes) -> int:
        x, w, r = s.input(0), s.input(1), s.input(2)  # [T, N, I] (or [N, T, I]), [D, gates·H, I], [D, gates·H, H]
        hidden = r[-1]
        return x[0] * x[1] * w[0] * gates * hidden * (w[-1] + hidden)

    return macs


def _einsum(s: _Shapes) -> int:
    left = str(attribute(s.node, "equation", "")).replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for index, term in enumerate(left):
        shape = s.input(index)
        before, dots, after = term.partition("...")
        named = [*before, *after]
        extra = len(shape) - len(named)
        if extra < 0 or (extra and not dots):
            raise _UnknownShape
        labels = [*before, *(f"...{k}" for k in range(extra, 0, -1)), *after]
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return math.prod(sizes.values()) * (len(left) - 1)


def _attention(s: _Shapes) -> int:
    q, k, v = s.input(0), s.input(1), s.input(2)
    past = s.input(4)[2] if input_or_none(s.node, 4) is not None else 0
    if len(q) == 4:  # [N, heads, L, size]
        return q[0] * q[1] * q[2] * (k[2] + past) * (q[3] + v[3])
    heads, shared = attribute(s.node, "q_num_heads", 1), attribute(s.node, "kv_num_heads", 1)  # [N, L, heads·size]
    return int(q[0] * q[1] * (k[1] + past) * (q[2] + v[2] // shared * heads))


def _linear_model(s: _Shapes) -> int:
    return s.input(0)[0] * len(attribute(s.node, "coefficients", ()))


MACS: dict[str, Callable[[_Shapes], int]] = {
    "Conv": _conv(1),
    "FusedConv": _conv(1),
    "NhwcFusedConv": _conv(1),
    "ConvInteger": _conv(1),
    "DeformConv": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "QGemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "FusedMatMul": _fused_matmul,
    "MatMulIntegerToFloat": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "MatMulNBits": _matmul,
    "Einsum": _einsum,
    "RNN": _recurrent(1),
    "GRU": _recurrent(3),
    "LSTM": _recurrent(4),
    "Attention": _attention,
    "LinearClassifier": _linear_model,
    "LinearRegressor": _linear_model,
}
_UNCOUNTED = re.compile("Conv|MatMul|Gemm|Attention|LSTM|GRU|Rnn|MoE|SVM")  # has MACs, but no formula in MACS


def node_macs(node: ir.Node, assumed: Mapping[str, int]) -> int | None:
    """Multiply-accumulates of one run of the node, bodies not included.

    Args:
        node: Its values carry the shapes; nothing is inferred here.
        assumed: Sizes for symbolic dimensions.

    Returns:
        0 for operators without multiply-accumulates; None where a shape is unknown and for operators of domains
        about which nothing is known.
    """
    if node.domain not in KNOWN_DOMAINS or (node.domain == "com.microsoft" and node.op_type == "Attention"):
        return None  # onnxruntime's own Attention has other inputs than ONNX's
    formula = MACS.get(node.op_type)
    if formula is None:
        return None if _UNCOUNTED.search(node.op_type) else 0
    try:
        return formula(_Shapes(node, assumed))
    except (_UnknownShape, IndexError):  # IndexError: a rank that the operator does not allow
        return None
