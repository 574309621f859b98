"""Permutations of axes, and the Transposes that carry them out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Dims, attribute, constant_value, dims_of

Perm = tuple[int, ...]


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes ``perm``."""
    return tuple(int(k) for k in np.argsort(perm))


def composed(first: Perm, second: Perm) -> Perm:
    """The permutation of Transpose(Transpose(x, first), second)."""
    return tuple(first[k] for k in second)


def is_identity(perm: Perm) -> bool:
    """Whether the permutation moves nothing."""
    return perm == tuple(range(len(perm)))


def perm_of(node: ir.Node) -> Perm | None:
    """The permutation of a Transpose; all axes turned round if it names none; None if the rank is unknown."""
    perm = attribute(node, "perm")
    if perm is not None:
        return tuple(int(k) for k in perm)
    value = node.inputs[0] if node.inputs else None
    dims = dims_of(value) if value is not None else None
    dims = dims if dims is not None else dims_of(node.outputs[0])
    return tuple(range(len(dims)))[::-1] if dims is not None else None


def twin_dims(value: ir.Value, perm: Perm) -> Dims | None:
    """Dimensions of the twin."""
    dims = dims_of(value)
    if dims is None:
        return None
    return tuple(dims[k] for k in inverse(perm))


def view_shape(before: Dims, after: Dims) -> list[int] | None:
    """The constant shape of a Reshape between tensors of these dims; None if it needs more than one unknown.

    0 stands for "as before", -1 for the one size that is not known; both only where no dimension is empty.
    """
    shape: list[int] = []
    if any(d == 0 for d in (*before, *after)):
        return None
    for k, dim in enumerate(after):
        if isinstance(dim, int):
            shape.append(dim)
        elif dim is not None and k < len(before) and before[k] == dim:
            shape.append(0)
        else:
            shape.append(-1)
    return shape if shape.count(-1) <= 1 else None


def moves_only_ones(dims: Dims, perm: Perm) -> bool:
    """Whether a Transpose leaves the elements where they are: only axes of size 1 change places."""
    kept = [k for k in perm if dims[k] != 1]
    return kept == sorted(kept)


def transposing(value: ir.Value, perm: Perm, name: str | None) -> ir.Node:
    """A Transpose, or a Reshape if only axes of size 1 move and at most one size is not known."""
    dims = dims_of(value)
    after: Dims | None = tuple(dims[k] for k in perm) if dims is not None else None
    base = name or value.name
    outputs = [
        ir.Value(name=f"{base}/transposed", type=value.type, shape=ir.Shape(after) if after is not None else None)
    ]
    if dims is not None and after is not None and moves_only_ones(dims, perm):
        shape = view_shape(dims, after)
        if shape is not None:
            target = constant_value(f"{base}/shape", np.array(shape, np.int64))
            return ir.Node("", "Reshape", inputs=[value, target], outputs=outputs, name=name or "")
    attributes = [ir.AttrInt64s("perm", list(perm))]
    return ir.Node("", "Transpose", inputs=[value], attributes=attributes, outputs=outputs, name=name or "")
