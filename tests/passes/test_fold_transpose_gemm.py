from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgeopt import graph
from edgeopt.graph import op_histogram
from edgeopt.passes.fold_transpose_gemm import FoldTransposeGemm, reordered
from tests.models import assert_same, checked, loaded


def net(
    layer: str,
    *,
    flat: str = "Reshape(t, s)",
    shape: str = "-1, 24",
    perm: str = "0, 2, 3, 1",
    x: str = "N,2,3,4",
    weight: str = "24,5",
    y: str = "M,5",
    rest: str = "",
) -> str:
    """x → Transpose t → flattened f → layer y."""
    return (
        f"g (float[{x}] x) => (float[{y}] y{', float[A,B] z' if ' z ' in rest else ''}) "
        f"<float[{weight}] w, float[5] b, int64[{shape.count(',') + 1}] s = {{{shape}}}> "
        f"{{ t = Transpose<perm = [{perm}]>(x) f = {flat} y = {layer} {rest} }}"
    )


FOLDS = {
    "1 MatMul": net("MatMul(f, w)"),
    "1 MatMul, fixed batch": net("MatMul(f, w)", x="3,2,3,4", shape="3, 24"),
    "1 MatMul, any other permutation": net("MatMul(f, w)", perm="0, 3, 1, 2"),
    "1 MatMul, two axes": net("MatMul(f, w)", x="N,4,6", perm="0, 2, 1"),
    "1 MatMul, four axes": net("MatMul(f, w)", x="N,2,3,2,2", perm="0, 4, 2, 1, 3"),
    "2 Gemm": net("Gemm(f, w, b)"),
    "2 Gemm, no C": net("Gemm(f, w)"),
    "2 Gemm, transB": net("Gemm<transB = 1>(f, w, b)", weight="5,24"),
    "2 Gemm, as many columns as rows": net("Gemm<transB = 1>(f, w)", weight="24,24", y="M,24"),
    "2 Gemm, alpha and beta": net("Gemm<alpha = 0.5, beta = 2.0>(f, w, b)"),
    "3 Flatten": net("MatMul(f, w)", flat="Flatten(t)"),
    "3 Reshape, batch copied": net("MatMul(f, w)", shape="0, 24"),
    "3 Reshape, batch copied and the rest counted": net("MatMul(f, w)", shape="0, -1"),
    "3 Reshape, the rest counted": net("MatMul(f, w)", x="3,2,3,4", shape="3, -1"),
    "3 Reshape, one sample": net("MatMul(f, w)", x="1,2,3,4", shape="1, -1"),
    "3 Reshape, zeros allowed and none there": net("MatMul(f, w)", flat="Reshape<allowzero = 1>(t, s)"),
}

SKIPS = {  # text, part of the reason
    "4 the weight is an input": (
        "g (float[N,2,3,4] x, float[24,5] w) => (float[M,5] y) "
        "{ t = Transpose<perm = [0, 2, 3, 1]>(x) f = Flatten(t) y = MatMul(f, w) }",
        "not constant",
    ),
    "5 the flattened value is read elsewhere": (net("MatMul(f, w)", rest="z = Neg(f) "), "read by other nodes"),
    "5 the flattened value is an output": (
        net("MatMul(f, w)").replace("y) <", "y, float[A,B] f) <"),
        "is an output of the graph",
    ),
    "5 the transposed value is read elsewhere": (
        net("MatMul(f, w)", rest="h = Neg(t) z = Flatten(h) "),
        "read by other nodes",
    ),
    "5 the transposed value lies outside the body": (
        "g (float[N,2,3,4] x, bool c) => (float[M,5] y) <float[24,5] w> { t = Transpose<perm = [0, 2, 3, 1]>(x)"
        " y = If(c) < then_branch = p () => (float[P,5] a) { f = Flatten(t) a = MatMul(f, w) },"
        " else_branch = q () => (float[Q,5] a) { k = Flatten(x) a = MatMul(k, w) }> }",
        "lies in another graph",
    ),
    "6 the batch moves": (
        net("MatMul(f, w)", x="24,2,3,4", perm="1, 0, 2, 3", flat="Reshape(t, s)"),
        "moves the batch",
    ),
    "6 all axes turn round": (
        net("MatMul(f, w)", x="4,2,3,4").replace("Transpose<perm = [0, 2, 3, 1]>", "Transpose"),
        "moves the batch",
    ),
    "6 a size is not known": (net("MatMul(f, w)", x="N,2,H,4", shape="-1, 24"), "size of a sample is not known"),
    "7 two samples in one row": (net("MatMul(f, w)", x="4,2,3,2"), "one row of each sample"),
    "7 two rows of one sample": (net("MatMul(f, w)", x="3,4,3,4"), "one row of each sample"),
    "7 flattened further in": (net("MatMul(f, w)", x="1,4,3,8", flat="Flatten<axis = 2>(t)"), "one row of each sample"),
    "7 a shape that is not constant": (
        "g (float[N,2,3,4] x, int64[2] s) => (float[M,5] y) <float[24,5] w> "
        "{ t = Transpose<perm = [0, 2, 3, 1]>(x) f = Reshape(t, s) y = MatMul(f, w) }",
        "one row of each sample",
    ),
    "7 three dimensions": (net("MatMul(f, w)", shape="1, -1, 24", y="A,M,5"), "one row of each sample"),
    "7 a size copied from the transposed sample": (
        net("MatMul(f, w)", x="3,2,1,4", perm="0, 3, 1, 2", shape="-1, 0", weight="4,5"),
        "one row of each sample",
    ),
    "7 an unknown number of samples counted into one row": (
        net("MatMul(f, w)", shape="1, -1"),
        "one row of each sample",
    ),
    "8 transA": (net("Gemm<transA = 1>(f, w)", x="24,2,3,4"), "transA"),
    "a weight of three dimensions": (net("MatMul(f, w)", weight="2,24,5", y="A,M,5"), "[2, 24, 5]"),
}

