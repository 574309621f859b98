from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from edgeopt import files, saving
from edgeopt.decisions import Decisions
from edgeopt.errors import OutputError
from edgeopt.output_folder import OutputFolder
from edgeopt.recipe import Recipe
from edgeopt.result import Result
from tests import tiny

NAMES = ["model.onnx", "recipe.toml", "report.json"]


def result() -> Result:
    return Result(
        files.load(tiny.net()).model, {"choice": "float"}, recipe=Recipe({"seed": 0}, Decisions("float"), "0" * 64)
    )


def test_the_folder_is_made_with_the_first_model(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "out")
    folder.check(None)
    assert not (tmp_path / "out").exists()
    folder.save_model(result().model)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.onnx"]
    folder.finish(result())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == NAMES
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == {"choice": "float"}


def test_reports_of_an_earlier_model_go_with_it(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    for name in NAMES:
        (tmp_path / name).write_text("earlier")
    (tmp_path / "notes.txt").write_text("the user's own")
    folder.check(None)
    assert (tmp_path / "report.json").read_text() == "earlier"
    folder.save_model(result().model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "notes.txt"]


def test_weights_of_an_earlier_model_go_with_it(tmp_path: Path) -> None:
    onnx.save(tiny.net(), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=256)
    folder = OutputFolder(tmp_path / "out")
    folder.save_model(files.load(tmp_path / "m.onnx").model)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.onnx", "model.onnx.data"]
    folder.finish(result())  # with its weights inside
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == NAMES


def test_a_model_never_meets_the_weights_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model.onnx", "model.onnx.data"):
        (tmp_path / name).write_text("earlier")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        OutputFolder(tmp_path).save_model(result().model)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx.data"]


def test_a_result_without_a_recipe(tmp_path: Path) -> None:
    given = result()
    given.recipe = None
    OutputFolder(tmp_path / "out").finish(given)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.onnx", "report.json"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="is a file, expected a folder"):
        OutputFolder(tmp_path / "out").check(None)


def test_parents_are_not_made(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        OutputFolder(tmp_path / "a" / "b").check(None)


@pytest.mark.parametrize("name", NAMES)
def test_none_of_the_files_may_be_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match=f"{name}: is a folder, expected a file name"):
        OutputFolder(tmp_path).check(None)


def test_the_model_in_it_is_not_the_input(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(saving.serialize(result().model))
    (tmp_path / "link.onnx").symlink_to("model.onnx")
    for source in ("model.onnx", "link.onnx"):
        with pytest.raises(OutputError, match="is the input file"):
            OutputFolder(tmp_path).check(tmp_path / source)


def test_a_folder_that_goes_away_in_between(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "parent" / "out")
    with pytest.raises(OutputError, match="cannot be written: No such file or directory"):
        folder.save_model(result().model)
