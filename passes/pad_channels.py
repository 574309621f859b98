"""Pad channels with zeros up to a multiple of the runtime's block.

onnxruntime computes a Conv in blocks of channels (the NCHWc layout of its CPU kernels: blocks of 16 with AVX-512 and on
ARM64, of 8 otherwise). A Conv reads blocked values only if its input channels are a multiple of 4 and no fewer than a
block, MaxPool, AveragePool and Concat take part only if the channels are a multiple of the block
(onnxruntime/core/optimizer/nchwc_transformer.cc, as of 1.31); otherwise values are rewritten to the plain layout and
back. More channels than the network has avoid that, and cost multiplications: whether it pays must be measured.

    y = W2 f(W1 x + b1) + b2  =  [W2 0] f([W1; 0] x + [b1; 0]) + b2

1. Conv to Conv: zero rows behind the producer's weight and bias, zero columns behind the consumer's weight
2. Channel by channel in between: activations, pools, Pad, Resize, reductions in space
3. Depthwise Conv in between: zero kernels, ``group`` follows; BatchNormalization: scale 1, bias 0, mean 0, variance 1
4. Add, Mul, … of two values: both are padded, with all that they hang together with (residuals, squeeze and excite)
5. Constants per channel: neutral ones behind them
6. Concat: every operand has its own padding, the consumers' zero columns lie behind each operand's
7. Weights that several nodes share: a version for each padding
8. Left alone: what reaches an input, an output or another operator (see ``channel_groups`` and ``channelwise``)

Exact as long as the values that the layers compute are finite: the new channels are finite and meet zero weights.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.graph import constant
from edgeopt.passes.channel_groups import ChannelGroups, widened
from edgeopt.passes.widening import Replacements

BLOCK = 16


@dataclass(frozen=True)
class Place:
    """A group of channels that can be padded.

    Attributes:
        name: Of the first Conv that makes them.
        nodes: Every node that reads or makes them, in the graph's order.
        channels: How many there are.
        padded: How many there would be.
    """

    name: str
    nodes: tuple[str, ...]
    channels: int
    padded: int


def places(model: ir.Model, block: int = BLOCK) -> list[Place]:
    """The groups whose number of channels is no multiple of ``block``, in the graph's order."""
    return [
        Place(
            name=group.producers[0].name or "",
            nodes=tuple(node.name or "" for node in group.nodes),
            channels=group.size,
            padded=-(-group.size // block) * block,
        )
        for group in ChannelGroups(model).groups().values()
        if group.size % block
    ]


def apply(model: ir.Model, names: Collection[str], block: int = BLOCK) -> ir.Model:
    """A copy with the channels of these places padded; names that are no place's are passed over."""
    result = model.clone()
    found = ChannelGroups(result)
    extra = {
        key: -group.size % block for key, group in found.groups().items() if (group.producers[0].name or "") in names
    }
    replacements = Replacements(result)
    for edit in found.edits:
        sizes = found.with_extra(edit.layout, extra)
        array = constant(edit.node.inputs[edit.index])
        if array is not None and any(more for _, more in sizes):
            replacements.put(edit.node, edit.index, widened(array, edit.axis, sizes, edit.fill))
    for node, layout in found.depthwise:
        node.attributes["group"] = ir.AttrInt64("group", _channels(found.with_extra(layout, extra)))
    for node, layout in found.sizes:
        array = np.array(constant(node.inputs[3]))
        array[1] = _channels(found.with_extra(layout, extra))
        replacements.put(node, 3, array)
    replacements.finish()
    for value, layout in found.layouts.items():
        sizes = found.with_extra(layout, extra)
        if value.shape is not None and any(more for _, more in sizes):
            value.shape = ir.Shape([_channels(sizes) if axis == 1 else dim for axis, dim in enumerate(value.shape)])
    return result


def _channels(sizes: list[tuple[int, int]]) -> int:
    return sum(size + more for size, more in sizes)
