"""The rules against onnxruntime itself: what is planned for int8 gets an integer kernel, and the right result."""

from __future__ import annotations

import re
from dataclasses import fields

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import files, shapes
from edgeopt.calibration.collect import collect
from edgeopt.device import known, load
from edgeopt.feeds import random_feed
from edgeopt.graph import input_specs
from edgeopt.kernels import kernels
from edgeopt.oracle import Oracle
from edgeopt.passes.int8_check import check
from edgeopt.passes.int8_plan import Plan, plan
from edgeopt.passes.quantize_int8 import quantize_int8
from edgeopt.quant import Range, Scheme
from edgeopt.runtime import Session, options
from tests import models

CONV = "float[2,2,3,3] w"
PADDED = "Conv<pads=[1,1,1,1]>"
CONSTANTS = (
    "float[1,2,1,1] k = {0.5, 1.5}, float half = {0.5}, float[4] s4 = {1,1,2,2}, int64[4] i4 = {1,1,2,2}, "
    "int64[4] e4 = {3,2,8,8}, int64[8] i8 = {0,0,1,1,0,0,1,1}, int64[8] p8 = {0,1,0,0,0,1,0,0}, int64 zero = {0}, "
    "int64[1] one = {1}, int64[1] big = {99}, int64[2] rows = {1, 0}, int64[3] flat = {0, 2, -1}, "
    "int64[1] two = {2}, int64[3,2,8,4] element"
)


def graph(body: str, weights: str = CONV, inputs: str = "float[3,2,8,8] x", output: str = "float[] y") -> str:
    return f"g ({inputs}) => ({output}) <{weights}> {{ {body} }}"


def between(op: str) -> str:
    """The node [n] between two convolutions that keep the size."""
    return graph(f"[c] h = {PADDED}(x, w) [n] m = {op} [d] y = {PADDED}(m, w)", f"{CONV}, {CONSTANTS}")


def run(text: str, scheme: Scheme | None = None, *keep_float: str) -> tuple[ir.Model, ir.Model, Plan]:
    """The original, its int8 model (which has passed the check) and what was carried out."""
    proto = onnx.shape_inference.infer_shapes(models.filled(text))
    original = shapes.infer(files.load(proto).model)
    samples = [random_feed(input_specs(original), k, 8) for k in range(4)]
    found = plan(original, frozenset(keep_float))
    ranges = ranges_of(original, found, samples)
    result = original.clone()
    done = quantize_int8(result, found, ranges, scheme or Scheme())
    assert check(original, result, found, ranges, samples, Oracle(original, samples[:2])) is None
    assert files.checker_error(result) is None
    feed = samples[2]
    a, b = Session(original).run(feed), Session(result).run(feed)
    for name in a:
        assert a[name].shape == b[name].shape
        assert np.abs(a[name] - b[name]).max() < 0.08 * np.abs(a[name]).max()
    return original, result, done


def ranges_of(model: ir.Model, found: Plan, samples: list[dict[str, np.ndarray]]) -> dict[str, Range]:
    statistics = collect(model, found.observed(), samples)
    return {k: s.range("minmax", Scheme()) for k, s in statistics.items()}


