"""The demo's model and data are what their README says."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeopt import files
from edgeopt.calibration.dataset import Dataset, open_dataset
from edgeopt.graph import Array, input_specs, op_histogram, opset, output_specs, weight_tensors
from edgeopt.runtime import Session

ASSETS = Path(__file__).resolve().parent.parent / "edgeopt" / "assets"


def stored(name: str) -> dict[str, Array]:
    with np.load(ASSETS / f"digits_{name}.npz") as archive:
        return {k: archive[k] for k in archive.files}


def opened(name: str) -> Dataset:
    model = files.load(ASSETS / "digits.onnx").model
    return open_dataset(str(ASSETS / f"digits_{name}.toml"), input_specs(model), model=model)


def test_the_model_is_a_plain_export_with_something_left_to_do() -> None:
    path = ASSETS / "digits.onnx"
    loaded = files.load(path)
    assert path.stat().st_size < 1_000_000
    assert loaded.checker_error is None
    assert loaded.repairs == ()
    assert opset(loaded.model) == 17
    assert [s.describe() for s in input_specs(loaded.model)] == ["float32[N,1,16,16]"]
    assert [s.describe() for s in output_specs(loaded.model)] == ["float32[N,10]"]
    ops = op_histogram(loaded.model)
    assert ops["BatchNormalization"] == ops["Conv"] == 9
    assert ops["Add"] == 3
    assert ops["Identity"] == 2
    # learned values; the running means and variances of the batch norms are stored, but not learned
    learned = {n: t for n, t in weight_tensors(loaded.model).items() if ".running_" not in n}
    shared_biases = 48 + 96  # two equal pairs are stored once and reach the second place through an Identity
    assert sum(t.size for t in learned.values()) + shared_biases == 185_866


def test_no_trace_of_the_machine_it_was_made_on() -> None:
    proto = onnx.load(ASSETS / "digits.onnx")
    assert not any(node.doc_string for node in proto.graph.node)
    data = proto.SerializeToString()
    assert b"site-packages" not in data
    assert b".py" not in data


def test_the_parts_are_disjoint_raw_and_stratified() -> None:
    calib, evaluation = stored("calib"), stored("eval")
    for part, count in ((calib, 200), (evaluation, 500)):
        assert part["images"].shape == (count, 8, 8, 1)
        assert part["images"].dtype == np.uint8
        assert part["images"].max() == 16
        assert part["labels"].shape == (count,)
        shares = np.bincount(part["labels"], minlength=10) / count
        assert np.abs(shares - 0.1).max() <= 0.005
    both = np.concatenate([calib["images"], evaluation["images"]]).reshape(700, -1)
    assert len(np.unique(both, axis=0)) == 700


@pytest.mark.parametrize(("name", "count", "score"), [("calib", 200, 1.0), ("eval", 500, 0.998)])
def test_the_score_is_the_one_that_the_readme_states(name: str, count: int, score: float) -> None:
    dataset = opened(name)
    assert dataset.samples == count
    assert dataset.warnings == []
    assert dataset.metric is not None
    assert dataset.metric.name == "top1"
    assert dataset.score(Session(ASSETS / "digits.onnx").run) == pytest.approx(score, abs=0.0011)


def test_training_saw_what_the_data_sets_declare(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="needs torch (pip install edgeopt[torch])")
    pytest.importorskip("sklearn", reason="needs scikit-learn (pip install edgeopt[dev])")
    monkeypatch.syspath_prepend(str(ASSETS))
    monkeypatch.delitem(sys.modules, "train_digits", raising=False)
    script = importlib.import_module("train_digits")
    parts = script.split()
    for name in ("calib", "eval"):
        for key, array in zip(("images", "labels"), parts[name], strict=True):
            np.testing.assert_array_equal(stored(name)[key], array)
        read = np.concatenate([sample.inputs["image"] for sample in opened(name)])
        np.testing.assert_array_equal(read, script.preprocess(parts[name][0]))
        assert (ASSETS / f"digits_{name}.toml").read_text(encoding="utf-8") == script.dataset_toml(name)
    flat = {k: {p.tobytes() for p in images} for k, (images, _) in parts.items()}
    assert not flat["train"] & (flat["calib"] | flat["eval"])
    assert {k: len(v) for k, v in flat.items()} == {"train": 1097, "calib": 200, "eval": 500}
