"""``fix_weights``: what happens to initializers that are listed as inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import edgeopt
from edgeopt import files
from edgeopt.cli import main
from edgeopt.graph import input_specs, op_histogram
from edgeopt.request import open_model
from edgeopt.runtime import Level, Session
from tests import fakes, tiny
from tests.test_optimizer import FAST_INT8

NOTE = "initializers are no longer listed as inputs (--fix-weights)"
WARNING = "are listed as inputs too, so that callers may override them"


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    fakes.install(monkeypatch, FAST_INT8 | {"before": 10.0, "after": 4.0})


def listed() -> onnx.ModelProto:
    """The tiny net, its weights listed as inputs."""
    proto = tiny.net()
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return proto


def test_without_it_they_stay_and_nothing_is_folded() -> None:
    proto = listed()
    result = edgeopt.simplify(proto)
    assert any(WARNING in text for text in result.report["warnings"])
    assert [v.name for v in result.model.graph.inputs] == [v.name for v in proto.graph.input]
    assert op_histogram(result.model) == op_histogram(files.load(proto).model)


def test_with_it_they_are_constants() -> None:
    proto = listed()
    result = edgeopt.simplify(proto, fix_weights=True)
    assert not any(WARNING in text for text in result.report["warnings"])
    assert result.report["model"]["repairs"] == [f"{len(proto.graph.initializer)} {NOTE}"]
    assert [v.name for v in result.model.graph.inputs] == ["x"]
    assert op_histogram(result.model) == op_histogram(edgeopt.simplify(tiny.net()).model)
    x = tiny.inputs()[:1]
    before, after = (Session(m, Level.NONE).run({"x": x}) for m in (files.load(proto).model, result.model))
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-4, atol=1e-5)


def test_a_model_without_such_weights_is_what_was_given() -> None:
    loaded = open_model(tiny.net(), None, fix_weights=True)
    assert loaded.as_given
    assert not any(NOTE in text for text in loaded.repairs)


def test_with_a_shape() -> None:
    loaded = open_model(listed(), ["x=5,2,8,8"], fix_weights=True)
    assert [(s.name, s.dims) for s in input_specs(loaded.model)] == [("x", (5, 2, 8, 8))]


@pytest.mark.parametrize("fixed", [False, True])
def test_the_other_verbs(fixed: bool, tmp_path: Path, faked: None) -> None:
    data = tiny.write(tmp_path).unlabelled
    for result in (
        edgeopt.quantize(listed(), calib=data, fix_weights=fixed),
        edgeopt.optimize(listed(), calib=data, effort="fast", fix_weights=fixed),
    ):
        assert any(WARNING in text for text in result.report["warnings"]) != fixed
        assert (len(result.model.graph.inputs) == 1) == fixed
    assert result.recipe is not None
    assert result.recipe.options["fix_weights"] == fixed


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "listed.onnx"
    onnx.save(listed(), path)
    out = tmp_path / "out.onnx"
    assert main(["simplify", str(path), "-o", str(out), "--fix-weights"]) == 0
    assert [v.name for v in onnx.load(out).graph.input] == ["x"]
    assert NOTE in capsys.readouterr().out
