from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import graph
from edgeopt.graph import constant
from edgeopt.passes.affine_layers import LAYERS, Folded, before, behind, is_padded
from edgeopt.passes.affine_paths import Channels
from tests.models import loaded, outputs

RNG = np.random.default_rng(5)


def net(layer: str, x: str, weights: str, *, kind: str = "float", opset: int = 17) -> str:
    stored = weights.replace("float", kind)
    return f'<ir_version: 8, opset_import: ["" : {opset}]> g ({kind}[{x}] x) => ({kind}[] z) <{stored}> {{ y = {layer} z = Identity(y) }}'


LAYOUTS = {  # text, index of the data, axis and number of the channels read, axis and number of the channels made
    "Conv": (net("Conv(x, w, b)", "2,4,5,6", "float[6,4,3,3] w, float[6] b"), 0, -3, 4, -3, 6),
    "Conv without a bias": (net("Conv(x, w)", "2,4,5,6", "float[6,4,3,3] w"), 0, -3, 4, -3, 6),
    "Conv, one axis": (net("Conv(x, w)", "2,4,9", "float[6,4,3] w"), 0, -2, 4, -2, 6),
    "Conv, three axes": (net("Conv(x, w)", "2,4,3,4,5", "float[6,4,2,2,2] w"), 0, -4, 4, -4, 6),
    "Conv, grouped": (net("Conv<group = 2>(x, w, b)", "2,4,5,6", "float[6,2,3,3] w, float[6] b"), 0, -3, 4, -3, 6),
    "Conv, depthwise": (net("Conv<group = 4>(x, w)", "2,4,5,6", "float[8,1,3,3] w"), 0, -3, 4, -3, 8),
    "Conv, strides and dilations": (
        net("Conv<strides = [2,2], dilations = [2,1]>(x, w, b)", "2,4,7,8", "float[6,4,3,3] w, float[6] b"),
        *(0, -3, 4, -3, 6),
    ),
    "Gemm": (net("Gemm(x, w, b)", "3,4", "float[4,6] w, float[6] b"), 0, -1, 4, -1, 6),
    "Gemm, transB": (net("Gemm<transB = 1>(x, w, b)", "3,4", "float[6,4] w, float[6] b"), 0, -1, 4, -1, 6),
    "Gemm, alpha and beta": (
        net("Gemm<alpha = 0.5, beta = 3.0>(x, w, b)", "3,4", "float[4,6] w, float[6] b"),
        *(0, -1, 4, -1, 6),
    ),
    "Gemm, beta 0": (net("Gemm<beta = 0.0>(x, w, b)", "3,4", "float[4,6] w, float[6] b"), 0, -1, 4, -1, 6),
    "Gemm, no C": (net("Gemm<alpha = 2.0>(x, w)", "3,4", "float[4,6] w"), 0, -1, 4, -1, 6),
    "Gemm, C of one number": (net("Gemm(x, w, b)", "3,4", "float[4,6] w, float b"), 0, -1, 4, -1, 6),
    "Gemm, C of one element": (net("Gemm<beta = 2.0>(x, w, b)", "3,4", "float[4,6] w, float[1] b"), 0, -1, 4, -1, 6),
    "Gemm, C of one column": (net("Gemm(x, w, b)", "3,4", "float[4,6] w, float[3,1] b"), 0, -1, 4, -1, 6),
    "Gemm, C of every row": (net("Gemm(x, w, b)", "3,4", "float[4,6] w, float[3,6] b"), 0, -1, 4, -1, 6),
    "MatMul": (net("MatMul(x, w)", "3,4", "float[4,6] w"), 0, -1, 4, -1, 6),
    "MatMul, more axes": (net("MatMul(x, w)", "2,3,4", "float[4,6] w"), 0, -1, 4, -1, 6),
    "MatMul, a vector": (net("MatMul(x, w)", "4", "float[4,6] w"), 0, -1, 4, -1, 6),
    "MatMul, the weights on the left": (net("MatMul(w, x)", "2,4,5", "float[6,4] w"), 1, -2, 4, -2, 6),
    "MatMul, square weights on the left": (net("MatMul(w, x)", "4,4", "float[4,4] w"), 1, -2, 4, -2, 4),
}
SCALED = {  # those that cannot take a shift before them
    "Conv, padded": (
        net("Conv<pads = [1,1,1,1]>(x, w, b)", "2,4,5,6", "float[6,4,3,3] w, float[6] b"),
        0,
        -3,
        4,
        -3,
        6,
    ),
    "ConvTranspose": (net("ConvTranspose(x, w, b)", "2,4,3,3", "float[4,6,3,3] w, float[6] b"), 0, -3, 4, -3, 6),
    "ConvTranspose, square": (net("ConvTranspose(x, w)", "2,4,3,3", "float[4,4,3,3] w"), 0, -3, 4, -3, 4),
    "ConvTranspose, grouped": (
        net(
            "ConvTranspose<group = 2, strides = [2,2], output_padding = [1,1]>(x, w, b)",
            "2,4,3,3",
            "float[4,3,3,3] w, float[6] b",
        ),
        *(0, -3, 4, -3, 6),
    ),
    "ConvTranspose, pads": (
        net("ConvTranspose<pads = [1,1,0,1]>(x, w)", "2,4,4,4", "float[4,6,3,3] w"),
        *(0, -3, 4, -3, 6),
    ),
    "ConvTranspose, one axis": (net("ConvTranspose(x, w)", "2,4,5", "float[4,6,3] w"), 0, -2, 4, -2, 6),
}
Row = tuple[str, int, int, int, int, int]


