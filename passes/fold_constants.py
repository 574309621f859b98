"""Compute what depends on constants only, once and for all.

1. A node of the standard domain whose inputs are all constant is replaced by its value, computed by onnxruntime.
2. Shape and Size of a tensor of fixed shape are constants too.

Not folded: random operators (3), nodes with bodies (4), DequantizeLinear, which holds int8 weights in place (5; a
QuantizeLinear of a stored weight is folded, and leaves them), results larger than the constants they replace, where
they exceed ``BUDGET_BYTES`` or together make the file grow by more than 1 % and 1 KiB in a round: Expand, Tile or
ConstantOfShape would blow it up (6), results that are no tensors (7).
A folded graph output is kept as a Constant node: an initializer cannot be a graph output in every runtime (8).
"""

from __future__ import annotations

import contextlib
import graphlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.graph import (
    STANDARD_DOMAINS,
    Array,
    constant_tensor,
    dtype_of,
    graphs,
    has_subgraph,
    is_op,
    shape_value,
    static_shape,
    tensor_bytes,
    weight_tensors,
)
from edgeopt.ops import is_random
from edgeopt.rewrite import EVERYWHERE, NOTHING, Answer, Rewrite, Skip
from edgeopt.runtime import Level, Session, as_array
from edgeopt.shapes import infer

BUDGET_BYTES = 1024  # one result may be larger by this much
_GROWTH_BYTES, _GROWTH_SHARE = 1024, 0.01  # all of them together, in one round: the sum of both
_CEILING_BYTES = 64_000_000  # a result larger than this is not even computed: a hostile Expand
_ROUND_BYTES = 512_000_000  # results held at a time; what is left waits for the next round
_UNKNOWN_INPUT_BYTES = 65_536  # inputs from which a result of unknown size is computed all the same
_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_KEPT = ("Constant", "DequantizeLinear")
_SIZED_BY_VALUES = {  # their result may be of any size, whatever that of their inputs
    *("ConstantOfShape", "Expand", "Tile", "Range", "Resize", "Upsample", "Pad", "CenterCropPad", "OneHot", "Einsum"),
    *("MaxUnpool", "Col2Im", "AffineGrid", "RoiAlign", "STFT", "DFT", "MelWeightMatrix"),
    *("HannWindow", "HammingWindow", "BlackmanWindow", "StringSplit", "ImageDecoder"),
}


@dataclass
class _Constants:
    """What ``prepare`` found: values of nodes that depend on constants only, and why some were not computed."""

    model: ir.Model
    values: dict[ir.Value, Array] = field(default_factory=dict)
    skips: dict[ir.Node, str] = field(default_factory=dict)
    late: set[ir.Node] = field(default_factory=set)
    growth_left: int = _GROWTH_BYTES


def _foldable(node: ir.Node, known: Collection[ir.Value]) -> bool:
    """Cases 1 to 5 but for the budget."""
    measured = node.op_type in ("Shape", "Size")
    used = [] if measured else [v for v in node.inputs if v is not None]
    if not measured and not (used and all(v in known or constant_tensor(v) is not None for v in used)):
        return False  # first, as it is so for most nodes
    if node.domain not in STANDARD_DOMAINS or node.op_type in _KEPT or has_subgraph(node) or not node.outputs:
        return False
    if is_random(node) or any(a.is_ref() for a in node.attributes.values()):
        return False
    return not measured or shape_value(node) is not None


