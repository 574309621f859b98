"""Models at the edges of the specification, through the whole of ``simplify``: what must be kept, and what accepted."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import api, files, saving
from edgeopt.graph import input_specs, op_histogram, output_specs
from tests.models import assert_same, filled, proto


def simplified(message: onnx.ModelProto) -> tuple[ir.Model, ir.Model]:
    """The model before and after, with no roll-back, and the caller's message untouched (edge 75)."""
    given = message.SerializeToString(deterministic=True)
    result = api.simplify(message)
    assert message.SerializeToString(deterministic=True) == given
    assert [p.get("rolled_back") for p in result.report["passes"] if p.get("rolled_back")] == []
    before = files.load(message).model
    again = files.load(saving.serialize(result.model)).model
    assert input_specs(again) == input_specs(before)
    assert output_specs(again) == output_specs(before)
    return before, again


@pytest.mark.parametrize("trips", [3, 40])
def test_edge_68_loop_and_scan_bodies_read_folded_constants(trips: int) -> None:
    before, after = simplified(
        filled(
            f"g (float[2] x, float[{trips},2] xs) => (float[2] y, float[{trips},2] z) <float[2] w = {{0.5, 0.25}},"
            f" int64 n = {{{trips}}}> {{ k = Exp(w) y = Loop(n, , x) <body = b (int64 i, bool ci, float[2] a) =>"
            " (bool co, float[2] r) { co = Identity(ci) q = Mul(k, a) r = Mul(q, w) }> z = Scan<num_scan_inputs = 1,"
            " body = s (float[2] v) => (float[2] o) { m = Neg(k) o = Add(m, v) }>(xs) }"
        )
    )
    assert ("Loop" in op_histogram(after)) == (trips == 40)
    assert "Exp" not in op_histogram(after)
    assert_same(before, after)


def test_edge_69_unused_inputs_stay() -> None:
    before, after = simplified(
        filled("g (float[2] x, float[3] a, int64[N] b) => (float[2] y) { d = Exp(a) y = Neg(x) }")
    )
    assert [v.name for v in after.graph.inputs] == ["x", "a", "b"]
    assert_same(before, after)


def test_edge_70_what_is_written_about_the_model_stays() -> None:
    message = filled(
        "g (float[batch,3,H,W] x) => (float[batch,4,H,W] y) <float[4,3,1,1] w, float one = {1}>"
        " { [conv] a = Conv(x, w) b = Mul(a, one) [act] y = Relu(b) }"
    )
    message.doc_string, message.producer_name, message.graph.doc_string = "text", "me", "graph text"
    message.metadata_props.add(key="author", value="me")
    message.graph.node[0].doc_string = "layer"
    message.graph.node[0].metadata_props.add(key="source", value="model.py:3")
    message.graph.input[0].doc_string = "image"
    note = message.graph.quantization_annotation.add(tensor_name="y")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="one")
    _, after = simplified(message)
    written = saving.to_proto(after)
    assert (written.doc_string, written.producer_name, written.graph.doc_string) == ("text", "me", "graph text")
    assert {p.key for p in written.metadata_props} >= {"author"}
    conv = next(n for n in written.graph.node if n.name == "conv")
    assert (conv.doc_string, [(p.key, p.value) for p in conv.metadata_props]) == ("layer", [("source", "model.py:3")])
    assert written.graph.input[0].doc_string == "image"
    dims = [d.dim_param for d in written.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", "", "H", "W"]
    assert [a.tensor_name for a in written.graph.quantization_annotation] == ["y"]


@pytest.mark.parametrize("domain", ["my", ""])
def test_edge_71_operators_that_nobody_knows_stay(domain: str) -> None:
    """A vendor's domain, or the standard one."""
    message = filled('<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[2] x) => (float[2] y, float[2] z) {'
                     " a = Identity(x) b = my.Magic<level = 3>(a) c = Dropout(b) y = Neg(c) z = Exp(a) }")  # fmt: skip
    next(n for n in message.graph.node if n.op_type == "Magic").domain = domain
    result = api.simplify(message)
    node = next(n for n in result.model.graph if n.op_type == "Magic")
    assert (node.domain, node.attributes["level"].value) == (domain, 3)


def test_edge_72_functions_with_attributes_and_a_batchnorm() -> None:
    bn = "float[4] gamma, float[4] beta, float[4] mean, float[4] var"
    before, after = simplified(
        filled(
            '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[N,3,6,6] x) => (float[N,4,4,4] y)'
            f" <float[4,3,3,3] w, {bn}> {{ y = local.block<eps = 0.01>(x, w, gamma, beta, mean, var) }}"
            ' <domain: "local", opset_import: ["" : 17]> block <eps> (a, w, s, b, m, v) => (r) {'
            " t = Conv(a, w) u = BatchNormalization<epsilon: float = @eps>(t, s, b, m, v) r = Relu(u) }"
        )
    )
    assert op_histogram(after) == {"Conv": 1, "Relu": 1}
    assert not after.functions
    assert_same(before, after)


def test_edge_73_initializers_that_had_to_be_inputs() -> None:
    message = filled("g (float[1,3,4,4] x, float[4,3,3,3] w) => (float[1,4,2,2] y) { a = Conv(x, w) y = Identity(a) }")
    message.ir_version = 3
    del message.opset_import[:]
    message.opset_import.add(domain="", version=8)
    message.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"))
    result = api.simplify(message)
    assert [v.name for v in result.model.graph.inputs] == ["x"]
    assert result.report["model"]["repairs"]


def test_edge_74_unsorted_nodes() -> None:
    before, after = simplified(
        proto(
            "g (float[2] x, bool c) => (float[2] y) { y = If(c) <then_branch = p () => (float[2] a)"
            " { a = Neg(t) t = Exp(k) },"
            " else_branch = q () => (float[2] a) { a = Abs(k) }> k = Identity(x) }"
        )
    )
    for c in (True, False):
        assert_same(before, after, c=np.array(c))
