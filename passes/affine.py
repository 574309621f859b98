"""Affine maps y = s x + t with constant s and t, read from the nodes that compute them.

    BatchNormalization   s = gamma / sqrt(var + epsilon), t = beta - mean s, one value per channel (axis 1)
    x * c, c * x         s = c
    x / c                s = 1 / c          (c / x is no affine map of x)
    x + c, c + x         t = c
    x - c                t = -c
    c - x                s = -1, t = c
    -x                   s = -1

Scale and shift are float64 arrays that broadcast against x as the node's own constant does. Read as None: integers
(their Div rounds), constants on both sides, elementwise nodes before opset 7 (they broadcast by an attribute).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, Dims, attribute, constant, constant_value, dims_of, input_or_none, is_op
from edgeopt.parity import is_float, machine_epsilon

ELEMENTWISE = frozenset({"Mul", "Div", "Add", "Sub", "Neg"})
AFFINE_OPS = ELEMENTWISE | {"BatchNormalization"}
_LOST = 16  # a constant of 1 / (16 epsilon) leaves 4 bits of a 1 that is added to it


@dataclass(frozen=True)
class Affine:
    """y = scale x + shift.

    Attributes:
        nodes: That compute it, the last first.
        source: x.
        scale: Float64, broadcasts against x.
        shift: The same.
        dtype: Of x and y.
    """

    nodes: tuple[ir.Node, ...]
    source: ir.Value
    scale: Array
    shift: Array
    dtype: np.dtype[np.generic]

    @property
    def is_scale(self) -> bool:
        """Whether nothing is added."""
        return not self.shift.any()

    @property
    def is_shift(self) -> bool:
        """Whether nothing is multiplied."""
        return bool((self.scale == 1).all())

    @property
    def node(self) -> ir.Node:
        """The node whose output is y."""
        return self.nodes[0]

    @property
    def output(self) -> ir.Value:
        """Y itself."""
        return self.nodes[0].outputs[0]


def batchnorm_affine(node: ir.Node) -> tuple[Array, Array] | None:
    """Scale s and shift t, float64 [C], of a BatchNormalization node; None if a parameter is not constant."""
    parameters = [constant(input_or_none(node, k)) for k in range(1, 5)]
    gamma, beta, mean, var = (None if p is None else p.astype(np.float64) for p in parameters)
    if gamma is None or beta is None or mean is None or var is None:
        return None
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(var + attribute(node, "epsilon", 1e-5))
        return scale, beta - mean * scale


def inference_problem(node: ir.Node, version: int) -> str | None:
    """Why a BatchNormalization is more than one affine map per channel, or None."""
    if attribute(node, "training_mode", 0) or (version < 7 and not attribute(node, "is_test", 0)):
        return "training mode: mean and variance come from the batch"
    if not attribute(node, "spatial", 1):
        return "spatial=0: statistics per element, not per channel"
    if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return "its running statistics are used elsewhere"
    return None


def read(node: ir.Node, version: int, rank: int | None = None) -> Affine | str | None:
    """The affine map that a node computes; why it is none, where a reader would expect one; else None.

    Args:
        node: Any node.
        version: The opset.
        rank: Of its input, where the caller knows it.
    """
    if is_op(node, "BatchNormalization"):
        return _read_batchnorm(node, version, rank)
    if version < 7 or not is_op(node, *ELEMENTWISE):
        return None
    if node.op_type == "Neg":
        x = node.inputs[0]
        if x is None or x.dtype is None or not is_float(x.dtype.numpy()) or constant(x) is not None:
            return None
        return Affine((node,), x, np.array(-1.0), np.array(0.0), np.dtype(x.dtype.numpy()))
    for position in (1, 0):
        other = input_or_none(node, 1 - position)
        array = constant(input_or_none(node, position))
        if array is None or other is None or constant(other) is not None or not is_float(array.dtype) or not array.size:
            continue
        if position == 0 and node.op_type == "Div":
            return None
        scale, shift = _terms(node.op_type, array.astype(np.float64), position)
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            return "its constant is not finite, or divides by zero"
        return Affine((node,), other, scale, shift, array.dtype)
    return None


def _terms(op: str, c: Array, position: int) -> tuple[Array, Array]:
    one, zero = np.ones([1] * c.ndim), np.zeros([1] * c.ndim)
    if op == "Mul":
        return c, zero
    if op == "Div":
        with np.errstate(all="ignore"):
            return 1 / c, zero
    if op == "Add":
        return one, c
    return (one, -c) if position == 1 else (-one, c)


def _read_batchnorm(node: ir.Node, version: int, rank: int | None) -> Affine | str | None:
    x = node.inputs[0]
    if x is None:
        return None
    problem = inference_problem(node, version)
    if problem:
        return problem
    found = batchnorm_affine(node)
    gamma = constant(input_or_none(node, 1))
    if found is None or gamma is None:
        return "its statistics are not constant"
    dims = dims_of(x) or dims_of(node.outputs[0])
    rank = rank or (len(dims) if dims else None)
    if rank is None or rank < 2:
        return "the rank of its input is unknown"
    if not (np.isfinite(found[0]).all() and np.isfinite(found[1]).all()):
        return "its statistics are not finite, or a variance is not positive"
    shape = [-1, *[1] * (rank - 2)]
    kind = x.dtype.numpy() if x.dtype is not None else gamma.dtype
    return Affine((node,), x, found[0].reshape(shape), found[1].reshape(shape), np.dtype(kind))


def chained(first: Affine, version: int, limit: int = 8) -> Affine:
    """The affine map together with those that feed it and nothing else, at most ``limit`` nodes."""
    total = first
    while len(total.nodes) < limit:
        below = total.nodes[-1]
        producer = total.source.producer()
        if producer is None or producer.graph is not below.graph or not read_by_one(total.source):
            break
        found = read(producer, version)
        if not isinstance(found, Affine) or found.dtype != total.dtype or rounds(found.shift, total):
            break
        with np.errstate(all="ignore"):
            scale, shift = found.scale * total.scale, found.shift * total.scale + total.shift
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            break
        if max(scale.size, shift.size) > max(c.size for c in (found.scale, found.shift, total.scale, total.shift)):
            break
        total = replace(total, nodes=(*total.nodes, producer), source=found.source, scale=scale, shift=shift)
    return total


def rounds(inner: Array, outer: Affine) -> bool:
    """Whether the pair rounds x on purpose: adds a constant so large that x loses its last bits, and takes it away."""
    least = 1 / (_LOST * machine_epsilon(outer.dtype))
    moved = inner * outer.scale
    total = np.abs(moved + outer.shift)
    return bool(((np.abs(inner) > least) & (total < np.abs(moved) / 2)).any())


def read_by_one(value: ir.Value) -> bool:
    """One use, and no output of the graph."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def along(array: Array, axis: int, channels: int, rank: int | None) -> Array | None:
    """The constant as one value per channel, [C]; None if it is not, or if it would enlarge what it meets.

    Args:
        array: Broadcasts against a tensor of that rank.
        axis: The channels' axis, counted from the end: negative.
        channels: Their number C.
        rank: None if unknown; then the tensor has at least ``-axis`` dimensions.
    """
    if array.ndim > (rank or -axis):
        return None
    if array.ndim < -axis:
        return np.full(channels, float(array.reshape(-1)[0])) if array.size == 1 else None
    others = [d for k, d in enumerate(array.shape) if k != array.ndim + axis]
    if any(d != 1 for d in others) or array.shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(array.reshape(-1), channels)


