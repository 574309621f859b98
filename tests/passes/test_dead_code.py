from __future__ import annotations

import onnx_ir as ir
import pytest

from edgeopt.graph import op_histogram
from edgeopt.oracle import Oracle, run_checked
from edgeopt.passes.dead_code import DeadCode
from edgeopt.rewrite import apply
from tests.models import assert_same, checked, filled, loaded

# Text, operators afterwards, initializers afterwards, removed initializers
REMOVES = {
    "1 a node nobody reads": (
        "g (float[2] x) => (float[2] y) { t = Exp(x) y = Neg(x) }",
        {"Neg": 1},
        [],
        0,
    ),
    "1 a chain": (
        "g (float[2] x) => (float[2] y) { a = Exp(x) b = Neg(a) c, d = Split<axis = 0>(b) e = Add(c, d) y = Neg(x) }",
        {"Neg": 1},
        [],
        0,
    ),
    "1 and what it alone read": (
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { t = Add(x, w) y = Neg(x) }",
        {"Neg": 1},
        [],
        1,
    ),
    "1 a whole If": (
        "g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> { t = If(c) <"
        "then_branch = p () => (float[2] a) { a = Add(x, w) }, else_branch = q () => (float[2] a) { a = Neg(x) }>"
        " y = Neg(x) }",
        {"Neg": 1},
        [],
        1,
    ),
    "1 inside a body": (
        "g (float[2] x, bool c) => (float[2] y) { y = If(c) <"
        "then_branch = p () => (float[2] a) { u = Exp(x) a = Abs(x) },"
        "else_branch = q () => (float[2] a) <float[2] w = {1, 2}> { v = Add(x, w) a = Neg(x) }> }",
        {"Abs": 1, "If": 1, "Neg": 1},
        [],
        1,
    ),
    "1 a custom operator": (
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]>g (float[2] x) => (float[2] y) { t = my.Op(x) y = Neg(x) }',
        {"Neg": 1},
        [],
        0,
    ),
    "2 an initializer": (
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {1, 2}> { y = Add(x, v) }",
        {"Add": 1},
        ["v"],
        1,
    ),
}

KEEPS = {
    "an output": "g (float[2] x) => (float[2] y, float[2] z) { y = Neg(x) z = Exp(x) }",
    "one of two outputs is read": "g (float[4] x) => (float[2] y) { a, b = Split<axis = 0>(x) y = Neg(b) }",
    "read only inside a body": (
        "g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> { t = Exp(x) y = If(c) <"
        "then_branch = p () => (float[2] a) { a = Add(t, w) }, else_branch = q () => (float[2] a) { a = Neg(x) }> }"
    ),
    "read only inside a body inside a body": (
        "g (float[2] x, bool c) => (float[2] y) { t = Exp(x) y = If(c) <"
        "then_branch = p () => (float[2] a) { a = If(c) <"
        "then_branch = r () => (float[2] b) { b = Neg(t) }, else_branch = s () => (float[2] b) { b = Abs(x) }> },"
        "else_branch = q () => (float[2] a) { a = Neg(x) }> }"
    ),
    "an unused input": "g (float[2] x, float[2] unused) => (float[2] y) { y = Neg(x) }",
    "an unused input with a default": (
        "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Neg(x) }"
    ),
    "an initializer that is an output": (
        "g (float[2] x) => (float[2] y, float[2] w) <float[2] w = {1, 2}> { y = Neg(x) }"
    ),
    "an input that is an output": "g (float[2] x) => (float[2] y, float[2] x) { y = Neg(x) }",
}


@pytest.mark.parametrize("case", REMOVES)
def test_removes(case: str) -> None:
    text, operators, initializers, removed = REMOVES[case]
    before = loaded(text)
    after, report = checked(DeadCode(), before)
    assert not report.rolled_back
    assert op_histogram(after) == operators
    assert list(after.graph.initializers) == initializers
    assert report.removed_initializers == removed
    if "my.Op" not in text:
        assert_same(before, after)


@pytest.mark.parametrize("case", KEEPS)
def test_keeps(case: str) -> None:
    before = loaded(KEEPS[case])
    after, report = checked(DeadCode(), before)
    assert (report.hits, report.rolled_back, report.removed_initializers) == ([], [], 0)
    assert after is before


def test_a_node_without_outputs_may_exist_for_its_effect() -> None:
    before = loaded("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    node = next(iter(before.graph))
    before.graph.append(ir.Node("my", "Log", [node.outputs[0]], num_outputs=0, name="log"))
    after, report = run_checked(DeadCode(), before, Oracle(before, enabled=False))
    assert not report.hits
    assert op_histogram(after) == {"Neg": 1, "my::Log": 1}


def test_thousands_of_dead_nodes_in_one_go() -> None:
    chain = " ".join(f"t{k + 1} = Neg(t{k})" for k in range(2000))
    before = loaded(f"g (float[2] x) => (float[2] y) {{ y = Exp(x) t0 = Abs(x) {chain} }}")
    after, report = checked(DeadCode(), before)
    assert len(report.hits) == 2001
    assert op_histogram(after) == {"Exp": 1}


def test_what_an_annotation_names_stays() -> None:
    proto = filled("g (float[2] x) => (float[2] y) <float s, float t> { y = Relu(x) }")
    note = proto.graph.quantization_annotation.add(tensor_name="y")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    model = ir.from_proto(proto)
    assert apply(DeadCode(), model).removed_initializers == 1
    assert list(model.graph.initializers) == ["s"]
