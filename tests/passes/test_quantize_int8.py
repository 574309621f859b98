"""The int8 model: what is stored, what it computes, what stays as it was. Cases in the order of the docstring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import files, saving, shapes
from edgeopt.calibration.collect import collect
from edgeopt.errors import ModelError
from edgeopt.feeds import random_feed
from edgeopt.graph import constant, input_specs, output_specs
from edgeopt.kernels import kernels
from edgeopt.oracle import Oracle
from edgeopt.passes.int8_check import check
from edgeopt.passes.int8_plan import plan
from edgeopt.passes.quantize_int8 import quantize_int8
from edgeopt.quant import Scheme
from edgeopt.runtime import Level, Session
from tests import models

CONV = "float[3,2,3,3] w"


def quantized(text: str | onnx.ModelProto, scheme: Scheme | None = None) -> tuple[ir.Model, ir.Model]:
    """The original and its int8 model, which has passed the check and the ONNX checker."""
    proto = models.filled(text) if isinstance(text, str) else text
    proto = onnx.shape_inference.infer_shapes(proto)  # the ONNX checker wants outputs with shapes
    original = shapes.infer(files.load(proto).model)
    samples = [random_feed(input_specs(original), k, 8) for k in range(4)]
    found = plan(original)
    ranges = {t: s.range() for t, s in collect(original, found.observed(), samples).items()}
    result = original.clone()
    quantize_int8(result, found, ranges, scheme or Scheme())
    assert check(original, result, found, ranges, samples, Oracle(original, samples[:2])) is None
    assert files.checker_error(result) is None
    assert input_specs(result) == input_specs(original)
    assert output_specs(result) == output_specs(original)
    assert len({n.name for n in result.graph}) == len(list(result.graph))
    return original, result


def error(original: ir.Model, result: ir.Model) -> float:
    """Largest difference over all outputs as a share of the scale, on a calibration sample: nothing saturates."""
    feed = random_feed(input_specs(original), 2, 8)
    a, b = Session(original).run(feed), Session(result).run(feed)
    return max(float(np.abs(a[k] - b[k]).max() / np.abs(a[k]).max()) for k in a)


def ops(model: ir.Model) -> list[str]:
    return [n.op_type for n in model.graph]


def graph(body: str, weights: str = CONV, inputs: str = "float[N,2,8,8] x", output: str = "float[] y") -> str:
    return f"g ({inputs}) => ({output}) <{weights}> {{ {body} }}"


# 1. Activations


def test_a_convolution_between_pairs() -> None:
    original, result = quantized(graph("[c] y = Conv(x, w, b)", f"{CONV}, float[3] b"))
    assert sorted(ops(result)) == sorted(["QuantizeLinear"] * 2 + ["DequantizeLinear"] * 4 + ["Conv"])
    assert list(kernels(result).integer) == ["c"]
    assert error(original, result) < 0.05


def test_interface_names_and_types_stay() -> None:
    _, result = quantized(graph("[c] y = Conv(x, w)", output="float[N,3,6,6] y"))
    assert [v.name for v in result.graph.outputs] == ["y"]
    assert result.graph.outputs[0].producer().op_type == "DequantizeLinear"  # type: ignore[union-attr]


def test_an_output_that_is_read_elsewhere() -> None:
    text = graph(
        "[a] y = Conv<pads=[1,1,1,1]>(x, w) [b] z = Conv(y, v)",
        "float[2,2,3,3] w, float[2,2,3,3] v",
        output="float[] y, float[] z",
    )
    original, result = quantized(text)
    assert [v.name for v in result.graph.outputs] == ["y", "z"]
    assert error(original, result) < 0.05


def test_an_output_twice() -> None:
    proto = models.filled(graph("[c] y = Conv(x, w)"))
    proto.graph.output.append(proto.graph.output[0])
    original = shapes.infer(files.load(proto).model)
    result = original.clone()
    found = plan(original)
    quantize_int8(result, found, {"x": (-1.0, 1.0), "y": (-1.0, 1.0)}, Scheme())
    assert [v.name for v in result.graph.outputs] == ["y", "y"]


def test_an_input_that_two_nodes_read_is_quantized_once() -> None:
    text = graph("[c] h = Conv<pads=[1,1,1,1]>(x, w) [a] y = Add(h, x)", "float[2,2,3,3] w")
    original, result = quantized(text)
    assert ops(result).count("QuantizeLinear") == 3  # x, h, y
    assert error(original, result) < 0.05


def test_an_input_that_is_an_output_too_keeps_its_name() -> None:
    original, result = quantized(graph("[c] y = Conv(x, w)", output="float[] y, float[N,2,8,8] x"))
    assert [v.name for v in result.graph.inputs] == ["x"]
    assert result.graph.outputs[1] is result.graph.inputs[0]
    feed = random_feed(input_specs(original), 5)
    np.testing.assert_array_equal(Session(result).run(feed)["x"], feed["x"])


def test_float_nodes_read_behind_the_pair() -> None:
    original, result = quantized(graph("[c] h = Conv(x, w) [s] y = Sigmoid(h)"))
    node = next(n for n in result.graph if n.name == "s")
    assert node.inputs[0].producer().op_type == "DequantizeLinear"  # type: ignore[union-attr]
    assert error(original, result) < 0.05


def test_float_readers_of_a_float_value_lose_nothing() -> None:
    """A value that a float node (or nobody) computes: only the int8 node reads it behind the pair."""
    text = graph(
        "[e] h = Exp(x) [c] y = Conv(h, w) [n] z = Neg(h) [m] u = Neg(x)",
        output="float[] y, float[] z, float[] u, float[] h",
    )
    original, result = quantized(text)
    nodes = {n.name: n for n in result.graph}
    assert [nodes[k].inputs[0].name for k in ("n", "m")] == ["h", "x"]  # type: ignore[union-attr]
    assert ops(result).count("QuantizeLinear") == 2
    assert result.graph.outputs[3].producer() is nodes["e"]
    feed = random_feed(input_specs(original), 1)
    a, b = Session(original).run(feed), Session(result).run(feed)
    np.testing.assert_array_equal(a["z"], b["z"])
    np.testing.assert_array_equal(a["h"], b["h"])


def test_a_body_that_reads_a_quantized_value() -> None:
    text = """g (float[N,2,8,8] x, bool c) => (float[] y) <float[2,2,1,1] w> {
        [c] h = Conv(x, w)
        y = If(c) <then_branch = t () => (float[] a) { a = Exp(h) }, else_branch = e () => (float[] b) { b = Neg(h) }>
    }"""
    original, result = quantized(text)
    feed = random_feed(input_specs(original), 1)
    for flag in (True, False):
        a, b = (Session(m).run({**feed, "c": np.array(flag)})["y"] for m in (original, result))
        assert np.abs(a - b).max() < 0.1 * np.abs(a).max()


def test_equal_scales_are_stored_once() -> None:
    _, result = quantized(graph("[c] h = Conv(x, w) [p] m = MaxPool<kernel_shape=[2,2]>(h) [f] y = Flatten(m)"))
    assert len([n for n in result.graph.initializers if n.endswith("scale")]) == 3  # x, h, w


def test_symbolic_shapes() -> None:
    text = graph("[c] h = Conv(x, w) [g] p = GlobalAveragePool(h) [f] y = Flatten(p)", inputs="float[N,2,H,W] x")
    original, result = quantized(text)
    for size in (5, 9):
        feed = {"x": np.random.default_rng(0).standard_normal((3, 2, size, size)).astype(np.float32)}
        a, b = Session(original).run(feed)["y"], Session(result).run(feed)["y"]
        assert a.shape == b.shape == (3, 3)


# 2. Weights


@pytest.mark.parametrize(
    ("text", "axis", "shape"),
    [
        (graph("[n] y = Conv(x, w)"), 0, (3,)),
        (graph("[n] y = Conv<group=2>(x, w)", "float[6,1,3,3] w"), 0, (6,)),
        (graph("[n] y = Conv(x, w)", "float[5,2,3] w", "float[N,2,20] x"), 0, (5,)),
        (graph("[n] y = Gemm(x, w)", "float[4,3] w", "float[N,4] x"), 1, (3,)),
        (graph("[n] y = Gemm<transB=1>(x, w)", "float[3,4] w", "float[N,4] x"), 0, (3,)),
        (graph("[n] y = MatMul(x, w)", "float[4,3] w", "float[N,4] x"), 1, (3,)),
        (graph("[n] y = MatMul(x, w)", "float[4,3] w", "float[N,7,4] x"), 1, (3,)),
    ],
    ids=["Conv", "depthwise", "Conv over one axis", "Gemm", "Gemm transB", "MatMul", "MatMul of three axes"],
)
def test_weights_are_stored_per_output_channel(text: str, axis: int, shape: tuple[int, ...]) -> None:
    original, result = quantized(text)
    dq = next(n for n in result.graph if n.name == "n").inputs[1].producer()  # type: ignore[union-attr]
    assert dq is not None
    stored, scale = constant(dq.inputs[0]), constant(dq.inputs[1])
    assert stored is not None
    assert scale is not None
    assert stored.dtype == np.int8
    assert scale.shape == shape
    assert dq.attributes["axis"].value == axis
    assert abs(int(stored.max())) == 127 or abs(int(stored.min())) == 127
    assert "w" not in result.graph.initializers
    assert list(kernels(result).integer) == ["n"]
    assert error(original, result) < 0.05


@pytest.mark.parametrize("bits", [7, 8])
def test_the_bits_of_a_weight(bits: int) -> None:
    _, result = quantized(graph("[n] y = Conv(x, w)"), Scheme(weight_bits=bits))
    stored = result.graph.initializers["w/quantized"].const_value
    assert stored is not None
    assert int(np.abs(stored.numpy().astype(int)).max()) == 2 ** (bits - 1) - 1


def test_one_scale_per_tensor() -> None:
    original, result = quantized(
        graph("[n] y = Conv(x, w, b)", f"{CONV}, float[3] b"), Scheme(weight_per_channel=False)
    )
    scale = result.graph.initializers["w/scale"].const_value
    assert scale is not None
    assert scale.shape == ()
    assert error(original, result) < 0.1


def test_a_weight_that_two_layers_share_is_stored_once() -> None:
    text = graph("[a] h = Conv<pads=[1,1,1,1]>(x, w) [b] y = Conv<pads=[1,1,1,1]>(h, w)", "float[2,2,3,3] w")
    original, result = quantized(text)
    assert [n for n in result.graph.initializers if n.endswith("quantized")] == ["w/quantized"]
    assert error(original, result) < 0.05


def test_a_weight_that_a_float_node_reads_too_is_kept() -> None:
    _, result = quantized(graph("[c] y = Conv(x, w) z = Neg(w)", output="float[] y, float[] z"))
    assert {"w", "w/quantized"} <= set(result.graph.initializers)


def test_a_transposed_convolution_stays_float() -> None:
    text = graph("[c] h = Conv(x, w) [t] y = ConvTranspose(h, v)", f"{CONV}, float[3,2,2,2] v")
    original, result = quantized(text)
    node = next(n for n in result.graph if n.name == "t")
    assert node.inputs[1] is result.graph.initializers["v"]
    assert error(original, result) < 0.05


# 3. Biases


def test_a_bias_is_stored_at_the_scale_of_the_products() -> None:
    original, result = quantized(graph("[c] y = Conv(x, w, b)", f"{CONV}, float[3] b"))
    arrays: dict[str, Any] = {n: v.const_value.numpy() for n, v in result.graph.initializers.items() if v.const_value}
    stored, scale = arrays["c/bias/quantized"], arrays["c/bias/scale"]
    assert stored.dtype == np.int32
    np.testing.assert_array_equal(scale, arrays["x/scale"] * arrays["w/scale"])
    np.testing.assert_array_equal(arrays["c/bias/zero_point"], np.zeros(3, np.int32))
    wanted = original.graph.initializers["b"].const_value
    assert wanted is not None
    np.testing.assert_allclose(stored * scale, wanted.numpy(), atol=float(scale.max()) / 2 * 1.001)


def test_a_bias_that_would_not_fit_enlarges_the_scale_of_the_weight() -> None:
    proto = models.filled(graph("[c] y = Conv(x, w, b)", f"{CONV}, float[3] b"))
    for tensor in proto.graph.initializer:
        if tensor.name == "w":
            tensor.raw_data = (onnx.numpy_helper.to_array(tensor) * 1e-9).astype(np.float32).tobytes()
    original, result = quantized(proto)
    stored = result.graph.initializers["c/bias/quantized"].const_value
    assert stored is not None
    assert int(np.abs(stored.numpy().astype(np.int64)).max()) <= 2**30
    assert error(original, result) < 0.01


def test_layers_that_share_a_weight_and_differ_in_bias() -> None:
    proto = models.filled(
        graph(
            "[a] h = Conv<pads=[1,1,1,1]>(x, w, b) [d] y = Conv<pads=[1,1,1,1]>(h, w, c)",
            "float[2,2,3,3] w, float[2] b, float[2] c",
        )
    )
    for tensor in proto.graph.initializer:
        factor = {"w": 1e-8, "c": 1.0, "b": 1e-8}[tensor.name]
        tensor.raw_data = (onnx.numpy_helper.to_array(tensor) * factor).astype(np.float32).tobytes()
    quantized(proto)


def test_corrections_are_added_to_biases() -> None:
    """A Conv or Gemm without bias is given one; a MatMul without an Add is left alone."""
    body = """[c] h = Conv(x, w, b) [n] i = Conv(h, v) f = Flatten(i) [g] j = Gemm(f, u)
              [m] k = MatMul(j, t) [a] l = Add(s, k) [o] y = MatMul(l, t)"""
    text = graph(body, f"{CONV}, float[3] b, float[3,3,6,6] v, float[3,4] u, float[4,4] t, float[4] s")
    original = models.loaded(text)
    samples = [random_feed(input_specs(original), k, 8) for k in range(4)]
    found = plan(original)
    ranges = {t: s.range() for t, s in collect(original, found.observed(), samples).items()}
    corrections = {n: np.arange(c, dtype=np.float32) for n, c in {"c": 3, "n": 3, "g": 4, "m": 4, "o": 4}.items()}
    plain, result = original.clone(), original.clone()
    quantize_int8(plain, found, ranges, Scheme(), {})
    quantize_int8(result, found, ranges, Scheme(), corrections)
    stored: dict[str, Any] = {n: v.const_value.numpy() for n, v in result.graph.initializers.items() if v.const_value}
    for layer, bias in {"c": "b", "n": "", "g": "", "m": "s"}.items():
        scale = stored[f"{layer}/bias/scale"]
        value = original.graph.initializers[bias].const_value if bias else None
        wanted = corrections[layer] + (value.numpy() if value is not None else 0)
        np.testing.assert_allclose(stored[f"{layer}/bias/quantized"] * scale, wanted, atol=float(scale.max()) * 0.51)
    assert "o/bias/quantized" not in stored
    assert [len(n.inputs) for n in result.graph if n.name in corrections] == [3, 3, 3, 2, 2]
    assert len(list(result.graph)) == len(list(plain.graph)) + 2
    assert set(kernels(result).integer) == set(kernels(plain).integer)


def test_a_correction_that_would_not_fit_enlarges_the_scale_of_the_weight() -> None:
    original = models.loaded(graph("[c] y = Conv(x, w)"))
    ranges = {"x": (0.0, 1e-5), "y": (-1.0, 1.0)}
    results = [original.clone() for _ in range(2)]
    for result, size in zip(results, (0.0, 1e5), strict=True):
        quantize_int8(result, plan(original), ranges, Scheme(), {"c": np.full(3, size, np.float32)})
    small, large = (r.graph.initializers["w/scale"].const_value for r in results)
    stored = results[1].graph.initializers["c/bias/quantized"].const_value
    assert small is not None
    assert large is not None
    assert stored is not None
    assert (large.numpy() > small.numpy()).all()
    assert 2**30 * 0.99 < int(stored.numpy().min()) <= int(stored.numpy().max()) <= 2**30 * 1.01


# 4. Constant operands


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_constants_of_sums_and_products_are_stored_in_the_type_of_activations(op: str) -> None:
    original, result = quantized(graph(f"[c] h = Conv(x, w) [n] y = {op}(h, k)", f"{CONV}, float[1,3,1,1] k"))
    stored = result.graph.initializers["n/k/quantized"].const_value
    assert stored is not None
    assert stored.numpy().dtype == np.uint8
    assert set(kernels(result).integer) == {"c", "n"}
    assert error(original, result) < 0.1


# The rest


def test_the_same_input_gives_the_same_bytes() -> None:
    text = graph("[c] h = Conv(x, w, b) [r] y = Relu(h)", f"{CONV}, float[3] b")
    assert saving.serialize(quantized(text)[1]) == saving.serialize(quantized(text)[1])


def test_names_that_are_taken_are_not_used_again() -> None:
    proto = models.filled(graph("[c] h = Conv(x, w) [i] y = Sigmoid(h)"))
    proto.graph.node[1].name = "x/QuantizeLinear/node"
    proto.graph.initializer.append(onnx.helper.make_tensor("x/scale", 1, [1], [1.0]))
    quantized(proto)


def test_an_old_opset_is_refused() -> None:
    text = '<ir_version: 6, opset_import: ["" : 12]>' + graph("[c] y = Conv(x, w)")
    model = models.loaded(text)
    with pytest.raises(ModelError, match="int8 per channel needs opset 13, the model has 12"):
        quantize_int8(model, plan(model), {"x": (0, 1), "y": (0, 1)}, Scheme())


def test_without_optimizations_it_is_the_fake_quantized_original(tmp_path: Path) -> None:
    original, result = quantized(graph("[n] y = MatMul(x, w)", "float[4,3] w", "float[N,4] x"))
    feed = random_feed(input_specs(original), 3)
    arrays: dict[str, Any] = {n: v.const_value.numpy() for n, v in result.graph.initializers.items() if v.const_value}
    scale, zero = arrays["x/scale"], int(arrays["x/zero_point"])
    x = (np.clip(np.rint(feed["x"] / scale) + zero, 0, 255) - zero) * scale
    w = arrays["w/quantized"] * arrays["w/scale"]
    np.testing.assert_allclose(Session(result, Level.NONE).run(feed)["y"], x @ w, rtol=1e-5, atol=1e-6)
