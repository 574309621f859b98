from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import cutouts, rewrite, whole_model
from edgeopt.cutouts import Verdict
from edgeopt.oracle import Oracle, PassReport, run_checked
from edgeopt.passes.remove_noops import RemoveNoops
from edgeopt.rewrite import CLEAN_UP, EVERYWHERE, Answer, Rewrite, Skip
from tests.models import assert_same, loaded, model

NET = "g (float[N,4] x) => (float[N,3] y) <float[4,3] w, float[3] b> { t = MatMul(x, w) u = Add(t, b) y = Tanh(u) }"


def scaled(source: str, factor: float) -> ir.Model:
    """The same net with its weights times ``factor``."""
    made = loaded(source)
    value = made.graph.initializers["w"]
    assert value.const_value is not None
    value.const_value = ir.tensor((value.const_value.numpy() * factor).astype(np.float32))
    return made


# ------------------------------------------------------------------------------------------------ whole models
def test_a_model_agrees_with_itself() -> None:
    found = Oracle(loaded(NET))
    assert found.problem is None
    assert found.disagreement(loaded(NET)) == (None, 0.0)


@pytest.mark.parametrize("factor", [1.001, 0.9999, -1.0])
def test_a_changed_model_disagrees(factor: float) -> None:
    reason, error = Oracle(loaded(NET)).disagreement(scaled(NET, factor))
    assert reason is not None
    assert "output 'y' differs by" in reason
    assert error > 0


def test_rounding_is_no_disagreement() -> None:
    reason, error = Oracle(loaded(NET)).disagreement(scaled(NET, 1 + 1e-7))
    assert reason is None
    assert error < 1e-5


def test_other_outputs_disagree() -> None:
    found = Oracle(loaded(NET))
    assert "outputs are ['z']" in str(found.disagreement(loaded(NET.replace("] y)", "] z)").replace("y =", "z =")))[0])
    other = NET.replace("float[N,3] y", "float[3,N] y").replace("y = Tanh(u)", "v = Tanh(u) y = Transpose(v)")
    assert found.disagreement(loaded(other))[0] is not None


def test_a_model_that_does_not_run_disagrees() -> None:
    reason, error = Oracle(loaded(NET)).disagreement(
        model("g (float[N,4] x) => (float[N,3] y) { y = NoSuchOperator(x) }")
    )
    assert reason is not None
    assert "does not run" in reason
    assert error == float("inf")


def test_calibration_samples_are_used_too() -> None:
    text = "g (float[2] x) => (float[2] y) <float k = {100}> { y = Min(x, k) }"
    other = loaded(text.replace("y = Min(x, k)", "y = Identity(x)"))
    assert Oracle(loaded(text)).disagreement(other)[0] is None  # N(0, 1) never gets there
    sample = {"x": np.array([0, 1000], np.float32)}
    assert Oracle(loaded(text), [sample]).disagreement(other)[0] is not None


def test_noise_of_the_original_is_allowed() -> None:
    """exp(30 x) moves by more than 1e-5 when x moves in its last bit; twice that is no error."""
    text = "g (float[64] x) => (float[64] y) <float k = {2000}> { t = Mul(x, k) y = Sin(t) }"
    found = Oracle(loaded(text))
    other = loaded(text.replace("{2000}", "{1000}").replace("t = Mul(x, k)", "s = Mul(x, k) t = Add(s, s)"))
    nudged = loaded(text.replace("{2000}", "{2000.0002}"))
    assert found.disagreement(other)[0] is None
    assert found.disagreement(nudged)[0] is None
    assert found.disagreement(loaded(text.replace("{2000}", "{2001}")))[0] is not None


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("g (int64[2] x) => (int64[2] y) { y = Neg(x) }", "g (int64[2] x) => (int64[2] y) { y = Abs(x) }"),
        ("g (bool[9] x) => (bool[9] y) { y = Not(x) }", "g (bool[9] x) => (bool[9] y) { y = Identity(x) }"),
        (
            "g (float[2] x) => (seq(float[2]) y) { y = SequenceConstruct(x, x) }",
            "g (float[2] x) => (seq(float[2]) y) { z = Neg(x) y = SequenceConstruct(x, z) }",
        ),
        (
            "g (float[2] x) => (seq(float[2]) y) { y = SequenceConstruct(x, x) }",
            "g (float[2] x) => (seq(float[2]) y) { y = SequenceConstruct(x) }",
        ),
        (
            "g (float[2] x) => (float[2] y) { y = Neg(x) }",
            "g (float[2] x) => (double[2] y) { z = Neg(x) y = Cast<to = 11>(z) }",
        ),
        (
            "g (float[2] x) => (float[2] y) { t = Sub(x, x) y = Div(t, t) }",
            "g (float[2] x) => (float[2] y) { y = Sub(x, x) }",
        ),
    ],
)
def test_every_kind_of_output(text: str, other: str) -> None:
    found = Oracle(loaded(text))
    assert found.disagreement(loaded(text))[0] is None
    assert found.disagreement(loaded(other))[0] is not None


