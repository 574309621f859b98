from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import files, saving
from edgeopt.errors import OutputError
from edgeopt.graph import weight_tensors
from edgeopt.runtime import Level, Session
from tests.conftest import ROOT
from tests.models import assert_same, filled, proto

SMALL = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"
BIG = "g (float[300] x) => (float[300] y) <float[300] w, float[300] v> { t = Mul(x, v) y = Add(t, w) }"


def small() -> bytes:
    return proto(SMALL).SerializeToString()


def external(folder: Path, name: str = "m.onnx") -> Path:
    onnx.save(filled(BIG), folder / name, save_as_external_data=True, location=f"{name}.bin", size_threshold=0)
    return folder / name


def test_stamp() -> None:
    found = files.load(proto(SMALL)).model
    saving.stamp(found, {"verb": "simplify", "a": 1})
    written = onnx.load_from_string(saving.serialize(found))
    assert json.loads({p.key: p.value for p in written.metadata_props}["edgeopt"]) == {"a": 1, "verb": "simplify"}


def test_save_small(tmp_path: Path) -> None:
    found = files.load(small()).model
    assert saving.save(found, tmp_path / "n.onnx") == [tmp_path / "n.onnx"]
    assert_same(found, files.load(tmp_path / "n.onnx").model, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["n.onnx"]


def test_save_has_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        saving.save(files.load(small()).model, tmp_path / "n.onnx")
    finally:
        os.umask(before)
    assert (tmp_path / "n.onnx").stat().st_mode & 0o777 == 0o640


def test_save_of_weights_beyond_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "INLINE_LIMIT_BYTES", 1000)
    found = files.load(filled(BIG)).model
    assert len(saving.save(found, tmp_path / "n.onnx")) == 2
    assert_same(found, files.load(tmp_path / "n.onnx").model, 0)
    assert not any(isinstance(t, ir.ExternalTensor) for t in weight_tensors(found).values())  # not mutated


def test_save_over_an_input(tmp_path: Path) -> None:
    path = external(tmp_path)
    found = files.load(path).model
    (tmp_path / "link.onnx").symlink_to(path)
    for target in (path, tmp_path / "link.onnx"):
        with pytest.raises(OutputError, match="input file"):
            saving.save(found, target, inputs=[None, path])


def test_save_over_the_inputs_weights(tmp_path: Path) -> None:
    external(tmp_path)
    (tmp_path / "m.onnx.bin").rename(tmp_path / "n.onnx.data")
    found = files.load(with_location_of_renamed(tmp_path))
    with pytest.raises(OutputError, match="would overwrite the input's weights"):
        saving.save(found.model, tmp_path / "n.onnx")


def with_location_of_renamed(folder: Path) -> Path:
    message = onnx.load(folder / "m.onnx", load_external_data=False)
    for tensor in message.graph.initializer:
        tensor.external_data[0].value = "n.onnx.data"
    (folder / "m.onnx").write_bytes(message.SerializeToString())
    return folder / "m.onnx"


def test_save_where_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = files.load(small()).model
    with pytest.raises(OutputError, match="does not exist"):
        saving.save(found, tmp_path / "no" / "n.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is not a folder"):
        saving.save(found, tmp_path / "file" / "n.onnx")
    with pytest.raises(OutputError, match="is a folder"):
        saving.save(found, tmp_path)
    with pytest.raises(OutputError, match="not a regular file"):
        saving.save(found, Path(os.devnull))
    assert Path(os.devnull).is_char_device()
    with pytest.raises(OutputError, match="File name too long"):
        saving.save(found, tmp_path / ("n" * 5000))
    with pytest.raises(OutputError, match="cannot be written"):
        saving.save(found, tmp_path / "n\0.onnx")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="not writable"):
        saving.save(found, tmp_path / "n.onnx")


def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    path.write_bytes(b"old")

    def fail() -> None:
        with saving.atomic(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["n.onnx"]


def test_a_failing_message_leaves_the_old_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and model are both complete before either takes its place."""
    monkeypatch.setattr(saving, "INLINE_LIMIT_BYTES", 1000)
    old = files.load(filled(BIG, seed=1)).model
    saving.save(old, tmp_path / "n.onnx")

    def fail(_: ir.Model) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "serialize", fail)
    with pytest.raises(OutputError, match="No space left"):
        saving.save(files.load(filled(BIG, seed=2)).model, tmp_path / "n.onnx")
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["n.onnx", "n.onnx.data"]
    assert_same(old, files.load(tmp_path / "n.onnx").model, 0)


FULL = """
import resource, sys
from pathlib import Path
from edgeopt import files, saving
from edgeopt.errors import OutputError
found = files.load(Path(sys.argv[1])).model
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
saving.INLINE_LIMIT_BYTES = int(sys.argv[3])
try:
    saving.save(found, Path(sys.argv[2]))
except OutputError as error:
    print(error.message)
"""


@pytest.mark.parametrize("limit", [10**9, 1000])
def test_a_full_disk_leaves_the_old_file(limit: int, tmp_path: Path) -> None:
    source, target = tmp_path / "m.onnx", tmp_path / "n.onnx"
    source.write_bytes(filled(BIG).SerializeToString())
    target.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(source), str(target), str(limit)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "cannot be written: File too large" in done.stdout
    assert target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "n.onnx"]


def test_write_atomically(tmp_path: Path) -> None:
    saving.write_atomically(tmp_path / "a", b"one")
    saving.write_atomically(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_saved_model_runs_with_default_options(tmp_path: Path) -> None:
    saving.save(files.load(small()).model, tmp_path / "n.onnx")
    found = Session(tmp_path / "n.onnx", Level.DEFAULT).run({"x": np.ones(2, np.float32)})
    assert found["y"].tolist() == [2, 3]
