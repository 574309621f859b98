"""Checks on the raw ONNX message, before anything trusts it: external files, tensor sizes, names, sparse parts."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from edgeopt.errors import ExternalDataError, ModelError

_TYPED_FIELDS: dict[
    int, tuple[str, int]
] = {  # where the values are when they are not in raw_data (onnx.proto, TensorProto), values per element
    TensorProto.FLOAT: ("float_data", 1),
    TensorProto.COMPLEX64: ("float_data", 2),
    TensorProto.DOUBLE: ("double_data", 1),
    TensorProto.COMPLEX128: ("double_data", 2),
    TensorProto.INT64: ("int64_data", 1),
    TensorProto.UINT64: ("uint64_data", 1),
    TensorProto.UINT32: ("uint64_data", 1),
    TensorProto.STRING: ("string_data", 1),
}  # all other types: int32_data, one value per element, or per byte of packed sub-byte elements
_DENSE_LIMIT_BYTES = 256_000_000


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph held by an attribute below it."""
    yield graph
    yield from _graphs_in(graph.node)


def _graphs_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from all_graphs(attribute.g)
            for inner in attribute.graphs:
                yield from all_graphs(inner)


def _every_node(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for graph in all_graphs(proto.graph):
        yield from graph.node
    for function in proto.functions:
        yield from function.node
        for graph in _graphs_in(function.node):
            yield from graph.node


def rename_bodies(node: onnx.NodeProto, new_name: Callable[[str], str]) -> None:
    """Give each value that the node's bodies mention another name, in place; stated types of inner values go."""
    for attribute in node.attribute:
        bodies = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
        for body in bodies:
            del body.value_info[:], body.quantization_annotation[:]
            for value in (*body.input, *body.output):
                value.name = new_name(value.name)
            for tensor in body.initializer:
                tensor.name = new_name(tensor.name)
            for inner in body.node:
                for names in (inner.input, inner.output):
                    names[:] = [new_name(n) if n else "" for n in names]
                rename_bodies(inner, new_name)


def every_tensor(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """Each stored tensor, parts of sparse ones too: initializers and attribute values, in all graphs and functions."""
    roots = [proto.graph, *(g for f in proto.functions for g in _graphs_in(f.node))]
    for root in roots:
        for graph in all_graphs(root):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
    for node in _every_node(proto):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                if sparse.HasField("values"):
                    yield from (sparse.values, sparse.indices)


@functools.cache
def element_bits(data_type: int) -> int | None:
    """Bits of one element; None for strings and types that this version of onnx does not know."""
    narrow = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
    try:
        name = TensorProto.DataType.Name(data_type)
        if name in ("STRING", "UNDEFINED"):
            return None
        return narrow.get(name) or np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type)).itemsize * 8
    except (ValueError, KeyError):
        return None


def expected_bytes(tensor: TensorProto) -> int | None:
    """Bytes that the tensor's dims and type ask for; None where an element's size is unknown."""
    bits = element_bits(tensor.data_type)
    return None if bits is None else (math.prod(tensor.dims) * bits + 7) // 8


def _typed_field(data_type: int) -> tuple[str, float] | None:
    """Where the values are when they are not in raw_data, and how many per element; None for unknown types."""
    bits = element_bits(data_type)
    return _TYPED_FIELDS.get(data_type) or (None if bits is None else ("int32_data", bits / 8 if bits < 8 else 1))


def check_tensors(proto: onnx.ModelProto, where: str, apart: Mapping[str, int] | None = None) -> None:
    """Refuse tensors whose data does not fit their dims, and values with two producers or none.

    Args:
        proto: The message.
        where: For errors.
        apart: Bytes of data of the initializers that were left in the file.

    Raises:
        ModelError: naming the tensor, what was found and what its dims ask for.
    """
    apart = apart or {}
    for tensor in every_tensor(proto):
        name = f"{where}: tensor {tensor.name!r}"
        dims = tuple(tensor.dims)
        if dims and min(dims) < 0:
            raise ModelError(f"has a negative dimension: {list(dims)}", where=name)
        if tensor.data_location == TensorProto.EXTERNAL:
            continue
        elements = math.prod(dims)
        inside = tensor.HasField("raw_data")
        if inside or tensor.name in apart:
            want, length = expected_bytes(tensor), len(tensor.raw_data) if inside else apart[tensor.name]
            if want is not None and length != want:
                raise ModelError(
                    f"has {length} bytes, its dims {list(dims)} ask for {want}",
                    where=name,
                    hint="the file is damaged; export it again",
                )
        elif (field := _typed_field(tensor.data_type)) is not None:
            found, want = len(getattr(tensor, field[0])), math.ceil(elements * field[1])
            if found != want:
                raise ModelError(
                    f"has {found} values, its dims {list(tensor.dims)} ask for {want}",
                    where=name,
                    hint="the file is damaged; export it again",
                )
    _check_names(proto.graph, frozenset(), where)
    for function in proto.functions:
        _check_nodes(function.node, set(function.input), frozenset(), function.output, where)


def _check_names(graph: onnx.GraphProto, outer: frozenset[str], where: str) -> None:
    known = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    known.update(t.values.name for t in graph.sparse_initializer)
    _check_nodes(graph.node, known, outer, [v.name for v in graph.output], where)


