"""Initializers as edgeopt holds them: plain arrays, and large ones left in the model file until they are asked for.

onnx_ir keeps a tensor as the message that it came in: each look at its dims or its data makes them anew, and the
message of the whole model stays in memory. Here dims and size are kept, and the message can go.
"""

from __future__ import annotations

import hashlib
import math
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.wire import Piece, take_apart

Array = np.ndarray[Any, np.dtype[Any]]
_BLOCK_BYTES = 1 << 20
_PLAIN = {
    int(kind): np.dtype(kind.numpy()).newbyteorder("<")
    for kind in (
        ir.DataType.FLOAT,
        ir.DataType.DOUBLE,
        ir.DataType.FLOAT16,
        ir.DataType.INT8,
        ir.DataType.INT16,
        ir.DataType.INT32,
        ir.DataType.INT64,
        ir.DataType.UINT8,
        ir.DataType.UINT16,
        ir.DataType.UINT32,
        ir.DataType.UINT64,
        ir.DataType.BOOL,
    )
}


PLAIN_TYPES = frozenset(_PLAIN)
"""Element types (``TensorProto.DataType``) that numpy has, a byte or more per element."""
_KINDS = {dtype: ir.DataType(kind) for kind, dtype in _PLAIN.items()}


class _Held(ir.TensorProtocol):
    """What both kinds share: dims, type and size, known from the start."""

    __slots__ = ("_nbytes", "_shape", "_size", "doc_string", "dtype", "meta", "metadata_props", "name", "raw")

    def __init__(
        self, raw: Any, dtype: ir.DataType, size: int, nbytes: int, name: str | None, doc_string: str | None
    ) -> None:
        self.raw, self.dtype, self._size, self._nbytes = raw, dtype, size, nbytes
        self.name, self.doc_string = name, doc_string
        self.metadata_props: dict[str, str] = {}
        self.meta: dict[str, Any] = {}
        self._shape: ir.Shape | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self._nbytes

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __dlpack__(self, *, stream: Any = ...) -> Any:
        return self.numpy().__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.numpy().__dlpack_device__()

    def tofile(self, file: Any) -> None:
        """Write the data to an open file (numpy's own ``tofile`` says nothing when the disk is full)."""
        file.write(self.tobytes())

    def __repr__(self) -> str:
        return f"{type(self).__name__}<{self.dtype},{self.shape}>({self.name!r})"


class PlainTensor(_Held):
    """An array.

    Args:
        array: Of a type in ``PLAIN_TYPES``; never written to.
        name: Of the tensor.
        doc_string: Of the tensor.
    """

    __slots__ = ()

    def __init__(self, array: Array, name: str | None = None, doc_string: str | None = None) -> None:
        super().__init__(array, _KINDS[array.dtype], array.size, array.nbytes, name, doc_string)

    @property
    def shape(self) -> ir.Shape:  # type: ignore[override]  # the protocol has an attribute, which is only read
        """Dims."""
        if self._shape is None:
            self._shape = ir.Shape(self.raw.shape, frozen=True)
        return self._shape

    def numpy(self) -> Array:
        """The array itself."""
        array: Array = self.raw
        return array

    def tobytes(self) -> bytes:
        """The data, little-endian."""
        array: Array = self.raw
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


class SourceFile:
    """A model file that is read piece by piece, and must not change meanwhile.

    It is held open: what takes the place of its name (an atomic write) does no harm.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._state = self._now()

    def _now(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    @property
    def size(self) -> int:
        """Bytes."""
        return self._state[0]

    def digest(self) -> str:
        """SHA-256 of the whole file, in hexadecimal."""
        found = hashlib.sha256()
        for start in range(0, self._state[0], _BLOCK_BYTES):
            found.update(self.read(Piece(start, min(_BLOCK_BYTES, self._state[0] - start))))
        return found.hexdigest()

    def take_apart(self) -> tuple[bytes, dict[str, Piece]]:
        """The message without the data of its large initializers, and where that lies (``wire.take_apart``)."""
        return take_apart(self._file, PLAIN_TYPES)

    def read(self, piece: Piece) -> bytearray:
        """The bytes there.

        Raises:
            ModelError: the file has been written to since it was opened.
        """
        data = bytearray(piece.length)
        view, done = memoryview(data), 0
        while done < piece.length:
            found = os.preadv(self._file, [view[done:]], piece.offset + done)
            if found == 0:
                break
            done += found
        if done < piece.length or self._now() != self._state:
            raise ModelError("changed while it was being worked on", where=str(self.path), hint="run it again")
        return data


class FileTensor(_Held):
    """A tensor whose data stays in the model file; each look reads it anew, and nothing is kept.

    Args:
        source: The file.
        piece: Where in it the data lies.
        dtype: Of a type that numpy has, one byte or more per element.
        shape: Dims.
        name: Of the tensor.
        doc_string: Of the tensor.
    """

    __slots__ = ("_dims", "_source")

    def __init__(
        self,
        source: SourceFile,
        piece: Piece,
        dtype: ir.DataType,
        shape: tuple[int, ...],
        name: str | None = None,
        doc_string: str | None = None,
    ) -> None:
        super().__init__(piece, dtype, math.prod(shape), piece.length, name, doc_string)
        self._source = source
        self._dims = shape

    @property
    def shape(self) -> ir.Shape:  # type: ignore[override]  # as above
        """Dims."""
        if self._shape is None:
            self._shape = ir.Shape(self._dims, frozen=True)
        return self._shape

    def numpy(self) -> Array:
        """The data, an array of its own."""
        return np.frombuffer(self._source.read(self.raw), _PLAIN[int(self.dtype)]).reshape(self._dims)

    def tobytes(self) -> bytes:
        """The data, little-endian."""
        return bytes(self._source.read(self.raw))


def hold(model: ir.Model, source: SourceFile | None, apart: Mapping[str, Piece]) -> None:
    """Replace, in place, the tensors of the main graph's initializers by those of this module, where they can be.

    Args:
        model: As onnx_ir made it from the message.
        source: The file that the message was read from, if some of it was left there.
        apart: Initializers whose data was left out of the message, and where it lies.
    """
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.serde.TensorProtoTensor) or tensor.metadata_props:
            continue
        message = tensor.raw
        dtype = _PLAIN.get(message.data_type)
        if dtype is None:
            continue
        dims, doc = tuple(message.dims), message.doc_string or None
        if source is not None and name in apart and not message.HasField("raw_data"):
            value.const_value = FileTensor(source, apart[name], ir.DataType(message.data_type), dims, name, doc)
        elif message.HasField("raw_data"):
            value.const_value = PlainTensor(np.frombuffer(message.raw_data, dtype).reshape(dims), name, doc)


def plain_tensor(array: Array) -> ir.TensorProtocol:
    """A tensor that holds the array (``ir.tensor`` makes the like, slowly)."""
    return PlainTensor(array) if array.dtype in _KINDS else ir.Tensor(array)
