"""The search of splits over a model, with latencies and noises as the tests choose them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import onnx_ir as ir
import pytest

from edgeopt.calibration import Sample
from edgeopt.calibration.statistics import RANGES
from edgeopt.latency import Ratio
from edgeopt.mixed_precision import MixedPrecision
from edgeopt.node_times import NodeTime
from edgeopt.oracle import Oracle
from edgeopt.quant import Scheme
from edgeopt.quantizer import Calibrated, calibrate
from edgeopt.shapes import infer
from edgeopt.trials import Trial, Trials
from tests import tiny

FAST = {"conv1": 0.2, "conv2": 0.2, "add": 0.5, "pool": 0.9, "dense": 0.5}  # times in int8; 1 in float


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    model = infer(ir.from_proto(tiny.net()))
    x = tiny.inputs()
    samples = [Sample({"x": x[k : k + 1]}, None) for k in range(8)]
    return calibrate(model, samples, Oracle(model, [samples[0].inputs], seed=0))


def searched(
    calibrated: Calibrated,
    monkeypatch: pytest.MonkeyPatch,
    int8_ms: Mapping[str, float] = FAST,
    noise: Mapping[str, float] | None = None,
    **options: Any,
) -> MixedPrecision:
    """Every unit takes 1 ms in float, every border 0.01 ms; ``noise`` of a unit is what it adds at the outputs."""
    run = Trials.run

    def time_ms(self: Trials, int8: Collection[str]) -> float:
        units = sum(int8_ms.get(u, 1.0) if u in int8 else 1.0 for u in self.regions.units)
        return units + 0.01 * sum(
            (b.producer in int8) != all(r in int8 for r in b.readers) for b in self.regions.borders
        )

    def fake_run(self: Trials, int8: Collection[str], rival: Trial | None = None) -> tuple[Trial, Ratio | None]:
        trial, _ = run(self, int8)
        trial.latency_ms = time_ms(self, trial.int8)
        value = time_ms(self, ()) / trial.latency_ms
        trial.speedup = Ratio(value, (value, value))
        against = None if rival is None else rival.latency_ms / trial.latency_ms
        return trial, None if against is None else Ratio(against, (against, against))

    def profile(self: Trials, trial: Trial) -> list[NodeTime]:
        return [
            NodeTime(unit, "Conv", int8_ms.get(unit, 1.0) if unit in trial.int8 else 1.0, 0.1, "compute")
            for unit in self.regions.units
        ]

    monkeypatch.setattr(Trials, "run", fake_run)
    monkeypatch.setattr(Trials, "race", lambda self, trials: [t.speedup for t in trials])
    monkeypatch.setattr(Trials, "profile", profile)
    if noise is not None:

        def noise_of(self: MixedPrecision, keep_float: frozenset[str], ranges: str) -> float:
            kept = {n for n in noise if n in keep_float}
            return sum(ms for unit, ms in noise.items() if unit not in kept) * (0.5 if ranges == "mse" else 1.0)

        monkeypatch.setattr(MixedPrecision, "_noise_of", noise_of)
    defaults: dict[str, Any] = {"ranges": "minmax", "search_s": 1e9, "trial_s": 0.001}
    return MixedPrecision(calibrated, Scheme(), calibrated.samples, **(defaults | options))


def test_case_1_the_fastest_split(calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(calibrated, monkeypatch, FAST | {"conv1": 3.0}).fastest()
    assert found is not None
    assert "conv1" in found.keep_float
    assert "conv2" not in found.keep_float
    assert found.reasons["conv1"] == "kept float because it is faster so here: 1000.0 µs in float, 3000.0 µs in int8"


def test_case_1_nothing_pays(calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch) -> None:
    search = searched(calibrated, monkeypatch, dict.fromkeys(FAST, 2.0))
    assert search.fastest() is None
    assert search.gentler() == []


def test_case_1_no_layer_that_could_be_int8(calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = frozenset(n.name or "" for n in calibrated.model.graph)
    assert searched(calibrated, monkeypatch, keep_float=everything).fastest() is None


def test_case_1_what_the_user_wants_in_float_stays(calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(calibrated, monkeypatch, keep_float=frozenset(["conv2"])).fastest()
    assert found is not None
    assert "conv2" in found.keep_float


def test_case_2_ranges_with_the_least_noise(calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch) -> None:
    search = searched(calibrated, monkeypatch, noise=dict.fromkeys(FAST, 0.1), ranges="auto")
    found = search.fastest()
    assert found is not None
    assert found.ranges == search.ranges == "mse"


def test_case_2_min_max_unless_another_way_is_clearly_better(
    calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = searched(calibrated, monkeypatch, noise={}, ranges="auto").fastest()
    assert found is not None
    assert found.ranges == "minmax"


@pytest.mark.parametrize("ranges", RANGES)
def test_case_2_what_was_asked_for(ranges: str, calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(calibrated, monkeypatch, ranges=ranges).fastest()
    assert found is not None
    assert found.ranges == ranges
    assert found.noise > 0  # measured, not made up


def test_case_3_gentler_splits_leave_the_noisiest_units_in_float(
    calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = {"conv1": 0.01, "conv2": 1.0, "add": 0.0, "pool": 0.0, "dense": 0.1}
    search = searched(calibrated, monkeypatch, noise=noise)
    fastest = search.fastest()
    assert fastest is not None
    gentler = search.gentler()
    assert gentler
    assert [s.noise for s in gentler] == sorted((s.noise for s in gentler), reverse=True)
    assert all(s.noise < fastest.noise for s in gentler)
    assert all(1 < s.speedup.median <= fastest.speedup.median for s in gentler)
    assert "conv2" in gentler[0].keep_float  # the noisiest first
    assert gentler[0].reasons["conv2"].startswith("kept float for accuracy: alone it makes 90% of the noise (1000.0 µs")
    assert "conv1" in gentler[-1].keep_float or gentler[-1].noise <= 0.01


def test_case_3_the_same_again(calibrated: Calibrated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same times, same splits."""
    noise = {"conv1": 0.3, "conv2": 0.2, "dense": 0.1}
    found = []
    for _ in range(2):
        with monkeypatch.context() as patch:
            search = searched(calibrated, patch, noise=noise)
            found.append((search.fastest(), search.gentler()))
    assert found[0] == found[1]
