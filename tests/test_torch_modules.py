from __future__ import annotations

import importlib
import logging
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeopt.errors import UsageError
from edgeopt.torch_modules import (
    Inputs,
    array_of,
    arrays,
    batch_size,
    bind,
    evaluating,
    import_torch,
    leaf_names,
    leaves,
    quiet,
    random_like,
    reason,
    resolve_torch,
)


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="needs torch (pip install edgeopt[torch])")


@pytest.fixture
def nets(torch: Any) -> ModuleType:
    return importlib.import_module("tests.torch_nets")


def test_missing_torch_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (import_torch, lambda: resolve_torch("net:export")):
        with pytest.raises(UsageError, match="needs torch") as caught:
            call()
        assert caught.value.hint == "pip install edgeopt[torch]"
        assert caught.value.exit_code == 2


# --- bind


def test_bind_orders_by_the_parameters_of_forward(torch: Any, nets: ModuleType) -> None:
    a, b = torch.zeros(1), torch.ones(2)
    bound = bind(torch, nets.TwoInputs(), {"right": b, "left": a})
    assert list(bound.tensors) == ["left", "right"]
    assert bound.by_name
    assert list(bind(torch, nets.TwoInputs(), [a, b]).tensors) == ["left", "right"]
    assert list(bind(torch, nets.Negated(), a).tensors) == ["x"]


def test_bind_names_variable_arguments(torch: Any, nets: ModuleType) -> None:
    a, b = torch.zeros(1), torch.ones(2)
    assert list(bind(torch, nets.Several(), (a, b)).tensors) == ["several_0", "several_1"]
    assert list(bind(torch, nets.Keywords(), {"b": b, "a": a}).tensors) == ["b", "a"]


@pytest.mark.parametrize(
    ("module", "given", "complaint"),
    [
        ("Negated", None, "found a NoneType"),
        ("Negated", 3.0, "found a float"),
        ("Negated", (1,), "example input 0: expected a tensor, found a int"),
        ("TwoInputs", {"left": "text"}, "example input 'left': expected a tensor, found a str"),
        ("Negated", (), "does not take them"),
        ("Negated", "three", "does not take them"),
        ("Negated", {"y": "tensor"}, "does not take them"),
        ("Several", (), "there are none"),
    ],
)
def test_inputs_that_do_not_fit(torch: Any, nets: ModuleType, module: str, given: Any, complaint: str) -> None:
    if given == "three":
        given = (torch.zeros(1),) * 3
    if given == {"y": "tensor"}:
        given = {"y": torch.zeros(1)}
    with pytest.raises(UsageError) as caught:
        bind(torch, getattr(nets, module)(), given)
    assert complaint in str(caught.value)


def test_a_class_is_no_module(torch: Any, nets: ModuleType) -> None:
    with pytest.raises(UsageError, match="found the class Negated") as caught:
        bind(torch, nets.Negated, torch.zeros(1))
    assert caught.value.hint is not None
    with pytest.raises(UsageError, match="found a int"):
        bind(torch, 3, torch.zeros(1))


# --- running it


def test_evaluating_restores_each_part_also_after_an_error(torch: Any, nets: ModuleType) -> None:
    net = nets.ConvNet().train()
    net.norm.eval()
    modes = [m.training for m in net.modules()]
    with evaluating(net):
        assert not any(m.training for m in net.modules())
    assert [m.training for m in net.modules()] == modes
    with pytest.raises(ZeroDivisionError), evaluating(net):
        raise ZeroDivisionError
    assert [m.training for m in net.modules()] == modes


