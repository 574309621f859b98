"""Reading a group of nodes as a formula: what the passes that recognize operators share.

Formulas are read backwards from their last node (the root): ``factors`` sees through products, ``affine`` through
``a · x + b``, ``bounds`` through clips. Each looks only through values that have one reader, so that what is
read through can go. ``inner_nodes`` then closes the match: everything between the leaves and the root, if nobody
else needs it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir

from edgeopt.graph import attribute, constant, constant_tensor, dims_of, dtype_of, input_or_none, is_op, only_consumer

_MOST_NODES = 24  # of one operator's formula
_MOST_FACTORS = 6
_TOLERANCE = {"float32": 1e-6, "float16": 1e-3, "float64": 1e-12}  # of a constant, relative


@dataclass(frozen=True)
class Found:
    """An operator that computes what the matched nodes do.

    Attributes:
        op: Operator type.
        inputs: Its inputs; those that are computed are the leaves of the match.
        attributes: Its attributes.
        times_input: The formula is the operator's result times its first input.
    """

    op: str
    inputs: tuple[ir.Value, ...]
    attributes: Sequence[ir.Attr] = field(default_factory=tuple)
    times_input: bool = False


def dtype_name(value: ir.Value) -> str:
    """Such as ``float32``; empty where it is unknown."""
    dtype = dtype_of(value)
    return dtype.name if dtype is not None else ""


@cache
def introduced(op: str) -> int:
    """The opset that brought this operator of the standard domain; a number beyond all opsets if none did."""
    found = [s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.domain == "" and s.name == op]
    return min(found, default=10_000)


def producer(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node that computes the value, if it is one of these."""
    node = value.producer() if value is not None else None
    return node if is_op(node, *ops) else None


