"""edgeopt: makes trained ONNX models smaller and faster for edge devices, with proof."""

from __future__ import annotations

from edgeopt.api import compare, demo, export, inspect, optimize, profile, quantize, simplify
from edgeopt.errors import (
    CheckError,
    DataError,
    DeviceError,
    EdgeoptError,
    ExternalDataError,
    ModelError,
    OutputError,
    RecipeError,
    UsageError,
)
from edgeopt.report import version as _version
from edgeopt.result import Exported, Result

__version__ = _version()
__all__ = [
    "CheckError",
    "DataError",
    "DeviceError",
    "EdgeoptError",
    "Exported",
    "ExternalDataError",
    "ModelError",
    "OutputError",
    "RecipeError",
    "Result",
    "UsageError",
    "compare",
    "demo",
    "export",
    "inspect",
    "optimize",
    "profile",
    "quantize",
    "simplify",
]
