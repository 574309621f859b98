"""Every kind of bad input over all commands: the exit code, one clear message, no traceback, nothing left behind."""

from __future__ import annotations

import functools
import json
import os
import resource
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest

from edgeopt import cli, memory, reading, schemas
from edgeopt.feeds import runnable_feed
from tests import models, tiny
from tests.conftest import ROOT

CODE = """
import numpy as np
NUMBER = 3
def empty(): return iter(())
def raising(): raise RuntimeError("the disk of the camera is gone")
def leaving(): raise SystemExit(5)
def a_dict(): return {"x": np.zeros((3, 2, 8, 8), np.float32)}
def late():
    for i in range(70): yield np.full((2, 8, 8), np.nan if i == 68 else i, np.float32)
def fails(outputs, labels): raise ValueError("no such class")
def nan(outputs, labels): return float("nan")
def words(outputs, labels): return "good"
def no_module(): return 3, None
"""
LOOP = """
g (float[N,2,8,8] x) => (float[N,2,8,8] y)
{
    n = Constant<value = int64 {1152921504606846976}>()
    go = Constant<value = bool {1}>()
    y = Loop(n, go, x) <body = b (int64 i, bool c, float[N,2,8,8] v) => (bool d, float[N,2,8,8] w)
        { d = Identity(c) w = Identity(v) }>
}"""
CUSTOM = '<ir_version: 8, opset_import: ["" : 17, "com.acme" : 1]> g (float[N,2,8,8] x) => (float[N,2,8,8] y) {\
 y = com.acme.Frobnicate(x) }'
CUSTOM_CONV = CUSTOM.replace("{ y =", "<float[2,2,1,1] k> { c = Conv(x, k) y =").replace("(x) }", "(c) }")
TWO_INPUTS = "g (float[N,2,8,8] x, float[N,2,8,8] z) => (float[N,2,8,8] y) { y = Add(x, z) }"
TWO_OUTPUTS = "g (float[N,2,8,8] x) => (float[N,2,8,8] y, float[N,2,8,8] z) { y = Relu(x) z = Abs(x) }"
OTHER_SHAPE = "g (float[N,2,8,8] x) => (float[N,2,8,8] y) { y = Relu(x) }"