def layer_of(model: ir.Model) -> ir.Node:
    return next(n for n in model.graph if n.op_type in LAYERS)


def a_map(axis: int | None, count: int, *, shift: bool) -> Channels:
    size = 1 if axis is None else count
    return Channels(axis, RNG.uniform(-2, 2, size), RNG.standard_normal(size) if shift else np.zeros(size))


def mapped(array: np.ndarray, map_: Channels) -> np.ndarray:
    shape = [] if map_.axis is None else [-1, *[1] * (-map_.axis - 1)]
    scale, shift = map_.scale.reshape(shape), map_.shift.reshape(shape)
    result = array * scale + shift
    assert result.shape == array.shape
    return result


def with_layer(model: ir.Model, folded: Folded) -> ir.Model:
    """The model with the folded layer in the place of the other."""
    node = layer_of(model)
    source = node.inputs[1 - folded.index]
    assert source is not None
    made = folded.build(source, node.outputs[0])
    for new in made:
        for value in new.inputs:
            if value is not None and value.const_value is not None and value.graph is None:
                value.name = f"new_{value.name}"
                model.graph.register_initializer(value)
        for value in new.outputs:
            value.name = f"new_{new.op_type}"
    model.graph.insert_before(node, made)
    node.outputs[0].replace_all_uses_with(made[-1].outputs[0])
    model.graph.remove(node, safe=True)
    return model


def assert_folds(
    row: Row, fold: Callable[[ir.Node, int, Channels], Folded | str | None], map_: Channels, *, inside: bool
) -> Folded:
    text, *_ = row
    model = loaded(text)
    x = np.random.default_rng(1).standard_normal(
        model.graph.inputs[0].shape.numpy() if model.graph.inputs[0].shape else ()
    )
    x = x.astype(np.float32)
    folded = fold(layer_of(model), row[1], map_)
    assert isinstance(folded, Folded), folded
    expected = outputs(model, x=mapped(x, map_).astype(np.float32) if inside else x)["z"]
    if not inside:
        expected = mapped(expected, map_)
    got = outputs(with_layer(loaded(text), folded), x=x)["z"]
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * max(np.abs(expected).max(), 1e-3))
    return folded


def fold_behind(node: ir.Node, data: int, map_: Channels) -> Folded | str | None:
    return behind(node, map_)


