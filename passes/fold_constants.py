"""Compute what depends on constants only, once and for all.

1. A node of the standard domain whose inputs are all constant is replaced by its value, computed by onnxruntime.
2. Shape and Size of a tensor of fixed shape are constants too.

Not folded: random operators (3), nodes with bodies (4), QuantizeLinear and DequantizeLinear, which hold int8
weights in place (5), results larger than ``BUDGET_BYTES`` that are also larger than the constants they replace:
Expand, Tile or ConstantOfShape would blow up the file (6), results that are no tensors (7).
A folded graph output is kept as a Constant node: an initializer cannot be a graph output in every runtime (8).
"""

from __future__ import annotations

from typing import Any

import numpy as np
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
    static_shape,
    tensor_bytes,
)
from edgeopt.ops import is_random
from edgeopt.rewrite import Answer, Rewrite, Skip
from edgeopt.runtime import Level, Session, as_array

BUDGET_BYTES = 1024
_CEILING_BYTES = 64_000_000  # not even computed: the result of a hostile Expand
_KEPT = ("Constant", "QuantizeLinear", "DequantizeLinear")


def _foldable(node: ir.Node, known: set[ir.Value]) -> bool:
    """Cases 1 to 5 but for the budget."""
    if node.domain not in STANDARD_DOMAINS or node.op_type in _KEPT or has_subgraph(node) or not node.outputs:
        return False
    if is_random(node) or any(a.is_ref() for a in node.attributes.values()):
        return False
    if node.op_type in ("Shape", "Size"):
        return node.inputs[0] is not None and static_shape(node.inputs[0]) is not None
    used = [v for v in node.inputs if v is not None]
    return bool(used) and all(v in known or constant_tensor(v) is not None for v in used)


def _shape_value(node: ir.Node) -> Array | None:
    """Case 2, int64; Shape's start and end count from opset 15."""
    if not is_op(node, "Shape", "Size") or node.inputs[0] is None:
        return None
    shape = static_shape(node.inputs[0])
    if shape is None:
        return None
    if node.op_type == "Size":
        return np.array(np.prod(shape, dtype=np.int64), dtype=np.int64)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
    return np.array(shape, dtype=np.int64)[slice(start, end)]


def _evaluate(nodes: list[ir.Node], model: ir.Model) -> dict[ir.Value, Array]:
    """Values of all outputs of these nodes, which are in topological order and depend on constants only."""
    graph = onnx.GraphProto(name="fold")
    names: dict[ir.Value, str] = {}
    values: dict[ir.Value, Array] = {}
    for node in nodes:
        shape = _shape_value(node)
        for value in node.inputs if shape is None else ():
            if value is not None and value not in names:
                tensor = constant_tensor(value)
                if tensor is None:
                    raise ModelError(f"{value.name!r} is not constant")
                names[value] = f"c{len(names)}"
                proto = ir.serde.serialize_tensor(ir.Tensor(tensor.numpy(), dtype=tensor.dtype))
                proto.name = names[value]
                graph.initializer.append(proto)
        for value in node.outputs:
            names[value] = f"c{len(names)}"
        if shape is not None:
            values[node.outputs[0]] = shape
            proto = onnx.numpy_helper.from_array(shape, names[node.outputs[0]])
            graph.initializer.append(proto)
            continue
        message = ir.serde.serialize_node(node)
        del message.input[:], message.output[:]
        message.input.extend(names[v] if v is not None else "" for v in node.inputs)
        message.output.extend(names[v] if v.name else "" for v in node.outputs)
        graph.node.append(message)
        graph.output.extend(onnx.ValueInfoProto(name=names[v]) for v in node.outputs if v.name)
    if not graph.node:
        return values
    proto_model = onnx.ModelProto(ir_version=max(model.ir_version, 4), graph=graph)
    for domain, version in model.opset_imports.items():
        proto_model.opset_import.add(domain=domain, version=version)
    found = Session(proto_model.SerializeToString(), Level.NONE).run({})
    for value, name in names.items():
        if name in found and (array := as_array(found[name])) is not None:
            values[value] = array
    return values


def _too_large(node: ir.Node) -> bool:
    """Whether an output is known to exceed what may be computed at all."""
    sizes = [tensor_bytes(dtype_of(v), static_shape(v)) for v in node.outputs]
    return sum(s for s in sizes if s is not None) > _CEILING_BYTES


class FoldConstants:
    """The rule (see the module's docstring)."""

    name = "fold_constants"
    ops = None

    def prepare(self, model: ir.Model) -> dict[ir.Value, Array]:
        """Find the constant part of each graph and compute it in one onnxruntime session."""
        known: set[ir.Value] = set()
        order: list[ir.Node] = []
        for graph in graphs(model):
            for node in graph:
                if _foldable(node, known) and not _too_large(node):
                    order.append(node)
                    known.update(node.outputs)
        if not order:
            return {}
        try:
            return _evaluate(order, model)
        except ModelError:  # one node that cannot run must not keep the others from folding
            values: dict[ir.Value, Array] = {}
            for node in order:
                if (
                    all(v is None or constant_tensor(v) is not None for v in node.inputs)
                    or _shape_value(node) is not None
                ):
                    try:
                        values |= _evaluate([node], model)
                    except ModelError:
                        continue
            return values

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up: dead_code drops what is no longer read."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Replace the node by its value."""
        outputs = [v for v in node.outputs if v.uses() or v.is_graph_output()]
        if not outputs or not all(v in state for v in outputs):
            return None
        size = sum(int(state[v].nbytes) for v in outputs)
        if size > BUDGET_BYTES and size > _replaced_bytes(node):
            return Skip(node.name or "", f"its value has {size} bytes, more than the constants it would replace")
        replacement: list[ir.Node] = []
        pairs: list[tuple[ir.Value, ir.Value]] = []
        for value in outputs:
            tensor = ir.tensor(state[value], name=value.name)
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
        return Rewrite((node,), tuple(replacement), tuple(pairs))


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