OTHERS = {  # not its business
    "no Transpose": "g (float[N,2,3,4] x) => (float[M,5] y) <float[24,5] w> { f = Flatten(x) y = MatMul(f, w) }",
    "no flattening": (
        "g (float[3,4] x) => (float[4,5] y) <float[3,5] w> { t = Transpose<perm = [1, 0]>(x) y = MatMul(t, w) }"
    ),
    "an activation in between": net("MatMul(h, w)", rest="").replace("y = ", "h = Relu(f) y = "),
    "a matrix from outside": "g (float[3,4] x) => (float[3,5] y) <float[4,5] w> { y = MatMul(x, w) }",
    "an operator of another domain": (
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]>'
        + net("my.MatMul(f, w)").replace("float[M,5] y", "float[A,B] y")
    ),
}


@pytest.mark.parametrize("text", FOLDS.values(), ids=FOLDS)
def test_folds(text: str) -> None:
    before = loaded(text)
    after, report = checked(FoldTransposeGemm(), before)
    assert len(report.hits) == 1
    assert report.rolled_back == []
    assert "Transpose" not in op_histogram(after)
    assert [n.name for n in after.graph] == [n.name for n in before.graph if n.op_type != "Transpose"]
    assert_same(before, after, size=3)


@pytest.mark.parametrize(("text", "reason"), SKIPS.values(), ids=SKIPS)
def test_skips(text: str, reason: str) -> None:
    before = loaded(text)
    after, report = checked(FoldTransposeGemm(), before)
    assert after is before
    assert reason in "; ".join(s.reason for s in report.skips)


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_passed_over(text: str) -> None:
    before = loaded(text)
    after, report = checked(FoldTransposeGemm(), before)
    assert after is before
    assert report.skips == []


SHARED = (
    "g (float[N,2,3,4] x, float[K,24] v) => (float[M,5] y, float[L,5] z) <float[24,5] w> "
    "{ t = Transpose<perm = [0, 2, 3, 1]>(x) f = Flatten(t) y = MatMul(f, w) z = MatMul(v, w) }"
)


def test_9_a_small_shared_weight_is_stored_twice() -> None:
    before = loaded(SHARED)
    after, report = checked(FoldTransposeGemm(), before)
    assert len(report.hits) == 1
    assert_same(before, after)


def test_9_a_large_shared_weight_is_not_stored_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_SHARED_LIMIT_BYTES", 100)
    before = loaded(SHARED)
    after, report = checked(FoldTransposeGemm(), before)
    assert after is before
    assert "'w' is shared with 1 other nodes" in report.skips[0].reason


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_formula(order: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 4))
    w = rng.standard_normal((24, 5))
    expected = x.transpose(order).reshape(-1) @ w
    np.testing.assert_allclose(x.reshape(-1) @ reordered(w, (2, 3, 4), order, 0), expected)
    np.testing.assert_allclose(reordered(w.T, (2, 3, 4), order, 1) @ x.reshape(-1), expected)
