from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import saving
from edgeopt.graph import Array, constant, op_histogram
from edgeopt.oracle import Oracle
from edgeopt.passes import absorb_split, pad_channels
from edgeopt.passes.absorb_split import Place, apply, places
from tests.models import assert_same, loaded
from tests.passes.test_pad_channels import assert_inferred

IN = "g (float[2,7,6,6] x) => (float[A,B,C,D] y)"
V18 = '<ir_version: 8, opset_import: ["" : 18]> '
V9 = '<ir_version: 8, opset_import: ["" : 9]> '
TWO = "p = Conv(s, w) q = Conv(t, v) y = Add(p, q)"
WEIGHTS = "float[4,3,1,1] w, float[4,4,1,1] v"

# Text, and the nodes that go
ABSORBED: dict[str, tuple[str, list[str]]] = {
    "1 Split in stated parts": (
        f"{IN} <{WEIGHTS}, int64[2] k = {{3, 4}}> {{ [a] s, t = Split<axis = 1>(x, k) {TWO} }}",
        ["a"],
    ),
    "1 Split, sizes as an attribute": (
        f"{V9}{IN} <{WEIGHTS}> {{ [a] s, t = Split<axis = 1, split = [3, 4]>(x) {TWO} }}",
        ["a"],
    ),
    "1 Split into equal parts": (
        "g (float[2,6,5,5] x) => (float[A,B,C,D] y) <float[4,3,3,3] w, float[4,3,3,3] v> "
        f"{{ [a] s, t = Split<axis = -3>(x) {TWO} }}",
        ["a"],
    ),
    "1 Split into a number of parts, the last smaller": (
        f"{V18}{IN} <float[4,3,1,1] w, float[4,3,1,1] v, float[4,1,1,1] u> "
        "{ [a] r, s, t = Split<axis = 1, num_outputs = 3>(x) p = Conv(r, w) q = Conv(s, v) o = Conv(t, u)"
        " y = Sum(p, q, o) }",
        ["a"],
    ),
    "1 a part that nothing reads": (
        f"{IN} <float[4,3,1,1] w, int64[2] k = {{3, 4}}> {{ [a] s, t = Split<axis = 1>(x, k) y = Conv(s, w) }}",
        ["a"],
    ),
    "2 Slice": (
        f"{IN} <{WEIGHTS}, int64[1] i = {{0}}, int64[1] j = {{3}}, int64[1] e = {{9223372036854775807}}, "
        f"int64[1] c = {{1}}> {{ [a] s = Slice(x, i, j, c) [b] t = Slice(x, j, e, c) {TWO} }}",
        ["a", "b"],
    ),
    "2 Slice from the end, in steps": (
        f"{IN} <float[4,2,1,1] w, float[4,4,1,1] v, int64[1] i = {{-2}}, int64[1] j = {{0}}, int64[1] e = {{7}}, "
        f"int64[1] c = {{-3}}, int64[1] d = {{2}}> {{ [a] s = Slice(x, i, e, c) [b] t = Slice(x, j, e, c, d) {TWO} }}",
        ["a", "b"],
    ),
    "2 Slice, bounds as attributes": (
        f"{V9}{IN} <float[4,3,1,1] w> {{ [a] s = Slice<starts = [2], ends = [5], axes = [1]>(x) y = Conv(s, w) }}",
        ["a"],
    ),
    "3 Gather": (
        f"{IN} <float[4,3,1,1] w, int64[3] k = {{6, 0, -2}}> {{ [a] s = Gather<axis = 1>(x, k) y = Conv(s, w) }}",
        ["a"],
    ),
    "4 several readers, strides, a bias": (
        f"{IN} <float[4,3,3,3] w, float[4,3,1,1] v, float[4] b, int64[2] k = {{3, 4}}> {{"
        " [a] s, t = Split<axis = 1>(x, k)"
        " p = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(s, w, b) q = Conv<strides = [2, 2]>(s, v) y = Add(p, q) }",
        ["a"],
    ),
    "4 weights shared by two parts": (
        "g (float[2,6,5,5] x) => (float[A,B,C,D] y) <float[4,3,3,3] w> "
        "{ [a] s, t = Split<axis = 1>(x) p = Conv(s, w) q = Conv(t, w) y = Sub(p, q) }",
        ["a"],
    ),
    "4 one axis of space": (
        "g (float[2,7,6] x) => (float[A,B,C] y) <float[4,3,2] w, float[4,4,2] v, int64[2] k = {3, 4}> "
        f"{{ [a] s, t = Split<axis = 1>(x, k) {TWO} }}",
        ["a"],
    ),
    "5 activations": (
        f"{IN} <{WEIGHTS}, int64[2] n = {{3, 4}}> {{ [a] k, l = Split<axis = 1>(x, n) s = LeakyRelu(k) m = Relu(l)"
        f" t = Sigmoid(m) {TWO} }}",
        ["a"],
    ),
    "5 the whole is read elsewhere too": (
        "g (float[2,7,6,6] x) => (float[A,B,C,D] y, float[E,F,G,H] z) "
        f"<{WEIGHTS}, int64[2] n = {{3, 4}}> {{ [a] k, l = Split<axis = 1>(x, n) s = Relu(k) t = Neg(l) z = Exp(x)"
        f" {TWO} }}",
        ["a"],
    ),
    "6 Concat with others": (
        f"{IN} <float[5,4,1,1] v, float[4,15,1,1] u, int64[2] n = {{3, 4}}> {{ [a] s, t = Split<axis = 1>(x, n)"
        " q = Conv(t, v) c = Concat<axis = 1>(q, s, x) y = Conv(c, u) }",
        ["a"],
    ),
    "6 Concat of parts of one value": (
        f"{IN} <float[4,10,1,1] u, int64[2] n = {{3, 4}}> {{ [a] s, t = Split<axis = 1>(x, n)"
        " c = Concat<axis = -3>(t, s, s) d = Relu(c) y = Conv(d, u) }",
        ["a"],
    ),
    "6 parts of several values, an activation behind": (
        f"{IN} <float[7,4,1,1] v, float[4,10,1,1] u, int64[2] n = {{3, 4}}> {{ [a] s, t = Split<axis = 1>(x, n)"
        " q = Conv(t, v) [b] p, r = Split<axis = 1>(q, n) h = Relu(p) c = Concat<axis = 1>(s, r, h) d = Relu(c)"
        " y = Conv(d, u) }",
        ["a", "b"],
    ),
    "6 a Concat of Concats": (
        f"{IN} <float[4,14,1,1] u, int64[2] n = {{3, 4}}> {{ [a] s, t = Split<axis = 1>(x, n) o = Relu(t)"
        " c = Concat<axis = 1>(o, s) d = Concat<axis = 1>(c, x) y = Conv(d, u) }",
        ["a"],
    ),
    "float16": (
        f"{IN} <{WEIGHTS}, int64[2] k = {{3, 4}}> {{ [a] s, t = Split<axis = 1>(x, k) {TWO} }}".replace(
            "float[", "float16["
        ),
        ["a"],
    ),
}

