from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import dims_of
from edgeopt.passes import affine
from edgeopt.passes.affine import Affine
from tests.models import loaded, outputs
from tests.passes.tables import graph

BN = "float[4] g, float[4] b, float[4] m, float[4] var"
C = "float[4,1,1] c, float[4,1,1] d"


def net(body: str, weights: str = C, x: str = "float[2,4,3,3] x", opset: int = 17) -> ir.Model:
    return loaded(graph(f"g ({x}) => (float[] y) <{weights}> {{ {body} }}", opset))


def last(model: ir.Model) -> ir.Node:
    return next(n for n in model.graph if n.outputs[0].name == "y")


READ = {
    "BatchNormalization": net("y = BatchNormalization<epsilon=0.1>(x, g, b, m, var)", BN),
    "x * c": net("y = Mul(x, c)"),
    "c * x": net("y = Mul(c, x)"),
    "x / c": net("y = Div(x, c)"),
    "x + c": net("y = Add(x, c)"),
    "c + x": net("y = Add(c, x)"),
    "x - c": net("y = Sub(x, c)"),
    "c - x": net("y = Sub(c, x)"),
    "-x": net("y = Neg(x)", "float[1] c"),
}


@pytest.mark.parametrize("name", READ)
def test_read(name: str) -> None:
    model = READ[name]
    node = last(model)
    found = affine.read(node, 17, 4)
    assert isinstance(found, Affine)
    assert (found.node, found.output) == (node, node.outputs[0])
    assert found.source.name == "x"
    assert found.dtype == np.float32
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(found.scale * x + found.shift, outputs(model, x=x)["y"], rtol=1e-4, atol=1e-5)
    assert found.is_scale == (not np.any(found.shift))
    assert found.is_shift == (name in ("x + c", "c + x", "x - c"))


NOT_READ: dict[str, tuple[ir.Model, int, str | None]] = {
    "edge 25: c / x": (net("y = Div(c, x)"), 17, None),
    "two computed values": (net("y = Mul(x, x)"), 17, None),
    "two constants": (net("y = Mul(c, d)"), 17, None),
    "the Neg of a constant": (net("y = Neg(c)"), 17, None),
    "edge 44: integers": (net("y = Div(x, c)", "int64[4,1,1] c", "int64[2,4,3,3] x"), 17, None),
    "the Neg of integers": (net("y = Neg(x)", "int64[1] c", "int64[2] x"), 17, None),
    "an empty constant": (net("y = Mul(x, c)", "float[0] c", "float[2,0] x"), 17, None),
    "opset 6": (net("y = Mul(x, c)"), 6, None),
    "another operator": (net("y = Pow(x, c)"), 17, None),
    "a division by zero": (net("y = Div(x, c)", "float c = {0.0}"), 17, "divides by zero"),
    "an infinite constant": (net("y = Add(x, c)", "float c = {inf}"), 17, "not finite"),
    "edge 11: training": (
        net("y, rm, rv = BatchNormalization<training_mode=1>(x, g, b, m, var)", BN),
        *(17, "training mode"),
    ),
    "before opset 7 a BatchNormalization trains": (net("y = BatchNormalization(x, g, b, m, var)", BN), 6, "training"),
    "edge 14: a computed parameter": (
        net("e = Exp(z) y = BatchNormalization(x, e, b, m, var)", BN, "float[2,4,3,3] x, float[4] z"),
        *(17, "not constant"),
    ),
    "edge 13: a negative variance": (
        net("y = BatchNormalization(x, g, b, m, s)", f"{BN}, float[4] s = {{1.0, -1.0, 1.0, 1.0}}"),
        *(17, "not finite"),
    ),
    "rounding": (net("h = Add(x, c) y = Sub(h, c)", "float c = {12582912.0}"), 17, "rounds on purpose"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_READ)
def test_not_read(name: str) -> None:
    model, version, reason = NOT_READ[name]
    found = affine.read(last(model), version)
    if reason is None:
        assert found is None
    else:
        assert isinstance(found, str)
        assert reason in found


def test_a_constant_as_large_as_an_image_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affine, "_MOST_ELEMENTS", 3)
    assert affine.read(last(READ["x + c"]), 17) is None


