"""Models in: read as untrusted input, repair what can be repaired.

Reading a path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model`` never changes the caller's object. Weights in
external files stay there, memory-mapped. What the IR cannot carry (sparse tensors, training information) is
kept: such a model is marked ``untouchable`` and every rewriting verb returns its original bytes.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google.protobuf.message
import numpy as np
import onnx
import onnx_ir as ir

from edgeopt import saving
from edgeopt.errors import ModelError, UsageError, root_cause
from edgeopt.graph import Names, graphs
from edgeopt.protos import check_tensors, densify, external_locations, lost_in_ir
from edgeopt.runtime import external_folder
from edgeopt.skeleton import skeleton

_PROTOBUF_LIMIT_BYTES = 2**31 - 1
_FOREIGN = {  # other formats that users hand over by mistake: offset, magic, name
    "onnxruntime's .ort": (4, b"ORTM"),
    "TensorFlow Lite": (4, b"TFL3"),
    "zip (a PyTorch checkpoint or a Keras archive?)": (0, b"PK\x03\x04"),
    "HDF5 (a Keras model?)": (0, b"\x89HDF"),
    "pickle (an old PyTorch checkpoint?)": (0, b"\x80\x02"),
}


@dataclass(frozen=True)
class Loaded:
    """A model as edgeopt works on it, and what is known of where it came from.

    Attributes:
        model: The IR; names are unique, nodes sorted. Never mutated by the verbs: they clone it.
        path: The file it came from, or None.
        sha256: Of the model file (external files not included), or of the serialized message.
        file_bytes: The model file plus the external files it refers to.
        repairs: What had to be mended to read it.
        checker_error: The ONNX checker's complaint about the model as given, or None if it passed.
        untouchable: Why the IR cannot carry all of it; rewriting verbs then return ``original``.
        original: The bytes as given, kept only for an untouchable model.
        as_given: Whether ``model`` is what was read; False once dims were fixed.
    """

    model: ir.Model
    path: Path | None
    sha256: str
    file_bytes: int
    repairs: tuple[str, ...] = ()
    checker_error: str | None = None
    untouchable: str | None = None
    original: bytes | None = field(default=None, repr=False)
    as_given: bool = True

    def verbatim(self) -> bytes | None:
        """The model file's bytes, for a result that changes nothing; None if the file alone is not the model.

        That is so when dims were fixed, when weights lie in other files, or when the file has changed since.
        """
        if self.original is not None:
            return self.original
        if not self.as_given or self.path is None:
            return None
        try:
            data = self.path.read_bytes()
        except OSError:
            return None
        return data if len(data) == self.file_bytes and hashlib.sha256(data).hexdigest() == self.sha256 else None


def load(source: Any) -> Loaded:
    """Read a model from a path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model``.

    Raises:
        ModelError: not a readable ONNX model.
        ExternalDataError: weights outside the file that are missing, too short or outside the model's folder.
        UsageError: ``source`` is none of the above.
    """
    if isinstance(source, ir.Model):
        folder = external_folder(source)
        data = saving.serialize(source)
        return _from_proto(_parse(data, "model"), None, Path(folder) if folder else None, data)
    if isinstance(source, onnx.ModelProto):
        data = saving.message_bytes(source)
        return _from_proto(_parse(data, "model"), None, None, data)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        return _from_proto(_parse(data, "<bytes>"), None, None, data)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        data = read_bytes(path)
        return _from_proto(_parse(data, str(path)), path, path.resolve().parent, data)
    raise UsageError(
        f"expected a path, bytes, onnx.ModelProto or onnx_ir.Model, found {type(source).__name__}",
        where="model",
    )


def read_bytes(path: Path) -> bytes:
    """The whole of a model file; a clear ModelError for everything that is no readable file."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ModelError("is a folder, expected an .onnx file", where=str(path))
        if not path.is_file():
            raise ModelError("is not a regular file", where=str(path))
        if size == 0:
            raise ModelError("is empty (0 bytes)", where=str(path), hint="was the download or export complete?")
        if size > _PROTOBUF_LIMIT_BYTES:
            raise ModelError(
                f"has {size} bytes; a protobuf message ends at 2 GiB",
                where=str(path),
                hint="save the model with external data",
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ModelError(f"cannot be read: {getattr(error, 'strerror', error)}", where=str(path)) from error


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    for name, (offset, magic) in _FOREIGN.items():
        if data[offset : offset + len(magic)] == magic:
            raise ModelError(f"is {name}, not ONNX", where=where, hint="export the model to ONNX first")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except google.protobuf.message.DecodeError as error:
        raise ModelError(
            "is not an ONNX model, is truncated, or nests its graphs too deeply: the protobuf message does not parse",
            where=where,
            hint="was the download or export complete?",
        ) from error
    return proto


def _from_proto(proto: onnx.ModelProto, path: Path | None, folder: Path | None, data: bytes) -> Loaded:
    where = str(path) if path else "model"
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelError("is not an ONNX model: it has no graph", where=where)
    repairs: list[str] = []
    if not proto.opset_import:
        if proto.ir_version >= 3:
            raise ModelError(
                "imports no operator set (opset_import is empty)",
                where=where,
                hint="export it again, or add the opset with onnx.helper.make_opsetid",
            )
        proto.opset_import.add(domain="", version=1)
        repairs.append("no opset_import (IR version < 3): opset 1 assumed")
    files = external_locations(proto, folder, where)
    check_tensors(proto, where)
    file_bytes = len(data) + sum(p.stat().st_size for p in files)
    digest = hashlib.sha256(data).hexdigest()
    untouchable = lost_in_ir(proto)
    if untouchable:
        repairs += densify(proto, folder)
    try:
        model = ir.from_proto(proto)
    except Exception as error:
        raise ModelError(f"cannot be understood: {root_cause(error)}", where=where) from error
    if folder is not None:
        _anchor_external(model, folder)
    if model.ir_version < 4:
        repairs.append(_lift_ir_version(model))
    repairs += _repair(model, where)
    return Loaded(
        model,
        path,
        digest,
        file_bytes,
        tuple(repairs),
        checker_error(model),
        untouchable,
        data if untouchable else None,
    )


def _anchor_external(model: ir.Model, folder: Path) -> None:
    """External data is looked for in the model's folder; attributes are read, since few tools look there."""
    for graph in graphs(model):
        ir.external_data.set_base_dir(graph, folder)
    for node in (*model.graph.all_nodes(), *(n for f in model.functions.values() for n in f.all_nodes())):
        for attr in list(node.attributes.values()):
            if not attr.is_ref() and isinstance(tensor := attr.value, ir.ExternalTensor):
                tensor.base_dir = folder
                inside = ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=tensor.name)
                node.attributes[attr.name] = ir.AttrTensor(attr.name, inside)


