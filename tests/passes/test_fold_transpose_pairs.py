from __future__ import annotations

import itertools
from dataclasses import replace

import onnx_ir as ir
import pytest

from edgeopt.graph import constant, op_histogram
from edgeopt.passes.fold_transpose_pairs import FoldTransposePairs
from edgeopt.passes.layout_perms import composed, inverse, is_identity
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import assert_caught

PERMS = [p for p in itertools.permutations(range(3)) if not is_identity(p)]


@pytest.mark.parametrize("second", PERMS)
@pytest.mark.parametrize("first", PERMS)
def test_every_pair(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    """1, 2."""
    model = loaded(
        f"g (float[2,3,4] x) => (float[A,B,C] y) {{ a = Transpose<perm = {list(first)}>(x) "
        f"[n] b = Transpose<perm = {list(second)}>(a) y = Neg(b) }}"
    )
    result, report = checked(FoldTransposePairs(), model)
    assert report.rolled_back == []
    assert [h.anchor for h in report.hits] == ["n"]
    perm = composed(first, second)
    assert op_histogram(result) == ({"Neg": 1} if is_identity(perm) else {"Neg": 1, "Transpose": 1})
    assert_same(model, result)


@pytest.mark.parametrize(("rank", "opset"), [(2, 7), (3, 11), (4, 17), (5, 21)])
def test_default_permutations(rank: int, opset: int) -> None:
    """2, 4, edge 51."""
    sizes, out = ",".join("23456"[:rank]), ",".join("ABCDE"[:rank])
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{sizes}] x) => (float[{out}] y) {{ a = Transpose(x) [n] b = Transpose(a) y = Neg(b) }}'
    model = loaded(text)
    result, report = checked(FoldTransposePairs(), model)
    assert op_histogram(result) == {"Neg": 1}
    assert_same(model, result)
    perm = list(range(rank))[::-1]
    mixed = loaded(text.replace("b = Transpose(a)", f"b = Transpose<perm = {perm}>(a)"))
    assert op_histogram(checked(FoldTransposePairs(), mixed)[0]) == {"Neg": 1}
    assert report.rolled_back == []


def test_default_permutations_of_unknown_rank() -> None:
    """4, 6."""
    reshaped = "<bool[3] all = {1,1,1}> { s = Shape(x) c = Compress(s, all) u = Reshape(x, c)"
    text = f"g (float[2,3,4] x) => (float[A,B,C] y) {reshaped} a = Transpose(u) [n] b = Transpose(a) y = Neg(b) }}"
    model = loaded(text)
    result, report = checked(FoldTransposePairs(), model)
    assert "Transpose" not in op_histogram(result)
    assert_same(model, result)
    assert len(report.hits) == 1


def test_a_shared_inner_one() -> None:
    """3, edge 51."""
    model = loaded(
        "g (float[2,3,4] x) => (float[A,B,C] y, float[D,E,F] z) { a = Transpose<perm = [0,2,1]>(x) z = Exp(a) "
        "[n] b = Transpose<perm = [0,2,1]>(a) y = Neg(b) }"
    )
    result, report = checked(FoldTransposePairs(), model)
    assert [h.nodes for h in report.hits] == [("n",)]
    assert op_histogram(result) == {"Exp": 1, "Neg": 1, "Transpose": 1}
    assert_same(model, result)


def test_a_shared_inner_one_that_is_needed() -> None:
    """8."""
    model = loaded(
        "g (float[2,3,4] x) => (float[A,B,C] y, float[D,E,F] z) { a = Transpose<perm = [0,2,1]>(x) z = Exp(a) "
        "[n] b = Transpose<perm = [2,0,1]>(a) y = Neg(b) }"
    )
    result, report = checked(FoldTransposePairs(), model)
    assert result is model
    assert "read by other nodes too" in report.skips[0].reason


def test_another_graph() -> None:
    """7."""
    model = loaded(
        "g (float[2,3] x, bool c) => (float[A,B] y) { a = Transpose(x) y = If(c) <then_branch = p () => (float[A,B] d) "
        "{ [n] b = Transpose(a) d = Neg(b) }, else_branch = q () => (float[A,B] e) { e = Exp(x) }> }"
    )
    result, report = checked(FoldTransposePairs(), model)
    assert result is model
    assert "another graph" in report.skips[0].reason


