from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import files, quantizer, saving, shapes
from edgeopt.calibration import Sample
from edgeopt.calibration.statistics import RANGES, Statistics
from edgeopt.errors import CheckError, DataError, ModelError, UsageError
from edgeopt.feeds import random_feed
from edgeopt.graph import constant, input_specs, is_op, opset
from edgeopt.kernels import Kernels
from edgeopt.oracle import Oracle
from edgeopt.passes.int8_rules import scalar_factor
from edgeopt.quant import Scheme
from edgeopt.quantizer import Quantized, quantize
from tests import models, tiny

OPSET_11 = """<ir_version: 6, opset_import: ["" : 11]>
g (float[N,2,8,8] x) => (float[N,3] y) <float[4,2,8,8] w, float[4] b, float[4,3] v>
{
    c = Conv(x, w, b)
    r = Clip(c)
    s = Squeeze<axes=[2,3]>(r)
    e = Unsqueeze<axes=[1]>(s)
    u = Squeeze<axes=[1]>(e)
    [dense] y = MatMul(u, v)
}
"""
BODY = """
g (float[N,4] x, bool c) => (float[N,3] y) <float[4,4] w, float[4,3] v>
{
    [first] h = MatMul(x, w)
    y = If(c) <then_branch = t () => (float[N,3] a) { [inner] a = MatMul(h, v) },
               else_branch = e () => (float[N,3] b) { [other] b = MatMul(h, v) }>
}
"""


def samples_for(model: ir.Model) -> list[Sample]:
    return [Sample(random_feed(input_specs(model), k), None) for k in range(4)]


def run(model: ir.Model, **options: Any) -> Quantized:
    samples = samples_for(model)
    oracle = options.pop("oracle", None) or Oracle(model, [s.inputs for s in samples[:2]])
    scheme = options.pop("scheme", None) or Scheme()
    return quantize(model, options.pop("samples", samples), scheme, oracle, **options)


def tiny_net() -> ir.Model:
    return shapes.infer(files.load(tiny.net()).model)


def test_the_report_counts_nodes_and_macs() -> None:
    done = run(tiny_net())
    assert not done.nothing_to_do
    assert done.int8["macs_int8_share"] == 1.0
    assert done.int8["float_nodes"] == [
        {"node": "norm", "op": "BatchNormalization", "reason": "no int8 kernel for BatchNormalization on this runtime"},
        {
            "node": "relu1",
            "op": "Relu",
            "reason": "Relu has no int8 kernel of its own, and follows no int8 layer that it alone reads",
        },
    ]
    assert (done.int8["nodes_int8"], done.int8["nodes_float"]) == (7, 2)
    assert done.warnings == []


def test_the_input_is_not_mutated() -> None:
    model = tiny_net()
    before = saving.serialize(model)
    run(model)
    assert saving.serialize(model) == before


def test_the_share_of_macs_is_that_of_int8_nodes() -> None:
    done = run(tiny_net(), keep_float=frozenset({"conv2"}))
    macs = {"conv1": 64 * 4 * 18, "conv2": 64 * 4 * 36, "dense": 192}
    assert done.int8["macs_int8_share"] == pytest.approx((macs["conv1"] + macs["dense"]) / sum(macs.values()), rel=0.1)
    assert {"node": "conv2", "op": "Conv", "reason": "kept float on request"} in done.int8["float_nodes"]


@pytest.mark.parametrize("method", RANGES)
def test_ranges_by_every_method(method: str) -> None:
    model = tiny_net()
    done = run(model, ranges=method)
    assert not done.nothing_to_do
    calibrated = quantizer.calibrate(model, samples_for(model), Oracle(model, enabled=False))
    low, high = calibrated.statistics["x"].range(method, Scheme())
    node = next(n for n in done.model.graph if is_op(n, "QuantizeLinear") and n.inputs[0] is done.model.graph.inputs[0])
    scale = constant(node.inputs[1])
    assert scale is not None
    assert scale.item() == pytest.approx((max(high, 0) - min(low, 0)) / 255)


