from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeopt import api, cli, optimizing, quantizer, rewriting
from edgeopt.calibration.statistics import RANGES
from edgeopt.cli_options import COMMANDS
from edgeopt.errors import CheckError
from edgeopt.report import version
from tests import tiny
from tests.conftest import ROOT

Capture = pytest.CaptureFixture[str]
RUNS = {
    "inspect": ["{model}"],
    "simplify": ["{model}", "-o", "{out}.onnx"],
    "quantize": ["{model}", "-o", "{out}.onnx", "--calib", "{data}"],
    "profile": ["{model}", "--no-measure"],
    "compare": ["{model}", "{model}", "--data", "{data}"],
    "export": ["{model}", "-o", "{out}.ort"],
    "optimize": ["{model}", "-o", "{out}", "--calib", "{data}", "--effort", "fast"],
}
SHOWN = {
    "inspect": ["operators: 2 × Conv", "input x: float32[N,2,8,8]", "pass fold_batchnorm would rewrite 1 places"],
    "simplify": ["fold_batchnorm", "verdict: ok", "written: {out}.onnx"],
    "quantize": ["int8: 7 nodes, 100.0% of the MACs", "latency, median", "written: {out}.onnx"],
    "profile": ["memory: activations at least"],
    "compare": ["top-1 agreement 100.00% over 20 samples", "score (top1, n=20): 1.0000 → 1.0000"],
    "export": ["format ort", "written: {out}.ort"],
    "optimize": ["choice", "→ ", "verdict: ", "written: {out}"],
}


def arguments(command: str, folder: Path) -> list[str]:
    files = tiny.write(folder)
    return [command, *(a.format(model=files.model, data=files.data, out=folder / "out") for a in RUNS[command])]


def run(*argv: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "edgeopt", *argv]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120, **more)


