"""DepthToSpace as a ConvTranspose whose weights are ones and zeros.

    y[c, b h + i, b w + j] = x[d(c, i, j), h, w]  =  Σ x[d, h, w] W[d, c, i, j],  W = 1 where d = d(c, i, j), else 0

with block size b, stride b and a kernel of b × b, so that no two products overlap. onnxruntime's kernel for
DepthToSpace moves single elements; its ConvTranspose is a matrix product and a copy. Which is faster depends on the
sizes, so it must be measured.

1. Mode CRD: channel d = c b² + i b + j; the b² channels of each c are a group of their own    W [C b², 1, b, b]
2. Mode DCR (the default): channel d = (i b + j) C + c; one group                              W [C b², C, b, b]
3. Left alone: types other than float32 (onnxruntime has no ConvTranspose for them), an unknown number of channels,
   bodies of If, Loop and Scan, a block size of 1

Exact as long as x is finite: everything else is multiplied by zero. -0 may become 0.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, Names, attribute, constant_value, dims_of, is_op


@dataclass(frozen=True)
class Place:
    """A DepthToSpace that can be a ConvTranspose.

    Attributes:
        name: Of the node, which keeps it.
        nodes: The node.
        channels: Of its output.
        block: Its block size.
    """

    name: str
    nodes: tuple[str, ...]
    channels: int
    block: int


def places(model: ir.Model) -> list[Place]:
    """The nodes that can be rewritten, in the graph's order."""
    return [place for node in model.graph if (place := _place(node)) is not None]


def apply(model: ir.Model, names: Collection[str]) -> ir.Model:
    """A copy with these places rewritten; names that are no place's are passed over."""
    result = model.clone()
    fresh = Names(result)
    for node in result.graph:
        place = _place(node)
        if place is None or place.name not in names:
            continue
        separate = _separate(node)
        value = constant_value(
            fresh.fresh(f"{node.name}/weight"), shuffling_weight(place.channels, place.block, separate)
        )
        result.graph.register_initializer(value)
        node.op_type = "ConvTranspose"
        node.attributes.clear()
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [place.block] * 2)
        node.attributes["strides"] = ir.AttrInt64s("strides", [place.block] * 2)
        node.attributes["group"] = ir.AttrInt64("group", place.channels if separate else 1)
        node.resize_inputs(2)
        node.replace_input_with(1, value)
    return result


def shuffling_weight(channels: int, block: int, separate: bool) -> Array:
    """W, float32: [C b², 1, b, b] if the groups are separate (mode CRD), else [C b², C, b, b] (mode DCR)."""
    ones = np.eye(block * block, dtype=np.float32).reshape(-1, 1, block, block)
    if separate:
        return np.tile(ones, (channels, 1, 1, 1))
    each = ones[:, :, None] * np.eye(channels, dtype=np.float32)[None, :, :, None, None]  # [b², C, C, b, b]
    return each.reshape(-1, channels, block, block)


def _separate(node: ir.Node) -> bool:
    return bool(attribute(node, "mode", "DCR") == "CRD")


def _place(node: ir.Node) -> Place | None:
    source = node.inputs[0] if is_op(node, "DepthToSpace") else None
    block = attribute(node, "blocksize", 1)
    dims = dims_of(source) if source is not None else None
    if source is None or source.dtype != ir.DataType.FLOAT or dims is None or len(dims) != 4 or block < 2:
        return None
    if not isinstance(dims[1], int) or dims[1] % (block * block):
        return None
    return Place(node.name or "", (node.name or "",), dims[1] // block**2, block)
