from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeopt.calibration.npy_stream import open_npy, open_npz
from edgeopt.errors import DataError
from tests.calibration.specs import noise


def test_rows_and_whole_match_numpy(tmp_path: Path) -> None:
    arrays = {
        "a": noise(5, 2, 3),
        "fortran": np.asfortranarray(noise(4, 3)),
        "big_endian": np.arange(4, dtype=">i4"),
        "scalar": np.array(3.0),
        "empty": np.zeros((0, 2)),
        "text": np.array(["ab", "c"]),
    }
    np.savez(tmp_path / "plain.npz", **arrays)  # type: ignore[arg-type]
    np.savez_compressed(tmp_path / "packed.npz", **arrays)  # type: ignore[arg-type]
    for name in ("plain.npz", "packed.npz"):
        found = open_npz(tmp_path / name)
        assert set(found) == set(arrays)
        for key, expected in arrays.items():
            np.testing.assert_array_equal(found[key].whole(), expected)
            if expected.ndim:
                assert len(list(found[key].rows())) == len(expected)
                for row, wanted in zip(found[key].rows(), expected, strict=True):
                    np.testing.assert_array_equal(row, wanted)
    np.save(tmp_path / "x.npy", arrays["a"])
    np.testing.assert_array_equal(open_npy(tmp_path / "x.npy").whole(), arrays["a"])


def test_long_headers(tmp_path: Path) -> None:
    with (tmp_path / "v2.npy").open("wb") as file:
        np.lib.format.write_array(file, noise(3), version=(2, 0))
    np.testing.assert_array_equal(open_npy(tmp_path / "v2.npy").whole(), noise(3))
    with (tmp_path / "v3.npy").open("wb") as file:
        np.lib.format.write_array(file, noise(3), version=(3, 0))
    with pytest.raises(DataError, match="version"):
        open_npy(tmp_path / "v3.npy")


def test_memory_is_flat_in_the_rows(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((4000, 1000), np.float32))
    array = open_npz(tmp_path / "x.npz")["x"]
    tracemalloc.start()
    count = sum(1 for _ in array.rows())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4000
    assert peak < 1_000_000  # the array has 16 MB


def test_pickles_are_refused_and_never_run(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=np.array([None]))
    with pytest.raises(DataError, match="never unpickles"):
        open_npy(tmp_path / "o.npy")
    with pytest.raises(DataError, match="never unpickles"):
        open_npz(tmp_path / "o.npz")


def test_structured_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.zeros(2, dtype=[("a", "f4")]))
    with pytest.raises(DataError, match="structured"):
        open_npy(tmp_path / "s.npy")


def test_damage(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=noise(100, 100))
    data = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("hello")
    with zipfile.ZipFile(tmp_path / "none.npz", "w") as archive:
        archive.writestr("readme.txt", "no arrays")
    for name, message in {
        "cut.npz": "corrupt or truncated",
        "empty.npz": "corrupt or truncated",
        "text.npz": "corrupt or truncated",
        "none.npz": "holds no arrays",
        "absent.npz": "cannot be read",
    }.items():
        with pytest.raises(DataError, match=message):
            open_npz(tmp_path / name)
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 255
    (tmp_path / "flipped.npz").write_bytes(bytes(flipped))
    with pytest.raises(DataError, match="corrupt"):
        open_npz(tmp_path / "flipped.npz")["x"].whole()
    np.save(tmp_path / "x.npy", noise(10))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-8])
    with pytest.raises(DataError, match="is truncated"):
        open_npy(tmp_path / "cut.npy")


def test_a_claimed_size_is_checked_before_allocation(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 10)})
    (tmp_path / "huge.npy").write_bytes(head.getvalue() + b"1234")
    with pytest.raises(DataError, match="needs 40000000000128 bytes, 132 are there"):
        open_npy(tmp_path / "huge.npy")


def test_a_file_that_shrinks_while_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(1000, 1000))
    array = open_npy(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:2_000_000])
    with pytest.raises(DataError, match="ends early"):
        list(array.rows())
