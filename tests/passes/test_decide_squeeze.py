from __future__ import annotations

import numpy as np
import pytest

from edgeopt import files
from edgeopt.graph import op_histogram
from edgeopt.oracle import Oracle, run_checked
from edgeopt.passes import decide_squeeze
from edgeopt.passes.decide_squeeze import DecideSqueeze
from edgeopt.rewrite import Rule
from edgeopt.runtime import Level, Session
from tests.models import checked, filled, loaded
from tests.passes.sabotage import Broken, scaled, wired_to_another

RULE = DecideSqueeze()
GEMM = "y = Gemm(u, w)"
ASK = "s = Shape(z) d = Gather<axis=0>(s, two) c = Equal(d, one)"
THEN = "{ a = Squeeze(z, ax) }"
ELSE = "{ b = Identity(z) }"


def net(
    after: str = GEMM,
    *,
    x: str = "N,4,T",
    weights: str = "float[4,3] w",
    ask: str = ASK,
    then: str = THEN,
    other: str = ELSE,
    axis: int = 2,
    y: str = "float[] y",
    opset: int = 17,
) -> str:
    constants = f"{weights}, int64 one = {{1}}, int64 two = {{2}}, int64 three = {{3}}, int64[1] ax = {{{axis}}}"
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{x}] x) => ({y}) <{constants}>'
        f" {{ z = Exp(x) {ask} [n] u = If(c) <then_branch = p () => (float[] a) {then},"
        f" else_branch = q () => (float[] b) {other}> {after} }}"
    )


LSTM = "[r] l, h = LSTM<hidden_size = 3>({}, wi, wr) y = Identity(h)"
RECURRENT = "float[1,12,4] wi, float[1,12,3] wr, int64[1] zero = {0}, int64 rank = {2}"
BATCHED = (
    "k = Shape(u) m = Size(k) e = Equal(m, rank) f = Not(e) v = If(f) <then_branch = r () => (float[] i)"
    " { i = Unsqueeze(u, zero) }, else_branch = t () => (float[] j) { j = Identity(u) }> o = Unsqueeze(v, zero) "
)

HITS = {  # text, sizes that the original runs with
    "1 Gemm": (net(), (2, 4, 1)),
    "1 Gemm's second": (net("y = Gemm(w, u)", x="3,4,T"), (3, 4, 1)),
    "1 through an activation": (net("v = Relu(u) y = Gemm(v, w)"), (2, 4, 1)),
    "1 Conv": (
        net("y = Conv(u, w)", x="N,4,9,T", weights="float[2,4,3] w", ask=ASK.replace("two", "three"), axis=3),
        (2, 4, 9, 1),
    ),
    "1 ConvTranspose": (
        net("y = ConvTranspose(u, w)", x="N,4,9,T", weights="float[4,2,3] w", ask=ASK.replace("two", "three"), axis=-1),
        (2, 4, 9, 1),
    ),
    "1 LSTM behind an Unsqueeze": (
        net("o = Unsqueeze(u, zero) " + LSTM.format("o"), x="N,4,T", weights=RECURRENT),
        (2, 4, 1),
    ),
    "1 LSTM behind a Squeeze": (
        net(
            "o = Squeeze(u, zero) " + LSTM.format("o"),
            x="1,5,2,4,T",
            weights=RECURRENT + ", int64 four = {4}",
            ask=ASK.replace("two", "four"),
            axis=4,
        ),
        (1, 5, 2, 4, 1),
    ),
    "1 LSTM behind an If on the rank": (net(BATCHED + LSTM.format("o"), weights=RECURRENT), (2, 4, 1)),
    "1 an axis from the end": (net(axis=-1), (2, 4, 1)),
    "1 the constant first": (net(ask=ASK.replace("(d, one)", "(one, d)")), (2, 4, 1)),
    "1 a middle axis": (
        net(x="N,4,T,1", weights="float[4,3] w", after="v = Squeeze(u, ax) " + GEMM.replace("u", "v")),
        (2, 4, 1, 1),
    ),
    "1 another reader takes both": (net("k = Neg(u) y = Gemm(u, w) q = Abs(k)", y="float[] y, float[] q"), (2, 4, 1)),
    "1 an output of the graph": (net(y="float[] y, float[] u"), (2, 4, 1)),
    "1 opset 11": (
        net(then="{ a = Squeeze<axes = [2]>(z) }", opset=11),
        (2, 4, 1),
    ),
    "1 opset 21": (net(opset=21).replace("ir_version: 8", "ir_version: 10"), (2, 4, 1)),
}

