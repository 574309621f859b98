from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from edgeopt import api, files, saving
from edgeopt.errors import OutputError
from edgeopt.result import Exported, Result
from tests import models, tiny


def test_the_message_is_made_once_and_is_the_model() -> None:
    loaded = files.load(tiny.net())
    result = Result(loaded.model, {})
    assert result.proto is result.proto
    assert result.proto.SerializeToString(deterministic=True) == saving.serialize(loaded.model)


def test_a_result_is_saved_as_the_model(tmp_path: Path) -> None:
    result = Result(files.load(tiny.net()).model, {})
    result.save(tmp_path / "a.onnx")
    result.save(str(tmp_path / "b.onnx"))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes() == saving.serialize(result.model)


def test_an_unchanged_result_is_the_file_as_given(tmp_path: Path) -> None:
    proto = models.filled(
        "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
    )  # its node has no name: loading adds one
    onnx.save(proto, tmp_path / "in.onnx")
    loaded = files.load(tmp_path / "in.onnx")
    result = Result(loaded.model, {}, unchanged=True, _loaded=loaded)
    result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()
    assert result.proto == proto
    assert saving.serialize(loaded.model) != (tmp_path / "in.onnx").read_bytes()


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    given = tiny.write(tmp_path)
    before = given.model.read_bytes()
    for result in (api.simplify(given.model), api.export(given.model, format="ort")):
        with pytest.raises(OutputError, match="is the input file, which is never overwritten"):
            result.save(given.model)
    assert given.model.read_bytes() == before


def test_a_result_that_cannot_be_written(tmp_path: Path) -> None:
    result = Result(files.load(tiny.net()).model, {})
    with pytest.raises(OutputError, match="does not exist"):
        result.save(tmp_path / "no" / "a.onnx")
    with pytest.raises(OutputError, match="is a folder"):
        result.save(tmp_path)


def test_an_export_of_onnx_is_saved_as_the_model(tmp_path: Path) -> None:
    model = files.load(tiny.net()).model
    Exported(model, None, {}).save(tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == saving.serialize(model)


def test_an_export_of_bytes_is_saved_as_them(tmp_path: Path) -> None:
    Exported(files.load(tiny.net()).model, b"bytes", {}).save(tmp_path / "a.ort")
    assert (tmp_path / "a.ort").read_bytes() == b"bytes"


def test_representations_do_not_dump_the_model() -> None:
    loaded = files.load(tiny.net())
    assert "Loaded" not in repr(Result(loaded.model, {}, _loaded=loaded))
