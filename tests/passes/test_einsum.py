from __future__ import annotations

import onnx_ir as ir
import pytest

from edgeopt.passes.einsum import WriteEinsum
from edgeopt.rewrite import Rewrite
from tests.passes.rewriting import assert_rewritten, assert_skipped
from tests.passes.sabotage import Breakage, assert_caught, wired_to_its_input


def net(equation: str, *shapes: str, y: int | None = None, kind: str = "float", opset: int = 17) -> str:
    """One Einsum; the result has as many axes as the equation says."""
    rank = len(equation.split("->")[1]) if y is None else y
    out = f"{kind}[{','.join('ABCDEF'[:rank])}]" if rank else kind
    names = "xzu"[: len(shapes)]
    inputs = ", ".join(f"{kind}[{s}] {n}" if s else f"{kind} {n}" for s, n in zip(shapes, names, strict=True))
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({out} y) '
        f'{{ [n] y = Einsum<equation = "{equation}">({", ".join(names)}) }}'
    )


def with_weight(equation: str, x: str, w: str, rank: int) -> str:
    out = ",".join("ABCDEF"[:rank])
    return f'g (float[{x}] x) => (float[{out}] y) <float[{w}] w> {{ [n] y = Einsum<equation = "{equation}">(x, w) }}'


PLAIN, ONE, TWO = {"MatMul": 1}, {"MatMul": 1, "Transpose": 1}, {"MatMul": 1, "Transpose": 2}
REWRITES: dict[str, tuple[str, dict[str, int]]] = {
    "1 matrices": (net("ij,jk->ik", "3,4", "4,5"), PLAIN),
    "1 the result in alphabetical order": (net("ij,jk", "3,4", "4,5", y=2), PLAIN),
    "1 blanks": (net("i j, j k -> i k", "3,4", "4,5", y=2), PLAIN),
    "1 one batch axis": (net("bij,bjk->bik", "2,3,4", "2,4,5"), PLAIN),
    "1 two batch axes": (net("bhij,bhjd->bhid", "2,3,4,5", "2,3,5,6"), PLAIN),
    "1 open sizes": (net("bhij,bhjd->bhid", "N,3,T,T", "N,3,T,6"), PLAIN),
    "1 a matrix for all": (net("bij,jk->bik", "2,3,4", "4,5"), PLAIN),
    "1 an ellipsis": (net("...ij,jk->...ik", "2,3,4", "4,5", y=3), PLAIN),
    "1 an ellipsis of both": (net("...ij,...jk->...ik", "2,6,3,4", "2,6,4,5", y=4), PLAIN),
    "1 an ellipsis of nothing": (net("...ij,...jk->...ik", "3,4", "4,5", y=2), PLAIN),
    "1 matrix and vector": (net("ij,j->i", "3,4", "4"), PLAIN),
    "1 many rows and a vector": (net("bij,j->bi", "2,3,4", "4"), PLAIN),
    "1 vector and matrix": (net("j,jk->k", "4", "4,5"), PLAIN),
    "1 vectors": (net("i,i->", "4", "4"), PLAIN),
    "1 operands the other way round": (net("jk,ij->ik", "4,5", "3,4"), PLAIN),
    "2 B": (net("bhid,bhjd->bhij", "2,3,4,5", "2,3,6,5"), ONE),
    "2 A": (net("ji,jk->ik", "4,3", "4,5"), ONE),
    "2 both": (net("bqhd,bkhd->bhqk", "2,4,3,5", "2,6,3,5"), TWO),
    "2 the result turned": (net("ij,jk->ki", "3,4", "4,5"), TWO),
    "2 the result turned, both operands too": (net("ji,kj->ki", "4,3", "5,4"), PLAIN),
    "2 a constant": (with_weight("bij,kj->bik", "2,3,4", "5,4", 3), PLAIN),
    "2 a constant with heads": (with_weight("hij,hkj->hik", "2,3,4", "2,5,4", 3), PLAIN),
    "3 equal": (net("ij,ij->ij", "3,4", "3,4"), {"Mul": 1}),
    "3 the last axes": (net("bij,j->bij", "2,3,4", "4"), {"Mul": 1}),
    "3 the first axes": (net("bij,b->bij", "2,3,4", "2"), {"Mul": 1, "Unsqueeze": 1}),
    "3 an axis between": (net("bj,bij->bij", "2,4", "2,3,4"), {"Mul": 1, "Unsqueeze": 1}),
    "3 outer product": (net("i,j->ij", "3", "4"), {"Mul": 1, "Unsqueeze": 1}),
    "3 a scalar": (net(",ij->ij", "", "3,4"), {"Mul": 1}),
    "3 opset 12": (net("i,j->ij", "3", "4", opset=12), {"Mul": 1, "Unsqueeze": 1}),
    "4 Transpose": (net("ijk->kij", "3,4,5"), {"Transpose": 1}),
    "4 ReduceSum": (net("ijk->ik", "3,4,5"), {"ReduceSum": 1}),
    "4 everything": (net("ij->", "3,4"), {"ReduceSum": 1}),
    "4 both": (net("ijk->ki", "3,4,5"), {"ReduceSum": 1, "Transpose": 1}),
    "4 opset 12": (net("ijk->ik", "3,4,5", opset=12), {"ReduceSum": 1}),
    "4 nothing": (
        'g (float[3,4] x) => (float[A,B] y) { [n] a = Einsum<equation = "ij->ij">(x) y = Relu(a) }',
        {"Relu": 1},
    ),
    "int32": (net("ij,jk->ik", "3,4", "4,5", kind="int32"), PLAIN),
    "int64": (net("ij,kj->ik", "3,4", "5,4", kind="int64"), ONE),
    "double": (net("bij,bjk->bik", "2,3,4", "2,4,5", kind="double"), PLAIN),
    "opset 21": (net("i,j->ij", "3", "4", opset=21), {"Mul": 1, "Unsqueeze": 1}),
}