def test_an_unknown_way_of_choosing_ranges() -> None:
    with pytest.raises(UsageError, match="--range: expected one of minmax, "):
        run(tiny_net(), ranges="best")


def test_ranges_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_net()
    calibrated = quantizer.calibrate(model, samples_for(model), Oracle(model, enabled=False), full=True)
    assert all(s.counts.full for s in calibrated.statistics.values())
    found = calibrated.ranges(["x", "c1"], "mse", Scheme())
    monkeypatch.setattr(Statistics, "range", None)
    assert calibrated.ranges(["c1", "x"], "mse", Scheme()) == found
    with pytest.raises(TypeError):
        calibrated.ranges(["x"], "mse", Scheme("int8"))


def test_what_has_infinite_values_stays_float() -> None:
    """A mask of -inf before a Softmax: nothing else need be float."""
    text = """g (float[N,4] x, float[N,4] mask) => (float[N,3] y) <float[4,4] w, float[4,3] v>
    { h = MatMul(x, w) [masked] m = Add(h, mask) s = Softmax(m) y = MatMul(s, v) }"""
    model = shapes.infer(files.load(models.filled(text)).model)
    mask = np.array([[0, -np.inf, 0, 0]], np.float32)
    samples = [Sample({"x": random_feed(input_specs(model), k)["x"][:1], "mask": mask}, None) for k in range(4)]
    oracle = Oracle(model, enabled=False)
    done = run(model, samples=samples, oracle=oracle)
    assert done.int8["macs_int8_share"] == 1.0
    reasons = {n["node"]: n["reason"] for n in done.int8["float_nodes"]}
    assert reasons["masked"] == "tensor 'mask' has infinite values or NaN on the calibration data"
    assert done.warnings == [
        "infinite values or NaN on the calibration data in m, mask: what computes or reads them stays float"
    ]


def test_a_name_that_does_not_exist_is_warned_about() -> None:
    done = run(tiny_net(), keep_float=frozenset({"conv3", "Conv", "Gemmm"}))
    assert done.warnings == [
        "keep_float: 'Gemmm' is no node and no operator type of the simplified model",
        "keep_float: 'conv3' is no node and no operator type of the simplified model",
    ]


def test_an_old_model_is_converted() -> None:
    model = shapes.infer(files.load(models.filled(OPSET_11)).model)
    done = run(model)
    assert opset(model) == 11
    assert opset(done.model) == 13
    assert done.warnings == ["opset 11 converted to 13, which int8 per channel needs"]
    names = [n.name for n in done.model.graph]
    assert all(names)
    assert len(names) == len(set(names))
    assert done.int8["macs_int8_share"] == 1.0


def test_a_conversion_that_changes_the_result_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shapes.infer(files.load(models.filled(OPSET_11)).model)
    other = shapes.convert_opset(shapes.infer(files.load(models.filled(OPSET_11, seed=1)).model), 13)
    monkeypatch.setattr("edgeopt.shapes.convert_opset", lambda *_: other)
    with pytest.raises(ModelError, match="the conversion to opset 13 changes the result: output 'y' differs"):
        run(model)


def test_nothing_to_do_returns_the_model_as_it_came() -> None:
    text = '<ir_version: 6, opset_import: ["" : 11]> g (float[N,4] x) => (float[N,4] y) { y = Softmax(x) }'
    model = shapes.infer(files.load(models.filled(text)).model)
    done = run(model)
    assert done.nothing_to_do
    assert done.model is model  # opset 11 still
    assert done.warnings == []
    assert done.int8["nodes_int8"] == 0
    assert done.int8["macs_int8_share"] == 0.0
    assert done.int8["float_nodes"][0]["reason"] == "its input is float"


