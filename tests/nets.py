"""Small nets of the kinds that structural merges are for, with random weights of a fixed seed.

Each builder returns a checked ``onnx.ModelProto`` (opset 17, IR 8) with one input ``x`` and outputs from ``y`` on. The
weights keep activations near 1 from layer to layer; variances of normalizations lie between 0.5 and 1.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Collects nodes and weights; every method returns the name of the value it made.

    Args:
        shape: Of the input ``x``; a str is an open dimension.
        seed: Of the weights.
    """

    def __init__(self, shape: Sequence[int | str], seed: int = 0) -> None:
        self._shape = shape
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def const(self, array: np.ndarray[Any, Any]) -> str:
        """A constant."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, fan: int = 1) -> str:
        """Random weights with variance 1 / fan, float32."""
        return self.const((self._rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """A node; of several outputs (``v3``, ``v3_1``, …) the first."""
        base = f"v{len(self._nodes)}"
        names = [base, *(f"{base}_{k}" for k in range(1, outputs))]
        self._nodes.append(helper.make_node(kind, list(inputs), names, name=f"{kind}_{base}", **attributes))
        return base

    def conv(
        self, x: str, channels: int, out: int, kernel: Sequence[int] = (3, 3), *, group: int = 1, stride: int = 1,
        pads: Sequence[int] | None = None, bias: bool = False,
    ) -> str:  # fmt: skip
        """A Conv that keeps the size (before strides) unless ``pads`` says otherwise."""
        fan = channels // group * int(np.prod(kernel))
        inputs = [x, self.weight(out, channels // group, *kernel, fan=fan)]
        if bias:
            inputs.append(self.weight(out, fan=4))
        padded = [k // 2 for k in kernel] * 2 if pads is None else pads
        strides = [stride] * len(kernel)
        return self.op("Conv", *inputs, group=group, strides=strides, pads=padded, kernel_shape=list(kernel))

    def norm(self, x: str, channels: int) -> str:
        """A BatchNormalization in inference."""
        rng = self._rng
        statistics = [
            rng.uniform(0.8, 1.2, channels),
            rng.standard_normal(channels) * 0.1,
            rng.standard_normal(channels) * 0.1,
            rng.uniform(0.5, 1.5, channels),
        ]
        return self.op("BatchNormalization", x, *(self.const(s.astype(np.float32)) for s in statistics))

    def linear(self, x: str, columns: int, out: int, *, bias: bool = True) -> str:
        """MatMul and Add."""
        y = self.op("MatMul", x, self.weight(columns, out, fan=columns))
        return self.op("Add", y, self.weight(out, fan=4)) if bias else y

    def head(self, x: str, channels: int, classes: int = 10) -> str:
        """GlobalAveragePool, Flatten, Gemm."""
        flat = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.op("Gemm", flat, self.weight(classes, channels, fan=channels), self.weight(classes), transB=1)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The model whose outputs ``y``, ``y1``, … are these values."""
        names = {value: f"y{k or ''}" for k, value in enumerate(outputs)}
        for node in self._nodes:
            for field in (node.input, node.output):
                field[:] = [names.get(name, name) for name in field]
        graph = helper.make_graph(
            self._nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self._shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names.values()],
            self._weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        del model.graph.value_info[:]
        onnx.checker.check_model(model)
        return model


def repvgg(blocks: int = 4, channels: int = 32, size: int = 28, seed: int = 0) -> onnx.ModelProto:
    """Blocks of 3×3, 1×1 and x itself, each normalized, added, Relu; every second block halves the size instead."""
    net = Builder([1, 3, size, size], seed)
    x, width = "x", 3
    for k in range(blocks):
        stride = 2 if k and k % 2 == 0 else 1
        terms = [
            net.norm(net.conv(x, width, channels, (3, 3), stride=stride), channels),
            net.norm(net.conv(x, width, channels, (1, 1), stride=stride, pads=[0] * 4), channels),
        ]
        if width == channels and stride == 1:
            terms.append(net.norm(x, channels))
        total = terms[0]
        for term in terms[1:]:
            total = net.op("Add", total, term)
        x, width = net.op("Relu", total), channels
    return net.model(net.head(x, channels))


def acnet(blocks: int = 3, channels: int = 32, size: int = 28, seed: int = 0) -> onnx.ModelProto:
    """Blocks of 3×3, 1×3 and 3×1, each normalized, added, Relu."""
    net = Builder([1, 3, size, size], seed)
    x, width = "x", 3
    for _ in range(blocks):
        terms = [net.norm(net.conv(x, width, channels, k), channels) for k in ((3, 3), (1, 3), (3, 1))]
        x = net.op("Relu", net.op("Add", net.op("Add", terms[0], terms[1]), terms[2]))
        width = channels
    return net.model(net.head(x, channels))


def mobileone(blocks: int = 3, channels: int = 32, size: int = 28, branches: int = 4, seed: int = 0) -> onnx.ModelProto:
    """Depthwise blocks (several 3×3, 1×1, x itself), then pointwise ones (several 1×1, x itself)."""
    net = Builder([1, 3, size, size], seed)
    x = net.op("Relu", net.conv("x", 3, channels))
    for _ in range(blocks):
        for kernel, group in ((3, channels), (1, 1)):
            terms = [net.norm(x, channels)]
            if kernel == 3:
                terms.append(net.norm(net.conv(x, channels, channels, (1, 1), group=group), channels))
            size_of = (kernel, kernel)
            terms += [
                net.norm(net.conv(x, channels, channels, size_of, group=group), channels) for _ in range(branches)
            ]
            total = terms[0]
            for term in terms[1:]:
                total = net.op("Add", total, term)
            x = net.op("Relu", total)
    return net.model(net.head(x, channels))


