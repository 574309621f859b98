from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt import files, saving
from edgeopt.errors import ExternalDataError, ModelError, UsageError
from edgeopt.graph import constant, weight_tensors
from edgeopt.runtime import Session
from tests.models import assert_same, filled, model, proto

SMALL = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"
BIG = "g (float[300] x) => (float[300] y) <float[300] w, float[300] v> { t = Mul(x, v) y = Add(t, w) }"


def small() -> bytes:
    return proto(SMALL).SerializeToString()


def external(folder: Path, name: str = "m.onnx") -> Path:
    onnx.save(filled(BIG), folder / name, save_as_external_data=True, location=f"{name}.bin", size_threshold=0)
    return folder / name


# ------------------------------------------------------------------------------------------------ load: what it takes
def test_load_takes_a_path_bytes_a_message_and_an_ir_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(small())
    given = [str(path), path, small(), bytearray(small()), memoryview(small()), proto(SMALL), model(SMALL)]
    for source in given:
        found = files.load(source)
        assert [n.op_type for n in found.model.graph] == ["Add"]
        assert found.path == (path if source in (str(path), path) else None)
        assert found.checker_error is None
        assert found.untouchable is None
    assert files.load(path).file_bytes == len(small())
    assert len(files.load(path).sha256) == 64
    assert files.load(path).sha256 == files.load(small()).sha256


@pytest.mark.parametrize("source", [None, 3, ["m.onnx"]])
def test_load_of_anything_else(source: object) -> None:
    with pytest.raises(UsageError, match="expected a path, bytes"):
        files.load(source)


def test_load_never_changes_the_callers_object() -> None:
    message = proto("g (float[2] x) => (float[2] y) { y = Neg(t) t = Exp(x) }")
    before = message.SerializeToString(deterministic=True)
    files.load(message)
    assert message.SerializeToString(deterministic=True) == before
    given = model(SMALL)
    text = saving.serialize(given)
    files.load(given)
    assert saving.serialize(given) == text


