from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import files
from edgeopt.graph import Array, op_histogram
from edgeopt.oracle import Oracle
from edgeopt.passes import EXACT, merge_conv_sum
from edgeopt.passes.convolutions import Convolution, placed, read_conv, regrouped
from edgeopt.passes.merge_conv_sum import MergeConvSum
from edgeopt.rewrite import Rewrite
from edgeopt.simplifier import simplify
from tests import nets
from tests.models import assert_same, checked, loaded
from tests.passes.rewriting import assert_rewritten, assert_skipped
from tests.passes.sabotage import Breakage, Patch, assert_caught, scaled, wired_to_its_input

BN = "float[4] gamma, float[4] beta, float[4] mean, float[4] var"
WEIGHTS = (
    "float[4,4,3,3] w3, float[4,4,1,1] w1, float[4,4,1,3] wr, float[4,4,3,1] wc, float[4,1,3,3] dw, float[4,1,1,1] d1,"
    f" float[4,2,3,3] g3, float[4] b, float[4] b2, float[4,1,1] k, {BN}"
)
THREE = "a = Conv<pads = [1, 1, 1, 1]>(x, w3, b)"
ONE = "c = Conv(x, w1, b2)"
NORM = "BatchNormalization(x, gamma, beta, mean, var)"


def net(nodes: str, *, x: str = "2,4,6,7", kind: str = "float", opset: int = 17, weights: str = WEIGHTS) -> str:
    weights = weights.replace("float", kind)
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> '
        f"g ({kind}[{x}] x) => ({kind}[A,B,C,D] y) <{weights}> {{ {nodes} }}"
    )


