from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import files, ort_format, saving
from edgeopt.errors import CheckError, ModelError, UsageError
from edgeopt.graph import Array, input_specs
from edgeopt.ort_format import to_ort
from edgeopt.runtime import Session
from tests.models import model

NET = """
agraph (float[N,3,8,8] x) => (float[N,4] y)
{
    c = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(c)
    p = GlobalAveragePool(r)
    y = Flatten(p)
}
"""

INT8 = """
agraph (float[1,4,6,6] x) => (float[1,4,6,6] y)
<float s = {0.05}, uint8 z = {128}, float sw = {0.01}, int8 zw = {0}>
{
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear(w, sw, zw)
    c = Conv<pads=[1,1,1,1]>(d, wd)
    qc = QuantizeLinear(c, s, z)
    y = DequantizeLinear(qc, s, z)
}
"""


def filled(text: str) -> ir.Model:
    """The model with random weights for what the text uses without saying where it comes from."""
    result = model(text)
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "b": np.ones(4, np.float32)}
    if text is INT8:
        arrays = {"w": rng.integers(-90, 90, (4, 4, 3, 3)).astype(np.int8)}
    for node in result.graph:
        for value in node.inputs:
            if value is not None and (array := arrays.pop(value.name or "", None)) is not None:
                value.const_value = ir.tensor(array, name=value.name)
                result.graph.register_initializer(value)
    return result


def feed_of(source: ir.Model, batch: int) -> dict[str, Array]:
    shape = [d if isinstance(d, int) else batch for d in input_specs(source)[0].dims or ()]
    return {"x": np.random.default_rng(5).standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("level", ["basic", "extended"])
@pytest.mark.parametrize("text", [NET, INT8], ids=["float", "int8"])
def test_the_file_runs_like_the_model(text: str, level: Any) -> None:
    source = filled(text)
    before = saving.serialize(source)
    data = to_ort(source, level=level)
    assert data[4:8] == b"ORTM"
    assert saving.serialize(source) == before
    feed = feed_of(source, 3)
    expected = Session(source).run(feed)["y"]
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(Session(data).run(feed)["y"], expected, atol=0.051 if text is INT8 else 1e-5)


def test_int8_operators_are_fused_unless_told_otherwise() -> None:
    source = filled(INT8)
    assert b"QLinearConv" in to_ort(source)
    assert b"QLinearConv" not in to_ort(source, level="basic")


def test_no_layout_that_is_tied_to_a_processor() -> None:
    assert b"Reorder" not in to_ort(filled(NET))  # ReorderInput and ReorderOutput go into and out of NCHWc


def test_same_model_same_file_but_for_the_order_of_tables() -> None:
    feed = feed_of(filled(INT8), 1)
    one, two = to_ort(filled(INT8)), to_ort(filled(INT8))
    assert len(one) == len(two)
    np.testing.assert_array_equal(Session(one).run(feed)["y"], Session(two).run(feed)["y"])


def test_weights_in_an_external_file_are_taken_in(tmp_path: Path) -> None:
    source = filled(NET)
    ir.save(source, tmp_path / "net.onnx", external_data="net.data")
    data = to_ort(files.load(tmp_path / "net.onnx").model)
    (tmp_path / "net.data").unlink()
    feed = feed_of(source, 1)
    np.testing.assert_allclose(Session(data).run(feed)["y"], Session(source).run(feed)["y"], atol=1e-6)


def test_sequences_are_compared_too() -> None:
    source = model("agraph (float[2,3] x) => (seq(float[2,3]) y) { n = Neg(x) y = SequenceConstruct(x, n) }")
    assert to_ort(source)[4:8] == b"ORTM"


def test_an_unknown_level() -> None:
    with pytest.raises(UsageError, match="unknown level 'all'; expected one of"):
        to_ort(filled(NET), level="all")  # type: ignore[arg-type]  # what a user may write


def test_a_model_that_onnxruntime_refuses() -> None:
    with pytest.raises(ModelError, match="cannot load"):
        to_ort(model("agraph (float[1] x) => (float[1] y) { y = Unheard(x) }"))


def test_a_model_that_is_random_cannot_be_compared() -> None:
    with pytest.raises(CheckError, match=r"the \.ort file does not do what the model does"):
        to_ort(model("agraph (float[9] x) => (float[9] y) { r = RandomNormalLike(x) y = Add(x, r) }"))


def sabotage(monkeypatch: pytest.MonkeyPatch, other: ir.Model) -> None:
    """Make the written file that of another model."""

    def session(source: Any, **options: Any) -> Session:
        writes = "session_options" in options and options["session_options"].optimized_model_filepath
        return Session(other if writes else source, **options)

    monkeypatch.setattr(ort_format, "Session", session)


def test_sabotage_a_weight_wrong_by_one_in_a_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    source, wrong = filled(NET), filled(NET)
    value = wrong.graph.initializers["w"]
    assert value.const_value is not None
    weight = value.const_value.numpy().copy()
    weight[2] *= 1.001
    value.const_value = ir.tensor(weight, name="w")
    sabotage(monkeypatch, wrong)
    with pytest.raises(CheckError, match="output 0 differs") as caught:
        to_ort(source)
    assert caught.value.exit_code == 4


def test_sabotage_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage(monkeypatch, filled(NET.replace(" y", " other")))
    with pytest.raises(CheckError, match="have other names"):
        to_ort(filled(NET))