def _lift_ir_version(model: ir.Model) -> str:
    """Up to IR version 3 each initializer had to be listed as an input; no runtime let callers override it."""
    listed = [v for v in model.graph.inputs if v.is_initializer()]
    for value in listed:
        model.graph.inputs.remove(value)
    before, model.ir_version = model.ir_version, 4
    return f"IR version {before} → 4: {len(listed)} initializers are no longer listed as inputs"


def _repair(model: ir.Model, where: str) -> list[str]:
    """Sort nodes and name them; values already have unique names (checked on the message)."""
    repairs: list[str] = []
    names = Names(model)
    seen: set[str] = set()
    unnamed = 0
    orders = {graph: list(graph) for graph in graphs(model)}  # sorting a graph sorts its bodies too
    for graph, order in orders.items():
        try:
            graph.sort()
        except ValueError as error:
            raise ModelError(f"graph {graph.name!r} has a cycle", where=where) from error
        if order != list(graph):
            repairs.append(f"nodes of graph {graph.name!r} sorted topologically")
        for node in graph:
            if not node.name or node.name in seen:
                node.name = names.fresh(node.name or f"{node.op_type}_{node.outputs[0].name if node.outputs else ''}")
                unnamed += 1
            seen.add(node.name)
    if unnamed:
        repairs.append(f"{unnamed} nodes without a name of their own were named")
    return repairs


def checker_error(model: ir.Model) -> str | None:
    """What the ONNX checker says against the model (weights left out), or None."""
    try:
        onnx.checker.check_model(skeleton(model))
    except Exception as error:  # noqa: BLE001 -- the checker's and the serializer's errors have no common base
        return root_cause(error)
    return None
