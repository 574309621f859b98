"""Targets of Reshape and Expand that are computed from sizes (cases 2, 3 and 8 of ``fold_shapes``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeopt import sizes
from edgeopt.graph import attribute, constant_value, input_or_none, is_op
from edgeopt.passes.shape_chains import SOURCES, State, again, chain_of, computing, owned, replaced
from edgeopt.rewrite import Answer, Rewrite, Skip
from edgeopt.shape_known import product
from edgeopt.sizes import Size


def reshape_target(node: ir.Node, state: State) -> Answer:
    """Cases 2 and 8."""
    target = input_or_none(node, 1)
    if computing(target) is None:
        return None
    data, dims, name = state.known.data(target), state.known.dims(node.inputs[0]), node.name or ""
    chain = chain_of([target])
    if data is None or data.scalar or chain is None or not any(is_op(n, *SOURCES) for n in chain):
        return None
    zeros = bool(attribute(node, "allowzero", 0))
    found = _target(data.numbers(), dims, zeros)
    if isinstance(found, str):
        numbers = data.numbers()
        shorter = _rebuilt(node, chain, numbers, state) if numbers is not None else None
        return shorter or Skip(name, f"its target stays a computation: {found}")
    new_target = constant_value(f"{name}/target", np.array(found, np.int64))
    keep_zero = ir.AttrInt64("allowzero", 1) if zeros and 0 not in found else None
    new = again(node, [node.inputs[0], new_target], allowzero=keep_zero if -1 not in found else None)
    return replaced(node, chain, (new,), new.outputs[0], state.known)


def _target(wanted: list[Size] | None, dims: tuple[Size, ...] | None, zeros: bool) -> list[int] | str:
    """Case 2, or why not."""
    if wanted is None:
        return "it depends on data"
    result: list[int | None] = []
    for k, size in enumerate(wanted):
        number = size.integer
        if number == 0 and zeros:
            return "it asks for an empty tensor"
        if number is not None and number < -1:
            return "it asks for a negative size"
        kept = dims is not None and k < len(dims) and dims[k] == size and number is None
        result.append(0 if kept else number)
    if (free := _free(wanted, result, dims)) is not None:
        wanted, result = [*wanted], [*result]
        k = result.index(-1)
        wanted[k], result[k] = sizes.number(free), free
    unknown = [k for k, r in enumerate(result) if r is None]
    if not unknown:
        return [r for r in result if r is not None]
    if len(unknown) > 1 or -1 in result:
        names = ", ".join(str(wanted[k]) for k in unknown)
        return f"{names} at {'these places' if len(unknown) > 1 else 'this place'} cannot all be written as constants"
    for k, r in enumerate(result):
        number = wanted[k].integer if r != 0 or dims is None else dims[k].integer
        if k not in unknown and not number:
            return f"beside the open size {wanted[unknown[0]]}, {wanted[k]} may be 0"
    return [-1 if r is None else r for r in result]


def _free(wanted: Sequence[Size], result: Sequence[int | None], dims: tuple[Size, ...] | None) -> int | None:
    """The number that a literal -1 stands for."""
    if result.count(-1) != 1 or dims is None:
        return None
    k = result.index(-1)
    others = [dims[j] if result[j] == 0 and j < len(dims) else w for j, w in enumerate(wanted) if j != k]
    total, below = product(dims), product(others)
    found = sizes.quotient(total, below) if total is not None and below is not None else None
    number = found.integer if found is not None else None
    return number if number is not None and number > 0 else None


def expand_target(node: ir.Node, state: State) -> Answer:
    """Case 3."""
    target, source = input_or_none(node, 1), node.inputs[0]
    data, dims = state.known.data(target), state.known.dims(source)
    wanted = data.numbers() if data is not None and not data.scalar else None
    if computing(target) is None or wanted is None or dims is None or source is None or len(wanted) > len(dims):
        return None
    one = sizes.number(1)
    if not all(w in (one, d) for w, d in zip(wanted[::-1], dims[::-1], strict=False)):
        return None
    chain = chain_of([target])
    return None if chain is None else replaced(node, chain, (), source, state.known)


def _rebuilt(node: ir.Node, chain: list[ir.Node], wanted: list[Size], state: State) -> Rewrite | None:
    """A shorter computation of a Reshape's target: constants around parts of the Shape of its own input."""
    source, name = node.inputs[0], node.name or ""
    dims = state.known.dims(source)
    zeros = bool(attribute(node, "allowzero", 0))
    if source is None or dims is None or zeros or state.version < 15:
        return None
    parts: list[list[int] | slice] = []
    for k, size in enumerate(wanted):
        number = 0 if k < len(dims) and dims[k] == size and size.integer is None else size.integer
        last = parts[-1] if parts else None
        if number is not None:
            if isinstance(last, list):
                last.append(number)
            else:
                parts.append([number])
        elif isinstance(last, slice) and last.stop < len(dims) and dims[last.stop] == size:
            parts[-1] = slice(last.start, last.stop + 1)
        elif size in dims:
            parts.append(slice(dims.index(size), dims.index(size) + 1))
        else:
            return None
    made: list[ir.Node] = []
    vectors: list[ir.Value] = []
    for part in parts:
        if isinstance(part, list):
            vectors.append(constant_value(f"{name}/sizes", np.array(part, np.int64)))
            continue
        attributes = [ir.AttrInt64("start", part.start), ir.AttrInt64("end", part.stop)]
        asked = ir.Node("", "Shape", [source], attributes, name=f"{name}/shape")
        asked.outputs[0].name, asked.outputs[0].type = f"{name}/shape", ir.TensorType(ir.DataType.INT64)
        made.append(asked)
        vectors.append(asked.outputs[0])
    if len(vectors) > 1:
        joined = ir.Node("", "Concat", vectors, [ir.AttrInt64("axis", 0)], name=f"{name}/target")
        joined.outputs[0].name, joined.outputs[0].type = f"{name}/target", ir.TensorType(ir.DataType.INT64)
        made.append(joined)
    if not made or len(made) >= owned(node, chain):
        return None
    new = again(node, [source, made[-1].outputs[0]])
    return replaced(node, chain, (*made, new), new.outputs[0], state.known)
