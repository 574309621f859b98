"""attention_axes: its numbered cases, where it leaves things as they are, broken versions, a net."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from edgeopt import files
from edgeopt.oracle import Oracle
from edgeopt.passes.attention_axes import AttentionAxes
from edgeopt.rewrite import Rewrite
from edgeopt.simplifier import simplify
from tests import nets
from tests.models import assert_same
from tests.passes.rewriting import assert_rewritten, assert_skipped
from tests.passes.sabotage import Breakage, assert_caught

HISTOGRAM = {"MatMul": 2, "Reshape": 4, "Softmax": 1, "Transpose": 4}
NODES = (
    "q1 = Reshape(q, s) q2 = Transpose<perm = [0,2,1,3]>(q1) k1 = Reshape(k, t) k2 = Transpose<perm = [0,2,3,1]>(k1)"
    " v1 = Reshape(v, t) v2 = Transpose<perm = [0,2,1,3]>(v1) m = MatMul(q2, k2) p = Softmax<axis = -1>(m)"
    " o = MatMul(p, v2) f = Transpose<perm = [0,2,1,3]>(o) [n] y = Reshape(f, b)"
)


def net(
    nodes: str = NODES, *, batch: str = "1", kind: str = "float", opset: int = 17, other: int = 5, outs: str = ""
) -> str:
    """Attention of 2 heads of 3 columns: 5 tokens of q, ``other`` of k and v."""
    first = "0" if batch == "1" else "-1"
    return (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({kind}[{batch},5,6] q, {kind}[{batch},{other},6] k,'
        f" {kind}[{batch},{other},6] v) => ({kind}[{batch},5,6] y{outs}) <int64[4] s = {{{first},5,2,3}},"
        f" int64[4] t = {{{first},{other},2,3}}, int64[3] b = {{{first},5,6}}, {kind} c = {{0.5}}, {kind}[1] d = {{2.0}},"
        f" {kind}[1,1,5,5] mask> {{ {nodes} }}"
    )


def put(old: str, new: str) -> str:
    assert old in NODES
    return NODES.replace(old, new)


SCALED = put("p = Softmax<axis = -1>(m)", "h = Mul(c, m) p = Softmax<axis = 3>(h)")
REWRITES: dict[str, tuple[str, dict[str, int]]] = {
    "1 attention": (net(), HISTOGRAM),
    "1 double": (net(kind="double"), HISTOGRAM),
    "1 opset 9": (net(NODES.replace("axis = -1", "axis = 3"), opset=9), HISTOGRAM),
    "1 opset 21": (net(opset=21), HISTOGRAM),
    "2 scores times a number": (net(SCALED), HISTOGRAM | {"Mul": 1}),
    "2 scores over a number": (net(put("p = Softmax<axis = -1>(m)", "h = Div(m, d) p = Softmax<axis = 3>(h)")), HISTOGRAM | {"Div": 1}),
    "2 q and k times numbers": (
        net(NODES.replace("(q1)", "(q4)").replace("q2 =", "q4 = Mul(q1, c) q2 =").replace("m = MatMul(q2, k2)", "k4 = Mul(k2, d) m = MatMul(q2, k4)")),
        HISTOGRAM | {"Mul": 2},
    ),
    "3 more tokens of k and v": (net(other=7), HISTOGRAM),
}  # fmt: skip


@pytest.mark.parametrize("case", REWRITES)
def test_rewrites(case: str) -> None:
    text, histogram = REWRITES[case]
    result = assert_rewritten(AttentionAxes(), text, histogram)
    assert all(len(n.outputs[0].shape or ()) == 3 for n in result.graph)


LEFT: dict[str, str] = {
    "4 an open batch": net(batch="N"),
    "4 a batch of 2": net(batch="2"),
    "5 k like q": net(put("k2 = Transpose<perm = [0,2,3,1]>", "k2 = Transpose<perm = [0,2,1,3]>")),
    "5 heads stay last": net(put("f = Transpose<perm = [0,2,1,3]>", "f = Transpose<perm = [0,1,2,3]>")),
    "6 a mask": net(put("p = Softmax<axis = -1>(m)", "h = Add(m, mask) p = Softmax<axis = 3>(h)")),
    "6 no Softmax": net(put("p = Softmax<axis = -1>(m)", "p = Mul(m, c)")),
    "6 a factor of more elements": net(put("p = Softmax<axis = -1>(m)", "h = Mul(m, mask) p = Softmax<axis = 3>(h)")),
    "7 scores are read elsewhere": net(f"{NODES} r = Relu(m)", outs=", float[A,B,C,D] r"),
    "7 probabilities are an output": net(NODES, outs=", float[A,B,C,D] p"),
    "7 q by heads is an output": net(NODES, outs=", float[A,B,C,D] q1"),
    "7 v is an output": net(NODES, outs=", float[A,B,C,D] v2"),
    "7 the products are an output": net(NODES, outs=", float[A,B,C,D] o"),
    "8 Softmax over the heads": net(put("axis = -1", "axis = 1")),
}


@pytest.mark.parametrize("case", LEFT)
def test_left_alone(case: str) -> None:
    assert_skipped(AttentionAxes(), LEFT[case], None)


def turned(rewrite: Rewrite) -> Rewrite:
    """v's heads and columns change places."""
    moved = [n for n in rewrite.replacement if n.op_type == "Transpose"][-1]
    moved.attributes["perm"] = ir.AttrInt64s("perm", [0, 1, 2])
    return rewrite


def over_rows(rewrite: Rewrite) -> Rewrite:
    softmax = next(n for n in rewrite.replacement if n.op_type == "Softmax")
    softmax.attributes["axis"] = ir.AttrInt64("axis", 1)
    return rewrite


@pytest.mark.parametrize("how", [turned, over_rows])
def test_sabotage(how: Breakage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_caught(AttentionAxes(), net(), how, monkeypatch)


def test_a_net() -> None:
    model = files.load(nets.qkv()).model
    done = simplify(model, Oracle(model))
    shapes = [n.outputs[0].shape for n in done.model.graph if n.op_type == "Transpose"]
    assert len(shapes) == 8
    assert all(len(shape or ()) == 3 for shape in shapes)
    assert_same(model, done.model)
