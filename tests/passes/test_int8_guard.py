from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.kernels import kernels
from edgeopt.passes.int8_guard import exposed, guard, unguarded
from edgeopt.runtime import Level, Session
from tests import models

HEAD = """
net (float[1,2,4,4] x) => (float[1,2,4,4] y)
<float[2,2,3,3] w, float[2] b, float s = {0.01}, uint8 z = {100}, float t = {0.05}, uint8 zero = {0},
 float least = {0}, float most = {6}, int64[4] same = {1,2,4,4}>
{
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
"""
TAIL = """
  r = QuantizeLinear(a, t, zero)
  y = DequantizeLinear(r, t, zero)
}
"""
CONV = "[conv] {y} = Conv<pads=[1,1,1,1]>({x}, w, b)"


def net(body: str, head: str = HEAD, tail: str = TAIL) -> ir.Model:
    return ir.from_proto(models.filled(head + body + tail))


EXPOSED = {
    "plain": CONV.format(x="d", y="a"),
    "a Relu": CONV.format(x="d", y="c") + " a = Relu(c)",
    "moved before": " m = Reshape(d, same) " + CONV.format(x="m", y="a"),
    "moved behind": CONV.format(x="d", y="c") + " a = Reshape(c, same)",
    "nothing before": " m = Identity(d) " + CONV.format(x="m", y="a"),
    "transposed": "[conv] a = ConvTranspose<pads=[1,1,1,1]>(d, w, b)",
}
LEFT_ALONE = {
    "another operator before": " m = Neg(d) " + CONV.format(x="m", y="a"),
    "another operator behind": CONV.format(x="d", y="c") + " a = LeakyRelu(c)",
}


@pytest.mark.parametrize("body", EXPOSED.values(), ids=EXPOSED)
def test_case_1_exposed(body: str) -> None:
    assert [n.name for n in exposed(net(body))] == ["conv"]


@pytest.mark.parametrize("body", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_case_1_not_exposed(body: str) -> None:
    assert exposed(net(body)) == []


def test_case_1_a_second_reader_leaves_it_float() -> None:
    two = net(CONV.format(x="d", y="a") + " n = Neg(a)", HEAD.replace("y)\n<", "y, float[1,2,4,4] n)\n<"))
    assert exposed(two) == []


def test_case_1_a_layer_in_int8_is_no_float_layer() -> None:
    stored = HEAD.replace("float[2,2,3,3] w,", "int8[2,2,3,3] wq, int8 wz = {0},") + " w = DequantizeLinear(wq, s, wz) "
    proto = models.filled(stored + CONV.format(x="d", y="a") + TAIL)
    assert exposed(ir.from_proto(proto)) == []


@pytest.mark.parametrize("name", ["plain", "a Relu", "moved before", "moved behind", "nothing before"])
def test_case_2_without_the_guard_onnxruntime_runs_it_in_int8_and_with_it_in_float(name: str) -> None:
    model = net(EXPOSED[name])
    assert kernels(model).integer["conv"] == "QLinearConv"  # what the guard is for
    guard(model)
    assert exposed(model) == []
    assert "conv" in kernels(model).floating


def test_case_2_the_guard_changes_nothing() -> None:
    model = net(EXPOSED["plain"])
    feed = {"x": np.random.default_rng(0).normal(0, 1, (1, 2, 4, 4)).astype(np.float32)}
    before = Session(model, Level.NONE).run(feed)["y"]
    guard(model)
    assert np.array_equal(Session(model, Level.NONE).run(feed)["y"], before)
    guarded = Session(model).run(feed)["y"]
    np.testing.assert_allclose(guarded, before, atol=0.051)  # a step, where a product is rounded the other way


def test_unguarded() -> None:
    model = net(EXPOSED["plain"])
    before = [n.name for n in model.graph]
    guard(model)
    assert len(list(model.graph)) == len(before) + 1
    assert [n.name for n in unguarded(model).graph] == before
    assert len(list(model.graph)) == len(before) + 1  # a copy


def test_a_maximum_of_the_model_s_own_stays() -> None:
    model = net(" m = Max(d) " + CONV.format(x="m", y="a"))
    assert len(list(unguarded(model).graph)) == len(list(model.graph))


OTHERS = {
    "AveragePool": "[n] a = AveragePool<kernel_shape=[1,1]>(d)",
    "Sigmoid": "[n] a = Sigmoid(d)",
    "Softmax": "[n] a = Softmax(d)",
    "LeakyRelu": "[n] a = LeakyRelu(d)",
    "GlobalAveragePool": "[n] m = GlobalAveragePool(d) a = Expand(m, same)",
    "Add": "[n] c = Add(d, d) a = Relu(c)",
    "Mul": "[n] a = Mul(d, d)",
    "Concat": "[n] a = Concat<axis=0>(d)",
    "Where": "e = Greater(x, least) [n] a = Where(e, d, d)",
    "MatMul": "[n] a = MatMul(d, d)",
    "MatMul with a float output": "[n] m = MatMul(d, d) a = Neg(m)",
}


@pytest.mark.parametrize("name", OTHERS)
def test_case_3_other_operators_that_are_to_stay_float(name: str) -> None:
    model = net(OTHERS[name])
    assert exposed(model) == []
    assert [n.name for n in exposed(model, ["n"])] == ["n"]
    if name not in ("GlobalAveragePool", "Concat"):  # Expand moves other numbers of values; Concat of one is none
        assert "n" in kernels(model).integer
    guard(model, ["n"])
    assert exposed(model, ["n"]) == []
    assert "n" not in kernels(model).integer
    assert [n.name for n in exposed(unguarded(model), ["n"])] == ["n"]


@pytest.mark.parametrize(
    "body",
    [
        "[n] a = Add(d, x)",
        "[n] a = Mul(d, t)",
        "[n] c = Sigmoid(d) a = Relu(c) n2 = Neg(c)",
        "[n] a = Tanh(d)",
        "m = Neg(d) [n] a = MatMul(d, m)",
    ],
)
def test_case_3_others_are_not_exposed(body: str) -> None:
    head = HEAD.replace("y)\n<", "y, float[1,2,4,4] n2)\n<") if "n2" in body else HEAD
    model = net(body, head)
    assert exposed(model, ["n"]) == []
    assert "n" not in kernels(model).integer
