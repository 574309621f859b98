"""Models in: read as untrusted input, repair what can be repaired.

Reading a path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model`` never changes the caller's object. Weights in
external files stay there, memory-mapped; large ones inside a model file stay there too, and are read when they are
asked for. What the IR cannot carry (sparse tensors, training information) is
kept: such a model is marked ``untouchable`` and every rewriting verb returns its original bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google.protobuf.message
import numpy as np
import onnx
import onnx_ir as ir

from edgeopt import saving
from edgeopt.errors import ModelError, UsageError, root_cause
from edgeopt.graph import Names, captured_values, graphs, has_subgraph
from edgeopt.protos import check_tensors, densify, external_locations, lost_in_ir
from edgeopt.runtime import external_folder
from edgeopt.skeleton import skeleton, skeleton_of
from edgeopt.tensors import SourceFile, hold
from edgeopt.wire import Piece

_PROTOBUF_LIMIT_BYTES = 2**31 - 1
_LARGE_FILE_BYTES = 8_000_000  # below it, reading all of it is quicker and harmless
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
        light: The message without its large weights, while ``model`` has the same nodes in the same order.
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
    light: onnx.ModelProto | None = field(default=None, repr=False)

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
        return _from_proto(_parse(data, "model"), None, Path(folder) if folder else None, Given(data))
    if isinstance(source, onnx.ModelProto):
        data = saving.message_bytes(source)
        return _from_proto(_parse(data, "model"), None, None, Given(data))
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        return _from_proto(_parse(data, "<bytes>"), None, None, Given(data))
    if isinstance(source, (str, os.PathLike)):
        return _load_file(Path(source))
    raise UsageError(
        f"expected a path, bytes, onnx.ModelProto or onnx_ir.Model, found {type(source).__name__}",
        where="model",
    )


def _load_file(path: Path) -> Loaded:
    """A model file; the data of its large weights stays there until somebody asks for it."""
    size, folder = _size(path), path.resolve().parent
    if size >= _LARGE_FILE_BYTES:
        source = SourceFile(path)
        with contextlib.suppress(ValueError):  # what cannot be taken apart is read as a whole, or refused there
            light, apart = source.take_apart()
            return _from_proto(_parse(light, str(path)), path, folder, Given(source, apart))
    data = read_bytes(path)
    return _from_proto(_parse(data, str(path)), path, folder, Given(data))


def read_bytes(path: Path) -> bytes:
    """The whole of a model file; a clear ModelError for everything that is no readable file."""
    _size(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _size(path: Path) -> int:
    """Bytes of a model file that can be read and is of a size that a message can have."""
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
        return size
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


@dataclass(frozen=True)
class Given:
    """A model as it was given: its bytes, or the file that holds them and what of it was not read."""

    data: bytes | SourceFile
    apart: Mapping[str, Piece] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.size

    def digest(self) -> str:
        """SHA-256 in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest() if isinstance(self.data, bytes) else self.data.digest()

    def whole(self) -> bytes:
        """All bytes."""
        return self.data if isinstance(self.data, bytes) else bytes(self.data.read(Piece(0, self.data.size)))


def _from_proto(proto: onnx.ModelProto, path: Path | None, folder: Path | None, given: Given) -> Loaded:
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
    check_tensors(proto, where, {name: piece.length for name, piece in given.apart.items()})
    file_bytes = given.size + sum(p.stat().st_size for p in files)
    digest = given.digest()
    untouchable = lost_in_ir(proto)
    if untouchable:
        repairs += densify(proto, folder)
    try:
        model = ir.from_proto(proto)
    except Exception as error:
        raise ModelError(f"cannot be understood: {root_cause(error)}", where=where) from error
    if folder is not None:
        _anchor_external(model, folder)
    hold(model, given.data if isinstance(given.data, SourceFile) else None, given.apart)
    if model.ir_version < 4:
        repairs.append(_lift_ir_version(model))
    repairs += _repair(model, where)
    light = skeleton_of(proto) if not repairs else None
    return Loaded(
        model,
        path,
        digest,
        file_bytes,
        tuple(repairs),
        checker_error(light or model),
        untouchable,
        given.whole() if untouchable else None,
        light=light,
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
    for graph in graphs(model):
        order = list(graph)
        if _sorted(order):
            pass
        elif (problem := _sort(graph)) is not None:
            raise ModelError(f"graph {graph.name!r} has a cycle", where=where) from problem
        else:
            repairs.append(f"nodes of graph {graph.name!r} sorted topologically")
        for node in graph:
            if not node.name or node.name in seen:
                node.name = names.fresh(node.name or f"{node.op_type}_{node.outputs[0].name if node.outputs else ''}")
                unnamed += 1
            seen.add(node.name)
    if unnamed:
        repairs.append(f"{unnamed} nodes without a name of their own were named")
    return repairs


def _sorted(nodes: Sequence[ir.Node]) -> bool:
    """Whether each node of one graph comes after all that it and its bodies read."""
    waiting = set(nodes)
    for node in nodes:
        read = [*node.inputs, *captured_values(node)] if has_subgraph(node) else node.inputs
        if any(v is not None and v.producer() in waiting for v in read):
            return False
        waiting.discard(node)
    return True


def _sort(graph: ir.Graph) -> ValueError | None:
    """Sort it and its bodies, in place; the error if there is a cycle."""
    try:
        graph.sort()
    except ValueError as error:
        return error
    return None


def checker_error(model: ir.Model | onnx.ModelProto) -> str | None:
    """What the ONNX checker says against the model (weights left out), or None."""
    try:
        onnx.checker.check_model(skeleton(model) if isinstance(model, ir.Model) else model)
    except Exception as error:  # noqa: BLE001 -- the checker's and the serializer's errors have no common base
        return root_cause(error)
    return None
