from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import files, saving
from edgeopt.cutouts import check
from edgeopt.graph import ANNOTATION_KEY, constant, graphs, op_histogram
from edgeopt.passes.fold_constants import FoldConstants
from edgeopt.passes.remove_noops import RemoveNoops
from edgeopt.rewrite import CLEAN_UP, EVERYWHERE, Answer, Rewrite, Skip, apply
from tests.models import loaded


class Made:
    """A rule from a function."""

    name = "made"

    def __init__(self, match: Callable[[ir.Node], Answer], ops: frozenset[str] | None = None, removes: int = 0) -> None:
        self._match, self.ops, self._removes = match, ops, removes
        self.seen: list[str | None] = []

    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> Any:
        return len(model.graph)

    def match(self, node: ir.Node, state: Any) -> Answer:
        self.seen.append(node.name)
        return self._match(node)

    def finish(self, model: ir.Model) -> int:
        return self._removes


def relu_for(node: ir.Node) -> Answer:
    """Exp becomes Relu."""
    if node.op_type != "Exp":
        return None
    new = ir.Node("", "Relu", [node.inputs[0]], num_outputs=1, name=node.name)
    return Rewrite((node,), (new,), ((node.outputs[0], new.outputs[0]),))


CHAIN = "g (float[2] x) => (float[2] y) { [a] t = Exp(x) [b] u = Neg(t) [c] v = Exp(u) [d] y = Neg(v) }"


def test_apply_everywhere_once() -> None:
    made = loaded(CHAIN)
    done = apply(Made(relu_for), made)
    assert [h.anchor for h in done.hits] == ["a", "c"]
    assert [h.nodes for h in done.hits] == [("a",), ("c",)]
    assert [(n.name, n.op_type, n.outputs[0].name) for n in made.graph] == [
        ("a", "Relu", "t"),
        ("b", "Neg", "u"),
        ("c", "Relu", "v"),
        ("d", "Neg", "y"),
    ]
    assert files.checker_error(made) is None


def test_apply_starts_only_from_the_rules_operators() -> None:
    rule = Made(relu_for, frozenset({"Neg"}))
    assert apply(rule, loaded(CHAIN)).hits == []
    assert rule.seen == ["b", "d"]


def test_apply_with_a_veto_and_a_limit() -> None:
    assert [h.anchor for h in apply(Made(relu_for), loaded(CHAIN), veto={"a"}).hits] == ["c"]
    assert [h.anchor for h in apply(Made(relu_for), loaded(CHAIN), limit=1).hits] == ["a"]
    assert apply(Made(relu_for), loaded(CHAIN), limit=0).hits == []


def test_apply_cleans_up_unless_told_not_to() -> None:
    assert apply(Made(relu_for, removes=3), loaded(CHAIN)).removed_initializers == 3
    assert apply(Made(relu_for, removes=3), loaded(CHAIN), limit=9).removed_initializers == 0
    assert apply(Made(relu_for, removes=3), loaded(CHAIN), veto={CLEAN_UP}).removed_initializers == 0


def test_skips_are_those_of_the_last_look() -> None:
    def match(node: ir.Node) -> Answer:
        if node.op_type == "Neg":
            producer = node.inputs[0].producer() if node.inputs[0] else None
            return Skip(node.name or "", f"behind {producer.op_type if producer else None}")
        return relu_for(node)

    done = apply(Made(match), loaded("g (float[2] x) => (float[2] y) { [b] t = Neg(x) [a] u = Exp(t) [c] y = Neg(u) }"))
    assert sorted(done.skips, key=lambda s: s.node) == [Skip("b", "behind None"), Skip("c", "behind Relu")]


def test_neighbours_are_looked_at_again() -> None:
    rule = Made(relu_for)
    apply(rule, loaded(CHAIN))
    assert rule.seen.count("b") == 2
    assert len(rule.seen) <= 4 + 2 * 3  # not everything again


def test_cases_only_if_asked_for() -> None:
    assert len(apply(Made(relu_for), loaded(CHAIN)).cases) == 2
    assert apply(Made(relu_for), loaded(CHAIN), cases=False).cases == []


def test_thousands_of_nodes_are_looked_at_a_few_times_each() -> None:
    chain = " ".join(f"t{k + 1} = {'Exp' if k % 2 else 'Neg'}(t{k})" for k in range(2000))
    rule = Made(relu_for)
    done = apply(rule, loaded(f"g (float[2] x) => (float[2] t2000) {{ t0 = Abs(x) {chain} }}"), cases=False)
    assert len(done.hits) == 1000
    assert len(rule.seen) < 5 * 2001


