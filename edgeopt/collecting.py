"""Python's garbage collector stands still while a graph is worked on.

A large model is a million small objects that refer to each other; the collector would walk all of them again and
again, for up to half of the time that a rewrite takes, and find nothing.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def without_collecting(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run with the cyclic garbage collector off; afterwards it is as it was."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not gc.isenabled():
            return function(*args, **kwargs)
        gc.disable()
        try:
            return function(*args, **kwargs)
        finally:
            gc.enable()

    return run
