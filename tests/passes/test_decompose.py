from __future__ import annotations

import onnx_ir as ir
import pytest

from edgeopt.graph import op_histogram
from edgeopt.passes.decompose import Decompose, decompose_for
from edgeopt.passes.decompositions import FORMULAS
from edgeopt.rewrite import Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import assert_caught
from tests.passes.tables import assert_fires, assert_left_alone, graph


def net(call: str, *, opset: int = 17, x: str = "float[2,4,5,6] x", y: str = "float[A,B,C,D] y", more: str = "") -> str:
    return graph(f"g ({x}) => ({y}) {f'<{more}>' if more else ''} {{ [n] y = {call} }}", opset)


SCALES = "float[6] g, float[6] b"
CHANNELS = "float[4] g, float[4] b"
CASES: dict[str, tuple[str, int, str]] = {  # call, first opset, constants
    "HardSigmoid": ("HardSigmoid(x)", 7, ""),
    "HardSigmoid, given": ("HardSigmoid<alpha = 0.3, beta = 0.4>(x)", 7, ""),
    "HardSwish": ("HardSwish(x)", 14, ""),
    "Mish": ("Mish(x)", 18, ""),
    "Softplus": ("Softplus(x)", 7, ""),
    "Softsign": ("Softsign(x)", 7, ""),
    "Swish": ("Swish(x)", 24, ""),
    "Swish, given": ("Swish<alpha = 1.5>(x)", 24, ""),
    "Gelu": ("Gelu(x)", 20, ""),
    "Gelu by tanh": ('Gelu<approximate = "tanh">(x)', 20, ""),
    "Elu": ("Elu(x)", 7, ""),
    "Elu, given": ("Elu<alpha = 0.5>(x)", 7, ""),
    "Celu": ("Celu<alpha = 0.5>(x)", 12, ""),
    "Selu": ("Selu(x)", 7, ""),
    "LeakyRelu": ("LeakyRelu(x)", 7, ""),
    "LeakyRelu, given": ("LeakyRelu<alpha = 0.3>(x)", 7, ""),
    "PRelu": ("PRelu(x, s)", 7, "float[4,1,1] s"),
    "ThresholdedRelu": ("ThresholdedRelu<alpha = 0.3>(x)", 10, ""),
    "Softmax": ("Softmax<axis = 3>(x)", 7, ""),
    "Softmax over channels": ("Softmax<axis = 1>(x)", 13, ""),
    "LogSoftmax": ("LogSoftmax<axis = -1>(x)", 13, ""),
    "LayerNormalization": ("LayerNormalization(x, g, b)", 17, SCALES),
    "LayerNormalization, no bias": ("LayerNormalization<epsilon = 0.01>(x, g)", 17, "float[6] g"),
    "LayerNormalization, two axes": ("LayerNormalization<axis = 2>(x, g, b)", 17, "float[5,6] g, float[5,6] b"),
    "RMSNormalization": ("RMSNormalization(x, g)", 23, "float[6] g"),
    "InstanceNormalization": ("InstanceNormalization<epsilon = 0.01>(x, g, b)", 7, CHANNELS),
    "GroupNormalization": ("GroupNormalization<num_groups = 2>(x, g, b)", 21, CHANNELS),
    **{
        f"{op}, keepdims {keep}": (f"{op}<axes = [1, -1], keepdims = {keep}>({arg})", 7, "")
        for op, arg in (("ReduceL1", "x"), ("ReduceL2", "x"), ("ReduceSumSquare", "x"))
        for keep in (0, 1)
    },
}


def operator(case: str) -> str:
    return case.split(",")[0].split(" ")[0]


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 18, 21, 24])
@pytest.mark.parametrize("case", CASES)
def test_decomposes(case: str, opset: int) -> None:
    call, first, more = CASES[case]
    if opset < first or (case.startswith("Reduce") and opset >= 18):
        return
    y = "float[A,B] y" if case.endswith("keepdims 0") else "float[A,B,C,D] y"
    result = assert_fires(Decompose(FORMULAS), net(call, opset=opset, more=more, y=y), None, None)
    assert operator(case) not in op_histogram(result)
    assert not op_histogram(result).keys() & FORMULAS.keys()


@pytest.mark.parametrize("op", ["ReduceL1", "ReduceL2", "ReduceSumSquare"])
def test_axes_are_an_input_from_opset_18(op: str) -> None:
    text = net(f"{op}(x, a)", opset=18, more="int64[2] a = {2, -1}")
    assert op not in op_histogram(assert_fires(Decompose({op}), text, None, ["n"]))


