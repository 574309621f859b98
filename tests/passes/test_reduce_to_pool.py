from __future__ import annotations

import pytest

from edgeopt.passes.reduce_to_pool import ReduceToPool
from edgeopt.rewrite import Rewrite
from tests.passes.rewriting import assert_rewritten, assert_skipped
from tests.passes.sabotage import Breakage, assert_caught, wired_to_its_input

AXES = (
    "int64[2] s = {2, 3}, int64[2] m = {-1, -2}, int64[1] one = {2}, int64[3] three = {2, 4, 3}, int64[2] last = {1, 2}"
)


def net(nodes: str, *, x: str = "N,3,6,7", y: str = "A,B,C,D", opset: int = 17, kind: str = "float") -> str:
    return f'<ir_version: 8, opset_import: ["" : {opset}]> g ({kind}[{x}] x) => ({kind}[{y}] y) <{AXES}> {{ {nodes} }}'


MEAN, MAX = {"GlobalAveragePool": 1}, {"GlobalMaxPool": 1}
REWRITES: dict[str, tuple[str, dict[str, int]]] = {
    "1 axes as attribute": (net("[n] y = ReduceMean<axes = [2, 3]>(x)"), MEAN),
    "1 axes counted from behind": (net("[n] y = ReduceMean<axes = [-1, 2]>(x)"), MEAN),
    "1 keepdims": (net("[n] y = ReduceMean<axes = [3, 2], keepdims = 1>(x)"), MEAN),
    "1 axes as input": (net("[n] y = ReduceMean(x, m)", opset=18), MEAN),
    "1 open sizes": (net("[n] y = ReduceMean<axes = [2, 3]>(x)", x="N,C,H,W"), MEAN),
    "1 one axis": (net("[n] y = ReduceMean<axes = [2]>(x)", x="2,3,9", y="A,B,C"), MEAN),
    "1 three axes": (net("[n] y = ReduceMean(x, three)", x="2,3,4,5,6", y="A,B,C,D,E", opset=18), MEAN),
    "1 before a Flatten": (
        net("[n] a = ReduceMean<axes = [2, 3]>(x) y = Flatten(a)", y="A,B"),
        {"Flatten": 1, "GlobalAveragePool": 1},
    ),
    "2 ReduceMax": (net("[n] y = ReduceMax<axes = [2, 3]>(x)"), MAX),
    "2 axes as input": (net("[n] y = ReduceMax(x, s)", opset=18), MAX),
    "3 put back": (net("a = ReduceMean<axes = [2, 3], keepdims = 0>(x) [n] y = Unsqueeze(a, m)"), MEAN),
    "3 attributes": (
        net("a = ReduceMax<axes = [2, 3], keepdims = 0>(x) [n] y = Unsqueeze<axes = [2, 3]>(a)", opset=11),
        MAX,
    ),
    "3 opset 18": (net("a = ReduceMean<keepdims = 0>(x, m) [n] y = Unsqueeze(a, s)", opset=18), MEAN),
    "4 AveragePool": (net("[n] y = AveragePool<kernel_shape = [6, 7]>(x)"), MEAN),
    "4 strides do not matter": (net("[n] y = AveragePool<kernel_shape = [6, 7], strides = [2, 9]>(x)"), MEAN),
    "4 VALID": (net('[n] y = AveragePool<kernel_shape = [6, 7], auto_pad = "VALID">(x)'), MEAN),
    "4 counting pads, of which there are none": (
        net("[n] y = AveragePool<kernel_shape = [6, 7], pads = [0, 0, 0, 0], count_include_pad = 1>(x)"),
        MEAN,
    ),
    "4 rounding up": (net("[n] y = AveragePool<kernel_shape = [6, 7], ceil_mode = 1>(x)"), MEAN),
    "4 MaxPool": (net("[n] y = MaxPool<kernel_shape = [6, 7]>(x)"), MAX),
    "4 one axis": (net("[n] y = MaxPool<kernel_shape = [9]>(x)", x="2,3,9", y="A,B,C"), MAX),
    **{
        f"opset {version}": (net("[n] y = ReduceMean<axes = [2, 3]>(x)", opset=version), MEAN)
        for version in (7, 9, 11, 13)
    },
    "opset 21": (net("[n] y = ReduceMean(x, s)", opset=21), MEAN),
}


@pytest.mark.parametrize("case", REWRITES)
def test_rewrites(case: str) -> None:
    text, histogram = REWRITES[case]
    assert_rewritten(ReduceToPool(), text, histogram)


