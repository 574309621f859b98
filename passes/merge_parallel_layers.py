"""Merge layers of one input into one wider layer.

    [W1 x + b1; W2 x + b2; …] = [W1; W2; …] x + [b1; b2; …]

The same products in one pass over x. Layers are Conv of one group, Gemm and MatMul with constant weights and equal
attributes. What follows each of them in the same way goes along: the Add of a constant to a MatMul, activations of
single elements.

1. layers that feed neighbouring inputs of one Concat along their outputs' channels: the wide result takes their place
2. three or more Gemm or MatMul of a single row: a Split of the wide result takes their place
3. ``splits=True``: any two or more layers, by a Split

A Split copies its input. Measured on onnxruntime 1.31 (x86, one thread; separate layers → wide one): into a Concat 1 to
7 % faster (1×1 Conv of 32 to 480 channels, 7×7 to 56×56); with a Split, Conv 1 to 8 % and MatMul of 16 to 512 rows 0 to
7 % slower, of one row 0 to 4 % faster if three or more. So case 3 only pays where calls are dear, and is left to
targets.

Not merged: a weight is not constant or a Conv has groups (4), something between layer and Concat is read elsewhere or
is an output (5), a bias of a Gemm is not one number per column (6), large weights that others share (7), the axis or
the rank is unknown (8).
Exact: no sum changes, but for the order in which a runtime adds. It never makes two of one layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import (
    Array,
    attribute,
    constant,
    constant_tensor,
    constant_value,
    dims_of,
    graphs,
    input_or_none,
    is_op,
    only_consumer,
    opset,
)
from edgeopt.passes.affine_paths import rank_of
from edgeopt.passes.channelwise import UNARY
from edgeopt.passes.convolutions import pads_of, weights_shared
from edgeopt.rewrite import Answer, Pays, Rewrite, Skip

_LAYERS = ("Conv", "Gemm", "MatMul")
_ACTIVATIONS = tuple(sorted(UNARY - {"Identity", "Dropout"}))
_SINGLE_ROW_LAYERS = 3
_MOST_STEPS = 4


@dataclass(frozen=True)
class _State:
    version: int
    place: dict[ir.Node, int]


@dataclass(frozen=True)
class _Branch:
    """A layer and what follows it, in order; the last output is the branch's."""

    layer: ir.Node
    steps: tuple[ir.Node, ...]

    @property
    def end(self) -> ir.Node:
        return self.steps[-1] if self.steps else self.layer


