"""The verbs. The command line has one sub-command for each, with the same parameter names."""

from __future__ import annotations

from edgeopt.exporting import export
from edgeopt.optimizing import demo, optimize
from edgeopt.reading import compare, inspect, profile
from edgeopt.result import Exported, Result
from edgeopt.rewriting import quantize, simplify

__all__ = ["Exported", "Result", "compare", "demo", "export", "inspect", "optimize", "profile", "quantize", "simplify"]
