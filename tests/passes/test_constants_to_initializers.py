from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import files, shapes
from edgeopt.graph import constant, constant_tensor, graphs, op_histogram
from edgeopt.passes.constants_to_initializers import ConstantsToInitializers
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import assert_caught, wrong_element
from tests.passes.tables import assert_fires, assert_left_alone, graph

RULE = ConstantsToInitializers()

FORMS = {  # attribute of the Constant, element type, shape
    "1 value": ("value = float[2] {1, 2}", ir.DataType.FLOAT, (2,)),
    "1 value, scalar": ("value = float {3}", ir.DataType.FLOAT, ()),
    "1 value, double": ("value = double[2] {1, 2}", ir.DataType.DOUBLE, (2,)),
    "1 value, bool": ("value = bool[2] {1, 0}", ir.DataType.BOOL, (2,)),
    "1 value, int8": ("value = int8[1,2] {1, -2}", ir.DataType.INT8, (1, 2)),
    "1 value, empty": ("value = int64[0] {}", ir.DataType.INT64, (0,)),
    "edge 43: value_float": ("value_float = 2.5", ir.DataType.FLOAT, ()),
    "edge 43: value_floats": ("value_floats = [1.5, 2.5]", ir.DataType.FLOAT, (2,)),
    "edge 43: value_int": ("value_int = 2", ir.DataType.INT64, ()),
    "edge 43: value_ints": ("value_ints = [1, 2]", ir.DataType.INT64, (2,)),
}


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("case", FORMS)
def test_forms(case: str, opset: int) -> None:
    attribute, dtype, shape = FORMS[case]
    kind = {"FLOAT": "float", "DOUBLE": "double", "BOOL": "bool", "INT8": "int8", "INT64": "int64"}[dtype.name]
    text = f"g (float[2] x) => (float[2] y, {kind}[A] z) {{ y = Neg(x) c = Constant<{attribute}>() z = Concat<axis = 0>(d) d = Reshape(c, s) s = Constant<value = int64[1] {{-1}}>() }}"
    result = assert_fires(RULE, graph(text, opset), {"Concat": 1, "Neg": 1, "Reshape": 1})
    value = result.graph.initializers["c"]
    assert value.dtype == dtype
    tensor = constant_tensor(value)
    assert tensor is not None
    assert np.asarray(tensor.numpy()).shape == shape


def test_strings() -> None:
    model = loaded("g (float[2] x) => (float[2] y, bool[2] z) { y = Neg(x) z = Cast<to = 9>(x) }")
    node = ir.Node("", "Constant", [], [ir.AttrStrings("value_strings", ["a", "b"])], num_outputs=1, name="c")
    reader = ir.Node("", "Identity", [node.outputs[0]], num_outputs=1, name="r")
    model.graph.extend([node, reader])
    node.outputs[0].name, reader.outputs[0].name = "s", "t"
    reader.outputs[0].type, reader.outputs[0].shape = ir.TensorType(ir.DataType.STRING), ir.Shape([2])
    model.graph.outputs.append(reader.outputs[0])
    result, report = checked(RULE, model)
    assert [h.anchor for h in report.hits] == ["c"]
    stored = constant(result.graph.initializers["s"])
    assert stored is not None
    assert stored.tolist() == [b"a", b"b"]
    assert_same(model, result)


@pytest.mark.parametrize("kind", ["BFLOAT16", "INT4", "UINT4", "FLOAT8E4M3FN"])
def test_edge_43_small_types_stay_what_they_are(kind: str) -> None:
    dtype = ir.DataType[kind]
    array = np.array([1, 2, 3, 0]).astype(dtype.numpy())
    tensor = onnx.helper.make_tensor("t", dtype.value, [4], array.astype(np.float32))
    nodes = [
        onnx.helper.make_node("Constant", [], ["c"], name="c", value=tensor),
        onnx.helper.make_node("Cast", ["c"], ["d"], name="d", to=1),
        onnx.helper.make_node("Add", ["x", "d"], ["y"], name="y"),
    ]
    info = [onnx.helper.make_tensor_value_info(n, 1, [4]) for n in ("x", "y")]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", info[:1], info[1:]),
        opset_imports=[onnx.helper.make_opsetid("", 21)],
        ir_version=10,
    )
    model = shapes.infer(files.load(proto).model)
    result, report = checked(RULE, model)
    assert (len(report.hits), report.rolled_back) == (1, [])
    assert result.graph.initializers["c"].dtype == dtype
    assert_same(model, result)