SPLIT = "[a] s, t = Split<axis = 1>(x, k)"
LEFT = {
    "7 a part is an output": (
        f"g (float[2,7,6,6] x) => (float[A,B,C,D] y, float[E,F,G,H] t) <float[4,3,1,1] w, int64[2] k = {{3, 4}}> "
        f"{{ {SPLIT} y = Conv(s, w) }}"
    ),
    "7 another operator reads a part": (
        f"g (float[2,7,6,6] x) => (float[A,B,C,D] y, float[E,F,G,H] z) <{WEIGHTS}, int64[2] k = {{3, 4}}> "
        f"{{ {SPLIT} {TWO} z = Exp(t) }}"
    ),
    "7 another operator reads an activation": (
        f"g (float[2,7,6,6] x) => (float[A,B,C,D] y, float[E,F,G,H] z) <{WEIGHTS}, int64[2] k = {{3, 4}}> "
        f"{{ [a] s, r = Split<axis = 1>(x, k) t = Relu(r) {TWO} z = Exp(t) }}"
    ),
    "7 the Concat is an output": (
        f"g (float[2,7,6,6] x) => (float[A,B,C,D] y, float[E,F,G,H] c) <float[4,10,1,1] u, int64[2] k = {{3, 4}}> "
        f"{{ {SPLIT} c = Concat<axis = 1>(s, x) y = Conv(c, u) }}"
    ),
    "7 a body reads a part": (
        f"g (float[2,7,6,6] x, bool b) => (float[A,B,C,D] y, float[E,F,G,H] z) <{WEIGHTS}, int64[2] k = {{3, 4}}> "
        f"{{ {SPLIT} {TWO} z = If(b) <then_branch = p () => (float[2,3,6,6] o) {{ o = Neg(s) }},"
        " else_branch = q () => (float[2,3,6,6] o) { o = Abs(s) }> }"
    ),
    "7 a Conv in groups": (
        f"{IN} <float[3,1,1,1] w, float[3,4,1,1] v, int64[2] k = {{3, 4}}> "
        f"{{ {SPLIT} p = Conv<group = 3>(s, w) q = Conv(t, v) y = Add(p, q) }}"
    ),
    "7 weights that are an input": (
        f"g (float[2,7,6,6] x, float[4,3,1,1] w) => (float[A,B,C,D] y) <float[4,4,1,1] v, int64[2] k = {{3, 4}}> "
        f"{{ {SPLIT} {TWO} }}"
    ),
    "7 the part is a weight": (
        "g (float[2,3,6,6] x, float[4,6,1,1] m) => (float[A,B,C,D] y) "
        "{ [a] s, t = Split<axis = 1>(m) p = Conv(x, s) q = Conv(x, t) y = Add(p, q) }"
    ),
    "7 Concat in space": (
        f"{IN} <float[4,3,1,1] u, float[4,4,1,1] v, int64[2] k = {{3, 4}}> {{ {SPLIT} c = Concat<axis = 2>(s, s)"
        " p = Conv(c, u) q = Conv(t, v) r = Concat<axis = 2>(q, q) y = Add(p, r) }"
    ),
    "7 Concat with a value of unknown size": (
        "g (float[2,7,6,6] x, float[2,M,6,6] m) => (float[A,B,C,D] y) <float[4,10,1,1] u, int64[2] k = {3, 4}> "
        f"{{ {SPLIT} c = Concat<axis = 1>(s, m) y = Conv(c, u) }}"
    ),
    "7 an operator that makes infinity of 0": (
        f"{IN} <float[4,3,1,1] w, int64[2] k = {{3, 4}}> {{ {SPLIT} r = Reciprocal(s) y = Conv(r, w) }}"
    ),
    "Split in space": (
        f"{IN} <float[4,7,1,1] w> {{ [a] s, t = Split<axis = 2>(x) p = Conv(s, w) q = Conv(t, w) y = Add(p, q) }}"
    ),
    "an unknown number of channels": (
        f"g (float[2,M,6,6] x) => (float[A,B,C,D] y) <{WEIGHTS}, int64[2] k = {{3, 4}}> {{ {SPLIT} {TWO} }}"
    ),
    "parts of a computed size": (
        f"g (float[2,7,6,6] x, int64[2] k) => (float[A,B,C,D] y) <{WEIGHTS}> {{ {SPLIT} {TWO} }}"
    ),
    "sizes that do not add up": f"{IN} <{WEIGHTS}, int64[2] k = {{3, 5}}> {{ {SPLIT} {TWO} }}",
    "an empty part": (f"{IN} <float[4,7,1,1] w, int64[2] k = {{7, 0}}> {{ {SPLIT} y = Conv(s, w) }}"),
    "Slice of several axes": (
        f"{IN} <float[4,3,1,1] w, int64[2] i = {{0, 0}}, int64[2] j = {{3, 3}}, int64[2] c = {{1, 2}}> "
        "{ [a] s = Slice(x, i, j, c) y = Conv(s, w) }"
    ),
    "Slice in space": (
        f"{IN} <float[4,7,1,1] w, int64[1] i = {{0}}, int64[1] j = {{3}}, int64[1] c = {{2}}> "
        "{ [a] s = Slice(x, i, j, c) y = Conv(s, w) }"
    ),
    "Slice backwards": (
        f"{IN} <float[4,3,1,1] w, int64[1] i = {{2}}, int64[1] j = {{-100}}, int64[1] c = {{1}}, int64[1] d = {{-1}}> "
        "{ [a] s = Slice(x, i, j, c, d) y = Conv(s, w) }"
    ),
    "Slice with a computed bound": (
        "g (float[2,7,6,6] x, int64[1] j) => (float[A,B,C,D] y) <float[4,3,1,1] w, int64[1] i = {0}, int64[1] c = {1}> "
        "{ [a] s = Slice(x, i, j, c) y = Conv(s, w) }"
    ),
    "Gather of one channel twice": (
        f"{IN} <float[4,3,1,1] w, int64[3] k = {{6, 0, 6}}> {{ [a] s = Gather<axis = 1>(x, k) y = Conv(s, w) }}"
    ),
    "Gather that drops the axis": (
        "g (float[2,7,6,6] x) => (float[A,B,C] y) <float[4,6,1] w, int64 k = {3}> "
        "{ [a] s = Gather<axis = 1>(x, k) y = Conv(s, w) }"
    ),
    "Gather with computed indices": (
        "g (float[2,7,6,6] x, int64[3] k) => (float[A,B,C,D] y) <float[4,3,1,1] w> "
        "{ [a] s = Gather<axis = 1>(x, k) y = Conv(s, w) }"
    ),
    "a constant that is split": (
        f"{IN} <float[2,7,6,6] m, {WEIGHTS}, int64[2] k = {{3, 4}}> {{ {SPLIT} {TWO} }}".replace("(x, k)", "(m, k)")
    ),
}


