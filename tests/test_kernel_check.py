"""What onnxruntime left in float, and which node goes back to float for it."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from edgeopt.graph import is_op
from edgeopt.kernel_check import left_float, to_refuse
from edgeopt.kernels import Kernels, kernels
from edgeopt.passes.int8_plan import Plan, plan
from edgeopt.passes.quantize_int8 import quantize_int8
from edgeopt.quant import Range, Ranges, Scheme
from tests import models

TEXT = """
g (float[1,4,8,8] x) => (float[] y) <float[4,4,3,3] w1, float[4,4,3,3] w2, float[4,3] w3, float[3] b, float[3,2] w4>
{
    [conv] c = Conv(x, w1)
    [relu] r = Relu(c)
    [swish] s = HardSwish(r)
    [move] t = Transpose<perm=[0,1,3,2]>(s)
    [last] l = Conv(t, w2)
    [gap] g = GlobalAveragePool(l)
    [flat] f = Flatten(g)
    [dense] d = MatMul(f, w3)
    [bias] e = Add(d, b)
    [out] y = MatMul(e, w4)
}
"""


class Everywhere(dict[str, Range]):
    def __missing__(self, key: str) -> Range:
        return (0.0 if key == "r" else -4.0), 4.0


def quantized(scheme: Scheme | None = None) -> tuple[ir.Model, ir.Model, Plan]:
    model = models.loaded(TEXT)
    found = plan(model)
    result = model.clone()
    ranges: Ranges = Everywhere()
    found.parts.update(quantize_int8(result, found, ranges, scheme or Scheme()).parts)
    return model, result, found


def test_all_runs_in_int8() -> None:
    model, result, found = quantized()
    assert {n.name for n in model.graph} == found.nodes
    made = kernels(result)
    assert made.dequantized == frozenset()
    assert left_float(model, result, found, made) == {}


def test_an_activation_that_the_quantization_cannot_compute() -> None:
    """Ranges that are symmetric: the Q behind the Relu reaches below 0."""
    model, result, found = quantized(Scheme("int8", activation_symmetric=True))
    left = left_float(model, result, found, kernels(result, int8_activations=True))
    assert "Relu wants a zero point of -128, not 0" in left["relu"]
    assert "conv" not in left
    again = plan(model, refused=left)
    assert "conv" in again.nodes
    assert again.fused["conv"] == "c"


@pytest.mark.parametrize(
    ("floating", "dequantized", "wanted"),
    [
        ({"last": "Conv"}, [], ["last"]),
        ({"swish/shift": "Add"}, [], ["swish"]),
        ({"swish": "Mul", "swish/shift": "Add"}, [], ["swish"]),
        ({"bias": "Add"}, [], ["bias"]),
        ({"move": "Transpose"}, [], []),
        ({"move": "Transpose"}, ["move"], ["move"]),
        ({"relu": "Relu"}, ["relu"], []),  # its layer is looked at
        ({"elsewhere": "Add"}, [], []),
    ],
)
def test_what_goes_back_to_float(floating: dict[str, str], dequantized: list[str], wanted: list[str]) -> None:
    model, result, found = quantized()
    left = left_float(model, result, found, Kernels({}, floating, frozenset(dequantized)))
    assert list(left) == wanted
    for reason in left.values():
        assert reason == f"asked for int8, but onnxruntime computes it in float, as {next(iter(floating.values()))}"


def test_the_rule_that_failed_is_told() -> None:
    model, result, found = quantized()
    node = next(n for n in result.graph if n.name == "last")
    q = next(iter(node.outputs[0].uses())).node
    assert is_op(q, "QuantizeLinear")
    result.graph.outputs.append(node.outputs[0])
    left = left_float(model, result, found, kernels(result))
    assert left == {
        "last": "asked for int8, but onnxruntime computes it in float, as Conv: the output of an int8 kernel goes to "
        "one Q and nowhere else: it is read by the graph's outputs"
    }


def unquantized(result: ir.Model, name: str) -> None:
    """Take out the Q and DQ behind a node: its readers get float."""
    value = next(n for n in result.graph if n.name == name).outputs[0]
    q = next(u.node for u in value.uses() if is_op(u.node, "QuantizeLinear"))
    for use in list(q.outputs[0].uses()):
        use.node.outputs[0].replace_all_uses_with(value)


@pytest.mark.parametrize(
    ("bare", "left", "now"),
    [
        ("swish", ["swish", "move"], ["swish"]),
        ("swish", ["move"], ["move"]),  # nothing that it waits for
        ("swish", ["last", "move", "swish"], ["last", "swish"]),  # there is a Q before the last
        ("swish/shift", ["swish"], ["swish"]),  # a node does not wait for its own parts
        ("relu", ["conv", "swish"], ["conv", "swish"]),  # it reads the Relu
        ("relu", ["relu", "swish"], ["relu"]),  # by one of its parts
        ("dense", ["dense", "bias"], ["dense", "bias"]),  # a part of the layer
        ("conv", [], []),
    ],
)
def test_what_only_reads_such_a_node_waits_for_the_next_round(bare: str, left: list[str], now: list[str]) -> None:
    _, result, found = quantized()
    if bare in ("relu", "swish"):
        unquantized(result, bare)
    assert list(to_refuse(result, found, dict.fromkeys(left, "why"))) == now