# ------------------------------------------------------------------------------------------------ the interface
def forward(op_type: str) -> Callable[[ir.Node], Answer]:
    def match(node: ir.Node) -> Answer:
        if node.op_type != op_type or node.inputs[0] is None:
            return None
        return Rewrite((node,), (), ((node.outputs[0], node.inputs[0]),))

    return match


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[2] x) => (float[2] y) { [n] y = Abs(x) }", "would become a copy of 'x'"),
        ("g (float[2] x) => (float[2] y, float[2] z) { y = Exp(x) [n] z = Abs(y) }", "both 'z' and 'y' are outputs"),
        (
            "g (float[2] x, bool c) => (float[2] y) { t = Exp(x) y = If(c) <"
            "then_branch = p () => (float[2] u) { [n] u = Abs(t) },"
            "else_branch = q () => (float[2] u) { u = Neg(t) }> }",
            "would become a copy of 't'",
        ),
    ],
)
def test_an_output_stays_a_value_that_its_own_graph_computes(text: str, reason: str) -> None:
    made = loaded(text)
    before = saving.serialize(made)
    done = apply(Made(forward("Abs")), made)
    assert done.hits == []
    assert [(s.node, reason in s.reason) for s in done.skips] == [("n", True)]
    assert saving.serialize(made) == before


def test_an_output_keeps_name_type_and_dims() -> None:
    made = loaded("g (float[2,3] x) => (float[N,M] y) { t = Exp(x) [n] y = Abs(t) }")
    apply(Made(forward("Abs")), made)
    assert [n.outputs[0].name for n in made.graph] == ["y"]
    assert str(made.graph.outputs[0].shape) == "[N,M]"
    assert files.checker_error(made) is None


# ------------------------------------------------------------------------------------------------ names
def with_constant(node: ir.Node) -> Answer:
    """Exp(x) becomes x + 1, with names that may be taken."""
    if node.op_type != "Exp":
        return None
    one = ir.Value(name="one", const_value=ir.tensor(np.float32(1)))
    new = ir.Node("", "Add", [node.inputs[0], one], outputs=[ir.Value(name="x")], name="b")
    return Rewrite((node,), (new,), ((node.outputs[0], new.outputs[0]),))


def test_new_names_never_collide() -> None:
    made = loaded(
        "g (float[2] x) => (float[2] y) <float[2] one = {5, 6}> { [a] t = Exp(x) [b] u = Exp(t) y = Add(u, one) }"
    )
    apply(Made(with_constant), made)
    names = [n.name for n in made.graph]
    assert len(set(names)) == len(names)
    assert sorted(made.graph.initializers) == ["one", "one_1", "one_2"]
    value = constant(made.graph.initializers["one"])
    assert value is not None
    assert value.tolist() == [5, 6]
    assert files.checker_error(made) is None


def test_a_constant_in_place_of_a_value_becomes_an_initializer_of_its_name() -> None:
    def match(node: ir.Node) -> Answer:
        new = ir.Value(const_value=ir.tensor(np.zeros(2, np.float32)))
        return Rewrite((node,), (), ((node.outputs[0], new),)) if node.op_type == "Exp" else None

    made = loaded("g (float[2] x) => (float[2] y) { t = Exp(x) y = Add(t, x) }")
    apply(Made(match), made)
    assert list(made.graph.initializers) == ["t"]
    assert made.graph.initializers["t"].dtype == ir.DataType.FLOAT
    assert op_histogram(made) == {"Add": 1}


# ------------------------------------------------------------------------------------------------ removal
def test_a_node_that_is_still_read_stays() -> None:
    def match(node: ir.Node) -> Answer:
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        if node.op_type != "Neg" or producer is None:
            return None
        new = ir.Node("", "Sin", [producer.inputs[0]], num_outputs=1)
        return Rewrite((node, producer), (new,), ((node.outputs[0], new.outputs[0]),))

    made = loaded("g (float[2] x) => (float[2] y, float[2] z) { [a] t = Exp(x) [b] y = Neg(t) z = Abs(t) }")
    done = apply(Made(match), made)
    assert op_histogram(made) == {"Abs": 1, "Exp": 1, "Sin": 1}
    assert done.hits[0].nodes == ("b",)


