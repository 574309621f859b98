from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import api, files, pass_choice
from edgeopt.errors import ModelError
from edgeopt.latency import Latency, summarize
from edgeopt.oracle import Oracle
from edgeopt.passes import EXACT
from edgeopt.rewrite import EVERYWHERE, Pays, Rewrite, Rule
from edgeopt.simplifier import Simplified, simplify
from tests import tiny
from tests.models import proto

DOUBLE = "g (float[2] x) => (float[2] y) { [a] t = Neg(x) [b] u = Neg(t) [c] v = Relu(u) [d] y = Relu(v) }"
"""Two pairs: a rule may remove the one or the other."""


class Drop:
    """Takes a second node of the same kind in a row away: Relu after Relu, or Neg after Neg."""

    def __init__(self, op: str, pays: Pays) -> None:
        self.name, self.ops, self.pays = f"drop_{op.lower()}", frozenset({op}), pays

    def prepare(self, model: ir.Model) -> None:
        return None

    def finish(self, model: ir.Model) -> int:
        return 0

    def match(self, node: ir.Node, state: Any) -> Any:
        source = node.inputs[0]
        producer = source.producer() if source is not None else None
        if producer is None or producer.op_type != node.op_type:
            return None
        if node.op_type == "Neg":
            return Rewrite((node, producer), (), ((node.outputs[0], producer.inputs[0]),))  # type: ignore[arg-type]
        new = ir.node("Relu", [producer.inputs[0]], name=node.name)
        return Rewrite((node, producer), (new,), ((node.outputs[0], new.outputs[0]),))


DOUBT = Pays(False, "helps some")
RULES: list[Rule] = [Drop("Neg", DOUBT), Drop("Relu", DOUBT)]


def made(pipeline: Sequence[Rule]) -> Simplified:
    model = files.load(proto(DOUBLE)).model
    return simplify(model, Oracle(model), pipeline=pipeline)


def timed(monkeypatch: pytest.MonkeyPatch, *pairs: tuple[float, float]) -> list[set[str]]:
    asked: list[set[str]] = []

    def measure(sessions: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, Latency]:
        times = dict(zip(("with", "without"), pairs[len(asked)], strict=True))
        asked.append(set(sessions))
        return {name: summarize([times[name] * (1 + 1e-3 * k) for k in range(30)]) for name in sessions}

    monkeypatch.setattr("edgeopt.latency.measure", measure)
    return asked


def test_what_does_not_pay_everywhere() -> None:
    assert pass_choice.doubtful(RULES) == ["drop_neg", "drop_relu"]
    assert pass_choice.doubtful([Drop("Relu", EVERYWHERE)]) == []
    assert set(pass_choice.doubtful()) == {r.name for r in EXACT if not r.pays.everywhere}
    assert [r.name for r in pass_choice.without({"drop_neg"}, RULES)] == ["drop_relu"]


@pytest.mark.parametrize(
    ("times", "left", "out"),
    [
        (((1.0, 1.0), (1.0, 1.0)), ["Relu"], ()),
        (((1.0, 2.0), (1.0, 0.99)), ["Relu"], ()),  # within the noise of sessions
        (((2.0, 1.0), (1.0, 1.0)), ["Neg", "Neg", "Relu"], ("drop_neg",)),
        (((1.0, 1.0), (2.0, 1.0)), ["Relu", "Relu"], ("drop_relu",)),
        (((2.0, 1.0), (2.0, 1.0)), ["Neg", "Neg", "Relu", "Relu"], ("drop_neg", "drop_relu")),
    ],
)
def test_choose(
    times: tuple[tuple[float, float], ...], left: list[str], out: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = timed(monkeypatch, *times)
    done, names = pass_choice.choose(made, {"x": np.zeros(2, np.float32)}, target="host", pipeline=RULES)
    assert [n.op_type for n in done.model.graph] == left
    assert names == out
    assert asked == [{"with", "without"}] * 2
    told = {p.name: [s.reason for s in p.skips] for p in done.passes if p.skips}
    assert told == {name: ["left out: without it the model ran 2.00 times as fast on host"] for name in out}


def test_nothing_is_measured_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch)
    pass_choice.choose(made, {}, target="host", pipeline=[Drop("Relu", EVERYWHERE), Drop("Abs", DOUBT)])
    assert asked == []


def test_a_model_that_does_not_run_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ModelError("no")

    monkeypatch.setattr("edgeopt.pass_choice.Session", refuse)
    assert pass_choice.choose(made, {}, target="host", pipeline=RULES)[1] == ()


def test_simplify_for_another_device_leaves_doubtful_passes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch)
    report = api.simplify(tiny.net(), device="arm").report
    assert asked == []
    assert "device" not in report
    reasons = {p["name"]: p["skips"][0]["reason"] for p in report["passes"] if p["name"] in pass_choice.doubtful()}
    assert set(reasons) == set(pass_choice.doubtful())
    assert all("arm is not here" in r for r in reasons.values())
