"""Models in and out: read as untrusted input, repair what can be repaired, write atomically.

Reading a path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model`` never changes the caller's object. Weights in
external files stay there, memory-mapped. What the IR cannot carry (sparse tensors, training information) is
kept: such a model is marked ``untouchable`` and every rewriting verb returns its original bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google.protobuf.message
import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes

from edgeopt.errors import ModelError, OutputError, UsageError
from edgeopt.graph import Names, graphs, stored_tensors
from edgeopt.protos import all_graphs, check_tensors, densify, external_locations, lost_in_ir
from edgeopt.runtime import INLINE_LIMIT_BYTES, external_folder, inline_bytes

METADATA_KEY = "edgeopt"
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
        data = serialize(source)
        return _from_proto(_parse(data, "model"), None, Path(folder) if folder else None, data)
    if isinstance(source, onnx.ModelProto):
        data = _message_bytes(source)
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
        raise ModelError(f"cannot be understood: {_root(error)}", where=where) from error
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


def _root(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]


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
        ir_passes.CheckerPass()(model)
    except Exception as error:  # noqa: BLE001 -- the checker's and the serializer's errors have no common base
        return _root(error)
    return None


def stamp(model: ir.Model, done: dict[str, Any]) -> None:
    """Record in the model's metadata what edgeopt did to it (JSON under the key ``edgeopt``)."""
    model.metadata_props[METADATA_KEY] = json.dumps(done, sort_keys=True, separators=(",", ":"))


def check_output(path: Path, *, inputs: Sequence[Path | None] = ()) -> None:
    """Refuse early what a later write would refuse, and what would overwrite an input.

    Raises:
        OutputError: the parent folder is missing or not writable, the path is a folder, a device or no possible
            name, or it is one of the inputs.
    """
    try:
        _check_output(path, inputs)
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise OutputError(f"cannot be written: {error.strerror}", where=str(path)) from error


def _check_output(path: Path, inputs: Sequence[Path | None]) -> None:
    parent = path.parent
    if "\0" in str(path):
        raise OutputError("cannot be written: the name holds a NUL", where=str(path))
    if not parent.exists():
        raise OutputError(f"the folder {str(parent)!r} does not exist", where=str(path), hint="create it first")
    if not parent.is_dir():
        raise OutputError(f"{str(parent)!r} is not a folder", where=str(path))
    if path.is_dir():
        raise OutputError("is a folder, expected a file name", where=str(path))
    if path.exists() and not path.is_file():
        raise OutputError("is not a regular file", where=str(path), hint="results are written to files only")
    for given in inputs:
        if given is not None and path.exists() and given.exists() and path.samefile(given):
            raise OutputError(
                "is the input file, which is never overwritten",
                where=str(path),
                hint="choose another name for the output",
            )
    if not os.access(parent, os.W_OK):
        raise OutputError(f"the folder {str(parent)!r} is not writable", where=str(path))


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block succeeds, and vanishes when not.

    Raises:
        OutputError: the file cannot be written (no space, no permission, …).
    """
    check_output(path)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", where=str(path)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file, or leave what was there."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def serialize(model: ir.Model) -> bytes:
    """The model as one protobuf message, the same bytes for the same model; external data is not included.

    Raises:
        ModelError: it does not fit into a message.
    """
    return _message_bytes(model)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as a message, without the types that onnx_ir repeats for initializers: they state their own."""
    proto = ir.to_proto(model)
    for graph in all_graphs(proto.graph):
        stored = {t.name for t in graph.initializer}
        kept = [v for v in graph.value_info if v.name not in stored]
        if len(kept) != len(graph.value_info):
            del graph.value_info[:]
            graph.value_info.extend(kept)
    return proto


def _message_bytes(model: onnx.ModelProto | ir.Model) -> bytes:
    try:
        proto = to_proto(model) if isinstance(model, ir.Model) else model
        return proto.SerializeToString(deterministic=True)
    except Exception as error:  # the serializer's errors have no common base
        raise ModelError(
            f"does not fit into one protobuf message (2 GiB, graphs nested some 30 deep): {_root(error)}",
            where="model",
            hint="keep large weights in external files, and pass the model as a path",
        ) from error


def save(model: ir.Model, path: Path, *, inputs: Sequence[Path | None] = ()) -> list[Path]:
    """Save atomically; beside it ``NAME.data`` where the weights do not fit into one message or were external.

    Returns:
        The files written. Both are complete before either takes its place, the model last.

    Raises:
        OutputError: the target cannot be written or is one of ``inputs``.
        ModelError: the model without its initializers does not fit into one message.
    """
    check_output(path, inputs=inputs)
    external = any(isinstance(t, ir.ExternalTensor) for t in stored_tensors(model))
    if not external and inline_bytes(model) <= INLINE_LIMIT_BYTES:
        write_atomically(path, serialize(model))
        return [path]
    data_path = path.with_name(path.name + ".data")
    used = {Path(t.base_dir, t.location).resolve() for t in stored_tensors(model) if isinstance(t, ir.ExternalTensor)}
    if data_path.resolve() in used:
        raise OutputError(
            f"would overwrite the input's weights {data_path.name!r}",
            where=str(path),
            hint="choose another name for the output",
        )
    copy = model.clone()
    with atomic(path) as message, atomic(data_path) as temporary:
        ir.external_data.unload_from_model(copy, data_path.parent, temporary.name)
        for graph in graphs(copy):
            for value in graph.initializers.values():
                if isinstance(t := value.const_value, ir.ExternalTensor):
                    value.const_value = ir.ExternalTensor(
                        data_path.name,
                        t.offset,
                        t.length,
                        t.dtype,
                        shape=t.shape,
                        name=t.name,
                        base_dir=str(data_path.parent),
                    )
        message.write_bytes(serialize(copy))
    return [data_path, path]