def test_only_movement_and_sums_are_nothing_to_do() -> None:
    assert run(
        shapes.infer(files.load(models.filled("g (float[N,4] x) => (float[N,4] y) { y = Add(x, x) }")).model)
    ).nothing_to_do


def test_nodes_in_bodies_are_reported() -> None:
    model = shapes.infer(files.load(models.filled(BODY)).model)
    found = {n["node"]: n["reason"] for n in run(model).int8["float_nodes"]}
    assert found["inner"] == found["other"] == "lies in the body of an If, Loop or Scan"


def test_samples_are_read_once_and_counted() -> None:
    model, walked, told = tiny_net(), list[int](), list[int]()

    def samples() -> Iterator[Sample]:
        for k in range(9):
            walked.append(k)
            yield Sample(random_feed(input_specs(model), k), None)

    run(model, samples=samples(), progress=lambda: told.append(1))
    assert walked == list(range(9))
    assert len(told) == 9


def test_no_samples() -> None:
    with pytest.raises(DataError, match="the calibration data has no samples"):
        run(tiny_net(), samples=[])


def test_nan_that_the_model_masks_stays_float() -> None:
    text = """g (float[N,4] x) => (float[N,8] y, float[N,4] z) <float[4,8] w, float[4] zero = {0, 0, 0, 0}>
    { y = MatMul(x, w) [log] l = Log(x) n = IsNaN(l) [mask] z = Where(n, zero, l) }"""
    model = shapes.infer(files.load(models.filled(text)).model)
    done = run(model, samples=[Sample({"x": np.array([[1, -1, 2, 3]], np.float32)}, None)] * 4)
    assert done.int8["macs_int8_share"] == 1.0
    assert done.warnings == [
        "infinite values or NaN on the calibration data in l: what computes or reads them stays float"
    ]


def test_nan_at_an_output_is_told_by_the_tensor_where_it_begins() -> None:
    text = "g (float[N,4] x) => (float[N,8] y) <float[4,8] w> { l = Log(x) m = MatMul(l, w) y = Softmax(m) }"
    model = shapes.infer(files.load(models.filled(text)).model)
    with pytest.raises(DataError, match="tensor 'l': the model computes NaN on the calibration data"):
        run(model, samples=[Sample({"x": np.array([[1, -1, 2, 3]], np.float32)}, None)])


def test_an_output_that_is_left_out_is_not_observed() -> None:
    text = """g (float[1,2,8,8] x) => (float[1,2,4,4] y) <float[2,2,3,3] w> {
    a = Conv<pads=[1,1,1,1]>(x, w)
    b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
    y = Conv<pads=[1,1,1,1]>(b, w) }"""
    proto = models.filled(text)
    proto.graph.node[1].output.append("")
    model = shapes.infer(files.load(proto).model)
    assert run(model).int8["macs_int8_share"] == 1.0


def test_values_that_overflow_inside_the_model() -> None:
    model = shapes.infer(
        files.load(
            models.filled("g (float[N,4] x) => (float[N,3] y) <float[4,3] w> { e = Exp(x) y = MatMul(e, w) }")
        ).model
    )
    sample = Sample({"x": np.full((1, 4), 1000, np.float32)}, None)
    with pytest.raises(
        DataError,
        match="tensor 'e': the model computes infinite values on the calibration data, which end as NaN in 'y'",
    ):
        run(model, samples=[sample])


def test_a_failed_check_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer, "check", lambda *_: "a zero point is wrong")
    with pytest.raises(CheckError, match="the int8 model failed its check: a zero point is wrong"):
        run(tiny_net())


