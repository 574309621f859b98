"""What is shipped, and why, for latencies, losses and budgets as the tests choose them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import api, making, memory, optimizer, schemas
from edgeopt.decisions import Decisions
from edgeopt.effort import EFFORTS
from edgeopt.errors import CheckError, ModelError
from edgeopt.proposals import Proposal
from edgeopt.result import Result
from edgeopt.runtime import Session
from tests import fakes, models, tiny

FAST_INT8 = {"original": 10.0, "float": 8.0, "int8": 4.0}
SLOW_INT8 = {"original": 10.0, "float": 8.0, "int8": 12.0}
# The loss is the mean distance from the outputs of the original, which are the labels.
METRIC = "def score(outputs, labels):\n    return -{factor} * float(abs(outputs - labels).mean())\n"


def run(folder: Path, *, metric: float | None = None, labelled: bool = True, **options: Any) -> Result:
    files = tiny.write(folder)
    data = files.data if labelled else files.unlabelled
    if metric is not None:
        name = f"loss_{abs(hash((str(folder), metric)))}"
        (folder / f"{name}.py").write_text(METRIC.format(factor=metric))
        session, x = Session(files.model), tiny.inputs()
        np.savez(data, x=x, labels=session.run({"x": x})["y"])
        options["metric"] = f"{folder / name}.py:score"
    return api.optimize(files.model, calib=data, **({"effort": "normal"} | options))


def candidate(result: Result, choice: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in result.report["candidates"] if c["choice"] == choice)
    return found


def is_int8(result: Result) -> bool:
    return any(n.op_type == "QuantizeLinear" for n in result.model.graph)


def test_faster_int8_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fakes.install(monkeypatch, FAST_INT8)
    result = run(tmp_path)
    assert result.report["choice"] == "int8"
    assert is_int8(result)
    assert result.exit_code == 0
    assert result.report["verdict"] == "ok"
    assert result.report["ratios"]["latency"] == pytest.approx(2.5)
    assert result.report["int8"]["nodes_int8"] == 7
    assert candidate(result, "int8")["reason"] == "the fastest that keeps all budgets"
    assert asked == [["float", "original", "int8"], ["int8", "original"]]  # all together, then the winner again


def test_slower_int8_is_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, SLOW_INT8)
    result = run(tmp_path)
    assert result.report["choice"] == "float"
    assert not is_int8(result)
    assert "int8" not in result.report
    assert candidate(result, "int8")["reason"] == "slower than the original"
    assert [p["hits"] for p in result.report["passes"] if p["name"] == "fold_batchnorm"] == [1]


def test_nothing_faster_leaves_the_original_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, {"original": 10.0, "float": 11.0, "int8": 12.0})
    result = run(tmp_path, output=tmp_path / "out")
    assert (result.report["choice"], result.report["verdict"]) == ("original", "unchanged")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == (tmp_path / "net.onnx").read_bytes()
    assert result.report["after"]["file_bytes"] == (tmp_path / "net.onnx").stat().st_size


def test_a_difference_within_noise_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 % faster: not told apart from equal, and of equal choices the simplified one is preferred."""
    fakes.install(monkeypatch, {"original": 10.0, "float": 10.05, "int8": 9.9})
    result = run(tmp_path)
    assert result.report["choice"] == "float"
    assert candidate(result, "int8")["reason"] == "not faster than the original beyond noise"


def test_a_loss_above_max_drop_is_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, FAST_INT8)
    result = run(tmp_path, metric=1e2)
    assert result.report["choice"] == "float"
    assert result.exit_code == 0  # the error budget is kept: nothing was missed
    assert "more than --max-drop 0.01" in candidate(result, "int8")["reason"]
    assert candidate(result, "int8")["drop"] > 0.01


