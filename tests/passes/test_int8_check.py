"""The good int8 model passes the check, and every way of spoiling it is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import api
from edgeopt.calibration.collect import collect
from edgeopt.feeds import random_feed
from edgeopt.graph import input_specs
from edgeopt.oracle import Oracle
from edgeopt.passes.int8_check import _kernel_problem, check, stripped
from edgeopt.passes.int8_plan import Plan, plan
from edgeopt.passes.quantize_int8 import quantize_int8
from edgeopt.quant import Ranges, Scheme
from tests import models

NET = """
g (float[N,4,8,8] x) => (float[N,4] y)
<float[4,4,3,3] w1, float[4] b1, float[4,4,3,3] w2, float[4,4] w3, float[4] b3, float[1,4,1,1] k>
{
    [conv1] c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
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
NET_18 = '<ir_version: 8, opset_import: ["" : 18]>' + NET


@dataclass
class Case:
    original: ir.Model
    quantized: ir.Model
    plan: Plan
    ranges: Ranges
    samples: list[dict[str, Any]]
    oracle: Oracle

    def verdict(self) -> str | None:
        return check(self.original, self.quantized, self.plan, self.ranges, self.samples, self.oracle)

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
    ranges = collect(original, found.observed(), samples)
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
    scales_of_a_pair_differ: "Q and DQ of input 0 of node 'conv2' differ in scale or zero point",
    operands_swapped: "output 'y' differs by",
    missing_pair_in_front: "input 0 of node 'conv1' has no Q/DQ pair",
    missing_pair_of_one_operand: "output 'r1' of node 'relu' is not read by one Q",
    missing_pair_behind: "output 'f' of node 'flat' is not read by one Q",
    float_weight_between_a_pair: "constant 1 of node 'conv2' is not stored in integers",
    float_bias: "constant 2 of node 'conv1' is not stored in integers",
    float_constant_of_a_product: "constant 1 of node 'scale' is not stored in integers",
    constant_of_a_product: "constant 1 of node 'scale' is more than half a step away",
    a_node_is_gone: "node 'relu' is missing",
    another_attribute: "output 'y' differs by",
}


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


def test_stripped_is_the_original() -> None:
    case = quantized()
    plain = stripped(case.original, case.quantized)
    assert not [n for n in plain.graph if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert [n.name for n in plain.graph] == [n.name for n in case.original.graph]
    models.assert_same(case.original, plain, tolerance=0)


def test_stripped_when_a_quantized_value_is_an_output() -> None:
    case = quantized("g (float[N,2,4,4] x) => (float[N,2,4,4] y) <float[2,2,1,1] w> { [c] y = Conv(x, w) }")
    assert case.verdict() is None
    plain = stripped(case.original, case.quantized)
    assert [v.name for v in plain.graph.outputs] == ["y"]
    models.assert_same(case.original, plain, tolerance=0)


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