# Operator [n] between two int8 convolutions, to the integer kernel that computes it.
KERNELS = {
    "Add": ("Add(h, x)", "QLinearAdd"),
    "Add of a constant": ("Add(h, k)", "QLinearAdd"),
    "Add to a constant": ("Add(k, h)", "QLinearAdd"),
    "Add to itself": ("Add(h, h)", "QLinearAdd"),
    "Sub of a constant": ("Sub(h, k)", "QLinearAdd"),
    "Mul": ("Mul(h, x)", "QLinearMul"),
    "Mul by a constant": ("Mul(h, k)", "QLinearMul"),
    "Div by a constant": ("Div(h, k)", "QLinearMul"),
    "Concat": ("Concat<axis=0>(h, x)", "QLinearConcat"),
    "Concat with a constant": ("Concat<axis=0>(h, c)", "QLinearConcat"),
    "Where": ("Where(b, h, x)", "QLinearWhere"),
    "Where with a constant": ("Where(b, k, h)", "QLinearWhere"),
    "AveragePool": ("AveragePool<kernel_shape=[3,3]>(h)", "QLinearConv"),
    "AveragePool over all": ("AveragePool<kernel_shape=[8,8]>(h)", "QLinearGlobalAveragePool"),
    "AveragePool that rounds up": (
        "AveragePool<kernel_shape=[3,3],strides=[2,2],ceil_mode=1>(h)",
        "QLinearAveragePool",
    ),
    "AveragePool with pads": ("AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(h)", "QLinearAveragePool"),
    "AveragePool that counts": (
        "AveragePool<kernel_shape=[3,3], pads=[1,1,0,1], count_include_pad=1>(h)",
        "QLinearConv",
    ),
    "GlobalAveragePool": ("GlobalAveragePool(h)", "QLinearGlobalAveragePool"),
    "ReduceMean": ("ReduceMean<axes=[-1,2]>(h)", "QLinearGlobalAveragePool"),
    "LeakyRelu": ("LeakyRelu<alpha=0.2>(h)", "QLinearLeakyRelu"),
    "Sigmoid": ("Sigmoid(h)", "QLinearSigmoid"),
    "Softmax": ("Softmax<axis=1>(h)", "QLinearSoftmax"),
    "HardSwish": ("HardSwish(h)", "QLinearMul"),
}


@pytest.mark.parametrize("case", KERNELS)
@pytest.mark.parametrize("scheme", [Scheme(), Scheme(weight_bits=7)], ids=["8 bits", "7 bits"])
def test_integer_kernels(case: str, scheme: Scheme) -> None:
    op, kernel = KERNELS[case]
    text = graph(
        f"[c] h = {PADDED}(x, w) [n] m = {op} [d] y = {PADDED}(m, w)",
        f"{CONV}, {CONSTANTS}, float[1,2,8,8] c",
        "float[3,2,8,8] x, bool b",
    )
    _, result, _ = run(text, scheme)
    made = kernels(result)
    assert (made.integer["c"], made.integer["n"], made.integer["d"]) == ("QLinearConv", kernel, "QLinearConv")
    assert set(made.floating.values()) == {"QuantizeLinear", "DequantizeLinear"}


@pytest.mark.parametrize("case", [*KERNELS, "Conv"])
def test_what_is_kept_float_runs_in_float(case: str) -> None:
    """Between int8 nodes onnxruntime would take it for int8, a Conv even with weights that it quantizes itself."""
    op, _ = KERNELS.get(case, (f"{PADDED}(h, w)", ""))
    text = graph(
        f"[c] h = {PADDED}(x, w) [n] m = {op} [d] y = {PADDED}(m, w)",
        f"{CONV}, {CONSTANTS}, float[1,2,8,8] c",
        "float[3,2,8,8] x, bool b",
    )
    _, result, _ = run(text, None, "n")
    made = kernels(result)
    assert set(made.integer) == {"c", "d"}
    assert "n" in {n.name for n in result.graph}


# What only moves data: no DQ in front of it.
MOVES = {
    "MaxPool": "MaxPool<kernel_shape=[2,2]>(h)",
    "Transpose": "Transpose<perm=[0,1,3,2]>(h)",
    "Slice": "Slice(h, one, big, two)",
    "Gather": "Gather<axis=0>(h, rows)",
    "DepthToSpace": "DepthToSpace<blocksize=1>(h)",
    "Resize": 'Resize<mode="nearest">(h, , s4)',
    "Tile": "Tile(h, i4)",
    "Expand": "Expand(h, e4)",
    "Pad": "Pad(h, i8)",
    "Pad by its edge": 'Pad<mode="edge">(h, i8)',
    "Pad by reflection": 'Pad<mode="reflect">(h, i8)',
    "ReduceMax": "ReduceMax<axes=[3]>(h)",
    "ReduceMin": "ReduceMin<axes=[2, 3]>(h)",
    "GatherElements": "GatherElements<axis=3>(h, element)",
}


