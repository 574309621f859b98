from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeopt.calibration.dataset_toml import read_dataset_toml
from edgeopt.calibration.preprocess import Preprocess
from edgeopt.errors import DataError
from tests.calibration.specs import FLAT, IMAGE, noise, pixels, spec, write_toml

FULL = """
[input]
source = "a.npz:images"
layout = "NHWC"
model_layout = "NCHW"
resize = 10
center_crop = [8, 6]
color = "BGR"
scale = 0.5
mean = [1, 2, 3]
std = 4
[labels]
source = "a.npz:labels"
[score]
metric = "top5"
"""


def problems_of(folder: Path, text: str, *specs: object) -> str:
    path = write_toml(folder, text)
    with pytest.raises(DataError) as caught:
        read_dataset_toml(Path(path), specs or [IMAGE])  # type: ignore[arg-type]
    assert str(caught.value).startswith(path)
    return str(caught.value)


def test_everything_declared(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=pixels(3, 9, 9, 3), labels=np.arange(3))
    found = read_dataset_toml(Path(write_toml(tmp_path, FULL)), [IMAGE])
    assert found.preprocess == {
        "x": Preprocess("NHWC", "NCHW", 10, (8, 6), "BGR", 0.5, (1.0, 2.0, 3.0), 4.0),
    }
    assert found.metric is not None
    assert found.metric.name == "top5"
    assert found.sources == {"x": "a.npz:images", "labels": "a.npz:labels"}
    assert found.source.count == 3
    elements = [e for _, e in found.source.elements()]
    np.testing.assert_array_equal([e.inputs["x"] for e in elements], pixels(3, 9, 9, 3))
    assert [e.label for e in elements] == [0, 1, 2]


def test_several_inputs_walk_side_by_side(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=noise(3, 4), b=noise(3, 2))
    (tmp_path / "dt_side.py").write_text(
        "import numpy as np\ndef b():\n    return (np.ones(2) * i for i in range(3))\n"
    )
    text = '[inputs.a]\nsource = "a.npz:a"\nscale = 2\n[inputs.b]\nsource = "{}"\n'
    for source in ("a.npz:b", "dt_side:b"):
        path = write_toml(tmp_path, text.format(source))
        found = read_dataset_toml(Path(path), [spec("a", "N", 4), spec("b", "N", 2)])
        elements = [e for _, e in found.source.elements()]
        assert [sorted(e.inputs) for e in elements] == [["a", "b"]] * 3
        assert found.preprocess["a"].scale == 2
        assert elements[0].label is None


def test_images_know_their_layout_and_the_models_colours(tmp_path: Path) -> None:
    Image.fromarray(pixels(8, 6, 3)).save(tmp_path / "a.png")
    path = Path(write_toml(tmp_path, '[input]\nsource = "*.png"\n'))
    assert read_dataset_toml(path, [IMAGE]).preprocess["x"] == Preprocess(layout="NHWC", color="RGB")
    assert read_dataset_toml(path, [spec("x", "N", 1, 8, 6)]).preprocess["x"].color == "GRAY"
    wrong = '[input]\nsource = "*.png"\nlayout = "NCHW"\n'
    assert "$.input.layout: image files are read as NHWC" in problems_of(tmp_path, wrong)


def test_labels_may_come_with_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "dt_pairs.py").write_text("import numpy as np\ndef pairs():\n    return [(np.zeros(4), 7)] * 2\n")
    path = Path(write_toml(tmp_path, '[input]\nsource = "dt_pairs:pairs"\n'))
    assert [e.label for _, e in read_dataset_toml(path, [FLAT]).source.elements()] == [7, 7]
    (tmp_path / "l.txt").write_text("1\n2\n")
    path = Path(write_toml(tmp_path, '[input]\nsource = "dt_pairs:pairs"\n[labels]\nsource = "l.txt"\n'))
    with pytest.raises(DataError, match="more than one source gives labels"):
        list(read_dataset_toml(path, [FLAT]).source.elements())


def test_all_problems_at_once(tmp_path: Path) -> None:
    text = """
extra = 1
[input]
source = "missing.npz:x"
sclae = 2
color = "CMYK"
std = 0
[labels]
source = "none.txt"
kind = "int"
[score]
metric = "accuracy"
unit = "%"
"""
    message = problems_of(tmp_path, text)
    for part in (
        "9 problems:",
        "$.extra: unknown key",
        "$.input.source: ",
        "there is no such file",
        "$.input.sclae: unknown key; did you mean 'scale'?",
        "$.input.color: expected one of RGB, BGR, GRAY, found 'CMYK'",
        "$.input.std: expected numbers above 0, found 0",
        "$.labels.source: none.txt: there is no such file",
        "$.labels.kind: unknown key",
        "$.score.metric: unknown metric 'accuracy'",
        "$.score.unit: unknown key",
    ):
        assert part in message


def test_input_sections(tmp_path: Path) -> None:
    two = spec("a", "N", 4), spec("b", "N", 2)
    np.save(tmp_path / "a.npy", noise(3, 4))
    one = '[input]\nsource = "a.npy"\n'
    a = '[inputs.a]\nsource = "a.npy"\n'
    assert "there is no [input]; expected [input] with its source, or [inputs.NAME] for each of 'x'" in problems_of(
        tmp_path, "[labels]\nsource = 'a.npy'"
    )
    assert "both [input] and [inputs.…] are given" in problems_of(tmp_path, one + a)
    assert "$.input: the model has 2 inputs; write [inputs.NAME] for each of 'a', 'b'" in problems_of(
        tmp_path, one, *two
    )
    assert "$.inputs.b: missing" in problems_of(tmp_path, a, *two)
    assert "$.inputs.a: the model has no such input; its inputs: 'x'" in problems_of(tmp_path, a)
    assert "$.input: expected a table ([input]), found text" in problems_of(tmp_path, "input = 'a.npy'")
    assert "$.inputs.a: expected a table" in problems_of(tmp_path, "inputs.a = 3", *two)
    assert "$.input.source: expected text, found nothing" in problems_of(tmp_path, "[input]\nscale = 1")
    assert "$.score.metric: expected text, found a number" in problems_of(tmp_path, one + "[score]\nmetric = 1")


def test_files_that_are_no_toml(tmp_path: Path) -> None:
    assert "is not valid TOML: " in problems_of(tmp_path, "[input\n")
    (tmp_path / "raw.toml").write_bytes(b"\xff\xfe")
    for name in ("raw.toml", "absent.toml"):
        with pytest.raises(DataError, match="cannot be read"):
            read_dataset_toml(tmp_path / name, [IMAGE])


def test_sources_of_different_lengths(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=noise(3, 4), labels=np.arange(2))
    text = '[input]\nsource = "a.npz:images"\n[labels]\nsource = "a.npz:labels"\n'
    assert "different numbers of samples: {'a.npz:images': 3, 'a.npz:labels': 2}" in problems_of(tmp_path, text, FLAT)
    (tmp_path / "dt_short.py").write_text("def labels():\n    yield 1\n")
    path = write_toml(tmp_path, '[input]\nsource = "a.npz:images"\n[labels]\nsource = "dt_short:labels"\n')
    with pytest.raises(DataError, match="dt_short:labels ends after 1 samples, before the others"):
        list(read_dataset_toml(Path(path), [FLAT]).source.elements())
