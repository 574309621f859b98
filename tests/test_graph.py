from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import files, graph
from edgeopt.graph import Names, TensorSpec
from edgeopt.oracle import Oracle, run_checked
from edgeopt.passes.dead_code import DeadCode
from edgeopt.protos import all_graphs
from edgeopt.shapes import infer
from tests.models import filled, model

IF = """g (float[1] x, bool c) => (float[1] y) <float[1] a = {1}> { y = If(c) <
      then_branch = p () => (float[1] u) <float[1] b = {2}> { u = If(c) <
        then_branch = r () => (float[1] v) <float[1] d = {4}> { v = Add(x, d) },
        else_branch = s () => (float[1] v) { v = Constant<value = float[1] {5}>() }> },
      else_branch = q () => (float[1] u) <float[1] d = {3}> { u = Add(x, d) }> }"""


def node(text: str) -> ir.Node:
    return next(iter(model(text).graph))


@pytest.mark.parametrize(
    ("dims", "found", "static"),
    [
        ("2,3", (2, 3), (2, 3)),
        ("N,3", ("N", 3), None),
        ("?,3", (None, 3), None),
        ("-1,3", (None, 3), None),
        ("0,3", (0, 3), (0, 3)),
        ("", (), ()),
    ],
)
def test_dims(dims: str, found: graph.Dims, static: tuple[int, ...] | None) -> None:
    kind = f"float[{dims}]" if dims else "float"
    value = model(f"g ({kind} x) => ({kind} y) {{ y = Neg(x) }}").graph.inputs[0]
    assert graph.dims_of(value) == found
    assert graph.static_shape(value) == static


def test_dims_of_an_unknown_rank() -> None:
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))
    assert graph.dims_of(value) is None
    assert graph.static_shape(value) is None
    assert graph.spec_of(value).describe() == "float32[?]"


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("float", np.dtype(np.float32)),
        ("int64", np.dtype(np.int64)),
        ("bool", np.dtype(bool)),
        ("string", np.dtype(object)),
        ("bfloat16", np.dtype(ir.DataType.BFLOAT16.numpy())),
    ],
)
def test_dtype(kind: str, dtype: np.dtype) -> None:
    assert graph.dtype_of(model(f"g ({kind}[1] x) => ({kind}[1] y) {{ y = Identity(x) }}").graph.inputs[0]) == dtype


def test_dtype_of_what_is_no_tensor() -> None:
    made = model("g (seq(float[1]) x, optional(float[1]) o) => (int64 y) { y = SequenceLength(x) }")
    assert [graph.dtype_of(v) for v in made.graph.inputs] == [None, None]
    assert graph.dtype_of(ir.Value(name="v")) is None
    assert graph.dtype_of(ir.Value(name="v", type=ir.TensorType(ir.DataType.UNDEFINED))) is None
    assert graph.spec_of(made.graph.inputs[0]).describe().startswith("non-tensor")


def test_specs() -> None:
    made = model("g (float[N,?,2] x, float[1] w, int64 i) => (float[M] y) <float[1] w = {1}> { y = Odd(x, w, i) }")
    assert graph.input_specs(made) == [
        TensorSpec("x", np.dtype(np.float32), ("N", None, 2)),
        TensorSpec("i", np.dtype(np.int64), ()),
    ]
    assert [s.describe() for s in graph.input_specs(made)] == ["float32[N,?,2]", "int64[]"]
    assert graph.output_specs(made) == [TensorSpec("y", np.dtype(np.float32), ("M",))]


def test_graphs_in_the_order_of_their_nodes() -> None:
    assert [g.name for g in graph.graphs(model(IF))] == ["g", "p", "r", "s", "q"]


def test_is_op() -> None:
    plain = node("g (float[1] x) => (float[1] y) { y = Neg(x) }")
    assert graph.is_op(plain, "Exp", "Neg")
    assert not graph.is_op(plain, "Exp")
    assert not graph.is_op(None, "Neg")
    other = node('<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[1] x) => (float[1] y) { y = my.Neg(x) }')
    assert not graph.is_op(other, "Neg")
    other.domain = "ai.onnx"
    assert graph.is_op(other, "Neg")


