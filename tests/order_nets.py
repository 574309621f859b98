"""Nets whose nodes can be ordered in many ways: cells as in NASNet, DenseNet and Inception, and made-up graphs.

Each builder gives a checked ``onnx.ModelProto`` with input ``x``; ``scattered`` orders its nodes as an exporter that
walks the layers in levels would.
"""

from __future__ import annotations

import random

import onnx

from tests.nets import Builder


def nasnet(cells: int = 4, channels: int = 16, size: int = 16, *, every: int = 2) -> onnx.ModelProto:
    """Cells of NASNet-A's shape: five sums of two branches each over the two cells before, then a Concat.

    Each cell of a number that ``every`` divides halves the size and doubles the channels.
    """
    net = Builder([1, 3, size, size])
    before = (net.conv("x", 3, channels), channels)
    last = before
    for k in range(1, cells + 1):
        stride = 2 if k % every == 0 else 1
        channels *= stride
        h = _squeeze(net, *last, channels)
        p = _squeeze(net, *before, channels)
        sums = [
            net.op("Add", _separable(net, h, channels, 5, stride), _separable(net, p, channels, 3, stride)),
            net.op("Add", _separable(net, p, channels, 5, stride), _separable(net, p, channels, 3, stride)),
            net.op("Add", _pool(net, h, stride), _same(net, p, channels, stride)),
            net.op("Add", _pool(net, p, stride), _pool(net, p, stride)),
            net.op("Add", _separable(net, h, channels, 3, stride), _same(net, h, channels, stride)),
        ]
        made = (net.op("Concat", *sums, axis=1), 5 * channels)
        before = last if stride == 1 else (_squeeze(net, *last, channels, stride), channels)
        last = made
    return net.model(net.head(*last))


def densenet(layers: int = 6, growth: int = 12, size: int = 16, blocks: int = 2) -> onnx.ModelProto:
    """Dense blocks: each layer reads the Concat of all layers before it; halved between blocks."""
    net = Builder([1, 3, size, size])
    x, width = net.conv("x", 3, 2 * growth), 2 * growth
    for block in range(blocks):
        parts, total = [x], width
        for _ in range(layers):
            joined = net.op("Concat", *parts, axis=1) if len(parts) > 1 else x
            bottle = net.conv(net.op("Relu", net.norm(joined, total)), total, 4 * growth, (1, 1))
            parts.append(net.conv(net.op("Relu", net.norm(bottle, 4 * growth)), 4 * growth, growth))
            total += growth
        x, width = net.op("Concat", *parts, axis=1), total
        if block + 1 < blocks:
            narrow = net.conv(x, width, width // 2, (1, 1))
            x, width = net.op("AveragePool", narrow, kernel_shape=[2, 2], strides=[2, 2]), width // 2
    return net.model(net.head(x, width))


def inception(modules: int = 3, channels: int = 32, size: int = 16) -> onnx.ModelProto:
    """Modules of four branches (1×1; 1×1 and 3×3; 1×1 and twice 3×3; pooling and 1×1), joined by a Concat."""
    net = Builder([1, 3, size, size])
    x, width = net.conv("x", 3, channels), channels
    for _ in range(modules):
        a = net.conv(x, width, channels // 2, (1, 1))
        b = net.conv(x, width, 2 * channels, (1, 1))
        c = net.conv(x, width, 2 * channels, (1, 1))
        d = _pool(net, x, 1)
        b = net.conv(net.op("Relu", b), 2 * channels, channels // 2)
        c = net.conv(net.op("Relu", c), 2 * channels, 2 * channels)
        c = net.conv(net.op("Relu", c), 2 * channels, channels // 4)
        d = net.conv(d, width, channels // 4, (1, 1))
        x, width = net.op("Concat", a, b, c, d, axis=1), channels // 2 * 2 + channels // 4 * 2
    return net.model(net.head(x, width))


def wired(nodes: int = 32, channels: int = 8, size: int = 8, seed: int = 0) -> onnx.ModelProto:
    """A randomly wired net: each Conv reads the sum of one to three earlier values (as in Xie et al. 2019)."""
    rng = random.Random(seed)
    net = Builder([1, channels, size, size], seed)
    values, unread = ["x"], {"x"}
    for _ in range(nodes):
        read = rng.sample(values[-8:], min(len(values), rng.randint(1, 3)))
        total = read[0]
        for other in read[1:]:
            total = net.op("Add", total, other)
        made = net.conv(net.op("Relu", total), channels, channels)
        unread.difference_update(read)
        unread.add(made)
        values.append(made)
    return net.model(net.head(net.op("Concat", *sorted(unread), axis=1), channels * len(unread)))


def scattered(model: onnx.ModelProto, seed: int | None = None) -> onnx.ModelProto:
    """The same with its nodes level by level from the inputs, or in a random valid order."""
    level: dict[str, int] = {}
    nodes = list(model.graph.node)
    for node in nodes:
        depth = 1 + max((level.get(name, 0) for name in node.input), default=0)
        level.update(dict.fromkeys(node.output, depth))
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    if seed is None:
        result.graph.node.extend(sorted(nodes, key=lambda n: level[n.output[0]]))
        return result
    rng = random.Random(seed)
    inner = {name for node in nodes for name in node.output}
    done: set[str] = set()
    while nodes:
        ready = [n for n in nodes if all(i in done or i not in inner for i in n.input)]
        node = rng.choice(ready)
        nodes.remove(node)
        done.update(node.output)
        result.graph.node.append(node)
    return result


def _separable(net: Builder, x: str, channels: int, kernel: int, stride: int) -> str:
    spread = net.conv(net.op("Relu", x), channels, channels, (kernel, kernel), group=channels, stride=stride)
    return net.conv(spread, channels, channels, (1, 1))


def _squeeze(net: Builder, x: str, width: int, channels: int, stride: int = 1) -> str:
    return net.conv(net.op("Relu", x), width, channels, (1, 1), stride=stride, pads=[0] * 4)


def _pool(net: Builder, x: str, stride: int) -> str:
    return net.op("AveragePool", x, kernel_shape=[3, 3], strides=[stride] * 2, pads=[1] * 4)


def _same(net: Builder, x: str, channels: int, stride: int) -> str:
    return x if stride == 1 else net.conv(x, channels, channels, (1, 1), stride=stride, pads=[0] * 4)