def test_maps_are_compared_by_key() -> None:
    same = whole_model._same_structure
    assert same([{1: 0.5}], [{1: 0.5}])
    assert not same([{1: 0.5}], [{1: 0.6}])
    assert not same([{1: 0.5}], [{2: 0.5}])
    assert not same([{1: 0.5}], {1: 0.5})
    assert same(["a", 1], ["a", 1])
    assert not same("a", "b")
    assert whole_model._distance([1.0], np.zeros(1)) == (float("inf"), float("inf"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("g (float[2] x) => (float[2] y) { y = NoSuchOperator(x) }", "cannot load"),
        ("g (float[2] x) => (float[2] y) { y = RandomNormalLike(x) }", "random operators"),
        ("g (float[A,B] x) => (float[A,B] y) <int64[1] s = {7919}> { y = Reshape(x, s) }", "cannot run"),
        ("g (seq(float[2]) x) => (int64 y) { y = SequenceLength(x) }", "cannot be fed"),
    ],
)
def test_models_that_cannot_be_compared_as_a_whole(text: str, problem: str) -> None:
    found = Oracle(loaded(text))
    assert found.problem is not None
    assert problem in found.problem
    assert found.disagreement(loaded(NET)) == (None, 0.0)


# ------------------------------------------------------------------------------------------------ run_checked
class Rule:
    name = "rule"
    pays = EVERYWHERE
    ops: frozenset[str] | None = None

    def __init__(
        self, match: Callable[[ir.Node], Answer] = lambda _: None, finish: Callable[[ir.Model], int] | None = None
    ) -> None:
        self._match, self._finish = match, finish

    def prepare(self, model: ir.Model) -> None:
        pass

    def match(self, node: ir.Node, state: Any) -> Answer:
        return self._match(node)

    def finish(self, model: ir.Model) -> int:
        return self._finish(model) if self._finish else 0


def swap(**wanted: str) -> Callable[[ir.Node], Answer]:
    """Nodes of these names become nodes of these operators."""

    def match(node: ir.Node) -> Answer:
        op_type = wanted.get(node.name or "")
        if op_type is None or op_type == node.op_type:
            return None
        new = ir.Node("", op_type, [node.inputs[0]], num_outputs=1, name=node.name)
        return Rewrite((node,), (new,), ((node.outputs[0], new.outputs[0]),))

    return match


CHAIN = (
    "g (float[8] x) => (float[8] y) { "
    + " ".join(f"[n{k}] t{k + 1} = {'Abs' if k % 2 else 'Neg'}(t{k})" for k in range(8))
    .replace("(t0)", "(x)")
    .replace("t8 =", "y =")
    + " }"
)


def test_a_good_rewrite_is_kept() -> None:
    start = loaded("g (float[8] x) => (float[8] y) { [a] t = Neg(x) y = Abs(t) }")
    after, report = run_checked(Rule(lambda n: None), start, Oracle(start))
    assert after is start
    assert report == PassReport("rule", seconds=report.seconds)
    assert not report.changed


def test_a_bad_place_is_rolled_back_and_the_others_stay() -> None:
    start = loaded(
        "g (float[8] x) => (float[8] y) { [a] t = Identity(x) [b] u = Exp(t) [c] v = Identity(u) [d] y = Neg(v) }"
    )

    def match(node: ir.Node) -> Answer:
        if node.op_type == "Identity":
            return Rewrite((node,), (), ((node.outputs[0], node.inputs[0]),))  # type: ignore[arg-type]
        return swap(d="Abs")(node)

    after, report = run_checked(Rule(match), start, Oracle(start))
    assert [h.anchor for h in report.hits] == ["a", "c"]
    assert [s.node for s in report.rolled_back] == ["d"]
    assert_same(start, after)


