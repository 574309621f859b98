from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgeopt import api, cli, schemas
from edgeopt.errors import UsageError
from edgeopt.exporters import ExportCheck
from tests import tiny


def validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schemas.load(kind))


def accept(kind: str, document: Any) -> None:
    errors = [f"{e.json_path}: {e.message}" for e in validator(kind).iter_errors(document)]
    assert errors == []


REPORTS: dict[str, tuple[str, Callable[[tiny.Files], Any]]] = {
    "simplify": ("report", lambda f: api.simplify(f.model, explain=True)),
    "simplify, not verified": ("report", lambda f: api.simplify(f.model, verify=False)),
    "simplify, measured": ("report", lambda f: api.simplify(f.model, device="host")),
    "simplify, from memory": ("report", lambda f: api.simplify(f.model.read_bytes())),
    "simplify, untouchable": ("report", lambda f: api.simplify(tiny.sparse(f.model.parent))),
    "quantize": ("report", lambda f: api.quantize(f.model, calib=f.data)),
    "quantize, another device": ("report", lambda f: api.quantize(f.model, calib=f.data, device="arm")),
    "quantize, all float": ("report", lambda f: api.quantize(f.model, calib=f.data, keep_float=["Conv", "Gemm"])),
    "optimize, no labels, budget missed": (
        "report",
        lambda f: api.optimize(f.model, calib=f.unlabelled, max_file_bytes=1, max_memory_bytes=1, effort="fast"),
    ),
    "inspect": ("inspect", lambda f: api.inspect(f.model)),
    "inspect, fixed shape": ("inspect", lambda f: api.inspect(f.model, input_shape={"x": (1, 2, 8, 8)})),
    "profile": ("profile", lambda f: api.profile(f.model)),
    "profile, not measured": ("profile", lambda f: api.profile(f.model, measure=False)),
    "compare": ("compare", lambda f: api.compare(f.model, f.model, data=f.data)),
    "compare, no labels": ("compare", lambda f: api.compare(f.model, f.model, data=f.unlabelled)),
    "export ort": ("export", lambda f: api.export(f.model, format="ort")),
    "export opset": ("export", lambda f: api.export(f.model, opset=21)),
    "export float16": ("export", lambda f: api.export(f.model, precision="fp16", keep_float=["Conv"])),
    "simplify, another opset": ("report", lambda f: api.simplify(f.model, opset=21)),
}


@pytest.mark.parametrize("case", REPORTS)
def test_the_reports_of_the_api_fit_their_schema(case: str, tmp_path: Path, quick: None) -> None:
    kind, call = REPORTS[case]
    result = call(tiny.write(tmp_path))
    accept(kind, result if isinstance(result, dict) else result.report)


def test_the_report_of_an_exported_torch_module_fits_its_schema(tmp_path: Path) -> None:
    made = ExportCheck(1e-7, 1e-7, 3, "dynamo", 18, True, ("torchscript: failed",), ("a branch was frozen",))
    accept("export", {**api.export(tiny.write(tmp_path).model, format="ort").report, "check": made.as_json()})


