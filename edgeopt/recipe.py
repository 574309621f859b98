"""Recipes: what ``optimize`` was asked and what it decided, in a TOML file that replays it.

::

    schema = 1
    [options]                  # the same names as the command's options; those left out have their defaults
    max_drop = 0.01
    [decisions]                # written by optimize; taken as they are on a replay, nothing is decided by measuring
    choice = "int8"            # original, float or int8
    model_sha256 = "…"         # of the model they were taken for; another model is warned about
    preset = "x86-vnni"        # the integer kernels of the machine they were taken on
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from edgeopt.errors import RecipeError

SCHEMA = 1
CHOICES = ("original", "float", "int8")
EFFORTS = ("fast", "normal", "best")
OPTIONS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "device": (str, "a device name or path"),
    "max_drop": ((int, float), "a number"),
    "max_latency_ms": ((int, float), "a number"),
    "max_memory_bytes": (int, "a whole number"),
    "max_file_bytes": (int, "a whole number"),
    "effort": (str, f"one of {', '.join(EFFORTS)}"),
    "range": (str, "minmax"),
    "keep_float": (list, "a list of node names or operator types"),
    "metric": (str, "top1, top5 or module:function"),
    "input_shape": (list, 'a list such as ["input=1,3,224,224"]'),
    "threads": (int, "a whole number"),
    "seed": (int, "a whole number"),
}


@dataclass(frozen=True)
class Recipe:
    """Options and decisions as read from, or to be written to, a file."""

    options: dict[str, Any] = field(default_factory=dict)
    choice: str | None = None
    model_sha256: str | None = None
    preset: str | None = None

    def to_toml(self) -> str:
        """The file's text; the same recipe gives the same bytes."""
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "options": {k: v for k, v in self.options.items() if v is not None},
        }
        if self.choice is not None:
            decisions = {"choice": self.choice, "model_sha256": self.model_sha256, "preset": self.preset}
            document["decisions"] = {k: v for k, v in decisions.items() if v is not None}
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
    problems = _unknown(document, ("schema", "options", "decisions"), "$")
    if document.get("schema") != SCHEMA:
        problems.append(f"$.schema: expected {SCHEMA}, found {document.get('schema')!r}")
    options, decisions = document.get("options", {}), document.get("decisions", {})
    for name, table in (("options", options), ("decisions", decisions)):
        if not isinstance(table, dict):
            problems.append(f"$.{name}: expected a table, found {type(table).__name__}")
    if isinstance(options, dict):
        problems += _option_problems(options)
    if isinstance(decisions, dict):
        problems += _unknown(decisions, ("choice", "model_sha256", "preset"), "$.decisions")
        if "choice" in decisions and decisions["choice"] not in CHOICES:
            problems.append(f"$.decisions.choice: expected one of {', '.join(CHOICES)}, found {decisions['choice']!r}")
        for key in ("model_sha256", "preset"):
            if not isinstance(decisions.get(key, ""), str):
                problems.append(f"$.decisions.{key}: expected text")
    if problems:
        raise RecipeError("; ".join(problems), where=str(path))
    return Recipe(options, decisions.get("choice"), decisions.get("model_sha256"), decisions.get("preset"))


def _option_problems(options: Mapping[str, Any]) -> list[str]:
    problems = _unknown(options, tuple(OPTIONS), "$.options")
    for key, value in options.items():
        if key not in OPTIONS:
            continue
        kind, text = OPTIONS[key]
        wrong = not isinstance(value, kind) or isinstance(value, bool)
        wrong |= isinstance(value, list) and not all(isinstance(v, str) for v in value)
        wrong |= (key == "effort" and value not in EFFORTS) or (key == "range" and value != "minmax")
        if wrong:
            problems.append(f"$.options.{key}: expected {text}, found {value!r}")
    return problems


def _unknown(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> list[str]:
    problems = []
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            problems.append(f"{where}.{key}: unknown" + (f", did you mean {close[0]}?" if close else ""))
    return problems