@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("case", [*LAYOUTS, *SCALED])
def test_behind(case: str, shift: bool, scalar: bool) -> None:
    row = (LAYOUTS | SCALED)[case]
    map_ = a_map(None if scalar else row[4], row[5], shift=shift)
    folded = assert_folds(row, fold_behind, map_, inside=False)
    given = len(layer_of(loaded(row[0])).inputs) > 2
    if "MatMul" in case:
        assert (folded.bias is None, folded.addend is not None) == (True, shift)
    else:
        assert (folded.bias is not None, folded.addend) == (given or shift, None)


@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("case", LAYOUTS)
def test_before(case: str, shift: bool, scalar: bool) -> None:
    row = LAYOUTS[case]
    assert_folds(row, before, a_map(None if scalar else row[2], row[3], shift=shift), inside=True)


@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("case", SCALED)
def test_before_a_border(case: str, scalar: bool) -> None:
    row = SCALED[case]
    axis = None if scalar else row[2]
    assert_folds(row, before, a_map(axis, row[3], shift=False), inside=True)
    refused = before(layer_of(loaded(row[0])), row[1], a_map(axis, row[3], shift=True))
    assert "reads zeros at its border" in str(refused)


@pytest.mark.parametrize("case", [*LAYOUTS, *SCALED])
@pytest.mark.parametrize("wrong", ["axis", "count"])
def test_a_map_of_something_else_than_the_channels(case: str, wrong: str) -> None:
    row = (LAYOUTS | SCALED)[case]
    node = layer_of(loaded(row[0]))
    for axis, count, fold in ((row[2], row[3], before), (row[4], row[5], fold_behind)):
        map_ = a_map(axis - 1, count, shift=False) if wrong == "axis" else a_map(axis, count + 1, shift=False)
        assert "another axis" in str(fold(node, row[1], map_))


UNFIT = {  # text, part of the reason or None
    "no layer": ("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }", "Relu", None),
    "two computed matrices": ("g (float[3,3] x) => (float[3,3] y) { h = Exp(x) y = MatMul(x, h) }", "MatMul", None),
    "weights of a Conv that are computed": (
        "g (float[1,1,4,4] x, float[1,1,3,3] v) => (float[1,1,2,2] y) { w = Exp(v) y = Conv(x, w) }",
        *("Conv", "are not constant"),
    ),
    "edge 19: quantized weights": (
        "g (float[3,4] x) => (float[3,6] y) <int8[4,6] q, float s = {0.5}> { w = DequantizeLinear(q, s) y = MatMul(x, w) }",
        *("MatMul", "are not constant"),
    ),
    "edge 15: a bias that is computed": (
        "g (float[3,4] x, float[6] v) => (float[3,6] y) <float[4,6] w> { b = Exp(v) y = Gemm(x, w, b) }",
        *("Gemm", "are not constant"),
    ),
    "integers": ("g (int32[3,4] x) => (int32[3,6] y) <int32[4,6] w> { y = MatMul(x, w) }", "MatMul", "no floats"),
    "weights of three axes": (
        "g (float[2,3,4] x) => (float[2,3,6] y) <float[2,4,6] w> { y = MatMul(x, w) }",
        "MatMul",
        "no matrix",
    ),
    "weights that are a vector": (
        "g (float[3,4] x) => (float[3] y) <float[4] w> { y = MatMul(x, w) }",
        "MatMul",
        "no matrix",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_unfit(case: str) -> None:
    text, op, reason = UNFIT[case]
    node = next(n for n in loaded(text).graph if n.op_type == op)
    for found in (before(node, 0, a_map(None, 1, shift=False)), behind(node, a_map(None, 1, shift=False))):
        assert found is None if reason is None else reason in str(found)


def test_a_gemm_that_reads_its_input_transposed() -> None:
    node = layer_of(loaded(net("Gemm<transA = 1>(x, w)", "4,3", "float[4,6] w")))
    assert "reads its input transposed" in str(before(node, 0, a_map(-1, 4, shift=False)))
    assert isinstance(behind(node, a_map(-1, 6, shift=True)), Folded)


def test_shared_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_SHARED_LIMIT_BYTES", 10)
    text = "g (float[4,4] x) => (float[4,4] y) <float[4,4] w> { h = MatMul(x, w) y = MatMul(h, w) }"
    assert "is shared with 1 other nodes" in str(behind(layer_of(loaded(text)), a_map(None, 1, shift=False)))


def test_c_of_a_gemm_must_not_grow_much() -> None:
    text = net("Gemm(x, w, b)", "2000,4", "float[4,6] w, float[2000,1] b")
    node = layer_of(loaded(text))
    for found in (before(node, 0, a_map(-1, 4, shift=True)), behind(node, a_map(-1, 6, shift=True))):
        assert "would grow from (2000, 1) to (2000, 6)" in str(found)
    assert isinstance(before(node, 0, a_map(-1, 4, shift=False)), Folded)


def test_overflow_and_underflow_of_float16() -> None:
    node = layer_of(loaded(net("MatMul(x, w)", "3,4", "float[4,6] w", kind="float16")))
    for factor in (1e6, 1e-7):
        map_ = Channels(None, np.array([factor]), np.zeros(1))
        assert "overflow float16" in str(behind(node, map_))
        assert "overflow float16" in str(before(node, 0, map_))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_no_numbers(value: float) -> None:
    """Behind they stay what they are; before, a sum over them would spread them."""
    model = loaded(net("Gemm(x, w)", "3,4", "float[4,6] w"))
    weight = model.graph.initializers["w"]
    array = np.array(constant(weight))
    array[1, 2] = value
    weight.const_value = ir.tensor(array)
    node = layer_of(model)
    assert "infinite or NaN" in str(before(node, 0, a_map(None, 1, shift=False)))
    found = behind(node, Channels(None, np.array([2.0]), np.zeros(1)))
    assert isinstance(found, Folded)
    np.testing.assert_array_equal(found.weight, array * 2)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "double"])
