"""Fixtures that many tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of trained models and labelled data beside the project; its tests skip without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "data" / "models.json").exists():
        pytest.skip("needs ../shared/data (trained models and labelled data), which is not beside this checkout")
    return folder