@pytest.mark.parametrize("case", REWRITES)
def test_rewrites(case: str) -> None:
    text, histogram = REWRITES[case]
    assert_rewritten(WriteEinsum(), text, histogram)


def test_in_a_branch() -> None:
    text = (
        "g (float[3,4] x, bool cond) => (float[3,3] y) { y = If(cond) <"
        'then_branch = p () => (float[3,3] s) { [n] s = Einsum<equation = "ij,kj->ik">(x, x) },'
        "else_branch = q () => (float[3,3] t) { t = Gemm<transB = 1>(x, x) }> }"
    )
    assert_rewritten(WriteEinsum(), text, {"If": 1, "MatMul": 1, "Transpose": 1, "Gemm": 1})


SKIPS = {
    "5 three operands": (net("ij,jk,kl->il", "3,4", "4,5", "5,6"), "more than two operands"),
    "5 an index twice": (net("ii->i", "3,3"), "occurs twice"),
    "5 an index that only one sums": (net("ij,jk->k", "3,4", "4,5"), "no single product"),
    "5 two summed ones": (net("ijk,jkl->il", "3,4,5", "4,5,6"), "no single product"),
    "5 a batch of inner products": (net("bi,bi->b", "2,4", "2,4"), "no single product"),
    "6 sizes that may broadcast": (net("ij,jk->ik", "3,J", "K,5"), "not known to be equal"),
    "6 a size of 1": (net("bij,bjk->bik", "1,3,4", "2,4,5"), "not known to be equal"),
    "6 ellipses of other lengths": (net("...ij,...jk->...ik", "2,3,4", "4,5", y=3), "different numbers of axes"),
    "7 a type of its own": (net("ij,jk->ik", "3,4", "4,5", kind="float16"), "none that MatMul computes in"),
    "8 rows beside a batch": (net("abij,ajk->abik", "2,6,3,4", "2,4,5"), "no single product"),
    "8 the batch behind": (net("bij,bjk->ikb", "2,3,4", "2,4,5"), "no single product"),
    "3 axes missing in both": (net("ij,ik->ijk", "3,4", "3,5"), "no single product"),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    assert_skipped(WriteEinsum(), text, reason)


def other_order(rewrite: Rewrite) -> Rewrite:
    attributes = rewrite.replacement[0].attributes
    attributes["perm"] = ir.AttrInt64s("perm", list(attributes["perm"].as_ints())[::-1])
    return rewrite


def operands_turned(rewrite: Rewrite) -> Rewrite:
    node = rewrite.replacement[-1]
    a, b = node.inputs
    node.replace_input_with(0, b)
    node.replace_input_with(1, a)
    return rewrite


SABOTAGE: dict[str, tuple[str, Breakage]] = {
    "operands turned": (net("ij,jk->ik", "4,4", "4,4"), operands_turned),
    "another order": (net("ijk->kij", "3,3,3"), other_order),
    "not there": (
        'g (float[4,4] x, float[4,4] z) => (float[A,B] y) { [n] a = Einsum<equation = "ij,jk->ik">(x, z) y = Relu(a) }',
        wired_to_its_input,
    ),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_sabotage(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(WriteEinsum(), text, how, monkeypatch)
