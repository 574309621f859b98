from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt.errors import ModelError
from edgeopt.protos import all_graphs, check_tensors, densify, element_bits, every_tensor, expected_bytes, lost_in_ir
from tests.models import proto

IF = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    g (float[1] x, bool c) => (float[1] y) <float[1] a = {1}> { y = If(c) <
      then_branch = p () => (float[1] u) <float[1] b = {2}> { u = If(c) <
        then_branch = r () => (float[1] v) <float[1] d = {4}> { v = Add(x, d) },
        else_branch = s () => (float[1] v) { v = Constant<value = float[1] {5}>() }> },
      else_branch = q () => (float[1] u) <float[1] e = {3}> { u = local.f(x) }> }
    <domain: "local", opset_import: ["" : 17]> f (m) => (n) { k = Constant<value = float[1] {6}>() n = Add(m, k) }"""


def tensor(**fields: object) -> onnx.ModelProto:
    """A model whose only initializer has these fields."""
    message = proto("g (float[1] x) => (float[1] y) { y = Neg(x) }")
    message.graph.initializer.add(name="w", **fields)
    return message


def test_all_graphs() -> None:
    assert [g.name for g in all_graphs(proto(IF).graph)] == ["g", "p", "r", "s", "q"]


def test_every_tensor_reaches_bodies_functions_and_sparse_parts() -> None:
    message = proto(IF)
    values = helper.make_tensor("sv", 1, [1], [7.0])
    indices = helper.make_tensor("si", 7, [1], [0])
    sparse = helper.make_sparse_tensor(values, indices, [2])
    message.graph.sparse_initializer.add().CopyFrom(sparse)
    attribute = (
        message.functions[0].node.add(op_type="Constant", output=["z"]).attribute.add(name="sparse_value", type=11)
    )
    attribute.sparse_tensor.CopyFrom(sparse)
    node = message.graph.node.add(op_type="Odd", output=["o"])
    node.attribute.add(name="all", type=9).tensors.add().CopyFrom(helper.make_tensor("t", 1, [1], [8.0]))
    values_found = sorted(float(numpy_helper.to_array(t).ravel()[0]) for t in every_tensor(message) if t.data_type == 1)
    assert values_found == [1, 2, 3, 4, 5, 6, 7, 7, 8]
    assert sum(t.data_type == 7 for t in every_tensor(message)) == 2


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        ("FLOAT", 32),
        ("INT8", 8),
        ("BFLOAT16", 16),
        ("INT4", 4),
        ("FLOAT8E4M3FN", 8),
        ("DOUBLE", 64),
        ("COMPLEX128", 128),
    ],
)
def test_element_bits(kind: str, bits: int) -> None:
    assert element_bits(TensorProto.DataType.Value(kind)) == bits


@pytest.mark.parametrize("number", [TensorProto.STRING, TensorProto.UNDEFINED, 99])
def test_element_bits_of_what_has_none(number: int) -> None:
    assert element_bits(number) is None


@pytest.mark.parametrize(
    ("kind", "dims", "size"),
    [(1, [2, 3], 24), (1, [], 4), (1, [0, 5], 0), (22, [3], 2), (8, [3], None), (1, [2**62, 8], 2**67)],
)
def test_expected_bytes(kind: int, dims: list[int], size: int | None) -> None:
    assert expected_bytes(TensorProto(data_type=kind, dims=dims)) == size


BAD = {
    "too few bytes": (tensor(data_type=1, dims=[2], raw_data=b"1234"), r"has 4 bytes, its dims \[2\] ask for 8"),
    "too many bytes": (tensor(data_type=1, dims=[1], raw_data=b"12345678"), "has 8 bytes"),
    "sub-byte": (tensor(data_type=TensorProto.INT4, dims=[3], raw_data=b"1"), "ask for 2"),
    "too few values": (tensor(data_type=1, dims=[3], float_data=[1.0]), "has 1 values"),
    "no values": (tensor(data_type=7, dims=[1]), "has 0 values"),
    "huge": (tensor(data_type=1, dims=[2**62, 2**62], float_data=[1.0]), "ask for 2126764793"),
    "huge bytes": (tensor(data_type=6, dims=[10**12]), "has 0 values"),
    "int32_data": (tensor(data_type=TensorProto.INT8, dims=[4], int32_data=[1, 2]), "has 2 values"),
    "bfloat16": (tensor(data_type=TensorProto.BFLOAT16, dims=[10**9]), "has 0 values"),
    "packed int4": (tensor(data_type=TensorProto.UINT4, dims=[5], int32_data=[1, 2]), "ask for 3"),
    "strings": (tensor(data_type=8, dims=[2], string_data=[b"a"]), "has 1 values"),
    "complex": (tensor(data_type=TensorProto.COMPLEX64, dims=[2], float_data=[1.0, 2.0]), "ask for 4"),
    "negative": (tensor(data_type=1, dims=[-2, -2], raw_data=b"1" * 16), "negative dimension"),
    "written twice": (
        proto("g (float[1] x) => (float[1] y) { y = Neg(x) y = Exp(x) }"),
        r"tensor 'y' is written twice, again by node '' \(Exp\)",
    ),
    "an input written": (proto("g (float[1] x) => (float[1] x) { x = Neg(x) }"), "'x' is written twice"),
    "an initializer written": (
        proto("g (float[1] x) => (float[1] w) <float[1] w = {1}> { w = Neg(x) }"), "'w' is written twice",
    ),
    "read, never written": (
        proto("g (float[1] x) => (float[1] y) { [n] y = Add(x, nothing) }"),
        r"node 'n' \(Add\) reads the tensor 'nothing', which is no input",
    ),
    "given out, never written": (
        proto("g (float[1] x) => (float[1] z) { y = Neg(x) }"), "the graph gives out the tensor 'z'",
    ),
    "read by a body, never written": (
        proto(
            "g (float[1] x, bool c) => (float[1] y) { y = If(c) <then_branch = p () => (float[1] u) {"
            " u = Neg(nothing) }, else_branch = q () => (float[1] u) { u = Exp(x) }> }"
        ),
        "reads the tensor 'nothing'",
    ),
    "written by the other branch only": (
        proto(
            "g (float[1] x, bool c) => (float[1] y) { y = If(c) <then_branch = p () => (float[1] u) {"
            " t = Neg(x) u = Exp(t) }, else_branch = q () => (float[1] u) { u = Exp(t) }> }"
        ),
        "reads the tensor 't'",
    ),
    "read by a function, never written": (
        proto(
            '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[1] x) => (float[1] y) { y = local.f(x) }'
            ' <domain: "local", opset_import: ["" : 17]> f (a) => (b) { b = Add(a, x) }'
        ),
        "reads the tensor 'x'",
    ),
    "twice by one node": (proto("g (float[2] x) => (float[1] y) { y, y = Split(x) }"), "'y' is written twice"),
    "inside a body": (
        proto(
            "g (float[1] x, bool c) => (float[1] y) { y = If(c) <then_branch = p () => (float[1] u) {"
            " u = Neg(x) u = Exp(x) }, else_branch = q () => (float[1] u) { u = Exp(x) }> }"
        ),
        "'u' is written twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_check_tensors_refuses(case: str) -> None:
    message, text = BAD[case]
    with pytest.raises(ModelError, match=text) as caught:
        check_tensors(message, "m.onnx")
    assert str(caught.value).startswith("m.onnx")


@pytest.mark.parametrize(
    "message",
    [
        proto(IF),
        tensor(data_type=1, dims=[0]),
        tensor(data_type=TensorProto.FLOAT16, dims=[2], int32_data=[1, 2]),
        tensor(data_type=TensorProto.INT4, dims=[3], int32_data=[1, 2]),
        tensor(data_type=99, dims=[3]),
        tensor(data_type=1, dims=[10**12], data_location=TensorProto.EXTERNAL),
    ],
)
def test_check_tensors_accepts(message: onnx.ModelProto) -> None:
    check_tensors(message, "m.onnx")


def test_skipped_outputs_may_repeat() -> None:
    message = proto("g (float[4] x) => (float[1] y) { y, b, c = Split(x) }")
    message.graph.node[0].output[1] = message.graph.node[0].output[2] = ""
    check_tensors(message, "m")


def sparse(dims: list[int], indices: np.ndarray, values: list[float]) -> onnx.SparseTensorProto:
    made = onnx.SparseTensorProto(dims=dims)
    made.values.CopyFrom(helper.make_tensor("s", 1, [len(values)], values))
    made.indices.CopyFrom(numpy_helper.from_array(indices.astype(np.int64), "i"))
    return made


def model_with(sparse_tensor: onnx.SparseTensorProto, *, in_node: bool = False) -> onnx.ModelProto:
    message = proto("g (float[2,2] x) => (float[2,2] y) { y = Add(x, s) }")
    if in_node:
        message.graph.node.insert(0, onnx.NodeProto(op_type="Constant", output=["s"]))
        message.graph.node[0].attribute.add(name="sparse_value", type=11).sparse_tensor.CopyFrom(sparse_tensor)
    else:
        message.graph.sparse_initializer.add().CopyFrom(sparse_tensor)
    return message


@pytest.mark.parametrize("in_node", [True, False])
@pytest.mark.parametrize("indices", [np.array([1, 2]), np.array([[0, 1], [1, 0]])])
def test_densify(in_node: bool, indices: np.ndarray) -> None:
    message = model_with(sparse([2, 2], indices, [5, 7]), in_node=in_node)
    assert lost_in_ir(message) == (
        "sparse tensor in attribute 'sparse_value' of node 'Constant'" if in_node else "sparse initializer 's'"
    )
    notes = densify(message, None)
    assert len(notes) == 1
    assert "dense" in notes[0]
    assert lost_in_ir(message) is None
    dense = message.graph.node[0].attribute[0].t if in_node else message.graph.initializer[0]
    assert numpy_helper.to_array(dense).tolist() == [[0, 5], [7, 0]]


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (sparse([2, 2], np.array([1, 4]), [5, 7]), "do not fit"),
        (sparse([2, 2], np.array([[0, 0], [0, 2]]), [5, 7]), "do not fit"),
        (sparse([2, 2], np.array([1, 2, 3]), [5, 7]), "do not fit"),
        (sparse([10**6, 10**6], np.array([1, 2]), [5, 7]), "too large"),
        (sparse([-1, -1], np.array([0, 0]), [5, 7]), "too large"),
    ],
)
def test_densify_refuses(made: onnx.SparseTensorProto, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        densify(model_with(made), None)


def test_densify_drops_training_information() -> None:
    message = proto(IF)
    message.training_info.add()
    assert lost_in_ir(message) == "training_info"
    assert densify(message, None) == []
    assert not message.training_info
