from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeopt import files
from edgeopt.errors import DeviceError, UsageError
from edgeopt.graph import input_specs
from edgeopt.oracle import PassReport
from edgeopt.request import (
    check_budgets,
    check_effort,
    check_seed,
    check_threads,
    finisher,
    host_device,
    open_model,
    scheme_of,
    shape_texts,
    untouched,
)
from edgeopt.rewrite import Hit
from tests import tiny


@pytest.mark.parametrize("shapes", [{"x": (5, 2, 8, 8)}, {"x": [5, 2, 8, 8]}, ["x=5,2,8,8"], ("x=5,2,8,8",)])
def test_dynamic_dimensions_are_fixed(shapes: Any) -> None:
    loaded = open_model(tiny.net(), shapes)
    assert input_specs(loaded.model)[0].dims == (5, 2, 8, 8)
    assert not loaded.as_given
    assert open_model(tiny.net(), None).as_given


def test_no_shapes_change_nothing() -> None:
    assert input_specs(open_model(tiny.net(), {}).model)[0].dims == ("N", 2, 8, 8)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": 5}, "5 dimensions given|1 dimensions given"),
        ({"x": ("five", 2, 8, 8)}, "expected NAME=D0,D1"),
        ({"x": (0, 2, 8, 8)}, "at least 1"),
        ({"x": (5, 3, 8, 8)}, "axis 1 is fixed to 2"),
        ({"z": (5, 2, 8, 8)}, "the model has no such input"),
        (["x"], "expected NAME=D0,D1"),
        (["x=1,2,8,8", "x=1,2,8,8"], "--input-shape x: given twice"),
        ("x=1,2,8,8", "expected NAME=D0,D1"),
    ],
)
def test_wrong_shapes(shapes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_model(tiny.net(), shapes)


def test_shapes_as_recipes_write_them() -> None:
    assert shape_texts(None) is None
    assert shape_texts({"a": (1, 3), "b": [2]}) == ["a=1,3", "b=2"]
    assert shape_texts(["a=1,3"]) == ["a=1,3"]


def test_only_this_machine_can_be_measured() -> None:
    assert host_device("host").name == host_device("this-machine").name == "host"
    with pytest.raises(DeviceError, match=r"--device: 'x86' is a preset, and this command measures on the machine"):
        host_device("x86")


def test_operand_types_of_a_device() -> None:
    assert scheme_of("arm")[1].activation_dtype == "int8"
    assert scheme_of("x86")[1].weight_bits == 7
    assert scheme_of("host")[1].weight_dtype == "int8"


def test_a_device_without_integer_kernels(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text('name = "d"\nkind = "board"\n')
    with pytest.raises(DeviceError, match="d: states no integer preset, so nothing tells how to quantize for it"):
        scheme_of(tmp_path / "d.toml")


@pytest.mark.parametrize("value", [1, 2, 1024])
def test_threads(value: int) -> None:
    check_threads(value)


@pytest.mark.parametrize("value", [0, -1, 1025, 2.0, "2", True, None])
def test_wrong_threads(value: Any) -> None:
    with pytest.raises(UsageError, match="--threads: expected 1 to 1024, found "):
        check_threads(value)


@pytest.mark.parametrize("value", [0, 2**32 - 1])
def test_seeds(value: int) -> None:
    check_seed(value)


@pytest.mark.parametrize("value", [-1, 2**32, 1.0, False, "0"])
def test_wrong_seeds(value: Any) -> None:
    with pytest.raises(UsageError, match="--seed: expected a whole number from 0 to 4294967295, found "):
        check_seed(value)


def test_efforts() -> None:
    check_effort("best")
    with pytest.raises(UsageError, match="--effort: expected one of fast, normal, best, found 'most'"):
        check_effort("most")


@pytest.mark.parametrize("key", ["max_drop", "max_latency_ms", "max_memory_bytes", "max_file_bytes"])
def test_budgets(key: str) -> None:
    for good in (0, 0.5, None):
        check_budgets({key: good})
    for bad in (-1, float("nan"), float("inf"), "1"):
        with pytest.raises(UsageError, match=f"--{key.replace('_', '-')}: expected a number of at least 0, found "):
            check_budgets({key: bad})


def test_what_an_untouched_result_says() -> None:
    loaded = files.load(tiny.net())
    report = untouched(loaded).report
    assert report["verdict"] == "unchanged"
    assert report["before"] == report["after"]
    assert report["ratios"] == {"file_bytes": 1.0, "params": 1.0, "macs": 1.0}


def test_the_stamp_tells_verb_source_and_passes() -> None:
    loaded = files.load(tiny.net())
    report = PassReport("fold_batchnorm", hits=[Hit("norm", ("conv1",))])
    model = finisher(loaded, "simplify", [report, PassReport("dead_code")])(loaded.model.clone(), "float")
    done = json.loads(model.metadata_props["edgeopt"])
    assert done.pop("version")
    assert done == {
        "verb": "simplify",
        "choice": "float",
        "source_sha256": loaded.sha256,
        "passes": {"fold_batchnorm": 1},
    }
    assert "edgeopt" not in loaded.model.metadata_props
