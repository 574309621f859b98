from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeopt.calibration import toml_values
from edgeopt.calibration.toml_values import Problems
from edgeopt.errors import DataError


def problems() -> Problems:
    return Problems(Path("d.toml"))


def test_all_problems_are_raised_at_once() -> None:
    found = problems()
    found.raise_if_any()
    found.add("$.a", "wrong")
    with pytest.raises(DataError) as caught:
        found.raise_if_any()
    assert str(caught.value) == "d.toml: one problem:\n  $.a: wrong"
    found.add("$.b", "worse")
    with pytest.raises(DataError, match=r"2 problems:\n  \$.a: wrong\n  \$.b: worse"):
        found.raise_if_any()


@pytest.mark.parametrize(
    ("read", "good"),
    [
        (toml_values.pixels, [(None, None), (224, 224), ([224, 320], (224, 320))]),
        (toml_values.factor, [(None, None), (2, 2.0), (-0.5, -0.5)]),
        (toml_values.per_channel, [(None, None), (0, 0.0), ([1, 2.5], (1.0, 2.5)), ([3], (3.0,))]),
    ],
)
def test_good_values(read: Any, good: list[tuple[Any, Any]]) -> None:
    found = problems()
    for value, expected in good:
        result = read({"k": value} if value is not None else {}, "k", "$", found)
        assert result == expected
        assert type(result) is type(expected)
    assert found.found == []


@pytest.mark.parametrize(
    ("read", "bad"),
    [
        (toml_values.pixels, [0, -1, 1.5, "224", True, [224], [1, 2, 3], [1, "2"], [], 10**9]),
        (toml_values.factor, [0, "1", True, float("nan"), float("inf"), [1]]),
        (toml_values.per_channel, ["1", [], [1, "2"], True, float("nan"), {}]),
        (lambda *a: toml_values.per_channel(*a, positive=True), [0, [1, 0], -1]),
        (lambda t, k, w, p: toml_values.choice(t, k, ("RGB", "BGR"), w, p), ["rgb", 3, ["RGB"]]),
        (toml_values.text, ["", 3, None, [], {}]),
        (toml_values.subtable, ["text", 3, [], True, 1.5]),
    ],
)
def test_bad_values(read: Any, bad: list[Any]) -> None:
    for value in bad:
        found = problems()
        assert read({"k": value}, "k", "$.t", found) is None
        assert len(found.found) == 1
        assert found.found[0].startswith("$.t.k: expected "), value


def test_unknown_keys_suggest_the_nearest() -> None:
    found = problems()
    toml_values.unknown_keys({"sclae": 1, "zzz": 2, "mean": 3}, ("scale", "mean"), "$.input", found)
    assert found.found == [
        "$.input.sclae: unknown key; did you mean 'scale'?",
        "$.input.zzz: unknown key; known keys: scale, mean",
    ]
