"""Recipes: what ``optimize`` was asked and what it decided, in a TOML file that replays it.

::

    schema = 1
    [options]                  # the same names as the command's options; those left out have their defaults
    max_drop = 0.01
    [decisions]                # written by optimize; taken as they are on a replay, nothing is decided by measuring
    choice = "mixed"           # original, float, layout, int8 or mixed: see ``edgeopt.decisions``
    range = "minmax"
    keep_float = ["conv1"]     # what stays float because it is faster so, or for accuracy's sake
    model_sha256 = "…"         # of the model they were taken for; another model is warned about
    preset = "x86-vnni"        # the integer kernels of the machine they were taken on
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from edgeopt import decisions as decided
from edgeopt.calibration.statistics import RANGES
from edgeopt.decisions import AUTO, Decisions, unknown
from edgeopt.errors import RecipeError

SCHEMA = 1
_ORIGIN = ("model_sha256", "preset")
EFFORTS = ("fast", "normal", "best")
OPTIONS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "device": (str, "a device name or path"),
    "max_drop": ((int, float), "a number"),
    "max_latency_ms": ((int, float), "a number"),
    "max_memory_bytes": (int, "a whole number"),
    "max_file_bytes": (int, "a whole number"),
    "effort": (str, f"one of {', '.join(EFFORTS)}"),
    "range": (str, f"one of {', '.join((AUTO, *RANGES))}"),
    "keep_float": (list, "a list of node names or operator types"),
    "metric": (str, "top1, top5 or module:function"),
    "input_shape": (list, 'a list such as ["input=1,3,224,224"]'),
    "fix_weights": (bool, "true or false"),
    "threads": (int, "a whole number"),
    "seed": (int, "a whole number"),
}


@dataclass(frozen=True)
class Recipe:
    """Options and decisions as read from, or to be written to, a file."""

    options: dict[str, Any] = field(default_factory=dict)
    decisions: Decisions | None = None
    model_sha256: str | None = None
    preset: str | None = None

    def to_toml(self) -> str:
        """The file's text; the same recipe gives the same bytes."""
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "options": {k: v for k, v in self.options.items() if v is not None},
        }
        if self.decisions is not None:
            origin = {"model_sha256": self.model_sha256, "preset": self.preset}
            document["decisions"] = self.decisions.as_table() | {k: v for k, v in origin.items() if v is not None}
        return tomli_w.dumps(document)


def read(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        RecipeError: it cannot be read, or holds something unknown or of a wrong type; all problems at once, each
            with its ``$.path``.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"is no TOML file: {error}", where=str(path)) from error
    problems = unknown(document, ("schema", "options", "decisions"), "$")
    if document.get("schema") != SCHEMA:
        problems.append(f"$.schema: expected {SCHEMA}, found {document.get('schema')!r}")
    options, decisions = document.get("options", {}), document.get("decisions", {})
    for name, table in (("options", options), ("decisions", decisions)):
        if not isinstance(table, dict):
            problems.append(f"$.{name}: expected a table, found {type(table).__name__}")
    if isinstance(options, dict):
        problems += _option_problems(options)
    made = {k: v for k, v in decisions.items() if k not in _ORIGIN} if isinstance(decisions, dict) else {}
    if made:
        problems += decided.problems(made, "$.decisions")
    if isinstance(decisions, dict):
        for key in _ORIGIN:
            if not isinstance(decisions.get(key, ""), str):
                problems.append(f"$.decisions.{key}: expected text")
    if problems:
        raise RecipeError("; ".join(problems), where=str(path))
    return Recipe(options, decided.read(made) if made else None, decisions.get("model_sha256"), decisions.get("preset"))


def _option_problems(options: Mapping[str, Any]) -> list[str]:
    problems = unknown(options, tuple(OPTIONS), "$.options")
    for key, value in options.items():
        if key not in OPTIONS:
            continue
        kind, text = OPTIONS[key]
        wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        wrong |= isinstance(value, list) and not all(isinstance(v, str) for v in value)
        wrong |= (key == "effort" and value not in EFFORTS) or (key == "range" and value not in (AUTO, *RANGES))
        if wrong:
            problems.append(f"$.options.{key}: expected {text}, found {value!r}")
    return problems
