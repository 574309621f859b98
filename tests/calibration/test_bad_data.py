"""Every kind of bad input, and the part of the message that tells the user what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeopt.calibration.dataset import open_dataset
from edgeopt.errors import DataError
from tests.calibration.specs import IMAGE, noise, pixels, spec, write_toml

GOOD = noise(20, 3, 8, 6)


def npz(**arrays: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> Path:
        np.savez(folder / "a.npz", **arrays)
        return folder / "a.npz"

    return make


def damaged(keep: float) -> Callable[[Path], Any]:
    def make(folder: Path) -> Path:
        data = npz(x=GOOD)(folder).read_bytes()
        (folder / "a.npz").write_bytes(data[: int(len(data) * keep)])
        return folder / "a.npz"

    return make


def toml(text: str) -> Callable[[Path], Any]:
    def make(folder: Path) -> str:
        np.savez(folder / "a.npz", x=GOOD, nhwc=GOOD.transpose(0, 2, 3, 1), labels=np.arange(20), few=np.arange(5))
        return write_toml(folder, text)

    return make


def folder_of(**files: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> Path:
        for name, content in files.items():
            stem, _, suffix = name.rpartition("_")
            path = folder / f"{stem}.{suffix}"
            if suffix == "npy":
                np.save(path, content)
            elif suffix == "npz":
                np.savez(path, **content)
            elif suffix == "png":
                Image.fromarray(content).save(path)
            else:
                path.write_bytes(content)
        return folder

    return make


def missing_folder(folder: Path) -> Path:
    shutil.rmtree(folder)
    return folder


def with_bad(value: float) -> Any:
    bad = GOOD.copy()
    bad[3, 1, 2, 2] = value
    return bad


def const(value: Any) -> Callable[[Path], Any]:
    return lambda folder: value


TABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    # files
    "no such file": (lambda f: f / "none.npz", "none.npz: there is no such file or folder"),
    "missing folder": (missing_folder, "there is no such file or folder"),
    "a file of another kind": (lambda f: folder_of(a_pt=b"x")(f) / "a.pt", "a file of kind '.pt' is no data set"),
    "truncated npz": (damaged(0.5), "is corrupt or truncated"),
    "empty npz": (damaged(0), "is corrupt or truncated"),
    "pickled npz": (npz(x=np.array([None])), "holds pickled Python objects, which edgeopt never unpickles"),
    "text called npz": (lambda f: folder_of(a_npz={})(f) / "a.npz", "holds no arrays"),
    "empty folder": (lambda f: f, "the folder has no .npy, .npz or image files"),
    "mixed folder": (folder_of(a_npy=GOOD[0], b_png=pixels(8, 6, 3)), "holds files of several kinds: image, npy"),
    "glob without match": (lambda f: str(f / "*.png"), "no file matches"),
    "glob of other files": (lambda f: str(folder_of(a_txt=b"x")(f) / "*.txt"), "a.txt is neither .npy, .npz nor"),
    "broken image": (folder_of(a_png=pixels(8, 6, 3), b_jpg=b"no"), "b.jpg: cannot be read as an image"),
    "no such array": (lambda f: f"{npz(x=GOOD)(f)}:y", "has no array 'y'\n  hint: arrays there: x"),
    "no file before the colon": (lambda f: f"{f}/none.npz:x", "there is no such file"),
    "no such module": (const("bad_nowhere:make"), "there is no module 'bad_nowhere'"),
    "neither path nor module": (const("what is this"), "there is no such file or folder\n  hint: give a .npz"),
    # names and numbers of samples
    "wrong names": (npz(a=GOOD, b=GOOD), "no array for input 'x'; unknown 'a', 'b'"),
    "no samples": (npz(x=GOOD[:0]), "holds no samples"),
    "no samples in a list": (const([]), "holds no samples"),
    "labels are fewer": (npz(x=GOOD, labels=np.arange(5)), "different numbers of samples: {'x': 20, 'labels': 5}"),
    "a single number": (npz(x=np.array(1.0)), "'x' is a single number; its first axis must count the samples"),
    "labels are one number": (npz(x=GOOD, labels=1), "'labels' is a single number"),
    # shapes
    "transposed": (
        npz(x=GOOD.transpose(0, 2, 3, 1)),
        "looks like NHWC data for a model that takes NCHW: transpose it by",
    ),
    "wrong size": (npz(x=noise(20, 3, 9, 6)), "has shape (1, 3, 9, 6), the model takes float32[N,3,8,6]"),
    "wrong rank": (npz(x=noise(20, 8, 6)), "has rank 2; the model takes float32[N,3,8,6]: rank 4, or 3"),
    "one bad sample": (
        folder_of(a_npy=GOOD[0], b_npy=GOOD[0][:2]),
        "b.npy, input 'x': a sample has shape (1, 2, 8, 6)",
    ),
    "inputs and labels as a tuple": (const((GOOD, np.arange(20))), "has rank 1"),
    # values
    "NaN": (npz(x=with_bad(np.nan)), "a.npz, sample 3, input 'x': 1 NaN and 0 Inf among 144 values"),
    "Inf": (npz(x=with_bad(np.inf)), "0 NaN and 1 Inf"),
    "too large": (npz(x=with_bad(1) * np.float64(1e300)), "do not fit into float32"),
    "text": (npz(x=np.full((1, 3, 8, 6), "a")), "found <U1, the model takes float32"),
    "complex": (
        const([np.zeros((3, 8, 6), np.complex64)]),
        "expected an array of numbers, found an array of complex64",
    ),
    "structured": (npz(x=np.zeros(3, dtype=[("a", "f4")])), "holds a structured array"),
    # Python objects
    "an object": (const(object()), "a object is no data source"),
    "a number": (const(3), "a int is no data source"),
    "elements that are no arrays": (const([object()]), "found a object"),
    "too many entries": (const([(GOOD[0], 1, 2)]), "a tuple of 3, expected 1 (inputs) or 2 (inputs and label)"),
    "a failing iterable": (const(1 // v for v in [0]), "generator: raised ZeroDivisionError"),
    "a label for a batch": (const([(GOOD[:2], 1)]), "one label for a batch of 2 samples"),
    "a function of no samples": (const(lambda: 3), "returned a int; expected an iterable of samples"),
    # dataset.toml
    "no toml": (toml("input ="), "is not valid TOML"),
    "unknown key": (toml('[input]\nsource = "a.npz:x"\nmeen = 1'), "$.input.meen: unknown key; did you mean 'mean'?"),
    "unknown section": (toml('[inptu]\nsource = "a.npz:x"'), "$.inptu: unknown key; did you mean 'input'?"),
    "no source": (toml("[input]\nscale = 1"), "$.input.source: expected text, found nothing"),
    "wrong choice": (
        toml('[input]\nsource = "a.npz:x"\nlayout = "CHWN"'),
        "$.input.layout: expected one of NHWC, NCHW",
    ),
    "wrong number": (toml('[input]\nsource = "a.npz:x"\nstd = [1, 0, 1]'), "$.input.std: expected numbers above 0"),
    "missing file in toml": (toml('[input]\nsource = "b.npz:x"'), "$.input.source: "),
    "toml in toml": (toml('[input]\nsource = "dataset.toml"'), "a file of kind '.toml' is no data set"),
    "wrong layout": (
        toml('[input]\nsource = "a.npz:x"\nlayout = "NHWC"\ncolor = "BGR"'),
        "needs 1 or 3 channels, found 6",
    ),
    "layout left out": (toml('[input]\nsource = "a.npz:nhwc"'), "looks like NHWC data"),
    "means for other channels": (
        toml('[input]\nsource = "a.npz:x"\nlayout = "NCHW"\nmean = [1, 2]'),
        "mean has 2 numbers",
    ),
    "crop too large": (
        toml('[input]\nsource = "a.npz:nhwc"\nlayout = "NHWC"\ncenter_crop = 64'),
        "larger than the image",
    ),
    "toml labels are fewer": (
        toml('[input]\nsource = "a.npz:x"\n[labels]\nsource = "a.npz:few"'),
        "the sources have different numbers of samples: {'a.npz:x': 20, 'a.npz:few': 5}",
    ),
    "a score without labels": (
        toml('[input]\nsource = "a.npz:x"\n[score]\nmetric = "top1"'),
        "metric top1 needs labels",
    ),
    "an unknown metric": (
        toml('[input]\nsource = "a.npz:x"\n[score]\nmetric = "f1"'),
        "$.score.metric: unknown metric 'f1'; expected top1, top5 or module:function",
    ),
}


@pytest.mark.parametrize("kind", TABLE)
def test_bad_data(kind: str, tmp_path: Path) -> None:
    make, message = TABLE[kind]
    with pytest.raises(DataError) as caught:
        list(open_dataset(make(tmp_path), [IMAGE]))
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


MORE: dict[str, tuple[Any, Any, str]] = {
    "fractions for whole numbers": (noise(20, 4), spec("ids", "N", 4, dtype=np.int64), "with fractions (such as"),
    "out of range": (np.full((20, 4), 300), spec("x", "N", 4, dtype=np.uint8), "do not fit into uint8 (0 to 255)"),
    "numbers for strings": (noise(20, 4), spec("x", "N", 4, dtype=object), "the model takes strings"),
}


@pytest.mark.parametrize("kind", MORE)
def test_bad_dtypes(kind: str) -> None:
    source, wanted, message = MORE[kind]
    with pytest.raises(DataError) as caught:
        open_dataset(source, [wanted])
    assert message in str(caught.value)


def test_several_inputs() -> None:
    specs = [spec("a", "N", 4), spec("b", "N", 2)]
    for source, message in {
        "one array": (noise(20, 4), "no array for input 'a', 'b'; unknown 'array'"),
        "one of two": ({"a": noise(20, 4)}, "no array for input 'b'"),
        "lengths": ({"a": noise(20, 4), "b": noise(19, 2)}, "different numbers of samples"),
        "batches": ([(noise(2, 4), noise(3, 2))], "different batch sizes: {'a': 2, 'b': 3}"),
        "single arrays": ([noise(4)], "one ndarray for a model with 2 inputs"),
    }.values():
        with pytest.raises(DataError) as caught:
            open_dataset(source, specs)
        assert message in str(caught.value)


def test_one_stored_array_cannot_feed_two_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=GOOD)
    with pytest.raises(DataError, match="one array for 2 inputs"):
        open_dataset(f"{tmp_path}/a.npz:x", [spec("a", "N", 4), spec("b", "N", 2)])
