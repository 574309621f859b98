from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.calibration.first_layer import first_layer, response_rms, scales_input
from tests.calibration.specs import noise
from tests.models import model


def conv_net(before: str, after: str = "y = Identity(c)") -> ir.Model:
    weights = ",".join(["1"] * 54)
    return model(
        "agraph (float[N,3,8,8] x) => (float[N,2,6,6] y)\n"
        "<float s = {2}, float[2] one = {1,1}, float[2] zero = {0,0}, float[2] mean = {3,3}, float[2] var = {16,16},"
        f"float[2,3,3,3] w = {{{weights}}}>\n"
        f"{{ {before}\n c = Conv(p, w)\n {after} }}"
    )


@pytest.mark.parametrize("before", ["p = Identity(x)", "q = Cast<to=1>(x)\n p = Transpose<perm=[0,1,3,2]>(q)"])
def test_reaches_the_convolution(before: str) -> None:
    net = conv_net(before)
    found = first_layer(net, "x")
    assert found is not None
    assert found.node.op_type == "Conv"
    assert found.expected_rms is None
    assert not scales_input(net, "x")


@pytest.mark.parametrize("op", ["Sub", "Div", "Mul", "Add"])
def test_arithmetic_before_it_is_a_scaling(op: str) -> None:
    net = conv_net(f"p = {op}(x, s)")
    assert first_layer(net, "x") is None
    assert scales_input(net, "x")


def test_other_beginnings() -> None:
    assert first_layer(conv_net("p = Relu(x)"), "x") is None
    assert not scales_input(conv_net("p = Relu(x)"), "x")
    branching = conv_net("a = Relu(x)\n p = Add(a, x)")
    assert first_layer(branching, "x") is None
    assert not scales_input(branching, "x")
    assert first_layer(branching, "no_such_input") is None
    assert not scales_input(branching, "no_such_input")


def test_batchnorm_tells_what_training_saw() -> None:
    found = first_layer(conv_net("p = Identity(x)", "y = BatchNormalization(c, one, zero, mean, var)"), "x")
    assert found is not None
    assert found.expected_rms == pytest.approx(5.0)  # sqrt(16 + 3²)


def test_batchnorm_with_computed_statistics_tells_nothing() -> None:
    found = first_layer(
        conv_net("p = Identity(x)", "m = Identity(mean)\n y = BatchNormalization(c, one, zero, m, var)"), "x"
    )
    assert found is not None
    assert found.expected_rms is None


def test_response() -> None:
    net = conv_net("p = Identity(x)")
    layer = first_layer(net, "x")
    assert layer is not None
    ones = np.ones((1, 3, 8, 8), np.float32)
    assert response_rms(net, "x", layer, [ones, 3 * ones]) == pytest.approx(27 * np.sqrt((1 + 9) / 2))
    assert response_rms(net, "x", layer, [noise(1, 5, 8, 8)]) is None  # does not run: no finding