@pytest.mark.parametrize("name", ABSORBED)
def test_absorbed(name: str) -> None:
    text, expected = ABSORBED[name]
    model = loaded(text)
    start = saving.serialize(model)
    assert [p.name for p in places(model)] == expected
    assert {p.channels for p in places(model)} <= {6, 7}
    oracle = Oracle(model)
    for chosen in (expected, *([n] for n in expected)):
        result = apply(model, chosen)
        assert oracle.disagreement(result)[0] is None
        assert_same(model, result, 4e-3 if name == "float16" else 1e-6)
        assert [p.name for p in places(result)] == [n for n in expected if n not in chosen]
        kept = {n.name for n in model.graph} - set(chosen)
        assert kept - {n.name for n in model.graph if n.op_type == "Constant"} <= {n.name for n in result.graph} <= kept
        assert saving.serialize(result) == saving.serialize(apply(model, chosen))
        assert_inferred(result)
    assert saving.serialize(model) == start


NOT_RUN_BY_THE_ORACLE = {
    "sizes that do not add up",
    "7 Concat with a value of unknown size",
    "an unknown number of channels",
    "parts of a computed size",
    "Slice with a computed bound",
}


@pytest.mark.parametrize("name", LEFT)
def test_left_alone(name: str) -> None:
    model = loaded(LEFT[name])
    assert (Oracle(model).problem is not None) == (name in NOT_RUN_BY_THE_ORACLE)
    assert places(model) == []
    assert saving.serialize(apply(model, ["a"])) == saving.serialize(model.clone())