def inception(blocks: int = 3, channels: int = 64, size: int = 14, seed: int = 0) -> onnx.ModelProto:
    """Blocks of four branches: 1×1; 1×1 and 3×3; 1×1 and two 3×3; MaxPool and 1×1; joined by Concat."""
    net = Builder([1, channels, size, size], seed)
    x = "x"
    part = channels // 4
    for _ in range(blocks):

        def layer(value: str, width: int, out: int, kernel: int) -> str:
            return net.op("Relu", net.conv(value, width, out, (kernel, kernel), bias=True))

        double = layer(layer(layer(x, channels, part, 1), part, part, 3), part, part, 3)
        parts = [layer(x, channels, part, 1), layer(layer(x, channels, part, 1), part, part, 3), double]
        pooled = net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
        parts.append(layer(pooled, channels, part, 1))
        x = net.op("Concat", *parts, axis=1)
    return net.model(net.head(x, channels))


def joined(blocks: int = 3, channels: int = 64, size: int = 14, seed: int = 0) -> onnx.ModelProto:
    """Blocks whose branches are all 1×1 Convs of one value, each with Relu, joined by Concat; 3×3 between."""
    net = Builder([1, channels, size, size], seed)
    x = "x"
    part = channels // 4
    for _ in range(blocks):
        parts = [net.op("Relu", net.conv(x, channels, part, (1, 1), bias=True)) for _ in range(4)]
        wide = net.op("Concat", *parts, axis=1)
        x = net.op("Relu", net.conv(wide, channels, channels, bias=True))
    return net.model(net.head(x, channels))


def qkv(blocks: int = 2, tokens: int = 64, width: int = 64, heads: int = 4, seed: int = 0) -> onnx.ModelProto:
    """Attention blocks as exporters write them: three MatMul and Add of x, Reshape, Transpose, softmax(q k') v."""
    net = Builder([1, tokens, width], seed)
    x = "x"
    shape = net.const(np.array([0, tokens, heads, width // heads]))
    back = net.const(np.array([0, tokens, width]))
    scale = net.const(np.array((width // heads) ** -0.5, np.float32))
    for _ in range(blocks):
        q, k, v = (net.op("Reshape", net.linear(x, width, width), shape) for _ in range(3))
        q, v = (net.op("Transpose", value, perm=[0, 2, 1, 3]) for value in (q, v))
        k = net.op("Transpose", k, perm=[0, 2, 3, 1])
        scores = net.op("Softmax", net.op("Mul", net.op("MatMul", q, k), scale), axis=-1)
        mixed = net.op("Transpose", net.op("MatMul", scores, v), perm=[0, 2, 1, 3])
        x = net.op("Add", x, net.linear(net.op("Reshape", mixed, back), width, width))
    return net.model(x)


def chains(channels: int = 16, size: int = 20, seed: int = 0) -> onnx.ModelProto:
    """Layers without activations between: expanding 3×3 and 1×1, depthwise and few outputs, a factorized Gemm."""
    net = Builder([1, 3, size, size], seed)
    x = net.conv(net.conv("x", 3, 4 * channels, bias=True), 4 * channels, channels, (1, 1), bias=True)
    x = net.op("Relu", x)
    x = net.conv(net.conv(x, channels, 4 * channels, (1, 1)), 4 * channels, channels, bias=True)
    x = net.op("Relu", x)
    side = net.conv(net.conv(x, channels, channels, group=channels, bias=True), channels, 1, (1, 1))
    flat = net.op("Flatten", net.op("GlobalAveragePool", x))
    y = net.op("MatMul", net.linear(flat, channels, 64), net.weight(64, 10, fan=64))
    return net.model(y, side)


def focus(size: int = 32, channels: int = 16, seed: int = 0) -> onnx.ModelProto:
    """YOLOv5's first layers: four strided Slices, Concat, 3×3 Conv, Relu; then a pixel shuffle as Reshapes."""
    net = Builder([1, 3, size, size], seed)
    axes, steps = net.const(np.array([2, 3])), net.const(np.array([2, 2]))
    ends = net.const(np.array([2**63 - 1] * 2))
    starts = [net.const(np.array(s)) for s in ([0, 0], [1, 0], [0, 1], [1, 1])]
    joint = net.op("Concat", *(net.op("Slice", "x", s, ends, axes, steps) for s in starts), axis=1)
    x = net.op("Relu", net.conv(joint, 12, channels, bias=True))
    half = size // 2
    split = net.op("Reshape", x, net.const(np.array([-1, channels // 4, 2, 2, half, half])))
    moved = net.op("Transpose", split, perm=[0, 1, 4, 2, 5, 3])
    return net.model(net.op("Reshape", moved, net.const(np.array([-1, channels // 4, size, size]))))


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "repvgg": repvgg,
    "acnet": acnet,
    "mobileone": mobileone,
    "inception": inception,
    "joined": joined,
    "qkv": qkv,
    "chains": chains,
    "focus": focus,
}