def _check_nodes(
    nodes: Sequence[onnx.NodeProto], known: set[str], outer: frozenset[str], outputs: Iterable[str], where: str
) -> None:
    """Within one graph each name has one producer (ONNX IR specification: static single assignment); none has none.

    ``known`` are the inputs and initializers, ``outer`` what the graphs around this one hold. Order is free here.
    """
    for node in nodes:
        for name in node.output:
            if name and name in known:
                raise ModelError(
                    f"tensor {name!r} is written twice, again by node {node.name!r} ({node.op_type})",
                    where=where,
                    hint="ONNX wants each tensor to have one producer; export it again",
                )
            known.add(name)
    visible = outer | known
    read = [(name, f"node {n.name!r} ({n.op_type}) reads") for n in nodes for name in n.input if name]
    for name, reader in [*read, *((name, "the graph gives out") for name in outputs)]:
        if name not in visible:
            raise ModelError(
                f"{reader} the tensor {name!r}, which is no input, no initializer and no node's output",
                where=where,
                hint="the graph was cut in the wrong place; export it again",
            )
    for node in nodes:
        for attribute in node.attribute:
            for body in (
                (attribute.g, *attribute.graphs) if attribute.type == AttributeProto.GRAPH else attribute.graphs
            ):
                _check_names(body, visible, where)


def external_locations(proto: onnx.ModelProto, folder: Path | None, where: str) -> list[Path]:
    """The external files that the model refers to, each checked to lie inside the model's own folder.

    Raises:
        ExternalDataError: an absolute path, ``..``, a link, a missing or too short file, or no folder at all
            (a model given as bytes or as a message has none).
    """
    found: dict[str, Path] = {}
    for tensor in every_tensor(proto):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        name = f"{where}: tensor {tensor.name!r}"
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        if folder is None:
            raise ExternalDataError(
                f"its data is in the file {location!r}, but the model was not given as a path",
                where=name,
                hint="pass the model's path, or load the external data first",
            )
        if location not in found:
            found[location] = _safe_file(folder, location, name)
        try:
            offset, length = int(entries.get("offset", "0")), entries.get("length")
            size = found[location].stat().st_size
            want = expected_bytes(tensor)
            used = int(length) if length is not None else (want if want is not None else size - offset)
        except ValueError as error:
            raise ExternalDataError(f"offset or length is no number: {entries}", where=name) from error
        if offset < 0 or used < 0 or offset + used > size:
            raise ExternalDataError(
                f"wants bytes {offset} to {offset + used} of {location!r}, which has {size}",
                where=name,
                hint="the data file is truncated, or belongs to another model",
            )
        if want is not None and used != want:
            raise ExternalDataError(f"has {used} bytes, its dims {list(tensor.dims)} ask for {want}", where=name)
    return list(found.values())


def _safe_file(folder: Path, location: str, where: str) -> Path:
    """The file behind ``location``, which must lie in the model's folder without leaving it by any trick."""
    pure = Path(location)
    if not location or pure.is_absolute() or ".." in pure.parts or "\\" in location or "\0" in location:
        raise ExternalDataError(
            f"external data location {location!r} leaves the model's folder",
            where=where,
            hint="it must be a relative path below the model",
        )
    path = folder / pure
    current = folder
    for part in pure.parts:
        current = current / part
        if current.is_symlink():
            raise ExternalDataError(
                f"external data location {location!r} goes through a link",
                where=where,
                hint="replace the link by the file itself",
            )
    if not path.exists():
        raise ExternalDataError(
            f"external data file {location!r} is missing", where=where, hint="put it beside the model"
        )
    if not path.is_file():
        raise ExternalDataError(f"external data location {location!r} is not a regular file", where=where)
    return path


def lost_in_ir(proto: onnx.ModelProto) -> str | None:
    """Why a round trip through onnx_ir would change the model, or None."""
    for graph in all_graphs(proto.graph):
        if graph.sparse_initializer:
            return f"sparse initializer {graph.sparse_initializer[0].values.name!r}"
    for node in _every_node(proto):
        for attribute in node.attribute:
            if attribute.type in (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS):
                return f"sparse tensor in attribute {attribute.name!r} of node {node.name or node.op_type!r}"
    if proto.training_info:
        return "training_info"
    return None


def densify(proto: onnx.ModelProto, folder: Path | None) -> list[str]:
    """Make sparse tensors dense and drop training information, so that the model can at least be analysed.

    Args:
        proto: Changed in place.
        folder: Of external data.

    Raises:
        ModelError: an index is outside the tensor's dims, or the dense tensor would be huge.
    """
    notes: list[str] = []
    for graph in all_graphs(proto.graph):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse, sparse.values.name, folder))
            notes.append(f"sparse initializer {sparse.values.name!r} read as dense for analysis")
        del graph.sparse_initializer[:]
    for node in _every_node(proto):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
                dense = _dense(attribute.sparse_tensor, node.output[0], folder)
                attribute.Clear()
                attribute.name, attribute.type = "value", AttributeProto.TENSOR
                attribute.t.CopyFrom(dense)
                notes.append(f"sparse Constant {node.output[0]!r} read as dense for analysis")
    del proto.training_info[:]
    return notes


def _dense(sparse: onnx.SparseTensorProto, name: str, folder: Path | None) -> TensorProto:
    """Linear ([NNZ]) or coordinate ([NNZ, rank]) indices, as onnx.proto defines them."""
    where = f"tensor {name!r}"
    values, indices = (onnx.numpy_helper.to_array(t, str(folder or "")) for t in (sparse.values, sparse.indices))
    dims = tuple(sparse.dims)
    size = math.prod(dims) * values.dtype.itemsize
    if any(d < 0 for d in dims) or size > _DENSE_LIMIT_BYTES:
        raise ModelError(f"the sparse tensor of dims {list(dims)} is too large to be read as dense", where=where)
    result = np.zeros(dims, values.dtype)
    try:
        if indices.ndim == 1:
            result.reshape(-1)[indices] = values
        else:
            result[tuple(indices.T)] = values
    except (IndexError, ValueError) as error:
        raise ModelError(f"the indices of the sparse tensor do not fit its dims {list(dims)}", where=where) from error
    return onnx.numpy_helper.from_array(result, name)