def test_the_element_type_stays(kind: str) -> None:
    node = layer_of(loaded(net("Gemm(x, w, b)", "3,4", "float[4,6] w, float[6] b", kind=kind)))
    found = behind(node, a_map(-1, 6, shift=True))
    assert isinstance(found, Folded)
    assert found.bias is not None
    assert {found.weight.dtype.name, found.bias.dtype.name} == {{"double": "float64"}.get(kind, kind)}
    assert found.weight.flags.c_contiguous


def test_a_matmul_and_what_it_adds_as_a_gemm() -> None:
    model = loaded(LAYOUTS["MatMul"][0])
    node = layer_of(model)
    found = behind(node, a_map(-1, 6, shift=True))
    assert isinstance(found, Folded)
    (source, _) = node.inputs
    assert source is not None
    (gemm,) = found.build(source, node.outputs[0], gemm=True)
    assert (gemm.op_type, len(gemm.inputs)) == ("Gemm", 3)
    assert [n.op_type for n in found.build(source, node.outputs[0])] == ["MatMul", "Add"]


def test_a_vector_before_the_weights_on_the_left() -> None:
    node = layer_of(loaded(net("MatMul(w, x)", "4", "float[6,4] w")))
    for found in (before(node, 1, a_map(None, 1, shift=False)), behind(node, a_map(None, 1, shift=False))):
        assert "is unknown, or 1" in str(found)


PADDED = {
    "": False,
    "pads = [0,0,0,0]": False,
    "pads = [0,0,0,1]": True,
    'auto_pad = "VALID"': False,
    'auto_pad = "NOTSET", pads = [1,0,0,0]': True,
    'auto_pad = "SAME_UPPER"': True,
    'auto_pad = "SAME_LOWER"': True,
}


@pytest.mark.parametrize("attributes", PADDED)
def test_is_padded(attributes: str) -> None:
    text = net(f"Conv{f'<{attributes}>' if attributes else ''}(x, w)", "1,1,4,4", "float[1,1,3,3] w")
    assert is_padded(layer_of(loaded(text))) == PADDED[attributes]