def test_opset() -> None:
    made = model(IF)
    assert graph.opset(made) == 17
    made.opset_imports["ai.onnx"] = 19
    assert graph.opset(made) == 19
    del made.opset_imports[""], made.opset_imports["ai.onnx"]
    assert graph.opset(made) == 1


@pytest.mark.parametrize(
    ("attribute", "wanted"),
    [
        ("value = float[2] {1, 2}", np.array([1, 2], np.float32)),
        ("value_float = 1.5", np.array(1.5, np.float32)),
        ("value_floats = [1.5, 2.0]", np.array([1.5, 2], np.float32)),
        ("value_int = 7", np.array(7, np.int64)),
        ("value_ints = [7, 8]", np.array([7, 8], np.int64)),
        ('value_string = "a"', np.array("a", object)),
        ('value_strings = ["a", "b"]', np.array(["a", "b"], object)),
    ],
)
def test_constant_nodes(attribute: str, wanted: graph.Array) -> None:
    value = node(f"g () => (float[N] y) {{ y = Constant<{attribute}>() }}").outputs[0]
    found = graph.constant(value)
    assert found is not None
    assert found.shape == wanted.shape
    assert (
        [str(v) for v in np.char.decode(found.astype("S")).ravel()] == list(wanted.ravel())
        if wanted.dtype == object
        else (found.dtype == wanted.dtype and np.array_equal(found, wanted))
    )


def test_asking_for_a_constant_changes_nothing() -> None:
    made = model("g () => (float[2] y) { y = Constant<value = float[2] {1, 2}>() }")
    before = ir.to_proto(made).SerializeToString()
    graph.constant(made.graph.outputs[0])
    graph.weight_tensors(made)
    assert ir.to_proto(made).SerializeToString() == before


def test_what_is_no_constant() -> None:
    made = model(
        "g (float[1] x, float[1] w) => (float[1] y, float[1] z) <float[1] w = {1}, float[1] v = {2}>"
        " { y = Add(x, w) z = Neg(v) }"
    )
    assert graph.constant(None) is None
    assert graph.constant(made.graph.inputs[0]) is None
    assert graph.constant(made.graph.inputs[1]) is None  # callers may override it
    assert graph.constant(made.graph.outputs[0]) is None
    assert graph.constant(made.graph.initializers["v"]) == 2
    sparse = onnx.NodeProto(op_type="Constant", output=["s"])
    sparse.attribute.add(name="sparse_value", type=11).sparse_tensor.dims.append(2)
    empty = ir.Node("", "Constant", [], num_outputs=1)
    assert graph.constant(empty.outputs[0]) is None
    reference = ir.Node("", "Constant", [], [ir.RefAttr("value", "outer", ir.AttributeType.TENSOR)], num_outputs=1)
    assert graph.constant(reference.outputs[0]) is None


def test_attribute() -> None:
    pool = node("g (float[1,1,4,4] x) => (float[1,1,3,3] y) { y = MaxPool<kernel_shape = [2, 2]>(x) }")
    assert list(graph.attribute(pool, "kernel_shape")) == [2, 2]
    assert graph.attribute(pool, "pads", 5) == 5
    pool.attributes["pads"] = ir.RefAttr("pads", "outer", ir.AttributeType.INTS)
    assert graph.attribute(pool, "pads", 5) == 5


def test_inputs_and_readers() -> None:
    made = model(
        "g (float[2] x, float a) => (float[2] y, float[2] z) { t = Clip(x, , a) u = Neg(t) y = Add(u, u) z = Exp(y) }"
    )
    clip, neg, add, _ = made.graph
    assert graph.input_or_none(clip, 0) is made.graph.inputs[0]
    assert graph.input_or_none(clip, 1) is None
    assert graph.input_or_none(clip, 9) is None
    assert graph.only_consumer(clip.outputs[0]) is neg
    assert graph.only_consumer(neg.outputs[0]) is None  # read twice by one node
    assert graph.only_consumer(add.outputs[0]) is None  # leaves the graph


