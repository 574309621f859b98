"""Every rule planted in a QDQ graph: onnxruntime leaves the node in float, and the table says why."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import files, shapes
from edgeopt.graph import input_specs
from edgeopt.kernels import kernels
from edgeopt.passes.kernel_rules import RULES, broken_rule
from edgeopt.runtime import Level, Session
from tests import models

SCALE = 0.05
CONSTANTS = (
    "float s, float s2, uint8 z, int8 zi = {0}, uint8 z0 = {0}, int8[4,4,3,3] w, float sw, float[4] scales, "
    "int8 zw = {0}, int8[4] zeros = {0,0,0,0}, int32[4] b, float sb, int32 zb = {0}, int32 five = {5}, "
    "uint8[1,4,1,1] k, int8[1,4,1,1] ki, float[1,4,1,1] kf, float[4,4,3,3] wf, float zero = {0}, "
    "float six = {6}, uint8[4,4,3,3] wu"
)
X = "qx = QuantizeLinear(x, s, z) dx = DequantizeLinear(qx, s, z)"
XI = "qx = QuantizeLinear(x, s, zi) dx = DequantizeLinear(qx, s, zi)"
W = "dw = DequantizeLinear(w, sw, zw)"
Y = "qy = QuantizeLinear(t, s, z) y = DequantizeLinear(qy, s, z)"
Y0 = "qy = QuantizeLinear(t, s, z0) y = DequantizeLinear(qy, s, z0)"
YI = "qy = QuantizeLinear(t, s, zi) y = DequantizeLinear(qy, s, zi)"


def model(body: str, output: str = "float[] y", **values: Any) -> ir.Model:
    """A graph of x [1,4,8,8]; the scales are 0.05 for activations and 0.01 for weights unless given."""
    text = f"g (float[1,4,8,8] x, bool c) => ({output}) <{CONSTANTS}> {{ {body} }}"
    proto = models.filled(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    known = {"s": SCALE, "s2": 2 * SCALE, "sw": 0.01, "scales": [0.01] * 4, "sb": SCALE * 0.01, "z": 128} | values
    for tensor in proto.graph.initializer:
        if tensor.name in known:
            array = np.array(known[tensor.name], onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        elif tensor.name in ("w", "b", "ki"):
            rng = np.random.default_rng(0)
            shape, dtype = list(tensor.dims), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.CopyFrom(onnx.numpy_helper.from_array(rng.integers(-127, 127, shape).astype(dtype), tensor.name))
    del proto.graph.input[1:]
    return shapes.infer(files.load(proto).model)


def node(of: ir.Model) -> ir.Node:
    return next(n for n in of.graph if n.name == "n")


CLEAN = {
    "Conv": f"{X} {W} db = DequantizeLinear(b, sb, zb) [n] t = Conv(dx, dw, db) {Y}",
    "Conv, Relu": f"{X} {W} [n] u = Conv(dx, dw) t = Relu(u) {Y0}",
    "a bias that is 1 % off": f"{X} {W} db = DequantizeLinear(b, sb, zb) [n] t = Conv(dx, dw, db) {Y}",
    "MatMul with a float output": f"{X} d2 = DequantizeLinear(qx, s, z) [n] t = MatMul(dx, d2) y = Neg(t)",
    "Add": f"{X} dk = DequantizeLinear(k, s, z) [n] t = Add(dx, dk) {Y}",
    "Transpose": f"{X} [n] t = Transpose(dx) {Y}",
}


@pytest.mark.parametrize("case", CLEAN)
def test_what_keeps_the_rules_runs_in_int8(case: str) -> None:
    values: dict[str, Any] = {"sb": SCALE * 0.01 * 1.01} if "1 %" in case else {}
    found = model(CLEAN[case], **values)
    assert broken_rule(node(found)) is None
    made = kernels(found)
    assert "n" in made.integer or made.floating["n"] == "Transpose"


BROKEN: dict[str, tuple[str, str, dict[str, Any]]] = {  # body, part of the text, values of constants
    "float_operand": (f"{X} {W} [n] t = Conv(x, dw) {Y}", "operand 0 is float", {}),
    "float_operand, Add": (f"{X} [n] t = Add(dx, x) {Y}", "operand 1 is float", {}),
    "float_constant": (f"{X} [n] t = Mul(dx, kf) {Y}", "operand 1 is a float32 constant", {}),
    "float_constant, Where": (f"{X} m = Greater(x, zero) [n] t = Where(m, dx, kf) {Y}", "operand 2 is a float32", {}),
    "bias_type": (f"{X} {W} db = DequantizeLinear(zeros, scales, zeros) [n] t = Conv(dx, dw, db) {Y}", "int8", {}),
    "bias_zero_point": (f"{X} {W} db = DequantizeLinear(b, sb, five) [n] t = Conv(dx, dw, db) {Y}", "not 0", {}),
    "bias_scale": (
        f"{X} {W} db = DequantizeLinear(b, sb, zb) [n] t = Conv(dx, dw, db) {Y}",
        "3.0% off",
        {"sb": SCALE * 0.01 * 1.03},
    ),
    "activation": (f"{X} {W} [n] u = Conv(dx, dw) t = Relu(u) {Y}", "Relu wants a zero point of 0, not 128", {}),
    "activation, Clip that ends": (
        f"{X} {W} [n] u = Conv(dx, dw) t = Clip(u, zero, six) {Y0}",
        "Clip ends at 6, the Q at 12.75",
        {},
    ),
    "activation, Clip that starts": (
        f"{X} {W} [n] u = Conv(dx, dw) t = Clip(u, zero, six) {Y}",
        "Clip starts at 0, the Q at -6.4",
        {},
    ),
    "output_readers": (f"{X} {W} [n] t = Conv(dx, dw) v = Neg(t) {Y}", "it is read by Neg 'Neg_v'", {}),
    "output_readers, two Qs": (
        f"{X} {W} [n] t = Conv(dx, dw) q2 = QuantizeLinear(t, s2, z) v = DequantizeLinear(q2, s2, z) {Y}",
        "more than one Q",
        {},
    ),
    "output_readers, an output": (f"{X} {W} [n] v = Conv(dx, dw) y = Neg(v)", "the graph's outputs", {}),
    "types_differ": (f"{X} {W} [n] t = Conv(dx, dw) {YI}", "uint8 in, int8 out", {}),
    "weights_type": (f"{XI} dw = DequantizeLinear(wu, sw, z) [n] t = Conv(dx, dw) {YI}", "uint8 weights", {}),
    "constant_type": (f"{X} dk = DequantizeLinear(ki, s, zi) [n] t = Add(dx, dk) {Y}", "operand 1 is int8", {}),
    "scales_differ": (
        f"{X} [n] t = Transpose(dx) qy = QuantizeLinear(t, s2, z) y = DequantizeLinear(qy, s2, z)",
        "scale 0.05 in, 0.1 out",
        {},
    ),
    "shared_int8": (
        f"{XI} {W} [n] t = Conv(dx, dw) {YI} v = Neg(dx)",
        "'qx' is read by 2 nodes",
        {},
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_leaves_the_node_in_float(case: str) -> None:
    body, text, values = BROKEN[case]
    output = "float[] y, float[] v" if " v = " in body else "float[] y"
    found = model(body, output, **values)
    on_arm = case in ("types_differ", "weights_type")  # on x86, int8 has become uint8 before it comes to that
    made = kernels(found, int8_activations=on_arm)
    assert "n" in made.floating
    if case == "scales_differ":  # moved in float, between a DQ and a Q
        assert list(made.floating.values()).count("QuantizeLinear") == 2
    broken = broken_rule(node(found))
    assert broken is not None
    assert broken.rule == case.split(",")[0]
    assert text in broken.text
    activation = next((n.name for n in found.graph if n.op_type in ("Relu", "Clip")), None)
    assert broken.culprit == (activation if broken.rule == "activation" else None)


GARBAGE = {
    "weight_axis": f"{X} dw = DequantizeLinear<axis=1>(w, scales, zeros) [n] t = Conv(dx, dw) {Y}",
    "float_weight": f"{X} [n] t = Conv(dx, wf) {Y}",
}


@pytest.mark.parametrize("rule", GARBAGE)
def test_rules_that_onnxruntime_does_not_look_at(rule: str) -> None:
    """These run in int8 and give another result, so the table must know them all the same."""
    found = model(GARBAGE[rule], scales=[0.001, 0.01, 0.1, 1.0])
    assert "n" in kernels(found).integer
    broken = broken_rule(node(found))
    assert broken is not None
    assert broken.rule == rule
    feed = {
        spec.name: np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
        for spec in input_specs(found)
    }
    exact, fast = Session(found, Level.NONE).run(feed)["y"], Session(found).run(feed)["y"]
    assert np.abs(exact - fast).max() >= SCALE


def test_every_rule_is_tested() -> None:
    assert {r.name for r in RULES} == {c.split(",")[0] for c in BROKEN} | set(GARBAGE)


def test_int8_that_several_nodes_read_is_no_matter_where_int8_is_allowed() -> None:
    found = model(BROKEN["shared_int8"][0], "float[] y, float[] v")
    assert kernels(found, int8_activations=True).integer == {"n": "QLinearConv"}