def test_the_logarithm_of_a_sum() -> None:
    text = graph("g (float[2,5] x) => (float[A,B] y) { e = Exp(x) [n] y = ReduceLogSum<axes = [1]>(e) }", 13)
    assert_fires(Decompose({"ReduceLogSum"}), text, {"Exp": 1, "ReduceSum": 1, "Log": 1}, ["n"])


@pytest.mark.parametrize("case", CASES)
def test_open_batch_and_size(case: str) -> None:
    call, first, more = CASES[case]
    y = "float[A,B] y" if case.endswith("keepdims 0") else "float[A,B,C,D] y"
    x = "float[N,4,5,6] x" if "axis = 2" in call else "float[N,4,H,6] x"
    assert_fires(Decompose(FORMULAS), net(call, opset=max(first, 13), more=more, x=x, y=y), None, None)


HALF = ("HardSwish", "Gelu", "Softmax", "LayerNormalization", "RMSNormalization", "LeakyRelu")


@pytest.mark.parametrize("case", HALF)
def test_half_precision(case: str) -> None:
    call, first, more = CASES[case]
    text = net(call, opset=max(first, 17), more=more).replace("float", "float16")
    assert_fires(Decompose({case}), text, None, ["n"])


@pytest.mark.parametrize("case", ["Softmax", "LogSoftmax", "LayerNormalization"])
def test_double(case: str) -> None:
    call, first, more = CASES[case]
    assert_fires(Decompose({case}), net(call, opset=max(first, 17), more=more).replace("float", "double"), None, ["n"])


LEFT = {
    "5 integers": (graph("g (int32[4] x) => (int32[A] y) { [n] y = ReduceL1<axes = [0]>(x) }"), "int32"),
    "6 unknown rank": (net("Softmax(x)", x="float[] x", y="float[] y"), "its rank"),
    "7 edge 59: Softmax over several axes": (net("Softmax<axis = 1>(x)", opset=11), "its axes"),
    "8 further outputs": (
        graph(
            "g (float[2,6] x) => (float[A,B] y, float[C,D] m) <float[6] g, float[6] b> {"
            " [n] y, m = LayerNormalization(x, g, b) }"
        ),
        "other outputs",
    ),
    "9 scales that are not constant": (
        net("InstanceNormalization(x, g, b)", x="float[2,4,5,6] x, float[4] g, float[4] b"),
        "its scale",
    ),
    "another operator": (net("Tanh(x)"), None),
}


@pytest.mark.parametrize("case", LEFT)
def test_is_left_alone(case: str) -> None:
    text, reason = LEFT[case]
    assert_left_alone(Decompose(FORMULAS), text, reason)


def test_rules_for_a_target() -> None:
    (rule,) = decompose_for(17)
    assert rule.ops == {"Mish", "Gelu", "Swish", "RMSNormalization", "GroupNormalization"}
    assert decompose_for(13)[0].ops == rule.ops | {"HardSwish", "LayerNormalization"}
    assert decompose_for(unsupported={"Softplus", "Conv"})[0].ops == {"Softplus"}
    assert decompose_for() == ()
    assert decompose_for(30) == ()


def test_only_what_is_lacking() -> None:
    text = net("HardSwish(x)", opset=14)
    assert_fires(Decompose({"HardSwish"}), text, {"HardSigmoid": 1, "Mul": 1}, ["n"])
    assert_left_alone(Decompose({"Gelu"}), text)


def test_in_a_branch() -> None:
    text = graph(
        "g (float[2,3] x, bool b) => (float[2,3] y) { y = If(b) <then_branch = t () => (float[2,3] u) { u = Gelu(x) },"
        " else_branch = f () => (float[2,3] v) { v = Exp(x) }> }",
        20,
    )
    assert "Gelu" not in op_histogram(assert_fires(Decompose({"Gelu"}), text, None, None))


def test_large_numbers() -> None:
    model = loaded(net("Softplus(x)"))
    result, _ = checked(Decompose({"Softplus"}), model)
    feed = ir.tensor([[[[-1000.0, -50.0, 0.0, 1.0, 50.0, 1000.0]] * 5] * 4] * 2, dtype=ir.DataType.FLOAT).numpy()
    assert_same(model, result, x=feed)


def another_number(rewrite: Rewrite) -> Rewrite:
    value = rewrite.replacement[-1].inputs[1]
    assert value is not None
    value.const_value = ir.tensor(0.51, dtype=ir.DataType.FLOAT)
    return rewrite


def test_a_broken_rewrite_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_caught(Decompose({"Gelu"}), net("Gelu(x)", opset=20), another_number, monkeypatch)