def test_float16() -> None:
    text = net("[n] y = ReduceMean<axes = [2, 3]>(x)", kind="float16", x="2,3,6,7")
    assert_rewritten(ReduceToPool(), text, MEAN, run=False)


def test_in_a_branch() -> None:
    text = (
        "g (float[2,3,4,4] x, bool cond) => (float[2,3,1,1] y) { y = If(cond) <"
        "then_branch = p () => (float[2,3,1,1] s) { [n] s = ReduceMean<axes = [2, 3]>(x) },"
        "else_branch = q () => (float[2,3,1,1] t) { [m] t = ReduceMax<axes = [2, 3]>(x) }> }"
    )
    assert_rewritten(ReduceToPool(), text, {"GlobalAveragePool": 1, "GlobalMaxPool": 1, "If": 1})


SKIPS: dict[str, tuple[str, str | None]] = {
    "5 channels last": (net("[n] y = ReduceMean<axes = [1, 2]>(x)"), None),
    "5 one of two axes": (net("[n] y = ReduceMean<axes = [3]>(x)"), None),
    "5 the channels too": (net("[n] y = ReduceMean<axes = [1, 2, 3]>(x)"), None),
    "5 all axes": (net("[n] y = ReduceMean(x)"), None),
    "5 all axes, opset 18": (net("[n] y = ReduceMean(x)", opset=18), None),
    "6 axes are an input": (net("[n] y = ReduceMean(x, v)", opset=18).replace("x) =>", "x, int64[2] v) =>"), None),
    "7 rank 2": (net("[n] y = ReduceMean<axes = [1]>(x)", x="2,3", y="A,B"), None),
    "7 rank 6": (net("[n] y = ReduceMean<axes = [2,3,4,5]>(x)", x="1,2,2,2,2,2", y="A,B,C,D,E,F"), None),
    "8 double": (net("[n] y = ReduceMean<axes = [2, 3]>(x)", kind="double"), None),
    "8 integers": (net("[n] y = ReduceMax<axes = [2, 3]>(x)", kind="int32"), None),
    "9 a smaller kernel": (net("[n] y = AveragePool<kernel_shape = [6, 6]>(x)"), None),
    "9 an unknown size": (net("[n] y = AveragePool<kernel_shape = [6, 7]>(x)", x="N,3,6,W"), None),
    "9 pads": (net("[n] y = AveragePool<kernel_shape = [6, 7], pads = [1, 0, 0, 0]>(x)"), None),
    "9 SAME": (net('[n] y = AveragePool<kernel_shape = [6, 7], auto_pad = "SAME_UPPER">(x)'), None),
    "10 Indices": (
        net("[n] y, i = MaxPool<kernel_shape = [6, 7]>(x)").replace("] y)", "] y, int64[E,F,G,H] i)"),
        "Indices are used",
    ),
    "11 read elsewhere": (
        net("a = ReduceMean<axes = [2, 3], keepdims = 0>(x) o = Neg(a) [n] y = Unsqueeze(a, s)").replace(
            "] y)", "] y, float[E,F] o)"
        ),
        "read by other nodes too",
    ),
    "keepdims 0 alone": (net("[n] y = ReduceMean<axes = [2, 3], keepdims = 0>(x)", y="A,B"), None),
    "axes put back elsewhere": (
        net("a = ReduceMean<axes = [2, 3], keepdims = 0>(x) [n] y = Unsqueeze(a, last)"),
        None,
    ),
    "ReduceMin": (net("[n] y = ReduceMin<axes = [2, 3]>(x)"), None),
    "a pool and its Flatten stay": (net("a = GlobalAveragePool(x) [n] y = Flatten(a)", y="A,B"), None),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    assert_skipped(ReduceToPool(), text, reason)


def the_other_pool(rewrite: Rewrite) -> Rewrite:
    node = rewrite.replacement[0]
    node.op_type = {"GlobalAveragePool": "GlobalMaxPool", "GlobalMaxPool": "GlobalAveragePool"}[node.op_type]
    return rewrite


SABOTAGE: dict[str, tuple[str, Breakage]] = {
    "mean as maximum": (net("[n] y = ReduceMean<axes = [2, 3]>(x)"), the_other_pool),
    "maximum as mean": (net("[n] y = MaxPool<kernel_shape = [6, 7]>(x)"), the_other_pool),
    "put back, maximum": (
        net("a = ReduceMean<axes = [2, 3], keepdims = 0>(x) [n] y = Unsqueeze(a, s)"),
        the_other_pool,
    ),
    "not there": (net("[n] t = ReduceMean<axes = [2, 3]>(x) y = Relu(t)"), wired_to_its_input),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_sabotage(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(ReduceToPool(), text, how, monkeypatch)
