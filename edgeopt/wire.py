"""The large initializers of a model file, found without reading them.

A protobuf message is a sequence of fields, each with its number, its kind and, where the kind asks for it, its
length (protobuf documentation, "Encoding"). A walk over the fields of the model, of its graph and of the graph's
initializers finds where each ``raw_data`` lies; the message without them is small, and protobuf reads that.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

APART_BYTES = 65_536  # initializers from this size on are left in the file
GRAPH, INITIALIZER, RAW_DATA, _NAME, _DATA_TYPE = 7, 5, 9, 8, 2  # onnx.proto: ModelProto, GraphProto, TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Piece:
    """Bytes of a file."""

    offset: int
    length: int


@dataclass(frozen=True)
class Field:
    """One field of a message: its number and kind, where it starts (with its tag), where its value starts and ends."""

    number: int
    kind: int
    start: int
    value: int
    end: int


class Malformed(ValueError):
    """The bytes are no message."""


def varint(number: int) -> bytes:
    """A number as protobuf writes it: seven bits a byte, the lowest first."""
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)


def header(number: int, length: int) -> bytes:
    """Tag and length of a field of bytes."""
    return varint(number << 3 | _BYTES) + varint(length)


def _read_varint(data: mmap.mmap | bytes, at: int, end: int) -> tuple[int, int]:
    result = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
    raise Malformed


def fields(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of the message between two places.

    Raises:
        Malformed: it is none, or has groups, which ONNX never had.
    """
    at = start
    while at < end:
        tag, value = _read_varint(data, at, end)
        kind = tag & 7
        if kind == _BYTES:
            length, value = _read_varint(data, value, end)
            stop = value + length
        elif kind == _VARINT:
            stop = _read_varint(data, value, end)[1]
        elif kind in (_FIXED32, _FIXED64):
            stop = value + (4 if kind == _FIXED32 else 8)
        else:
            raise Malformed
        if stop > end or tag >> 3 == 0:
            raise Malformed
        yield Field(tag >> 3, kind, at, value, stop)
        at = stop


def take_apart(file: int, plain: frozenset[int]) -> tuple[bytes, dict[str, Piece]]:
    """The model's message without the data of its large initializers, and where that lies.

    Args:
        file: Descriptor of a model file; its pages are touched only where fields start.
        plain: Element types (``TensorProto.DataType``) whose data may be left out.

    Raises:
        Malformed: the file is no message, or says something twice.
    """
    with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as data:
        apart: dict[str, Piece] = {}
        pieces: list[bytes] = []
        graphs = 0
        for field in fields(data, 0, len(data)):
            if field.number == GRAPH and field.kind == _BYTES:
                graphs += 1
                light = _light_graph(data, field, plain, apart)
                pieces += [header(GRAPH, len(light)), light]
            else:
                pieces.append(data[field.start : field.end])
        if graphs != 1:
            raise Malformed  # protobuf would merge them
        return b"".join(pieces), apart


def _light_graph(data: mmap.mmap | bytes, graph: Field, plain: frozenset[int], apart: dict[str, Piece]) -> bytes:
    pieces: list[bytes] = []
    names: set[str] = set()
    copied = graph.value  # what lies between two large initializers is copied at once
    for field in fields(data, graph.value, graph.end):
        if field.number != INITIALIZER or field.kind != _BYTES:
            continue
        parts = list(fields(data, field.value, field.end)) if field.end - field.value >= APART_BYTES else []
        raw = [p for p in parts if p.number == RAW_DATA and p.kind == _BYTES]
        kinds = [_read_varint(data, p.value, p.end)[0] for p in parts if p.number == _DATA_TYPE and p.kind == _VARINT]
        if len(raw) != 1 or raw[0].end - raw[0].value < APART_BYTES or len(kinds) != 1 or kinds[0] not in plain:
            continue
        name = b"".join(data[p.value : p.end] for p in parts if p.number == _NAME).decode()
        if name in names:
            raise Malformed
        names.add(name)
        apart[name] = Piece(raw[0].value, raw[0].end - raw[0].value)
        rest = b"".join(data[p.start : p.end] for p in parts if p is not raw[0])
        pieces += [data[copied : field.start], header(INITIALIZER, len(rest)), rest]
        copied = field.end
    pieces.append(data[copied : graph.end])
    return b"".join(pieces)