def test_a_wrong_pass_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is really asked: weights quantized along the wrong axis."""
    monkeypatch.setattr("edgeopt.passes.quantize_int8.weight_axis", lambda node: int(node.name == "conv2"))
    with pytest.raises(CheckError, match="failed its check"):
        run(tiny_net())


@pytest.mark.parametrize("op", ["Mul", "Div"])
def test_a_product_behind_a_hard_sigmoid_runs_in_int8(op: str) -> None:
    text = f"""g (float[N,3,8,8] x) => (float[N,8,8,8] y) <float[8,3,1,1] w, float[8,8,1,1] v, float k = {{1.2}}>
    {{ a = Conv(x, w) h = HardSigmoid(a) m = {op}(h, k) y = Conv(m, v) }}"""
    done = run(shapes.infer(files.load(models.filled(text)).model))
    assert done.int8["float_nodes"] == []
    assert done.int8["macs_int8_share"] == 1.0


def test_a_node_that_the_runtime_leaves_in_float_is_planned_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer, "kernels", lambda *_, **__: Kernels({}, {"conv1": "Conv", "flat": "Reshape"}))
    done = run(tiny_net())
    assert done.int8["float_nodes"][0] == {
        "node": "conv1",
        "op": "Conv",
        "reason": "asked for int8, but onnxruntime computes it in float, as Conv",
    }
    assert "flat" not in {n["node"] for n in done.int8["float_nodes"]}
    assert done.int8["macs_int8_share"] < 0.8
    node = next(n for n in done.model.graph if n.name == "conv1")
    assert not [v for v in node.inputs if v is not None and is_op(v.producer(), "DequantizeLinear")]


def test_nothing_is_left_when_the_runtime_refuses_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = {"conv1": "Conv", "conv2": "Conv", "dense": "Gemm"}
    monkeypatch.setattr(quantizer, "kernels", lambda *_, **__: Kernels({}, refused))
    done = run(tiny_net())
    assert done.nothing_to_do
    found = {n["node"]: n["reason"] for n in done.int8["float_nodes"]}
    assert found["conv2"] == "asked for int8, but onnxruntime computes it in float, as Conv"


def test_a_node_that_is_refused_in_every_round_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round finds another one: after the last, the report says so."""
    rounds = iter(["conv1", "add", "pool", "flat"])
    monkeypatch.setattr(
        quantizer, "kernels", lambda *_, **__: Kernels({}, {(n := next(rounds)): "Float"}, frozenset([n]))
    )
    done = run(tiny_net())
    found = {n["node"]: n["reason"] for n in done.int8["float_nodes"]}
    assert "as Float" in found["conv1"]
    assert "as Float" in found["add"]


def test_what_reads_a_node_that_is_left_in_float_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mul that is wrongly planned as another scale: only it goes back to float, not the layer that reads it."""
    text = """g (float[N,3,8,8] x) => (float[N,8,8,8] y) <float[8,3,1,1] w, float[8,8,1,1] v, float k = {1.2}>
    { [first] a = Conv(x, w) [curve] h = HardSigmoid(a) [times] m = Mul(h, k) [last] y = Conv(m, v) }"""
    model = shapes.infer(files.load(models.filled(text)).model)
    monkeypatch.setattr("edgeopt.passes.int8_plan._rescaling", lambda node, *_: scalar_factor(node))
    done = run(model)
    reasons = {n["node"]: n["reason"] for n in done.int8["float_nodes"]}
    assert "onnxruntime computes it in float, as Mul" in reasons["times"]
    assert list(reasons) == ["curve", "times"]
    assert done.int8["macs_int8_share"] == 1.0


def test_symmetric_int8_takes_no_relu_along() -> None:
    """The zero point in the middle cannot cut off at 0: the Relu goes back to float, its layer stays in int8."""
    done = run(tiny_net(), scheme=Scheme("int8", activation_symmetric=True))
    found = {n["node"]: n["reason"] for n in done.int8["float_nodes"]}
    assert "Relu wants a zero point of -128, not 0" in found["relu2"]
    assert not {"conv1", "conv2", "add", "dense"} & found.keys()
    assert done.int8["macs_int8_share"] == 1.0


def test_without_verification_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer, "check", lambda *_: "never asked")
    model = tiny_net()
    run(model, oracle=Oracle(model, enabled=False))