VIEWS = {  # sizes, permutation, shape asked for
    "5 one channel": ("2,4,5,1", (0, 3, 1, 2), [2, 1, 4, 5]),
    "5 a symbolic batch": ("N,4,5,1", (0, 3, 1, 2), [0, 1, 4, 5]),
    "5 one pixel": ("N,1,1,7", (0, 3, 1, 2), [0, 7, 1, 1]),
    "5 the batch moves": ("N,1,7", (1, 0, 2), [1, -1, 7]),
    "5 a row": ("1,7", (1, 0), [7, 1]),
    "5 two symbols, one in place": ("N,T,1", (0, 2, 1), [0, 1, -1]),
}


@pytest.mark.parametrize("case", VIEWS)
def test_views(case: str) -> None:
    sizes, perm, shape = VIEWS[case]
    out = ",".join("ABCD"[: len(perm)])
    model = loaded(
        f"g (float[{sizes}] x) => (float[{out}] y) {{ [n] a = Transpose<perm = {list(perm)}>(x) y = Neg(a) }}"
    )
    result, report = checked(FoldTransposePairs(), model)
    assert report.rolled_back == []
    assert op_histogram(result) == {"Neg": 1, "Reshape": 1}
    found = constant(next(iter(result.graph)).inputs[1])
    assert found is not None
    assert found.tolist() == shape
    assert_same(model, result)
    assert checked(FoldTransposePairs(), result)[1].hits == []


@pytest.mark.parametrize(("sizes", "perm"), [("2,3", (1, 0)), ("N,1,M", (2, 1, 0)), ("1,0,3", (1, 0, 2))])
def test_no_views(sizes: str, perm: tuple[int, ...]) -> None:
    out = ",".join("ABCD"[: len(perm)])
    model = loaded(
        f"g (float[{sizes}] x) => (float[{out}] y) {{ [n] a = Transpose<perm = {list(perm)}>(x) y = Neg(a) }}"
    )
    assert checked(FoldTransposePairs(), model)[0] is model


def test_a_view_of_two_open_sizes() -> None:
    model = loaded("g (float[1,N,M] x) => (float[A,B,C] y) { [n] a = Transpose<perm = [1,2,0]>(x) y = Neg(a) }")
    result, report = checked(FoldTransposePairs(), model)
    assert result is model
    assert "more than one open size" in report.skips[0].reason


def test_a_copy_of_the_input_is_no_output() -> None:
    model = loaded("g (float[2,3] x) => (float[A,B] y) { a = Transpose(x) [n] y = Transpose(a) }")
    result, report = checked(FoldTransposePairs(), model)
    assert result is model
    assert report.skips


@pytest.mark.parametrize("kind", ["float16", "double", "int32", "bool"])
def test_types(kind: str) -> None:
    model = loaded(
        f"g ({kind}[2,3,1] x) => ({kind}[A,B,C] y) {{ a = Transpose<perm = [0,2,1]>(x) b = Concat<axis = 1>(a, a) "
        "c = Transpose<perm = [2,1,0]>(b) [n] d = Transpose<perm = [1,0,2]>(c) y = Concat<axis = 1>(d, d) }"
    )
    result, report = checked(FoldTransposePairs(), model)
    assert report.rolled_back == []
    assert op_histogram(result) == {"Concat": 2, "Reshape": 1, "Transpose": 1}
    assert_same(model, result)


def test_sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
    def other_way(rewrite: Rewrite) -> Rewrite:
        node = rewrite.replacement[0]
        perm = inverse(tuple(node.attributes["perm"].value))
        node.attributes["perm"] = ir.AttrInt64s("perm", list(perm))
        return replace(rewrite)

    text = (
        "g (float[3,3,3] x) => (float[A,B,C] y) { a = Transpose<perm = [0,2,1]>(x) "
        "[n] b = Transpose<perm = [1,0,2]>(a) y = Neg(b) }"
    )
    assert_caught(FoldTransposePairs(), text, other_way, monkeypatch)