def test_what_a_removed_body_read_has_no_reader_there_any_more() -> None:
    def match(node: ir.Node) -> Answer:
        return Rewrite((node,), (), ((node.outputs[0], node.graph.inputs[0]),)) if node.op_type == "If" else None  # type: ignore[union-attr]

    made = loaded(
        "g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> { t = Exp(x) u = If(c) <"
        "then_branch = p () => (float[2] a) { a = Add(t, w) }, else_branch = q () => (float[2] a) { a = Neg(t) }>"
        " y = Neg(u) }"
    )
    rule = Made(match)
    apply(rule, made)
    assert not made.graph.initializers["w"].uses()
    assert rule.seen.count("Exp_t") == 2  # looked at again: its readers are gone
    assert [g.name for g in graphs(made)] == ["g"]


# ------------------------------------------------------------------------------------------------ cases
def test_a_case_holds_both_versions_and_what_they_read() -> None:
    made = loaded("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { [n] t = Exp(x) y = Add(t, w) }")
    (case,) = apply(Made(with_constant), made).cases
    assert case.anchor == "n"
    assert [n.op_type for n in case.before] == ["Exp"]
    assert [n.op_type for n in case.after] == ["Add"]
    assert [v.name for v in case.inputs.values()] == ["x"]
    assert [t.numpy().tolist() for t in case.constants.values()] == [1]
    assert case.outputs == [(case.before[0].output[0], case.after[0].output[0])]
    assert case.uncheckable is None


def test_a_case_with_a_body_reads_what_the_body_reads() -> None:
    made = loaded(
        "g (float[2] x, bool c) => (float[2] y) { [n] u = If(c) <then_branch = p () => (float[2] a) { a = Neg(x) },"
        " else_branch = q () => (float[2] a) { a = Exp(x) }> y = Neg(u) }"
    )

    def match(node: ir.Node) -> Answer:
        new = ir.Node("", "Abs", [made.graph.inputs[0]], num_outputs=1)
        return Rewrite((node,), (new,), ((node.outputs[0], new.outputs[0]),)) if node.op_type == "If" else None

    (case,) = apply(Made(match), made).cases
    assert case.uncheckable is None
    assert [v.name for v in case.inputs.values()] == ["c", "x"]
    bodies = [a.g for a in case.before[0].attribute]
    assert [list(n.input) for g in bodies for n in g.node] == [["v1"], ["v1"]]
    assert [n.output[0] == g.output[0].name for g in bodies for n in g.node] == [True, True]
    assert list(check([case], made).failed) == ["n"]


def test_a_case_lists_producers_before_readers() -> None:
    def match(node: ir.Node) -> Answer:
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        if node.op_type != "Neg" or producer is None:
            return None
        new = ir.Node("", "Sin", [producer.inputs[0]], num_outputs=1)
        return Rewrite((node, producer), (new,), ((node.outputs[0], new.outputs[0]),))

    (case,) = apply(Made(match), loaded("g (float[2] x) => (float[2] y) { t = Exp(x) y = Neg(t) }")).cases
    assert [n.op_type for n in case.before] == ["Exp", "Neg"]
    assert case.before[1].input[0] == case.before[0].output[0]


def test_empty_optional_slots_stay_empty() -> None:
    def match(node: ir.Node) -> Answer:
        if node.op_type != "Clip":
            return None
        new = ir.Node("", "Clip", node.inputs, num_outputs=1)
        new.attributes["done"] = ir.AttrInt64("done", 1)
        if "done" in node.attributes:
            return None
        return Rewrite((node,), (new,), ((node.outputs[0], new.outputs[0]),))

    (case,) = apply(Made(match), loaded("g (float[2] x, float b) => (float[2] y) { y = Clip(x, , b) }")).cases
    assert [bool(i) for i in case.before[0].input] == [True, False, True]
    assert [bool(i) for i in case.after[0].input] == [True, False, True]


def test_a_graph_output_that_takes_a_place_keeps_its_stated_type() -> None:
    model = loaded("g (float[2] x) => (float[] h, float[2] y) { h = Exp(x) k = Identity(h) y = Neg(k) }")
    apply(RemoveNoops(), model)
    assert op_histogram(model) == {"Exp": 1, "Neg": 1}
    assert model.graph.outputs[0].shape is None


def test_what_is_noted_of_a_value_stays_with_its_name() -> None:
    model = loaded("g (float[2] x) => (float[2] y) <float[2] c, float[2] d> { h = Add(c, d) y = Add(x, h) }")
    h = model.graph.node(0).outputs[0]
    h.metadata_props["key"] = "text"
    h.meta[ANNOTATION_KEY] = {"SCALE_TENSOR": "c"}
    apply(FoldConstants(), model)
    folded = model.graph.initializers["h"]
    assert (folded.metadata_props, folded.meta[ANNOTATION_KEY]) == ({"key": "text"}, {"SCALE_TENSOR": "c"})
