"""The good int8 model passes the check, and every way of spoiling it is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import api
from edgeopt.calibration.collect import collect
from edgeopt.feeds import random_feed
from edgeopt.graph import input_specs
from edgeopt.oracle import Oracle
from edgeopt.passes import int8_lowering
from edgeopt.passes.int8_check import _kernel_problem, check
from edgeopt.passes.int8_plan import Plan, plan
from edgeopt.passes.int8_strip import stripped
from edgeopt.passes.quantize_int8 import quantize_int8
from edgeopt.quant import Ranges, Scheme
from tests import models

NET = """
g (float[N,4,8,8] x) => (float[N,4] y, float[N,4,8,8] t, float[N,4,8,8] z)
<float[4,4,3,3] w1, float[4] b1, float[4,4,3,3] w2, float[4,4] w3, float[4] b3, float[1,4,1,1] k>
{
    [exact] t = Neg(x)
    [other] z = Abs(t)
    [conv1] c1 = Conv<pads=[1,1,1,1]>(t, w1, b1)
    [relu] r1 = Relu(c1)
    [conv2] c2 = Conv<pads=[1,1,1,1]>(r1, w2)
    [cat] a = Concat<axis=1>(c2, r1)
    [slice] s1, s2 = Split<axis=1, num_outputs=2>(a)
    [add] d = Add(s1, r1)
    [scale] e = Mul(d, k)
    [sum] h = Add(e, s2)
    [gap] p = GlobalAveragePool(h)
    [flat] f = Flatten(p)
    [dense] y = Gemm(f, w3, b3)
}
"""
LOWERED = """
g (float[N,4,8,8] x) => (float[N,2] y, float[N,4,8,8] v)
<float[4,4,3,3] w, int64[8] p = {0,0,1,1,0,0,1,1}, float eighth = {0.125}, float[1,4,1,1] k, float[4,3] w2, float[3] b2,
 float[3,2] w3>
{
    [conv] c = Conv<pads=[1,1,1,1]>(x, w)
    [swish] s = HardSwish(c)
    [pad] d = Pad(s, p)
    [second] e = Conv(d, w)
    [share] g = Mul(e, eighth)
    [minus] u = Sub(g, k)
    [float] v = Neg(u)
    [mean] m = ReduceMean<axes=[2,3], keepdims=0>(u)
    [matmul] f = MatMul(m, w2)
    [bias] h = Add(f, b2)
    [last] y = MatMul(h, w3)
}
"""
NET_18 = '<ir_version: 8, opset_import: ["" : 18]>' + NET


@dataclass
class Case:
    original: ir.Model
    quantized: ir.Model
    plan: Plan
    ranges: Ranges
    samples: list[dict[str, Any]]
    oracle: Oracle
    corrections: dict[str, Any] = field(default_factory=dict)

    def verdict(self) -> str | None:
        return check(self.original, self.quantized, self.plan, self.ranges, self.samples, self.oracle, self.corrections)

    def node(self, name: str) -> ir.Node:
        return next(n for n in self.quantized.graph if n.name == name)

    def dq(self, name: str, index: int) -> ir.Node:
        """The DequantizeLinear in front of an input."""
        value = self.node(name).inputs[index]
        assert value is not None
        producer = value.producer()
        assert producer is not None
        assert producer.op_type == "DequantizeLinear"
        return producer


def quantized(text: str = NET_18, scheme: Scheme | None = None, seed: int = 0) -> Case:
    original = models.loaded(text, seed)
    samples = [random_feed(input_specs(original), k) for k in range(4)]
    found = plan(original)
    ranges = {t: s.range() for t, s in collect(original, found.observed(), samples).items()}
    result = original.clone()
    quantize_int8(result, found, ranges, scheme or Scheme())
    return Case(original, result, found, ranges, samples, Oracle(original, samples[:2]))


def change(value: ir.Value | None, function: Callable[[Any], Any]) -> None:
    """Put another array in the place of a stored one."""
    assert value is not None
    assert value.const_value is not None
    value.const_value = ir.tensor(function(value.const_value.numpy().copy()))


def fresh(case: Case, dq: ir.Node, index: int, array: Any) -> None:
    """Give one DequantizeLinear a constant of its own (scales of activations are shared)."""
    tensor = ir.tensor(array)
    value = ir.Value(
        name=f"{dq.name}/own{index}",
        const_value=tensor,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
    )
    case.quantized.graph.register_initializer(value)
    dq.replace_input_with(index, value)


def both(case: Case, name: str, index: int, position: int, function: Callable[[Any], Any]) -> None:
    """The same change to the scale (1) or zero point (2) of both nodes of a pair, as a wrong formula would make it."""
    dq = case.dq(name, index)
    assert dq.inputs[0] is not None
    q = dq.inputs[0].producer()
    assert q is not None
    old = dq.inputs[position]
    assert old is not None
    assert old.const_value is not None
    array = np.asarray(function(old.const_value.numpy().copy()))
    fresh(case, dq, position, array)
    q.replace_input_with(position, dq.inputs[position])


def one_channel(factor: float) -> Callable[[Any], Any]:
    def apply(scale: Any) -> Any:
        scale[1] *= factor
        return scale

    return apply


def weight_scale(c: Case) -> None:
    change(c.dq("conv2", 1).inputs[1], lambda s: s * np.float32(1.02))


def weight_scale_of_one_channel(c: Case) -> None:
    change(c.dq("conv2", 1).inputs[1], one_channel(1.05))


def weight_zero_point(c: Case) -> None:
    change(c.dq("conv1", 1).inputs[2], lambda z: z + np.int8(1))


def weight_values(c: Case) -> None:
    change(c.dq("conv1", 1).inputs[0], lambda w: np.roll(w, 1, axis=1))


def weights_swapped(c: Case) -> None:
    first, second = c.node("conv1").inputs[1], c.node("conv2").inputs[1]
    producer = second.producer() if second is not None else None
    assert producer is not None
    c.quantized.graph.remove(producer)
    c.quantized.graph.insert_before(c.quantized.graph[0], producer)
    c.node("conv1").replace_input_with(1, second)
    c.node("conv2").replace_input_with(1, first)


def weight_axis(c: Case) -> None:
    """As many input as output channels: only the axis tells which are meant."""
    c.dq("conv1", 1).attributes["axis"] = ir.AttrInt64("axis", 1)


def weight_quantized_along_the_wrong_axis(c: Case) -> None:
    """The stored values are right for their scales; integer kernels would read those along axis 0 all the same."""
    dq = c.dq("conv1", 1)
    weight = c.original.graph.initializers["w1"].const_value
    assert weight is not None
    array = weight.numpy()
    scale = (np.abs(array).max(axis=(0, 2, 3)) / 127).astype(np.float32)
    change(dq.inputs[0], lambda _: np.rint(array / scale.reshape(1, -1, 1, 1)).astype(np.int8))
    change(dq.inputs[1], lambda _: scale)
    dq.attributes["axis"] = ir.AttrInt64("axis", 1)
    x, bias = c.dq("conv1", 0).inputs[1], c.original.graph.initializers["b1"].const_value
    assert x is not None
    assert x.const_value is not None
    assert bias is not None
    wanted = x.const_value.numpy() * scale
    change(c.dq("conv1", 2).inputs[1], lambda _: wanted)
    change(c.dq("conv1", 2).inputs[0], lambda _: np.rint(bias.numpy() / wanted).astype(np.int32))


def bias_scale(c: Case) -> None:
    change(c.dq("conv1", 2).inputs[1], lambda s: s * np.float32(1.05))


def bias_scale_with_the_bias_to_match(c: Case) -> None:
    """The value is right, but integer kernels take the scale for granted."""
    dq = c.dq("conv1", 2)
    change(dq.inputs[1], lambda s: s * np.float32(1.05))
    change(dq.inputs[0], lambda b: np.rint(b / 1.05).astype(np.int32))


def bias_zero_point(c: Case) -> None:
    dq = c.dq("dense", 2)
    change(dq.inputs[2], lambda z: z + np.int32(5))
    change(dq.inputs[0], lambda b: b + np.int32(5))


def activation_scale_too_small(c: Case) -> None:
    both(c, "conv2", 0, 1, lambda s: s * np.float32(0.9))


def activation_scale_too_large(c: Case) -> None:
    both(c, "conv2", 0, 1, lambda s: s * np.float32(1.3))


def activation_scale_far_too_large(c: Case) -> None:
    both(c, "conv2", 0, 1, lambda s: s * np.float32(10))


def activation_zero_point(c: Case) -> None:
    both(c, "conv1", 0, 2, lambda z: z + np.uint8(7))


def activation_zero_point_by_one(c: Case) -> None:
    both(c, "conv1", 0, 2, lambda z: z + np.uint8(1))


def scales_of_a_pair_differ(c: Case) -> None:
    dq = c.dq("conv2", 0)
    scale = dq.inputs[1]
    assert scale is not None
    assert scale.const_value is not None
    fresh(c, dq, 1, scale.const_value.numpy() * np.float32(2))


def operands_swapped(c: Case) -> None:
    node = c.node("cat")
    first, second = node.inputs[0], node.inputs[1]
    node.replace_input_with(0, second)
    node.replace_input_with(1, first)


def missing_pair_in_front(c: Case) -> None:
    q = c.dq("conv1", 0).inputs[0]
    producer = q.producer() if q is not None else None
    assert producer is not None
    c.node("conv1").replace_input_with(0, producer.inputs[0])


def missing_pair_of_one_operand(c: Case) -> None:
    q = c.dq("cat", 1).inputs[0]
    producer = q.producer() if q is not None else None
    assert producer is not None
    c.node("cat").replace_input_with(1, producer.inputs[0])


def missing_pair_behind(c: Case) -> None:
    """The pair behind the last movement: nothing else notices, the model is as exact as before."""
    q = c.dq("dense", 0).inputs[0]
    producer = q.producer() if q is not None else None
    assert producer is not None
    c.node("dense").replace_input_with(0, producer.inputs[0])


def float_weight_between_a_pair(c: Case) -> None:
    dq = c.dq("conv2", 1)
    weight = c.original.graph.initializers["w2"].const_value
    value = ir.Value(name="w2/float", const_value=weight, type=ir.TensorType(ir.DataType.FLOAT))
    c.quantized.graph.register_initializer(value)
    q = ir.Node("", "QuantizeLinear", [value, dq.inputs[1], dq.inputs[2]], [ir.AttrInt64("axis", 0)], name="late")
    q.outputs[0].name = "w2/late"
    c.quantized.graph.insert_before(dq, q)
    dq.replace_input_with(0, q.outputs[0])


def float_bias(c: Case) -> None:
    bias = c.original.graph.initializers["b1"].const_value
    value = ir.Value(name="b1/float", const_value=bias, type=ir.TensorType(ir.DataType.FLOAT))
    c.quantized.graph.register_initializer(value)
    c.node("conv1").replace_input_with(2, value)


def float_constant_of_a_product(c: Case) -> None:
    constant = c.original.graph.initializers["k"].const_value
    value = ir.Value(name="k/float", const_value=constant, type=ir.TensorType(ir.DataType.FLOAT))
    c.quantized.graph.register_initializer(value)
    c.node("scale").replace_input_with(1, value)


def constant_of_a_product(c: Case) -> None:
    change(c.dq("scale", 1).inputs[0], lambda k: k[:, ::-1].copy())


def a_node_is_gone(c: Case) -> None:
    node = c.node("relu")
    node.outputs[0].replace_all_uses_with(node.inputs[0])  # type: ignore[arg-type]
    c.quantized.graph.remove(node, safe=True)


def float_reader_behind_a_pair(c: Case) -> None:
    c.node("other").replace_input_with(0, c.node("conv1").inputs[0])


def float_output_behind_a_pair(c: Case) -> None:
    """An output that a float node computes, read from behind the pair that is there for an int8 node."""
    node = c.node("exact")
    dq = c.node("conv1").inputs[0]
    assert dq is not None
    c.quantized.graph.outputs[1] = dq
    dq.name, node.outputs[0].name = node.outputs[0].name, "was"


def another_attribute(c: Case) -> None:
    c.node("conv1").attributes["pads"] = ir.AttrInt64s("pads", [0, 1, 2, 1])


SABOTAGE: dict[Callable[[Case], None], str] = {
    weight_scale: "constant 1 of node 'conv2' is more than half a step away",
    weight_scale_of_one_channel: "constant 1 of node 'conv2' is more than half a step away",
    weight_zero_point: "constant 1 of node 'conv1' is more than half a step away",
    weight_values: "constant 1 of node 'conv1' is more than half a step away",
    weights_swapped: "node 'conv1'",
    weight_axis: "the scales of its weights lie along axis 1, not 0",
    weight_quantized_along_the_wrong_axis: "the scales of its weights lie along axis 1, not 0",
    bias_scale: "the scale of its bias is not input scale times weight scale",
    bias_scale_with_the_bias_to_match: "the scale of its bias is not input scale times weight scale",
    bias_zero_point: "its bias has a zero point",
    activation_scale_too_small: "calibrated were",
    activation_scale_too_large: "calibrated were",
    activation_scale_far_too_large: "calibrated were",
    activation_zero_point: "calibrated were",
    activation_zero_point_by_one: "calibrated were",
    scales_of_a_pair_differ: "Q and DQ of 'r1' differ in scale or zero point, in front of add, cat, conv2",
    operands_swapped: "output 'y' differs by",
    missing_pair_in_front: "input 0 of node 'conv1' has no Q/DQ pair",
    missing_pair_of_one_operand: "output 'r1' of node 'relu' is not read by one Q",
    missing_pair_behind: "output 'f' of node 'flat' is not read by one Q",
    float_weight_between_a_pair: "constant 1 of node 'conv2' is not stored in integers",
    float_bias: "constant 2 of node 'conv1' is not stored in integers",
    float_constant_of_a_product: "constant 1 of node 'scale' is not stored in integers",
    constant_of_a_product: "constant 1 of node 'scale' is more than half a step away",
    float_reader_behind_a_pair: "input 0 of node 'other' is quantized, though float nodes compute and read it",
    float_output_behind_a_pair: "output 't' is quantized, though float nodes compute it",
    a_node_is_gone: "node 'relu' is missing",
    another_attribute: "output 'y' differs by",
}


def pad_integers(c: Case) -> ir.Node:
    return next(n for n in c.quantized.graph if n.op_type == "Pad")


def another_filling(c: Case) -> None:
    node = pad_integers(c)
    zero = node.inputs[2]
    assert zero is not None
    assert zero.const_value is not None
    value = ir.Value(name="filling", const_value=ir.tensor(np.asarray(zero.const_value.numpy() + np.uint8(3))))
    value.type = ir.TensorType(ir.DataType.UINT8)
    c.quantized.graph.register_initializer(value)
    node.replace_input_with(2, value)


def no_filling(c: Case) -> None:
    pad_integers(c).replace_input_with(2, None)


def other_pads(c: Case) -> None:
    """As large as before, but elsewhere."""
    value = ir.Value(name="pads", const_value=ir.tensor(np.array([0, 0, 0, 1, 0, 0, 2, 1])))
    value.type = ir.TensorType(ir.DataType.INT64)
    c.quantized.graph.register_initializer(value)
    pad_integers(c).replace_input_with(1, value)


def scale_changes_around_a_pad(c: Case) -> None:
    dq = c.dq("second", 0)
    scale = dq.inputs[1]
    assert scale is not None
    assert scale.const_value is not None
    fresh(c, dq, 1, scale.const_value.numpy() * np.float32(1.5))


def another_factor(c: Case) -> None:
    dq = c.dq("minus", 0)
    scale = dq.inputs[1]
    assert scale is not None
    assert scale.const_value is not None
    fresh(c, dq, 1, scale.const_value.numpy() * np.float32(1.01))


def no_factor(c: Case) -> None:
    dq = c.dq("minus", 0)
    q = dq.inputs[0].producer() if dq.inputs[0] is not None else None
    assert q is not None
    dq.replace_input_with(1, q.inputs[1])


def no_sixth(c: Case) -> None:
    """The second operand of the product that a HardSwish has become: bounded, not its sixth."""
    dq = c.dq("swish", 1)
    q = dq.inputs[0].producer() if dq.inputs[0] is not None else None
    assert q is not None
    dq.replace_input_with(1, q.inputs[1])


def another_bound(c: Case) -> None:
    both(c, "swish", 1, 1, lambda s: s * np.float32(0.8))


def shift_of_a_swish(c: Case) -> None:
    change(c.dq("swish/shift", 1).inputs[0], lambda k: k - np.uint8(20))


def sign_of_a_difference(c: Case) -> None:
    dq = c.dq("minus", 1)
    assert dq.inputs[2] is not None
    assert dq.inputs[2].const_value is not None
    zero = int(dq.inputs[2].const_value.numpy())
    change(dq.inputs[0], lambda k: np.clip(2 * zero - k.astype(int), 0, 255).astype(np.uint8))


def bias_of_a_matmul(c: Case) -> None:
    change(c.dq("bias", 1).inputs[0], lambda b: b + 1000)


def bias_scale_of_a_matmul(c: Case) -> None:
    """The value is right, but the scale is not that of the products."""
    change(c.dq("bias", 1).inputs[1], lambda s: s * np.float32(1.05))
    change(c.dq("bias", 1).inputs[0], lambda b: np.rint(b / 1.05).astype(np.int32))


def mean_of_one_axis(c: Case) -> None:
    node = c.node("mean/mean")
    other = ir.Node("", "ReduceMax", [node.inputs[0]], [ir.AttrInt64s("axes", [2, 3])], name="mean/mean")
    other.outputs[0].name = "other mean"
    c.quantized.graph.insert_before(node, other)
    node.outputs[0].replace_all_uses_with(other.outputs[0])
    c.quantized.graph.remove(node, safe=True)


def float_reader_of_a_wrong_scale(c: Case) -> None:
    """Only a float node reads behind this pair, so no kernel would tell."""
    dq = c.dq("float", 0)
    q = dq.inputs[0]
    assert q is not None
    scale = dq.inputs[1]
    assert scale is not None
    assert scale.const_value is not None
    new = ir.Node("", "DequantizeLinear", [q, *dq.inputs[1:]], name="own pair")
    new.outputs[0].name = "own pair output"
    c.quantized.graph.insert_after(dq, new)
    fresh(c, new, 1, scale.const_value.numpy() * np.float32(2))
    c.node("float").replace_input_with(0, new.outputs[0])


LOWERED_SABOTAGE: dict[Callable[[Case], None], str] = {
    another_filling: "node 'pad' does not fill with the zero point",
    no_filling: "node 'pad' does not fill with the zero point",
    other_pads: "output 'y' differs by",
    scale_changes_around_a_pad: "Q and DQ of 'd' differ in scale or zero point",
    another_factor: "Q and DQ of 'e' differ in scale or zero point",
    no_factor: "Q and DQ of 'e' differ in scale or zero point",
    no_sixth: "Q and DQ of 'swish/bound/output' differ in scale or zero point",
    another_bound: "differ in scale or zero point",
    shift_of_a_swish: "constant 1 of node 'swish/shift' is more than half a step away",
    sign_of_a_difference: "constant 1 of node 'minus' is more than half a step away",
    bias_of_a_matmul: "constant 1 of node 'bias' is more than half a step away",
    bias_scale_of_a_matmul: "the scale of its bias is not input scale times weight scale",
    mean_of_one_axis: "differs by",
    float_reader_of_a_wrong_scale: "differ in scale or zero point, in front of float",
}


@pytest.mark.parametrize("spoil", LOWERED_SABOTAGE, ids=lambda f: f.__name__)
def test_sabotage_of_what_was_rewritten_is_caught(spoil: Callable[[Case], None]) -> None:
    case = quantized(LOWERED)
    assert {n.name for n in case.original.graph} - case.plan.nodes == {"float"}
    assert case.verdict() is None
    spoil(case)
    verdict = case.verdict()
    assert verdict is not None
    assert LOWERED_SABOTAGE[spoil] in verdict


def test_a_wrong_rewriting_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass and the check rewrite alike; that it is exact is asked of the model as it came in."""
    monkeypatch.setattr(int8_lowering, "_number", lambda v: np.array(2.9 if v == 3 else v, np.float32))
    verdict = quantized(LOWERED).verdict()
    assert verdict is not None
    assert "differs by" in verdict