def keeps_shape(dims: Dims | None, arrays: Sequence[Array]) -> bool:
    """Whether broadcasting these constants against a tensor of these dims leaves its shape as it is."""
    for array in arrays:
        if array.ndim == 0:
            continue
        if dims is None or array.ndim > len(dims):
            return False
        tail = dims[len(dims) - array.ndim :]
        if any(size not in (1, dim) for size, dim in zip(array.shape, tail, strict=True)):
            return False
    return True


def stored(array: Array, dtype: np.dtype[np.generic]) -> Array | None:
    """The array in the model's type; None if it overflows there, or loses more than rounding (subnormals).

    Infinities and NaN that were there before stay. The largest element of each row along axis 0 is the measure.
    """
    with np.errstate(all="ignore"):
        result = np.ascontiguousarray(array.astype(dtype))
        finite = np.isfinite(array)
        back = result.astype(np.float64)
        if not np.isfinite(back[finite]).all():
            return None
        error = np.where(finite, np.abs(back - array), 0.0)
        size = np.where(finite, np.abs(array), 0.0)
        rows = (len(array), -1) if array.ndim > 1 and array.size else (1, -1)
        worst, largest = error.reshape(rows).max(axis=1, initial=0), size.reshape(rows).max(axis=1, initial=0)
        return result if (worst <= 2 * machine_epsilon(dtype) * largest).all() else None


def node_of(op: str, inputs: Sequence[ir.Value | None], name: str, like: ir.Value | None = None) -> ir.Node:
    """A new node without attributes; its output is typed as ``like``."""
    shape = like.shape.copy() if like is not None and like.shape is not None else None
    output = ir.Value(name=f"{name}/output", type=like.type if like is not None else None, shape=shape)
    return ir.Node("", op, inputs=inputs, name=name, outputs=[output])


def discard(nodes: Sequence[ir.Node] | None) -> None:
    """Let go of nodes that were made for nothing: until then they count as readers of what they read."""
    for node in nodes or ():
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def constant_like(name: str, array: Array, dtype: np.dtype[np.generic]) -> ir.Value | None:
    """The constant in this type; None where it cannot be stored there (see ``stored``)."""
    found = stored(array, dtype)
    return None if found is None else constant_value(name, found)
