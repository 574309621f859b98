"""Single operators; whole networks are tested with the pass that pads (test_pad_channels)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.passes.channelwise import is_channelwise, is_finite_unary, states_channels
from tests.models import loaded


@pytest.mark.parametrize(
    ("call", "finite"),
    [
        ("Relu(x)", True),
        ("Clip(x)", True),
        ("Clip(x, k)", True),
        ("Clip(x, , x)", False),
        ("Clip(x, , infinite)", False),
        ("Dropout(x)", True),
        ("Dropout(x, k, no)", True),
        ("Dropout(x, k, yes)", False),
        ("Dropout(x, k, b)", False),
        ("Log(x)", False),
        ("Softmax(x)", False),
    ],
)
def test_operators_that_stay_finite(call: str, finite: bool) -> None:
    text = (
        "g (float x, bool b) => (float y) <float k = {0.5}, float infinite, bool no = {0}, bool yes = {1}> "
        f"{{ y = {call} }}"
    )
    model = loaded(text)
    model.graph.initializers["infinite"].const_value = ir.tensor(np.array(np.inf, np.float32))
    assert is_finite_unary(next(iter(model.graph))) is finite


def test_the_mask_of_a_dropout_is_no_number() -> None:
    model = loaded("g (float[2] x) => (float[2] y, bool[2] z) { [n] y, m = Dropout(x) z = Not(m) }")
    assert not is_finite_unary(model.graph.node("n"))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("Relu(x)", True),
        ("AveragePool<kernel_shape = [2, 2]>(x)", True),
        ("ReduceMean<axes = [2, 3]>(x)", True),
        ("ReduceMean<axes = [2, 3], keepdims = 0>(x)", False),
        ("Pad(x, pads)", True),
        ("Pad(x, pads, infinite)", False),
        ("Pad(x, pads, k)", False),
        ("Resize(x, , scales)", True),
        ("Resize(x, , s)", False),
        ("Softmax<axis = 1>(x)", False),
        ("my.Relu(x)", False),
    ],
)
def test_channelwise(call: str, expected: bool) -> None:
    model = loaded(
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[1,3,4,4] x, float k, float[4] s) => '
        "(float[A,B,C,D] y) <int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, float[4] scales = {1, 1, 2, 2}, "
        f"float infinite> {{ y = {call} }}"
    )
    model.graph.initializers["infinite"].const_value = ir.tensor(np.array(np.inf, np.float32))
    assert is_channelwise(next(iter(model.graph))) is expected


@pytest.mark.parametrize(("call", "expected"), [("Resize(x, , , sizes)", True), ("Resize(x, , scales)", False)])
def test_sizes_that_state_the_channels(call: str, expected: bool) -> None:
    model = loaded(
        "g (float[1,3,4,4] x) => (float[A,B,C,D] y) <float[4] scales = {1, 1, 2, 2}, int64[4] sizes = {1, 3, 5, 6}> "
        f"{{ y = {call} }}"
    )
    node = next(iter(model.graph))
    assert is_channelwise(node)
    assert states_channels(node) is expected
