from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from edgeopt.calibration import Sample
from edgeopt.oracle import Oracle
from edgeopt.quant import Scheme
from edgeopt.quantizer import Calibrated, calibrate
from edgeopt.shapes import infer
from edgeopt.trials import Trials
from tests import tiny


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    model = infer(ir.from_proto(tiny.net()))
    x = tiny.inputs()
    samples = [Sample({"x": x[k : k + 1]}, None) for k in range(4)]
    return calibrate(model, samples, Oracle(model, [samples[0].inputs], seed=0))


def trials(calibrated: Calibrated, **options: Any) -> Trials:
    feed = calibrated.samples[0]
    return Trials(calibrated, Scheme(), feed, **({"trial_s": 0.01} | options))


def test_a_split_is_built_and_timed(calibrated: Calibrated) -> None:
    bench = trials(calibrated)
    trial, against = bench.run(["conv2", "add"])
    assert trial.int8 == {"conv2", "add"}
    assert against is None
    assert trial.latency_ms > 0
    assert trial.model is not None
    assert sum(n.op_type == "QuantizeLinear" for n in trial.model.graph) >= 2
    times = bench.profile(trial)
    assert sum(n.latency_ms for n in times) == pytest.approx(trial.latency_ms)
    assert any(n.op == "QLinearConv" for n in times)


def test_beside_a_rival(calibrated: Calibrated) -> None:
    bench = trials(calibrated)
    first, _ = bench.run(["conv2"])
    _, against = bench.run(["conv1"], first)
    assert against is not None
    assert against.median > 0


def test_a_released_trial_can_be_profiled_and_raced(calibrated: Calibrated) -> None:
    bench = trials(calibrated)
    trial, _ = bench.run(["conv2"])
    trial.release()
    assert trial.model is None
    assert any(n.op == "QLinearConv" for n in bench.profile(trial))
    assert len(bench.race([trial])) == 1
    _, against = bench.run(["conv1"], trial)
    assert against is None  # a rival that is gone is not timed


def test_layers_can_be_in_int8_alone(calibrated: Calibrated) -> None:
    bench = trials(calibrated)
    assert [u for u in bench.regions.units if bench.is_layer(u)] == ["conv1", "conv2", "dense"]


def test_a_race(calibrated: Calibrated) -> None:
    bench = trials(calibrated)
    racers = [bench.run(["conv2"])[0], bench.run(["conv1"])[0]]
    found = bench.race(racers)
    assert len(found) == 2
    assert all(ratio.median > 0 for ratio in found)


def test_what_has_no_choice_is_not_counted(calibrated: Calibrated) -> None:
    """An Add between float nodes stays float, whatever is asked."""
    trial, _ = trials(calibrated).run(["add"])
    assert trial.int8 == frozenset()
    assert trial.model is not None
    assert not any(n.op_type == "QuantizeLinear" for n in trial.model.graph)


def test_what_the_user_wants_in_float_is_no_unit(calibrated: Calibrated) -> None:
    bench = trials(calibrated, keep_float=frozenset(["conv2"]))
    assert "conv2" not in bench.regions.units
    assert bench.keep_float(["conv1"]) == {"conv2", "dense"}


def test_borders_know_their_sizes(calibrated: Calibrated) -> None:
    sizes = {b.tensor: b.elements for b in trials(calibrated).regions.borders}
    assert sizes["x"] == 2 * 8 * 8
    assert sizes["r1"] == 4 * 8 * 8