# ------------------------------------------------------------------------------------------------ load: what it refuses
FOREIGN = {
    "truncated": (small()[:-20], "truncated|no graph"),
    "garbage": (b"\xff" * 100, "does not parse"),
    "text": (b"hello, world", "does not parse|no graph"),
    "html": (b"<!DOCTYPE html><html></html>", "does not parse|no graph"),
    "zeros": (b"\0" * 100, "does not parse"),
    "empty message": (b"", "no graph"),
    "a .ort file": (b"\x20\0\0\0ORTM" + b"\0" * 50, "onnxruntime's .ort"),
    "a .tflite file": (b"\x20\0\0\0TFL3" + b"\0" * 50, "TensorFlow Lite"),
    "a zip": (b"PK\x03\x04" + b"\0" * 50, "zip"),
    "HDF5": (b"\x89HDF\r\n" + b"\0" * 50, "HDF5"),
    "a pickle": (b"\x80\x02" + b"\0" * 50, "pickle"),
    "a graph without a model": (proto(SMALL).graph.SerializeToString(), "does not parse|no graph"),
    "a tensor": (helper.make_tensor("t", 1, [1], [1.0]).SerializeToString(), "does not parse|no graph"),
    "a model without a graph": (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph"),
    "no operator set": (onnx.ModelProto(ir_version=8, graph=proto(SMALL).graph).SerializeToString(), "opset_import"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_load_refuses(case: str, tmp_path: Path) -> None:
    data, message = FOREIGN[case]
    with pytest.raises(ModelError, match=message):
        files.load(data)
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        files.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", range(0, 120, 7))
def test_load_of_any_prefix_is_a_clear_error_or_a_model(length: int) -> None:
    try:
        files.load(small()[:length])
    except ModelError as error:
        assert error.message  # noqa: PT017 -- either outcome is right
    for position in range(0, len(small()), 11):
        damaged = bytearray(small())
        damaged[position] ^= 0xFF
        try:
            files.load(bytes(damaged))
        except ModelError as error:
            assert error.message  # noqa: PT017


def test_load_of_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        files.load(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        files.load(tmp_path)
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelError, match="is empty"):
        files.load(tmp_path / "empty.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelError, match="not a regular file"):
        files.load(tmp_path / "pipe.onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        files.load("m\0.onnx")
    with pytest.raises(ModelError, match="cannot be read: File name too long"):
        files.load("m" * 5000)


def test_load_of_a_file_beyond_2_gib(tmp_path: Path) -> None:
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(2**31)  # sparse: takes no space
    with pytest.raises(ModelError, match="2 GiB"):
        files.load(tmp_path / "huge.onnx")


def nested(depth: int) -> onnx.ModelProto:
    result = proto(
        "g (float[1] x, bool c) => (float[1] y) { y = If(c) <then_branch = a () => (float[1] p) { p = Neg(x) }> }"
    )
    graph = result.graph
    for _ in range(depth):
        node = graph.node[0]
        inner = node.attribute[0].g
        del inner.node[:]
        inner.node.add(op_type="If", input=["c"], output=["p"]).attribute.add(name="then_branch", type=5).g.node.add(
            op_type="Neg", input=["x"], output=["p"]
        )
        inner.node[0].attribute[0].g.output.add(name="p")
        graph = inner
    return result


def test_load_of_deep_nesting() -> None:
    assert files.load(nested(20)).model.graph is not None
    with pytest.raises(ModelError, match="nest"):
        files.load(nested(400))


def test_load_of_an_ir_model_that_cannot_be_a_message() -> None:
    graph = model(SMALL).graph
    for k in range(60):
        body = graph
        node = ir.Node(
            "", "If", [None], [ir.AttrGraph("then_branch", body)], outputs=[ir.Value(name="y")], name=f"n{k}"
        )
        graph = ir.Graph([], [node.outputs[0]], nodes=[node], name="g", opset_imports={"": 17})
    with pytest.raises(ModelError, match="nest"):
        files.load(ir.Model(graph, ir_version=8))


def test_load_of_a_cycle() -> None:
    with pytest.raises(ModelError, match="cycle"):
        files.load(proto("g (float[2] x) => (float[2] y) { y = Add(t, x) t = Neg(y) }"))


def test_load_of_an_unknown_element_type() -> None:
    message = proto(SMALL)
    message.graph.initializer[0].data_type = 99
    with pytest.raises(ModelError, match="cannot be understood"):
        files.load(message)


# ------------------------------------------------------------------------------------------------ load: what it repairs
def test_unsorted_nodes_are_sorted() -> None:
    found = files.load(proto("g (float[2] x) => (float[2] y) { y = Neg(t) t = Exp(x) }"))
    assert [n.op_type for n in found.model.graph] == ["Exp", "Neg"]
    assert "nodes of graph 'g' sorted topologically" in found.repairs
    assert found.checker_error is None


def test_unsorted_nodes_inside_a_body_are_sorted() -> None:
    found = files.load(
        proto(
            "g (float[2] x, bool c) => (float[2] y) { y = If(c) <then_branch = a () => (float[2] p) {"
            " p = Neg(t) t = Exp(x) }, else_branch = b () => (float[2] p) { p = Neg(x) }> }"
        )
    )
    assert "nodes of graph 'a' sorted topologically" in found.repairs


def test_nodes_get_names_of_their_own() -> None:
    found = files.load(
        proto("g (float[2] x) => (float[2] z) { [twice] y = Neg(x) [twice] u = Neg(y) v = Neg(u) [Neg_v] z = Exp(v) }")
    )
    names = [n.name for n in found.model.graph]
    assert len(set(names)) == 4
    assert names[0] == "twice"
    assert "2 nodes without a name of their own were named" in found.repairs or "3 nodes" in str(found.repairs)


def test_names_are_unique_across_bodies() -> None:
    found = files.load(
        proto(
            "g (float[2] x, bool c) => (float[2] y) { y = If(c) <then_branch = a () => (float[2] p) { [n] p = Neg(x) },"
            " else_branch = b () => (float[2] p) { [n] p = Exp(x) }> }"
        )
    )
    names = [n.name for g in (found.model.graph, *found.model.graph.subgraphs()) for n in g]
    assert len(set(names)) == len(names) == 3


def test_ir_version_3_lists_initializers_as_inputs() -> None:
    found = files.load(
        proto(
            '<ir_version: 3, opset_import: ["" : 7]>'
            "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"
        )
    )
    assert [v.name for v in found.model.graph.inputs] == ["x"]
    assert found.model.ir_version == 4
    assert constant(found.model.graph.initializers["w"]) is not None
    assert found.repairs[0] == "IR version 3 → 4: 1 initializers are no longer listed as inputs"
    assert found.checker_error is None


def test_ir_version_4_lets_callers_override_them() -> None:
    text = SMALL.replace("(float[2] x)", "(float[2] x, float[2] w)")
    found = files.load(proto('<ir_version: 4, opset_import: ["" : 9]>' + text))
    assert [v.name for v in found.model.graph.inputs] == ["x", "w"]
    assert constant(found.model.graph.initializers["w"]) is None
    assert found.repairs == ("1 nodes without a name of their own were named",)


def test_ir_version_below_3_needs_no_opset_import() -> None:
    message = proto(SMALL)
    message.ir_version = 2
    del message.opset_import[:]
    found = files.load(message)
    assert "no opset_import (IR version < 3): opset 1 assumed" in found.repairs


@pytest.mark.parametrize(
    "text",
    [
        "g (float[2] x) => (float[2] y) { y = NoSuchOperator(x) }",
        "g (float[-1] x) => (float[2] y) { y = Add(x) }",
    ],
)
def test_what_can_be_read_is_read_and_the_checkers_complaint_kept(text: str) -> None:
    assert files.load(proto(text)).checker_error


# ------------------------------------------------------------------------------------------------ what is kept
def test_everything_beside_the_graph_survives() -> None:
    message = proto(
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1], producer_name: "p", producer_version: "1", domain: "d",'
        ' model_version: 7, doc_string: "about">'
        "g (float[N,2] x) => (float[N,2] y) <float[2] w = {1, 2}> { t = local.f(x) y = Add(t, w) }"
        ' <domain: "local", opset_import: ["" : 17]> f (a) => (b) { b = Neg(a) }'
    )
    message.metadata_props.add(key="k", value="v")
    message.graph.doc_string = "the graph"
    message.graph.node[0].doc_string = "the node"
    message.graph.node[0].metadata_props.add(key="nk", value="nv")
    message.graph.input[0].doc_string = "the input"
    annotation = message.graph.quantization_annotation.add(tensor_name="t")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    written = onnx.load_from_string(saving.serialize(files.load(message).model))
    assert (written.producer_name, written.producer_version, written.domain) == ("p", "1", "d")
    assert (written.model_version, written.doc_string, written.graph.doc_string) == (7, "about", "the graph")
    assert {p.key: p.value for p in written.metadata_props}["k"] == "v"
    assert written.graph.node[0].doc_string == "the node"
    assert {p.key: p.value for p in written.graph.node[0].metadata_props} == {"nk": "nv"}
    assert written.graph.input[0].doc_string == "the input"
    assert written.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert written.graph.quantization_annotation[0].tensor_name == "t"
    assert written.graph.quantization_annotation[0].quant_parameter_tensor_names[0].value == "w"
    assert [f.name for f in written.functions] == ["f"]


@pytest.mark.parametrize(
    "kind", ["BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "INT4", "UINT4", "FLOAT16", "STRING", "BOOL", "COMPLEX64"]
)
def test_every_element_type_survives(kind: str) -> None:
    number = TensorProto.DataType.Value(kind)
    values: Any = [b"a", b"b", b"c"] if kind == "STRING" else [1, 0, 1]
    tensor = helper.make_tensor("w", number, [3], values)
    info = helper.make_tensor_value_info("y", number, [3])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [info], [tensor])
    message = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    written = onnx.load_from_string(saving.serialize(files.load(message).model)).graph.initializer[0]
    assert written.data_type == number
    assert np.array_equal(numpy_helper.to_array(written), numpy_helper.to_array(tensor))


def test_the_same_model_gives_the_same_bytes() -> None:
    assert saving.serialize(files.load(filled(BIG)).model) == saving.serialize(files.load(filled(BIG)).model)


def sparse_model() -> onnx.ModelProto:
    message = proto("g (float[2,2] x) => (float[2,2] y) { y = Add(x, s) }")
    values = helper.make_tensor("s", TensorProto.FLOAT, [2], [5.0, 7.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [1, 2])
    message.graph.sparse_initializer.add().CopyFrom(helper.make_sparse_tensor(values, indices, [2, 2]))
    return message


def test_a_model_with_a_sparse_initializer_is_untouchable() -> None:
    data = sparse_model().SerializeToString(deterministic=True)
    found = files.load(data)
    assert found.untouchable == "sparse initializer 's'"
    assert found.original == data
    assert np.array_equal(np.asarray(constant(found.model.graph.initializers["s"])), [[0, 5], [7, 0]])


def test_a_model_with_training_information_is_untouchable() -> None:
    message = proto(SMALL)
    message.training_info.add().algorithm.CopyFrom(proto(SMALL).graph)
    found = files.load(message)
    assert found.untouchable == "training_info"
    assert found.original == message.SerializeToString(deterministic=True)


# ------------------------------------------------------------------------------------------------ external data
def test_external_data_round_trip(tmp_path: Path) -> None:
    found = files.load(external(tmp_path))
    assert found.checker_error is None
    assert all(isinstance(t, ir.ExternalTensor) for t in weight_tensors(found.model).values())
    assert found.file_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    written = saving.save(found.model, tmp_path / "out" / "n.onnx")
    assert written == [tmp_path / "out" / "n.onnx.data", tmp_path / "out" / "n.onnx"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["n.onnx", "n.onnx.data"]
    assert (tmp_path / "out" / "n.onnx").stat().st_size < 1000
    assert_same(found.model, files.load(tmp_path / "out" / "n.onnx").model, 0)
    feed = {"x": np.ones(300, np.float32)}
    a, b = Session(tmp_path / "m.onnx").run(feed), Session(tmp_path / "out" / "n.onnx").run(feed)
    assert np.array_equal(a["y"], b["y"])


def test_external_data_through_an_ir_model(tmp_path: Path) -> None:
    first = files.load(external(tmp_path))
    assert_same(first.model, files.load(first.model).model, 0)


def test_external_data_of_a_model_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    external(tmp_path / "a")
    (tmp_path / "b" / "m.onnx").symlink_to(tmp_path / "a" / "m.onnx")
    assert files.load(tmp_path / "b" / "m.onnx").checker_error is None


def test_external_data_of_attributes_is_read(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        g (float[2] x) => (float[2] y) { c = Constant<value = float[2] {1, 2}>() t = Mul(x, c) y = local.f(t) }
        <domain: "local", opset_import: ["" : 17]>
        f (a) => (b) { c = Constant<value = float[2] {3, 4}>() b = Add(a, c) }"""
    message = proto(text)
    (tmp_path / "w").write_bytes(np.array([1, 2, 3, 4], np.float32).tobytes())
    for k, tensor in enumerate([message.graph.node[0].attribute[0].t, message.functions[0].node[0].attribute[0].t]):
        tensor.ClearField("float_data")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w"), ("offset", str(8 * k)), ("length", "8")):
            tensor.external_data.add(key=key, value=value)
    (tmp_path / "m.onnx").write_bytes(message.SerializeToString())
    found = files.load(tmp_path / "m.onnx")
    assert found.checker_error is None
    assert_same(found.model, model(text), 0)
    (tmp_path / "out").mkdir()
    assert saving.save(found.model, tmp_path / "out" / "n.onnx") == [tmp_path / "out" / "n.onnx"]
    assert_same(files.load(tmp_path / "out" / "n.onnx").model, model(text), 0)


def with_location(folder: Path, location: str, **entries: str) -> Path:
    external(folder)
    message = onnx.load(folder / "m.onnx", load_external_data=False)
    for tensor in message.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
            elif entry.key in entries:
                entry.value = entries[entry.key]
    (folder / "m.onnx").write_bytes(message.SerializeToString())
    return folder / "m.onnx"


@pytest.mark.parametrize("location", ["../m.onnx.bin", "/m.onnx.bin", "a/../../m", "", "..", "a\\b", "a\0b"])
def test_external_data_that_leaves_the_models_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "m.onnx.bin").write_bytes(bytes(10_000))
    with pytest.raises(ExternalDataError, match="leaves the model's folder"):
        files.load(with_location(tmp_path / "inner", location))


@pytest.mark.parametrize("link_the_folder", [True, False])
def test_external_data_through_a_link(link_the_folder: bool, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "data").write_bytes(bytes(10_000))
    if link_the_folder:
        (tmp_path / "inner" / "d").symlink_to(tmp_path / "secret")
    else:
        (tmp_path / "inner" / "d").mkdir()
        (tmp_path / "inner" / "d" / "data").symlink_to(tmp_path / "secret" / "data")
    with pytest.raises(ExternalDataError, match="goes through a link"):
        files.load(with_location(tmp_path / "inner", "d/data"))


def test_external_data_that_is_missing_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExternalDataError, match="is missing"):
        files.load(with_location(tmp_path, "nothing.bin"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExternalDataError, match="not a regular file"):
        files.load(with_location(tmp_path, "folder"))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "100000000000"}, "wants bytes"),
        ({"offset": "-5"}, "wants bytes"),
        ({"length": "-5"}, "wants bytes"),
        ({"length": "100000000"}, "wants bytes"),
        ({"length": "8"}, "has 8 bytes, its dims"),
        ({"offset": "many"}, "no number"),
    ],
)
def test_external_data_of_a_wrong_extent(entries: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExternalDataError, match=message):
        files.load(with_location(tmp_path, "m.onnx.bin", **entries))


def test_external_data_that_is_too_short(tmp_path: Path) -> None:
    path = external(tmp_path)
    data = (tmp_path / "m.onnx.bin").read_bytes()
    (tmp_path / "m.onnx.bin").write_bytes(data[:-1])
    with pytest.raises(ExternalDataError, match="truncated"):
        files.load(path)


def test_external_data_without_a_path(tmp_path: Path) -> None:
    data = external(tmp_path).read_bytes()
    for source in (data, onnx.load(tmp_path / "m.onnx", load_external_data=False)):
        with pytest.raises(ExternalDataError, match="not given as a path"):
            files.load(source)


def test_external_data_hidden_in_a_sparse_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").write_bytes(bytes(8))
    monkeypatch.chdir(tmp_path / "inner")
    message = sparse_model()
    values = message.graph.sparse_initializer[0].values
    values.ClearField("float_data")
    values.ClearField("raw_data")
    values.data_location = TensorProto.EXTERNAL
    values.external_data.add(key="location", value="../secret")
    (tmp_path / "inner" / "m.onnx").write_bytes(message.SerializeToString())
    with pytest.raises(ExternalDataError, match="leaves the model's folder"):
        files.load(tmp_path / "inner" / "m.onnx")
