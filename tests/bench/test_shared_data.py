"""The float models score on our own data sets what models.json says, to its printed digits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import onnx_ir as ir
import pytest

from edgeopt.calibration import open_dataset
from edgeopt.graph import input_specs
from edgeopt.runtime import Session
from tests.bench.shared_data import FIGURES, SETS

SLOW = {  # 7 to 20 s each
    "cifar10_resnet20", "cifar10_resnet20_ft", "cifar10_resnet56", "imagenet_squeezenet10_dc",
}  # fmt: skip
SAMPLES = {"n", "images", "frames"}


def test_every_model_has_its_sets(shared: Path) -> None:
    models = json.loads((shared / "data" / "models.json").read_text())
    assert set(SETS) == set(models)


@pytest.mark.parametrize("name", SETS)
def test_score_is_the_published_one(name: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in SLOW and os.environ.get("EDGEOPT_SLOW") != "1":
        pytest.skip("takes 7 to 20 s; set EDGEOPT_SLOW=1 to run it")
    monkeypatch.setenv("EDGEOPT_SHARED", str(shared))
    facts = json.loads((shared / "data" / "models.json").read_text())[name]
    path = shared / "data" / facts["file"]
    model = ir.load(path)
    _, evaluation = SETS[name]
    dataset = open_dataset(evaluation, input_specs(model), model=model)
    assert dataset.metric is not None
    figure, digits = FIGURES[dataset.metric.name.rpartition(":")[2]]
    assert dataset.warnings == []
    assert len(dataset) == next(v for k, v in facts["fp32"].items() if k in SAMPLES)
    assert round(dataset.score(Session(path, threads=1).run), digits) == facts["fp32"][figure]


@pytest.mark.parametrize("name", SETS)
def test_calibration_sets_open_without_findings(name: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPT_SHARED", str(shared))
    facts = json.loads((shared / "data" / "models.json").read_text())[name]
    model = ir.load(shared / "data" / facts["file"])
    calibration, _ = SETS[name]
    dataset = open_dataset(calibration, input_specs(model), model=model)
    assert dataset.warnings == []
    assert sum(1 for _ in dataset) == len(dataset) >= 16


@pytest.mark.parametrize("name", ["cifar10_resnet20", "imagenet_mobilenetv1_025", "coco_fastestdet", "face_rfb320"])
def test_raw_pixels_are_noticed(name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same calibration data with its scale, mean and std forgotten."""
    monkeypatch.setenv("EDGEOPT_SHARED", str(shared))
    facts = json.loads((shared / "data" / "models.json").read_text())[name]
    model = ir.load(shared / "data" / facts["file"])
    declared = Path(SETS[name][0])
    lines = [
        line.replace('"../', f'"{declared.parent.parent}/')
        for line in declared.read_text().splitlines()
        if not line.startswith(("scale", "mean", "std"))
    ]
    (tmp_path / "raw.toml").write_text("\n".join(lines))
    (warning,) = open_dataset(tmp_path / "raw.toml", input_specs(model), model=model).warnings
    assert "normalization" in warning