MERGES: dict[str, tuple[str, dict[str, int]]] = {
    "1 3×3 and 1×1": (net(f"{THREE} {ONE} [n] y = Add(a, c)"), {"Conv": 1}),
    "1 no bias": (net("a = Conv<pads = [1, 1, 1, 1]>(x, w3) c = Conv(x, w1) [n] y = Add(c, a)"), {"Conv": 1}),
    "1 one bias": (net(f"{THREE} c = Conv(x, w1) [n] y = Add(c, a)"), {"Conv": 1}),
    "1 ACNet": (
        net(
            f"{THREE} c = Conv<pads = [0, 1, 0, 1]>(x, wr) d = Conv<pads = [1, 0, 1, 0]>(x, wc)"
            " e = Add(a, c) [n] y = Add(e, d)"
        ),
        {"Conv": 1},
    ),
    "1 equal kernels": (net(f"{THREE} c = Conv<pads = [1, 1, 1, 1]>(x, w3, b2) [n] y = Add(a, c)"), {"Conv": 1}),
    "1 the same Conv's kernel off its centre": (
        net("a = Conv<pads = [0, 0, 2, 2]>(x, w3) c = Conv(x, w1) [n] y = Add(a, c)"),
        {"Conv": 1},
    ),
    "1 strides": (
        net(
            "a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w3) c = Conv<strides = [2, 2]>(x, w1) [n] y = Add(a, c)"
        ),
        {"Conv": 1},
    ),
    "1 strides, other pads behind but the same size": (
        net(
            "a = Conv<pads = [1, 1, 0, 1], strides = [2, 3]>(x, w3) c = Conv<strides = [2, 3]>(x, w1) [n] y = Add(a, c)"
        ),
        {"Conv": 1},
    ),
    "1 dilated": (
        net("a = Conv<pads = [2, 2, 2, 2], dilations = [2, 2]>(x, w3) c = Conv(x, w1) [n] y = Add(a, c)"),
        {"Conv": 1},
    ),
    "1 SAME": (net('a = Conv<auto_pad = "SAME_UPPER">(x, w3) c = Conv(x, w1) [n] y = Add(a, c)'), {"Conv": 1}),
    "1 VALID": (
        net('a = Conv<auto_pad = "VALID">(x, w3) c = Conv<auto_pad = "VALID">(x, w3, b) [n] y = Add(a, c)'),
        {"Conv": 1},
    ),
    "1 Sum": (net(f"{THREE} {ONE} [n] y = Sum(a, c)"), {"Conv": 1}),
    "1 open batch and size": (net(f"{THREE} {ONE} [n] y = Add(a, c)", x="N,4,H,W"), {"Conv": 1}),
    "1 one axis": (
        "g (float[2,4,9] x) => (float[A,B,C] y) <float[4,4,3] w, float[4,4,1] v> "
        "{ a = Conv<pads = [1, 1]>(x, w) c = Conv(x, v) [n] y = Add(a, c) }",
        {"Conv": 1},
    ),
    "1 three axes": (
        "g (float[1,4,4,5,6] x) => (float[A,B,C,D,E] y) <float[6,4,3,3,3] w, float[6,4,1,1,1] v> "
        "{ a = Conv<pads = [1, 1, 1, 1, 1, 1]>(x, w) c = Conv(x, v) [n] y = Add(a, c) }",
        {"Conv": 1},
    ),
    "2 depthwise into dense": (
        net(f"{THREE} c = Conv<group = 4, pads = [1, 1, 1, 1]>(x, dw) [n] y = Add(a, c)"),
        {"Conv": 1},
    ),
    "2 depthwise and depthwise": (
        net("a = Conv<group = 4, pads = [1, 1, 1, 1]>(x, dw) c = Conv<group = 4>(x, d1) [n] y = Add(a, c)"),
        {"Conv": 1},
    ),
    "2 depthwise into two groups": (
        net("a = Conv<group = 2, pads = [1, 1, 1, 1]>(x, g3) c = Conv<group = 4>(x, d1) [n] y = Add(a, c)"),
        {"Conv": 1},
    ),
    "3 x itself": (net(f"{THREE} [n] y = Add(x, a)"), {"Conv": 1}),
    "3 x itself and 1×1": (net(f"{ONE} [n] y = Add(c, x)"), {"Conv": 1}),
    "3 x itself, two groups": (net("a = Conv<group = 2, pads = [1, 1, 1, 1]>(x, g3) [n] y = Add(a, x)"), {"Conv": 1}),
    "3 x itself, depthwise": (net("a = Conv<group = 4, pads = [1, 1, 1, 1]>(x, dw) [n] y = Add(a, x)"), {"Conv": 1}),
    "3 x twice": (net(f"{THREE} e = Add(x, a) [n] y = Add(e, x)"), {"Conv": 1}),
    "4 RepVGG": (
        net(f"{THREE} {ONE} d = {NORM} e = Add(a, c) [n] y = Add(d, e)"),
        {"Conv": 1},
    ),
    "4 BatchNormalization alone": (net(f"{THREE} d = {NORM} [n] y = Add(d, a)"), {"Conv": 1}),
    "4 a factor per channel": (net(f"{THREE} d = Mul(k, x) [n] y = Add(d, a)"), {"Conv": 1}),
    "4 one factor": (net(f"{THREE} d = Mul(x, one) [n] y = Add(d, a)", weights=WEIGHTS + ", float one"), {"Conv": 1}),
    "5 constants between": (
        net(f"{THREE} {ONE} e = Add(k, a) f = Add(c, one) [n] y = Add(e, f)", weights=WEIGHTS + ", float[1] one"),
        {"Conv": 1},
    ),
    "6 other terms stay": (
        net(f"{THREE} {ONE} z = Neg(x) e = Add(a, z) [n] y = Add(e, c)"),
        {"Conv": 1, "Neg": 1, "Add": 1},
    ),
    "6 other terms of a Sum": (
        net(f"{THREE} {ONE} z = Neg(x) v = Abs(x) [n] y = Sum(z, a, v, c)"),
        {"Conv": 1, "Neg": 1, "Abs": 1, "Sum": 1},
    ),
    "6 a constant of other dims stays": (
        net(f"{THREE} {ONE} e = Add(a, wide) [n] y = Add(e, c)", weights=WEIGHTS + ", float[7] wide"),
        {"Conv": 1, "Add": 1},
    ),
    "6 edge 20: [W] is no bias, as many columns as channels": (
        net(f"{THREE} {ONE} e = Add(a, b) [n] y = Add(e, c)", x="2,4,6,4"),
        {"Conv": 1, "Add": 1},
    ),
    "6 edge 21: a constant of higher rank stays": (
        net(f"{THREE} {ONE} e = Add(a, c) [n] y = Add(e, one)", weights=WEIGHTS + ", float[1,1,1,1,1] one").replace(
            "C,D] y", "C,D,E] y"
        ),
        {"Conv": 1, "Add": 1},
    ),
    "6 two pairs": (
        net(
            f"{THREE} {ONE} z = Neg(x) u = Conv<pads = [1, 1, 1, 1]>(z, w3) v = Conv(z, w1)"
            " e = Add(a, u) f = Add(c, v) [n] y = Add(e, f)"
        ),
        {"Conv": 2, "Neg": 1, "Add": 1},
    ),
    "6 dense 1×1 beside depthwise": (
        net(
            "a = Conv<group = 4, pads = [1, 1, 1, 1]>(x, dw) c = Conv(x, w1) d = Conv<group = 4>(x, d1)"
            " e = Add(a, c) [n] y = Add(e, d)"
        ),
        {"Conv": 2, "Add": 1},
    ),
    "edge 4: a small weight shared by both": (
        net(f"{THREE} c = Conv<pads = [1, 1, 1, 1]>(x, w3) [n] y = Add(a, c)"),
        {"Conv": 1},
    ),
    **{
        f"opset {version}": (
            net(f"{THREE} {ONE} d = {NORM} e = Add(a, c) [n] y = Add(d, e)", opset=version),
            {"Conv": 1},
        )
        for version in (7, 9, 11, 13, 17, 18, 21)
    },
}


