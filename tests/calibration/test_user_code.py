from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeopt.calibration.user_code import guarded, is_reference, load
from edgeopt.errors import DataError


@pytest.mark.parametrize("text", ["m:f", "a.b:C.make", "../x.py:f", "/a b/c.py:f"])
def test_references(text: str) -> None:
    assert is_reference(text)


@pytest.mark.parametrize("text", ["m", "m:", ":f", "m f:g", "1m:f", "x.py", "m:f()"])
def test_not_references(text: str) -> None:
    assert not is_reference(text)


def test_module_from_the_folder_leaves_the_path_alone(tmp_path: Path) -> None:
    (tmp_path / "uc_first.py").write_text("class C:\n    @staticmethod\n    def make():\n        return 7\n")
    before = list(sys.path)
    assert load("uc_first:C.make", [tmp_path])() == 7
    assert sys.path == before


def test_file_with_a_neighbour_it_imports(tmp_path: Path) -> None:
    (tmp_path / "uc_helper.py").write_text("VALUE = 3\n")
    (tmp_path / "uc_file.py").write_text("from uc_helper import VALUE\n\ndef f():\n    return VALUE\n")
    (tmp_path / "sub").mkdir()
    assert load("../uc_file.py:f", [tmp_path / "sub"])() == 3
    assert load("../uc_file.py:f", [tmp_path / "sub"]) is load(f"{tmp_path}/uc_file.py:f", [])


def test_bad_references(tmp_path: Path) -> None:
    (tmp_path / "uc_bad.py").write_text("import uc_missing_dependency\n")
    (tmp_path / "uc_exit.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "uc_names.py").write_text("def right(): pass\nvalue = 3\n")
    table = {
        "no reference": "not of the form",
        "uc_nowhere:f": "there is no module 'uc_nowhere'",
        "uc_bad:f": "raised ModuleNotFoundError: No module named 'uc_missing_dependency'",
        "uc_exit.py:f": "raised SystemExit",
        "uc_names:wrong": "has no 'wrong'\n  hint: callables there: right",
        "uc_names:value": "is a int, not something that can be called",
        "uc_absent.py:f": "there is no file",
    }
    for reference, message in table.items():
        with pytest.raises(DataError) as caught:
            load(reference, [tmp_path])
        assert message in str(caught.value), reference


def test_a_failed_file_is_tried_anew(tmp_path: Path) -> None:
    (tmp_path / "uc_flaky.py").write_text("1 / 0\n")
    with pytest.raises(DataError, match="ZeroDivisionError"):
        load("uc_flaky.py:f", [tmp_path])
    (tmp_path / "uc_flaky.py").write_text("def f(): return 1  # mended\n")
    assert load("uc_flaky.py:f", [tmp_path])() == 1


def test_same_name_from_another_folder_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "uc_twice.py").write_text(f"def f(): return {name!r}\n")
    assert load("uc_twice:f", [tmp_path / "a"])() == "a"
    with pytest.raises(DataError, match="loaded already"):
        load("uc_twice:f", [tmp_path / "b"])


def test_guarded_names_the_error_and_passes_our_own() -> None:
    with pytest.raises(DataError, match="mine: raised ValueError: no"), guarded("mine"):
        raise ValueError("no")
    with pytest.raises(DataError, match="raised KeyboardLike") as caught, guarded("mine"):
        raise type("KeyboardLike", (Exception,), {})
    assert str(caught.value) == "mine: raised KeyboardLike"
    with pytest.raises(DataError, match=r"^ours$"), guarded("mine"):
        raise DataError("ours")
