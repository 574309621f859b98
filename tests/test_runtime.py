from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgeopt import files, runtime, saving
from edgeopt.errors import ModelError
from edgeopt.runtime import Level, Session, as_array, external_folder, inline_bytes, options, short, version
from tests.models import filled, model

ADD = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"
X = {"x": np.array([1, 1], np.float32)}
ENDLESS = """g (float[2] x) => (float[2] y) { n = Constant<value = int64 {9000000000000}>()
    c = Constant<value = bool {1}>() y = Loop(n, c, x) <
    body = b (int64 i, bool ci, float[2] a) => (bool co, float[2] a2) { co = Identity(ci) a2 = Sin(a) }> }"""


def test_version() -> None:
    assert version() == f"onnxruntime {ort.__version__}"


def test_options() -> None:
    made = options(Level.NONE, 3)
    assert made.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert (made.intra_op_num_threads, made.inter_op_num_threads) == (3, 1)


@pytest.mark.parametrize("level", Level)
def test_session_takes_a_model_bytes_and_a_path(level: Level, tmp_path: Path) -> None:
    made = model(ADD)
    (tmp_path / "m.onnx").write_bytes(saving.serialize(made))
    for source in (made, saving.serialize(made), tmp_path / "m.onnx"):
        session = Session(source, level)
        assert (session.input_names, session.output_names) == (["x"], ["y"])
        assert session.run(X)["y"].tolist() == [2, 3]


def test_session_takes_options_of_the_callers() -> None:
    made = options(Level.NONE)
    made.enable_profiling = False
    assert Session(model(ADD), session_options=made).run(X)["y"].tolist() == [2, 3]


@pytest.mark.parametrize(
    "source", [b"garbage", b"", Path("missing.onnx"), "g (float[2] x) => (float[2] y) { y = No(x) }"]
)
def test_session_refuses(source: bytes | Path | str) -> None:
    with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
        Session(model(source) if isinstance(source, str) else source)


def test_run_of_some_outputs() -> None:
    session = Session(model("g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x) z = Exp(x) }"))
    assert list(session.run(X, ["z"])) == ["z"]
    assert session.run(X, []) == {}
    assert list(session.run(X)) == ["y", "z"]


def test_run_gives_sequences_as_lists() -> None:
    found = Session(model("g (float[2] x) => (seq(float[2]) y) { y = SequenceConstruct(x, x) }")).run(X)
    assert [v.tolist() for v in found["y"]] == [[1, 1], [1, 1]]
    assert as_array(found["y"]) is None
    assert as_array(found["y"][0]) is not None


def test_run_fails() -> None:
    session = Session(model(ADD))
    for feed in ({}, {"x": np.zeros(3, np.float32)}, {"x": np.zeros(2)}, {"z": np.zeros(2, np.float32)}):
        with pytest.raises(ModelError, match="onnxruntime cannot run the model"):
            session.run(feed)


def test_run_is_stopped_in_time() -> None:
    with pytest.raises(ModelError, match=r"ran longer than 0\.2 s"):
        Session(model(ENDLESS), Level.NONE).run(X, timeout_s=0.2)


def test_outputs_are_written_into_given_arrays() -> None:
    session = Session(model("g (float[N] x) => (float[N] y, float[N] z) { y = Neg(x) z = Exp(x) }"))
    arrays = {"y": np.zeros(2, np.float32)}
    run = session.writing_into(arrays)
    for values in ([1, 2], [3, 4]):
        run({"x": np.array(values, np.float32)})
        assert arrays["y"].tolist() == [-v for v in values]
    for feed in ({"x": np.zeros(3, np.float32)}, {"x": np.zeros(2)}, {"z": np.zeros(2, np.float32)}):
        with pytest.raises(ModelError, match="onnxruntime cannot run the model"):
            run(feed)
    run(X)
    assert arrays["y"].tolist() == [-1, -1]


def test_weights_beyond_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model then goes through a file that is gone when the session runs."""
    monkeypatch.setattr(runtime, "INLINE_LIMIT_BYTES", 1000)
    text = "g (float[300] x) => (float[300] y) <float[300] w, float[2] s = {1, 2}> { y = Add(x, w) }"
    made = files.load(filled(text)).model
    assert inline_bytes(made) == 1208
    before = saving.serialize(made)
    found = Session(made, Level.NONE).run({"x": np.zeros(300, np.float32)})
    assert np.array_equal(found["y"], made.graph.initializers["w"].const_value.numpy())  # type: ignore[union-attr]
    assert saving.serialize(made) == before


def saved(folder: Path, name: str = "m") -> ir.Model:
    folder.mkdir(exist_ok=True)
    text = "g (float[300] x) => (float[300] y) <float[300] w> { y = Add(x, w) }"
    onnx.save(
        filled(text), folder / f"{name}.onnx", save_as_external_data=True, location=f"{name}.bin", size_threshold=0
    )
    return files.load(folder / f"{name}.onnx").model


def test_external_weights(tmp_path: Path) -> None:
    made = saved(tmp_path)
    assert external_folder(made) == str(tmp_path.resolve())
    assert inline_bytes(made) == 0
    found = Session(made, Level.NONE).run({"x": np.zeros(300, np.float32)})
    assert np.array_equal(found["y"], made.graph.initializers["w"].const_value.numpy())  # type: ignore[union-attr]
    assert external_folder(model(ADD)) is None


def test_external_weights_of_several_folders(tmp_path: Path) -> None:
    made, other = saved(tmp_path / "a"), saved(tmp_path / "b")
    value = other.graph.initializers["w"]
    made.graph.register_initializer(
        ir.Value(name="v", const_value=value.const_value, type=value.type, shape=value.shape)
    )
    with pytest.raises(ModelError, match="several folders"):
        Session(made)


def test_short() -> None:
    status = "[ONNXRuntimeError] : 1 : FAIL : /a/b/onnxruntime/core/x.cc:7 what\n  happened"
    assert short(RuntimeError(status)) == "what happened"
    assert len(short(RuntimeError("x" * 1000))) == 400
