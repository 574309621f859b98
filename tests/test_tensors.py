from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import files, tensors
from edgeopt.errors import ModelError
from edgeopt.graph import weight_tensors
from edgeopt.tensors import PLAIN_TYPES, FileTensor, PlainTensor, SourceFile
from edgeopt.wire import Piece
from tests.models import filled

LARGE = (
    "g (float[N,2000] x) => (float[N,2000] y) <float[2000,1200] w, float[1200,2000] v> "
    "{ h = MatMul(x, w) y = MatMul(h, v) }"
)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.onnx"
    path.write_bytes(filled(LARGE).SerializeToString())
    assert path.stat().st_size > 16_000_000
    return path


def test_weights_of_a_large_file_stay_there(large: Path) -> None:
    found = files.load(large)
    whole = files.load(large.read_bytes())
    assert (found.sha256, found.file_bytes) == (whole.sha256, whole.file_bytes)
    here, there = weight_tensors(whole.model), weight_tensors(found.model)
    assert {type(t) for t in there.values()} == {FileTensor}
    assert {type(t) for t in here.values()} == {PlainTensor}
    for name, tensor in there.items():
        np.testing.assert_array_equal(tensor.numpy(), here[name].numpy(), strict=True)
        assert tensor.tobytes() == here[name].tobytes()
        assert (tensor.dtype, tensor.shape, tensor.size, tensor.nbytes, tensor.name) == (
            *(here[name].dtype, here[name].shape, here[name].size, here[name].nbytes, name),
        )


def test_a_file_that_is_replaced_is_still_read(large: Path) -> None:
    found = files.load(large)
    other = large.with_name("other")
    other.write_bytes(b"other")
    other.replace(large)
    assert weight_tensors(found.model)["w"].numpy().shape == (2000, 1200)


@pytest.mark.parametrize("how", ["written", "cut"])
def test_a_file_that_changes_is_refused(how: str, large: Path) -> None:
    found = files.load(large)
    if how == "cut":
        os.truncate(large, 1000)
    else:
        with large.open("r+b") as file:
            file.write(b"x")
        os.utime(large, ns=(1, 1))
    with pytest.raises(ModelError, match="changed while it was being worked on"):
        weight_tensors(found.model)["v"].numpy()


def test_damaged_sizes_are_seen_without_reading(large: Path) -> None:
    message = filled(LARGE)
    message.graph.initializer[1].raw_data = message.graph.initializer[1].raw_data[:-4]
    large.write_bytes(message.SerializeToString())
    with pytest.raises(ModelError, match=r"tensor 'v'.*bytes, its dims \[1200, 2000\] ask for 9600000"):
        files.load(large)


def test_what_cannot_be_taken_apart_is_read_whole(large: Path) -> None:
    message = filled(LARGE)
    message.graph.initializer[0].name = message.graph.initializer[1].name
    message.graph.node[0].input[1] = "v"
    large.write_bytes(message.SerializeToString())
    found = files.load(large)  # both are called v: as protobuf and onnx_ir read it
    assert isinstance(weight_tensors(found.model)["v"], PlainTensor)


def test_source_file_digest(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    found = SourceFile(path)
    assert found.digest() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    assert found.read(Piece(1, 2)) == b"bc"


@pytest.mark.parametrize("kind", sorted(PLAIN_TYPES))
def test_plain_tensor_of_each_type(kind: int) -> None:
    dtype = ir.DataType(kind)
    array = np.arange(6).reshape(2, 3).astype(dtype.numpy())
    found, usual = tensors.plain_tensor(array), ir.Tensor(array)
    assert isinstance(found, PlainTensor)
    assert (found.dtype, found.shape, found.size, found.nbytes) == (usual.dtype, usual.shape, usual.size, usual.nbytes)
    assert found.tobytes() == usual.tobytes()
    assert found.numpy() is array
    assert np.asarray(found).tolist() == np.from_dlpack(found).tolist() == array.tolist()
    assert np.asarray(found, dtype=np.float64).dtype == np.float64
    written = io.BytesIO()
    found.tofile(written)
    assert written.getvalue() == usual.tobytes()
    assert found.metadata_props == found.meta == {}
    assert repr(found).startswith("PlainTensor<")


def test_other_types_are_onnx_irs() -> None:
    for array in (np.zeros(3, ir.DataType.INT4.numpy()), np.zeros(3, ir.DataType.BFLOAT16.numpy())):
        assert isinstance(tensors.plain_tensor(array), ir.Tensor)


def test_hold_leaves_what_it_cannot_hold() -> None:
    message = filled("g (float[3] x) => (float[3] y) <float[3] w, int64[3] v, float[3] u> { y = Add(x, w) }")
    w, v, _ = message.graph.initializer
    w.metadata_props.add(key="a", value="b")
    numbers = list(np.frombuffer(v.raw_data, "i8"))
    v.ClearField("raw_data")
    v.int64_data.extend(numbers)  # written shorter there than as raw bytes
    found = weight_tensors(files.load(message).model)
    assert [type(found[n]).__name__ for n in "wvu"] == ["TensorProtoTensor", "TensorProtoTensor", "PlainTensor"]
