from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import conversions, files
from edgeopt.conversions import check_opset, to_half, to_opset
from edgeopt.errors import CheckError, EdgeoptError, ModelError, UsageError
from edgeopt.files import Loaded
from edgeopt.graph import graphs, input_specs, op_histogram, opset, output_specs
from edgeopt.passes.float16 import to_float16
from tests.models import assert_same, filled, loaded, outputs

BN = "float[8] gamma, float[8] beta, float[8] mean, float[8] var"
NET = (
    f"g (float[N,3,16,16] x) => (float[N,5] y, int64[N] k) <float[8,3,3,3] w, {BN}, float[2048,5] m,"
    " int64[2] s = {0, -1}, float[4] sc = {1, 1, 2, 2}, float big = {1e6}> { a = Conv<pads = [1, 1, 1, 1]>(x, w)"
    " [bn] b = BatchNormalization(a, gamma, beta, mean, var) c = Relu(b)"
    " p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c) q = Resize(p, , sc) [clip] r = Min(q, big)"
    " u = Reshape(r, s) [mm] y = MatMul(u, m) k = ArgMax<axis = 1, keepdims = 0>(y) }"
)


def given(text: str, opset_: int = 17) -> Loaded:
    return files.load(
        filled(text if text.startswith("<") else f'<ir_version: 8, opset_import: ["" : {opset_}]> {text}')
    )


# ------------------------------------------------------------------------------------------------ opset
POOLS = (
    "g (float[N,3,8,8] x) => (float[N,3,2,2] y) <int64[8] p = {0,0,1,1,0,0,1,1}, float z = {0}, float lo = {-1},"
    " float hi = {1}> { a = Pad(x, p, z) b = Clip(a, lo, hi) c = Softmax<axis = -1>(b)"
    " y = MaxPool<kernel_shape = [4, 4], strides = [4, 4]>(c) }"
)


@pytest.mark.parametrize(("start", "target"), [(11, 13), (13, 17), (13, 18), (13, 21), (17, 13), (13, 13)])
def test_up_and_down(start: int, target: int) -> None:
    source = given(POOLS, start)
    result = to_opset(source, source.model, target)
    assert opset(result.model) == target
    assert result.model.ir_version >= source.model.ir_version
    assert files.checker_error(result.model) is None
    assert opset(source.model) == start
    assert_same(source.model, result.model)


def test_metadata_stays_and_functions_are_inlined() -> None:
    source = given(
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[2] x) => (float[2] y) { y = local.f(x) }'
        ' <domain: "local", opset_import: ["" : 17]> f (a) => (b) { b = Neg(a) }'
    )
    source.model.metadata_props["author"] = "me"
    result = to_opset(source, source.model, 20)
    assert op_histogram(result.model) == {"Neg": 1}
    assert result.model.metadata_props["author"] == "me"


@pytest.mark.parametrize("target", [6, 0, -1, 1000, True, "17"])
def test_no_such_opset(target: object) -> None:
    with pytest.raises(UsageError, match="--opset"):
        check_opset(target)  # type: ignore[arg-type]


