"""Follow a supposed rank of one value to its readers, to see whether the model can run with it.

``possible`` is False where a node that runs whenever the value is computed takes no tensor of the rank that follows:
LSTM, GRU and RNN want an X of rank 3, Conv and ConvTranspose one of the rank of their weights, Gemm at most matrices.

The rank is followed through Identity, element-wise operators of one operand, Squeeze and Unsqueeze by constant axes;
through Shape, Size, comparisons and Not, as numbers; and into the branch of an If whose condition is then known.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_ir as ir

from edgeopt.graph import attribute, captured_values, constant, constant_tensor, has_subgraph, input_or_none, is_op
from edgeopt.passes.layout_axes import axes_of
from edgeopt.passes.layout_ops import UNARY

_MOST_NODES = 200
_COMPARED: dict[str, Callable[[int, int], bool]] = {
    "Equal": operator.eq,
    "Greater": operator.gt,
    "Less": operator.lt,
    "GreaterOrEqual": operator.ge,
    "LessOrEqual": operator.le,
}
_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class Fact:
    """What is known of a value: its rank, its one element, or (of a shape) its length."""

    rank: int | None = None
    number: int | None = None
    length: int | None = None


class _Impossible(Exception):
    """A node takes no tensor of this rank."""


def needed(graph: ir.Graph) -> set[ir.Node]:
    """The graph's own nodes that its outputs hang on: these run whenever the graph does."""
    found: set[ir.Node] = set()
    stack = [v.producer() for v in graph.outputs]
    while stack:
        node = stack.pop()
        if node is None or node in found or node.graph is not graph:
            continue
        found.add(node)
        read = [*node.inputs, *captured_values(node)] if has_subgraph(node) else node.inputs
        stack += [v.producer() for v in read if v is not None]
    return found


def possible(value: ir.Value, rank: int, running: Collection[ir.Node]) -> bool:
    """Whether all these nodes that read the value could take it with this rank."""
    facts = {value: Fact(rank)}
    queue = deque(value.consumers())
    seen = 0
    try:
        while queue and seen < _MOST_NODES:
            node = queue.popleft()
            if node not in running:
                continue
            seen += 1
            for output in _learn(node, facts):
                queue += output.consumers()
    except _Impossible:
        return False
    return True


def _learn(node: ir.Node, facts: dict[ir.Value, Fact]) -> list[ir.Value]:
    """Take up what follows for the node's outputs; those of which more is known now."""
    if is_op(node, "If"):
        found = _through_if(node, facts)
    else:
        fact = _fact(node, facts)
        found = {node.outputs[0]: fact} if fact is not None else {}
    new = [value for value, fact in found.items() if facts.get(value) != fact]
    facts.update(found)
    return new


def _number(value: ir.Value | None, facts: dict[ir.Value, Fact]) -> int | None:
    array = constant(value)
    if array is not None:
        return int(array.reshape(-1)[0]) if array.size == 1 and array.dtype.kind in "iub" else None
    return facts[value].number if value is not None and value in facts else None


def _rank(value: ir.Value | None, facts: dict[ir.Value, Fact]) -> int | None:
    return facts[value].rank if value is not None and value in facts else None


def _fact(node: ir.Node, facts: dict[ir.Value, Fact]) -> Fact | None:
    first = input_or_none(node, 0)
    rank = _rank(first, facts)
    _check(node, facts)
    if is_op(node, "Not"):
        number = _number(first, facts)
        return None if number is None else Fact(number=1 - number)
    if is_op(node, "Size"):
        length = facts[first].length if first is not None and first in facts else None
        return None if length is None else Fact(number=length)
    if is_op(node, *_COMPARED):
        a, b = (_number(v, facts) for v in node.inputs)
        return None if a is None or b is None else Fact(number=int(_COMPARED[node.op_type](a, b)))
    if rank is None:
        return None
    if is_op(node, "Shape"):
        whole = attribute(node, "start", 0) == 0 and attribute(node, "end") is None
        return Fact(rank=1, length=rank) if whole else None
    if is_op(node, "Squeeze", "Unsqueeze"):
        axes = axes_of(node, 1, rank if node.op_type == "Squeeze" else _MOST_NODES)
        if axes is None:
            return None
        return Fact(rank=rank - len(axes) if node.op_type == "Squeeze" else rank + len(axes))
    return Fact(rank=rank) if is_op(node, *UNARY) else None


def _check(node: ir.Node, facts: dict[ir.Value, Fact]) -> None:
    taken: Collection[int] | None = None
    read = node.inputs[:1]
    if is_op(node, *_RECURRENT):
        taken = (3,)
    elif is_op(node, "Conv", "ConvTranspose"):
        weight = constant_tensor(node.inputs[1])
        taken = (len(weight.shape),) if weight is not None else None
    elif is_op(node, "Gemm"):
        taken, read = (1, 2), node.inputs[:2]  # onnxruntime takes a vector for a matrix
    if taken is not None and any((rank := _rank(v, facts)) is not None and rank not in taken for v in read):
        raise _Impossible


def _through_if(node: ir.Node, facts: dict[ir.Value, Fact]) -> dict[ir.Value, Fact]:
    condition = _number(node.inputs[0], facts)
    if condition is None:
        return {}
    branch = attribute(node, "then_branch" if condition else "else_branch")
    if branch is None or len(branch) > _MOST_NODES:
        return {}
    running = needed(branch)
    for inner in branch:
        if inner in running:
            _learn(inner, facts)
    pairs = zip(node.outputs, branch.outputs, strict=True)
    return {outer: facts[inner] for outer, inner in pairs if inner in facts}
