"""Affine maps y = s x + t with constant s and t, read from the nodes that compute them.

    BatchNormalization   s = gamma / sqrt(var + epsilon), t = beta - mean s, one value per channel (axis 1)
    x * c, c * x         s = c
    x / c                s = 1 / c          (c / x is no affine map of x)
    x + c, c + x         t = c
    x - c                t = -c
    c - x                s = -1, t = c
    -x                   s = -1

Scale and shift are float64 arrays that broadcast against x as the node's own constant does. Read as None: integers
(their Div rounds), constants on both sides or larger than a map per channel would be, elementwise nodes before opset 7
(they broadcast by an attribute).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, Dims, constant, constant_tensor, constant_value, dims_of, input_or_none, is_op
from edgeopt.parity import is_float, machine_epsilon
from edgeopt.passes.fold_batchnorm import affine as batchnorm_affine
from edgeopt.passes.fold_batchnorm import inference_problem

ELEMENTWISE = frozenset({"Mul", "Div", "Add", "Sub", "Neg"})
AFFINE_OPS = ELEMENTWISE | {"BatchNormalization"}
_MOST_ELEMENTS = 1 << 18  # of a constant that is worth looking at
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


def read(node: ir.Node, version: int, rank: int | None = None) -> Affine | str | None:
    """The affine map that a node computes; why it is none, where a reader would expect one; else None.

    Args:
        node: Any node.
        version: The opset.
        rank: Of its input, where the caller knows it.
    """
    found = _read(node, version, rank)
    if isinstance(found, Affine) and not is_op(node, "BatchNormalization") and _rounds_with_neighbour(found, version):
        return "it rounds on purpose, together with the constant that is added or taken away beside it"
    return found


def _read(node: ir.Node, version: int, rank: int | None) -> Affine | str | None:
    if is_op(node, "BatchNormalization"):
        return _read_batchnorm(node, version, rank)
    if version < 7 or not is_op(node, *ELEMENTWISE):
        return None
    if node.op_type == "Neg":
        x = node.inputs[0]
        if x is None or x.dtype is None or not is_float(x.dtype.numpy()) or constant_tensor(x) is not None:
            return None
        return Affine((node,), x, np.array(-1.0), np.array(0.0), np.dtype(x.dtype.numpy()))
    for position in (1, 0):
        other = input_or_none(node, 1 - position)
        tensor = constant_tensor(input_or_none(node, position))
        if tensor is None or other is None or constant_tensor(other) is not None:
            continue
        if not 0 < tensor.size <= _MOST_ELEMENTS or not is_float(tensor.dtype.numpy()):
            continue
        array = np.asarray(tensor.numpy())
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
        if not isinstance(found, Affine) or found.dtype != total.dtype:
            break
        if rounds(found.shift, total.scale, total.shift, total.dtype):
            break
        with np.errstate(all="ignore"):
            scale, shift = found.scale * total.scale, found.shift * total.scale + total.shift
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            break
        if max(scale.size, shift.size) > max(c.size for c in (found.scale, found.shift, total.scale, total.shift)):
            break
        total = replace(total, nodes=(*total.nodes, producer), source=found.source, scale=scale, shift=shift)
    return total


def rounds(inner: Array, scale: Array, shift: Array, dtype: np.dtype[np.generic]) -> bool:
    """Whether scale (x + inner) + shift rounds x on purpose.

    That is, adds a constant so large that x loses its last bits, and takes it away again.
    """
    moved = inner * scale
    return bool((_is_large(inner, dtype) & (np.abs(moved + shift) < np.abs(moved) / 2)).any())


def _is_large(shift: Array, dtype: np.dtype[np.generic]) -> Array:
    return np.asarray(np.abs(shift) * (_LOST * machine_epsilon(dtype)) > 1)


def _rounds_with_neighbour(map_: Affine, version: int) -> bool:
    if not _is_large(map_.shift, map_.dtype).any():
        return False
    producer = map_.source.producer()
    inner = _read(producer, version, None) if producer is not None else None
    outer = [_read(reader, version, None) for reader in map_.output.consumers()]
    pairs = [(inner, map_), *((map_, reader) for reader in outer)]
    return any(
        isinstance(a, Affine) and isinstance(b, Affine) and rounds(a.shift, b.scale, b.shift, b.dtype) for a, b in pairs
    )


def discard(nodes: Iterable[ir.Node]) -> None:
    """Nodes that are not put into a graph after all read nothing any more: they would count among the readers."""
    for node in nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def read_by_one(value: ir.Value) -> bool:
    """One use, and no output of the graph."""
    return len(value.uses()) == 1 and not value.is_graph_output()


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


def constant_like(name: str, array: Array, dtype: np.dtype[np.generic]) -> ir.Value | None:
    """The constant in this type; None where it cannot be stored there (see ``stored``)."""
    found = stored(array, dtype)
    return None if found is None else constant_value(name, found)
