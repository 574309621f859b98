"""Questions about an ``onnx_ir`` graph that passes, profiles and reports all ask in the same words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.tensors import Array as Array
from edgeopt.tensors import plain_tensor

Dims = tuple[int | str | None, ...]

STANDARD_DOMAINS = ("", "ai.onnx")
ANNOTATION_KEY = "quant_parameter_tensor_names"  # in a value's ``meta``: its quantization annotation, role to tensor
_SHARED_LIMIT_BYTES = 65_536  # what a rewrite of one reader may store a second time


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and dimensions of a graph input or output.

    ``dims`` holds an int for a fixed dimension, a str for a symbolic one, None for an unknown one;
    it is None altogether when even the rank is unknown. ``dtype`` is None for sequences, maps and optionals.
    """

    name: str
    dtype: np.dtype[Any] | None
    dims: Dims | None

    def describe(self) -> str:
        """Text such as ``float32[N,3,224,224]``."""
        dims = "?" if self.dims is None else ",".join("?" if d is None else str(d) for d in self.dims)
        return f"{self.dtype or 'non-tensor'}[{dims}]"


def dims_of(value: ir.Value) -> Dims | None:
    """Dimensions of a value; ``dim_value`` below zero, which some exporters write for "dynamic", is unknown."""
    if value.shape is None:
        return None
    result: list[int | str | None] = []
    for dim in value.shape:
        if isinstance(dim, int):
            result.append(dim if dim >= 0 else None)
        else:
            result.append(dim.value if dim.value else None)
    return tuple(result)


def static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape as integers, or None when any dimension is not fixed."""
    dims = dims_of(value)
    if dims is None:
        return None
    fixed = tuple(d for d in dims if isinstance(d, int))
    return fixed if len(fixed) == len(dims) else None


def dtype_of(value: ir.Value) -> np.dtype[Any] | None:
    """The numpy element type of a tensor value; None for anything that is not a plain tensor."""
    if not isinstance(value.type, ir.TensorType) or value.dtype is None:
        return None
    if value.dtype in (ir.DataType.UNDEFINED, ir.DataType.STRING):
        return np.dtype(object) if value.dtype == ir.DataType.STRING else None
    return np.dtype(value.dtype.numpy())


def spec_of(value: ir.Value) -> TensorSpec:
    """The TensorSpec of a graph input or output."""
    return TensorSpec(value.name or "", dtype_of(value), dims_of(value))


def input_specs(model: ir.Model) -> list[TensorSpec]:
    """What must be fed: graph inputs without a default (an initializer of the same name)."""
    return [spec_of(v) for v in model.graph.inputs if not v.is_initializer()]


def output_specs(model: ir.Model) -> list[TensorSpec]:
    """The graph outputs in order."""
    return [spec_of(v) for v in model.graph.outputs]


_EVERYDAY = frozenset({"Conv", "BatchNormalization", "Relu", "Add", "Mul", "MatMul", "Gemm", "Concat", "Reshape"})
"""Frequent operators of the standard domain, none of which holds a body."""


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph and every subgraph (If, Loop, Scan bodies); not the bodies of local functions."""
    stack = [model.graph]
    while stack:
        graph = stack.pop()
        yield graph
        holders = [n for n in graph if n.op_type not in _EVERYDAY or n.domain]  # the others' attributes cost time
        stack += [body for node in holders if node.attributes for body in _bodies(node)][::-1]


def _bodies(node: ir.Node) -> list[ir.Graph]:
    found: list[ir.Graph] = []
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH and not attr.is_ref():
            found.append(attr.as_graph())
        elif attr.type == ir.AttributeType.GRAPHS and not attr.is_ref():
            found += attr.as_graphs()
    return found


def captured_values(node: ir.Node) -> list[ir.Value]:
    """What the node's bodies read from the graphs around them, each once, in a fixed order."""
    inside: set[ir.Value] = set()
    read: dict[ir.Value, None] = {}
    stack = _bodies(node)[::-1]
    while stack:
        body = stack.pop()
        inside.update(body.inputs, body.initializers.values())
        for inner in body:
            inside.update(inner.outputs)
            read.update(dict.fromkeys(v for v in inner.inputs if v is not None))
            stack += _bodies(inner)
        read.update(dict.fromkeys(body.outputs))
    return [v for v in read if v not in inside]


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether ``node`` is one of these operators of the standard ONNX domain."""
    return node is not None and node.op_type in op_types and node.domain in STANDARD_DOMAINS


def opset(model: ir.Model) -> int:
    """The imported version of the standard domain; 1 if there is none (models of other domains only)."""
    versions = [v for d, v in model.opset_imports.items() if d in STANDARD_DOMAINS]
    return max(versions, default=1)


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind a value that can never change, without reading its bytes; None if it can.

    An initializer that is also a graph input may be overridden by the caller, so it is no constant
    (ONNX IR specification, "Graphs", on initializers and inputs).
    """
    if value is None or value.is_graph_input():
        return None
    if value.const_value is not None and value.is_initializer():
        return value.const_value
    producer = value.producer()
    if producer is not None and is_op(producer, "Constant"):
        return _constant_node_tensor(producer)
    return None