@pytest.mark.parametrize("case", MOVES)
@pytest.mark.parametrize("scheme", [Scheme(), Scheme("int8")], ids=["uint8", "int8"])
def test_movement_of_integers(case: str, scheme: Scheme) -> None:
    _, result, _ = run(between(MOVES[case]), scheme)
    made = kernels(result)
    if scheme.activation_dtype == "int8":  # onnxruntime converts these to uint8 on x86, but not around a Pad
        return
    assert {"c", "d"} <= set(made.integer)
    operators = sorted(made.floating.values())
    assert operators.count("QuantizeLinear") == operators.count("DequantizeLinear") == 1


def test_several_pads_in_a_row() -> None:
    pads = "[n] m = Pad(h, i8) [p] q = Pad(m, i8) [a] a = Pad(m, p8)"
    body = f"[c] h = {PADDED}(x, w) {pads} [d] y = Conv(q, w) z = Conv(a, v)"
    _, result, _ = run(graph(body, f"{CONV}, {CONSTANTS}, float[2,4,3,3] v", output="float[] y, float[] z"))
    assert len(kernels(result).integer) == 3


DENSE = "float[4,3] w, float[3] b, float[3,4] t, float[2,4,3] v"
LAYERS = {
    "1-D": (graph("[n] y = Conv(x, w)", "float[4,2,3] w", "float[3,2,20] x"), "QLinearConv"),
    "3-D": (graph("[n] y = Conv(x, w, b)", "float[4,2,3,3,3] w, float[4] b", "float[1,2,6,6,6] x"), "QLinearConv"),
    "groups": (graph("[n] y = Conv<group=2>(x, w)", "float[6,1,3,3] w"), "QLinearConv"),
    "Gemm": (graph("[n] y = Gemm(x, w, b)", DENSE, "float[N,4] x"), "QGemm"),
    "Gemm, transB": (graph("[n] y = Gemm<transB=1>(x, t, b)", DENSE, "float[N,4] x"), "QGemm"),
    "Gemm, alpha and beta": (graph("[n] y = Gemm<alpha=0.5,beta=2.0>(x, w, b)", DENSE, "float[N,4] x"), "QGemm"),
    "Gemm of two values": (graph("[n] y = Gemm(x, z, b)", DENSE, "float[N,4] x, float[4,3] z"), "QGemm"),
    "MatMul": (graph("[n] y = MatMul(x, w)", DENSE, "float[N,4] x"), "MatMulIntegerToFloat"),
    "MatMul of more axes": (graph("[n] y = MatMul(x, w)", DENSE, "float[N,5,4] x"), "MatMulIntegerToFloat"),
    "MatMul with a bias": (graph("h = MatMul(x, w) [a] y = Add(h, b)", DENSE, "float[N,4] x"), "QGemm"),
    "Gemm, bias of two axes": (graph("[n] y = Gemm(x, w, b)", "float[4,3] w, float[1,3] b", "float[N,4] x"), "QGemm"),
    "MatMul with a bias of two axes": (
        graph("h = MatMul(x, w) [a] y = Add(h, b)", "float[4,3] w, float[1,3] b", "float[N,4] x"),
        "QGemm",
    ),
    "MatMul of more axes with a bias of as many": (
        graph("h = MatMul(x, w) [a] y = Add(b, h)", "float[4,3] w, float[1,1,3] b", "float[2,5,4] x"),
        "QGemm",
    ),
    "MatMul of more axes with a bias": (
        graph("[n] h = MatMul(x, w) [a] y = Add(b, h)", DENSE, "float[2,5,4] x"),
        "QGemm",
    ),
    "MatMul with weights of more axes": (
        graph("[n] y = MatMul(x, v)", DENSE, "float[2,5,4] x"),
        "MatMulIntegerToFloat",
    ),
    "attention": (graph("[n] y = MatMul(x, z)", DENSE, "float[2,3,5,4] x, float[2,3,4,5] z"), "MatMulIntegerToFloat"),
    "a value times itself": (graph("[n] y = MatMul(x, x)", DENSE, "float[2,3,4,4] x"), "MatMulIntegerToFloat"),
    "a constant times a value": (graph("[n] y = MatMul(t, x)", DENSE, "float[4,5] x"), "MatMulIntegerToFloat"),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers(case: str) -> None:
    text, kernel = LAYERS[case]
    _, result, _ = run(text.replace("{ h = MatMul", "{ [n] h = MatMul"))
    assert kernels(result).integer == {"n": kernel}


SUMS = {
    "values per row": ("Add(h, b)", "float[4,3] w, float[5,3] b", "float[5,4] x"),
    "one value for all columns": ("Add(h, b)", "float[4,3] w, float[1] b", "float[N,4] x"),
    "another value": ("Add(h, z)", "float[4,3] w", "float[5,4] x, float[5,3] z"),
    "a value per column": ("Add(z, h)", "float[4,3] w", "float[2,5,4] x, float[3] z"),
}


@pytest.mark.parametrize("case", SUMS)
def test_sums_behind_a_matmul(case: str) -> None:
    add, weights, inputs = SUMS[case]
    _, result, _ = run(graph(f"[n] h = MatMul(x, w) [a] y = {add}", weights, inputs))
    assert kernels(result).integer == {"n": "QLinearMatMul", "a": "QLinearAdd"}


QUANTIZED = {
    "MatMul": ("[n] h = MatMul(x, w)", "QLinearMatMul"),
    "MatMul with a bias": ("[n] g = MatMul(x, w) [a] h = Add(g, b)", "QGemm"),
    "MatMul with a bias and Relu": ("[n] g = MatMul(x, w) [a] f = Add(g, b) [r] h = Relu(f)", "QGemm"),
    "Gemm": ("[n] h = Gemm(x, w, b)", "QGemm"),
    "Gemm and Relu": ("[n] g = Gemm(x, w, b) [r] h = Relu(g)", "QGemm"),
}


@pytest.mark.parametrize("case", QUANTIZED)
def test_dense_layers_that_int8_reads(case: str) -> None:
    body, kernel = QUANTIZED[case]
    _, result, _ = run(
        graph(f"{body} [last] y = MatMul(h, t)", "float[4,3] w, float[3] b, float[3,4] t", "float[8,4] x")
    )
    assert kernels(result).integer == {"n": kernel, "last": "MatMulIntegerToFloat"}


@pytest.mark.parametrize("op", ["Mul(h, half)", "Div(h, half)"])
@pytest.mark.parametrize("output", ["float[] y", "float[] y, float[] m"])
def test_a_product_with_a_number_costs_nothing(op: str, output: str) -> None:
    text = between(op).replace("float[] y", output)
    _, result, done = run(text)
    assert kernels(result).integer == {"c": "QLinearConv", "d": "QLinearConv"}
    assert "n" not in {n.name for n in result.graph}
    assert "n" in done.nodes
    assert [v.name for v in result.graph.outputs] == [o.split()[1] for o in output.split(", ")]


def test_attention() -> None:
    """Scores, softmax and values of one head."""
    body = """[q] q = MatMul(x, wq) [k] k = MatMul(x, wk) [v] v = MatMul(x, wv) [t] kt = Transpose<perm=[0,2,1]>(k)
              [s] s = MatMul(q, kt) [scale] d = Div(s, two) [p] p = Softmax<axis=-1>(d) [o] o = MatMul(p, v)
              [last] y = MatMul(o, wo)"""
    weights = "float[4,4] wq, float[4,4] wk, float[4,4] wv, float[4,4] wo, float two = {2}"
    _, result, _ = run(graph(body, weights, "float[2,5,4] x"))
    made = kernels(result).integer
    assert made == {
        **dict.fromkeys(["q", "k", "v", "s", "o"], "QLinearMatMul"),
        "p": "QLinearSoftmax",
        "last": "MatMulIntegerToFloat",
    }


def test_hard_swish_is_a_sum_and_a_product() -> None:
    _, result, done = run(between("HardSwish(h)"))
    assert done.parts == {"n": ("n/shift", "n/bound", "n/share")}
    made = kernels(result).integer
    assert (made["n/shift"], made["n"]) == ("QLinearAdd", "QLinearMul")


@pytest.mark.parametrize("attributes", ["", "<alpha=0.1666667, beta=0.5>", "<alpha=0.3, beta=-0.1>"])
@pytest.mark.parametrize("output", ["float[] y", "float[] y, float[] m"])
def test_hard_sigmoid_is_a_sum(attributes: str, output: str) -> None:
    body = f"[c] h = {PADDED}(x, w) [n] m = HardSigmoid{attributes}(h) [e] y = Mul(m, h)"
    _, result, done = run(graph(body, CONV, output=output))
    assert kernels(result).integer == {"c": "QLinearConv", "n/shift": "QLinearAdd", "e": "QLinearMul"}
    assert done.parts == {"n": ("n/shift", "n/bound")}


def test_a_mean_that_drops_its_axes() -> None:
    body = f"[c] h = {PADDED}(x, w) [n] m = ReduceMean<axes=[2,3], keepdims=0>(h) [d] y = Gemm(m, v)"
    _, result, done = run(graph(body, f"{CONV}, float[2,5] v"))
    assert done.parts == {"n": ("n/mean",)}
    assert kernels(result).integer == {"c": "QLinearConv", "n/mean": "QLinearGlobalAveragePool", "d": "QGemm"}


def test_a_mean_over_axes_that_are_an_input() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]>' + between("ReduceMean(h, axes)")
    _, result, _ = run(text.replace("int64 zero", "int64[2] axes = {2, 3}, int64 zero"))
    assert kernels(result).integer["n"] == "QLinearGlobalAveragePool"