def test_an_exact_rewrite_that_loses_all_the_same_is_not_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime's own optimizations may do harm to it; a metric that magnifies rounding stands in for that."""
    fakes.install(monkeypatch, FAST_INT8)
    result = run(tmp_path, metric=1e7)
    assert result.report["choice"] == "original"
    assert "more than --max-drop 0.01" in candidate(result, "float")["reason"]


def test_a_replayed_choice_that_loses_too_much_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, FAST_INT8)
    recipe = tmp_path / "r.toml"
    recipe.write_text('schema = 1\n[decisions]\nchoice = "int8"\n')
    kept = run(tmp_path, metric=1e-6, recipe=recipe)
    assert (kept.report["choice"], kept.exit_code, kept.report["verdict"]) == ("int8", 0, "ok")
    lost = run(tmp_path, metric=1e2, recipe=recipe)
    assert (lost.report["choice"], lost.exit_code) == ("int8", 3)
    assert lost.report["verdict"] == "budget missed: max_drop"
    assert any("'int8' is not within --max-drop 0.01 on this data" in w for w in lost.report["warnings"])


def test_a_number_of_results_that_int8_changes_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a detector that gives out the boxes it found: seen late, when the calibration samples were quiet."""
    fakes.install(monkeypatch, FAST_INT8)
    text = (
        "g (float[N,2,8,8] x) => (int64[4,found] y) <float[2,2,1,1] w, float one = {1}>"
        " { c = Conv(x, w) m = Greater(c, one) y = NonZero(m) }"
    )
    onnx.save(models.filled(text), tmp_path / "found.onnx")
    rng = np.random.default_rng(0)
    x = np.concatenate([np.zeros((8, 2, 8, 8)), rng.normal(0, 3, (24, 2, 8, 8))]).astype(np.float32)
    result = api.optimize(tmp_path / "found.onnx", calib=x)
    assert result.report["choice"] == "original"
    assert "SQNR below 40 dB" in candidate(result, "int8")["reason"]


def test_a_loss_within_max_drop_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, FAST_INT8)
    result = run(tmp_path, metric=1e-6)
    assert result.report["choice"] == "int8"
    assert 0 < candidate(result, "int8")["drop"] < 0.01
    assert result.report["after"]["score"]["value"] < result.report["before"]["score"]["value"]


def test_a_loss_of_exactly_max_drop_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.72 - 0.71 is a little more than 0.01 in floating point."""
    fakes.install(monkeypatch, FAST_INT8)
    drop = 0.72 - 0.71
    assert drop > 0.01
    monkeypatch.setattr("edgeopt.evaluation.Comparison.drop", lambda self: drop)
    assert run(tmp_path).report["choice"] == "int8"


def test_without_labels_the_expected_drop_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, FAST_INT8)
    result = run(tmp_path, labelled=False)
    assert result.report["choice"] == "int8"
    assert "score" not in result.report["before"]
    assert any("no labels were given" in w for w in result.report["warnings"])


