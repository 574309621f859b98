"""Input specs and files that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.graph import Array, TensorSpec


def spec(name: str = "x", *dims: int | str | None, dtype: Any = np.float32) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), dims)


IMAGE = spec("x", "N", 3, 8, 6)
FLAT = spec("x", "N", 4)


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pixels(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write_toml(folder: Path, text: str) -> str:
    path = folder / "dataset.toml"
    path.write_text(text)
    return str(path)