def test_a_product_that_is_still_there() -> None:
    case = quantized(LOWERED)
    node = ir.Node("", "Neg", [case.quantized.graph.inputs[0]], name="share")
    node.outputs[0].name = "left over"
    case.quantized.graph.append(node)
    assert case.verdict() == "node 'share' is still there"


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(),
        Scheme(weight_bits=7),
        Scheme("int8"),
        Scheme("int8", activation_symmetric=True),
        Scheme(weight_per_channel=False),
    ],
    ids=["uint8", "7 bits", "int8", "symmetric", "per tensor"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_good_model_passes(scheme: Scheme, seed: int) -> None:
    assert quantized(scheme=scheme, seed=seed).verdict() is None


@pytest.mark.parametrize("spoil", SABOTAGE, ids=lambda f: f.__name__)
def test_every_sabotage_is_caught(spoil: Callable[[Case], None]) -> None:
    case = quantized()
    assert {"conv1", "conv2", "cat", "slice", "add", "scale", "gap", "flat", "dense"} <= case.plan.nodes
    spoil(case)
    verdict = case.verdict()
    assert verdict is not None
    assert SABOTAGE[spoil] in verdict


def test_kernels_that_compute_something_else_are_caught_by_running_them() -> None:
    """Also without the rules on structure: integer kernels take scales along axis 1 for those along axis 0."""
    case = quantized()
    assert _kernel_problem(case.original, case.quantized, case.samples) is None
    weight_quantized_along_the_wrong_axis(case)
    verdict = _kernel_problem(case.original, case.quantized, case.samples)
    assert verdict is not None
    assert "output 'y': onnxruntime's integer kernels are" in verdict


def test_a_model_that_does_not_run_is_caught() -> None:
    case = quantized()
    case.node("conv1").attributes["group"] = ir.AttrInt64("group", 3)
    verdict = case.verdict()
    assert verdict is not None
    assert "onnxruntime cannot" in verdict


def test_a_tensor_that_is_always_zero() -> None:
    case = quantized(
        "g (float[N,2,4,4] x) => (float[N,2,4,4] y) <float[2,2,1,1] w> { z = Sub(x, x) [c] y = Conv(z, w) }"
    )
    assert case.ranges["z"] == (0.0, 0.0)
    assert case.verdict() is None


def test_outputs_of_data_dependent_shape_are_not_compared_by_their_values() -> None:
    text = "g (float[1,3,8,8] x) => (int64[R,K] y) <float[8,3,3,3] w> { h = Conv(x, w) r = Relu(h) y = NonZero(r) }"
    rng = np.random.default_rng(0)
    data = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(16)]
    assert api.quantize(models.filled(text), calib=data).report["verdict"] == "ok"


