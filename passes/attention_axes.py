"""Write attention over a single sample without the axis of the batch.

    x [1, T, h d] → Reshape [1, T, h, d] → Transpose to [1, h, T, d]        three of them: q, k, v
    Softmax(q k' …) v [1, h, T, d] → Transpose to [1, T, h, d] → Reshape

The axis of size 1 goes: Reshape to [T, h, d], Transpose to [h, T, d], the same products over three axes. Nothing else
changes, and no node is added. Runtimes that take a Transpose into the matrix product beside it can do so for three axes
where they cannot for four: onnxruntime 1.31 (x86, one thread) needs 7 to 12 % less for blocks of 32 to 64 tokens and
64 to 128 columns, projections included.

1. q, k and v by Reshape and Transpose each; k's Transpose gives the columns for q k' at once
2. factors and divisors of one element anywhere between
3. another number of tokens for k and v than for q

Not rewritten: a batch that is not known to be 1 (4), other permutations (5), a mask or anything else in between, for
which runtimes have fused operators of their own (6), an inner value that is read elsewhere or is an output (7), a
Softmax over another axis (8).
Exact: the same numbers are multiplied and added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant_tensor, constant_value, is_op, only_consumer, static_shape
from edgeopt.rewrite import Answer, Pays, Rewrite

_HEADS_FIRST, _COLUMNS = (0, 2, 1, 3), (0, 2, 3, 1)
_MOST_STEPS = 8


@dataclass(frozen=True)
class _Chain:
    """Nodes that take one value on to the next, the last one first, and the value that the chain begins with."""

    nodes: tuple[ir.Node, ...]
    source: ir.Value


class AttentionAxes:
    """The rule (see the module's docstring)."""

    name = "attention_axes"
    ops = frozenset({"Reshape"})
    pays = Pays(False, "matrix products take Transposes of three axes in; a runtime may have fused attention over four")

    def prepare(self, model: ir.Model) -> Any:
        """Nothing to know beforehand."""
        return None

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Rewrite the attention whose result this Reshape joins."""
        result, moved = static_shape(node.outputs[0]), _before(node, node)
        if result is None or 0 in result or not _transposes(moved, _HEADS_FIRST):
            return None
        assert moved is not None  # it transposes
        mixing = _before(moved, node)
        if mixing is None or not is_op(mixing, "MatMul"):
            return None
        scores = _steps(mixing.inputs[0], mixing, softmax=True)
        scoring = scores.source.producer() if scores is not None else None
        if scores is None or scoring is None or not is_op(scoring, "MatMul") or scoring.graph is not node.graph:
            return None
        if only_consumer(scores.source) is None or not any(is_op(n, "Softmax") for n in scores.nodes):
            return None
        parts = [
            _part(scoring.inputs[0], scoring, _HEADS_FIRST),
            _part(scoring.inputs[1], scoring, _COLUMNS),
            _part(mixing.inputs[1], mixing, _HEADS_FIRST),
        ]
        q, k, v = parts
        if q is None or k is None or v is None:
            return None
        made: list[ir.Node] = []
        product = _copy(scoring, [_rebuilt(q, made), _rebuilt(k, made)], made)
        mixed = _copy(mixing, [_followed(scores, product, made), _rebuilt(v, made)], made)
        back = _copy(moved, [mixed], made, [ir.AttrInt64s("perm", [1, 0, 2])])
        output = node.outputs[0]
        last = ir.Value(name=output.name, type=output.type, shape=output.shape)
        made.append(_reshape(node, back, result, last))
        old = (node, moved, mixing, *v.nodes, *scores.nodes, scoring, *k.nodes, *q.nodes)
        return Rewrite(old, tuple(made), ((output, last),))


def _before(node: ir.Node, reader: ir.Node) -> ir.Node | None:
    """What makes the node's first input, if nothing else reads that."""
    value = node.inputs[0]
    producer = value.producer() if value is not None else None
    if value is None or producer is None or producer.graph is not reader.graph or only_consumer(value) is not node:
        return None
    return producer


def _transposes(node: ir.Node | None, perm: tuple[int, ...]) -> bool:
    return node is not None and is_op(node, "Transpose") and tuple(attribute(node, "perm", ())) == perm


def _scales(node: ir.Node) -> int | None:
    """The input that a factor or divisor of one element scales; None if the node does nothing of the kind."""
    if not is_op(node, "Mul", "Div") or attribute(node, "broadcast", 0):
        return None
    for main in (0, 1) if is_op(node, "Mul") else (0,):
        tensor = constant_tensor(node.inputs[1 - main])
        if tensor is not None and tensor.size == 1 and len(tensor.shape) <= 1 and node.inputs[main] is not None:
            return main
    return None


def _steps(value: ir.Value | None, reader: ir.Node, *, softmax: bool = False) -> _Chain | None:
    """Cases 2 and 8: what scales between; with ``softmax`` a Softmax over the last axis too."""
    nodes: list[ir.Node] = []
    while value is not None and len(nodes) < _MOST_STEPS:
        node = value.producer()
        if node is None or node.graph is not reader.graph or only_consumer(value) is None:
            return _Chain(tuple(nodes), value)
        main = _scales(node)
        if main is None and softmax and is_op(node, "Softmax") and attribute(node, "axis", None) in (3, -1):
            main = 0
        if main is None:
            return _Chain(tuple(nodes), value)
        nodes.append(node)
        value = node.inputs[main]
    return None


def _part(value: ir.Value | None, reader: ir.Node, perm: tuple[int, ...]) -> _Chain | None:
    """Scales, a Transpose, scales and a Reshape to four axes, the first of size 1."""
    behind = _steps(value, reader)
    moved = behind.source.producer() if behind is not None else None
    if behind is None or moved is None or not _transposes(moved, perm) or moved.graph is not reader.graph:
        return None
    before = _steps(moved.inputs[0], moved) if only_consumer(behind.source) is not None else None
    split = before.source.producer() if before is not None else None
    if before is None or split is None or not is_op(split, "Reshape") or split.graph is not reader.graph:
        return None
    shape, source = static_shape(split.outputs[0]), split.inputs[0]
    if source is None or shape is None or len(shape) != 4 or shape[0] != 1 or 0 in shape:
        return None
    if only_consumer(before.source) is None:
        return None
    return _Chain((*behind.nodes, moved, *before.nodes, split), source)


def _rebuilt(part: _Chain, made: list[ir.Node]) -> ir.Value:
    """The part over three axes."""
    split = part.nodes[-1]
    shape = static_shape(split.outputs[0])
    assert shape is not None  # _part has seen it
    made.append(_reshape(split, part.source, shape[1:], ir.Value(name=split.outputs[0].name, type=part.source.type)))
    return _followed(_Chain(part.nodes[:-1], part.source), made[-1].outputs[0], made)


def _followed(chain: _Chain, value: ir.Value, made: list[ir.Node]) -> ir.Value:
    """What the chain makes of this value, over three axes."""
    for node in reversed(chain.nodes):
        attributes: list[ir.Attr] = []
        inputs: list[ir.Value | None] = [value]
        if is_op(node, "Transpose"):
            attributes = [ir.AttrInt64s("perm", [p - 1 for p in attribute(node, "perm", ())[1:]])]
        elif is_op(node, "Softmax"):
            attributes = [ir.AttrInt64("axis", 2)]
        else:
            main = _scales(node)
            assert main is not None  # _steps has seen it
            inputs = list(node.inputs)
            inputs[main] = value
        value = _copy(node, inputs, made, attributes)
    return value


def _copy(
    node: ir.Node, inputs: list[ir.Value] | list[ir.Value | None], made: list[ir.Node], attributes: Any = ()
) -> ir.Value:
    """The same operator on other inputs; its dims are inferred."""
    output = ir.Value(name=node.outputs[0].name, type=node.outputs[0].type)
    made.append(ir.Node("", node.op_type, inputs, attributes, outputs=[output], name=node.name))
    return output


def _reshape(node: ir.Node, value: ir.Value, shape: tuple[int, ...], output: ir.Value) -> ir.Node:
    sizes = constant_value(f"{node.name or 'Reshape'}/shape", np.array(shape, np.int64))
    return ir.Node("", "Reshape", [value, sizes], outputs=[output], name=node.name)
