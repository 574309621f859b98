"""What holds for all verbs: what they take, that they change nothing of the caller's, what they return."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jsonschema
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edgeopt
from edgeopt import api, files, saving, schemas
from edgeopt.errors import DataError, EdgeoptError, ModelError, UsageError
from edgeopt.exporters import ExportCheck
from edgeopt.graph import input_specs, opset, output_specs
from edgeopt.result import Exported, Result
from edgeopt.runtime import Session
from tests import fakes, models, tiny
from tests.test_optimizer import FAST_INT8

VERBS: dict[str, Callable[[Any, tiny.Files], Any]] = {
    "inspect": lambda m, f: api.inspect(m),
    "simplify": lambda m, f: api.simplify(m),
    "quantize": lambda m, f: api.quantize(m, calib=f.data, device="x86-vnni"),
    "optimize": lambda m, f: api.optimize(m, calib=f.data),
    "profile": lambda m, f: api.profile(m, measure=False),
    "compare": lambda m, f: api.compare(m, m, data=f.data),
    "export": lambda m, f: api.export(m, format="ort"),
}
FORMS: dict[str, Callable[[Path], Any]] = {
    "path": lambda p: p,
    "text": str,
    "bytes": lambda p: p.read_bytes(),
    "ModelProto": lambda p: onnx.load(p),
    "ir.Model": lambda p: ir.load(p),
}


def untyped(value: Any) -> Any:
    """Hides from mypy a type that is wrong on purpose."""
    return value


def snapshot(model: Any) -> Any:
    if isinstance(model, ir.Model):
        return saving.serialize(model)
    return model.SerializeToString(deterministic=True) if isinstance(model, onnx.ModelProto) else model


@pytest.fixture(autouse=True)
def faked(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    fakes.install(monkeypatch, FAST_INT8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_every_form_and_leaves_it_as_it_was(verb: str, form: str, tmp_path: Path) -> None:
    given = tiny.write(tmp_path)
    model = FORMS[form](given.model)
    before, on_disk = snapshot(model), sorted(p.read_bytes() for p in tmp_path.iterdir())
    result = VERBS[verb](model, given)
    assert snapshot(model) == before
    assert sorted(p.read_bytes() for p in tmp_path.iterdir()) == on_disk
    report = result if isinstance(result, dict) else result.report
    assert report.get("model", {}).get("path") == (str(given.model) if form in ("path", "text") else None)
    assert report["model"]["opset"] == 17


@pytest.mark.parametrize("verb", ["simplify", "quantize", "optimize"])
def test_what_comes_back_is_no_part_of_what_was_given(verb: str, tmp_path: Path) -> None:
    given = tiny.write(tmp_path)
    model = ir.load(given.model)
    before = saving.serialize(model)
    result = VERBS[verb](model, given)
    result.model.graph.name = "mine"
    for node in list(result.model.graph):
        node.name = f"mine_{node.name}"
    assert saving.serialize(model) == before
    assert result.model is not model


@pytest.mark.parametrize("verb", ["simplify", "quantize", "optimize"])
def test_a_result_has_model_message_report_and_save(verb: str, tmp_path: Path) -> None:
    given = tiny.write(tmp_path)
    result = VERBS[verb](given.model, given)
    assert isinstance(result, Result)
    assert isinstance(result.model, ir.Model)
    assert isinstance(result.proto, onnx.ModelProto)
    result.save(tmp_path / "saved.onnx")
    assert (tmp_path / "saved.onnx").read_bytes() == result.proto.SerializeToString(deterministic=True)
    assert (tmp_path / "saved.onnx").stat().st_size == result.report["after"]["file_bytes"]
    original = files.load(given.model).model
    assert input_specs(result.model) == input_specs(original)
    assert output_specs(result.model) == output_specs(original)
    assert opset(result.model) == 17
    onnx.checker.check_model(result.proto)


@pytest.mark.parametrize("verb", ["simplify", "quantize", "optimize"])
def test_the_same_input_gives_the_same_bytes(verb: str, tmp_path: Path) -> None:
    given = tiny.write(tmp_path)
    first, second = (VERBS[verb](given.model, given) for _ in range(2))
    assert saving.serialize(first.model) == saving.serialize(second.model)


def test_simplify_folds_and_computes_the_same(tmp_path: Path) -> None:
    given = tiny.write(tmp_path)
    result = api.simplify(given.model)
    assert "BatchNormalization" not in {n.op_type for n in result.model.graph}
    models.assert_same(files.load(given.model).model, result.model)
    assert "device" not in result.report  # nothing is measured without --device
    assert result.report["after"]["nodes"] == result.report["before"]["nodes"] - 2  # a normalization and a shortcut


def test_simplify_starts_no_process_without_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("subprocess.Popen", refuse)
    monkeypatch.setattr("edgeopt.latency.measure", refuse)
    api.simplify(tiny.write(tmp_path).model)


def test_simplify_keeps_the_original_where_it_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"before": 1.0, "after": 2.0})
    given = tiny.write(tmp_path)
    result = api.simplify(given.model, device="host")
    assert result.report["verdict"] == "unchanged"
    assert "the original is kept: simplified it ran 0.50 times as fast on host" in result.report["warnings"]
    assert result.report["after"] == result.report["before"]
    assert result.proto == onnx.load(given.model)


def test_simplify_keeps_the_result_where_that_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"before": 2.0, "after": 1.0})
    result = api.simplify(tiny.write(tmp_path).model, device="host")
    assert (result.report["verdict"], result.report["ratios"]["latency"]) == ("ok", pytest.approx(2.0))


def test_simplify_without_verification_says_so(tmp_path: Path) -> None:
    assert (
        "the rewrites were not verified (--no-verify)"
        in api.simplify(tiny.write(tmp_path).model, verify=False).report["warnings"]
    )


def test_quantize_tells_where_int8_is_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tiny.write(tmp_path)
    fakes.install(monkeypatch, {"before": 1.0, "after": 2.0})
    report = api.quantize(given.model, calib=given.data).report
    assert "int8 is slower than float here: 0.50 times as fast; optimize ships what is faster" in report["warnings"]
    assert report["ratios"]["latency"] == pytest.approx(0.5)


def test_quantize_for_another_device_measures_nothing(tmp_path: Path) -> None:
    given = tiny.write(tmp_path)
    result = api.quantize(given.model, calib=given.data, device="arm")
    assert "latency_ms" not in result.report["after"]
    assert result.report["device"]["name"] == "arm"
    zero_points = {n.inputs[2].const_value.dtype for n in result.model.graph if n.op_type == "QuantizeLinear"}  # type: ignore[union-attr]
    assert zero_points == {ir.DataType.INT8}


@pytest.mark.parametrize(("effort", "samples"), [("fast", 64), ("normal", 70), ("best", 70)])
def test_the_effort_decides_how_many_samples_are_used(effort: str, samples: int, tmp_path: Path) -> None:
    given = tiny.write(tmp_path)
    seen: list[tuple[int, int]] = []

    def progress(text: str, done: int = 0, total: int = 0) -> None:
        if text == "calibrating":
            seen.append((done, total))

    data = np.concatenate([tiny.inputs()] * 4)[:70]
    api.quantize(given.model, calib=data, effort=effort, device="arm", progress=progress)
    assert seen[-1] == (samples, samples)


def test_quantize_with_nothing_to_do(tmp_path: Path) -> None:
    given = tiny.write(tmp_path)
    result = api.quantize(given.model, calib=given.data, keep_float=["Conv", "Gemm"])
    assert result.report["verdict"] == "ok"  # simplified, that is
    assert next(p["hits"] for p in result.report["passes"] if p["name"] == "fold_batchnorm") == 1
    assert any("no Conv, Gemm or MatMul can run in int8" in w for w in result.report["warnings"])


@pytest.mark.parametrize("source", ["array", "dict", "list", "generator", "tuples"])
def test_data_from_python(source: str, tmp_path: Path) -> None:
    given, x = tiny.write(tmp_path), tiny.inputs()
    data: Any = {
        "array": x,
        "dict": {"x": x},
        "list": [{"x": s[None]} for s in x],
        "generator": (s for s in x),
        "tuples": [(s, 1) for s in x],
    }[source]
    assert api.quantize(given.model, calib=data, device="arm").report["calibration"]["samples"] == tiny.SAMPLES


def test_profile_feeds_the_first_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"model": 2.0})
    given = tiny.write(tmp_path)
    report = api.profile(given.model, data=np.repeat(tiny.inputs()[:1], 3, axis=0), device=["host", "this-machine"])
    assert [p["device"]["name"] for p in report["profiles"]] == ["host", "host"]
    assert sum(n["latency_ms"] for n in report["profiles"][0]["nodes"]) == pytest.approx(2.0, rel=1e-3)


def test_compare_matches_by_position(tmp_path: Path) -> None:
    other = tiny.net()
    onnx.compose.add_prefix(other, "b_", inplace=True)
    given = tiny.write(tmp_path)
    report = api.compare(given.model, other, data=given.data, limit=5)
    assert report["samples"] == 5
    assert report["outputs"]["y"]["max_abs_error"] == 0.0
    assert report["score_a"] == report["score_b"] == {"metric": "top1", "value": 1.0, "samples": 5}


def test_export_to_ort_runs(tmp_path: Path) -> None:
    given = tiny.write(tmp_path)
    result = api.export(given.model, format="ort")
    assert isinstance(result, Exported)
    assert result.data is not None
    x = tiny.inputs()[:1]
    np.testing.assert_allclose(
        Session(result.data).run({"x": x})["y"], Session(given.model).run({"x": x})["y"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("target", [18, 21])
def test_another_opset(target: int, tmp_path: Path) -> None:
    given = tiny.write(tmp_path)
    for result in (api.export(given.model, opset=target), api.simplify(given.model, opset=target)):
        assert {d: v for d, v in result.model.opset_imports.items() if d == ""} == {"": target}
        result.save(tmp_path / "out.onnx")
        x = tiny.inputs()[:1]
        np.testing.assert_allclose(
            Session(files.load(tmp_path / "out.onnx").model).run({"x": x})["y"],
            Session(given.model).run({"x": x})["y"],
            rtol=1e-4,
            atol=1e-5,
        )
    assert api.simplify(given.model, opset=target).report["opset"] == target


def test_the_opset_that_it_has_already(tmp_path: Path) -> None:
    given = tiny.write(tmp_path)
    current = files.load(given.model).model.opset_imports[""]
    assert "opset" not in api.simplify(given.model, opset=current).report
    assert api.export(given.model, opset=current).report["check"]["compared"].startswith("nothing")


def test_export_to_float16(tmp_path: Path) -> None:
    given = tiny.write(tmp_path)
    result = api.export(given.model, precision="fp16", opset=21)
    result.save(tmp_path / "half.onnx")
    assert result.report["check"]["sqnr_db"] > 40
    x = tiny.inputs()[:1]
    np.testing.assert_allclose(
        Session(files.load(tmp_path / "half.onnx").model).run({"x": x})["y"],
        Session(given.model).run({"x": x})["y"],
        rtol=2e-2,
        atol=2e-2,
    )
    assert (tmp_path / "half.onnx").stat().st_size < 0.8 * given.model.stat().st_size


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: api.inspect(3), UsageError, "expected a path, bytes, onnx.ModelProto or onnx_ir.Model, found int"),
        (lambda f: api.inspect(None), UsageError, "found NoneType"),
        (lambda f: api.inspect(b""), ModelError, "it has no graph"),
        (lambda f: api.inspect(onnx.ModelProto()), ModelError, "it has no graph"),
        (lambda f: api.quantize(f.model, calib=3), DataError, "a int is no data source"),
        (lambda f: api.quantize(f.model, calib=f.data, effort="much"), UsageError, "--effort"),
        (
            lambda f: api.export(f.model, format=untyped("tflite")),
            UsageError,
            "--format: expected onnx or ort, found 'tflite'",
        ),
        (lambda f: api.export(f.model), UsageError, "the source is ONNX already"),
        (lambda f: api.export(f.model, opset=3), UsageError, "--opset: expected 7 to"),
        (lambda f: api.simplify(f.model, opset=3), UsageError, "--opset: expected 7 to"),
        (
            lambda f: api.export(f.model, precision=untyped("int4")),
            UsageError,
            "--precision: expected fp32 or fp16, found 'int4'",
        ),
        (lambda f: api.compare(f.model, f.model, data=f.data, limit=0), UsageError, "limit is 0"),
        (lambda f: api.simplify(f.model, seed=-1), UsageError, "--seed"),
        (lambda f: api.simplify(f.model, threads=untyped("2")), UsageError, "--threads: expected 1 to 1024, found '2'"),
        (lambda f: api.simplify(f.model, input_shape={"x": untyped(3)}), UsageError, "--input-shape x"),
    ],
)
def test_errors_are_edgeopts_own(call: Any, error: type[EdgeoptError], message: str, tmp_path: Path) -> None:
    with pytest.raises(error) as caught:
        call(tiny.write(tmp_path))
    assert message in str(caught.value)


def test_verbs_take_the_model_only_by_position() -> None:
    with pytest.raises(TypeError):
        api.simplify("model.onnx", True)  # type: ignore[call-arg]


def test_the_package_exports_the_verbs() -> None:
    assert all(getattr(edgeopt, name) is getattr(api, name) for name in api.__all__)


@pytest.mark.parametrize("verb", ["simplify", "quantize", "optimize"])
def test_what_cannot_be_rewritten_comes_back_as_it_was(verb: str, tmp_path: Path) -> None:
    model = tiny.sparse(tmp_path)
    options = {} if verb == "simplify" else {"calib": np.ones((8, 4), np.float32)}
    result = getattr(api, verb)(model, **options)
    result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == model.read_bytes()
    assert result.report["verdict"] == "unchanged"
    assert "returned untouched: the model has a sparse initializer" in result.report["warnings"][0]


@pytest.mark.parametrize("source", ["nets:make", object()], ids=["reference", "module"])
@pytest.mark.parametrize("format_", ["onnx", "ort"])
def test_export_of_a_torch_module(
    source: Any, format_: Literal["onnx", "ort"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter itself has tests of its own: here it is what the verb makes of it."""
    check = ExportCheck(1e-7, 1e-6, 3, "dynamo", 17, True)
    module, example = object(), object()
    asked: list[Any] = []

    def from_torch(*arguments: Any, **options: Any) -> tuple[ir.Model, ExportCheck]:
        asked.extend([*arguments, options])
        return ir.from_proto(tiny.net()), check

    monkeypatch.setattr("edgeopt.exporters.resolve_torch", lambda spec: (module, example))
    monkeypatch.setattr("edgeopt.exporters.from_torch", from_torch)
    given = None if isinstance(source, str) else example
    result = api.export(source, example_inputs=given, format=format_, opset=17, seed=3)
    assert asked == [module if isinstance(source, str) else source, example, {"opset": 17, "seed": 3}]
    assert result.report["check"] == check.as_json()
    jsonschema.Draft202012Validator(schemas.load("export")).validate(result.report)
    result.save(tmp_path / "out")
    assert (tmp_path / "out").stat().st_size == result.report["file_bytes"]
    assert (result.data is None) == (format_ == "onnx")
