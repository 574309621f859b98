from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeopt.calibration.readers import open_source
from edgeopt.errors import DataError
from tests.calibration.specs import noise, pixels

X = noise(3, 4)


def read(source: Any, folder: Path, names: tuple[str, ...] = ("x",), scalars: tuple[str, ...] = ()) -> list[Any]:
    opened = open_source(source, names, scalars, [folder])
    first = [v for _, v in opened.elements()]
    second = [v for _, v in opened.elements()]
    assert len(first) == len(second)
    assert opened.count in (None, len(first))
    return first


def test_files_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X)
    np.savez(tmp_path / "labelled.npz", anything=X, labels=np.arange(3))
    np.save(tmp_path / "a.npy", X)
    for source in ("a.npz", tmp_path / "a.npz", "a.npz:x", "labelled.npz:anything", "a.npy"):
        found = read(source, tmp_path)
        np.testing.assert_array_equal([f["x"] for f in found], X)
    found = read("labelled.npz", tmp_path)
    np.testing.assert_array_equal([f[0]["x"] for f in found], X)
    assert [f[1] for f in found] == [0, 1, 2]


def test_a_single_number_feeds_every_sample_of_a_scalar_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, rate=np.array(16000))
    assert [f["rate"] for f in read("a.npz", tmp_path, ("x", "rate"), ("rate",))] == [16000] * 3
    np.savez(tmp_path / "b.npz", x=X, rate=np.array([1, 2, 3]))
    assert [f["rate"] for f in read("b.npz", tmp_path, ("x", "rate"), ("rate",))] == [1, 2, 3]


def test_folders(tmp_path: Path) -> None:
    for kind in ("npy", "npz", "images"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "README.md").write_text("ignored")
        for i in (2, 0, 1):
            if kind == "npy":
                np.save(tmp_path / kind / f"{i}.npy", X[i])
            elif kind == "npz":
                np.savez(tmp_path / kind / f"{i}.npz", x=X[i], label=i)
            else:
                Image.fromarray(pixels(4, 4, 3, seed=i)).save(tmp_path / kind / f"{i}.png")
    np.testing.assert_array_equal(read("npy", tmp_path), X)
    np.testing.assert_array_equal([f["x"] for f in read("npz", tmp_path)], X)
    assert [f["label"] for f in read("npz", tmp_path)] == [0, 1, 2]
    expected = [pixels(4, 4, 3, seed=i) for i in range(3)]
    for source in ("images", "images/*.png", "**/*.png", str(tmp_path / "images" / "*")[:-1] + "?.png"):
        np.testing.assert_array_equal(read(source, tmp_path), expected)
        assert open_source(source, ["x"], [], [tmp_path]).images
    np.testing.assert_array_equal(read("images/1.png", tmp_path), expected[1:2])


def test_functions_are_called_anew_for_each_pass(tmp_path: Path) -> None:
    (tmp_path / "rd_made.py").write_text(
        "import numpy as np\n"
        "def generator():\n    import rd_late\n    yield from np.zeros((3, 4))\n"
        "def array():\n    return np.zeros((3, 4))\n"
        "class Indexed:\n"
        "    def __getitem__(self, i):\n        if i == 3:\n            raise IndexError\n        return np.zeros(4)\n"
        "def nested():\n    return generator\n"
    )
    (tmp_path / "rd_late.py").write_text("")
    for name in ("generator", "array", "Indexed", "nested"):
        assert len(read(f"rd_made:{name}", tmp_path)) == 3
    assert len(read(lambda: iter(X), tmp_path)) == 3


class Walkable:
    def __iter__(self) -> Iterator[Any]:
        return iter(X)


@pytest.mark.parametrize("source", [X, list(X), tuple(X), {"x": X}, {"any": X}, iter(X), (v for v in X), Walkable()])
def test_python_objects(source: Any, tmp_path: Path) -> None:
    found = read(source, tmp_path)
    assert len(found) == 3
    np.testing.assert_array_equal([f["x"] if isinstance(f, dict) else f for f in found], X)


def test_empty_and_missing_labels(tmp_path: Path) -> None:
    assert read({"x": X, "labels": None}, tmp_path)[0].keys() == {"x"}
    assert read([], tmp_path) == []


def test_errors_of_the_users_code_are_named(tmp_path: Path) -> None:
    def broken() -> Iterator[Any]:
        yield X[0]
        raise RuntimeError("disk gone")

    with pytest.raises(DataError, match="element 1: raised RuntimeError: disk gone"):
        read(broken, tmp_path)
    with pytest.raises(DataError, match="generator: raised RuntimeError: disk gone"):
        read(broken(), tmp_path)


@pytest.mark.parametrize(
    ("result", "message"),
    [({"x": X}, "returned a dict; expected an iterable"), (3, "returned a int"), (None, "returned a NoneType")],
)
def test_functions_that_return_no_samples(result: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(lambda: result, tmp_path)
