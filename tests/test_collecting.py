from __future__ import annotations

import gc
import inspect

import pytest

from edgeopt import simplify
from edgeopt.collecting import without_collecting


@without_collecting
def inner(fail: bool = False) -> bool:
    if fail:
        raise ValueError("oh")
    return gc.isenabled()


@without_collecting
def outer() -> tuple[bool, bool]:
    return inner(), gc.isenabled()


def test_off_inside_and_on_again() -> None:
    assert inner() is False
    assert outer() == (False, False)
    assert gc.isenabled()


def test_on_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="oh"):
        inner(fail=True)
    assert gc.isenabled()


def test_off_stays_off() -> None:
    gc.disable()
    try:
        assert inner() is False
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_signatures_stay_readable() -> None:
    assert "verify" in inspect.signature(simplify).parameters
