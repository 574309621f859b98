from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.passes import affine_layers
from edgeopt.passes.affine_layers import Folded, is_padded
from edgeopt.passes.affine_paths import Channels
from tests.models import loaded
from tests.passes.tables import graph

RNG = np.random.default_rng(0)


def layer(node: str, weights: str, x: str = "2,4,6,6", opset: int = 17) -> ir.Node:
    text = graph(f"g (float[{x}] x) => (float[] y) <{weights}> {{ y = {node} }}", opset)
    return next(iter(loaded(text).graph))


def channels(axis: int, count: int) -> Channels:
    return Channels(axis, RNG.standard_normal(count), RNG.standard_normal(count))


def weights_of(node: ir.Node, index: int = 1) -> np.ndarray:
    value = node.inputs[index]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float64)


def folded(found: Folded | str | None) -> Folded:
    assert isinstance(found, Folded), found
    return found


def same(a: np.ndarray | None, b: np.ndarray) -> None:
    assert a is not None
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_conv() -> None:
    node = layer("Conv<group=2>(x, w, e)", "float[6,2,3,3] w, float[6] e")
    w, b = weights_of(node), weights_of(node, 2)
    map_ = channels(-3, 6)
    new = folded(affine_layers.behind(node, map_))
    same(new.weight[5, 1], w[5, 1] * map_.scale[5])
    same(new.bias, b * map_.scale + map_.shift)
    map_ = channels(-3, 4)
    new = folded(affine_layers.before(node, 0, map_))
    same(new.weight[1, 1], w[1, 1] * map_.scale[1])  # group 0 reads channels 0 and 1
    same(new.weight[5, 0], w[5, 0] * map_.scale[2])  # group 1 reads channels 2 and 3
    assert new.bias is not None
    same(new.bias[5], b[5] + w[5, 0].sum() * map_.shift[2] + w[5, 1].sum() * map_.shift[3])


def test_conv_transpose() -> None:
    node = layer("ConvTranspose<group=2>(x, w)", "float[4,3,3,3] w")
    w = weights_of(node)
    map_ = channels(-3, 6)
    new = folded(affine_layers.behind(node, map_))
    same(new.weight[3, 1], w[3, 1] * map_.scale[3 + 1])  # rows 2 and 3 make channels 3 to 5
    same(new.bias, map_.shift)
    map_ = Channels(-3, RNG.standard_normal(4), np.zeros(4))
    new = folded(affine_layers.before(node, 0, map_))
    same(new.weight[3, 1], w[3, 1] * map_.scale[3])
    assert new.bias is None


@pytest.mark.parametrize("transposed", [False, True])
def test_gemm(transposed: bool) -> None:
    shape = "5,4" if transposed else "4,5"
    node = layer(
        f"Gemm<alpha=0.5, beta=2.0, transB={int(transposed)}>(x, w, e)", f"float[{shape}] w, float[5] e", "3,4"
    )
    w, b = weights_of(node), weights_of(node, 2)
    rows = w.T if transposed else w
    map_ = channels(-1, 5)
    new = folded(affine_layers.behind(node, map_))
    same(new.weight.T if transposed else new.weight, rows * map_.scale)
    same(new.bias, 2 * b * map_.scale + map_.shift)
    map_ = channels(-1, 4)
    new = folded(affine_layers.before(node, 0, map_))
    same(new.weight.T if transposed else new.weight, rows * map_.scale[:, None])
    same(new.bias, 2 * b + 0.5 * map_.shift @ rows)
    built = new.build(ir.Value(name="z"), node.outputs[0])
    assert "beta" not in built[0].attributes
    assert built[0].attributes["alpha"].as_float() == 0.5


@pytest.mark.parametrize("left", [False, True])
def test_matmul(left: bool) -> None:
    call, shape, x = ("MatMul(w, x)", "4,5", "2,5,3") if left else ("MatMul(x, w)", "5,4", "2,3,5")
    node = layer(call, f"float[{shape}] w", x)
    w = weights_of(node, 0 if left else 1)
    axis = -2 if left else -1
    map_ = channels(axis, 4)
    new = folded(affine_layers.behind(node, map_))
    same(new.weight, w * map_.scale[:, None] if left else w * map_.scale)
    same(new.addend, map_.shift[:, None] if left else map_.shift)
    assert new.bias is None
    map_ = channels(axis, 5)
    new = folded(affine_layers.before(node, 1 if left else 0, map_))
    same(new.weight, w * map_.scale if left else w * map_.scale[:, None])
    same(new.addend, (w @ map_.shift)[:, None] if left else map_.shift @ w)
    built = new.build(ir.Value(name="z"), node.outputs[0])
    assert [n.op_type for n in built] == ["MatMul", "Add"]


def test_the_bias_of_a_gemm_does_not_become_a_matrix() -> None:
    node = layer("Gemm(x, w, e)", "float[4,50] w, float[200,1] e", "200,4")
    found = affine_layers.behind(node, channels(-1, 50))
    assert isinstance(found, str)
    assert "would grow from (200, 1) to (200, 50)" in found
    found = affine_layers.before(node, 0, channels(-1, 4))
    assert isinstance(found, str)
    assert "would grow" in found


def test_no_layer() -> None:
    node = layer("Exp(x)", "float[1] w")
    assert affine_layers.behind(node, channels(-1, 6)) is None
    assert affine_layers.before(node, 0, channels(-1, 6)) is None
    conv = layer("Conv(x, w)", "float[5,4,3,3] w")
    assert affine_layers.before(conv, 1, channels(-3, 4)) is None  # it is the weights that are computed


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("", False),
        ("pads=[0,0,0,0]", False),
        ("pads=[0,0,0,1]", True),
        ('auto_pad="SAME_UPPER"', True),
        ('auto_pad="VALID"', False),
        ('auto_pad="NOTSET", pads=[1,1,1,1]', True),
    ],
)
def test_is_padded(attributes: str, expected: bool) -> None:
    assert is_padded(layer(f"Conv<{attributes}>(x, w)".replace("<>", ""), "float[5,4,3,3] w")) is expected