@pytest.mark.parametrize("case", MERGES)
def test_merges(case: str) -> None:
    text, histogram = MERGES[case]
    assert_rewritten(MergeConvSum(), text, histogram, tolerance=2e-5)


@pytest.mark.parametrize(("kind", "opset"), [("float16", 17), ("double", 17), ("float", 6)])
def test_what_onnxruntime_has_no_kernels_for(kind: str, opset: int) -> None:
    text = net(f"{THREE} {ONE} [n] y = Add(a, c)", kind=kind, opset=opset)
    assert_rewritten(MergeConvSum(), text, {"Conv": 1}, run=False)


def test_in_a_branch() -> None:
    text = (
        f"g (float[2,4,6,7] x, bool cond) => (float[2,4,6,7] y) <{WEIGHTS}> {{ y = If(cond) <"
        f"then_branch = p () => (float[2,4,6,7] s) {{ {THREE} {ONE} [n] s = Add(a, c) }},"
        f"else_branch = q () => (float[2,4,6,7] t) {{ {ONE} [m] t = Add(c, x) }}> }}"
    )
    for cond in (True, False):
        model = loaded(text)
        result, report = checked(MergeConvSum(), model)
        assert sorted(h.anchor for h in report.hits) == ["m", "n"]
        assert op_histogram(result) == {"Conv": 2, "If": 1}
        assert_same(model, result, cond=np.array(cond))


