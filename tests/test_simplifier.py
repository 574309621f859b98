from __future__ import annotations

from typing import Any

import onnx_ir as ir
import pytest

from edgeopt import files, saving, simplifier
from edgeopt.graph import is_op
from edgeopt.oracle import Oracle
from edgeopt.passes import EXACT
from edgeopt.rewrite import EVERYWHERE, Answer
from edgeopt.simplifier import Simplified, simplify
from tests import models, tiny


def run(model: ir.Model, **options: Any) -> Simplified:
    return simplify(model, options.pop("oracle", None) or Oracle(model), **options)


def hits(done: Simplified) -> dict[str, int]:
    return {p.name: len(p.hits) for p in done.passes if p.hits}


class Spoil:
    """A rule that does nothing but change the model in its clean-up, as no check of a place would see."""

    name = "spoil"
    ops = frozenset({"Relu"})
    pays = EVERYWHERE

    def __init__(self, change: Any) -> None:
        self.change = change

    def prepare(self, model: ir.Model) -> None:
        return None

    def match(self, node: ir.Node, state: Any) -> Answer:
        return None

    def finish(self, model: ir.Model) -> int:
        return int(self.change(model))


def rename_output(model: ir.Model) -> bool:
    value = model.graph.outputs[0]
    if value.name == "other":
        return False
    value.name = "other"
    return True


def rename_input(model: ir.Model) -> bool:
    value = model.graph.inputs[0]
    if value.name == "other":
        return False
    value.name = "other"
    return True


def invalid(model: ir.Model) -> bool:
    node = next(n for n in model.graph if is_op(n, "Relu"))
    if "nonsense" in node.attributes:
        return False
    node.attributes["nonsense"] = ir.AttrInt64("nonsense", 1)
    return True


def test_passes_run_until_nothing_changes() -> None:
    """The batch norm stands behind an Identity, and its statistics are computed: each fold makes room for the next."""
    text = """
    g (float[N,2,8,8] x) => (float[N,3,6,6] y)
    <float[3,2,3,3] w, float[3] s, float[3] b, float[3] m, float[3] var, float[3] var2>
    { c = Conv(x, w) i = Identity(c) v = Add(var, var2) y = BatchNormalization(i, s, b, m, v) }
    """
    model = models.loaded(text)
    done = run(model)
    assert [n.op_type for n in done.model.graph] == ["Conv"]
    assert hits(done) == {"fold_constants": 1, "remove_noops": 1, "fold_batchnorm": 1}
    models.assert_same(model, done.model)


def test_the_input_is_not_mutated_and_nothing_changes_twice() -> None:
    model = files.load(tiny.net()).model
    before = saving.serialize(model)
    done = run(model)
    assert saving.serialize(model) == before
    again = run(done.model)
    assert hits(again) == {}
    assert saving.serialize(again.model) == saving.serialize(done.model)


def test_every_pass_reports_once_in_order() -> None:
    done = run(files.load(tiny.net()).model)
    assert [p.name for p in done.passes] == [rule.name for rule in EXACT]
    assert all(p.seconds > 0 for p in done.passes)


def test_skips_are_those_of_the_last_round() -> None:
    """The first round cannot fold: the statistics are not constant yet."""
    text = """
    g (float[N,2,8,8] x) => (float[N,3,6,6] y) <float[3,2,3,3] w, float[3] s, float[3] b, float[3] m, float[3] var>
    { c = Conv(x, w) [norm] y = BatchNormalization(c, s, b, m, var) }
    """
    done = run(models.loaded(text), pipeline=EXACT)
    assert [s for p in done.passes for s in p.skips] == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (rename_input, "the graph's inputs changed"),
        (rename_output, "the graph's outputs changed"),
        (invalid, "the ONNX checker refuses the result: "),
    ],
)
def test_damage_rolls_everything_back(change: Any, reason: str) -> None:
    model = files.load(tiny.net()).model
    done = run(model, pipeline=(*EXACT, Spoil(change)), oracle=Oracle(model, enabled=False))
    assert len(done.warnings) == 1
    assert done.warnings[0].startswith(f"all passes were rolled back: {reason}")
    assert hits(done) == {}
    assert not any(p.changed for p in done.passes)
    assert [n.op_type for n in done.model.graph] == [n.op_type for n in model.graph]
    models.assert_same(model, done.model, tolerance=0)


def test_the_checker_is_asked_only_if_the_input_passed_it() -> None:
    model = files.load(tiny.net()).model
    done = run(model, pipeline=(Spoil(invalid),), oracle=Oracle(model, enabled=False), checker_clean=False)
    assert done.warnings == []


def test_the_oracle_rolls_back_before_that() -> None:
    done = run(files.load(tiny.net()).model, pipeline=(Spoil(invalid),))
    assert not any(p.changed for p in done.passes)
    assert done.passes[0].rolled_back or done.warnings


def test_a_pass_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = 0

    def toggle(model: ir.Model) -> bool:
        nonlocal rounds
        rounds += 1
        model.doc_string = str(rounds)
        return True

    model = files.load(tiny.net()).model
    run(model, pipeline=(Spoil(toggle),), oracle=Oracle(model, enabled=False))
    assert rounds == simplifier._MAX_SWEEPS


def test_what_cannot_be_compared_is_told() -> None:
    text = "g (float[N,4] x) => (float[N,4] y) { n = RandomNormalLike(x) i = Identity(n) y = Add(x, i) }"
    done = run(files.load(models.filled(text)).model)
    assert done.warnings == [
        "whole models could not be compared, each rewrite was checked alone: "
        "the original gives other outputs on each run (random operators)"
    ]


def test_progress_tells_each_pass() -> None:
    told: list[str] = []
    run(files.load(tiny.net()).model, progress=lambda text, done=0, total=0: told.append(text))
    assert told[: len(EXACT)] == [f"pass {rule.name}" for rule in EXACT]
