from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.errors import ModelError
from edgeopt.latency import Latency, summarize
from edgeopt.layouts import Layout, LayoutSearch
from edgeopt.runtime import Session
from edgeopt.shapes import infer
from tests import models

NET = """
net (float[1,4,6,6] x) => (float[1,4,12,12] y)
<float[6,4,3,3] w1, float[16,2,3,3] w2, float[16,4,3,3] w3, float[12,16,1,1] w4, float[16,12,1,1] w5>
{
  [conv1] a = Conv<pads=[1,1,1,1]>(x, w1)
  [split] b, c = Split<axis=1>(a, parts)
  [conv2] d = Conv<pads=[1,1,1,1]>(b, w2)
  [conv3] e = Conv<pads=[1,1,1,1]>(c, w3)
  [add] f = Add(d, e)
  [conv4] g = Conv(f, w4)
  [conv5] h = Conv(g, w5)
  [up] y = DepthToSpace<blocksize=2>(h)
}
"""


def net() -> ir.Model:
    text = NET.replace("float[16,12,1,1] w5", "float[16,12,1,1] w5, int64[2] parts = {2, 4}")
    return infer(ir.from_proto(models.filled(text)))


FEED = {"x": np.random.default_rng(0).normal(0, 1, (1, 4, 6, 6)).astype(np.float32)}
ALL = Layout(("up",), ("split",), ("conv1", "conv4"), 8)


def search(monkeypatch: pytest.MonkeyPatch, faster: Mapping[str, float], **options: Any) -> tuple[Layout, list[Layout]]:
    """What is found when each rewritten place divides the time by its factor; and all that was tried."""
    tried: list[Layout] = []
    opened: dict[int, float] = {}
    apply, plain = Layout.apply, Session.__init__

    def applied(layout: Layout, model: ir.Model) -> ir.Model:
        result = apply(layout, model)
        result.meta["layout"] = layout
        return result

    def session(self: Session, model: Any, *_: Any, **__: Any) -> None:
        layout = model.meta.get("layout", Layout())
        if model.meta.get("layout") is not None:
            tried.append(layout)
        time_ms = 10.0
        for name in (*layout.spaced, *layout.absorbed, *layout.padded):
            time_ms /= faster.get(name, 1.0)
        opened[id(self)] = time_ms
        plain(self, model)

    def measure(sessions: Mapping[str, Session], *_: Any, **__: Any) -> dict[str, Latency]:
        return {name: summarize([opened[id(s)]] * 20) for name, s in sessions.items()}

    monkeypatch.setattr(Layout, "apply", applied)
    monkeypatch.setattr(Session, "__init__", session)
    monkeypatch.setattr("edgeopt.latency.measure", measure)
    found, gain = LayoutSearch(net(), FEED, block=8, **({"trial_s": 1.0, "seconds": 1e9} | options)).run()
    assert (gain is not None) == bool(found)
    return found, tried


def test_every_layout_computes_the_same() -> None:
    model = net()
    wanted = Session(model).run(FEED)["y"]
    for layout in (ALL, Layout(spaced=("up",)), Layout(absorbed=("split",)), Layout(padded=("conv4",), block=8)):
        result = layout.apply(model)
        assert result is not model
        np.testing.assert_allclose(Session(result).run(FEED)["y"], wanted, atol=1e-4)


def test_an_empty_layout_is_the_model_itself() -> None:
    model = net()
    assert not Layout()
    assert Layout().apply(model) is model


def test_case_1_what_pays_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = search(monkeypatch, {"up": 1.2, "split": 0.8, "conv1": 1.1, "conv4": 1.1})
    assert found == Layout(("up",), (), ("conv4",), 8)  # conv1 can only be padded once the split is gone


def test_case_1_absorbing_may_pay_only_with_the_padding_that_it_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = search(monkeypatch, {"split": 0.9, "conv1": 1.5, "conv4": 1.1})
    assert found == Layout((), ("split",), ("conv1", "conv4"), 8)


def test_case_1_nothing_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    found, tried = search(monkeypatch, {"up": 0.9, "split": 0.9, "conv1": 0.9, "conv4": 0.9})
    assert found == Layout()
    assert Layout(spaced=("up",)) in tried


def test_case_2_a_place_that_costs_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = search(monkeypatch, {"split": 1.1, "conv1": 0.8, "conv4": 1.5})
    assert found == Layout((), ("split",), ("conv4",), 8)


def test_case_2_a_place_that_pays_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = search(monkeypatch, {"split": 1.1, "conv1": 0.5, "conv4": 1.2})
    assert found == Layout((), ("split",), ("conv4",), 8)


def test_the_time_limit_leaves_out_case_2(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = search(monkeypatch, {"split": 1.1, "conv1": 0.8, "conv4": 1.5}, seconds=-1.0)
    assert found == Layout((), ("split",), ("conv1", "conv4"), 8)


def test_a_layout_that_does_not_open_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(layout: Layout, model: ir.Model) -> ir.Model:
        raise ModelError("no kernel for it")

    monkeypatch.setattr(Layout, "apply", refuse)
    monkeypatch.setattr(LayoutSearch, "_spaced", lambda *_: Layout(spaced=("up",)))
    for step in ("_absorbed", "_padded", "_absorbed_and_padded"):
        monkeypatch.setattr(LayoutSearch, step, lambda _, best: best)
    assert LayoutSearch(net(), FEED, block=8, trial_s=0.01, seconds=0.0).run() == (Layout(), None)