def test_opset_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = given(NET)
    with pytest.raises(ModelError, match="No Adapter") as caught:
        to_opset(source, source.model, 11)
    assert caught.value.hint is not None
    stuck = given(
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[2] x) => (float[2] y) { y = local.f(x) }'
        ' <domain: "local", opset_import: ["" : 13]> f (a) => (b) { b = Neg(a) }'
    )
    with pytest.raises(ModelError, match="local functions"):
        to_opset(stuck, stuck.model, 20)
    path = tmp_path / "a.onnx"
    big = filled("g (float[64] x) => (float[64] y) <float[64] w> { y = Add(x, w) }")
    onnx.save(big, path, save_as_external_data=True, location="a.bin", size_threshold=0)
    outside = files.load(path)
    with pytest.raises(ModelError, match="outside of the model file"):
        to_opset(outside, outside.model, 20)
    dice = given("g (float[2] x) => (float[2] y) { r = RandomNormalLike(x) y = Add(x, r) }")
    with pytest.raises(CheckError, match="cannot be verified"):
        to_opset(dice, dice.model, 20)
    wrong = filled("g (float[2] x) => (float[2] y) { y = Exp(x) }")
    neg = given("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    monkeypatch.setattr("onnx.version_converter.convert_version", lambda *_: wrong)
    with pytest.raises(CheckError, match="is not the same"):
        to_opset(neg, neg.model, 20)
    other = filled("g (float[3] x) => (float[3] y) { y = Neg(x) }")
    monkeypatch.setattr("onnx.version_converter.convert_version", lambda *_: other)
    with pytest.raises(CheckError, match="inputs or outputs"):
        to_opset(neg, neg.model, 20)
    broken = filled("g (float[2] x) => (float[2] y) { y = Nag(x) }")
    monkeypatch.setattr("onnx.version_converter.convert_version", lambda *_: broken)
    with pytest.raises(ModelError, match="checker refuses"):
        to_opset(neg, neg.model, 20)
    monkeypatch.setattr("onnx.version_converter.convert_version", lambda *_: onnx.ModelProto(graph=onnx.GraphProto()))
    with pytest.raises(ModelError, match="cannot be converted"):
        to_opset(neg, neg.model, 20)


# ------------------------------------------------------------------------------------------------ float16
def halved(text: str, keep: tuple[str, ...] = (), opset_: int = 17) -> tuple[Loaded, ir.Model, dict[str, str]]:
    source = given(text, opset_)
    before = source.model.clone()
    done = to_half(source, source.model, keep)
    assert op_histogram(before) == op_histogram(source.model)  # not mutated
    assert input_specs(done.model) == input_specs(source.model)
    assert output_specs(done.model) == output_specs(source.model)
    assert files.checker_error(done.model) is None
    return source, done.model, {n["node"]: n["reason"] for n in done.check["float_nodes"]}


def dtypes(model: ir.Model, op: str) -> set[str]:
    """Types of the first stored inputs of all nodes of this operator."""
    nodes = [n for g in graphs(model) for n in g if n.op_type == op]
    return {str(v.const_value.dtype) for n in nodes for v in n.inputs if v is not None and v.const_value is not None}


def test_a_net_in_float16() -> None:
    source, model, kept = halved(NET)
    assert dtypes(model, "Conv") == dtypes(model, "MatMul") == dtypes(model, "BatchNormalization") == {"FLOAT16"}
    assert dtypes(model, "Resize") == {"FLOAT"}  # its scales
    assert list(kept) == ["clip"]
    assert "beyond the 65504" in kept["clip"]
    assert op_histogram(model)["Cast"] == 4  # in, out, and around clip
    assert_same(source.model, model, 5e-3)
    done = to_half(source, source.model)
    assert done.check["sqnr_db"] > 50
    assert done.check["samples"] == 3
    assert any("clip" in w for w in done.warnings)


def test_what_is_named_stays() -> None:
    _, model, kept = halved(NET, ("bn", "MatMul"))
    assert kept["bn"] == kept["mm"] == "asked for"
    assert dtypes(model, "MatMul") == {"FLOAT"}
    source = given(NET)
    assert "--keep-float nobody" in to_half(source, source.model, ("nobody",)).warnings[0]


KEPT = {  # nodes that compute n from x [4,6], reason
    "3 CumSum": ("n = CumSum(x, i1)", "loses too much", 17),
    "3 a mean of squares": ("q = Pow(x, two) n = ReduceMean<axes = [1]>(q)", "a mean or sum of squares", 17),
    "3 a mean of products": ("q = Mul(x, x) n = ReduceMean<axes = [1]>(q)", "a mean or sum of squares", 17),
    "4 beyond 65504": ("n = Min(x, big)", "beyond the 65504", 17),
    "4 too small": ("n = Mul(x, small)", "loses its bits", 17),
    "4 a divisor": ("a = Div(x, mixed) n = Tanh(a)", "would become 0", 17),
    "4 an epsilon": ("n = LayerNormalization<epsilon = 1e-12>(x, ones)", "epsilon 1e-12 would become 0", 17),
    "6 sizes": ("s = Shape(x) f = Cast<to = 1>(s) h = Mul(f, half) g = Floor(h) j = Cast<to = 7>(g)"
                " b = Slice(x, z, j) n = Neg(b)", None, 17),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_what_stays_float32(case: str) -> None:
    nodes, reason, version = KEPT[case]
    text = (
        "g (float[A,6] x) => (float[] y, float[C,D] v) <int64 i1 = {1}, float two = {2}, float big = {1e6},"
        " float small = {1e-7}, float[6] mixed = {1e-9, 1, 1, 1, 1, 1}, float[6] ones = {1, 1, 1, 1, 1, 1},"
        " float[2] s2 = {1, 2}, float half = {0.5}, int64[2] z = {0, 0}>"
        f" {{ {nodes} y = Neg(n) v = Abs(x) }}"
    ).replace("float[] y", "float[E] y" if "ReduceMean" in nodes else "float[E,F] y")
    text = text.replace("ReduceMean<axes = [1]>", "ReduceMean<axes = [1], keepdims = 0>")
    source, model, kept = halved(text, opset_=version)
    if reason is None:
        assert {n for n, r in kept.items() if r == "it computes sizes"} == {"Cast_f", "Mul_h", "Floor_g", "Cast_j"}
    else:
        assert any(reason in r for r in kept.values())
    assert_same(source.model, model, 5e-3)


def test_bodies_are_converted_and_their_borders_are_float32() -> None:
    text = (
        "g (float[2,4] x, bool c) => (float[2,4] y) <float[4,4] w> { z = MatMul(x, w) o = Relu(z) y = If(c) <"
        "then_branch = p () => (float[2,4] a) <float[4] v = {1, 2, 3, 4}> { t = Add(o, v) a = MatMul(t, w) },"
        "else_branch = q () => (float[2,4] a) { a = Neg(o) }> }"
    )
    source, model, _ = halved(text)
    assert dtypes(model, "MatMul") == dtypes(model, "Add") == {"FLOAT16"}
    for c in (True, False):
        assert_same(source.model, model, 5e-3, c=np.array(c))


def test_a_loop() -> None:
    text = (
        "g (float[2,4] x, int64 n) => (float[2,4] y, float[M,2,4] all) <float[4,4] w> { y, all = Loop(n, , x) <body = b"
        " (int64 i, bool ci, float[2,4] a) => (bool co, float[2,4] a2, float[2,4] o) { co = Identity(ci)"
        " a2 = MatMul(a, w) o = Tanh(a2) }> }"
    )
    source, model, _ = halved(text)
    assert dtypes(model, "MatMul") == {"FLOAT16"}
    assert_same(source.model, model, 5e-3, n=np.array(3))


def test_values_that_the_model_has_in_float16_stay() -> None:
    text = (
        "g (float[2,4] x, float16[2,4] h) => (float[2,4] y, float16[2,4] k) <float[4,4] w> {"
        " k = Neg(h) a = Cast<to = 1>(k) b = MatMul(x, w) y = Add(a, b) }"
    )
    source, model, _ = halved(text)
    assert input_specs(model) == input_specs(source.model)
    assert set(outputs(model)) == {"y", "k"}


def test_overridable_weights_get_a_cast() -> None:
    text = "g (float[2,4] x, float[4,4] w) => (float[2,4] y) <float[4,4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}>"
    text += " { y = MatMul(x, w) }"
    source, model, _ = halved(text)
    assert op_histogram(model)["Cast"] == 3
    assert_same(source.model, model, 5e-3, w=np.full((4, 4), 2, np.float32))


def test_constants_that_are_nodes() -> None:
    text = (
        "g (float[2,4] x) => (float[2,4] y) { k = Constant<value = float[4] {1, 2, 3, 4}>() a = Add(x, k)"
        " s = Constant<value_ints = [4]>() f = ConstantOfShape<value = float[1] {0.5}>(s) y = Mul(a, f) }"
    )
    source, model, _ = halved(text)
    assert_same(source.model, model, 5e-3)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("g (int64[2] x) => (int64[2] y) { y = Neg(x) }", ModelError, "no node computes in float32"),
        (
            "g (float[2] x) => (float[2] y) <float k = {300}> { a = Mul(x, k) b = Mul(a, k) y = Mul(b, k) }",
            CheckError,
            "infinite or undefined numbers in float16",
        ),
        (
            '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[2] x) => (float[2] y) { y = local.f(x) }'
            ' <domain: "local", opset_import: ["" : 13]> f (a) => (b) { b = Neg(a) }',
            ModelError,
            "local functions",
        ),
    ],
)
def test_float16_refusals(text: str, error: type[EdgeoptError], message: str) -> None:
    source = given(text)
    with pytest.raises(error, match=message):
        to_half(source, source.model)