class Place:
    """The folder of one test: a good model and good data, to be spoiled."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.files = tiny.write(folder)
        (folder / "out.onnx").write_bytes(b"what was there before")
        # a name of its own: Python keeps one module per name
        self.module = f"code_{abs(hash(str(folder)))}"
        (folder / f"{self.module}.py").write_text(CODE, encoding="utf-8")
        monkeypatch.chdir(folder)

    def file(self, name: str, content: bytes | str) -> str:
        (self.folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    def model(self, text: str, change: Callable[[onnx.ModelProto], None] | None = None) -> str:
        proto = models.filled(text)
        if change is not None:
            change(proto)
        return self.file("spoiled.onnx", proto.SerializeToString())

    def external(self, **entries: str) -> str:
        """The model with its first weight in the file ``weights``."""
        proto = tiny.net()
        first = proto.graph.initializer[0]
        (self.folder / "weights").write_bytes(first.raw_data)
        first.ClearField("raw_data")
        first.data_location = onnx.TensorProto.EXTERNAL
        for key, value in ({"location": "weights"} | entries).items():
            first.external_data.add(key=key, value=value)
        return self.file("external.onnx", proto.SerializeToString())

    def data(self, **arrays: Any) -> str:
        np.savez(self.folder / "spoiled.npz", **arrays)
        return "spoiled.npz"

    def toml(self, text: str) -> str:
        return self.file("dataset.toml", text)


Make = Callable[[Place], Sequence[str]]
X = tiny.inputs()
GOOD = "net.onnx"


def reading_model(make: Callable[[Place], str], command: str = "inspect") -> Make:
    rest = {"inspect": [], "simplify": ["-o", "out.onnx"], "profile": ["--no-measure"]}[command]
    return lambda p: [command, make(p), *rest]


def calibrating(make: Callable[[Place], str], command: str = "quantize", *more: str) -> Make:
    out = "out.onnx" if command == "quantize" else "out"
    return lambda p: [command, GOOD, "-o", out, "--calib", make(p), *more]


def comparing(make: Callable[[Place], Sequence[str]]) -> Make:
    return lambda p: ["compare", GOOD, *make(p)]


def options(command: str, *more: str) -> Make:
    """Good input, and options that are not."""
    given = {
        "simplify": [GOOD, "-o", "out.onnx"],
        "inspect": [GOOD],
        "profile": [GOOD],
        "quantize": [GOOD, "-o", "out.onnx", "--calib", "data.npz"],
        "optimize": [GOOD, "-o", "out", "--calib", "data.npz"],
        "compare": [GOOD, GOOD, "--data", "data.npz"],
        "export": [GOOD, "-o", "out.ort"],
        "demo": ["-o", "out"],
    }[command]
    return lambda p: [command, *given, *more]


def recipe(text: str) -> Make:
    return lambda p: [*options("optimize")(p), "--recipe", p.file("r.toml", text)]


def metric(name: str, command: str = "compare") -> Make:
    return lambda p: [*options(command)(p), "--metric", name.replace("code:", f"{p.module}:")]


def _zip(p: Place) -> str:
    with zipfile.ZipFile(p.folder / "model.pt", "w") as archive:
        archive.writestr("data.pkl", "x")
    return "model.pt"


def _clear(name: str) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: proto.ClearField(name)


def _cycle(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = proto.graph.node[-1].output[0]


def _cut_weight(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]


def _link(p: Place) -> str:
    name = p.external(location="link")
    (p.folder / "link").symlink_to(p.folder / "weights")
    return name


def _cut_external(p: Place) -> str:
    name = p.external()
    (p.folder / "weights").write_bytes(b"1234")
    return name


def _missing_external(p: Place) -> str:
    name = p.external()
    (p.folder / "weights").unlink()
    return name


def _fifo(p: Place) -> str:
    os.mkfifo(p.folder / "pipe.onnx")
    return "pipe.onnx"


def _empty_folder(p: Place) -> str:
    (p.folder / "empty").mkdir()
    return "empty"


def _pickled(p: Place) -> str:
    (p.folder / "samples").mkdir()
    np.save(p.folder / "samples" / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    return "samples"


def _cut_npz(p: Place) -> str:
    content = p.files.data.read_bytes()
    return p.file("cut.npz", content[: len(content) // 2])


def _never_ends(p: Place) -> Sequence[str]:
    p.monkeypatch.setattr(reading, "runnable_feed", functools.partial(runnable_feed, timeout_s=0.2))
    return ["profile", p.model(LOOP)]


def _never_ends_in_its_process(p: Place) -> Sequence[str]:
    p.monkeypatch.setattr(memory, "measure", functools.partial(memory.measure, timeout_s=1.5))
    return ["optimize", p.model(LOOP), "-o", "out", "--calib", "data.npz"]


def _crashes(p: Place) -> Sequence[str]:
    run = functools.partial(subprocess.CompletedProcess, [], -11, b"", b"")
    p.monkeypatch.setattr("edgeopt.memory.subprocess.run", lambda *a, **k: run())
    return options("optimize")(p)


def _no_torch(p: Place) -> Sequence[str]:
    p.monkeypatch.setitem(sys.modules, "torch", None)
    return ["export", f"{p.module}:no_module", "-o", "out.onnx"]


def _torch(p: Place) -> None:
    """A stand-in for torch: only what tells modules from other objects is needed."""
    fake: Any = types.ModuleType("torch")
    fake.nn = types.SimpleNamespace(Module=type("Module", (), {}))
    p.monkeypatch.setitem(sys.modules, "torch", fake)


def _no_module(p: Place) -> Sequence[str]:
    _torch(p)
    return ["export", f"{p.module}:no_module", "-o", "out.onnx"]


def _nothing_there(p: Place) -> Sequence[str]:
    _torch(p)
    return ["export", f"{p.module}:nothing", "-o", "out.onnx"]


def _onto_earlier_results(p: Place) -> Sequence[str]:
    (p.folder / "out").mkdir()
    for name in ("model.onnx", "report.json", "recipe.toml"):
        p.file(f"out/{name}", "of an earlier run")
    return ["optimize", p.model(CUSTOM), "-o", "out", "--calib", "data.npz"]


def _model_in_the_output(p: Place) -> Sequence[str]:
    (p.folder / "out").mkdir()
    p.file("out/model.onnx", p.files.model.read_bytes())
    return ["optimize", "out/model.onnx", "-o", "out", "--calib", "data.npz"]


def _report_is_a_folder(p: Place) -> Sequence[str]:
    (p.folder / "out" / "report.json").mkdir(parents=True)
    return options("optimize")(p)


TOML = '[input]\nsource = "data.npz:x"\n'
CASES: dict[str, tuple[Make, str] | tuple[Make, str, int]] = {
    # the model file
    "truncated": (reading_model(lambda p: p.file("a.onnx", p.files.model.read_bytes()[:-100])), "is truncated"),
    "garbage": (reading_model(lambda p: p.file("a.onnx", bytes(range(255, 0, -1)))), "is not an ONNX model"),
    "empty file": (reading_model(lambda p: p.file("a.onnx", b""), "simplify"), "a.onnx: is empty (0 bytes)"),
    "a folder": (reading_model(_empty_folder), "empty: is a folder, expected an .onnx file"),
    "missing file": (reading_model(lambda p: "no.onnx", "profile"), "no.onnx: cannot be read: No such file"),
    "a pipe": (reading_model(_fifo), "pipe.onnx: is not a regular file"),
    "a NUL in the name": (reading_model(lambda p: "a\0b.onnx"), "cannot be read"),
    "a PyTorch checkpoint": (reading_model(_zip), "is zip (a PyTorch checkpoint"),
    "an old checkpoint": (reading_model(lambda p: p.file("a.pt", b"\x80\x02}q\0.")), "is pickle"),
    "HDF5": (reading_model(lambda p: p.file("a.h5", b"\x89HDF\r\n\x1a\n")), "is HDF5 (a Keras model?)"),
    "TensorFlow Lite": (reading_model(lambda p: p.file("a.tflite", b"\x1c\0\0\0TFL3aaaa")), "is TensorFlow Lite"),
    "an .ort file": (reading_model(lambda p: p.file("a.ort", b"\x1c\0\0\0ORTMaaaa")), "is onnxruntime's .ort"),
    "text": (reading_model(lambda p: p.file("a.onnx", "def model(): pass\n")), "a.onnx: is not an ONNX model"),
    "no graph": (reading_model(lambda p: p.model(OTHER_SHAPE, _clear("graph"))), "it has no graph"),
    "no opset": (reading_model(lambda p: p.model(OTHER_SHAPE, _clear("opset_import"))), "imports no operator set"),
    "a cycle": (reading_model(lambda p: p.model(tiny.TEXT, _cycle)), "has a cycle"),
    "a weight that is too short": (reading_model(lambda p: p.model(tiny.TEXT, _cut_weight)), "its dims [4, 2, 3, 3]"),
    "external data missing": (reading_model(_missing_external), "file 'weights' is missing"),
    "external data above": (reading_model(lambda p: p.external(location="../weights")), "leaves the model's folder"),
    "external data absolute": (reading_model(lambda p: p.external(location="/etc/hosts")), "leaves the model's folder"),
    "external data through a link": (reading_model(_link, "simplify"), "location 'link' goes through a link"),
    "external data too short": (reading_model(_cut_external), "wants bytes 0 to 288 of 'weights', which has 4"),
    "external offset is no number": (reading_model(lambda p: p.external(offset="x")), "offset or length is no number"),
    # the data
    "no data": (calibrating(lambda p: "no.npz"), "no.npz: there is no such file or folder"),
    "wrong shape": (
        calibrating(lambda p: p.data(x=X[:, :, :7])),
        "has shape (1, 2, 7, 8), the model takes float32[N,2,8,8]",
    ),
    "wrong rank": (calibrating(lambda p: p.data(x=X[:, 0, 0])), "has rank 1"),
    "NHWC for NCHW": (calibrating(lambda p: p.data(x=X.transpose(0, 2, 3, 1))), "this looks like NHWC data"),
    "wrong dtype": (calibrating(lambda p: p.data(x=X.astype(str))), "the model takes float32"),
    "NaN": (calibrating(lambda p: p.data(x=np.where(X > 2, np.nan, X))), "NaN and 0 Inf among 128 values"),
    "Inf": (calibrating(lambda p: p.data(x=np.where(X > 2, np.inf, X)), "optimize"), "0 NaN and"),
    "NaN in a late sample": (calibrating(lambda p: f"{p.module}:late"), "128 NaN"),
    "an empty npz": (calibrating(lambda p: p.data()), "spoiled.npz"),
    "no samples": (calibrating(lambda p: p.data(x=X[:0])), "holds no samples"),
    "an empty folder": (calibrating(_empty_folder), "the folder has no .npy, .npz or image files"),
    "two arrays for one input": (calibrating(lambda p: p.data(a=X, b=X)), "spoiled.npz"),
    "one array for two inputs": (
        lambda p: ["quantize", p.model(TWO_INPUTS), "-o", "out.onnx", "--calib", "unlabelled.npz"],
        "'z'",
    ),
    "other number of labels": (calibrating(lambda p: p.data(x=X, labels=np.arange(3))), "different numbers of samples"),
    "a corrupt npz": (calibrating(_cut_npz), "cut.npz"),
    "a pickled npy": (calibrating(_pickled), "a.npy"),
    "text as data": (calibrating(lambda p: p.file("data.csv", "1,2")), "a file of kind '.csv' is no data set"),
    "toml: unknown key": (calibrating(lambda p: p.toml(TOML + "men = 1.0\n")), "$.input.men: unknown key"),
    "toml: wrong type": (calibrating(lambda p: p.toml(TOML + 'scale = "x"\n')), "$.input.scale"),
    "toml: missing source": (calibrating(lambda p: p.toml("[input]\nscale = 2.0\n")), "$.input.source"),
    "toml: missing file": (calibrating(lambda p: p.toml('[input]\nsource = "no.npz:x"\n')), "there is no such file"),
    "toml: missing array": (calibrating(lambda p: p.toml('[input]\nsource = "data.npz:q"\n')), "has no array 'q'"),
    "toml: no input": (calibrating(lambda p: p.toml("")), "there is no [input]"),
    "toml: no TOML": (calibrating(lambda p: p.toml("[input\n"), "optimize"), "is not valid TOML"),
    "no such module": (calibrating(lambda p: "no_such_module:f"), "there is no module 'no_such_module'"),
    "no such callable": (calibrating(lambda p: f"{p.module}:f"), "has no 'f'"),
    "not callable": (calibrating(lambda p: f"{p.module}:NUMBER"), "is a int, not something that can be called"),
    "a callable that raises": (calibrating(lambda p: f"{p.module}:raising"), "the disk of the camera is gone"),
    "a callable that exits": (calibrating(lambda p: f"{p.module}:leaving"), "raised SystemExit"),
    "a callable without samples": (calibrating(lambda p: f"{p.module}:empty"), "holds no samples"),
    "a callable that returns a dict": (calibrating(lambda p: f"{p.module}:a_dict"), "expected an iterable of samples"),
    "unknown metric": (metric("mAP"), "unknown metric 'mAP'"),
    "no such metric": (metric("code:f", "optimize"), "has no 'f'"),
    "a metric that raises": (metric("code:fails"), "raised ValueError: no such class"),
    "a metric that is NaN": (metric("code:nan"), "returned nan, expected a finite number"),
    "a metric that is text": (metric("code:words"), "returned a str, expected a finite number"),
    "a metric without labels": (
        comparing(lambda p: [GOOD, "--data", "unlabelled.npz", "--metric", "top1"]),
        "metric top1 needs labels",
    ),
    # the output
    "no parent folder": (lambda p: ["simplify", GOOD, "-o", "no/out.onnx"], "the folder 'no' does not exist"),
    "parent is a file": (lambda p: ["simplify", GOOD, "-o", "data.npz/out.onnx"], "data.npz"),
    "output is a folder": (lambda p: ["simplify", GOOD, "-o", "."], "is a folder, expected a file name"),
    "output is the input": (lambda p: ["simplify", GOOD, "-o", f"./{GOOD}"], "is the input file, which is never"),
    "output is a device": (lambda p: ["simplify", GOOD, "-o", os.devnull], "is not a regular file"),
    "output name too long": (lambda p: ["simplify", GOOD, "-o", "a" * 300], "cannot be written: File name too long"),
    "optimize: no parent": (lambda p: ["optimize", GOOD, "-o", "no/out", "--calib", "data.npz"], "'no' does not exist"),
    "optimize: a file": (lambda p: ["optimize", GOOD, "-o", "data.npz", "--calib", "data.npz"], "expected a folder"),
    "optimize: its own input": (_model_in_the_output, "is the input file, which is never overwritten"),
    "optimize: report is a folder": (_report_is_a_folder, "report.json: is a folder"),
    "optimize: earlier results": (_onto_earlier_results, "Frobnicate"),
    # options
    "no command": (lambda p: [], "COMMAND"),
    "unknown command": (lambda p: ["compress", GOOD], "'compress'"),
    "unknown option": (options("inspect", "--speed"), "--speed"),
    "missing --calib": (lambda p: ["quantize", GOOD, "-o", "out.onnx"], "--calib"),
    "missing output": (lambda p: ["simplify", GOOD], "-o/--output"),
    "an abbreviation": (options("simplify", "--thr", "2"), "--thr"),
    "threads 0": (options("simplify", "--threads", "0"), "--threads: expected 1 to 1024, found 0"),
    "threads -2": (options("profile", "--threads", "-2"), "found -2"),
    "threads, too many": (options("compare", "--threads", "9999999999"), "found 9999999999"),
    "threads x": (options("quantize", "--threads", "x"), "--threads"),
    "seed -1": (options("profile", "--seed", "-1"), "--seed: expected a whole number from 0"),
    "seed of optimize": (options("optimize", "--seed", "-1"), "--seed: expected a whole number from 0"),
    "seed of export": (options("export", "--seed", "-1"), "--seed: expected a whole number from 0"),
    "limit 0": (options("compare", "--limit", "0"), "limit is 0, expected 1 or more"),
    "max-drop nan": (
        options("optimize", "--max-drop", "nan"),
        "--max-drop: expected a number of at least 0, found nan",
    ),
    "max-drop -1": (options("optimize", "--max-drop", "-1"), "--max-drop"),
    "max-latency-ms inf": (options("optimize", "--max-latency-ms", "inf"), "--max-latency-ms"),
    "max-file-bytes 1.5": (options("optimize", "--max-file-bytes", "1.5"), "--max-file-bytes"),
    "effort": (options("optimize", "--effort", "heroic"), "heroic"),
    "range": (options("quantize", "--range", "guess"), "guess"),
    "an opset that no converter knows": (options("export", "--opset", "3"), "--opset: expected 7 to"),
    "float nodes of a float model": (options("export", "--keep-float", "Conv"), "--keep-float: only with --precision"),
    "ONNX to ONNX": (lambda p: ["export", GOOD, "-o", "new.onnx"], "the source is ONNX already"),
    "unknown device": (options("profile", "--device", "hots"), "unknown device 'hots'"),
    "a preset is no machine": (options("optimize", "--device", "arm"), "'arm' is a preset"),
    "missing device file": (options("quantize", "--device", "no.toml"), "no.toml: cannot be read"),
    "malformed device": (
        lambda p: [*options("quantize")(p), "--device", p.file("d.toml", 'name = "d"\nkind = "host"\nspeed = 3\n')],
        "$.speed: unknown key",
    ),
    "input-shape: no such input": (options("inspect", "--input-shape", "image=1,2,8,8"), "no such input"),
    "input-shape: rank": (options("simplify", "--input-shape", "x=1,2,8"), "3 dimensions given"),
    "input-shape: contradiction": (options("inspect", "--input-shape", "x=1,3,8,8"), "axis 1 is fixed to 2"),
    "input-shape: no number": (options("inspect", "--input-shape", "x=1,two,8,8"), "expected NAME=D0,D1"),
    "input-shape: zero": (options("profile", "--input-shape", "x=0,2,8,8"), "at least 1"),
    "input-shape: twice": (
        options("inspect", "--input-shape", "x=1,2,8,8", "--input-shape", "x=2,2,8,8"),
        "--input-shape x: given twice",
    ),
    # recipes
    "missing recipe": (options("optimize", "--recipe", "no.toml"), "no.toml: cannot be read"),
    "malformed recipe": (recipe("schema = "), "r.toml: is no TOML file"),
    "recipe: unknown key": (
        recipe("schema = 1\n[options]\nmax_dorp = 1\n"),
        "$.options.max_dorp: unknown, did you mean",
    ),
    "recipe: wrong type": (recipe('schema = 1\n[options]\nthreads = "2"\n'), "$.options.threads: expected a whole"),
    "recipe: no table": (recipe("schema = 1\noptions = 3\n"), "$.options: expected a table"),
    "recipe: bad value": (
        recipe("schema = 1\n[options]\nmax_drop = -1\n"),
        "--max-drop: expected a number of at least",
    ),
    "recipe: no schema": (recipe("[options]\n"), "$.schema: expected 1, found None"),
    # models that do not run, or do not match
    "custom operator, profile": (lambda p: ["profile", p.model(CUSTOM)], "Frobnicate"),
    "custom operator, quantize": (
        lambda p: ["quantize", p.model(CUSTOM_CONV), "-o", "out.onnx", "--calib", "data.npz"],
        "onnxruntime cannot load the model",
    ),
    "custom operator, optimize": (
        lambda p: ["optimize", p.model(CUSTOM), "-o", "out", "--calib", "data.npz"],
        "Frobnicate",
    ),
    "custom operator, compare": (comparing(lambda p: [p.model(CUSTOM), "--data", "data.npz"]), "Frobnicate"),
    "custom operator, export": (lambda p: ["export", p.model(CUSTOM), "-o", "out.ort"], "Frobnicate"),
    "a model that never ends": (_never_ends, " s and was stopped"),
    "a model that never ends, in its process": (_never_ends_in_its_process, "had not run after 1.5 s"),
    "a model that crashes onnxruntime": (_crashes, "onnxruntime crashed (signal 11, SIGSEGV)"),
    "other inputs": (comparing(lambda p: [p.model(TWO_INPUTS), "--data", "data.npz"]), "has 1 inputs, the second 2"),
    "other outputs": (comparing(lambda p: [p.model(TWO_OUTPUTS), "--data", "data.npz"]), "1 outputs, the second 2"),
    "other output shape": (comparing(lambda p: [p.model(OTHER_SHAPE), "--data", "data.npz"]), "in the second"),
    # torch
    "torch missing": (_no_torch, "needs torch, which cannot be imported"),
    "no torch module": (_no_module, "expected a torch.nn.Module, found a int"),
    "no such torch callable": (_nothing_there, "has no 'nothing'"),
}


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
        if "__pycache__" not in p.parts
    }


@pytest.mark.parametrize("case", CASES)
def test_bad_input(
    case: str,
    tmp_path: Path,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make, text, *code = CASES[case]
    place = Place(tmp_path, monkeypatch)
    argv = list(make(place))
    before = contents(tmp_path)
    assert cli.main([*argv, "--json"]) == (code or [2])[0]
    out, err = capsys.readouterr()
    document = json.loads(out)
    jsonschema.Draft202012Validator(schemas.load("error")).validate(document)
    error = document["error"]
    assert text in err
    assert err.count("edgeopt: ") == 1
    assert err.startswith("edgeopt: ")
    assert "Traceback" not in err
    assert error["message"] in err
    assert error["exit_code"] == 2
    assert contents(tmp_path) == before


def test_there_are_enough_kinds() -> None:
    assert len(CASES) >= 45
    commands = {"inspect", "simplify", "quantize", "profile", "compare", "export", "optimize"}
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{name}"' in source for name in commands)


def test_simplify_passes_a_custom_operator_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(tmp_path, monkeypatch)
    model = place.model(CUSTOM)
    assert cli.main(["simplify", model, "-o", "out.onnx", "--quiet"]) == 0
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / model).read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Place(tmp_path, monkeypatch)
    (tmp_path / "locked").mkdir(mode=0o555)
    assert cli.main(["simplify", GOOD, "-o", "locked/out.onnx"]) == 2
    assert "the folder 'locked' is not writable" in capsys.readouterr().err


def test_a_folder_that_may_not_be_written_by_the_systems_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same for root, too."""
    Place(tmp_path, monkeypatch)
    monkeypatch.setattr("edgeopt.files.os.access", lambda path, mode: False)
    assert cli.main(["simplify", GOOD, "-o", "new.onnx"]) == 2
    assert "the folder '.' is not writable" in capsys.readouterr().err
    assert not (tmp_path / "new.onnx").exists()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["simplify", GOOD, "-o", "out.onnx"], "out.onnx: cannot be written: File too large"),
        (["optimize", GOOD, "-o", "out", "--calib", "data.npz"], "the system refused: File too large"),
    ],
)
def test_no_space(argv: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Place(tmp_path, monkeypatch)
    before = contents(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "edgeopt", *argv],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert done.returncode == 2, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(tmp_path) == before
