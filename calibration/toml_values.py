"""Reads typed values out of a TOML table and collects what is wrong with them, each with its ``$.path``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeopt.errors import DataError

_MAX_PIXELS = 65536


class Problems:
    """What is wrong with a file; raised together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[str] = []

    def add(self, where: str, message: str) -> None:
        """Note a problem at a ``$.path``."""
        self.found.append(f"{where}: {message}")

    def raise_if_any(self) -> None:
        """Report all of them.

        Raises:
            DataError: there is at least one.
        """
        if self.found:
            head = "one problem" if len(self.found) == 1 else f"{len(self.found)} problems"
            raise DataError("\n  ".join([f"{head}:", *self.found]), where=str(self.path))


def unknown_keys(table: Mapping[str, Any], known: Sequence[str], where: str, problems: Problems) -> None:
    """Every key that is not known is a problem; the nearest known one is suggested."""
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            guess = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known)}"
            problems.add(f"{where}.{key}", f"unknown key{guess}")


def subtable(parent: Mapping[str, Any], key: str, where: str, problems: Problems) -> Mapping[str, Any] | None:
    """The table under ``key``, or None when it is missing (no problem) or no table (a problem)."""
    value = parent.get(key)
    if value is None or isinstance(value, Mapping):
        return value
    problems.add(f"{where}.{key}", f"expected a table ([{key}]), found {kind(value)}")
    return None


def text(table: Mapping[str, Any], key: str, where: str, problems: Problems) -> str | None:
    """A text that must be there."""
    value = table.get(key)
    if isinstance(value, str) and value:
        return value
    found = "nothing" if value is None else kind(value)
    problems.add(f"{where}.{key}", f"expected text, found {found}")
    return None


def choice(table: Mapping[str, Any], key: str, options: Sequence[str], where: str, problems: Problems) -> str | None:
    """One of a few words, or None when missing."""
    value = table.get(key)
    if value is None or value in options:
        return value
    problems.add(f"{where}.{key}", f"expected one of {', '.join(options)}, found {value!r}")
    return None


def pixels(table: Mapping[str, Any], key: str, where: str, problems: Problems) -> int | tuple[int, int] | None:
    """A size in pixels: one number, or ``[height, width]``."""
    value = table.get(key)
    if value is None:
        return None
    numbers: list[Any] = value if isinstance(value, list) else [value]
    good = all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= _MAX_PIXELS for n in numbers)
    if not good or (isinstance(value, list) and len(value) != 2):
        problems.add(f"{where}.{key}", f"expected pixels, such as 224 or [224, 320] (height, width), found {value!r}")
        return None
    return (numbers[0], numbers[1]) if len(numbers) == 2 else int(numbers[0])


def factor(table: Mapping[str, Any], key: str, where: str, problems: Problems) -> float | None:
    """A finite number other than 0, or None when missing."""
    value = table.get(key)
    if value is None or (_is_number(value) and value != 0):
        return None if value is None else float(value)
    problems.add(f"{where}.{key}", f"expected a number other than 0, found {value!r}")
    return None


def per_channel(
    table: Mapping[str, Any], key: str, where: str, problems: Problems, *, positive: bool = False
) -> float | tuple[float, ...] | None:
    """A number, or a list of one per channel."""
    value = table.get(key)
    if value is None:
        return None
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(_is_number(n) for n in numbers):
        problems.add(f"{where}.{key}", f"expected a number, or a list of one per channel, found {value!r}")
        return None
    if positive and any(n <= 0 for n in numbers):
        problems.add(f"{where}.{key}", f"expected numbers above 0, found {value!r}")
        return None
    return tuple(float(n) for n in numbers) if isinstance(value, list) else float(value)


def kind(value: Any) -> str:
    """A TOML value's type in words."""
    words = {str: "text", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "a table"}
    return words.get(type(value), f"a {type(value).__name__}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