def test_what_the_ir_would_lose_is_not_converted() -> None:
    source = replace(given("g (float[2] x) => (float[2] y) { y = Neg(x) }"), untouchable="training_info")
    with pytest.raises(ModelError, match="training_info"):
        to_half(source, source.model)
    with pytest.raises(ModelError, match="training_info"):
        to_opset(source, source.model, 20)


def test_poor_agreement_is_a_caution() -> None:
    text = "g (float[2,4] x) => (float[2,4] y) <float k = {30000}> { a = Add(x, k) y = Sub(a, k) }"
    source = given(text)
    done = to_half(source, source.model)
    assert any("dB from the source's" in w for w in done.warnings)


def test_nodes_of_unknown_type_stay() -> None:
    model = loaded(
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[2] x) => (float[2] y) { a = my.Op(x) y = Neg(a) }'
    )
    found = to_float16(model)
    assert set(found.kept.values()) == {"of another domain", "the type of a value is unknown, or no tensor"}
    assert conversions.PRECISIONS == ("fp32", "fp16")


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("n = RandomNormalLike(x)", "draws random numbers"),
        ("n = EyeLike(x)", "loses too much"),
        ("n = Det(x)", "loses too much"),
        ("n = RNN<hidden_size = 2>(x, r, r)", None),
        ("n = TfIdfVectorizer(x)", "no float16"),
    ],
)
def test_operators_that_stay_float32(node: str, reason: str | None) -> None:
    model = loaded(f"g (float[2,2,2] x, float[1,8,2] r) => (float[A] y) {{ {node} y = Identity(n) }}")
    for value in (v for n in model.graph for v in n.outputs):
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
    kept = to_float16(model).kept
    named = [r for n, r in kept.items() if not n.startswith("Identity")]
    assert named == [] if reason is None else any(reason in r for r in named)