@pytest.mark.parametrize(("outliers", "choice"), [(False, "int8"), (True, "original")])
def test_outputs_that_are_no_classes_are_judged_by_sqnr(
    outliers: bool, choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights fit 8 bits exactly, or their outliers leave the rest a few steps."""
    fakes.install(monkeypatch, FAST_INT8)
    proto = models.filled("g (float[N,2,8,8] x) => (float[N,2,8,8] y) <float[2,2,1,1] w> { [c] y = Conv(x, w) }")
    del proto.graph.initializer[:]
    weight = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32).reshape(2, 2, 1, 1)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(proto, tmp_path / "image.onnx")
    x = np.random.default_rng(0).integers(0, 256, (20, 2, 8, 8)).astype(np.float32) / 255
    if outliers:
        x = x * 0.02  # a few steps
        x[:, 0, 0, 0] = 1.0
        x[:, 1, 0, 0] = -1.0
    result = api.optimize(tmp_path / "image.onnx", calib=x.astype(np.float32))
    assert result.report["choice"] == choice
    assert any("the loss is judged by SQNR (at least 40 dB)" in w for w in result.report["warnings"])
    if choice == "original":
        assert "SQNR below 40 dB" in candidate(result, "int8")["reason"]


def test_a_winner_that_is_slower_again_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fakes.install(monkeypatch, FAST_INT8, SLOW_INT8, SLOW_INT8)
    result = run(tmp_path)
    assert result.report["choice"] == "float"
    assert candidate(result, "int8")["reason"] == "slower than the original when measured again"
    assert any("int8 was only 0.83 times as fast" in w for w in result.report["warnings"])
    assert asked[1:] == [["int8", "original"], ["float", "original"]]


def test_int8_that_is_not_faster_again_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loss must buy something; an exact rewrite need only keep pace."""
    equal = {"original": 10.0, "float": 10.0, "int8": 10.0}
    asked = fakes.install(monkeypatch, FAST_INT8 | {"float": 10.0}, equal)
    result = run(tmp_path)
    assert result.report["choice"] == "float"
    assert candidate(result, "int8")["reason"] == "not faster than the original when measured again"
    assert any("int8 was only 1.00 times as fast" in w for w in result.report["warnings"])
    assert asked[1:] == [["int8", "original"], ["float", "original"]]


def test_int8_that_is_wanted_for_its_size_need_not_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    equal = {"original": 10.0, "float": 10.0, "int8": 10.0}
    for first in (FAST_INT8, equal):
        fakes.install(monkeypatch, first, equal, peaks=[3000, 3000, 1000])
        folder = tmp_path / str(first["int8"])
        folder.mkdir()
        assert run(folder, max_memory_bytes=2000).report["choice"] == "int8"


def test_no_winner_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, FAST_INT8, {"original": 10.0, "float": 12.0, "int8": 12.0})
    assert run(tmp_path).report["choice"] == "original"


def test_the_fast_effort_does_not_measure_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fakes.install(monkeypatch, FAST_INT8, SLOW_INT8)
    assert run(tmp_path, effort="fast").report["choice"] == "int8"
    assert len(asked) == 1
    assert [e.confirm for e in EFFORTS.values()] == [False, True, True]


def test_a_slower_model_is_shipped_where_only_its_size_keeps_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.install(monkeypatch, SLOW_INT8, peaks=[3000, 3000, 1000])
    result = run(tmp_path, max_memory_bytes=2000)
    assert (result.report["choice"], result.exit_code) == ("int8", 0)
    assert result.report["after"]["memory"]["runtime_peak_bytes"] == 1000


def test_a_candidate_that_does_not_run_by_itself_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, FAST_INT8)
    healthy = memory.measure

    def crashing(model: ir.Model, *args: Any, **more: Any) -> Any:
        if any(n.op_type == "QuantizeLinear" for n in model.graph):
            raise ModelError("onnxruntime crashed (signal 11, SIGSEGV) on this model")
        return healthy(model, *args, **more)

    monkeypatch.setattr("edgeopt.memory.measure", crashing)
    result = run(tmp_path)
    assert result.report["choice"] != "int8"
    assert "no int8: onnxruntime crashed (signal 11, SIGSEGV) on this model" in result.report["warnings"]


