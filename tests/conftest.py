"""Fixtures that many tests share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeopt import reading, rewriting
from edgeopt.effort import EFFORTS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of trained models and labelled data beside the project; its tests skip without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "data" / "models.json").exists():
        pytest.skip("needs ../shared/data (trained models and labelled data), which is not beside this checkout")
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs measure for a few milliseconds only: what is tested is what they do, not how fast."""
    for name, effort in EFFORTS.items():
        monkeypatch.setitem(EFFORTS, name, replace(effort, measure_s=0.02, search_s=0.1, trial_s=0.01))
    for module, names in ((reading, ["_MEASURE_S"]), (rewriting, ["_MEASURE_S", "_QUICK_MEASURE_S"])):
        for name in names:
            monkeypatch.setattr(module, name, 0.02)
