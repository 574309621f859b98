"""A copy of a model in which every dimension that can be known is a number, for counting and planning.

Open input dimensions are assumed (``Assumption``), then ONNX's shape inference runs. Where it stops at shapes
that the graph itself calculates (Shape → Gather → Concat → Reshape and their like), those small integer nodes
are evaluated with ONNX's reference implementation and inference runs again, until nothing new is found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes

from edgeopt.graph import (
    Array,
    constant_tensor,
    constant_value,
    dims_of,
    graphs,
    is_op,
    opset,
    shape_value,
    static_shape,
)
from edgeopt.shapes import infer

BATCH = 1
SPATIAL = 96
SEQUENCE = 128
CHANNELS = 3

_MAX_ELEMENTS = 1024  # a shape, a padding or a permutation is small; anything larger is data
_MAX_ROUNDS = 64  # each round resolves at least one more calculated shape
_SHAPE_ARITHMETIC = frozenset(
    [
        "Abs",
        "Add",
        "And",
        "Cast",
        "Ceil",
        "Concat",
        "ConstantOfShape",
        "Div",
        "Equal",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Not",
        "Or",
        "Range",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Reshape",
        "Slice",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)


@dataclass(frozen=True)
class Resolved:
    """The copy and what had to be assumed for it.

    Attributes:
        model: A clone with local functions inlined, never meant to be saved or run; the model itself where nothing
            is open. Only to be read.
        assumed_dims: Symbol (or ``input[axis]`` for a dimension without a name) to the size it was given.
    """

    model: ir.Model
    assumed_dims: dict[str, int]


def resolve(model: ir.Model, assumed: Mapping[str, int] | None = None) -> Resolved:
    """Fix every dimension that can be fixed, in a clone.

    Args:
        model: Not changed.
        assumed: Sizes by symbol or by ``input[axis]``. What it leaves open gets the default: axis 0, and every
            symbol that is somewhere at axis 0, is a batch (1); in inputs of rank 4 and more the others are
            spatial (96), but for an open axis 1 beside an open last axis, which is taken for channels (3);
            in inputs of lower rank they are sequence lengths (128).
    """
    if sizes_of_symbols(model) == {}:
        return Resolved(model, {})
    clone = model.clone()
    if clone.functions:
        clone = ir_passes.InlinePass()(clone).model
    values = _assume(clone, dict(assumed or {}))
    symbols = {k: v for k, v in values.items() if not k.endswith("]")}
    for value in clone.graph.inputs:
        if (dims := dims_of(value)) is not None:
            sizes = [values[_key(value, i, d)] if not isinstance(d, int) else d for i, d in enumerate(dims)]
            value.shape = ir.Shape(sizes)
    for value in _inner_values(clone):
        if (dims := dims_of(value)) is not None and not all(isinstance(d, int) for d in dims):
            known = [symbols.get(d or "", d) if not isinstance(d, int) else d for d in dims]
            value.shape = ir.Shape(known) if all(isinstance(d, int) for d in known) else None
    if any(static_shape(v) is None or v.type is None for v in _inner_values(clone)):
        infer(clone, outputs=True)
    for _ in range(_MAX_ROUNDS):
        if all(static_shape(v) is not None for v in _inner_values(clone)) or not _evaluate_shapes(clone):
            break
        _take_known_branches(clone)
        for value in _inner_values(clone):
            if static_shape(value) is None:
                value.shape = None  # an unknown of the last round would otherwise be kept as it is
        infer(clone, outputs=True)
    return Resolved(clone, values)


def sizes_of_symbols(model: ir.Model, assumed: Mapping[str, int] | None = None) -> dict[str, int] | None:
    """The sizes that ``resolve`` would assume, if every dim of the model is a number or has one of them; else None."""
    if model.functions:
        return None
    sizes = _assume(model, dict(assumed or {}))
    for value in _all_values(model):
        dims = dims_of(value)
        if dims is None or value.type is None or not all(isinstance(d, int) or d in sizes for d in dims):
            return None
    return sizes


def dims_of_feed(model: ir.Model, feed: Mapping[str, Array]) -> dict[str, int]:
    """The sizes that a feed gives to the open dimensions, as ``assumed`` of ``resolve``."""
    return {
        _key(value, axis, dim): feed[value.name or ""].shape[axis]
        for value in model.graph.inputs
        if value.name in feed and (dims := dims_of(value)) is not None
        for axis, dim in enumerate(dims)
        if not isinstance(dim, int) and axis < feed[value.name or ""].ndim
    }


def _key(value: ir.Value, axis: int, dim: str | None) -> str:
    return dim or f"{value.name}[{axis}]"


def _assume(model: ir.Model, given: dict[str, int]) -> dict[str, int]:
    open_dims = [
        (_key(v, axis, dim), axis, dims)
        for v in model.graph.inputs
        if (dims := dims_of(v)) is not None
        for axis, dim in enumerate(dims)
        if not isinstance(dim, int)
    ]
    batches = {key for key, axis, _ in open_dims if axis == 0}
    result: dict[str, int] = {}
    for key, axis, dims in open_dims:
        if key in given:
            result[key] = given[key]
        elif key in batches:
            result[key] = BATCH
        elif len(dims) >= 4:
            channels = axis == 1 and not isinstance(dims[-1], int)
            result.setdefault(key, CHANNELS if channels else SPATIAL)
        else:
            result.setdefault(key, SEQUENCE)
    return result


def _all_values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    yield from _inner_values(model)


def _inner_values(model: ir.Model) -> Iterator[ir.Value]:
    """Every value that a node computes and that some node or graph reads."""
    for graph in graphs(model):
        for node in graph:
            yield from (v for v in node.outputs if v.uses() or v.is_graph_output())


def _evaluate_shapes(model: ir.Model) -> bool:
    """Make constants of the shape arithmetic whose inputs are known; False if there is none left."""
    version = opset(model)
    known: dict[ir.Value, Array] = {}
    for graph in graphs(model):
        for node in graph:
            if is_op(node, "Constant") or not any(v.uses() for v in node.outputs):
                continue
            known.update(_evaluate(node, known, version))
    for value, array in known.items():
        for number, (consumer, index) in enumerate(list(value.uses())):
            # a constant in the very graph of its reader: inference does not look at outer values
            owner = consumer.graph
            if owner is None:
                continue
            constant = constant_value(f"{value.name}/known/{number}", array)
            if isinstance(owner, ir.Graph) and constant.name not in owner.initializers:
                owner.register_initializer(constant)
                consumer.replace_input_with(index, constant)
    return bool(known)


def _take_known_branches(model: ir.Model) -> None:
    """Replace each If whose condition became known by the nodes of the branch that runs."""
    for graph in list(graphs(model)):
        for node in list(graph):
            condition = constant_tensor(node.inputs[0]) if is_op(node, "If") and len(node.inputs) == 1 else None
            if condition is None or condition.size != 1:
                continue
            branch = node.attributes["then_branch" if condition.numpy().item() else "else_branch"].as_graph()
            for value in list(branch.initializers.values()):
                branch.initializers.pop(value.name or "")
                if value.name not in graph.initializers:
                    graph.register_initializer(value)
            inner, results = list(branch), list(branch.outputs)
            branch.outputs.clear()
            branch.remove(inner)
            graph.insert_before(node, inner)
            ir.convenience.replace_all_uses_with(node.outputs, results, replace_graph_outputs=True)
            graph.remove(node, safe=True)
    ir_passes.NameFixPass()(model)


def _evaluate(node: ir.Node, known: Mapping[ir.Value, Array], version: int) -> dict[ir.Value, Array]:
    if (shape := shape_value(node)) is not None:
        return {node.outputs[0]: shape}
    if not is_op(node, *_SHAPE_ARITHMETIC):
        return {}
    feed: dict[str, Array] = {}
    arrays: list[Array] = []  # one for each input; one value may be several inputs
    for value in node.inputs:
        if value is None:
            continue
        array = known.get(value)
        if array is None:
            tensor = constant_tensor(value)
            if tensor is None or tensor.size > _MAX_ELEMENTS or tensor.dtype == ir.DataType.STRING:
                return {}
            array = np.asarray(tensor.numpy())
        feed[value.name or ""] = array
        arrays.append(array)
    try:
        if not feed or _too_large(node, arrays):
            return {}
        outputs = _run(node, feed, version)
    except Exception:  # noqa: BLE001 -- an invalid node, or one that the reference cannot do, stays unknown
        return {}
    pairs = zip(node.outputs, outputs, strict=False)
    return {v: np.asarray(a) for v, a in pairs if np.asarray(a).dtype != object and np.size(a) <= _MAX_ELEMENTS}


def _too_large(node: ir.Node, arrays: list[Array]) -> bool:
    """Whether the result would be data rather than a shape: its size is checked before it is allocated."""
    if is_op(node, "ConstantOfShape"):
        return math.prod(int(d) for d in arrays[0].flat) > _MAX_ELEMENTS
    if is_op(node, "Expand", "Tile") and len(arrays) > 1:
        return arrays[0].size * math.prod(max(1, int(d)) for d in arrays[1].flat) > _MAX_ELEMENTS
    if is_op(node, "Range"):
        return arrays[2] == 0 or bool((arrays[1] - arrays[0]) / arrays[2] > _MAX_ELEMENTS)
    return False


def _run(node: ir.Node, feed: Mapping[str, Array], version: int) -> list[Array]:
    proto = ir.to_proto(node)
    proto.name = ""
    graph = onnx.GraphProto(name="shape")
    graph.node.append(proto)
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in feed)
    graph.output.extend(onnx.ValueInfoProto(name=v.name or "") for v in node.outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
    return list(onnx.reference.ReferenceEvaluator(model).run(None, dict(feed)))