def test_also_if_that_is_found_out_when_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, FAST_INT8, SLOW_INT8, peaks=[3000, 3000, 1000])
    result = run(tmp_path, max_memory_bytes=2000)
    assert (result.report["choice"], result.exit_code) == ("int8", 0)


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        ({"max_latency_ms": 1.0}, "latency_ms"),
        ({"max_memory_bytes": 10}, "memory_bytes"),
        ({"max_file_bytes": 10}, "file_bytes"),
    ],
)
def test_a_missed_budget_is_exit_code_3_with_the_best_result(
    budget: dict[str, Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.install(monkeypatch, FAST_INT8)
    result = run(tmp_path, output=tmp_path / "out", **budget)
    assert result.exit_code == 3
    assert result.report["verdict"] == f"budget missed: {name}"
    assert "no choice keeps all budgets" in next(c["reason"] for c in result.report["candidates"] if c["shipped"])
    Session(tmp_path / "out" / "model.onnx")


@pytest.mark.parametrize(
    ("limit", "choice", "exit_code"), [(10.2, "float", 0), (10.1, "original", 0), (9.9, "original", 3)]
)
def test_the_latency_budget_is_judged_by_the_reported_median(
    limit: float, choice: str, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float cannot be told from the original, whose 10.0 ms is its price; it is reported with its own."""
    fakes.install(monkeypatch, {"original": 10.0, "float": 10.15, "int8": 12.0})
    result = run(tmp_path, max_latency_ms=limit)
    assert (result.report["choice"], result.exit_code) == (choice, exit_code)
    assert (result.report["after"]["latency_ms"]["median"] <= limit) == (exit_code == 0)


def test_budgets_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, FAST_INT8)
    result = run(tmp_path, max_latency_ms=4.5, max_memory_bytes=1000, max_file_bytes=10_000)
    assert (result.exit_code, result.report["choice"]) == (0, "int8")


@pytest.mark.parametrize("error", [CheckError("a scale is wrong"), ModelError("an operator is unknown")])
def test_int8_that_fails_leaves_the_other_choices(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.install(monkeypatch, FAST_INT8)

    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(making, "build", failing)
    result = run(tmp_path)
    assert result.report["choice"] == "float"
    assert f"no int8: {error.message}" in result.report["warnings"]  # type: ignore[attr-defined]


def test_what_stays_float_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, FAST_INT8)
    result = run(tmp_path, keep_float=["Conv", "Gemm"])
    assert [c["choice"] for c in result.report["candidates"]] == ["float", "original"]


def test_the_model_is_tried_in_another_process_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tiny.write(tmp_path)
    fakes.install(monkeypatch, FAST_INT8)

    def crash(*_: Any, **__: Any) -> None:
        raise ModelError("onnxruntime crashed (signal 11, SIGSEGV) on this model")

    monkeypatch.setattr("edgeopt.memory.measure", crash)
    opened: list[Any] = []
    monkeypatch.setattr(optimizer, "Oracle", lambda *a, **k: opened.append(a))
    with pytest.raises(ModelError, match="SIGSEGV"):
        api.optimize(files.model, calib=files.data)
    assert opened == []


# int8 in regions, wider layouts

MIXED = Decisions("mixed", "minmax", ("conv2",))
GENTLER = (Decisions("mixed-2", "minmax", ("conv1", "conv2")), Decisions("mixed-3", "minmax", ("conv1", "dense")))
REGIONS = {"original": 10.0, "float": 8.0, "int8": 5.0, "mixed": 4.0, "mixed-2": 4.5, "mixed-3": 6.0}


def test_regions_are_shipped_where_they_are_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fakes.install(monkeypatch, REGIONS, proposed=(*fakes.WHOLE, MIXED))
    result = run(tmp_path)
    assert result.report["choice"] == "mixed"
    assert "conv2" in [n["node"] for n in result.report["int8"]["float_nodes"]]
    assert result.recipe is not None
    assert result.recipe.decisions == MIXED
    assert result.report["decisions"] == {"choice": "mixed", "range": "minmax", "keep_float": ["conv2"]}
    jsonschema.Draft202012Validator(schemas.load("report")).validate(result.report)
    assert asked == [["float", "original", "int8", "mixed"], ["mixed", "original"]]


def test_gentler_regions_are_looked_for_where_the_fastest_lose_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {"int8": 0.5, "mixed": 0.4, "mixed-2": 0.3, "mixed-3": 0.001}
    asked = fakes.install(monkeypatch, REGIONS, proposed=(*fakes.WHOLE, MIXED), gentler=GENTLER)
    fakes.lose(monkeypatch, losses)
    result = run(tmp_path)
    assert result.report["choice"] == "mixed-3"
    reasons = {c["choice"]: c["reason"] for c in result.report["candidates"]}
    assert reasons["mixed"] == "it loses 0.4, more than --max-drop 0.01"
    assert reasons["mixed-2"] == "it loses 0.3, more than --max-drop 0.01"
    assert asked[1] == ["original", "mixed-3"]  # what is not safe need not be timed
    floats = {n["node"]: n["reason"] for n in result.report["int8"]["float_nodes"]}
    assert floats["conv1"] == floats["dense"] == "kept float for a reason"


def test_gentler_regions_are_not_looked_for_where_the_fastest_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fakes.install(monkeypatch, REGIONS, proposed=(*fakes.WHOLE, MIXED), gentler=GENTLER)
    fakes.lose(monkeypatch, {"int8": 0.5})
    assert run(tmp_path).report["choice"] == "mixed"
    assert asked == [["float", "original", "int8", "mixed"], ["mixed", "original"]]


def test_gentler_regions_are_not_looked_for_where_int8_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fakes.install(monkeypatch, SLOW_INT8, gentler=GENTLER)
    fakes.lose(monkeypatch, {"int8": 0.5})
    assert run(tmp_path).report["choice"] == "float"
    assert len(asked) == 2


def test_a_wider_layout_is_a_float_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Decisions("layout", pad_channels=("conv1",), channel_block=16)
    fakes.install(monkeypatch, {"original": 10.0, "float": 9.0, "int8": 9.5, "layout": 6.0}, proposed=(layout,))
    result = run(tmp_path)
    assert result.report["choice"] == "layout"
    assert result.recipe is not None
    assert result.recipe.decisions == layout
    assert not is_int8(result)
    jsonschema.Draft202012Validator(schemas.load("report")).validate(result.report)


def test_regions_are_replayed_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corrected = replace(MIXED, bias_correction=True, pad_channels=("conv1",), channel_block=16)
    fakes.install(monkeypatch, REGIONS, proposed=(corrected,))
    files = tiny.write(tmp_path)
    first = api.optimize(files.model, calib=files.data, output=tmp_path / "a")
    assert first.report["choice"] == "mixed"
    fakes.install(monkeypatch, SLOW_INT8 | {"mixed": 99.0}, proposed=())
    again = api.optimize(files.model, calib=files.data, output=tmp_path / "b", recipe=tmp_path / "a" / "recipe.toml")
    assert again.report["choice"] == "mixed"
    reasons = {n["node"]: n["reason"] for n in again.report["int8"]["float_nodes"]}
    assert reasons["conv2"] == "kept float by the recipe's decision"
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()


def test_a_candidate_that_fails_on_the_evaluation_data_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.install(monkeypatch, FAST_INT8)
    monkeypatch.setattr(optimizer.Optimizer, "_compare", _comparing_without_int8(optimizer.Optimizer._compare))
    result = run(tmp_path)
    assert result.report["choice"] == "float"
    assert "no int8: a shape does not fit" in result.report["warnings"]
    assert [c["choice"] for c in result.report["candidates"]] == ["float", "original"]


def _comparing_without_int8(compare: Any) -> Any:
    def compared(self: Any, reference: Session, judging: Any, advance: Any) -> None:
        if any(c.choice == "int8" for c in judging):
            raise ModelError("a shape does not fit")
        compare(self, reference, judging, advance)

    return compared


def test_gentler_ones_are_taken_from_all_over_the_list() -> None:
    found = [Proposal(Decisions(f"mixed-{k}")) for k in range(2, 18)]
    assert [p.decisions.choice for p in optimizer._spread(found, 5)] == [
        "mixed-2", "mixed-6", "mixed-10", "mixed-13", "mixed-17",
    ]  # fmt: skip
    assert optimizer._spread(found[:3], 5) == found[:3]
