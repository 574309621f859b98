"""Ways to break a rewrite, and the test that the oracle catches it: the place is rolled back, the others stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.oracle import Oracle, run_checked
from edgeopt.rewrite import Answer, Rewrite, Rule
from tests.models import assert_same, loaded

Breakage = Callable[[Rewrite], Rewrite]


@dataclass(frozen=True)
class Patch:
    """Replaces ``owner.name`` (or the entry ``owner[name]``) inside a pass."""

    owner: Any
    name: str
    value: Any

    def apply(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if isinstance(self.owner, dict):
            monkeypatch.setitem(self.owner, self.name, self.value)
        else:
            monkeypatch.setattr(self.owner, self.name, self.value)


class Broken:
    """The rule, with its Rewrite at one node broken before the driver sees it."""

    def __init__(self, rule: Rule, how: Breakage, anchor: str) -> None:
        self.rule, self.how, self.anchor = rule, how, anchor
        self.name, self.ops, self.pays = rule.name, rule.ops, rule.pays

    def prepare(self, model: ir.Model) -> Any:
        return self.rule.prepare(model)

    def match(self, node: ir.Node, state: Any) -> Answer:
        answer = self.rule.match(node, state)
        return self.how(answer) if isinstance(answer, Rewrite) and node.name == self.anchor else answer

    def finish(self, model: ir.Model) -> int:
        return self.rule.finish(model)


# ------------------------------------------------------------------------------------------------ breakages
def scaled(position: int, channel: int, factor: float, axis: int = 0) -> Breakage:
    """One channel of the new node's constant at ``position`` times ``factor``."""

    def how(rewrite: Rewrite) -> Rewrite:
        value = rewrite.replacement[0].inputs[position]
        assert value is not None
        assert value.const_value is not None
        array = np.array(value.const_value.numpy())
        where = tuple(channel if i == axis else slice(None) for i in range(array.ndim))
        array[where] = (array[where].astype(np.float64) * factor).astype(array.dtype)
        value.const_value = ir.tensor(array)
        return rewrite

    return how


def wired_to_its_input(rewrite: Rewrite) -> Rewrite:
    """As if the node were not there."""
    old = rewrite.outputs[0][0]
    producer = old.producer()
    assert producer is not None
    return replace(rewrite, replacement=(), outputs=((old, first_input(producer)),))


def first_input(node: ir.Node) -> ir.Value:
    assert node.inputs[0] is not None
    return node.inputs[0]


def wired_to_another(name: str) -> Breakage:
    """The output of the node that makes the value ``name`` instead."""

    def how(rewrite: Rewrite) -> Rewrite:
        graph = rewrite.nodes[0].graph
        assert graph is not None
        other = next(v for n in graph for v in n.outputs if v.name == name)
        return replace(rewrite, outputs=tuple((old, other) for old, _ in rewrite.outputs))

    return how


def swapped_outputs(rewrite: Rewrite) -> Rewrite:
    (a, b), (c, d) = rewrite.outputs
    return replace(rewrite, outputs=((a, d), (c, b)))


def wrong_element(index: int, factor: float = 1.001, plus: float = 0) -> Breakage:
    """One element of a folded value times ``factor`` plus ``plus``."""

    def how(rewrite: Rewrite) -> Rewrite:
        if rewrite.replacement:
            attr = rewrite.replacement[0].attributes["value"]
            array = np.array(attr.as_tensor().numpy())
        else:
            tensor = rewrite.outputs[0][1].const_value
            assert tensor is not None
            array = np.array(tensor.numpy())
        flat = array.reshape(-1)
        flat[index] = flat[index] * factor + plus
        if rewrite.replacement:
            rewrite.replacement[0].attributes["value"] = ir.AttrTensor("value", ir.tensor(array))
        else:
            rewrite.outputs[0][1].const_value = ir.tensor(array)
        return rewrite

    return how


def assert_caught(
    rule: Rule, text: str, how: Breakage | Patch, monkeypatch: pytest.MonkeyPatch, anchor: str = "n"
) -> None:
    """The intact rule has a hit at ``anchor`` (a node's name); broken, that hit is rolled back and no other."""
    model = loaded(text, seed=3)
    _, good = run_checked(rule, model, Oracle(model))
    assert good.changed
    assert good.rolled_back == []

    if isinstance(how, Patch):
        how.apply(monkeypatch)
    else:
        rule = Broken(rule, how, anchor)
    rewritten, report = run_checked(rule, model, Oracle(model))
    assert [s.node for s in report.rolled_back] == [anchor]
    assert report.rolled_back[0].reason
    assert anchor not in [h.anchor for h in report.hits]
    others = [h.anchor for h in good.hits if h.anchor not in (anchor, "Exp_dead")]
    assert [h.anchor for h in report.hits] == others  # the innocent survive
    if "my.Op" not in text:
        assert_same(model, rewritten, 5e-3 if "float16" in text else 1e-5)
    if not others:
        assert rewritten is model
