from __future__ import annotations

import pytest

from edgeopt.passes.rank_facts import needed, possible
from tests.models import loaded


def net(body: str) -> str:
    weights = (
        "<float[4,3] w, float[2,4,3] k, float[1,12,4] wi, float[1,12,3] wr, int64[1] zero = {0}, int64[2] both = {0, 1},"
        " int64 three = {3}, bool[1] yes = {1}>"
    )
    return f'<ir_version: 8, opset_import: ["" : 17]> g (float[] x) => (float[] y) {weights} {{ v = Exp(x) {body} }}'


RANKS = {  # which ranks of v, of 1 to 5, all readers take
    "y = Neg(v)": [1, 2, 3, 4, 5],
    "y = Conv(v, k)": [3],
    "y = ConvTranspose(v, k)": [3],
    "y = Conv(k, v)": [1, 2, 3, 4, 5],
    "y = Gemm(v, w)": [1, 2],
    "y = Gemm(w, v)": [1, 2],
    "y = MatMul(v, w)": [1, 2, 3, 4, 5],
    "y, h = LSTM<hidden_size = 3>(v, wi, wr)": [3],
    "a = Relu(v) y = Conv(a, k)": [3],
    "a = Unsqueeze(v, zero) y = Conv(a, k)": [2],
    "a = Unsqueeze(v, both) y = Conv(a, k)": [1],
    "a = Squeeze(v, zero) y = Conv(a, k)": [4],
    "a = Squeeze(v) y = Conv(a, k)": [1, 2, 3, 4, 5],
    "a = Squeeze(v, zero) b = Conv(a, k) y = Gemm(b, w)": [4],
    "a = Conv(v, k) y = Neg(v)": [1, 2, 3, 4, 5],  # a is not needed
    "s = Shape<start = 1>(v) n = Size(s) y = Cast<to = 1>(n)": [1, 2, 3, 4, 5],
}
RANKS |= {
    f"s = Shape(v) n = Size(s) c = {op}(n, three) {then} y = If(d) <then_branch = p () => (float[] a)"
    " { a = Conv(v, k) }, else_branch = q () => (float[] b) { b = Neg(v) }>": ranks
    for op, then, ranks in [
        ("Equal", "d = Identity(c)", [1, 2, 3, 4, 5]),
        ("Equal", "d = Not(c)", [3]),
        ("Greater", "d = And(c, yes)", [1, 2, 3, 4, 5]),  # not followed
        ("Less", "d = Not(c)", [1, 2, 3]),
        ("GreaterOrEqual", "d = Not(c)", [3, 4, 5]),
        ("LessOrEqual", "d = Not(c)", [1, 2, 3]),
    ]
}


@pytest.mark.parametrize("body", RANKS)
def test_which_ranks_are_possible(body: str) -> None:
    graph = loaded(net(body)).graph
    value = next(n for n in graph if n.op_type == "Exp").outputs[0]
    assert [rank for rank in range(1, 6) if possible(value, rank, needed(graph))] == RANKS[body]


def test_what_is_needed() -> None:
    graph = loaded(
        net(
            "c = Equal(three, three) h = Abs(x) e = Neg(x) y = If(c) <then_branch = p () => (float[] a) { a = Neg(v) },"
            " else_branch = q () => (float[] b) { b = Neg(h) }>"
        )
    ).graph
    assert {n.op_type for n in needed(graph)} == {"Exp", "Equal", "Abs", "If"}
