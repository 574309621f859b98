"""Reads ``.npy`` and ``.npz`` row by row, so that memory does not grow with the file.

The format is numpy's (numpy.lib.format: magic, version, a header with shape, dtype and order, then the raw
data). Nothing is ever unpickled, and the claimed size is checked against the file's before anything is allocated.
"""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from edgeopt.errors import DataError
from edgeopt.graph import Array

_READ_ERRORS = (
    OSError, EOFError, ValueError, TypeError, SyntaxError, KeyError, NotImplementedError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    """Name the file when numpy or zipfile stumble over it."""
    try:
        yield
    except _READ_ERRORS as error:
        kind = "is corrupt or truncated" if not isinstance(error, OSError) or error.errno is None else "cannot be read"
        detail = " ".join(str(error).split())[:200]
        raise DataError(f"{kind}: {detail or type(error).__name__}", where=where) from error


@dataclass(frozen=True)
class ArrayFile:
    """One stored array: a ``.npy`` file, or a member of a ``.npz``.

    Attributes:
        path: The file.
        key: Name of the array inside a ``.npz``; None for a ``.npy``.
        shape: As the header says.
        dtype: As the header says; never an object or structured one.
        fortran_order: Whether the first index varies fastest.
        offset: Bytes before the data.
    """

    path: Path
    key: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    offset: int

    @property
    def where(self) -> str:
        """The place, for messages: ``x.npz:images``."""
        return str(self.path) if self.key is None else f"{self.path}:{self.key}"

    def rows(self) -> Iterator[Array]:
        """The sub-arrays along the first axis, one at a time.

        Raises:
            DataError: the data is corrupt or ends early.
        """
        if self.fortran_order and len(self.shape) > 1:  # its rows are not contiguous
            yield from self.whole()
            return
        row_shape = self.shape[1:]
        row_bytes = math.prod(row_shape) * self.dtype.itemsize
        with _stream(self.path, self.key, self.where) as stream:
            with _reading(self.where):
                stream.read(self.offset)
            for _ in range(self.shape[0]):
                yield self._array(stream, row_bytes).reshape(row_shape)

    def whole(self) -> Array:
        """The complete array.

        Raises:
            DataError: the data is corrupt or ends early.
        """
        with _stream(self.path, self.key, self.where) as stream:
            with _reading(self.where):
                stream.read(self.offset)
            flat = self._array(stream, math.prod(self.shape) * self.dtype.itemsize)
        return flat.reshape(self.shape, order="F" if self.fortran_order else "C")

    def _array(self, stream: IO[bytes], count: int) -> Array:
        with _reading(self.where):
            data = stream.read(count)
            if len(data) != count:
                raise EOFError("the data ends early")
        return np.frombuffer(data, self.dtype).copy()  # a copy, because the bytes are read-only


@contextlib.contextmanager
def _stream(path: Path, key: str | None, where: str) -> Iterator[IO[bytes]]:
    with contextlib.ExitStack() as stack:
        with _reading(where):
            if key is None:
                stream: IO[bytes] = stack.enter_context(path.open("rb"))
            else:
                archive = stack.enter_context(zipfile.ZipFile(path))
                stream = stack.enter_context(archive.open(key + ".npy"))
        yield stream


def _header(path: Path, key: str | None, stored_bytes: int) -> ArrayFile:
    where = str(path) if key is None else f"{path}:{key}"
    with _stream(path, key, where) as stream, _reading(where):
        head = io.BytesIO(stream.read(1 << 16))  # numpy writes headers of a few hundred bytes
        version = npy_format.read_magic(head)
        if version == (1, 0):
            shape, fortran_order, dtype = npy_format.read_array_header_1_0(head)
        elif version == (2, 0):
            shape, fortran_order, dtype = npy_format.read_array_header_2_0(head)
        else:
            raise ValueError(f"npy format version {version} (structured data) is not supported")
    if dtype.hasobject:
        raise DataError(
            "holds pickled Python objects, which edgeopt never unpickles (they can run code)",
            where=where,
            hint="save plain arrays; samples of different sizes go into one .npy file each",
        )
    if dtype.names is not None:
        raise DataError(f"holds a structured array ({dtype}), expected plain numbers", where=where)
    offset = head.tell()
    needed = offset + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed > stored_bytes:
        raise DataError(
            f"is truncated: shape {shape} of {dtype} needs {needed} bytes, {stored_bytes} are there", where=where
        )
    return ArrayFile(path, key, tuple(shape), dtype, fortran_order, offset)


def open_npy(path: Path) -> ArrayFile:
    """The array of a ``.npy`` file; only its header is read.

    Raises:
        DataError: the file is missing, corrupt, truncated, or holds pickled objects.
    """
    with _reading(str(path)):
        size = path.stat().st_size
    return _header(path, None, size)


def open_npz(path: Path) -> dict[str, ArrayFile]:
    """The arrays of a ``.npz`` file by name; only their headers are read.

    Raises:
        DataError: the file is missing, corrupt or truncated, has no arrays, or holds pickled objects.
    """
    with _reading(str(path)), zipfile.ZipFile(path) as archive:
        members = {i.filename[:-4]: i.file_size for i in archive.infolist() if i.filename.endswith(".npy")}
    if not members:
        raise DataError("holds no arrays", where=str(path), hint="write it with numpy.savez")
    return {key: _header(path, key, size) for key, size in members.items()}