# Corrections of biases: conv1 and dense have a bias, conv2 has none, the bias of matmul is held by an Add
CORRECTIONS = {"conv1": 4, "conv2": 4, "dense": 4}
CORRECTED = [
    (NET_18, CORRECTIONS, {"conv1": "conv1", "conv2": "conv2", "dense": "dense"}),
    (LOWERED, {"conv": 4, "matmul": 3}, {"conv": "conv", "matmul": "bias"}),
]


def corrected(text: str, channels: dict[str, int]) -> Case:
    """The model is quantized with corrections, and held against them."""
    plain = quantized(text)
    rng = np.random.default_rng(0)
    corrections = {name: rng.normal(0, 0.3, count).astype(np.float32) for name, count in channels.items()}
    result = plain.original.clone()
    quantize_int8(result, plain.plan, plain.ranges, Scheme(), corrections)
    return Case(plain.original, result, plain.plan, plain.ranges, plain.samples, plain.oracle, corrections)


@pytest.mark.parametrize(("text", "channels", "holders"), CORRECTED, ids=["net", "lowered"])
def test_corrections_are_part_of_what_is_stored(text: str, channels: dict[str, int], holders: dict[str, str]) -> None:
    case = corrected(text, channels)
    assert case.verdict() is None
    assert quantized(text).verdict() is None
    case.corrections = {"unknown": np.ones(4, np.float32), **case.corrections}  # of a layer that is not in the plan
    assert case.verdict() is None