def _evaluate(nodes: Sequence[ir.Node], model: ir.Model, values: dict[ir.Value, Array]) -> None:
    """Add to ``values`` what these nodes compute, in one onnxruntime session.

    Args:
        nodes: In topological order; they depend on constants and on ``values`` only.
        model: Lends its opset imports and IR version.
        values: Of nodes evaluated before.

    Raises:
        ModelError: onnxruntime cannot run one of them.
    """
    graph = onnx.GraphProto(name="fold")
    names: dict[ir.Value, str] = {}
    for node in nodes:
        if (shape := shape_value(node)) is not None:
            values[node.outputs[0]] = shape
            continue
        for value in node.inputs:
            if value is not None and value not in names:
                names[value] = f"c{len(names)}"
                graph.initializer.append(_message(value, values, names[value]))
        for value in node.outputs:
            names[value] = f"c{len(names)}"
        message = ir.serde.serialize_node(node)
        del message.input[:], message.output[:]
        message.input.extend(names[v] if v is not None else "" for v in node.inputs)
        message.output.extend(names[v] if v.name else "" for v in node.outputs)
        graph.node.append(message)
        graph.output.extend(onnx.ValueInfoProto(name=names[v]) for v in node.outputs if v.name)
    if not graph.node:
        return
    proto_model = onnx.ModelProto(ir_version=max(model.ir_version, 4), graph=graph)
    for domain, version in model.opset_imports.items():
        proto_model.opset_import.add(domain=domain, version=version)
    session = Session(proto_model.SerializeToString(), Level.NONE)
    found = session.run({}, [o.name for o in session.ort.get_outputs() if "float8" not in o.type])  # come as uint8
    for value, name in names.items():
        if name in found and (array := as_array(found[name])) is not None:
            values[value] = array


def _rounded_late(order: Sequence[ir.Node]) -> set[ir.Node]:
    """Nodes of 16-bit floats, and what depends on them.

    In a chain of them, onnxruntime rounds only at the end. So each is computed when it is its turn, from the constants
    that are then in its place.
    """
    found: set[ir.Node] = set()
    for node in order:
        if _is_half(node) or any(v is not None and v.producer() in found for v in node.inputs):
            found.add(node)
    return found


def _is_half(node: ir.Node) -> bool:
    return any(v is not None and v.dtype in _HALF for v in (*node.inputs, *node.outputs))


def _message(value: ir.Value, values: Mapping[ir.Value, Array], name: str) -> onnx.TensorProto:
    tensor = constant_tensor(value)
    if tensor is None:
        if value not in values:  # a sequence, say
            raise ModelError(f"{value.name!r} is not constant")
        return onnx.numpy_helper.from_array(values[value], name)
    inside = ir.Tensor(tensor.numpy(), dtype=tensor.dtype) if isinstance(tensor, ir.ExternalTensor) else tensor
    proto = ir.serde.serialize_tensor(inside)
    proto.name = name
    return proto


def _bytes(value: ir.Value) -> int | None:
    """Bytes of a constant or of a value of fixed shape; None if unknown (sequences and strings too)."""
    tensor = constant_tensor(value)
    return tensor.nbytes if tensor is not None else tensor_bytes(dtype_of(value), static_shape(value))


def _result_bytes(node: ir.Node) -> int | str:
    """Bytes that the node's results take at most, or why they are not computed."""
    sizes = [_bytes(v) for v in node.outputs if v.name]
    if None not in sizes:
        size = sum(s for s in sizes if s is not None)
        return size if size <= _CEILING_BYTES else f"its value would have {size} bytes"
    inputs = [_bytes(v) for v in node.inputs if v is not None]
    given = sum(s if s is not None else _UNKNOWN_INPUT_BYTES + 1 for s in inputs)
    if node.op_type in _SIZED_BY_VALUES or given > _UNKNOWN_INPUT_BYTES:
        return "the size of its value is not known beforehand"
    return _UNKNOWN_INPUT_BYTES