def test_has_subgraph() -> None:
    outer = model(IF).graph[0]
    assert graph.has_subgraph(outer)
    assert not graph.has_subgraph(node("g (float[1] x) => (float[1] y) { y = Neg(x) }"))


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        (np.dtype(np.float32), (2, 3), 24),
        (np.dtype(np.float32), (), 4),
        (ir.DataType.INT4.numpy(), (3,), 2),
        (ir.DataType.BFLOAT16.numpy(), (3,), 6),
        (np.dtype(object), (3,), None),
        (None, (3,), None),
        (np.dtype(np.float32), None, None),
    ],
)
def test_tensor_bytes(dtype: object, shape: tuple[int, ...] | None, size: int | None) -> None:
    assert graph.tensor_bytes(None if dtype is None else np.dtype(dtype), shape) == size  # type: ignore[call-overload]


def test_stored_tensors() -> None:
    made = model(IF)
    assert sorted(float(t.numpy()[0]) for t in graph.stored_tensors(made)) == [1, 2, 3, 4, 5]
    assert sorted(graph.weight_tensors(made)) == ["a", "b", "d", "v"]


def test_op_histogram() -> None:
    assert graph.op_histogram(model(IF)) == {"Add": 2, "Constant": 1, "If": 2}
    text = '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[1] x) => (float[1] y) { y = my.Op(x) }'
    assert graph.op_histogram(model(text)) == {"my::Op": 1}


def test_names() -> None:
    names = Names(model(filled_names()))
    assert names.fresh("new") == "new"
    assert names.fresh("new") == "new_1"
    assert names.fresh("x") == "x_1"
    assert names.fresh("inner") == "inner_1"
    assert names.fresh("label") == "label_1"
    assert names.fresh("w") == "w_1"
    assert names.fresh("") == "_1"


def filled_names() -> str:
    return (
        "g (float[1] x, bool c) => (float[1] y) <float[1] w = {1}> { [label] y = If(c) <"
        "then_branch = p () => (float[1] u) { inner = Neg(w) u = Add(x, inner) },"
        "else_branch = q () => (float[1] u) { u = Neg(x) }> }"
    )


def test_shapes_with() -> None:
    assert graph.shapes_with(("N", None, 3, "M"), {"N": 7}, 5) == (7, 5, 3, 5)
    assert filled("g (float[1] x) => (float[1] y) { y = Neg(x) }").graph.name == "g"


def several_bodies() -> onnx.ModelProto:
    """A custom operator that holds a list of bodies."""
    message = filled(
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[2] x) => (float[2] y) { y = my.Op(x) }'
    )
    bodies = message.graph.node[0].attribute.add(name="bodies", type=onnx.AttributeProto.GRAPHS)
    for k in range(2):
        text = f"b{k} () => (float[N] u) <float[2] w = {{1, 2}}> {{ t = Add(x, w) u = Neg(t) }}"
        bodies.graphs.add().CopyFrom(onnx.parser.parse_graph(text))
    return message


def test_lists_of_bodies() -> None:
    made = infer(files.load(several_bodies()).model)
    assert [g.name for g in graph.graphs(made)] == ["g", "b0", "b1"]
    assert [g.name for g in all_graphs(several_bodies().graph)] == ["g", "b0", "b1"]
    dead, report = run_checked(DeadCode(), made, Oracle(made))
    assert (dead, report.hits) == (made, [])


@pytest.mark.parametrize(
    ("node", "wanted"),
    [
        ("y = Shape(x)", [2, 3, 4]),
        ("y = Shape <start = 1> (x)", [3, 4]),
        ("y = Shape <start = 0, end = -1> (x)", [2, 3]),
        ("y = Size(x)", 24),
        ("y = Shape(s)", None),
        ("y = Neg(x)", None),
    ],
)
def test_shape_value(node: str, wanted: list[int] | int | None) -> None:
    made = model(f"g (float[2,3,4] x, float[N] s) => (y) {{ {node} }}")
    found = graph.shape_value(made.graph[0])
    if wanted is None:
        assert found is None
    else:
        assert found is not None
        assert found.dtype == np.int64
        assert found.tolist() == wanted


def test_constant_value() -> None:
    found = graph.constant_value("c", np.ones((2, 3), np.float16))
    assert (found.name, found.dtype, found.shape) == ("c", ir.DataType.FLOAT16, ir.Shape([2, 3]))
    assert found.const_value is not None
    assert np.array_equal(found.const_value.numpy(), np.ones((2, 3)))