@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize(
    ("text", "channels", "layer", "holder"),
    [(t, c, layer, holder) for t, c, holders in CORRECTED for layer, holder in holders.items()],
)
def test_a_bias_that_is_not_the_corrected_one_is_caught(
    text: str, channels: dict[str, int], layer: str, holder: str, step: int
) -> None:
    case = corrected(text, channels)
    dqs = [v.producer() for v in case.node(holder).inputs if v is not None]
    dq = next(d for d in dqs if d is not None and _integers(d.inputs[0]) == np.int32)

    def moved(array: Any) -> Any:
        array[1] += step
        return array

    change(dq.inputs[0], moved)
    verdict = case.verdict()
    assert verdict is not None
    assert f"of node '{holder}' is more than half a step away from the original" in verdict


def _integers(value: ir.Value | None) -> Any:
    return None if value is None or value.const_value is None else value.const_value.numpy().dtype


@pytest.mark.parametrize("layer", CORRECTIONS)
def test_a_correction_that_was_left_out_or_not_asked_for_is_caught(layer: str) -> None:
    case = corrected(NET_18, CORRECTIONS)
    asked = case.corrections
    case.corrections = {name: c for name, c in asked.items() if name != layer}
    assert case.verdict() is not None
    case = corrected(NET_18, {name: count for name, count in CORRECTIONS.items() if name != layer})
    case.corrections = asked
    verdict = case.verdict()
    assert verdict is not None
    assert f"node {layer!r}" in verdict


def test_with_corrections_the_rest_must_still_be_the_original() -> None:
    case = corrected(NET_18, CORRECTIONS)
    case.node("conv1").attributes["pads"] = ir.AttrInt64s("pads", [2, 2, 0, 0])
    assert "differs by" in (case.verdict() or "")
    same = stripped(case.original, corrected(NET_18, CORRECTIONS).quantized, case.plan)
    assert case.oracle.disagreement(same)[0] is None
