from __future__ import annotations

from typing import Any

import pytest

from edgeopt.decisions import Decisions, problems, read, unknown


def test_round_trip() -> None:
    for decisions in (
        Decisions("float"),
        Decisions("int8", "mse", bias_correction=True),
        Decisions("mixed-3", "minmax", ("conv1", "conv2"), True, ("d2s",), ("split",), ("conv3",), 16),
    ):
        table = decisions.as_table()
        assert problems(table, "$") == []
        assert read(table) == decisions


def test_defaults_are_left_out() -> None:
    assert Decisions("int8", "minmax").as_table() == {"choice": "int8", "range": "minmax"}


@pytest.mark.parametrize(
    ("choice", "kind", "is_int8"),
    [
        ("original", "original", False),
        ("float", "float", False),
        ("layout", "layout", False),
        ("int8", "int8", True),
        ("mixed", "mixed", True),
        ("mixed-12", "mixed", True),
    ],
)
def test_kind(choice: str, kind: str, is_int8: bool) -> None:
    assert Decisions(choice).kind == kind
    assert Decisions(choice).is_int8 is is_int8


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "$.d.choice: expected one of original, float, layout, int8, mixed, found None"),
        ({"choice": "fp16"}, "found 'fp16'"),
        ({"choice": "mixed-0"}, "found 'mixed-0'"),
        ({"choice": 1}, "found 1"),
        ({"choice": "int8", "range": "auto"}, "$.d.range: expected one of minmax"),
        ({"choice": "mixed", "keep_float": "conv1"}, "$.d.keep_float: expected a list of names, found 'conv1'"),
        ({"choice": "mixed", "pad_channels": [1]}, "$.d.pad_channels: expected a list of names, found [1]"),
        ({"choice": "int8", "bias_correction": 1}, "$.d.bias_correction: expected true or false, found 1"),
        ({"choice": "layout", "channel_block": True}, "$.d.channel_block: expected a whole number up to 64"),
        ({"choice": "layout", "channel_block": -8}, "$.d.channel_block: expected a whole number up to 64"),
        ({"choice": "mixed", "keep_floats": []}, "$.d.keep_floats: unknown, did you mean keep_float?"),
    ],
)
def test_problems(table: dict[str, Any], message: str) -> None:
    found = problems(table, "$.d")
    assert len(found) == 1
    assert message in found[0]


def test_unknown_without_a_guess() -> None:
    assert unknown({"a": 1, "zzz": 2}, ("a",), "$") == ["$.zzz: unknown"]
