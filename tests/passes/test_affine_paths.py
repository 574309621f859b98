from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import dims_of
from edgeopt.passes.affine_paths import Channels, by_channel, composed, copy_of, rank_of, through
from tests.models import loaded, outputs
from tests.passes.tables import graph

RNG = np.random.default_rng(0)


def node_of(text: str, op: str) -> ir.Node:
    return next(n for n in loaded(text).graph if n.op_type == op)


def one(op: str, node: str, x: str = "1,4,6,6", weights: str = "", opset: int = 17) -> tuple[str, str]:
    stored = f" <{weights}>" if weights else ""
    if node.startswith("y = "):  # dims are inferred of what is no output
        node = f"t{node[1:]} y = Identity(t)"
    return op, graph(f"g (float[{x}] x) => (float[] y){stored} {{ {node} }}", opset)


def channels(axis: int | None, count: int, *, positive: bool = False, shift: bool = True) -> Channels:
    size = 1 if axis is None else count
    scale = RNG.uniform(0.5, 2, size) * (1 if positive else np.where(np.arange(size) % 2, -1, 1))
    return Channels(axis, scale, RNG.standard_normal(size) if shift else np.zeros(size))


def mapped(array: np.ndarray, map_: Channels) -> np.ndarray:
    """The map of an array, by numpy."""
    shape = [-1, *[1] * (-(map_.axis or -1) - 1)]
    return np.asarray(array * map_.scale.reshape(shape) + map_.shift.reshape(shape))


def assert_commutes(op: str, text: str, map_: Channels, *, up: bool, axis: int | None) -> None:
    model = loaded(text)
    node = next(n for n in model.graph if n.op_type == op)
    moved = through(node, map_, up=up)
    assert isinstance(moved, Channels), moved
    assert moved.axis == axis
    shape = [d if isinstance(d, int) else 2 for d in dims_of(model.graph.inputs[0]) or ()]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    inside, outside = (moved, map_) if up else (map_, moved)
    left = outputs(model, x=mapped(x, inside).astype(np.float32))["y"]
    right = mapped(outputs(model, x=x)["y"], outside)
    assert left.shape == right.shape
    np.testing.assert_allclose(left, right, rtol=0, atol=2e-5 * np.abs(right).max())