def test_the_culprit_is_found_by_bisection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blind to single places, the oracle still sees that the whole model differs, and finds out why."""
    monkeypatch.setattr(cutouts, "check", lambda *_: Verdict())
    bisected: list[int] = []
    apply = rewrite.apply

    def counted(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("limit") is not None:
            bisected.append(kwargs["limit"])
        return apply(*args, **kwargs)

    monkeypatch.setattr(rewrite, "apply", counted)
    names = " ".join(f"[i{k}] t{k + 1} = Identity(t{k})" for k in range(16)).replace("(t0)", "(x)")
    start = loaded(f"g (float[8] x) => (float[8] y) {{ {names} [bad] u = Exp(t16) [worse] y = Neg(u) }}")

    def match(node: ir.Node) -> Answer:
        if node.op_type == "Identity":
            return Rewrite((node,), (), ((node.outputs[0], node.inputs[0]),))  # type: ignore[arg-type]
        return swap(bad="Sin", worse="Abs")(node)

    after, report = run_checked(Rule(match), start, Oracle(start))
    assert [s.node for s in report.rolled_back] == ["bad", "worse"]
    assert all("output 'y' differs" in s.reason for s in report.rolled_back)
    assert len(report.hits) == 16
    assert len(bisected) <= 2 * 6
    assert_same(start, after)


def test_too_many_bad_places_roll_the_pass_back() -> None:
    text = " ".join(f"[n{k}] t{k + 1} = Neg(t{k})" for k in range(20)).replace("(t0)", "(x)").replace("t20 =", "y =")
    start = loaded(f"g (float[8] x) => (float[8] y) {{ {text} }}")
    after, report = run_checked(Rule(swap(**{f"n{k}": "Exp" for k in range(20)})), start, Oracle(start))
    assert after is start
    assert report.hits == []
    assert len(report.rolled_back) == 20
    assert "more than 16 places failed" in report.skips[0].reason


def test_a_bad_clean_up_is_rolled_back_alone() -> None:
    start = loaded("g (float[8] x) => (float[8] y) <float[8] w, float[8] dead> { [a] t = Identity(x) y = Add(t, w) }")

    def clear(made: ir.Model) -> int:
        made.graph.initializers.clear()
        return 2

    after, report = run_checked(Rule(noops, clear), start, Oracle(start))
    assert [s.node for s in report.rolled_back] == [CLEAN_UP]
    assert "'w'" in report.rolled_back[0].reason
    assert [h.anchor for h in report.hits] == ["a"]
    assert report.removed_initializers == 0
    assert_same(start, after)


def noops(node: ir.Node) -> Answer:
    return RemoveNoops().match(node, 17)


def test_a_place_that_fails_whatever_is_vetoed_ends_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutouts, "check", lambda *_: Verdict(failed={"somebody else": "is to blame"}))
    start = loaded(CHAIN)
    after, report = run_checked(Rule(swap(n1="Relu")), start, Oracle(start))
    assert after is start
    assert "failed again" in report.skips[0].reason
    assert [s.node for s in report.rolled_back] == ["somebody else"]


@pytest.mark.parametrize("where", ["match", "check"])
def test_a_pass_that_crashes_costs_only_itself(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any) -> Any:
        raise KeyError("oh")

    if where == "check":
        monkeypatch.setattr(cutouts, "check", crash)
    start = loaded(CHAIN)
    after, report = run_checked(Rule(crash if where == "match" else swap(n1="Relu")), start, Oracle(start))
    assert after is start
    assert report.hits == []
    assert report.rolled_back == [Skip(CLEAN_UP, "the pass itself failed, please report it: KeyError: 'oh'")]


def test_without_verification_everything_is_trusted() -> None:
    start = loaded(CHAIN)
    trusting = Oracle(start, enabled=False)
    after, report = run_checked(Rule(swap(n1="Exp")), start, trusting)
    assert [h.anchor for h in report.hits] == ["n1"]
    assert report.rolled_back == []
    assert after is not start


def test_what_can_be_checked_neither_alone_nor_as_a_whole_is_not_done() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
        g (float[8] x) => (float[8] y) { t = my.Op(x) [a] y = Neg(t) }"""
    start = loaded(text)
    after, report = run_checked(Rule(swap(a="Neg2")), start, Oracle(start))
    assert after is start
    assert "cannot be verified" in report.rolled_back[0].reason
    assert "my:Op" in report.rolled_back[0].reason


def test_the_error_seen_is_reported() -> None:
    start = loaded("g (float[50] x) => (float[50] y) <float c = {3}> { [a] y = Div(x, c) }")

    def match(node: ir.Node) -> Answer:
        if node.op_type != "Div":
            return None
        third = ir.Value(name="third", const_value=ir.tensor(np.float32(1 / 3)))
        new = ir.Node("", "Mul", [node.inputs[0], third], num_outputs=1)
        return Rewrite((node,), (new,), ((node.outputs[0], new.outputs[0]),))

    after, report = run_checked(Rule(match), start, Oracle(start))
    assert report.hits
    assert 0 < report.max_abs_error < 1e-4
    assert_same(start, after)
