"""The calibration bench on one small model and few samples, and what it makes of its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import calibration
from tests.bench.calibration import FULL, PEER, SAMPLED, child, markdown, problems


def row(ratio: float = 1.2, growth: float = 0.01, many_bytes: float = 3e8) -> dict[str, Any]:
    figures = {"ms_per_sample": 4.0, "ratio": ratio, "range_s": 0.5}
    figures |= {"few_bytes": 2.9e8, "many_bytes": many_bytes, "growth": growth}
    return {"model": "m", "tensors": 5, PEER: figures | {"ratio": 1.0}, SAMPLED: figures, FULL: figures}


def test_kept_and_broken_promises() -> None:
    assert problems(row()) == []
    assert problems(row(2.0)) == ["sampled: 2.00 times onnxruntime's time, more than 1.5"]
    assert len(problems(row(3.0, 0.05, 1e9))) == 6
    assert "Kept." in markdown([row()], {"processor": "p"})
    broken = markdown([row(), row(2.0)], {"processor": "p"})
    assert broken.endswith("Broken:\n\n- m: sampled: 2.00 times onnxruntime's time, more than 1.5\n")
    assert "| m | 5 | full | 4.00 | 2.00 | 0.50 | 290 | 300 | 1.0% |" in broken


@pytest.mark.parametrize("how", [PEER, SAMPLED, FULL])
def test_a_measurement(how: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEOPT_SHARED", str(shared))
    found = child(how, "handposture_cnn", 4)
    assert found["pass_s"] > 0
    assert found["range_s"] >= 0
    assert found["peak_bytes"] > 5e7
    assert found["tensors"] > 3


def test_all_figures_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def fake(how: str, model: str, samples: int) -> dict[str, Any]:
        asked.append((how, samples))
        return {"pass_s": {PEER: 1.0, SAMPLED: 1.25, FULL: 2.0}[how], "range_s": 0.5, "peak_bytes": 100, "tensors": 7}

    monkeypatch.setattr(calibration, "child", fake)
    found = calibration.measured("m", 3)
    assert (found["tensors"], found[SAMPLED]["ratio"], found[FULL]["ratio"]) == (7, 1.25, 2.0)
    assert found[FULL]["growth"] == 0
    assert asked[:3] == [(PEER, 100), (SAMPLED, 100), (FULL, 100)]
    assert problems(found) == []