BRANCHES = (
    "g (float[2] x, bool c) => (float[2] y) { y = If(c) <"
    "then_branch = p () => (float[2] a) { k = Constant<value = float[2] {1, 2}>() a = Add(x, k) },"
    "else_branch = q () => (float[2] a) { k = Constant<value = float[2] {3, 4}>() a = Mul(x, k) }> }"
)


def test_2_bodies() -> None:
    result = assert_fires(RULE, BRANCHES, {"Add": 1, "If": 1, "Mul": 1})
    assert [sorted(g.initializers) for g in graphs(result)] == [[], ["k"], ["k"]] or all(
        len(g.initializers) == 1 for g in list(graphs(result))[1:]
    )


def test_2_a_loop_body() -> None:
    text = (
        "g (float[2] x, int64 n) => (float[2] y) { c = Constant<value = bool {1}>() y = Loop(n, c, x) <body = b (int64 i,"
        " bool ci, float[2] a) => (bool co, float[2] a2) { co = Identity(ci) k = Constant<value_float = 0.5>()"
        " a2 = Mul(a, k) }> }"
    )
    assert_fires(RULE, text, {"Identity": 1, "Loop": 1, "Mul": 1})


def test_several_readers_and_a_body_among_them() -> None:
    text = (
        "g (float[2] x, bool c) => (float[2] y, float[2] z) { k = Constant<value = float[2] {1, 2}>() z = Add(x, k) y = If(c) <"
        "then_branch = p () => (float[2] a) { a = Add(x, k) }, else_branch = q () => (float[2] a) { a = Mul(x, k) }> }"
    )
    result = assert_fires(RULE, text, {"Add": 2, "If": 1, "Mul": 1})
    assert list(result.graph.initializers) == ["k"]


KEPT = {
    "5 edge 46: an output": "g (float[2] x) => (float[2] y, float[2] k) { k = Constant<value = float[2] {1, 2}>() y = Add(x, k) }",
    "5 the output of a branch": (
        "g (float[2] x, bool c) => (float[2] y) { y = If(c) <"
        "then_branch = p () => (float[2] a) { a = Constant<value = float[2] {1, 2}>() },"
        "else_branch = q () => (float[2] a) { a = Neg(x) }> }"
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    assert_left_alone(RULE, KEPT[case])


def test_3_sparse() -> None:
    values = onnx.helper.make_tensor("v", 1, [1], [5.0])
    indices = onnx.helper.make_tensor("i", 7, [1], [1])
    nodes = [
        onnx.helper.make_node("Constant", [], ["c"], sparse_value=onnx.helper.make_sparse_tensor(values, indices, [3])),
        onnx.helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    info = [onnx.helper.make_tensor_value_info(n, 1, [3]) for n in ("x", "y")]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", info[:1], info[1:]),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    model = shapes.infer(files.load(proto).model)
    result, report = checked(RULE, model)
    assert report.rolled_back == []
    assert_same(model, result)


def test_4_a_functions_attribute() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[2] x) => (float[2] y) { y = local.f<alpha = 0.5>(x) }'
        ' <domain: "local", opset_import: ["" : 17]> f <alpha> (a) => (b) {'
        " k = Constant<value_float: float = @alpha>() b = Mul(a, k) }"
    )
    assert_left_alone(RULE, text)


def test_the_model_it_was_applied_to_is_not_touched() -> None:
    model = loaded(BRANCHES)
    before = op_histogram(model)
    checked(RULE, model)
    assert op_histogram(model) == before


SABOTAGE = "g (float[2] x) => (float[2] y) { [n] k = Constant<value = float[2] {1, 2}>() y = Add(x, k) }"


def test_sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_caught(RULE, SABOTAGE, wrong_element(1), monkeypatch)