# name: (the node, axis of the map before it and its channels, axis behind it; positive factors only; shifts allowed)
BOTH_WAYS: dict[str, tuple[tuple[str, str], int | None, int, int | None, bool, bool]] = {
    "1 GlobalAveragePool": (one("GlobalAveragePool", "y = GlobalAveragePool(x)"), -3, 4, -3, False, True),
    "1 AveragePool": (one("AveragePool", "y = AveragePool<kernel_shape=[2,2]>(x)"), -3, 4, -3, False, True),
    "1 AveragePool, pads that do not count": (
        *(one("AveragePool", "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)"), -3, 4, -3, False, True),
    ),
    "1 AveragePool, pads that count": (
        one("AveragePool", "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)"),
        *(-3, 4, -3, False, False),
    ),
    "1 AveragePool, one number": (
        *(one("AveragePool", "y = AveragePool<kernel_shape=[2,2]>(x)"), None, 1, None, False, True),
    ),
    "1 AveragePool of one axis": (
        *(one("AveragePool", "y = AveragePool<kernel_shape=[2]>(x)", "1,4,6"), -2, 4, -2, False, True),
    ),
    "1 ReduceMean": (one("ReduceMean", "y = ReduceMean<axes=[2,3]>(x)"), -3, 4, -3, False, True),
    "1 ReduceMean, keepdims 0": (
        *(one("ReduceMean", "y = ReduceMean<axes=[-1,2], keepdims=0>(x)"), -3, 4, -1, False, True),
    ),
    "1 ReduceMean, axes as input": (
        one("ReduceMean", "y = ReduceMean<keepdims=0>(x, a)", "2,5,4", "int64[1] a = {1}", 18),
        *(-1, 4, -1, False, True),
    ),
    "1 ReduceMean of all axes, one number": (one("ReduceMean", "y = ReduceMean(x)"), None, 1, None, False, True),
    "1 Resize, nearest": (
        one("Resize", 'y = Resize<mode="nearest">(x, , s)', weights="float[4] s = {1.0,1.0,2.0,2.0}"),
        *(-3, 4, -3, False, True),
    ),
    "1 Resize, linear": (
        one("Resize", 'y = Resize<mode="linear">(x, , s)', weights="float[4] s = {1.0,1.0,1.5,2.0}"),
        *(-3, 4, -3, False, True),
    ),
    "1 Resize, cubic": (
        one("Resize", 'y = Resize<mode="cubic">(x, , , s)', weights="int64[4] s = {1,4,9,11}", opset=13),
        *(-3, 4, -3, False, True),
    ),
    "2 MaxPool": (one("MaxPool", "y = MaxPool<kernel_shape=[2,2]>(x)"), -3, 4, -3, True, True),
    "2 MaxPool, pads": (
        *(one("MaxPool", "y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)"), -3, 4, -3, True, True),
    ),
    "2 GlobalMaxPool": (one("GlobalMaxPool", "y = GlobalMaxPool(x)"), -3, 4, -3, True, True),
    "2 ReduceMax": (one("ReduceMax", "y = ReduceMax<axes=[3], keepdims=0>(x)"), -3, 4, -2, True, True),
    "2 ReduceMin": (one("ReduceMin", "y = ReduceMin<axes=[2]>(x)"), -3, 4, -3, True, True),
    "3 Relu": (one("Relu", "y = Relu(x)"), -3, 4, -3, True, False),
    "3 Relu, one number": (one("Relu", "y = Relu(x)"), None, 1, None, True, False),
    "3 LeakyRelu": (one("LeakyRelu", "y = LeakyRelu<alpha=-0.5>(x)"), -3, 4, -3, True, False),
    "3 PRelu": (one("PRelu", "y = PRelu(x, s)", weights="float[4,1,1] s"), -3, 4, -3, True, False),
    "3 Abs": (one("Abs", "y = Abs(x)"), -1, 6, -1, True, False),
    "4 Transpose": (one("Transpose", "y = Transpose<perm=[0,2,3,1]>(x)"), -3, 4, -1, False, True),
    "4 Transpose, no perm": (one("Transpose", "y = Transpose(x)", "2,3,4"), -1, 4, -3, False, True),
    "4 Flatten of one pixel": (one("Flatten", "y = Flatten(x)", "2,4,1,1"), -3, 4, -1, False, True),
    "4 Squeeze": (one("Squeeze", "y = Squeeze(x, a)", "2,4,1,1", "int64[2] a = {2,3}"), -3, 4, -1, False, True),
    "4 Squeeze, attribute": (one("Squeeze", "y = Squeeze<axes=[2]>(x)", "2,4,1,5", opset=11), -3, 4, -2, False, True),
    "4 Unsqueeze": (one("Unsqueeze", "y = Unsqueeze(x, a)", "2,4", "int64[2] a = {2,3}"), -1, 4, -3, False, True),
    "4 Reshape": (one("Reshape", "y = Reshape(x, s)", "2,4,6,6", "int64[3] s = {2,4,36}"), -3, 4, -2, False, True),
    "4 Reshape, open batch": (
        *(one("Reshape", "y = Reshape(x, s)", "N,4,6,6", "int64[3] s = {0,4,-1}"), -3, 4, -2, False, True),
    ),
    "4 Reshape, one number": (one("Reshape", "y = Reshape(x, s)", weights="int64[1] s = {-1}"), None, 1, None, False, True),
    "6 Pad, reflect": (
        one("Pad", 'y = Pad<mode="reflect">(x, p)', weights="int64[8] p = {0,0,1,2,0,0,2,1}"),
        *(-3, 4, -3, False, True),
    ),
    "6 Pad, edge, on another axis than the map": (
        one("Pad", 'y = Pad<mode="edge">(x, p)', weights="int64[8] p = {0,1,0,0,0,2,0,0}"),
        *(-1, 6, -1, False, True),
    ),
    "6 Pad, zeros": (
        *(one("Pad", "y = Pad(x, p)", weights="int64[8] p = {0,0,1,1,0,0,1,1}"), -3, 4, -3, False, False),
    ),
    "6 Pad, zeros, attribute": (
        *(one("Pad", "y = Pad<pads=[0,0,1,1,0,0,1,1]>(x)", opset=10), -3, 4, -3, False, False),
    ),
    "6 Pad, axes": (
        one("Pad", "y = Pad(x, p, z, a)", weights="int64[2] p = {1,2}, float z = {0.0}, int64[1] a = {-1}", opset=18),
        *(-3, 4, -3, False, False),
    ),
    "7 ReduceSum": (
        *(one("ReduceSum", "y = ReduceSum(x, a)", weights="int64[2] a = {2,3}"), -3, 4, -3, False, False),
    ),
    "8 Identity": (one("Identity", "y = Identity(x)"), -3, 4, -3, False, True),
}  # fmt: skip


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_both_ways(name: str) -> None:
    (op, text), before, count, behind, positive, shift = BOTH_WAYS[name]
    for up in (False, True):
        map_ = channels(behind if up else before, count, positive=positive, shift=shift)
        assert_commutes(op, text, map_, up=up, axis=before if up else behind)


