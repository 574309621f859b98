"""The memory part of a report, and the peak of a fresh process."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import memory
from edgeopt.errors import ModelError, UsageError
from edgeopt.graph import Array
from edgeopt.memory import Memory, estimate, measure, measure_peak
from tests.models import model, proto

SMALL = "g (float[N,4] x) => (y) { h = Softmax(x) y = Softmax(h) }"
ONES = {"x": np.ones((1, 4), np.float32)}


def test_estimate_is_a_model() -> None:
    found = estimate(model(SMALL))
    assert found == Memory(32, 128, None, "model", "h")
    assert found.as_json() == {
        "activation_lower_bound_bytes": 32,
        "arena_bytes": 128,
        "evidence": "model",
        "peak_node": "h",
    }
    assert estimate(model(SMALL), {"N": 4}).activation_lower_bound_bytes == 128


def test_json_of_measured_figures_and_unknown_tensors() -> None:
    found = Memory(1, 64, 5000, "measured", "n", ("t",)).as_json()
    assert found["runtime_peak_bytes"] == 5000
    assert found["unknown"] == ["t"]


def test_measure_takes_the_shapes_of_the_feed() -> None:
    found = measure(model(SMALL), {"x": np.ones((3, 4), np.float32)})
    assert found.activation_lower_bound_bytes == 96
    assert found.evidence == "measured"
    assert found.runtime_peak_bytes is not None
    assert found.runtime_peak_bytes > 0


BIG = "g (float[N] x) => (y) { a = Exp(x) b = Neg(x) c = Max(a, b) y = ReduceMax<keepdims=0>(c) }"


def test_peak_sees_the_activations() -> None:
    elements = 8 * 2**20
    small = measure_peak(model(BIG), {"x": np.ones(16, np.float32)}, runs=1)
    large = measure_peak(model(BIG), {"x": np.ones(elements, np.float32)}, runs=1)
    # at least input and two intermediate tensors of 32 MiB each; no more than five
    assert 3 * 4 * elements < large.peak_bytes - small.peak_bytes < 5 * 4 * elements
    assert large.steady_bytes <= large.peak_bytes
    assert large.baseline_bytes > 10 * 2**20
    assert (large.runs, large.evidence) == (1, "measured")


def test_the_peak_holds_what_is_freed_again(tmp_path: Path) -> None:
    # the weights are read from the message, copied, and the message is freed
    weight = onnx.numpy_helper.from_array(np.ones((1024, 4096), np.float32), "w")
    p = proto("g (float[1,1024] x, float[1024,4096] w) => (y) { y = MatMul(x, w) }")
    del p.graph.input[1]
    p.graph.initializer.append(weight)
    path = tmp_path / "model.onnx"
    onnx.save(p, path)
    found = measure_peak(path, {"x": np.ones((1, 1024), np.float32)})
    assert found.peak_bytes > 16 * 2**20
    assert "after the imports" in found.method


def test_any_folder_any_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('the wrong numpy')")
    (tmp_path / "edgeopt.py").write_text("raise ImportError('the wrong edgeopt')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert measure_peak(model(SMALL), ONES, runs=1).peak_bytes > 0


def test_names_types_and_strings_of_the_feed() -> None:
    # "file" is the first parameter of numpy.savez, "a/b" would be a folder in the archive
    m = model('g (float[2] file, int64[2] "a/b", bool[2] c) => (y, z, t) { y = Relu(file) z = Abs("a/b") t = Not(c) }')
    feed: dict[str, Array] = {"file": np.ones(2, np.float32), "a/b": np.ones(2, np.int64), "c": np.ones(2, np.bool_)}
    assert measure_peak(m, feed, runs=1).peak_bytes >= 0
    text = model("g (string[2] x) => (y) { y = Identity(x) }")
    assert measure_peak(text, {"x": np.array(["a", "ü"], dtype=object)}, runs=1).peak_bytes >= 0


def test_a_type_that_cannot_be_handed_over() -> None:
    with pytest.raises(UsageError, match="datetime64"):
        measure_peak(model(SMALL), {"x": np.zeros(2, "datetime64[s]")})


def test_weights_in_external_files_stay_where_they_are(tmp_path: Path) -> None:
    p = proto("g (float[1,64] x, float[64,64] w) => (y) { y = MatMul(x, w) }")
    del p.graph.input[1]
    p.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w"))
    onnx.save(p, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    loaded = ir.load(tmp_path / "m.onnx")
    feed = {"x": np.ones((1, 64), np.float32)}
    assert measure_peak(loaded, feed, runs=1).peak_bytes > 0
    assert measure_peak(tmp_path / "m.onnx", feed, runs=1).peak_bytes > 0


def test_a_model_beyond_one_message_is_handed_over_in_two_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "INLINE_LIMIT_BYTES", 0)
    m = model("g (float[2] x) => (y) <float[2] w = {1,2}> { y = Mul(x, w) }")
    assert measure_peak(m, {"x": np.ones(2, np.float32)}, runs=1).peak_bytes > 0


def test_a_model_that_onnxruntime_refuses(tmp_path: Path) -> None:
    broken = model("g (float[2,3] a, float[4,5] b) => (float[2,5] y) { y = MatMul(a, b) }")
    with pytest.raises(ModelError, match="cannot load the model"):
        measure_peak(broken, {})
    path = tmp_path / "no.onnx"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="cannot load the model") as caught:
        measure_peak(path, {})
    assert caught.value.where == str(path)
    with pytest.raises(ModelError, match="cannot run the model"):
        measure_peak(model(SMALL), {"x": np.ones((1, 3), np.float32)})


ENDLESS = """g (float[2] x, bool go) => (y)
{ n = Constant<value_int=9000000000000000000>()
  y = Loop(n, go, x) <body = l (int64 i, bool ci, float[2] s) => (bool co, float[2] t)
    { co = Identity(ci) t = Neg(s) }> }"""


def test_a_model_that_never_ends() -> None:
    feed = {"x": np.ones(2, np.float32), "go": np.array(True)}
    with pytest.raises(ModelError, match="had not run after 3 s"):
        measure_peak(model(ENDLESS), feed, timeout_s=3)


def child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the child run other code: what the parent makes of its end is the point."""
    run = subprocess.run

    def replaced(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        return run([command[0], "-c", code], **options)

    monkeypatch.setattr(subprocess, "run", replaced)


@pytest.mark.parametrize(
    ("number", "text"),
    [(11, r"crashed \(signal 11, SIGSEGV\)"), (6, "SIGABRT"), (9, "memory ran out"), (40, "signal 40")],
)
def test_a_crash_is_an_error_not_the_end(monkeypatch: pytest.MonkeyPatch, number: int, text: str) -> None:
    child(monkeypatch, f"import os; os.kill(os.getpid(), {number})")
    with pytest.raises(ModelError, match="onnxruntime crashed") as caught:
        measure_peak(model(SMALL), ONES)
    assert re.search(text, str(caught.value))


@pytest.mark.parametrize("code", ["print('no JSON')", "", "raise SystemExit(7)", "print(3)"])
def test_a_child_that_gives_no_answer(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    child(monkeypatch, code)
    with pytest.raises(ModelError, match="ended with exit code"):
        measure_peak(model(SMALL), ONES)


def test_three_real_models(shared: Path) -> None:
    listed = json.loads((shared / "data" / "models.json").read_text())
    for name in ("kws_dscnn", "cifar10_resnet20", "person_mobilenetv2_035_128"):
        m = ir.load(shared / "data" / listed[name]["file"])
        dims = [d if isinstance(d, int) else 1 for d in m.graph.inputs[0].shape or ()]
        found = measure(m, {m.graph.inputs[0].name or "": np.zeros(dims, np.float32)})
        assert found.runtime_peak_bytes is not None
        assert found.runtime_peak_bytes > found.activation_lower_bound_bytes + listed[name]["params"] * 4, name
