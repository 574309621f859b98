from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeopt import wire
from edgeopt.tensors import PLAIN_TYPES
from edgeopt.wire import Field, Malformed, Piece
from tests.models import filled

BIG = wire.APART_BYTES // 4


def message(dims: int = BIG) -> onnx.ModelProto:
    made = filled(f"g (float[{dims}] x) => (float[{dims}] y) <float[{dims}] w, float[2] v> {{ y = Add(x, w) }}")
    for tensor in made.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.arange(np.prod(tensor.dims), dtype="f4"), tensor.name))
    return made


def taken(data: bytes, tmp_path: Path) -> tuple[bytes, dict[str, Piece]]:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with path.open("rb") as file:
        return wire.take_apart(file.fileno(), PLAIN_TYPES)


@pytest.mark.parametrize(
    ("number", "written"), [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**32, "8080808010")]
)
def test_varint(number: int, written: str) -> None:
    assert wire.varint(number).hex() == written  # 300: the example of the encoding's documentation


def test_fields_of_every_kind() -> None:
    data = bytes.fromhex("0896011204746573741d00000000210000000000000000")
    assert list(wire.fields(data, 0, len(data))) == [
        Field(1, 0, 0, 1, 3),
        Field(2, 2, 3, 5, 9),
        Field(3, 5, 9, 10, 14),
        Field(4, 1, 14, 15, 23),
    ]


@pytest.mark.parametrize("data", ["08", "12ff", "120401", "0b", "0001", "ffffffffffffffffffffff01", "1d0000", "0f"])
def test_what_is_no_message(data: str) -> None:
    with pytest.raises(Malformed):
        list(wire.fields(bytes.fromhex(data), 0, len(bytes.fromhex(data))))


def test_take_apart(tmp_path: Path) -> None:
    given = message()
    data = given.SerializeToString()
    light, apart = taken(data, tmp_path)
    assert len(light) < 1000
    piece = apart.pop("w")
    assert not apart  # v is small
    assert data[piece.offset : piece.offset + piece.length] == given.graph.initializer[0].raw_data
    found = onnx.load_from_string(light)
    given.graph.initializer[0].ClearField("raw_data")
    assert found == given


@pytest.mark.parametrize("what", ["small", "typed", "external", "string", "packed"])
def test_what_stays_in_the_message(what: str, tmp_path: Path) -> None:
    given = message(BIG - 1 if what == "small" else BIG)
    tensor = given.graph.initializer[0]
    if what == "typed":
        tensor.float_data.extend([1.0] * BIG)
        tensor.ClearField("raw_data")
    elif what == "external":
        tensor.ClearField("raw_data")
        tensor.external_data.add(key="location", value="w.bin")
        tensor.external_data.add(key="offset", value="0" * BIG * 4)
    elif what == "string":
        tensor.data_type = onnx.TensorProto.STRING
    elif what == "packed":
        tensor.data_type = onnx.TensorProto.INT4
    light, apart = taken(given.SerializeToString(), tmp_path)
    assert onnx.load_from_string(light) == given
    assert not apart


def test_what_says_something_twice(tmp_path: Path) -> None:
    twice = message()
    twice.graph.initializer.append(twice.graph.initializer[0])
    with pytest.raises(Malformed):
        taken(twice.SerializeToString(), tmp_path)
    with pytest.raises(Malformed):
        taken(message().SerializeToString() * 2, tmp_path)  # protobuf merges the two


def test_header() -> None:
    inner = wire.header(5, 3) + b"abc"
    assert list(wire.fields(inner, 0, len(inner))) == [Field(5, 2, 0, 2, 5)]
