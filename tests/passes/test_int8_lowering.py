"""The other forms are exact, keep names, and the plan follows; the kernels they get: ``test_int8_rules``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import shapes
from edgeopt.graph import op_histogram
from edgeopt.passes.int8_lowering import lower
from edgeopt.passes.int8_plan import Plan, plan
from tests import models

PADDED = "Conv<pads=[1,1,1,1]>"
CONSTANTS = (
    "float[1,2,1,1] k = {0.5, -3}, float[4,3] m, float[3] b, float half = {0.5}, int64[2] axes = {3, 2}, "
    "float[2,2,3,3] w"
)


def lowered(op: str, output: str = "float[] y", opset: int = 17) -> tuple[ir.Model, ir.Model, Plan, Plan]:
    """The model with the node [n] between two convolutions, before and after, and both plans."""
    body = f"[c] h = {PADDED}(x, w) [n] s = {op} [d] y = {PADDED}(s, w)"
    text = f"g (float[3,2,8,8] x) => ({output}) <{CONSTANTS}> {{ {body} }}"
    original = models.loaded(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    found = plan(original)
    assert "n" in found.nodes
    result = original.clone()
    return original, result, found, lower(result, found)


EXACT = {
    "HardSwish(h)": {"Add": 1, "Clip": 1, "Mul": 2},
    "HardSigmoid(h)": {"Add": 1, "Clip": 1, "Mul": 1},
    "HardSigmoid<alpha=0.7, beta=-0.2>(h)": {"Add": 1, "Clip": 1, "Mul": 1},
    "HardSigmoid<alpha=0.1, beta=1.5>(h)": {"Add": 1, "Clip": 1, "Mul": 1},
    "Sub(h, k)": {"Add": 1},
    "Div(h, k)": {"Mul": 1},
    "Div(h, half)": {"Div": 1},  # another scale
    "ReduceMean<axes=[3,-2]>(h)": {"GlobalAveragePool": 1},
    "AveragePool<kernel_shape=[8,8]>(h)": {"GlobalAveragePool": 1},
    "AveragePool<kernel_shape=[8,8], strides=[3,3], pads=[0,0,0,0]>(h)": {"GlobalAveragePool": 1},
    "AveragePool<kernel_shape=[3,2]>(h)": {"Conv": 1},
    'AveragePool<kernel_shape=[2,2], strides=[2,1], auto_pad="VALID">(h)': {"Conv": 1},
    "AveragePool<kernel_shape=[3,3], pads=[1,0,2,1], count_include_pad=1>(h)": {"Conv": 1},
    'AveragePool<kernel_shape=[3,3], auto_pad="SAME_UPPER", count_include_pad=1>(h)': {"Conv": 1},
    "AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(h)": {"AveragePool": 1},
    'AveragePool<kernel_shape=[3,3], auto_pad="SAME_UPPER">(h)': {"AveragePool": 1},
    "AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(h)": {"AveragePool": 1},
}


@pytest.mark.parametrize("op", EXACT)
@pytest.mark.parametrize("output", ["float[] y", "float[] y, float[] s"])
def test_the_other_form_computes_the_same(op: str, output: str) -> None:
    original, result, _, _ = lowered(op, output)
    assert op_histogram(result) == {**EXACT[op], "Conv": 2 + EXACT[op].get("Conv", 0)}
    assert [v.name for v in result.graph.outputs] == [v.name for v in original.graph.outputs]
    models.assert_same(original, shapes.infer(result), tolerance=1e-6)


@pytest.mark.parametrize("op", EXACT)
def test_names_stay_and_the_plan_given_too(op: str) -> None:
    original, result, found, done = lowered(op)
    names = {n.name for n in result.graph}
    assert {n.name for n in original.graph} <= names
    assert found == plan(original)
    assert done.nodes == names
    produced = {o.name for n in result.graph for o in n.outputs} | {"x"}
    assert {*done.tensors, *done.fixed, *done.rescaled, *done.tied, *done.fused.values()} <= produced
    assert set(done.parts) == ({"n"} if op.startswith("Hard") else set())


def test_the_plan_of_a_hard_swish() -> None:
    _, _, _, done = lowered("HardSwish(h)")
    bounded, share = "n/bound/output", "n/share/output"
    assert done.parts == {"n": ("n/shift", "n/bound", "n/share")}
    assert done.fixed == {bounded: (0.0, 6.0)}
    assert done.tensors == ["x", "h", bounded, "s", "y"]
    assert done.rescaled == {share: (bounded, float(np.float32(1 / 6)))}
    assert done.fused["n/shift"] == bounded
    assert done.range_of(share, {}) == pytest.approx((0.0, 1.0), rel=1e-6)


def test_the_plan_of_a_hard_sigmoid() -> None:
    _, _, found, done = lowered("HardSigmoid(h)")
    assert found.fixed == {"s": (0.0, 1.0)}
    assert done.fixed == {"n/bound/output": (0.0, 5.0)}
    assert done.tensors == ["x", "h", "n/bound/output", "y"]
    assert done.range_of("s", {}) == pytest.approx((0.0, 1.0), rel=1e-6)
    assert done.observed() == found.observed()


def test_a_mean_without_its_axes() -> None:
    body = "[c] h = Conv(x, v) [n] s = ReduceMean<axes=[2,3], keepdims=0>(h) [d] y = Gemm(s, m, b)"
    text = f"g (float[3,4,8,8] x) => (float[] y) <float[4,4,1,1] v, {CONSTANTS}> {{ {body} }}"
    original = models.loaded(text)
    result = original.clone()
    done = lower(result, plan(original))
    assert op_histogram(result) == {"Conv": 1, "GlobalAveragePool": 1, "Reshape": 1, "Gemm": 1}
    assert done.parts == {"n": ("n/mean",)}
    assert done.root("n/mean/output") == "s"
    models.assert_same(original, shapes.infer(result), tolerance=1e-6)


def test_a_mean_over_axes_that_are_an_input() -> None:
    original, result, _, _ = lowered("ReduceMean(h, axes)", opset=18)
    assert op_histogram(result) == {"Conv": 2, "GlobalAveragePool": 1}
    models.assert_same(original, shapes.infer(result), tolerance=1e-6)


def test_windows_over_one_axis() -> None:
    body = "[c] h = Conv(x, v) [n] s = AveragePool<kernel_shape=[3]>(h) [d] y = Conv(s, v)"
    original = models.loaded(f"g (float[2,4,9] x) => (float[] y) <float[4,4,1] v> {{ {body} }}")
    result = original.clone()
    lower(result, plan(original))
    assert op_histogram(result) == {"Conv": 3}
    models.assert_same(original, shapes.infer(result), tolerance=1e-6)


def test_dilated_windows() -> None:
    body = f"[c] h = {PADDED}(x, w) [n] s = AveragePool<kernel_shape=[2,2], dilations=[2,3]>(h) [d] y = {PADDED}(s, w)"
    text = f"g (float[3,2,8,8] x) => (float[] y) <{CONSTANTS}> {{ {body} }}"
    original = models.loaded(f'<ir_version: 9, opset_import: ["" : 19]> {text}')
    result = original.clone()
    lower(result, plan(original))
    assert op_histogram(result) == {"Conv": 3}
    models.assert_same(original, shapes.infer(result), tolerance=1e-6)


@pytest.mark.parametrize("bias", ["", ", b"])
def test_the_factors_of_a_gemm(bias: str) -> None:
    text = f"g (float[3,4] x) => (float[] y) <{CONSTANTS}> {{ [n] y = Gemm<alpha=0.5, beta=3.0>(x, m{bias}) }}"
    original = models.loaded(text)
    result = original.clone()
    lower(result, plan(original))
    node = result.graph[0]
    assert (node.attributes["alpha"].value, node.attributes["beta"].value) == (1.0, 1.0)
    models.assert_same(original, result, tolerance=1e-6)


def test_what_is_not_planned_stays_as_it_is() -> None:
    text = f"g (float[3,2,8,8] x) => (float[] y) <{CONSTANTS}> {{ [n] h = HardSwish(x) [c] y = Conv(h, w) }}"
    original = models.loaded(text)
    result = original.clone()
    lower(result, plan(original))
    assert op_histogram(result) == {"HardSwish": 1, "Conv": 1}
