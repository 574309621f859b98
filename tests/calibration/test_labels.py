from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeopt.calibration.labels import open_labels, read_label_text
from edgeopt.errors import DataError


def values(text: str, folder: Path) -> list[object]:
    return [v for _, v in open_labels(text, [folder]).elements()]


def test_every_kind_of_source(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([3, 4]))
    np.savez(tmp_path / "one.npz", anything=np.array([3, 4]))
    np.savez(tmp_path / "two.npz", labels=np.array([3, 4]), other=np.zeros(5))
    (tmp_path / "a.txt").write_text("3\n4\n\n")
    (tmp_path / "lab_made.py").write_text("def make():\n    yield from (3, 4)\n")
    for text in ("a.npy", "one.npz", "two.npz", "two.npz:labels", "a.txt", "lab_made:make", "lab_made.py:make"):
        assert values(text, tmp_path) == [3, 4], text
    assert open_labels("a.txt", [tmp_path]).count == 2


def test_labels_may_be_dicts(tmp_path: Path) -> None:
    (tmp_path / "lab_dicts.py").write_text("def make():\n    return [{'labels': 1}]\n")
    assert values("lab_dicts:make", tmp_path) == [{"labels": 1}]


def test_text_labels(tmp_path: Path) -> None:
    for content, expected in {"1\n2": [1, 2], "1\n2.5\n": [1.0, 2.5], "cat\n 3 \n": ["cat", "3"]}.items():
        (tmp_path / "a.txt").write_text(content)
        assert read_label_text(tmp_path / "a.txt") == expected


def test_bad_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.zeros(2))
    np.save(tmp_path / "one.npy", np.array(1))
    (tmp_path / "gap.txt").write_text("1\n\n2\n")
    (tmp_path / "raw.txt").write_bytes(b"\xff\xfe\x00")
    for text, message in {
        "two.npz": "which of its arrays",
        "two.npz:c": "has no array 'c'",
        "no.npz:c": "there is no such file",
        "absent.txt": "there is no such file",
        "one.npy": "single number",
        "gap.txt": "line 2 is blank",
        "raw.txt": "cannot be read as text",
    }.items():
        with pytest.raises(DataError, match=message):
            values(text, tmp_path)
