"""The verb around the optimizer: files, kills, models that cannot be rewritten."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest

from edgeopt import api, device, schemas
from edgeopt.errors import DataError, DeviceError, RecipeError, UsageError
from edgeopt.runtime import Session
from tests import fakes, tiny
from tests.bench.shared_data import SETS
from tests.conftest import ROOT
from tests.test_optimizer import FAST_INT8, SLOW_INT8

KILLED = """
import importlib, os, signal, sys
import pytest
from tests import fakes
from edgeopt import api
module, name, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
fakes.install(pytest.MonkeyPatch(), {"original": 10.0, "float": 8.0, "int8": 4.0})
owner = importlib.import_module(module)
*outer, name = name.split(".")
for part in outer:
    owner = getattr(owner, part)
real, calls = getattr(owner, name), 0
def last(*arguments, **options):
    global calls
    calls += 1
    if calls > number:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)
setattr(owner, name, last)
api.optimize("net.onnx", calib="data.npz", output="out", effort="fast")
"""
MOMENTS = {
    "before anything is known": ("edgeopt.optimizer", "simplify", 0, False),
    "before the first model is written": ("edgeopt.output_folder", "OutputFolder.save_model", 0, False),
    "while the first model is written": ("pathlib", "Path.replace", 0, False),
    "after the first model": ("edgeopt.making", "build", 0, True),
    "while measuring": ("edgeopt.latency", "measure", 0, True),
    "while the chosen model is written": ("pathlib", "Path.replace", 1, True),
    "between model and report": ("pathlib", "Path.replace", 2, True),
    "between report and recipe": ("pathlib", "Path.replace", 3, True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_time_it_leaves_a_valid_model_or_none(moment: str, tmp_path: Path) -> None:
    module, name, number, there = MOMENTS[moment]
    tiny.write(tmp_path)
    earlier = tmp_path / "out" / "report.json"
    if not there:
        earlier.parent.mkdir()
        earlier.write_text("of an earlier run")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, module, name, str(number)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    model = tmp_path / "out" / "model.onnx"
    assert model.exists() == there
    if there:
        onnx.checker.check_model(str(model))
        assert Session(model).run({"x": tiny.inputs()[:1]})["y"].shape == (1, 3)
        finished = [p.name for p in model.parent.iterdir() if not p.name.startswith(".")]
        assert "recipe.toml" not in finished
        if "report.json" in finished:
            assert json.loads(earlier.read_text())["choice"] == "int8"


def test_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tiny.write(tmp_path)
    fakes.install(monkeypatch, FAST_INT8)
    result = api.optimize(files.model, calib=files.data, output=tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.onnx", "recipe.toml", "report.json"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == result.report
    assert (tmp_path / "out" / "model.onnx").stat().st_size == result.report["after"]["file_bytes"]
    recipe = tomllib.loads((tmp_path / "out" / "recipe.toml").read_text())
    assert recipe["decisions"] == {
        "choice": "int8",
        "range": "minmax",
        "model_sha256": result.report["model"]["sha256"],
        "preset": device.host_preset(),
    }


def test_without_output_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tiny.write(tmp_path)
    fakes.install(monkeypatch, FAST_INT8)
    before = sorted(tmp_path.rglob("*"))
    api.optimize(files.model, calib=files.data)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_shipped_model_tells_how_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tiny.write(tmp_path)
    fakes.install(monkeypatch, SLOW_INT8)
    result = api.optimize(files.model, calib=files.data)
    done = json.loads(result.model.metadata_props["edgeopt"])
    assert (done["verb"], done["choice"]) == ("optimize", "float")
    assert done["source_sha256"] == result.report["model"]["sha256"]


def test_a_model_that_cannot_be_rewritten_is_copied(tmp_path: Path) -> None:
    model = tiny.sparse(tmp_path)
    result = api.optimize(model, calib=np.ones((8, 4), np.float32), output=tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == model.read_bytes()
    assert (result.exit_code, result.report["verdict"]) == (0, "unchanged")
    assert result.report["warnings"] == [
        "returned untouched: the model has a sparse initializer 'w', which a rewrite would lose"
    ]
    assert result.proto.SerializeToString() == onnx.load(model).SerializeToString()
    assert tomllib.loads((tmp_path / "out" / "recipe.toml").read_text())["decisions"]["choice"] == "original"


def test_evaluation_data_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tiny.write(tmp_path)
    fakes.install(monkeypatch, FAST_INT8)
    x, labels = tiny.decided()
    report = api.optimize(
        files.model, calib=files.unlabelled, eval=([a, int(b)] for a, b in zip(x[:7], labels, strict=False))
    ).report
    assert report["evaluation"]["samples"] == 7
    assert report["calibration"]["samples"] == tiny.SAMPLES
    assert report["before"]["score"] == {"metric": "top1", "value": 1.0, "samples": 7}


def test_the_agreement_is_that_of_the_shipped_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tiny.write(tmp_path)
    fakes.install(monkeypatch, FAST_INT8)
    result = api.optimize(files.model, calib=files.data)
    session, original = Session(result.model), Session(files.model)
    worst = max(
        float(np.abs(session.run({"x": x[None]})["y"] - original.run({"x": x[None]})["y"]).max()) for x in tiny.inputs()
    )
    assert result.report["agreement"]["max_abs_error"] == pytest.approx(worst, rel=1e-3)
    assert result.report["agreement"]["top1_agreement"] == 1.0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"effort": "huge"}, UsageError, "--effort: expected one of fast, normal, best, found 'huge'"),
        ({"range": "best"}, UsageError, "--range: expected one of minmax, "),
        ({"threads": 0}, UsageError, "--threads: expected 1 to 1024, found 0"),
        ({"threads": 1.5}, UsageError, "--threads: expected 1 to 1024, found 1.5"),
        ({"seed": -1}, UsageError, "--seed: expected a whole number"),
        ({"max_drop": float("nan")}, UsageError, "--max-drop: expected a number of at least 0, found nan"),
        ({"max_file_bytes": -1}, UsageError, "--max-file-bytes"),
        ({"device": "arm"}, DeviceError, "'arm' is a preset"),
        ({"recipe": "no.toml"}, RecipeError, "cannot be read"),
        ({"metric": "top9"}, DataError, "unknown metric 'top9'"),
        ({"eval": np.zeros((0, 2, 8, 8), np.float32)}, DataError, "no samples"),
    ],
)
def test_bad_parameters(given: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    files = tiny.write(tmp_path)
    with pytest.raises(error) as caught:
        api.optimize(files.model, calib=files.data, output=tmp_path / "out", **given)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_trained_model_from_end_to_end(shared: Path, tmp_path: Path) -> None:
    """Nothing replaced: search, checks, measurement, replay."""
    model = shared / "data" / "models" / "kws_dscnn.onnx"
    calib, evaluation = SETS["kws_dscnn"]
    result = api.optimize(model, calib=calib, eval=evaluation, output=tmp_path / "a", effort="fast")
    assert result.exit_code == 0
    jsonschema.Draft202012Validator(schemas.load("report")).validate(result.report)
    choices = {c["choice"]: c for c in result.report["candidates"]}
    assert {"original", "int8"} <= set(choices)
    if result.report["choice"].startswith("mixed"):
        kept = {n["node"] for n in result.report["int8"]["float_nodes"] if n["reason"].startswith("kept float")}
        assert kept & set(result.report["decisions"]["keep_float"])
    drop = result.report["before"]["score"]["value"] - result.report["after"]["score"]["value"]
    assert drop <= 0.01
    api.optimize(model, calib=calib, eval=evaluation, output=tmp_path / "b", recipe=tmp_path / "a" / "recipe.toml")
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()