def test_quiet(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    before = logging.root.manager.disable
    with quiet():
        print("noise")
        print("noise", file=sys.stderr)
        warnings.warn("noise", stacklevel=1)
        logging.getLogger("torch.onnx").warning("noise")
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.root.manager.disable == before


def test_random_inputs_keep_range_type_and_what_is_no_batch(torch: Any) -> None:
    example = Inputs(
        {
            "image": torch.tensor([[10.0, 20.0]]),
            "ids": torch.tensor([[3, 7]], dtype=torch.int32),
            "keep": torch.tensor([[True]]),
            "table": torch.rand(4, 2),
            "zeros": torch.zeros(1, 50),
            "scalar": torch.tensor(2.0),
        },
        by_name=False,
    )
    assert batch_size(example) == 1
    made = random_like(torch, example, 1, 100, 0).tensors
    shapes = {k: tuple(v.shape) for k, v in made.items()}
    assert shapes == {
        "image": (100, 2), "ids": (100, 2), "keep": (100, 1), "table": (4, 2), "zeros": (100, 50), "scalar": (),
    }  # fmt: skip
    assert {k: v.dtype for k, v in made.items()} == {k: v.dtype for k, v in example.tensors.items()}
    assert made["image"].min() >= 10
    assert made["image"].max() <= 20
    assert set(made["ids"].unique().tolist()) == {3, 4, 5, 6, 7}
    assert made["keep"].float().mean() not in (0, 1)
    assert made["zeros"].std() == pytest.approx(1, abs=0.1)
    again = random_like(torch, example, 1, 100, 0).tensors
    assert all(torch.equal(again[k], v) for k, v in made.items())
    assert random_like(torch, example, 1, 100, 0, beyond=True).tensors["image"].min() < 0


def test_scalars_have_no_batch(torch: Any) -> None:
    assert batch_size(Inputs({"x": torch.tensor(1.0)}, by_name=False)) is None


def test_results_are_flattened_and_named(torch: Any) -> None:
    one, two = torch.ones(1), torch.ones(2)
    result = (one, {"boxes": two, "extra": None}, [one, (two,)])
    assert [tuple(t.shape) for t in leaves(result)] == [(1,), (2,), (1,), (2,)]
    assert leaf_names(result) == ["output_0", "boxes", "output_2_0", "output_2_1_0"]
    assert leaf_names(one) == ["output"]
    np.testing.assert_array_equal(arrays(result)[1], [1, 1])


def test_what_is_no_array(torch: Any) -> None:
    with pytest.raises(UsageError, match="returns a int, expected tensors"):
        array_of(3)
    with pytest.raises(UsageError, match=r"no counterpart of torch\.bfloat16"):
        array_of(torch.ones(1, dtype=torch.bfloat16))


def test_reasons_are_short_and_innermost() -> None:
    try:
        try:
            raise ValueError("line 1\n  line 2 " + "x" * 300)
        except ValueError as inner:
            raise RuntimeError("outer") from inner
    except RuntimeError as error:
        text = reason(error)
    assert text.startswith("ValueError: line 1 line 2 xxx")
    assert len(text) == 212
    assert reason(KeyError()) == "KeyError"
    assert reason(UsageError("what", where="where", hint="how")) == "UsageError: what"


# --- resolve_torch


_SOURCE = """
import torch
print("importing")
def export():
    print("making")
    return torch.nn.Linear(2, 3), torch.zeros(1, 2)
def by_name():
    return torch.nn.Linear(2, 3), {"input": torch.zeros(1, 2)}
def one(): return torch.nn.Linear(2, 3)
def three(): return 1, 2, 3
def needs(argument): return argument
def fails(): raise RuntimeError("no weights")
def leaves(): raise SystemExit(0)
def a_class(): return torch.nn.Linear, torch.zeros(1, 2)
def wrong_inputs(): return torch.nn.Linear(2, 3), 5
value = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: Any) -> Path:
    (tmp_path / "edgeopt_test_net.py").write_text(_SOURCE)
    (tmp_path / "edgeopt_test_broken.py").write_text("def export(:\n")
    (tmp_path / "edgeopt_test_missing.py").write_text("import edgeopt_test_no_such_module\n")
    monkeypatch.chdir(tmp_path)
    for name in [n for n in sys.modules if n.startswith("edgeopt_test_")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_a_module_in_the_current_folder(folder: Path, torch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = list(sys.path)
    module, inputs = resolve_torch("edgeopt_test_net:export")
    assert isinstance(module, torch.nn.Linear)
    assert tuple(inputs.shape) == (1, 2)
    assert sys.path == path
    out, err = capsys.readouterr()
    assert out == ""
    assert err.split() == ["importing", "making"]
    assert list(resolve_torch("edgeopt_test_net:by_name")[1]) == ["input"]


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("edgeopt_test_net", "not of the form module:callable"),
        (":export", "not of the form"),
        ("edgeopt_test_net:", "not of the form"),
        ("edgeopt_test_nowhere:export", "there is no module"),
        ("edgeopt_test_missing:export", "edgeopt_test_no_such_module"),
        ("edgeopt_test_broken:export", "SyntaxError"),
        ("edgeopt_test_net:absent", "has no 'absent'"),
        ("edgeopt_test_net:value", "is a int"),
        ("edgeopt_test_net:needs", "TypeError"),
        ("edgeopt_test_net:fails", "raised RuntimeError: no weights"),
        ("edgeopt_test_net:leaves", "raised SystemExit"),
        ("edgeopt_test_net:one", "returned a Linear, expected (module, example inputs)"),
        ("edgeopt_test_net:three", "returned 3 values"),
        ("edgeopt_test_net:a_class", "found the class Linear"),
        ("edgeopt_test_net:wrong_inputs", "found a int"),
    ],
)
def test_specs_that_lead_nowhere(folder: Path, spec: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_torch(spec)
    assert complaint in str(caught.value)
    assert caught.value.hint
    assert caught.value.where is not None
    assert caught.value.where.startswith(spec)