class MergeParallelLayers:
    """The rule (see the module's docstring).

    Args:
        splits: Case 3 too.
    """

    name = "merge_parallel_layers"
    ops = frozenset({"Concat", *_LAYERS})
    pays = Pays(False, "fewer calls of wider layers; but a Split, where one is needed, copies")

    def __init__(self, *, splits: bool = False) -> None:
        self._splits = splits

    def prepare(self, model: ir.Model) -> _State:
        """The opset, and the order of the nodes: a Split must come before all who read its parts."""
        return _State(opset(model), {n: k for k, n in enumerate(n for g in graphs(model) for n in g)})

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Merge the layers that this Concat joins, or this layer and its siblings."""
        return _joined(node) if is_op(node, "Concat") else self._siblings(node, state)

    def _siblings(self, node: ir.Node, state: _State) -> Answer:
        """Cases 2 and 3."""
        source = input_or_none(node, 0) if is_op(node, *_LAYERS) else None
        if source is None or len(source.uses()) < 2:
            return None
        if sum(u.idx == 0 and u.node.op_type == node.op_type for u in source.uses()) < 2:
            return None
        key = _layer_key(node)
        if key is None:
            return None
        layers = [
            u.node for u in source.uses() if u.idx == 0 and u.node.graph is node.graph and u.node in state.place
            and is_op(u.node, node.op_type) and _layer_key(u.node) == key
        ]  # fmt: skip
        layers.sort(key=state.place.__getitem__)
        if len(layers) < 2 or layers[0] is not node:
            return None
        if not self._splits and (len(layers) < _SINGLE_ROW_LAYERS or not _single_row(node)):
            return None
        dims = dims_of(source)
        if dims is None:
            return Skip(node.name or "", "the rank of its input is unknown")
        branches = [_followed(layer) for layer in layers]
        common = 0
        while all(len(b.steps) > common for b in branches) and (
            len({_step_key(b.steps[common]) for b in branches}) == 1
        ):
            common += 1
        branches = [_Branch(b.layer, b.steps[:common]) for b in branches]
        if any(b.end not in state.place for b in branches):
            return None
        reason = weights_shared(*layers)
        if reason is not None:
            return Skip(node.name or "", reason)
        nodes = _wide(branches)
        axis = 1 if is_op(node, "Conv") else len(dims) - 1
        split, pairs = _split(branches, nodes[-1].outputs[0], axis, state.version)
        first = sorted((b.end for b in branches), key=state.place.__getitem__)
        inner = [n for b in branches for n in (b.layer, *b.steps)[:-1][::-1]]
        return Rewrite((*first, *inner), (*nodes, split), pairs)


def _joined(node: ir.Node) -> Answer:
    """Case 1: the first run of neighbouring inputs that are such layers of one input."""
    rank = next((r for v in (node.outputs[0], *node.inputs) if (r := rank_of(v)) is not None), None)
    if rank is None:
        return None
    axis = attribute(node, "axis", 1) % rank
    branches = [_traced(value, node) for value in node.inputs]
    for start, first in enumerate(branches):
        if first is None or axis != (1 if is_op(first.layer, "Conv") else rank - 1):
            continue
        key, stop = _branch_key(first), start + 1
        while key is not None and stop < len(branches):
            other = branches[stop]
            if other is None or other.layer.inputs[0] is not first.layer.inputs[0] or _branch_key(other) != key:
                break
            stop += 1
        run = [b for b in branches[start:stop] if b is not None]
        if len(run) < 2:
            continue
        reason = weights_shared(*(b.layer for b in run))
        if reason is not None:
            return Skip(node.name or "", reason)
        return _in_place(node, start, run)
    return None


def _in_place(node: ir.Node, start: int, run: Sequence[_Branch]) -> Rewrite:
    new = _wide(run)
    output = node.outputs[0]
    values = [*node.inputs[:start], new[-1].outputs[0], *node.inputs[start + len(run) :]]
    old = [n for b in run for n in (b.layer, *b.steps)[::-1]]
    if len(values) == 1:
        last = new[-1].outputs[0]
        last.name, last.type, last.shape = output.name, output.type, output.shape
        return Rewrite((node, *old), tuple(new), ((output, last),))
    joint = ir.Node(
        "",
        "Concat",
        inputs=values,
        attributes=node.attributes.values(),
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape)],
        name=node.name,
    )
    return Rewrite((node, *old), (*new, joint), ((output, joint.outputs[0]),))


def _traced(value: ir.Value | None, reader: ir.Node) -> _Branch | None:
    """The branch that ends in this value, which nothing but ``reader`` reads; None if it is no such layer."""
    steps: list[ir.Node] = []
    while value is not None and len(steps) <= _MOST_STEPS:
        node = value.producer()
        if node is None or node.graph is not reader.graph or only_consumer(value) is None:
            return None
        if is_op(node, *_LAYERS):
            return _Branch(node, tuple(steps[::-1])) if _layer_key(node) is not None else None
        if _step_key(node) is None:
            return None
        steps.append(node)
        value = node.inputs[_main_input(node)]
    return None


def _followed(layer: ir.Node) -> _Branch:
    """The layer and the steps behind it, as far as each is the only reader."""
    steps: list[ir.Node] = []
    while len(steps) < _MOST_STEPS:
        value = steps[-1].outputs[0] if steps else layer.outputs[0]
        node = only_consumer(value)
        if node is None or node.graph is not layer.graph or _step_key(node) is None:
            break
        if node.inputs[_main_input(node)] is not value or (is_op(node, "Add") and not _bias_of(node, layer, steps)):
            break
        steps.append(node)
    return _Branch(layer, tuple(steps))


def _main_input(node: ir.Node) -> int:
    """The input that is no constant."""
    return 1 if is_op(node, "Add") and constant_tensor(node.inputs[0]) is not None else 0


def _bias_of(node: ir.Node, layer: ir.Node, steps: Sequence[ir.Node]) -> bool:
    """Whether this Add gives a MatMul, directly before it, one number per column."""
    tensor = constant_tensor(node.inputs[1 - _main_input(node)])
    weight = constant_tensor(input_or_none(layer, 1))
    if steps or not is_op(layer, "MatMul") or tensor is None or weight is None:
        return False
    return not attribute(node, "broadcast", 0) and tuple(tensor.shape.numpy()) == (weight.shape.numpy()[1],)


def _step_key(node: ir.Node) -> tuple[Any, ...] | None:
    """Equal for steps that do the same to each column, apart from the numbers of an Add; None for no such step."""
    if is_op(node, "Add"):
        return ("Add",)
    if not is_op(node, *_ACTIVATIONS) or len(node.outputs) != 1:
        return None
    bounds: list[Any] = []
    for value in node.inputs[1:]:
        array = constant(value)
        if value is not None and (array is None or array.size != 1):
            return None
        bounds.append(None if array is None else (array.dtype.str, array.tobytes()))
    return node.op_type, *_attributes(node), *bounds


def _attributes(node: ir.Node) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, repr(a.value)) for name, a in node.attributes.items()))


def _branch_key(branch: _Branch) -> tuple[Any, ...] | None:
    steps = branch.steps
    if any(is_op(s, "Add") and not _bias_of(s, branch.layer, steps[:k]) for k, s in enumerate(steps)):
        return None
    key = _layer_key(branch.layer)
    return None if key is None else (key, *(_step_key(s) for s in steps))


def _layer_key(node: ir.Node) -> tuple[Any, ...] | None:
    """Equal for layers that can be one, if they read the same; None if it can be part of none (cases 4 and 6)."""
    tensor = constant_tensor(input_or_none(node, 1))
    if tensor is None or node.inputs[0] is None or constant_tensor(node.inputs[0]) is not None:
        return None
    shape = tuple(tensor.shape.numpy())
    if 0 in shape:
        return None
    dtype = tensor.dtype
    if is_op(node, "MatMul"):
        return ("MatMul", dtype, shape[0]) if len(shape) == 2 else None
    given = input_or_none(node, 2)
    bias = constant_tensor(given)
    if given is not None and bias is None:
        return None
    if is_op(node, "Gemm"):
        turned = attribute(node, "transB", 0)
        wide = shape[0] if turned else shape[1]
        if bias is not None and tuple(bias.shape.numpy()) not in ((wide,), (1, wide)):
            return None
        factors = [attribute(node, name, default) for name, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))]
        return ("Gemm", dtype, turned, bias is None, *factors)
    if attribute(node, "group", 1) != 1 or len(shape) < 3:
        return None
    ones = [1] * (len(shape) - 2)
    strides, dilations = (tuple(attribute(node, name, ones)) for name in ("strides", "dilations"))
    pads = pads_of(node, shape[2:], strides, dilations)
    if isinstance(pads, str):
        pads = attribute(node, "auto_pad")
    return ("Conv", dtype, shape[1:], strides, dilations, pads)


def _single_row(node: ir.Node) -> bool:
    dims = dims_of(node.inputs[0]) if is_op(node, "Gemm", "MatMul") and node.inputs[0] is not None else None
    if not dims:
        return False
    return all(d == 1 for d in (dims[1:] if attribute(node, "transA", 0) else dims[:-1]))


def _columns(node: ir.Node) -> int:
    """The layer's output channels."""
    tensor = constant_tensor(node.inputs[1])
    assert tensor is not None  # checked by _layer_key
    last = is_op(node, "MatMul") or (is_op(node, "Gemm") and not attribute(node, "transB", 0))
    return int(tensor.shape.numpy()[1 if last else 0])