def _constant_node_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """The value of a Constant node; None if it is sparse or refers to a function's attribute.

    (``onnx_ir.convenience.get_const_tensor`` writes the value's name into the tensor, which clones share.)
    """
    for attr in node.attributes.values():
        if attr.is_ref():
            return None
        if attr.name == "value":
            tensor: ir.TensorProtocol = attr.value
            return tensor
        if attr.name in ("value_float", "value_floats"):
            return ir.Tensor(np.array(attr.value, dtype=np.float32))
        if attr.name in ("value_int", "value_ints"):
            return ir.Tensor(np.array(attr.value, dtype=np.int64))
        if attr.name in ("value_string", "value_strings"):
            texts = [attr.as_string()] if attr.name == "value_string" else attr.as_strings()
            return ir.StringTensor(
                [t.encode() for t in texts], shape=ir.Shape([len(texts)][: attr.name == "value_strings"])
            )
    return None


def constant(value: ir.Value | None) -> Array | None:
    """The constant behind a value as an array, or None when it is not constant."""
    tensor = constant_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def constant_value(name: str, array: Array) -> ir.Value:
    """A value that holds this array, typed and shaped, not yet in any graph."""
    tensor = plain_tensor(array)
    return ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape))


def shape_value(node: ir.Node) -> Array | None:
    """What a Shape or Size of a tensor of fixed shape gives, int64 ([rank] or scalar); None for all other nodes.

    Shape's ``start`` and ``end`` exist from opset 15.
    """
    source = input_or_none(node, 0) if is_op(node, "Shape", "Size") else None
    shape = static_shape(source) if source is not None else None
    if shape is None:
        return None
    if node.op_type == "Size":
        return np.array(math.prod(shape), np.int64)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
    return np.array(shape[start:end], np.int64)


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Value of an attribute, or ``default``; the default too for references inside functions."""
    attr = node.attributes.get(name)
    return default if attr is None or attr.is_ref() else attr.value


def input_or_none(node: ir.Node, index: int) -> ir.Value | None:
    """The input at ``index``, or None when it is missing or left empty."""
    return node.inputs[index] if index < len(node.inputs) else None


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The node that alone reads this value, or None: more readers, or the value leaves its graph."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node


def stored_twice(weight: ir.Value | None) -> str | None:
    """Why one reader's weight should not be rewritten: it is large, and others still need it as it is."""
    others = len(weight.uses()) - 1 if weight is not None else 0
    tensor = constant_tensor(weight)
    if weight is not None and others and tensor is not None and tensor.nbytes > _SHARED_LIMIT_BYTES:
        return f"the weight {weight.name!r} is shared with {others} other nodes and would be stored twice"
    return None


def has_subgraph(node: ir.Node) -> bool:
    """Whether the node carries a body (If, Loop, Scan, …)."""
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(not a.is_ref() and a.type in kinds for a in node.attributes.values())


def tensor_bytes(dtype: np.dtype[Any] | None, shape: tuple[int, ...] | None) -> int | None:
    """Bytes of a dense tensor; None when dtype or shape is unknown. Sub-byte types are counted packed."""
    if dtype is None or shape is None or dtype == np.dtype(object):
        return None
    bits = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "int2": 2, "uint2": 2}.get(dtype.name, dtype.itemsize * 8)
    return (math.prod(shape) * bits + 7) // 8


def _stored(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for graph in graphs(model):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield name, value.const_value
        for node in graph:
            if is_op(node, "Constant") and (tensor := _constant_node_tensor(node)) is not None:
                yield node.outputs[0].name or "", tensor


def stored_tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every stored tensor: initializers of all graphs and the tensors of Constant nodes."""
    return (tensor for _, tensor in _stored(model))


def weight_tensors(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The same by name; of equal names in different bodies, the last."""
    return dict(_stored(model))


def op_histogram(model: ir.Model) -> dict[str, int]:
    """Node count by operator (``domain::Op`` outside the standard domain), all graphs, sorted by name."""
    counts: dict[str, int] = {}
    for graph in graphs(model):
        for node in graph:
            key = node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}::{node.op_type}"
            counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items()))


class Names:
    """Hands out names that no value or node of the model uses yet; the same sequence on every run."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set()
        for graph in graphs(model):
            for value in graph.inputs:
                self._taken.add(value.name or "")
            self._taken.update(graph.initializers)
            for node in graph:
                self._taken.add(node.name or "")
                self._taken.update(v.name or "" for v in node.outputs)

    def fresh(self, base: str) -> str:
        """``base`` itself if free, else ``base_1``, ``base_2``, …"""
        name, k = base, 0
        while name in self._taken or not name:
            k += 1
            name = f"{base}_{k}"
        self._taken.add(name)
        return name


def shapes_with(dims: Dims, assumed: Mapping[str, int], default: int = 1) -> tuple[int, ...]:
    """Dimensions with each symbol replaced: by ``assumed`` where it is named there, else by ``default``."""
    return tuple(d if isinstance(d, int) else assumed.get(d or "", default) for d in dims)