KEPT = {
    "2 nobody minds": net("y = Relu(u)"),
    "2 a reader whose rank is open": net("y = MatMul(u, w)"),
    "2 a reader that takes the larger rank": net("y = Conv(u, w)", weights="float[2,4,1] w"),
    "2 weights that are computed": net(
        "v = Exp(w) y = Conv(u, v)", x="N,4,9,T", weights="float[2,4,3] w", ask=ASK.replace("two", "three"), axis=3
    ),
    "2 the reader runs in one branch only": net(
        "g0 = ReduceMax<keepdims = 0>(x) g1 = Greater(g0, thr) y = If(g1) <then_branch = r () => (float[] i)"
        " { i = Gemm(u, w) }, else_branch = t () => (float[] j) { j = Neg(u) }>",
        weights="float[4,3] w, float thr = {0}",
    ),
    "2 the reader is not needed": net("k = Gemm(u, w) y = Neg(u)"),
    "2 an Unsqueeze by computed axes": net(
        "t = Cast<to = 7>(thr) v = Unsqueeze(u, t) " + LSTM.format("v"), weights=RECURRENT + ", float[1] thr = {0}"
    ),
}
OTHERS = {  # no If of this kind: nobody asks
    "another size is asked for": net(ask=ASK.replace("Equal(d, one)", "Equal(d, two)")),
    "another axis is asked for": net(
        ask=ASK.replace("(s, two)", "(s, zero)"), weights="float[4,3] w, int64 zero = {0}"
    ),
    "another comparison": net(ask=ASK.replace("Equal(", "Less(")),
    "another else": net(other="{ b = Neg(z) }"),
    "another value": net(other="{ b = Identity(x) }"),
    "two axes": net(x="N,4,T,1").replace("int64[1] ax = {2}", "int64[2] ax = {2, 3}"),
    "more in the branch": net(then="{ m = Squeeze(z, ax) a = Neg(m) }"),
}


@pytest.mark.parametrize("case", HITS)
def test_squeezes(case: str) -> None:
    text, sizes = HITS[case]
    model = loaded(text)
    result, report = checked(RULE, model)
    assert [h.anchor for h in report.hits] == ["n"]
    assert report.rolled_back == []
    assert op_histogram(result)["Squeeze"] >= 1
    assert op_histogram(result).get("If", 0) == op_histogram(model)["If"] - 1
    x = np.random.default_rng(0).standard_normal(sizes).astype(np.float32)
    before, after = (Session(m, Level.NONE).run({"x": x}) for m in (model, result))
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    assert checked(RULE, result)[1].hits == []


@pytest.mark.parametrize("case", KEPT)
def test_both_ranks_are_possible(case: str) -> None:
    _, report = checked(RULE, loaded(KEPT[case]))
    assert report.hits == []
    assert [(s.node, "could take 'z' with axis" in s.reason) for s in report.skips] == [("n", True)]


@pytest.mark.parametrize("case", OTHERS)
def test_is_no_squeeze(case: str) -> None:
    _, report = checked(RULE, loaded(OTHERS[case]))
    assert (report.hits, report.skips) == ([], [])


def test_in_a_branch_nothing_is_known_to_run() -> None:
    inner = net().partition("g (float[N,4,T] x) => (float[] y) ")[2]
    constants, _, body = inner.partition("> {")
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,T] x, bool k) => (float[] o) {constants}> {{'
        f" o = If(k) <then_branch = f () => (float[] y) {{ {body}, else_branch = h () => (float[] e) {{ e = Neg(x) }}> }}"
    )
    _, report = checked(RULE, files.load(filled(text)).model)
    assert report.hits == []


def rolled_back(rule: Rule, text: str) -> list[str]:
    model = loaded(text)
    result, report = run_checked(rule, model, Oracle(model))
    assert result is model
    return [s.node for s in report.rolled_back]


def test_sabotage_a_wrong_axis() -> None:
    assert rolled_back(Broken(RULE, scaled(1, 0, 0.5), "n"), net()) == ["n"]


def test_sabotage_the_wrong_value() -> None:
    text = net(ask="h = Abs(x) o = Squeeze(h, ax) " + ASK)
    assert rolled_back(Broken(RULE, wired_to_another("o"), "n"), text) == ["n"]


@pytest.mark.parametrize("case", ["2 nobody minds", "2 a reader that takes the larger rank"])
def test_sabotage_a_guard(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide_squeeze, "possible", lambda *_: False)
    assert rolled_back(RULE, KEPT[case]) == ["n"]