def _array(value: ir.Value | None) -> Array:
    array = constant(value)
    assert array is not None  # checked by _layer_key and _bias_of
    return array


def _wide(branches: Sequence[_Branch]) -> list[ir.Node]:
    """The wide layer and the steps behind it."""
    first, layers = branches[0], [b.layer for b in branches]
    layer = first.layer
    name = layer.name or layer.op_type
    rows = is_op(layer, "Conv") or bool(is_op(layer, "Gemm") and attribute(layer, "transB", 0))
    weight = np.concatenate([_array(n.inputs[1]) for n in layers], axis=0 if rows else 1)
    inputs: list[ir.Value | None] = [layer.inputs[0], constant_value(f"{name}/weight", np.ascontiguousarray(weight))]
    if any(input_or_none(n, 2) is not None for n in layers):
        biases = [
            _array(n.inputs[2]).reshape(-1) if input_or_none(n, 2) is not None else np.zeros(_columns(n), weight.dtype)
            for n in layers
        ]
        inputs.append(constant_value(f"{name}/bias", np.concatenate(biases)))
    nodes = [_node(layer, inputs)]
    for k, step in enumerate(first.steps):
        given = list(step.inputs)
        main = _main_input(step)
        given[main] = nodes[-1].outputs[0]
        if is_op(step, "Add"):
            numbers = [_array(b.steps[k].inputs[1 - _main_input(b.steps[k])]) for b in branches]
            given[1 - main] = constant_value(f"{step.name or name}/bias", np.concatenate(numbers))
        nodes.append(_node(step, given))
    return nodes


def _node(model: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Node:
    """The same operator on other inputs; its dims are inferred."""
    return ir.Node(
        "",
        model.op_type,
        inputs=inputs,
        attributes=model.attributes.values(),
        outputs=[ir.Value(name=model.outputs[0].name, type=model.outputs[0].type)],
        name=model.name,
    )


def _split(
    branches: Sequence[_Branch], wide: ir.Value, axis: int, version: int
) -> tuple[ir.Node, tuple[tuple[ir.Value, ir.Value], ...]]:
    """The Split (its sizes are an input from opset 13 on), and old and new values."""
    sizes = [_columns(b.layer) for b in branches]
    name = f"{branches[0].layer.name or branches[0].layer.op_type}/split"
    old = [b.end.outputs[0] for b in branches]
    new = [ir.Value(name=v.name, type=v.type, shape=v.shape) for v in old]
    attributes: list[ir.Attr] = [ir.AttrInt64("axis", axis)]
    inputs: list[ir.Value | None] = [wide]
    if version >= 13:
        inputs.append(constant_value(f"{name}/sizes", np.array(sizes, np.int64)))
    else:
        attributes.append(ir.AttrInt64s("split", sizes))
    split = ir.Node("", "Split", inputs=inputs, attributes=attributes, outputs=new, name=name)
    return split, tuple(zip(old, new, strict=True))