NO_FIT = "none can take up another term"
SKIPS: dict[str, tuple[str, str | None]] = {
    "no two of one input": (net(f"{THREE} z = Neg(x) c = Conv(z, w1) [n] y = Add(a, c)"), None),
    "no Conv at all": (net("a = Relu(x) [n] y = Add(a, x)"), None),
    "7 weights are an input": (
        net(f"{THREE} c = Conv(x, v) [n] y = Add(a, c)").replace("x) =>", "x, float[4,4,1,1] v) =>"),
        "not constant",
    ),
    "edge 8: 7 weights that a caller may override": (
        net(f"{THREE} c = Conv(x, w1) [n] y = Add(a, c)").replace("x) =>", "x, float[4,4,1,1] w1) =>"),
        "not constant",
    ),
    "edge 1: 8 a Conv is read elsewhere": (
        net(f"{THREE} {ONE} o = Neg(c) [n] y = Add(a, c)").replace("] y)", "] y, float[E,F,G,H] o)"),
        "read by other nodes too",
    ),
    "edge 2: 8 a Conv is an output": (
        net(f"{THREE} {ONE} [n] y = Add(a, c)").replace("] y)", "] y, float[E,F,G,H] c)"),
        "an output of the graph",
    ),
    "edge 3: 8 a body reads a Conv": (
        net(
            f"{THREE} {ONE} [n] y = Add(a, c) o = If(cond) <then_branch = p () => (float[E,F,G,H] s) {{ s = Neg(c) }},"
            "else_branch = q () => (float[E,F,G,H] t) { t = Neg(x) }>"
        )
        .replace("x) =>", "x, bool cond) =>")
        .replace("] y)", "] y, float[E,F,G,H] o)"),
        "read by other nodes too",
    ),
    "9 1×3 and 3×1": (
        net("a = Conv<pads = [0, 1, 0, 1]>(x, wr) c = Conv<pads = [1, 0, 1, 0]>(x, wc) [n] y = Add(a, c)"),
        NO_FIT,
    ),
    "9 dense 1×1 and depthwise 3×3": (
        net("a = Conv<group = 4, pads = [1, 1, 1, 1]>(x, dw) c = Conv(x, w1) [n] y = Add(a, c)"),
        NO_FIT,
    ),
    "9 taps between those of a dilated kernel": (
        net(
            "a = Conv<pads = [2, 2, 2, 2], dilations = [2, 2]>(x, w3) c = Conv<pads = [1, 1, 1,"
            " 1]>(x, w3) [n] y = Add(a, c)"
        ),
        NO_FIT,
    ),
    "9 a tap beyond the kernel": (
        net("a = Conv<pads = [1, 1, 1, 1]>(x, w3) c = Conv<pads = [2, 2, -2, -2]>(x, w1) [n] y = Add(a, c)", opset=9),
        NO_FIT,
    ),
    "9 other strides": (
        net(
            "a = Conv<pads = [1, 1, 1, 1], strides = [1, 2]>(x, w3) c = Conv<strides = [2, 2]>(x,"
            " w1) [n] y = Add(a, c)",
            x="2,4,1,7",
        ),
        NO_FIT,
    ),
    "9 x itself and strides": (
        net("a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w3) [n] y = Add(a, x)", x="2,4,1,1"),
        NO_FIT,
    ),
    "9 SAME with strides": (
        net(
            'a = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w3) c = Conv<strides = [2,'
            " 2]>(x, w1) [n] y = Add(a, c)"
        ),
        "depends on the size",
    ),
    "10 one position is added to all": (
        net(
            "a = Conv<pads = [1, 1, 1, 1]>(x, w3) c = Conv(x, w6) [n] y = Add(a, c)",
            weights=WEIGHTS + ", float[4,4,6,7] w6",
        ),
        NO_FIT,
    ),
    "edge 23: 10 one channel is added to all": (
        net(
            "a = Conv<pads = [1, 1, 1, 1]>(x, w3) c = Conv(x, w0) [n] y = Add(a, c)",
            weights=WEIGHTS + ", float[1,4,1,1] w0",
        ),
        NO_FIT,
    ),
    "10 x of one channel is added to all": (
        net("a = Conv(x, w0) [n] y = Add(a, x)", x="2,1,6,7", weights="float[4,1,1,1] w0"),
        NO_FIT,
    ),
    "10 x is added to one channel": (net("a = Conv(x, w0) [n] y = Add(a, x)", weights="float[1,4,1,1] w0"), NO_FIT),
    "10 a factor that grows x": (
        net(
            "a = Conv(x, w0) d = Mul(x, k) [n] y = Add(a, d)", x="2,1,6,7", weights="float[4,1,1,1] w0, float[4,1,1] k"
        ),
        NO_FIT,
    ),
    "edge 11: a BatchNormalization that trains": (
        net(f"{THREE} d, m, v = BatchNormalization<training_mode = 1>(x, gamma, beta, mean, var) [n] y = Add(a, d)"),
        NO_FIT,
    ),
    "edge 14: statistics are not constant": (
        net(f"{THREE} d = BatchNormalization(x, gamma, beta, m, var) [n] y = Add(a, d)").replace(
            "x) =>", "x, float[4] m) =>"
        ),
        NO_FIT,
    ),
    "12 large weights that others share": (
        net(
            "a = Conv<pads = [1, 1, 1, 1]>(x, w3) c = Conv(x, w1) z = Neg(x) o = Conv(z, w3) [n] y = Add(a, c)",
            x="1,64,4,4",
            weights="float[64,64,3,3] w3, float[64,64,1,1] w1",
        ).replace("] y)", "] y, float[E,F,G,H] o)"),
        "would be stored twice",
    ),
    "QDQ: weights from int8": (
        "g (float[1,4,5,5] x) => (float[A,B,C,D] y) <int8[4,4,1,1] q, float s = {0.1}, float[4,4,1,1] w> "
        "{ v = DequantizeLinear(q, s) a = Conv(x, v) c = Conv(x, w) [n] y = Add(a, c) }",
        "not constant",
    ),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    assert_skipped(MergeConvSum(), text, reason)


def with_weight(text: str, name: str, change: Callable[[Array], Array]) -> ir.Model:
    model = loaded(text)
    value = model.graph.initializers[name]
    assert value.const_value is not None
    value.const_value = ir.tensor(change(np.array(value.const_value.numpy())))
    return model


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_not_finite(number: float) -> None:
    model = with_weight(
        net(f"{THREE} {ONE} [n] y = Add(a, c)"), "w1", lambda w: np.where(w == w[0, 0], number, w).astype(w.dtype)
    )
    result, report = checked(MergeConvSum(), model)
    assert result is model
    assert "infinite or NaN" in report.skips[0].reason


def test_a_sum_that_overflows() -> None:
    text = net("a = Conv(x, w1) c = Conv(x, v1) [n] y = Add(a, c)", weights="float[4,4,1,1] w1, float[4,4,1,1] v1")
    model = with_weight(text, "w1", lambda w: np.full_like(w, 3e38))
    value = model.graph.initializers["v1"]
    value.const_value = ir.tensor(np.full((4, 4, 1, 1), 3e38, np.float32))
    result, report = checked(MergeConvSum(), model)
    assert result is model
    assert "overflows float32" in report.skips[0].reason


def test_opset_6_broadcasting_is_left_alone() -> None:
    text = net("a = Conv<pads = [1, 1, 1, 1]>(x, w3) [n] y = Add<broadcast = 1, axis = 1>(a, b)", opset=6)
    assert_skipped(MergeConvSum(), text, None)


@pytest.mark.parametrize(("group", "fewer"), [(4, 4), (4, 2), (4, 1), (2, 1), (6, 3)])
def test_regrouped(group: int, fewer: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((2 * group, 3, 1, 1))
    x = rng.standard_normal((3 * group,))

    def apply(w: Array, groups: int) -> Array:
        parts = w.reshape(groups, -1, w.shape[1])
        result: Array = np.einsum("goi,gi->go", parts, x.reshape(groups, -1)).reshape(-1)
        return result

    np.testing.assert_allclose(apply(regrouped(weight, group, fewer), fewer), apply(weight, group))


def at_a_corner(conv: Convolution, base: Convolution) -> Array | None:
    found = placed(conv, base)
    return None if found is None else np.roll(found, conv.weight.shape[2] == 1, 2)


def off_by_one(rewrite: Rewrite) -> Rewrite:
    attributes = rewrite.replacement[0].attributes
    pads = list(attributes["pads"].as_ints())
    attributes["pads"] = ir.AttrInt64s("pads", [pads[0] - 1, pads[1], pads[2] + 1, pads[3]])
    return rewrite


def no_bias(rewrite: Rewrite) -> Rewrite:
    rewrite.replacement[0].resize_inputs(2)
    return rewrite


VICTIM = net(f"{THREE} {ONE} d = {NORM} e = Add(a, c) [n] y = Add(d, e)")
SABOTAGE: dict[str, tuple[str, Breakage | Patch]] = {
    "a channel of the weights": (VICTIM, scaled(1, 1, 1.001)),
    "a channel of the bias": (VICTIM, scaled(2, 1, 1.01)),
    "the bias is lost": (VICTIM, no_bias),
    "the kernel is off by one": (VICTIM, off_by_one),
    "x instead of the result": (net(f"{THREE} [n] s = Add(x, a) y = Relu(s)"), wired_to_its_input),
    "factors forgotten": (
        VICTIM,
        Patch(merge_conv_sum, "affine", lambda node: (np.ones(4), np.zeros(4))),
    ),
    "the small kernel at a corner": (
        net(f"{THREE} {ONE} [n] y = Add(a, c)"),
        Patch(merge_conv_sum, "placed", at_a_corner),
    ),
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_sabotage(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = SABOTAGE[case]
    assert_caught(MergeConvSum(), text, how, monkeypatch)


@pytest.mark.parametrize("name", ["repvgg", "acnet", "mobileone"])
def test_a_net_becomes_one_conv_per_block(name: str) -> None:
    model = files.load(nets.NETS[name]()).model
    done = simplify(model, Oracle(model))
    found = op_histogram(done.model)
    assert found.keys() == {"Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"}
    assert found["Conv"] == found["Relu"] == op_histogram(model)["Relu"]
    assert [r.name for r in done.passes if r.rolled_back] == []
    assert_same(model, done.model)


def test_a_long_sum() -> None:
    branches = " ".join(f"c{k} = Conv(x, w1, b)" for k in range(40))
    sums = " ".join(f"s{k} = Add({'c0' if k == 1 else f's{k - 1}'}, c{k})" for k in range(1, 39))
    model = loaded(net(f"{branches} {sums} [n] y = Add(s38, c39)"))
    result, report = checked(MergeConvSum(), model)
    assert report.rolled_back == []
    assert op_histogram(result)["Conv"] < 10
    assert_same(model, result)


def test_pads_of_same() -> None:
    model = loaded(net('[m] a = Conv<auto_pad = "SAME_LOWER", dilations = [2, 1]>(x, wr) [n] y = Relu(a)'))
    conv = read_conv(next(n for n in model.graph if n.name == "m"))
    assert not isinstance(conv, str)
    assert (conv.before, conv.behind, conv.growth) == ((0, 1), (0, 1), (0, 0))


def test_comes_after_the_normalizations() -> None:
    names = [rule.name for rule in EXACT]
    assert names.index("merge_conv_sum") > names.index("fold_batchnorm")