# name: (the node, the map behind it, the axis of the map before it)
UP = {
    "4 Flatten of several pixels, all of a channel alike": (
        one("Flatten", "y = Flatten(x)", "2,4,3,1"),
        Channels(-1, np.repeat([1.0, 2, -3, 4], 3), np.repeat([0.0, 1, 5, -2], 3)),
        -3,
    ),
    "4 Reshape that splits the axis": (
        one("Reshape", "y = Reshape(x, s)", "2,12", "int64[3] s = {2,4,3}"),
        Channels(-2, np.array([1.0, 2, -3, 4]), np.array([0.0, 1, 5, -2])),
        -1,
    ),
    "5 DepthToSpace, DCR": (
        *(one("DepthToSpace", "y = DepthToSpace<blocksize=2>(x)", "1,12,2,3"), channels(-3, 3), -3),
    ),
    "5 DepthToSpace, CRD": (
        *(one("DepthToSpace", 'y = DepthToSpace<blocksize=2, mode="CRD">(x)', "1,12,2,3"), channels(-3, 3), -3),
    ),
    "5 DepthToSpace, one number": (
        *(one("DepthToSpace", "y = DepthToSpace<blocksize=2>(x)", "1,12,2,3"), channels(None, 1), None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UP)
def test_up(name: str) -> None:
    (op, text), map_, axis = UP[name]
    assert_commutes(op, text, map_, up=True, axis=axis)


def test_4_down_to_single_elements() -> None:
    op, text = one("Flatten", "y = Flatten<axis=0>(x)", "2,4")
    assert_commutes(op, text, channels(-2, 2), up=False, axis=-1)


# name: (the node, the map before it, why not)
REFUSED = {
    "1 pads that count": (
        one("AveragePool", "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)"),
        *(channels(-3, 4), "the pads of AveragePool"),
    ),
    "1 pads that count by auto_pad": (
        one("AveragePool", 'y = AveragePool<kernel_shape=[3,3], auto_pad="SAME_UPPER", count_include_pad=1>(x)'),
        *(channels(None, 1), "count as zeros"),
    ),
    "1 ceil_mode": (
        one("AveragePool", "y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)"),
        *(channels(-3, 4), "count as zeros"),
    ),
    "1 a pool, by columns": (
        one("AveragePool", "y = AveragePool<kernel_shape=[2,2]>(x)"),
        *(channels(-1, 6), "another axis than the channels"),
    ),
    "1 ReduceMean over the channels": (
        one("ReduceMean", "y = ReduceMean<axes=[1]>(x)"),
        *(channels(-3, 4), "over the axis that it changes"),
    ),
    "1 Resize of the channels": (
        one("Resize", 'y = Resize<mode="nearest">(x, , s)', weights="float[4] s = {1.0,2.0,1.0,1.0}"),
        *(channels(-3, 4), "along the axis"),
    ),
    "1 Resize that crops": (
        one(
            "Resize",
            'y = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize">(x, r, s)',
            weights="float[4] s = {1.0,1.0,2.0,2.0}, float[8] r = {0.0,0.0,0.0,0.0,1.0,1.0,2.0,2.0}",
        ),
        *(channels(-3, 4), "crops"),
    ),
    "1 Resize of opset 10": (
        one("Resize", "y = Resize(x, s)", weights="float[4] s = {1.0,1.0,2.0,2.0}", opset=10),
        *(channels(-3, 4), "early opset"),
    ),
    "2 negative factors": (
        one("MaxPool", "y = MaxPool<kernel_shape=[2,2]>(x)"),
        *(channels(-3, 4), "positive factors only"),
    ),
    "2 a factor of 0": (
        one("GlobalMaxPool", "y = GlobalMaxPool(x)"),
        *(Channels(None, np.zeros(1), np.zeros(1)), "positive factors only"),
    ),
    "2 negative factors, reduction": (one("ReduceMax", "y = ReduceMax(x)"), channels(-3, 4), "positive factors only"),
    "3 a shift": (one("Relu", "y = Relu(x)"), channels(-3, 4, positive=True), "positive factors only"),
    "3 negative factors": (one("Abs", "y = Abs(x)"), channels(-3, 4, shift=False), "positive factors only"),
    "4 several channels in one": (
        one("Reshape", "y = Reshape(x, s)", "2,12", "int64[3] s = {2,4,3}"),
        *(channels(-1, 12), "several channels"),
    ),
    "4 open dims": (
        one("Flatten", "y = Flatten(x)", "1,4,H,W"),
        *(channels(-3, 4), "open"),
    ),
    "5 DepthToSpace": (one("DepthToSpace", "y = DepthToSpace<blocksize=2>(x)"), channels(-3, 4), "of several"),
    "6 zeros and a shift": (
        one("Pad", "y = Pad(x, p)", weights="int64[8] p = {0,0,1,1,0,0,1,1}"),
        *(channels(-3, 4), "would change"),
    ),
    "6 another value": (
        one("Pad", "y = Pad(x, p, v)", weights="int64[8] p = {0,0,1,1,0,0,1,1}, float v = {1.0}"),
        *(channels(-3, 4, shift=False), "would change"),
    ),
    "6 another value, attribute": (
        one("Pad", "y = Pad<pads=[0,0,1,1,0,0,1,1], value=2.0>(x)", opset=10),
        *(channels(-3, 4, shift=False), "would change"),
    ),
    "6 the channels": (
        one("Pad", 'y = Pad<mode="edge">(x, p)', weights="int64[8] p = {0,1,0,0,0,1,0,0}"),
        *(channels(-3, 4), "along the axis"),
    ),
    "6 a crop": (
        one("Pad", "y = Pad(x, p)", weights="int64[8] p = {0,0,-1,0,0,0,0,0}"),
        *(channels(-3, 4, shift=False), "crops"),
    ),
    "7 a shift": (one("ReduceSum", "y = ReduceSum(x, a)", weights="int64[1] a = {3}"), channels(-3, 4), "adds the shift up"),
    "other operators": (one("Exp", "y = Exp(x)"), channels(-3, 4), None),
    "Indices are read": (
        one("MaxPool", "h, i = MaxPool<kernel_shape=[2,2]>(x) k = Cast<to=1>(i) y = Add(h, k)"),
        *(channels(-3, 4, positive=True), None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    (op, text), map_, reason = REFUSED[name]
    found = through(node_of(text, op), map_, up=False)
    if reason is None:
        assert found is None
    else:
        assert isinstance(found, str)
        assert reason in found


@pytest.mark.parametrize(
    ("scale", "shift", "rank", "expected"),
    [
        ((4, 1, 1), (1,), 4, -3),
        ((4,), (4,), 4, -1),
        ((1, 1, 1, 1), (1,), 4, None),
        ((), (), None, None),
        ((4, 1), (4, 1), 2, -2),
        ((2, 1, 1, 1), (1,), 4, -4),
    ],
)
def test_a_map_by_one_axis(
    scale: tuple[int, ...], shift: tuple[int, ...], rank: int | None, expected: int | None
) -> None:
    found = by_channel(np.full(scale, 2.0), np.full(shift, 3.0), rank)
    assert found is not None
    assert found.axis == expected
    assert found.scale.shape == found.shift.shape


@pytest.mark.parametrize(
    ("scale", "shift", "rank", "most"),
    [
        ((4, 1, 1), (4,), 4, 0),  # two axes
        ((4, 5), (1,), 4, 0),
        ((1, 1, 1, 1, 1), (1,), 4, 0),  # edge 21: 1-element 5-D
        ((4,), (1,), None, 0),
        ((4, 1), (1,), None, 1),
    ],
)
def test_no_map_by_one_axis(scale: tuple[int, ...], shift: tuple[int, ...], rank: int | None, most: int) -> None:
    assert by_channel(np.full(scale, 2.0), np.full(shift, 3.0), rank, most) is None


def test_composed() -> None:
    x = RNG.standard_normal((4, 3))
    a, b, c = channels(-2, 4), channels(None, 1), channels(-1, 3)
    for inner, outer in ((a, a), (a, b), (b, a), (b, b), (b, c)):
        total = composed(inner, outer)
        assert total is not None
        np.testing.assert_allclose(mapped(x, total), mapped(mapped(x, inner), outer))
    assert composed(a, c) is None
    assert composed(a, channels(-2, 3)) is None


def test_values_of_another_axis_or_number() -> None:
    map_ = channels(-3, 4)
    assert map_.values(-3, 4) is not None
    assert map_.values(-1, 4) is None  # edge 20: a constant [W] with W == C
    assert map_.values(-3, 1) is None  # edge 23: one channel times [4,1,1]
    assert [v.shape for v in channels(None, 1).values(-3, 5) or ()] == [(5,), (5,)]


def test_the_rank_of_what_a_layer_makes() -> None:
    model = loaded("g (float[] x) => (float[] y) <float[4,3,3] w, float[5,4] m> { h = Conv(x, w) y = Relu(h) }")
    value = next(n for n in model.graph if n.op_type == "Conv").outputs[0]
    value.shape = None
    assert rank_of(value) == 3
    assert rank_of(None) is None


def test_a_copy_has_the_same_attributes_and_other_inputs() -> None:
    node = node_of(one("PRelu", "y = PRelu(x, s)", weights="float[4,1,1] s")[1], "PRelu")
    source = ir.Value(name="z")
    copy = copy_of(node, source)
    assert copy.inputs[0] is source
    assert copy.inputs[1] is node.inputs[1]
    assert (copy.op_type, copy.name, copy.outputs[0].shape) == ("PRelu", node.name, node.outputs[0].shape)