def test_what_a_place_says() -> None:
    model = loaded(ABSORBED["6 parts of several values, an activation behind"][0])
    assert places(model) == [
        Place("a", ("a", "Conv_q", "Concat_c", "Relu_d", "Conv_y"), 7, 4),
        Place("b", ("b", "Relu_h", "Concat_c", "Relu_d", "Conv_y"), 7, 0),
    ]


def test_the_weights() -> None:
    model = loaded(ABSORBED["3 Gather"][0])
    result = apply(model, ["a"])
    narrow, wide = constant(model.graph.initializers["w"]), constant(result.graph.initializers["w"])
    assert narrow is not None
    assert wide is not None
    np.testing.assert_array_equal(wide[:, [6, 0, 5]], narrow)
    assert not wide[:, 1:5].any()


def test_parts_of_one_value_are_concatenated_once() -> None:
    result = apply(loaded(ABSORBED["6 Concat of parts of one value"][0]), ["a"])
    concat = next(n for n in result.graph if n.op_type == "Concat")
    assert [v.name for v in concat.inputs if v is not None] == ["x"]


DEEP = (
    "g (float[1,4,2,2] x) => (float[A,B,C,D] y) <float[2,2,1,1] w, int64[2] k = {{2, 2}}> "
    "{{ [a] v0, t = Split<axis = 1>(x, k) {} }}"
)