def scalar(value: ir.Value | None) -> float | None:
    """The constant behind a value of one element, of whatever rank; None if it is none."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.size != 1 or not tensor.dtype.is_floating_point():
        return None
    return float(np.asarray(tensor.numpy()).astype(np.float64).reshape(()))


def near(found: float | None, wanted: float, dtype: str) -> bool:
    """Whether a constant is this number, as exactly as its type can say it."""
    return found is not None and abs(found - wanted) <= _TOLERANCE.get(dtype, 0.0) * abs(wanted)


def split_scalar(node: ir.Node | None) -> tuple[ir.Value, float] | None:
    """Operand and scalar constant of a binary node, in either order."""
    if node is None or len(node.inputs) != 2:
        return None
    a, b = node.inputs
    if a is None or b is None:
        return None
    if (number := scalar(b)) is not None:
        return a, number
    if (number := scalar(a)) is not None:
        return b, number
    return None


def factors(node: ir.Node) -> tuple[float, list[ir.Value]]:
    """A product as its constant and its other factors, in order; ``node`` is the last Mul, or Div by a scalar."""
    number, others, stack = 1.0, list[ir.Value](), [node]
    while stack:
        current = stack.pop()
        divides = current.op_type == "Div"
        operands = list(current.inputs)
        divisor = scalar(operands[1]) if divides else None
        if divides and divisor:
            number /= divisor
            operands = operands[:1]
        elif divides:
            return number, [current.outputs[0], *others]
        for value in operands:
            if value is None:
                continue
            inner = producer(value, "Mul", "Div")
            if (k := scalar(value)) is not None:
                number *= k
            elif (
                inner is not None
                and (inner.op_type == "Mul" or scalar(inner.inputs[1]))
                and only_consumer(value) is not None
                and len(others) + len(stack) < _MOST_FACTORS
            ):
                stack.append(inner)
            else:
                others.append(value)
    return number, others


def affine(value: ir.Value) -> Iterator[tuple[float, float, ir.Value]]:
    """``value = scale · source + offset``: first itself, then seen through one scalar Add, Sub, Mul or Div more each.

    The value that it starts from may have any number of readers.
    """
    scale, offset, source = 1.0, 0.0, value
    yield scale, offset, source
    for _ in range(3):
        node = producer(source, "Add", "Sub", "Mul", "Div")
        parts = split_scalar(node)
        if node is None or parts is None or (source is not value and only_consumer(source) is None):
            return
        inner, number = parts
        left = node.inputs[0] is inner
        if node.op_type == "Add":
            offset += scale * number
        elif node.op_type == "Sub":
            offset += scale * (-number if left else number)
            scale = scale if left else -scale
        elif node.op_type == "Mul":
            scale *= number
        elif left and number:
            scale /= number
        else:
            return
        source = inner
        yield scale, offset, source


def bounds(value: ir.Value, opset: int) -> tuple[float, float, ir.Value] | None:
    """``value = min(max(source, low), high)``, from Clip, Relu and Min or Max with a scalar; None if it is none.

    Only the value itself may have several readers.
    """
    low, high, source = -math.inf, math.inf, value
    while source is value or only_consumer(source) is not None:
        step = _bound(source, opset)
        if step is None:
            break
        a, b, source = step
        low, high = min(max(a, low), high), min(max(b, low), high)
    return (low, high, source) if source is not value else None


def _bound(value: ir.Value, opset: int) -> tuple[float, float, ir.Value] | None:
    node = value.producer()
    if node is None or not node.inputs or node.inputs[0] is None:
        return None
    if is_op(node, "Relu"):
        return 0.0, math.inf, node.inputs[0]
    if is_op(node, "Min", "Max"):
        parts = split_scalar(node)
        if parts is None:
            return None
        return (-math.inf, parts[1], parts[0]) if node.op_type == "Min" else (parts[1], math.inf, parts[0])
    if not is_op(node, "Clip"):
        return None
    if opset < 11:
        low, high = attribute(node, "min", -math.inf), attribute(node, "max", math.inf)
        return (float(low), float(high), node.inputs[0]) if low <= high else None
    ends = [input_or_none(node, 1), input_or_none(node, 2)]
    found = [scalar(e) if e is not None else d for e, d in zip(ends, (-math.inf, math.inf), strict=True)]
    if found[0] is None or found[1] is None or not found[0] <= found[1]:
        return None
    return found[0], found[1], node.inputs[0]


def reduced(node: ir.Node | None, op: str) -> tuple[ir.Value, tuple[int, ...]] | None:
    """Source and axes (sorted, from 0) of a reduction that keeps its axes; None for others and unknown ranks."""
    if node is None or not is_op(node, op) or node.inputs[0] is None or not attribute(node, "keepdims", 1):
        return None
    axes = reduced_axes(node)
    return None if axes is None else (node.inputs[0], axes)


def reduced_axes(node: ir.Node) -> tuple[int, ...] | None:
    """Axes of a reduction, sorted and from 0; None if they are not constant, or the rank is unknown."""
    dims = dims_of(node.inputs[0]) if node.inputs[0] is not None else None
    given = input_or_none(node, 1)
    stored = constant(given) if given is not None else attribute(node, "axes")
    if dims is None or (given is not None and stored is None):
        return None
    rank = len(dims)
    if stored is None or len(stored) == 0:
        return () if attribute(node, "noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({int(a) % rank for a in stored})) if rank else None


def inner_nodes(root: ir.Node, leaves: Collection[ir.Value]) -> list[ir.Node] | None:
    """All nodes between the leaves and the root, the root first, readers before producers; None if they cannot go.

    They can go if each lies in the root's graph and nobody outside of the match reads it, if no output of the
    graph is among them, and if no constant has a higher rank than the root's output, which it might have raised.

    Args:
        root: The node whose output the formula computes.
        leaves: Values that the new operator reads.
    """
    finished: dict[ir.Node, None] = {}
    entered: set[ir.Node] = set()
    highest = 0
    stack: list[tuple[ir.Node, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            finished[node] = None
            continue
        if node in entered:
            continue
        if node.graph is not root.graph or len(node.outputs) != 1 or len(entered) >= _MOST_NODES:
            return None
        entered.add(node)
        stack.append((node, True))
        for value in node.inputs:
            if value is None or any(value is leaf for leaf in leaves):
                continue
            tensor = constant_tensor(value)
            maker = value.producer()
            if tensor is not None:
                highest = max(highest, len(tensor.shape))
            elif maker is None:
                return None
            else:
                stack.append((maker, False))
    nodes = list(finished)[::-1]
    for node in nodes[1:]:
        output = node.outputs[0]
        if output.is_graph_output() or any(use.node not in entered for use in output.uses()):
            return None
    ranks = [len(d) for leaf in leaves if (d := dims_of(leaf)) is not None]
    return nodes if highest <= max(ranks, default=0) else None


def new_node(
    op: str,
    inputs: Sequence[ir.Value | None],
    like: ir.Value | None = None,
    *,
    name: str | None = None,
    attributes: Sequence[ir.Attr] = (),
) -> ir.Node:
    """A node of one output, which takes name, type and dims of ``like``."""
    if like is not None:
        output = ir.Value(name=like.name, type=like.type, shape=like.shape.copy() if like.shape is not None else None)
    else:
        output = ir.Value()
    return ir.Node("", op, inputs=list(inputs), attributes=list(attributes), outputs=[output], name=name)
