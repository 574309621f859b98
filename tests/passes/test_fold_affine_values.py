"""Values and owners on which a folded affine map depends: infinities, tiny and zero factors, types, shared tensors."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import op_histogram
from edgeopt.oracle import PassReport
from edgeopt.passes.fold_affine_before import FoldAffineBefore
from edgeopt.passes.fold_affine_chain import FoldAffineChain
from edgeopt.rewrite import Rule
from tests.models import assert_same, checked, loaded
from tests.passes.tables import assert_fires, graph

BN = "float[4] g, float[4] b, float[4] m, float[4] var"
WEIGHTS = "float[4,4,3,3] w, float[4,1,1] c, float[4,1,1] d, float e, float f"


def net(body: str, weights: str = WEIGHTS, *, inputs: str = "", outputs: str = "", opset: int = 17) -> str:
    """x → body → y."""
    return graph(f"g (float[2,4,6,6] x{inputs}) => (float[] y{outputs}) <{weights}> {{ {body} }}", opset)


def run(rule: Rule, text: str, **values: np.ndarray) -> tuple[ir.Model, ir.Model, PassReport]:
    """Before, after and report, with these weights."""
    before = loaded(text)
    for name, array in values.items():
        before.graph.initializers[name].const_value = ir.tensor(array)
    return before, *checked(rule, before)


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(4, 1, 1)


# ------------------------------------------------------------------------------------------------ before a layer
def test_before_a_deviation_that_is_infinite_is_a_factor_of_zero() -> None:
    text = net("t = Sub(x, c) h = Div(t, d) y = Conv(h, w)")
    before, after, report = run(FoldAffineBefore(), text, d=column(1, np.inf, 2, 1))
    assert len(report.hits) == 1
    assert_same(before, after)


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_before_a_deviation_that_divides_to_no_number(value: float) -> None:
    text = net("t = Sub(x, c) h = Div(t, d) y = Conv(h, w)")
    before, after, report = run(FoldAffineBefore(), text, d=column(1, value, 2, 1))
    assert after is before
    assert "not finite, or divides by zero" in report.skips[0].reason


def test_before_a_padded_conv_a_factor_of_zero_leaves_no_way_to_write_the_shift() -> None:
    text = net("t = Mul(x, c) h = Add(t, d) y = Conv<pads = [1,1,1,1]>(h, w)")
    before, after, report = run(FoldAffineBefore(), text, c=column(1, 0, 2, 1))
    assert after is before
    assert "zeros at its border" in report.skips[0].reason


@pytest.mark.parametrize("deviation", [1e-3, 0.5, 1e3])
def test_before_a_padded_conv_edge_18_the_border_stays_zero(deviation: float) -> None:
    text = net("t = Sub(x, c) h = Div(t, d) y = Conv<pads = [1,1,1,1]>(h, w)")
    values = {"c": np.full((4, 1, 1), 10, np.float32), "d": np.full((4, 1, 1), deviation, np.float32)}
    before, after, report = run(FoldAffineBefore(), text, **values)
    assert len(report.hits) == 1
    assert op_histogram(after) == {"Add": 1, "Conv": 1}
    assert_same(before, after)


def test_before_edges_5_and_6_a_bias_that_is_a_parameter_and_read_elsewhere() -> None:
    text = net(
        "h = BatchNormalization(x, b, b, m, var) y = Conv(h, w, b) z = Exp(b)",
        f"{WEIGHTS}, float[4] b, float[4] m, float[4] var",
        outputs=", float[4] z",
    )
    assert_fires(FoldAffineBefore(), text, {"Conv": 1, "Exp": 1})


def test_before_edge_7_weights_that_a_body_reads() -> None:
    text = net(
        "h = Mul(x, c) y = Conv(h, w) z = If(k) <then_branch = p () => (float[4,4,3,3] t) { t = Neg(w) },"
        " else_branch = q () => (float[4,4,3,3] r) { r = Exp(w) }>",
        inputs=", bool k",
        outputs=", float[4,4,3,3] z",
    )
    before, after, report = run(FoldAffineBefore(), text)
    assert len(report.hits) == 1
    for k in (True, False):
        assert_same(before, after, k=np.array(k))


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "double"])
def test_before_a_matmul_becomes_gemm_only_in_types_that_runtimes_have_it_for(kind: str) -> None:
    text = f"g ({kind}[3,4] x) => ({kind}[3,6] y) <{kind}[4] c, {kind}[4,6] w> {{ h = Add(x, c) y = MatMul(h, w) }}"
    _, after, report = run(FoldAffineBefore(), graph(text, 21))
    assert len(report.hits) == (kind == "double")
    assert [n.op_type for n in after.graph] == (["Gemm"] if kind == "double" else ["Add", "MatMul"])


# ------------------------------------------------------------------------------------------------ chains
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_chain_of_a_constant_that_is_no_finite_number(value: float) -> None:
    before, after, report = run(FoldAffineChain(), net("u = Mul(x, e) y = Mul(u, f)"), e=np.array(value, np.float32))
    assert after is before
    assert report.skips == []


def test_chain_whose_product_float16_holds_badly() -> None:
    """1e-4 times 1e-4 is 0 there; two products one after another keep large x."""
    text = net("u = Mul(x, e) y = Mul(u, f)").replace("float", "float16")
    before, after, _ = run(FoldAffineChain(), text, e=np.array(1e-4, np.float16), f=np.array(1e-4, np.float16))
    assert after is before


def test_chain_edge_13_a_variance_of_zero_counts_with_epsilon() -> None:
    text = net("u = BatchNormalization(x, g, b, m, var) y = Mul(u, c)", f"{WEIGHTS}, {BN}")
    before, after, report = run(FoldAffineChain(), text, var=np.zeros(4, np.float32))
    assert len(report.hits) == 1
    assert_same(before, after)


def test_chain_statistics_keep_the_types_that_they_have() -> None:
    """From opset 15 scale and bias, and mean and variance, may be of other types than x."""
    text = (
        "g (float16[2,4,3,3] x) => (float16[2,4,3,3] y) <float16[4] g, float16[4] b, float[4] m, float[4] var, float16 e>"
        " { u = BatchNormalization(x, g, b, m, var) y = Mul(u, e) }"
    )
    _, after, report = run(FoldAffineChain(), graph(text))
    assert len(report.hits) == 1
    kinds = [v.dtype.numpy().name for v in next(iter(after.graph)).inputs if v is not None and v.dtype is not None]
    assert kinds == ["float16", "float16", "float16", "float32", "float32"]


def test_chain_of_twenty() -> None:
    """A few nodes at a time, none of them looked at more often than the others."""
    names = ["x", *(f"t{k}" for k in range(19)), "y"]
    nodes = (f"{b} = {('Mul', 'Add')[k % 2]}({a}, c)" for k, (a, b) in enumerate(itertools.pairwise(names)))
    before, after, report = run(FoldAffineChain(), net(" ".join(nodes)), c=column(0.5, 1.5, -1, 1.2))
    assert report.rolled_back == []
    assert op_histogram(after) == {"Add": 1, "Mul": 1}
    assert_same(before, after)


def test_chain_whose_producer_lies_in_another_graph() -> None:
    text = net(
        "u = Mul(x, c) y = If(k) <then_branch = p () => (float[2,4,6,6] t) { t = Mul(u, c) },"
        " else_branch = q () => (float[2,4,6,6] r) { r = Identity(x) }>",
        inputs=", bool k",
    )
    before, after, report = run(FoldAffineChain(), text)
    assert after is before
    assert report.hits == []


def test_chain_edge_8_a_constant_that_is_overridden_counts() -> None:
    text = net("t = Mul(x, c) u = Mul(t, d) y = Mul(u, o)", f"float o = {{2}}, {WEIGHTS}", inputs=", float o")
    before, after, report = run(FoldAffineChain(), text)
    assert len(report.hits) == 1
    for value in (2, 7):
        assert_same(before, after, o=np.array(value, np.float32))