@pytest.mark.parametrize(
    "case", ["Add", "Mul by a constant", "Concat", "AveragePool", "LeakyRelu", "Sigmoid", "HardSwish"]
)
def test_symmetric_and_signed_activations_are_right(case: str) -> None:
    """On this machine many of these stay float with int8 activations; the result is the same."""
    op, _ = KERNELS[case]
    run(between(op), Scheme("int8"))
    run(between(op), Scheme("int8", activation_symmetric=True))


PRESETS = [name for name in known() if load(name).kind == "preset"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("case", ["Add", "Mul by a constant", "Concat", "LeakyRelu", "HardSwish", "AveragePool"])
def test_every_preset_gets_integer_kernels(preset: str, case: str) -> None:
    """Arm's on any machine, as far as onnxruntime takes int8 activations for granted when it is told to."""
    rules = load(preset).quantization
    assert rules is not None
    scheme = Scheme(**{f.name: getattr(rules, f.name) for f in fields(Scheme)})
    op, kernel = KERNELS[case]
    op = re.sub(r"(?<=[( ])h(?=[,)])", "r", op)
    body = f"[c] h = {PADDED}(x, w, b) [r] r = Relu(h) [n] m = {op} [d] y = {PADDED}(m, w)"
    body += " [g] p = GlobalAveragePool(y) [f] q = Flatten(p) [e] z = Gemm(q, v, u) [l] o = MatMul(z, t)"
    weights = f"{CONV}, float[2] b, float[2,3] v, float[3] u, float[3,3] t, {CONSTANTS}"
    original, result, _ = run(graph(body, weights, output="float[] o"), scheme)
    signed = scheme.activation_dtype == "int8"
    made = kernels(result, int8_activations=signed)
    assert [made.integer[k] for k in "cnd"] == ["QLinearConv", kernel, "QLinearConv"]
    assert (made.integer["e"], made.integer["l"]) == ("QGemm", "MatMulIntegerToFloat")
    settings = options()
    settings.add_session_config_entry("session.qdqisint8allowed", "1" if signed else "0")
    feed = random_feed(input_specs(original), 2, 8)
    exact, fast = Session(original).run(feed)["o"], Session(result, session_options=settings).run(feed)["o"]
    assert np.abs(exact - fast).max() < 0.08 * np.abs(exact).max()


def test_the_presets_are_those_that_the_kernels_want() -> None:
    found = {name: load(name).quantization for name in PRESETS}
    types = {n: (q.activation_dtype, q.weight_dtype, q.weight_bits) for n, q in found.items() if q is not None}
    assert types == {
        "arm": ("int8", "int8", 8),
        "arm-u8": ("uint8", "uint8", 8),
        "x86": ("uint8", "int8", 7),
        "x86-vnni": ("uint8", "int8", 8),
    }
    assert all(q is not None and q.weight_per_channel and not q.activation_symmetric for q in found.values())