COMMANDS = {
    "inspect": ("inspect", ["{model}"]),
    "simplify": ("report", ["{model}", "-o", "{out}.onnx"]),
    "quantize": ("report", ["{model}", "-o", "{out}.onnx", "--calib", "{data}"]),
    "optimize": ("report", ["{model}", "-o", "{out}", "--calib", "{data}", "--effort", "fast"]),
    "profile": ("profile", ["{model}"]),
    "compare": ("compare", ["{model}", "{model}", "--data", "{data}"]),
    "export": ("export", ["{model}", "-o", "{out}.ort"]),
    "simplify, failing": ("error", ["{model}.missing", "-o", "{out}.onnx"]),
    "simplify, wrong usage": ("error", ["--nonsense"]),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_what_json_prints_fits_its_schema(
    case: str, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, arguments = COMMANDS[case]
    given = tiny.write(tmp_path)
    named = {"model": given.model, "data": given.data, "out": tmp_path / "out"}
    cli.main([case.partition(",")[0], *(a.format(**named) for a in arguments), "--json"])
    accept(kind, json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("kind", schemas.KINDS)
def test_the_schemas_are_valid_and_stand_on_their_own(kind: str) -> None:
    schema = schemas.load(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    references = [v for k, v in _walk(schema) if k == "$ref"]
    assert all(r.removeprefix("#/$defs/") in schema["$defs"] for r in references)
    assert references or kind == "error"


@pytest.mark.parametrize("kind", schemas.KINDS)
def test_every_key_is_described_and_no_other_key_is_allowed(kind: str) -> None:
    schema = schemas.load(kind)
    for _, part in _walk({"": schema}):
        if isinstance(part, dict) and "properties" in part:
            assert part["additionalProperties"] is False
            assert set(part["required"]) <= set(part["properties"])
            for name, value in part["properties"].items():
                target = schema["$defs"][value["$ref"].removeprefix("#/$defs/")] if "$ref" in value else value
                assert value.get("description") or target.get("description"), name


@pytest.mark.parametrize("name", ["bytes", "ms"])
def test_descriptions_tell_the_unit_that_the_key_tells(name: str) -> None:
    texts = [
        (key, value["description"])
        for kind in schemas.KINDS
        for _, part in _walk({"": schemas.load(kind)})
        if isinstance(part, dict) and "properties" in part
        for key, value in part["properties"].items()
        if key.endswith(f"_{name}") and value.get("type") in ("integer", "number")
    ]
    assert texts
    assert all(name in text.lower() for _, text in texts)


def _spoiled(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The document with one thing wrong at a time."""
    for key in document:
        for wrong in (None, object):
            other = copy.deepcopy(document)
            other[key] = wrong if wrong is None else ["wrong", {"x": 1}]
            yield f"{key} = {other[key]}", other
    yield "an unknown key", {**document, "unknown": 1}


@pytest.mark.parametrize("case", ["simplify", "quantize", "inspect", "profile, not measured", "compare", "export ort"])
def test_a_wrong_type_or_an_unknown_key_is_refused(case: str, tmp_path: Path, quick: None) -> None:
    kind, call = REPORTS[case]
    result = call(tiny.write(tmp_path))
    report = json.loads(json.dumps(result if isinstance(result, dict) else result.report))
    check = validator(kind)
    for what, document in _spoiled(report):
        assert not check.is_valid(document), what


WRONG: list[tuple[tuple[str | int, ...], Any]] = [
    (("model", "sha256"), "abc"),
    (("model", "extra"), 1),
    (("before", "params"), -1),
    (("before", "params"), 1.5),
    (("before", "latency_ms", "interval_90"), [1.0]),
    (("before", "latency_ms", "evidence"), "guessed"),
    (("after", "latency_ms", "median"), "fast"),
    (("int8", "macs_int8_share"), 1.5),
    (("passes", 0, "hits"), "many"),
    (("passes", 0, "unknown"), 1),
    (("ratios", "speed"), 2.0),
    (("verdict",), "fine"),
    (("schema",), 2),
    (("choice",), "int8"),  # without the candidates that it was chosen from
]


def test_a_report_with_one_wrong_value_is_refused(tmp_path: Path, quick: None) -> None:
    files = tiny.write(tmp_path)
    report = api.quantize(files.model, calib=files.data).report
    accept("report", report)
    check = validator("report")
    for path, value in WRONG:
        spoiled = part = copy.deepcopy(report)
        for key in path[:-1]:
            part = part[key]  # type: ignore[index]
        part[path[-1]] = value  # type: ignore[index]
        assert not check.is_valid(spoiled), path


@pytest.mark.parametrize(
    "error",
    [
        {"type": "ModelError", "message": "is empty", "exit_code": 3},
        {"type": "ModelError", "message": "is empty"},
        {"type": "ModelError", "message": "is empty", "exit_code": 2, "line": 7},
        {"type": "ModelError", "message": None, "exit_code": 2},
    ],
)
def test_a_wrong_error_is_refused(error: dict[str, Any]) -> None:
    accept("error", {"schema": 1, "error": {"type": "ModelError", "message": "is empty", "exit_code": 2}})
    assert not validator("error").is_valid({"schema": 1, "error": error})


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"schemas.load: expected one of report, .*, found 'demo'"):
        schemas.load("demo")


def _walk(part: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(part, dict):
        for key, value in part.items():
            yield key, value
            yield from _walk(value)
    elif isinstance(part, list):
        for value in part:
            yield from _walk(value)
