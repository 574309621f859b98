"""What rewrites that compute with whole Convs want to know of one: weights in float64, and where it reads.

Output position o of an axis reads x at o s - p + j d for the kernel's j = 0 … k - 1: stride s, pad before p,
dilation d.
A group is a block of the weights: of g groups, block i maps the i-th part of the input channels to the i-th part of
the output channels; with fewer groups the same map has larger blocks, filled with zeros (``regrouped``).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, attribute, constant, constant_value, input_or_none, is_op, stored_twice


@dataclass(frozen=True)
class Convolution:
    """A Conv of constant weights.

    Attributes:
        node: It.
        weight: [Cout, Cin/group, k…], float64 and finite.
        bias: [Cout], float64; zeros if it has none.
        dtype: As stored.
        group: Blocks of channels.
        strides: By spatial axis.
        dilations: By spatial axis.
        before: Pads before each axis.
        behind: Pads behind each axis.
    """

    node: ir.Node
    weight: Array
    bias: Array
    dtype: np.dtype[np.generic]
    group: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    behind: tuple[int, ...]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Taps by axis."""
        return tuple(self.weight.shape[2:])

    @property
    def growth(self) -> tuple[int, ...]:
        """By axis, how much larger the output is than the input, before strides: p + p' - d (k - 1)."""
        pads = zip(self.before, self.behind, self.dilations, self.kernel, strict=True)
        return tuple(a + b - d * (k - 1) for a, b, d, k in pads)

    @property
    def source(self) -> ir.Value:
        """What it reads."""
        value = self.node.inputs[0]
        assert value is not None  # a Conv always has an input
        return value


def read_conv(node: ir.Node) -> Convolution | str:
    """The Conv, or why it cannot be computed with."""
    weight = constant(input_or_none(node, 1))
    bias = constant(node.inputs[2]) if input_or_none(node, 2) is not None else None
    if weight is None or (bias is None and input_or_none(node, 2) is not None) or weight.ndim < 3:
        return f"the weights of Conv {node.name!r} are not constant"
    axes = weight.ndim - 2
    strides, dilations = (tuple(int(v) for v in attribute(node, a, [1] * axes)) for a in ("strides", "dilations"))
    pads = pads_of(node, weight.shape[2:], strides, dilations)
    if isinstance(pads, str):
        return pads
    if not len(strides) == len(dilations) == len(pads) / 2 == axes or weight.size == 0:
        return f"Conv {node.name!r} is empty or states other axes than its kernel has"
    w = weight.astype(np.float64)
    b = np.zeros(weight.shape[0]) if bias is None else bias.astype(np.float64)
    if not (np.isfinite(w).all() and np.isfinite(b).all()):
        return f"weights of Conv {node.name!r} are infinite or NaN"
    group = int(attribute(node, "group", 1))
    return Convolution(node, w, b, weight.dtype, group, strides, dilations, pads[:axes], pads[axes:])


def pads_of(
    node: ir.Node, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[int, ...] | str:
    """Before each axis, then behind each; SAME is fixed only without strides."""
    automatic = attribute(node, "auto_pad", "NOTSET")
    if automatic == "NOTSET":
        return tuple(int(p) for p in attribute(node, "pads", [0] * (2 * len(kernel))))
    if automatic == "VALID":
        return (0,) * (2 * len(kernel))
    if any(s != 1 for s in strides):
        return f"Conv {node.name!r} has strides and auto_pad {automatic}, which depends on the size"
    totals = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return tuple(less + more) if automatic == "SAME_UPPER" else tuple(more + less)


def regrouped(weight: Array, group: int, fewer: int) -> Array:
    """[Cout, Cin/group, k…] as the same map with ``fewer`` groups, which must divide ``group``."""
    if fewer == group:
        return weight
    outputs, inputs = weight.shape[:2]
    result = np.zeros((outputs, inputs * group // fewer, *weight.shape[2:]))
    for block in range(group):
        rows = slice(block * outputs // group, (block + 1) * outputs // group)
        start = block % (group // fewer) * inputs
        result[rows, start : start + inputs] = weight[rows]
    return result


def placed(conv: Convolution, base: Convolution) -> Array | None:
    """The kernel of ``conv`` within that of ``base``, zeros around it, [Cout, Cin/base.group, base.kernel…].

    None if the two do not read at the same places for all taps, or if ``conv`` has larger blocks.
    """
    if conv.group % base.group or conv.strides != base.strides:
        return None
    taps: list[list[int]] = []
    for axis, size in enumerate(base.kernel):
        shift, step = base.before[axis] - conv.before[axis], base.dilations[axis]
        offsets = [shift + j * conv.dilations[axis] for j in range(conv.kernel[axis])]
        if any(o % step or not 0 <= o // step < size for o in offsets):
            return None
        taps.append([o // step for o in offsets])
    source = regrouped(conv.weight, conv.group, base.group)
    result = np.zeros((*source.shape[:2], *base.kernel))
    for old in itertools.product(*(range(k) for k in conv.kernel)):
        new = tuple(t[j] for t, j in zip(taps, old, strict=True))
        result.T[new[::-1]] = source.T[old[::-1]]  # the kernel's axes are the last
    return result


def stored(array: Array, dtype: np.dtype[np.generic]) -> Array | None:
    """The array in the element type of the model; None if finite values would overflow it."""
    with np.errstate(all="ignore"):
        result: Array = np.ascontiguousarray(array.astype(dtype))
    return result if np.isfinite(result.astype(np.float64)).all() else None


def conv_like(
    base: Convolution, source: ir.Value, weight: Array, bias: Array | None, output: ir.Value, **lists: list[int]
) -> ir.Node:
    """A Conv with the name and attributes of ``base`` but for weights, and the lists and group given here.

    Args:
        base: Lends name and attributes.
        source: What the new one reads.
        weight: In the model's element type.
        bias: The same; None if there is none.
        output: Its type and dims are the new output's.
        **lists: ``strides``, ``pads``, ``dilations``, ``group`` (a list of one).
    """
    attributes = dict(base.node.attributes)
    for name in ("auto_pad", "kernel_shape"):
        attributes.pop(name, None)
    attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", list(weight.shape[2:]))
    attributes["pads"] = ir.AttrInt64s("pads", lists.pop("pads", [*base.before, *base.behind]))
    if (group := lists.pop("group", None)) is not None:
        attributes["group"] = ir.AttrInt64("group", group[0])
    for name, values in lists.items():
        attributes[name] = ir.AttrInt64s(name, values)
    name = base.node.name or base.node.op_type
    constants = [constant_value(f"{name}/weight", weight)]
    if bias is not None:
        constants.append(constant_value(f"{name}/bias", bias))
    return ir.Node(
        "",
        "Conv",
        inputs=[source, *constants],
        attributes=attributes.values(),
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape)],
        name=name,
    )


def weights_shared(*nodes: ir.Node) -> str | None:
    """Why the weights of one of these layers should not be rewritten."""
    reasons = (stored_twice(input_or_none(node, 1)) for node in nodes if is_op(node, "Conv", "Gemm", "MatMul"))
    return next((reason for reason in reasons if reason is not None), None)
