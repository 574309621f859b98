from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import files, message
from edgeopt.message import Message
from edgeopt.wire import APART_BYTES
from tests.conftest import ROOT
from tests.models import assert_same, filled

BIG = APART_BYTES // 4
TEXT = (
    f"g (float[{BIG}] x) => (float[{BIG}] y) <float[{BIG}] w, float[1] v, float[{BIG}] u> "
    "{ a = Add(x, w) b = Mul(a, u) y = Mul(b, v) }"
)


def test_the_message_is_the_model() -> None:
    model = files.load(filled(TEXT)).model
    found = onnx.load_from_string(Message(model).tobytes())
    expected = message.to_proto(model)
    order = {t.name: t for t in found.graph.initializer}
    assert [*order] == ["v", "w", "u"]  # large ones last
    del found.graph.initializer[:]
    found.graph.initializer.extend(order[t.name] for t in expected.graph.initializer)
    assert found == expected


def test_size_and_bytes_agree() -> None:
    for text in (TEXT, "g (float[2] x) => (float[2] y) { y = Relu(x) }"):
        found = Message(files.load(filled(text)).model)
        written = io.BytesIO()
        found.write(written)
        assert written.getvalue() == found.tobytes()
        assert len(found.tobytes()) == found.size


def test_the_same_model_gives_the_same_bytes_again() -> None:
    once = Message(files.load(filled(TEXT)).model).tobytes()
    assert Message(files.load(once).model).tobytes() == once


def test_the_model_is_as_before() -> None:
    model = files.load(filled(TEXT)).model
    before = {n: v.const_value for n, v in model.graph.initializers.items()}
    Message(model)
    assert {n: v.const_value for n, v in model.graph.initializers.items()} == before
    assert_same(files.load(filled(TEXT)).model, model, 0)


def test_the_model_is_as_before_after_an_error() -> None:
    model = files.load(filled(TEXT)).model
    before = {n: v.const_value for n, v in model.graph.initializers.items()}
    next(iter(model.graph)).attributes["bad"] = ir.Attr("bad", ir.AttributeType.SPARSE_TENSOR, object())
    with pytest.raises(Exception, match="serialize_model_into"):
        Message(model)
    assert {n: v.const_value for n, v in model.graph.initializers.items()} == before


def test_numbers_written_short_stay_so() -> None:
    given = filled(f"g (int64[{BIG}] x) => (int64[{BIG}] y) <int64[{BIG}] w> {{ y = Add(x, w) }}")
    tensor = given.graph.initializer[0]
    tensor.ClearField("raw_data")
    del tensor.int64_data[:]
    tensor.int64_data.extend([1] * BIG)
    assert Message(files.load(given).model).size < BIG + 1000


def conv_net(layers: int, channels: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes, weights, x = [], [], "x"
    for k in range(layers):
        weights.append((f"w{k}", rng.standard_normal((channels, channels, 3, 3), np.float32) * 0.02))
        weights += [(f"{s}{k}", rng.uniform(0.5, 1.5, channels).astype("f4")) for s in "gbmv"]
        nodes += [
            onnx.helper.make_node("Conv", [x, f"w{k}"], [f"c{k}"], pads=[1, 1, 1, 1], name=f"Conv_{k}"),
            onnx.helper.make_node("BatchNormalization", [f"c{k}", *(f"{s}{k}" for s in "gbmv")], [f"n{k}"]),
            onnx.helper.make_node("Relu", [f"n{k}"], [f"r{k}"]),
        ]
        x = f"r{k}"
    shape: list[str | int | None] = ["N", channels, 8, 8]
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("x", x)]
    tensors = [onnx.numpy_helper.from_array(a, n) for n, a in weights]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_peak_memory_of_a_large_model(tmp_path: Path) -> None:
    """A model of 100 MB, all of whose weights are rewritten, within its size + 200 MB."""
    path = tmp_path / "m.onnx"
    path.write_bytes(conv_net(11, 512).SerializeToString())
    size = path.stat().st_size
    assert size > 100_000_000
    code = (
        "import sys, resource; from edgeopt.cli import main; "
        "code = main(['simplify', sys.argv[1], '-o', sys.argv[2], '--no-verify', '--quiet']); "
        "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    # through a shell: a process inherits the peak of the one that started it
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", code, str(path), str(tmp_path / "o.onnx")]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    assert out[0] == "0"
    assert int(out[1]) < size + 200_000_000
    written = onnx.load(tmp_path / "o.onnx")
    assert {n.op_type for n in written.graph.node} == {"Conv", "Relu"}
    assert (tmp_path / "o.onnx").stat().st_size < size
