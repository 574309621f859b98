from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from edgeopt import api, files, onnxsim_pass, shapes
from edgeopt.errors import UsageError
from edgeopt.onnxsim_pass import run_onnxsim
from edgeopt.oracle import Oracle, PassReport
from tests import models, tiny

SAVE = "import sys, onnx\nmodel = onnx.load(sys.argv[1])\n{}\nonnx.save(model, sys.argv[2])\n"


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts other code in the place of onnxsim's, which then need not be installed."""

    def replace(code: str) -> tuple[ir.Model, ir.Model, PassReport]:
        monkeypatch.setattr(onnxsim_pass, "_CHILD", code)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        model = shapes.infer(files.load(tiny.net()).model)
        return model, *run_onnxsim(model, Oracle(model), timeout_s=20)

    return replace


WRONG = {
    "a crash": ("import os\nos.kill(os.getpid(), 11)", "it ended with code -11"),
    "an exception": ("raise RuntimeError('no')", "it ended with code 1"),
    "no result": ("", "its result cannot be read: "),
    "garbage": ("import sys\nopen(sys.argv[2], 'w').write('x')", "its result cannot be read: "),
    "another input": (
        SAVE.format("model.graph.input[0].name = model.graph.node[0].input[0] = 'z'"),
        "changed the inputs",
    ),
    "another output": (
        SAVE.format("model.graph.output[0].name = model.graph.node[-1].output[0] = 'z'"),
        "changed the outputs",
    ),
    "another shape": (
        SAVE.format("model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1"),
        "it changed the outputs",
    ),
    "a wrong weight": (
        SAVE.format(
            "from onnx import numpy_helper as h\nt = model.graph.initializer[0]\n"
            "t.CopyFrom(h.from_array(h.to_array(t) * 1.001, t.name))"
        ),
        "output 'y' differs by",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_whatever_goes_wrong_the_model_comes_back_as_it_was(case: str, child: Any) -> None:
    code, reason = WRONG[case]
    model, result, report = child(code)
    assert result is model
    assert not report.hits
    assert [s.node for s in report.rolled_back] == ["*"]
    assert reason in report.rolled_back[0].reason


def test_a_result_that_is_right_is_taken(child: Any) -> None:
    model, result, report = child(SAVE.format("model.graph.node[4].name = 'sum'"))
    assert result is not model
    assert report.rolled_back == []
    assert report.hits == []  # the same operators: nothing that is worth a hit
    models.assert_same(model, result)


def test_one_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxsim_pass, "_CHILD", "import time\ntime.sleep(60)")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    model = files.load(tiny.net()).model
    result, report = run_onnxsim(model, Oracle(model), timeout_s=0.3)
    assert result is model
    assert report.rolled_back[0].reason == "it took longer than 0.3 s"


def test_a_result_that_cannot_be_verified_is_not_taken(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "g (float[N,4] x) => (float[N,4] y) { [n] y = RandomNormalLike(x) }"
    model = shapes.infer(files.load(models.filled(text)).model)
    child("")
    monkeypatch.setattr(onnxsim_pass, "_CHILD", SAVE.format(""))
    result, report = run_onnxsim(model, Oracle(model))
    assert result is model
    assert "its result cannot be verified: the original gives other outputs" in report.rolled_back[0].reason


def test_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--with onnxsim: onnxsim is not installed"):
        api.simplify(tiny.write(tmp_path).model, with_=["onnxsim"])


@pytest.mark.skipif(importlib.util.find_spec("onnxsim") is None, reason="needs onnxsim, an optional dependency")
def test_the_real_one(tmp_path: Path) -> None:
    files_ = tiny.write(tmp_path)
    result = api.simplify(files_.model, with_=["onnxsim"], verify=False)  # foreign code is verified all the same
    report = result.report["passes"][0]
    assert (report["name"], report["hits"], report["rolled_back"]) == ("onnxsim", 1, [])
    assert "BatchNormalization" not in {n.op_type for n in result.model.graph}
    models.assert_same(files.load(files_.model).model, result.model)


def test_an_unknown_simplifier(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--with: expected onnxsim, found onnxslim"):
        api.simplify(tiny.write(tmp_path).model, with_=["onnxslim"])