@pytest.mark.parametrize("command", RUNS)
def test_each_command_prints_for_people(command: str, tmp_path: Path, quick: None, capsys: Capture) -> None:
    assert cli.main(arguments(command, tmp_path)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    for text in SHOWN[command]:
        assert text.format(out=tmp_path / "out") in out


@pytest.mark.parametrize("command", [c for c in RUNS if c != "optimize"])
def test_json_is_one_document_on_stdout(command: str, tmp_path: Path, quick: None, capsys: Capture) -> None:
    assert cli.main([*arguments(command, tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["schema"] == 1
    assert report["model"]["path"] == str(tmp_path / "net.onnx")
    assert err == ""


@pytest.mark.parametrize("command", ["inspect", "simplify", "compare"])
def test_quiet_prints_nothing(command: str, tmp_path: Path, capsys: Capture) -> None:
    assert cli.main([*arguments(command, tmp_path), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_quiet_prints_errors(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["inspect", str(tmp_path / "no.onnx"), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "no.onnx: cannot be read" in err


@pytest.mark.parametrize("method", RANGES)
def test_ranges_by_every_method(method: str, tmp_path: Path, capsys: Capture) -> None:
    assert cli.main([*arguments("quantize", tmp_path), "--device", "arm", "--range", method, "--effort", "best"]) == 0
    assert "100.0% of the MACs" in capsys.readouterr().out


def test_verbose_lists_skips(tmp_path: Path, capsys: Capture) -> None:
    given = [*arguments("quantize", tmp_path), "--device", "arm", "--keep-float", "Gemm"]
    assert cli.main(given) == 0
    assert "1 × Gemm: kept float on request" in capsys.readouterr().out
    (tmp_path / "out.onnx").unlink()
    assert cli.main([*given, "--verbose"]) == 0
    assert "float dense (Gemm): kept float on request" in capsys.readouterr().out


def test_verbose_shows_where_an_error_comes_from(tmp_path: Path, capsys: Capture) -> None:
    given = ["inspect", str(tmp_path / "no.onnx")]
    cli.main(given)
    assert "Traceback" not in capsys.readouterr().err
    cli.main([*given, "--verbose"])
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "edgeopt: " in err.splitlines()[-1]


# exit codes


def test_exit_code_1_is_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of a verb")

    monkeypatch.setattr(api, "inspect", broken)
    assert cli.main([*arguments("inspect", tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    wanted = {"type": "ZeroDivisionError", "message": "of a verb", "exit_code": 1}
    assert json.loads(out) == {"schema": 1, "error": wanted}
    assert "edgeopt: internal error: ZeroDivisionError: of a verb" in err
    assert "please report it; --verbose shows where" in err
    assert "Traceback" not in err


def test_exit_code_2_is_an_input(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["inspect", str(tmp_path / "no.onnx"), "--json"]) == 2
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["error"] == {
        "type": "ModelError",
        "message": "cannot be read: No such file or directory",
        "where": str(tmp_path / "no.onnx"),
        "exit_code": 2,
    }
    assert err == f"edgeopt: {tmp_path / 'no.onnx'}: cannot be read: No such file or directory\n"


def test_exit_code_3_is_a_missed_budget(tmp_path: Path, quick: None, capsys: Capture) -> None:
    assert cli.main([*arguments("optimize", tmp_path), "--max-file-bytes", "10", "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "budget missed: file_bytes"
    assert next(c for c in report["candidates"] if c["shipped"])["reason"].startswith("no choice keeps all budgets")
    onnx.checker.check_model(str(tmp_path / "out" / "model.onnx"))
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report


def test_exit_code_4_is_a_failed_check(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(quantizer, "check", lambda *_: "a scale is wrong")
    assert cli.main([*arguments("quantize", tmp_path), "--json"]) == 4
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["exit_code"] == 4
    assert "the int8 model failed its check: a scale is wrong" in err
    assert not (tmp_path / "out.onnx").exists()


def test_exit_code_130_is_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "inspect", interrupted)
    assert cli.main(arguments("inspect", tmp_path)) == 130
    assert capsys.readouterr().err == "edgeopt: interrupted\n"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (MemoryError("cannot allocate 8 GB"), 2, "memory ran out: cannot allocate 8 GB"),
        (OSError(28, "No space left on device", "file"), 2, "file: the system refused: No space left on device"),
        (CheckError("not equal", where="node 'a'"), 4, "node 'a': not equal"),
    ],
)
def test_other_errors(
    error: Exception, code: int, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(api, "inspect", failing)
    assert cli.main(arguments("inspect", tmp_path)) == code
    assert text in capsys.readouterr().err


# processes


def test_python_m_edgeopt(tmp_path: Path) -> None:
    done = run("inspect", str(tiny.write(tmp_path).model), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["ops"]["Conv"] == 2
    assert done.stderr == ""


def test_progress_and_logs_stay_off_stdout(tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(
        "import logging, sys, numpy as np\n"
        "def samples():\n"
        "    logging.warning('a log of the user'); print('a note', file=sys.stderr)\n"
        "    yield from np.ones((4, 2, 8, 8), np.float32)\n"
    )
    done = run(
        "compare", str(tiny.write(tmp_path).model), "net.onnx", "--data", "chatty:samples", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 4
    assert "a log of the user" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_stdout_is_an_error_and_a_closed_one_is_none(tmp_path: Path) -> None:
    model = str(tiny.write(tmp_path).model)
    command = [sys.executable, "-m", "edgeopt", "inspect", model, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == 2
        assert "the system refused: No space left on device" in done.stderr
        assert "Exception ignored" not in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(command, env=environment, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_version(capsys: Capture) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgeopt {version()}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell: str, capsys: Capture) -> None:
    assert cli.main(["--print-completion", shell]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in [*COMMANDS, "--max-drop", "--keep-float"])
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=out, text=True, check=True)


def test_help_of_every_command(capsys: Capture) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    for name in COMMANDS:
        assert cli.main([name, "--help"]) == 0
        assert "--json" in capsys.readouterr().out


# the command line is the API

SAVED_BY_THE_COMMAND = {"simplify", "quantize", "export"}  # the verb returns what --output names
COMMON = {"help", "json", "quiet", "verbose"}
OF_PYTHON_ONLY = {"progress": set(COMMANDS), "example_inputs": {"export"}}
CHOSEN_BY_THE_COMMAND: dict[tuple[str, str], Any] = {  # what a caller of the verb leaves out or says
    ("export", "format"): None,  # by the ending of --output
    ("demo", "output"): "edgeopt-demo",
    ("profile", "device"): None,  # may be repeated
    ("quantize", "keep_float"): None,  # may be repeated
    ("export", "keep_float"): None,  # may be repeated
    ("simplify", "with_"): [],
}


def command_parser(name: str) -> argparse.ArgumentParser:
    found = next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    result: argparse.ArgumentParser = found.choices[name]
    return result


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_the_parameters_of_the_verb(name: str) -> None:
    options = {a.dest: a for a in command_parser(name)._actions if a.dest not in COMMON}
    parameters = inspect.signature(getattr(api, name)).parameters
    wanted = {p for p in parameters if name not in OF_PYTHON_ONLY.get(p, set())}
    written = {"output"} if name in SAVED_BY_THE_COMMAND else set()
    assert set(options) == wanted | written
    for key in wanted:
        parameter, option = parameters[key], options[key]
        if (name, key) in CHOSEN_BY_THE_COMMAND:
            assert option.default == CHOSEN_BY_THE_COMMAND[name, key]
        elif parameter.default is inspect.Parameter.empty:
            assert option.required
        else:
            assert option.required == (key == "output")
            assert option.default == parameter.default, key


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_is_spelled_like_its_parameter(name: str) -> None:
    for action in command_parser(name)._actions:
        spelled = {o.removeprefix("--").replace("-", "_") for o in action.option_strings if o.startswith("--")}
        if not spelled or action.dest == "help":
            continue
        wanted = "no_verify" if action.dest == "verify" else action.dest.removesuffix("_")
        assert wanted in spelled


def test_there_is_a_command_for_every_verb() -> None:
    assert set(COMMANDS) == {name for name in api.__all__ if name[0].islower()}


def test_the_defaults_of_optimize_are_those_that_its_help_tells() -> None:
    texts = {a.dest: a.help or "" for a in command_parser("optimize")._actions}
    for key, value in optimizing.DEFAULTS.items():
        if key != "keep_float":
            assert f"default {value}" in texts[key], key


@pytest.mark.parametrize(
    ("argv", "verb", "given"),
    [
        (["simplify", "--no-verify", "--with", "onnxsim", "--explain"], "simplify", {"verify": False, "explain": True}),
        (
            ["simplify", "--input-shape", "x=1,2", "--threads", "2"],
            "simplify",
            {"input_shape": ["x=1,2"], "threads": 2},
        ),
        (
            ["quantize", "--calib", "c.npz", "--keep-float", "Conv", "--keep-float", "dense"],
            "quantize",
            {"keep_float": ["Conv", "dense"]},
        ),
        (["profile", "--device", "host", "--device", "host"], "profile", {"device": ["host", "host"]}),
        (["optimize", "--calib", "c.npz", "--max-drop", "0.5"], "optimize", {"calib": "c.npz", "max_drop": 0.5}),
        (["export", "--opset", "17"], "export", {"opset": 17, "format": "onnx"}),
        (
            ["export", "--precision", "fp16", "--keep-float", "Conv"],
            "export",
            {"precision": "fp16", "keep_float": ["Conv"]},
        ),
        (["simplify", "--opset", "21"], "simplify", {"opset": 21}),
    ],
)
def test_what_is_given_reaches_the_verb(
    argv: list[str], verb: str, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class Stop(Exception):
        pass

    def spy(model: str, **options: Any) -> None:
        seen.update(options, model=model)
        raise Stop

    monkeypatch.setattr(api, verb, spy)
    output = [] if verb == "profile" else ["-o", str(tmp_path / "out")]
    assert cli.main([argv[0], "m.onnx", *output, *argv[1:]]) == 1  # Stop is no error of edgeopt's
    assert seen["model"] == "m.onnx"
    assert {k: seen[k] for k in given} == given
    assert callable(seen["progress"])


def test_the_ending_of_the_output_decides_the_format(tmp_path: Path, capsys: Capture) -> None:
    model = str(tiny.write(tmp_path).model)
    assert cli.main(["export", model, "-o", str(tmp_path / "a.ort"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "ort"
    assert (tmp_path / "a.ort").read_bytes()[4:8] == b"ORTM"
    assert cli.main(["export", model, "-o", str(tmp_path / "b.bin"), "--format", "ort", "--quiet"]) == 0
    assert (tmp_path / "b.bin").read_bytes()[4:8] == b"ORTM"


def test_the_demo(tmp_path: Path, quick: None, capsys: Capture) -> None:
    assert cli.main(["demo", "-o", str(tmp_path / "d"), "--effort", "fast", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {p.name for p in (tmp_path / "d").iterdir()} == {"model.onnx", "report.json", "recipe.toml"}
    assert report["before"]["score"]["value"] > 0.99


def test_progress_is_told(tmp_path: Path, quick: None) -> None:
    files, told = tiny.write(tmp_path), list[tuple[str, int, int]]()
    rewriting.quantize(files.model, calib=files.data, progress=lambda *step: told.append((*step, 0, 0)[:3]))
    texts = [text for text, _, _ in told]
    assert "pass fold_batchnorm" in texts
    assert ("calibrating", tiny.SAMPLES, tiny.SAMPLES) in told


def test_no_logging_is_configured_on_import() -> None:
    code = "import logging, edgeopt.cli; print(logging.getLogger().handlers)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert logging.getLogger("edgeopt").handlers == []


def test_a_report_with_numbers_that_are_none_would_be_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(api, "inspect", lambda *_: {"params": float("nan")})
    assert cli.main([*arguments("inspect", tmp_path), "--json"]) == 1
    assert "internal error: ValueError" in capsys.readouterr().err


def test_labels_of_the_tiny_net_are_its_own_decisions(tmp_path: Path) -> None:
    files = tiny.write(tmp_path)
    with np.load(files.data) as data:
        assert set(data["labels"]) <= {0, 1, 2}
        assert len(data["labels"]) == tiny.SAMPLES
