"""Candidates made from decisions, on a small network with real checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import making
from edgeopt.calibration import Sample
from edgeopt.decisions import Decisions
from edgeopt.errors import ModelError
from edgeopt.graph import Array, constant
from edgeopt.layouts import Layout
from edgeopt.making import Maker
from edgeopt.oracle import Oracle
from edgeopt.progress import silent
from edgeopt.quant import Scheme
from edgeopt.runtime import Session
from edgeopt.shapes import infer
from edgeopt.simplifier import simplify
from tests import test_layouts, tiny

PADDED = {"pad_channels": ("conv1",), "channel_block": 8}


class Kitchen:
    """A maker, and how often the data was read."""

    def __init__(
        self,
        original: ir.Model | None = None,
        feed: Mapping[str, Array] | None = None,
        scheme: Scheme | None = Scheme(),  # noqa: B008
        keep_float: frozenset[str] = frozenset(),
    ) -> None:
        original = original or infer(ir.from_proto(tiny.net()))
        x = tiny.inputs()
        self.samples = [Sample(dict(feed or {"x": x[k : k + 1]}), None) for k in range(12)]
        self.read = 0
        self.oracle = oracle = Oracle(original, [s.inputs for s in self.samples[:2]], seed=0)
        self.simplified = simplify(original, oracle, checker_clean=True, progress=silent).model
        self.finished: list[str] = []
        self.maker = Maker(
            original, self.simplified, scheme, oracle, self.open,
            keep_float=keep_float, finish=self.finish, progress=silent,
        )  # fmt: skip

    def open(self) -> tuple[Iterable[Sample], Callable[[], None]]:
        self.read += 1
        return iter(self.samples), lambda: None

    def finish(self, model: ir.Model, choice: str) -> ir.Model:
        self.finished.append(choice)
        return model


def test_all_in_int8() -> None:
    kitchen = Kitchen()
    made = kitchen.maker.make(Decisions("int8", "minmax"))
    assert made is not None
    assert made.int8 is not None
    assert made.int8["macs_int8_share"] == 1.0
    assert kitchen.finished == ["int8"]
    assert kitchen.maker.warnings == []


def test_regions_with_their_reasons() -> None:
    kitchen = Kitchen(keep_float=frozenset(["dense"]))
    made = kitchen.maker.make(Decisions("mixed", "minmax", ("conv2",)), {"conv2": "slow here"})
    assert made is not None
    assert made.int8 is not None
    floats = {n["node"]: n["reason"] for n in made.int8["float_nodes"]}
    assert floats["conv2"] == "slow here"
    assert floats["dense"] == "kept float on request"


def test_the_layout_is_padded_and_quantized() -> None:
    kitchen = Kitchen(test_layouts.net(), test_layouts.FEED)
    padded = {"absorb_split": ("split",), "pad_channels": ("conv1", "conv4"), "channel_block": 8}
    layout = kitchen.maker.make(Decisions("layout", **padded))  # type: ignore[arg-type]
    mixed = kitchen.maker.make(Decisions("mixed", "minmax", ("conv1",), **padded))  # type: ignore[arg-type]
    assert layout is not None
    assert mixed is not None
    assert kitchen.maker.warnings == []
    for made in (layout, mixed):
        assert "split" not in {n.name for n in made.model.graph}
        conv1 = next(n for n in made.model.graph if n.name == "conv1")
        assert constant(conv1.inputs[1]).shape == (8, 4, 3, 3)  # type: ignore[union-attr]


def test_the_data_is_read_once_for_each_layout() -> None:
    kitchen = Kitchen()
    for keep_float in ((), ("conv1",), ("conv2",)):
        kitchen.maker.make(Decisions("mixed", "minmax", keep_float))
    assert kitchen.read == 1
    kitchen.maker.make(Decisions("mixed", "minmax", **PADDED))  # type: ignore[arg-type]
    assert kitchen.read == 2


def test_bias_correction_is_told_where_it_helped(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, wanted in (({"conv2": np.full(4, 0.01, np.float32)}, True), ({}, False)):
        monkeypatch.setattr(making, "find_corrections", lambda *_, found=found, **__: found)
        made = Kitchen().maker.make(Decisions("int8", "minmax", bias_correction=True))
        assert made is not None
        assert made.decisions.bias_correction is wanted


def test_the_same_decisions_give_the_same_bytes() -> None:
    decisions = Decisions("mixed", "mse", ("dense",), bias_correction=True)
    made = [Kitchen().maker.make(decisions) for _ in range(2)]
    first, second = (ir.to_proto(m.model).SerializeToString() for m in made if m is not None)
    assert first == second


def test_a_layout_that_computes_something_else_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen = Kitchen()

    def broken(layout: Layout, model: ir.Model) -> ir.Model:
        result = model.clone()
        name = next(n for n, v in result.graph.initializers.items() if v.const_value is not None)
        value = result.graph.initializers[name]
        value.const_value = ir.tensor(np.array(value.const_value.numpy()) * 1.01, name=name)  # type: ignore[union-attr]
        return result

    monkeypatch.setattr(Layout, "apply", broken)
    decisions = Decisions("layout", **PADDED)  # type: ignore[arg-type]
    assert kitchen.maker.make(decisions) is None
    assert kitchen.maker.make(decisions) is None
    assert len(kitchen.maker.warnings) == 1
    assert kitchen.maker.warnings[0].startswith("the layout rolled back: ")
    assert kitchen.maker.make(Decisions("mixed", "minmax", **PADDED)) is None  # type: ignore[arg-type]


def test_a_layout_that_cannot_be_checked_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen = Kitchen(test_layouts.net(), test_layouts.FEED)
    monkeypatch.setattr(kitchen.oracle, "problem", "the original gives other outputs on each run")
    assert kitchen.maker.make(Decisions("layout", pad_channels=("conv4",), channel_block=8)) is None
    assert kitchen.maker.warnings == ["the layout rolled back: the original gives other outputs on each run"]


def test_a_bias_correction_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise ModelError("out of memory")

    monkeypatch.setattr(making, "find_corrections", failing)
    kitchen = Kitchen()
    assert kitchen.maker.make(Decisions("int8", "minmax", bias_correction=True)) is None
    assert kitchen.maker.warnings == ["no int8: out of memory"]


def test_without_a_layer_for_int8_the_data_is_not_read() -> None:
    kitchen = Kitchen(keep_float=frozenset(["Conv", "Gemm"]))
    assert kitchen.maker.calibrated(Layout()) is None
    assert (kitchen.read, kitchen.maker.warnings) == (0, [])


def test_nothing_is_made_where_the_target_has_no_integer_kernels() -> None:
    assert Kitchen(scheme=None).maker.make(Decisions("int8", "minmax")) is None


def test_nothing_is_made_of_a_model_whose_layers_all_stay_float() -> None:
    kitchen = Kitchen(keep_float=frozenset(["Conv", "Gemm"]))
    assert kitchen.maker.make(Decisions("int8", "minmax")) is None


def test_a_model_that_cannot_be_calibrated_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise ModelError("it does not run")

    monkeypatch.setattr(making, "calibrate", failing)
    kitchen = Kitchen()
    for _ in range(2):
        assert kitchen.maker.make(Decisions("int8", "minmax")) is None
    assert kitchen.maker.warnings == ["no int8: it does not run"]


def test_a_wrong_name_in_keep_float_is_told() -> None:
    assert "keep_float: 'conv9' is no node" in Kitchen(keep_float=frozenset(["conv9"])).maker.warnings[0]


def test_the_interface_keeps_its_types() -> None:
    made = Kitchen().maker.make(Decisions("int8", "minmax"))
    assert made is not None
    session = Session(made.model)
    assert session.input_names == ["x"]
    assert session.run({"x": tiny.inputs()[:3]})["y"].shape == (3, 3)  # the batch is open
