"""Writing models: one set of bytes for one model, atomically, and never over an input."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from edgeopt.errors import ModelError, OutputError, root_cause
from edgeopt.graph import graphs, stored_tensors
from edgeopt.message import Message
from edgeopt.message import to_proto as to_proto
from edgeopt.runtime import INLINE_LIMIT_BYTES, inline_bytes

METADATA_KEY = "edgeopt"


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
    return message_bytes(model)


def message_bytes(model: onnx.ModelProto | ir.Model) -> bytes:
    """One protobuf message, in a fixed order.

    Raises:
        ModelError: it does not fit.
    """
    with _fitting():
        return Message(model).tobytes() if isinstance(model, ir.Model) else model.SerializeToString(deterministic=True)


def made(model: ir.Model) -> Message:
    """The model's message.

    Raises:
        ModelError: it does not fit.
    """
    with _fitting():
        return Message(model)


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # the serializer's errors have no common base
        raise ModelError(
            f"does not fit into one protobuf message (2 GiB, graphs nested some 30 deep): {root_cause(error)}",
            where="model",
            hint="keep large weights in external files, and pass the model as a path",
        ) from error


def save(
    model: ir.Model, path: Path, *, inputs: Sequence[Path | None] = (), message: Message | None = None
) -> list[Path]:
    """Save atomically; beside it ``NAME.data`` where the weights do not fit into one message or were external.

    Args:
        model: Not changed.
        path: Of the model file.
        inputs: Files that must not be overwritten.
        message: Of this model, if it was made already.

    Returns:
        The files written. Both are complete before either takes its place, the model last.

    Raises:
        OutputError: the target cannot be written or is one of ``inputs``.
        ModelError: the model without its initializers does not fit into one message.
    """
    check_output(path, inputs=inputs)
    external = any(isinstance(t, ir.ExternalTensor) for t in stored_tensors(model))
    if not external and inline_bytes(model) <= INLINE_LIMIT_BYTES:
        message = message or made(model)
        with atomic(path) as temporary, temporary.open("wb") as file:
            message.write(file)
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
    with atomic(path) as light, atomic(data_path) as temporary:
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
        light.write_bytes(serialize(copy))
    return [data_path, path]