def test_the_first_of_two_that_round_is_not_read_either() -> None:
    model = net("h = Add(x, c) y = Sub(h, c)", "float c = {12582912.0}")
    assert isinstance(affine.read(next(iter(model.graph)), 17), str)
    model = net("h = Add(x, c) y = Mul(h, c)", "float c = {12582912.0}")
    assert isinstance(affine.read(next(iter(model.graph)), 17), Affine)


@pytest.mark.parametrize(
    ("inner", "scale", "shift", "expected"),
    [
        (2.0**23, 1.0, -(2.0**23), True),
        (2.0**23, 0.5, -(2.0**22), True),
        (2.0**23, 1.0, 2.0**23, False),  # never taken away
        (100.0, 1.0, -100.0, False),  # too small to round x
    ],
)
def test_rounds(inner: float, scale: float, shift: float, expected: bool) -> None:
    a, s, t = (np.array(v) for v in (inner, scale, shift))
    assert affine.rounds(a, s, t, np.dtype(np.float32)) is expected
    assert not affine.rounds(a, s, t, np.dtype(np.float64))


def test_a_chain() -> None:
    body = "h = Mul(x, c) k = Sub(h, d) l = BatchNormalization(k, g, b, m, var) y = Neg(l)"
    model = net(body, f"{C}, {BN}")
    first = affine.read(last(model), 17)
    assert isinstance(first, Affine)
    total = affine.chained(first, 17)
    assert [n.op_type for n in total.nodes] == ["Neg", "BatchNormalization", "Sub", "Mul"]
    assert total.source.name == "x"
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(total.scale * x + total.shift, outputs(model, x=x)["y"], rtol=1e-4, atol=1e-5)
    assert len(affine.chained(first, 17, 2).nodes) == 2


def test_a_chain_ends_where_the_constants_would_grow() -> None:
    model = net("h = Mul(x, e) y = Mul(h, c)", f"{C}, float[3] e")
    first = affine.read(last(model), 17)
    assert isinstance(first, Affine)
    assert len(affine.chained(first, 17).nodes) == 1


@pytest.mark.parametrize(
    ("dims", "shapes", "expected"),
    [
        ((2, 4, 3, 3), [(4, 1, 1), (1,)], True),
        ((2, 1, 3, 3), [(4, 1, 1)], False),  # edge 23
        ((2, "K", 3, 3), [(4, 1, 1)], False),
        ((2, None, 3, 3), [(1, 1, 1)], True),
        ((2, 4, 3, 3), [(1, 1, 1, 1, 1)], False),  # edge 21
        (None, [(1,)], False),
        (None, [()], True),
    ],
)
def test_keeps_shape(dims: tuple[int | str | None, ...] | None, shapes: list[tuple[int, ...]], expected: bool) -> None:
    assert affine.keeps_shape(dims, [np.ones(s) for s in shapes]) is expected


def test_stored() -> None:
    half, single = np.dtype(np.float16), np.dtype(np.float32)
    array = np.array([[1.0, 2.0], [1e-3, 3e-3]])
    found = affine.stored(array, half)
    assert found is not None
    assert found.dtype == half
    assert found.flags.c_contiguous
    assert affine.stored(np.array([1.0, 7e4]), half) is None  # overflow
    assert affine.stored(np.array([1e-7, 1.2e-7]), half) is None  # subnormal: a few bits are left
    assert affine.stored(np.array([1.0, 1e-9]), half) is not None  # nothing beside the 1
    assert affine.stored(np.array([np.inf, np.nan, 1.0]), single) is not None  # as they were
    assert affine.stored(np.array([1.0, 300.0]), np.dtype(ml_dtypes.bfloat16)) is not None
    assert affine.stored(np.zeros((0, 3)), single) is not None


def test_nodes_and_constants() -> None:
    like = ir.Value(name="v", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2, 3]))
    node = affine.node_of("Neg", [like], "n", like)
    assert (node.op_type, node.name, dims_of(node.outputs[0]), node.outputs[0].dtype) == (
        "Neg",
        "n",
        (2, 3),
        like.dtype,
    )
    assert affine.constant_like("k", np.array(7e4), np.dtype(np.float16)) is None
    assert affine.constant_like("k", np.array(7.0), np.dtype(np.float16)) is not None
    assert affine.read_by_one(like)
    affine.discard([node])
    assert not like.uses()
