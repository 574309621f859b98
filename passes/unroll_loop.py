"""Write out a Loop or Scan that runs a small, fixed number of times.

1. Loop: the number of trips is a constant; the condition is left out or constant true, and the body hands it on or
   sets it to true. Each trip is a copy of the body's nodes; what it carries goes from one copy to the next, and its
   scan outputs are put together by Unsqueeze and Concat
2. Loop of no trips, or whose condition is constant false: what it carries is handed through; the scan outputs are
   empty
3. Scan over axes of fixed length: each trip reads its slice by Gather

Runtimes run a body as a graph of its own, without fusing into it, and other rules see one trip only. All trips
together may have at most ``MOST_NODES`` nodes; the node count of the file grows. Weights of the body are not copied.

Kept: the number of trips or the condition is computed (4), too many nodes (5), random operators in the body, so that
nothing can be compared (6), no trips and a scan output of unknown size (7), Scan of opset 8, which is batched (8).
Exact: the same nodes on the same values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import (
    attribute,
    constant,
    constant_value,
    dims_of,
    dtype_of,
    input_or_none,
    is_op,
    opset,
    static_shape,
)
from edgeopt.ops import is_random
from edgeopt.passes.copies import Copier, node_count, rewrite
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

MOST_NODES = 64


@dataclass(frozen=True)
class _Scans:
    """Axes and directions of a Scan."""

    input_axes: list[int]
    output_axes: list[int]
    input_backwards: list[bool]
    output_backwards: list[bool]


class UnrollLoop:
    """The rule (see the module's docstring)."""

    name = "unroll_loop"
    ops = frozenset({"Loop", "Scan"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: Unsqueeze takes its axes as an input from 13 on."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Unroll the loop."""
        body = attribute(node, "body") if is_op(node, "Loop", "Scan") else None
        if body is None:
            return None
        answer = _loop_trips(node, body) if node.op_type == "Loop" else _scan_trips(node, body, state)
        if isinstance(answer, str):
            return Skip(node.name or "", answer)
        carried = len(body.inputs) - (2 if node.op_type == "Loop" else attribute(node, "num_scan_inputs"))
        collected = len(node.outputs) - carried
        size = answer * (node_count(body) + collected)
        if node.op_type == "Scan":
            size += answer * attribute(node, "num_scan_inputs")
        if size > MOST_NODES:
            return Skip(node.name or "", f"{answer} trips would be {size} nodes, more than {MOST_NODES}")
        if any(is_random(inner) for inner in body.all_nodes()):
            return Skip(node.name or "", "its body holds random or unknown operators, so nothing can be compared")
        if answer == 0 and any(_empty_shape(v) is None for v in node.outputs[carried:]):
            return Skip(node.name or "", "it makes no trip, and the size of what it collects is not known")
        return _unrolled(node, body, answer, carried, state)


def _loop_trips(node: ir.Node, body: ir.Graph) -> int | str:
    """Cases 1, 2 and 4."""
    given = input_or_none(node, 1)
    condition = constant(given)
    if given is not None and (condition is None or condition.size != 1):
        return "its condition is computed"
    if condition is not None and not condition.reshape(-1)[0]:
        return 0
    limit = constant(input_or_none(node, 0))
    if limit is None or limit.size != 1:
        return "the number of its trips is computed"
    trips = max(int(limit.reshape(-1)[0]), 0)
    return trips if trips == 0 or _stays_true(body) else "its body may end it early"


def _stays_true(body: ir.Graph) -> bool:
    value: ir.Value | None = body.outputs[0]
    while value is not None and value is not body.inputs[1]:
        known = constant(value)
        if known is not None:
            return known.size == 1 and bool(known.reshape(-1)[0])
        producer = value.producer()
        value = input_or_none(producer, 0) if producer is not None and is_op(producer, "Identity") else None
    return value is not None


def _scan_trips(node: ir.Node, body: ir.Graph, version: int) -> int | str:
    """Cases 3, 4 and 8."""
    if version < 9:
        return "Scan of opset 8 runs over a batch"
    scans = _scans(node, body)
    first = len(node.inputs) - len(scans.input_axes)
    lengths = set()
    for value, axis in zip(node.inputs[first:], scans.input_axes, strict=True):
        dims = dims_of(value) if value is not None else None
        lengths.add(dims[axis] if dims is not None and -len(dims) <= axis < len(dims) else None)
    length = lengths.pop() if len(lengths) == 1 else None
    return length if isinstance(length, int) and length > 0 else "the number of its trips is computed"


def _scans(node: ir.Node, body: ir.Graph) -> _Scans:
    inputs = attribute(node, "num_scan_inputs")
    outputs = len(body.outputs) - (len(body.inputs) - inputs)
    return _Scans(
        list(attribute(node, "scan_input_axes", [0] * inputs)),
        list(attribute(node, "scan_output_axes", [0] * outputs)),
        [bool(d) for d in attribute(node, "scan_input_directions", [0] * inputs)],
        [bool(d) for d in attribute(node, "scan_output_directions", [0] * outputs)],
    )


def _empty_shape(value: ir.Value) -> list[int] | None:
    """Shape of what no trip collects: [0, …]."""
    dims = dims_of(value)
    rest = [d for d in dims[1:] if isinstance(d, int)] if dims else []
    return [0, *rest] if dims and len(rest) == len(dims) - 1 and dtype_of(value) is not None else None


def _unrolled(node: ir.Node, body: ir.Graph, trips: int, carried: int, version: int) -> Rewrite:
    loop = node.op_type == "Loop"
    scans = _scans(node, body) if not loop else None
    state = list(node.inputs[2 : 2 + carried] if loop else node.inputs[:carried])
    collected: list[list[ir.Value]] = [[] for _ in node.outputs[carried:]]
    true = constant_value(f"{node.name}/condition", np.array(True))
    copier = Copier(prefix=f"{node.name}/")
    copier.initializers(body)
    skipped = 1 if loop else 0
    for trip in range(trips):
        prefix = f"{node.name}/{trip}/"
        if loop:
            index = constant_value(f"{prefix}trip", np.array(trip, np.int64))
            _give(copier, body.inputs[0], index, f"{prefix}trip")
            _give(copier, body.inputs[1], true, f"{prefix}condition")
        copier.values.update(zip(body.inputs[2:] if loop else body.inputs, state, strict=False))
        if scans is not None:
            for k, target in enumerate(body.inputs[carried:]):
                at = trips - 1 - trip if scans.input_backwards[k] else trip
                source = node.inputs[carried + k]
                taken = _gather(source, at, scans.input_axes[k], target, f"{prefix}{target.name}")
                copier.nodes.append(taken)
                copier.values[target] = taken.outputs[0]
        copier.copy(body, prefix)
        results = [copier.value(v) for v in body.outputs[skipped:]]
        state = list(results[:carried])
        for k, value in enumerate(results[carried : carried + len(collected)]):
            collected[k].append(value)
    made, results = copier.nodes, [v for v in state if v is not None]
    for k, parts in enumerate(collected):
        axis = scans.output_axes[k] if scans is not None else 0
        if scans is not None and scans.output_backwards[k]:
            parts = parts[::-1]
        results.append(_stacked(node, node.outputs[carried + k], parts, axis, version, made))
    return rewrite(node, made, results)


def _give(copier: Copier, target: ir.Value, value: ir.Value, name: str) -> None:
    """A constant for a body's input: by a node of its own where only bodies further inside read it."""
    readers = {use.node.graph is target.graph for use in target.uses()}
    if readers == {False} or target.is_graph_output():
        assert value.const_value is not None
        attr = ir.Attr("value", ir.AttributeType.TENSOR, value.const_value)
        holder = ir.Node("", "Constant", [], [attr], name=name)
        holder.outputs[0].name, holder.outputs[0].type, holder.outputs[0].shape = name, value.type, value.shape
        copier.nodes.append(holder)
        value = holder.outputs[0]
    copier.values[target] = value


def _gather(source: ir.Value | None, index: int, axis: int, target: ir.Value, name: str) -> ir.Node:
    at = constant_value(f"{name}/index", np.array(index, np.int64))
    new = ir.Node("", "Gather", [source, at], [ir.AttrInt64("axis", axis)], name=name)
    new.outputs[0].name, new.outputs[0].type, new.outputs[0].shape = name, target.type, target.shape
    return new


def _stacked(
    node: ir.Node, output: ir.Value, parts: Sequence[ir.Value], axis: int, version: int, made: list[ir.Node]
) -> ir.Value:
    """The values of all trips along a new axis."""
    name = f"{node.name}/{output.name}"
    if not parts:
        dtype, shape = dtype_of(output), _empty_shape(output)
        assert dtype is not None  # both seen before
        assert shape is not None
        return constant_value(name, np.zeros(shape, dtype))
    pieces: list[ir.Value] = []
    axes = constant_value(f"{name}/axes", np.array([axis], np.int64))
    for k, part in enumerate(parts):
        if version >= 13:
            piece = ir.Node("", "Unsqueeze", [part, axes], name=f"{name}/{k}")
        else:
            piece = ir.Node("", "Unsqueeze", [part], [ir.AttrInt64s("axes", [axis])], name=f"{name}/{k}")
        piece.outputs[0].name = f"{name}/{k}"
        piece.outputs[0].type = output.type
        made.append(piece)
        pieces.append(piece.outputs[0])
    joined = ir.Node("", "Concat", pieces, [ir.AttrInt64("axis", axis)], name=name)
    joined.outputs[0].name, joined.outputs[0].type = output.name, output.type
    if static_shape(output) is not None:
        joined.outputs[0].shape = output.shape
    made.append(joined)
    return joined.outputs[0]
