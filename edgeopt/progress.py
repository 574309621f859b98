"""How long-running steps tell what they are doing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Called at each step with a line of text; ``done`` of ``total`` where there is something to count."""

    def __call__(self, text: str, done: int = 0, total: int = 0) -> None:
        """Take note of the step."""


def silent(text: str, done: int = 0, total: int = 0) -> None:
    """The default: says nothing."""


def counting(progress: Progress, text: str, total: int) -> Callable[[], None]:
    """A function to call after each of ``total`` things."""
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(text, done, total)

    progress(text, 0, total)
    return advance