def test_a_long_chain_of_activations() -> None:
    chain = " ".join(f"[r{k}] v{k + 1} = Relu(v{k})" for k in range(2000))
    model = loaded(DEEP.format(f"{chain} p = Conv(v2000, w) q = Conv(t, w) y = Add(p, q)"))
    (place,) = places(model)
    assert [n for n in place.nodes if n.startswith("r")] == [f"r{k}" for k in range(2000)]
    result = apply(model, ["a"])
    assert "Split" not in op_histogram(result)
    first = next(n for n in result.graph if n.name == "r0")
    assert first.inputs[0] is result.graph.inputs[0]


@pytest.mark.parametrize("end", ["", "z = Neg(v40)"])
def test_stacked_diamonds_are_walked_once(end: str) -> None:
    """2^40 paths lead to the last value; that nothing reads it, or something that needs it, is found all the same."""
    body = " ".join(
        f"a{k} = Relu(v{k}) b{k} = Sigmoid(v{k}) v{k + 1} = Concat<axis = 1>(a{k}, b{k})" for k in range(40)
    )
    end = end and f"{end} o = Shape(z)"
    found = places(loaded(DEEP.format(f"{body} {end} y = Conv(t, w)")))
    assert [len(place.nodes) for place in found] == ([] if end else [1 + 3 * 40 + 1])


DISTILLED = (
    "g (float[1,3,8,8] x) => (float[A,B,C,D] y) <float[12,3,3,3] w0, float[12,12,3,3] w1, float[12,9,3,3] w2, "
    "float[3,9,3,3] w3, float[12,9,1,1] w4, float[3,12,1,1] w5, int64[2] k = {3, 9}> {"
    " h = Conv<pads = [1, 1, 1, 1]>(x, w0) a = Conv<pads = [1, 1, 1, 1]>(h, w1) b = LeakyRelu(a)"
    " [p] c, d = Split<axis = 1>(b, k) e = Conv<pads = [1, 1, 1, 1]>(d, w2) f = LeakyRelu(e)"
    " [q] g1, g2 = Split<axis = 1>(f, k) i = Conv<pads = [1, 1, 1, 1]>(g2, w3) j = Concat<axis = 1>(c, g1, i)"
    " l = Conv(j, w4) m = Add(l, h) y = Conv(m, w5) }"
)


def test_an_information_distillation_block_is_absorbed_then_padded() -> None:
    """The block of IMDN (Hui et al. 2019, arXiv:1909.11856)."""
    model = loaded(DISTILLED)
    oracle = Oracle(model)
    whole = apply(model, [p.name for p in places(model)])
    assert "Split" not in op_histogram(whole)
    found = pad_channels.places(whole)
    assert [(p.channels, p.padded) for p in found] == [(12, 16), (12, 16), (12, 16), (3, 16)]
    padded = pad_channels.apply(whole, [p.name for p in found])
    assert oracle.disagreement(whole)[0] is None
    assert oracle.disagreement(padded)[0] is None


# ------------------------------------------------------------------------------------------------ broken
def test_the_oracle_catches_wrong_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(ABSORBED["1 Split in stated parts"][0])
    split = absorb_split._split

    def shifted(node: ir.Node, channels: int) -> list[tuple[int, ...]] | None:
        found = split(node, channels)
        return None if found is None else [tuple((c + 1) % channels for c in picked) for picked in found]

    monkeypatch.setattr(absorb_split, "_split", shifted)
    reason, _ = Oracle(model).disagreement(apply(model, ["a"]))
    assert reason is not None
    assert "differs" in reason


def test_the_oracle_catches_wrong_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(ABSORBED["6 Concat with others"][0])
    concatenate = absorb_split._concatenate

    def reversed_order(node: ir.Node, parts: dict[ir.Value, absorb_split._Part]) -> absorb_split._Part:
        part = concatenate(node, parts)
        return absorb_split._Part(part.whole, part.picked[::-1], part.channels)

    monkeypatch.setattr(absorb_split, "_concatenate", reversed_order)
    reason, _ = Oracle(model).disagreement(apply(model, ["a"]))
    assert reason is not None


def test_the_oracle_catches_weights_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(ABSORBED["1 a part that nothing reads"][0])

    def filled(shape: Sequence[int], dtype: np.dtype[np.float32]) -> Array:
        return np.full(shape, 0.01, dtype)

    with monkeypatch.context() as patched:
        patched.setattr(np, "zeros", filled)
        broken = apply(model, ["a"])
    reason, _ = Oracle(model).disagreement(broken)
    assert reason is not None
    assert "differs" in reason