class FoldConstants:
    """The rule (see the module's docstring)."""

    name = "fold_constants"
    ops = None
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> Any:
        """Find the constant part of each graph and compute it, all of it in one onnxruntime session if it fits."""
        state = _Constants(model)
        order, state.skips = _plan(model)
        if state.skips:  # what was folded in the last round may tell the sizes now
            infer(model)
            order, state.skips = _plan(model)
        if not order and not state.skips:
            return NOTHING
        state.growth_left += int(_GROWTH_SHARE * sum(t.nbytes for t in weight_tensors(model).values()))
        state.late = _rounded_late(order)
        order = [n for n in order if n not in state.late]
        try:
            _evaluate(order, model, state.values)
        except ModelError:  # one node that cannot run must not keep the others from folding
            for node in order:
                with contextlib.suppress(ModelError):
                    _evaluate([node], model, state.values)
        return state

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up: dead_code drops what is no longer read."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Replace the node by its value."""
        outputs = [v for v in node.outputs if v.uses() or v.is_graph_output()]
        if outputs and node in state.skips:
            return Skip(node.name or "", state.skips[node])
        ancestors: list[ir.Node] = []
        if outputs and node in state.late:
            ancestors = _unfolded_ancestors(node)
            with contextlib.suppress(ModelError):
                _evaluate([*ancestors[::-1], node], state.model, state.values)
        if not outputs or not all(v in state.values for v in outputs):
            return None
        ancestors = ancestors or _unfolded_ancestors(node)
        size = sum(int(state.values[v].nbytes) for v in outputs)
        growth = size - _replaced_bytes(node)
        if growth > 0 and (size > BUDGET_BYTES or growth > state.growth_left):
            return Skip(
                node.name or "", f"its value has {size} bytes, {growth} more than the constants it would replace"
            )
        state.growth_left -= max(growth, 0)
        replacement: list[ir.Node] = []
        pairs: list[tuple[ir.Value, ir.Value]] = []
        for value in outputs:
            tensor = ir.serde.deserialize_tensor(onnx.numpy_helper.from_array(state.values[value], value.name))
            new = ir.Value(name=value.name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape)  # type: ignore[arg-type]
            if value.is_graph_output():
                constant_node = ir.Node(
                    "",
                    "Constant",
                    [],
                    [ir.Attr("value", ir.AttributeType.TENSOR, tensor)],
                    outputs=[ir.Value(name=value.name, type=value.type, shape=value.shape)],
                    name=node.name,
                )
                replacement.append(constant_node)
                new = constant_node.outputs[0]
            pairs.append((value, new))
        return Rewrite((node, *ancestors), tuple(replacement), tuple(pairs))


def _plan(model: ir.Model) -> tuple[list[ir.Node], dict[ir.Node, str]]:
    """The nodes to compute, in topological order, and those that are too large to."""
    known: set[ir.Value] = set()
    order: list[ir.Node] = []
    skips: dict[ir.Node, str] = {}
    total = 0
    for graph in graphs(model):
        for node in graph:
            if not _foldable(node, known):
                continue
            size = _result_bytes(node)
            if isinstance(size, str):
                skips[node] = size
                continue
            size += sum(t.nbytes for v in node.inputs if (t := constant_tensor(v)) is not None)
            if total + size <= _ROUND_BYTES:
                order.append(node)
                known.update(node.outputs)
                total += size
    return order, skips


def _unfolded_ancestors(node: ir.Node) -> list[ir.Node]:
    """Nodes that compute the node's inputs and were left in place for their size; readers before producers."""
    if shape_value(node) is not None:
        return []
    sorter: graphlib.TopologicalSorter[ir.Node] = graphlib.TopologicalSorter()
    stack, seen = [node], {node}
    while stack:
        current = stack.pop()
        if current is not node and shape_value(current) is not None:
            continue
        producers = [p for v in current.inputs if v is not None and (p := v.producer()) is not None]
        above = [p for p in dict.fromkeys(producers) if not is_op(p, "Constant")]
        sorter.add(current, *above)
        stack += [p for p in above if p not in seen]
        seen.update(above)
    return list(sorter.static_order())[-2::-1]


def _replaced_bytes(node: ir.Node) -> int:
    """Bytes of the constants that only this node reads, through however many other constant nodes."""
    total, stack, seen = 0, [v for v in node.inputs if v is not None], set()
    while stack:
        value = stack.pop()
        if value in seen or len(value.uses()) > 1 or value.is_graph_output():
            continue
        seen.add(value)
        if (tensor := constant_tensor(value)) is not None:
            total += tensor.nbytes
        elif (producer := value.producer()) is not None and not has_subgraph(producer):
            stack += [v for v in producer.inputs if v is not None]
    return total
