from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import attribute, constant, dims_of, op_histogram
from edgeopt.passes.layout_ops import relation
from edgeopt.passes.layout_perms import composed, inverse, is_identity, moves_only_ones, view_shape
from edgeopt.passes.layout_relations import carried, fits
from edgeopt.passes.layout_sizes import factors
from edgeopt.passes.sink_transposes import SinkTransposes
from edgeopt.rewrite import Answer, Rewrite
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import assert_caught, first_input, scaled

LAST = "perm = [0, 2, 3, 1]"  # channels last
FIRST = "perm = [0, 3, 1, 2]"  # channels first


def net(
    body: str, *, x: str = "2,3,4,5", more: str = "", y: str = "A,B,C,D", kind: str = "float", opset: int = 17
) -> str:
    """x → Transpose n → t … y."""
    ir_version = 10 if opset > 19 else 8
    return (
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> g ({kind}[{x}] x) => ({kind}[{y}] y) '
        f"<{more or 'float unused'}> {{ [n] t = Transpose<{LAST}>(x) {body} }}"
    )


def back(body: str, **options: object) -> str:
    """The same, and u is transposed back to y."""
    return net(f"{body} [m] y = Transpose<{FIRST}>(u)", **options)  # type: ignore[arg-type]


GONE = {  # all Transposes go: text, operators left
    "0 a pair": (net(f"[m] v = Transpose<{FIRST}>(t) y = Neg(v)"), "Neg"),
    "1 unary": (back("u = Relu(t)"), "Relu"),
    "1 a chain": (
        back("a = Relu(t) b = Sigmoid(a) c = Clip(b, lo) u = Cast<to = 1>(c)", more="float lo = {0.1}"),
        "Relu Sigmoid Clip Cast",
    ),
    "1 unary, default perm": (
        "g (float[2,3,4] x) => (float[A,B,C] y) { [n] t = Transpose(x) u = Relu(t) y = Transpose(u) }",
        "Relu",
    ),
    "1 a constant of the last axis": (back("u = Add(t, b)", more="float[3] b"), "Add"),
    "1 a constant on the left": (back("u = Sub(b, t)", more="float[5,3] b"), "Sub"),
    "1 a constant of one element": (back("u = Mul(t, b)", more="float b"), "Mul"),
    "1 a constant of one element, 4-D": (back("u = Mul(t, b)", more="float[1,1,1,1] b"), "Mul"),
    "1 a constant of all axes": (back("u = Div(t, b)", more="float[2,4,5,3] b"), "Div"),
    "1 a constant that enlarges": (back("u = Add(t, b)", x="2,1,4,5", more="float[6] b"), "Add"),
    "1 Where": (back("c = Greater(t, z) u = Where(c, t, b)", more="float z, float[3] b"), "Greater Where"),
    "1 PRelu": (back("u = PRelu(t, b)", more="float[3] b"), "PRelu"),
    "1 Softmax": (back("u = Softmax<axis = -1>(t)"), "Softmax"),
    "1 LogSoftmax of axis 2": (back("u = LogSoftmax<axis = 2>(t)"), "LogSoftmax"),
    "1 edge 59: Softmax before opset 13 over one axis": (
        back("u = Softmax<axis = 3>(t)", x="2,3,1,1", opset=11),
        "Softmax",
    ),
    "1 Concat of branches": (
        back("a = Relu(t) b = Neg(t) u = Concat<axis = -1>(a, b, c)", more="float[2,4,5,2] c"),
        "Relu Neg Concat",
    ),
    "1 Split": (
        back("a, b = Split<axis = 3>(t, s) u = Concat<axis = 3>(b, a)", more="int64[2] s = {1, 2}"),
        "Split Concat",
    ),
    "1 Split, opset 11": (
        back("a, b = Split<axis = 3, split = [2, 1]>(t) u = Concat<axis = 3>(b, a)", opset=11),
        "Split Concat",
    ),
    "1 Slice": (
        back("u = Slice(t, s, e, a)", more="int64[2] s = {1, 0}, int64[2] e = {3, 2}, int64[2] a = {1, -1}"),
        "Slice",
    ),
    "1 Slice without axes": (back("u = Slice(t, s, e)", more="int64[2] s = {0, 1}, int64[2] e = {9, 3}"), "Slice"),
    "1 edge 49: Slice backwards": (
        back(
            "u = Slice(t, s, e, a, d)",
            more="int64[1] s = {-1}, int64[1] e = {-9}, int64[1] a = {1}, int64[1] d = {-2}",
        ),
        "Slice",
    ),
    "1 Slice, opset 9": (back("u = Slice<starts = [1], ends = [3], axes = [2]>(t)", opset=9), "Slice"),
    "1 Pad": (back("u = Pad(t, p)", more="int64[8] p = {0,1,2,0,0,3,0,1}"), "Pad"),
    "1 Pad with axes": (
        back("u = Pad(t, p, , a)", more="int64[4] p = {1,2,0,1}, int64[2] a = {-3, 2}", opset=18),
        "Pad",
    ),
    "1 Pad, opset 10": (back('u = Pad<mode = "reflect", pads = [0,1,2,0,0,1,0,0]>(t)', opset=10), "Pad"),
    "1 ReduceSum": (back("u = ReduceSum(t, a)", more="int64[1] a = {-1}"), "ReduceSum"),
    "1 ReduceMax, opset 18": (back("u = ReduceMax(t, a)", more="int64[2] a = {1, 2}", opset=18), "ReduceMax"),
    "1 ReduceL2, opset 11": (back("u = ReduceL2<axes = [1]>(t)", opset=11), "ReduceL2"),
    "1 ReduceMean over everything": (back("u = ReduceMean(t)"), "ReduceMean"),
    "1 CumSum": (back("u = CumSum(t, a)", more="int64 a = {-1}"), "CumSum"),
    "1 Tile": (back("u = Tile(t, r)", more="int64[4] r = {1,2,3,1}"), "Tile"),
    "1 Expand": (back("u = Expand(t, r)", x="2,3,1,5", more="int64[4] r = {2,4,5,3}"), "Expand"),
    "1 Resize by scales": (
        back('u = Resize<mode = "nearest">(t, , r)', more="float[4] r = {1,2,3,1}"),
        "Resize",
    ),
    "1 Resize to sizes, linear": (
        back('u = Resize<mode = "linear">(t, , , r)', more="int64[4] r = {2,8,7,3}"),
        "Resize",
    ),
    "1 Upsample, opset 9": (back("u = Upsample(t, r)", more="float[4] r = {1,2,3,1}", opset=9), "Upsample"),
    "1 Gather of a vector": (back("u = Gather<axis = 3>(t, i)", more="int64[2] i = {2, 0}"), "Gather"),
    "1 BatchNormalization of the same axis": (
        "g (float[2,3,4,5] x) => (float[A,B,C,D] y) <float[3] s, float[3] b, float[3] m, float[3] var> { "
        "[n] t = Transpose<perm = [0, 1, 3, 2]>(x) u = BatchNormalization(t, s, b, m, var) "
        "y = Transpose<perm = [0, 1, 3, 2]>(u) }",
        "BatchNormalization",
    ),
    "2 a residual sum": (back("a = Relu(t) b = Sigmoid(t) u = Add(a, b)"), "Relu Sigmoid Add"),
    "2 two inputs": (
        back(f"k = Transpose<{LAST}>(z) a = Add(t, k) u = Mul(a, k)").replace("x) =>", "x, float[2,3,4,5] z) =>"),
        "Add Mul",
    ),
    "2 an operand of one element each": (
        back("u = Add(t, z)").replace("x) =>", "x, float[1] z) =>"),
        "Add",
    ),
    "2 squeeze and excite": (
        back("a = ReduceMean<axes = [1, 2]>(t) b = Sigmoid(a) u = Mul(t, b)"),
        "ReduceMean Sigmoid Mul",
    ),
    "3 a reduction of the moved axes": (
        net("y = ReduceMean<axes = [1, 2], keepdims = 0>(t)", y="A,B"),
        "ReduceMean",
    ),
    "3 ArgMax of the channels": (
        net("y = ArgMax<axis = -1, keepdims = 0>(t)", y="A,B,C").replace("(float[A", "(int64[A"),
        "ArgMax",
    ),
    "3 Gather of one": (net("a = Gather<axis = 3>(t, i) y = Neg(a)", y="A,B,C", more="int64 i = {1}"), "Gather Neg"),
    "3 Squeeze": (net("y = Squeeze(t, a)", x="2,3,1,1", y="A,B", more="int64[2] a = {1, 2}"), "Squeeze"),
    "3 Squeeze of all ones, opset 11": (net("y = Squeeze(t)", x="2,3,1,1", y="A,B", opset=11), "Squeeze"),
    "3 Squeeze, a symbolic batch": (
        net("y = Squeeze(t, a)", x="N,3,1,1", y="A,B", more="int64[2] a = {1, -2}"),
        "Squeeze",
    ),
    "4 a channel shuffle that is taken apart": (
        "g (float[1,6,4,5] x) => (float[A,B,C,D] y, float[E,F,G,H] z) <int64[3] s = {3,2,20}, "
        "int64[5] r = {2,-1,3,4,5}, int64 i = {0}, int64 j = {1}> { a = Reshape(x, s) "
        "[n] t = Transpose<perm = [1,0,2]>(a) b = Reshape(t, r) y = Gather<axis = 0>(b, i) z = Gather<axis = 0>(b, j) }",
        "Reshape Reshape Gather Gather",
    ),
    "4 a Reshape that splits, a reduction": (
        "g (float[2,6,20] x) => (float[A,B,C] y) <int64[4] r = {2,4,5,6}> { "
        "[n] t = Transpose<perm = [0,2,1]>(x) b = Reshape(t, r) y = ReduceMax<axes = [1], keepdims = 0>(b) }",
        None,
    ),
    "several Transposes, one stays for its other reader": (
        back("u = Relu(t) z = Neg(t)").replace("y) <", "y, float[E,F,G,H] z) <"),
        None,
    ),
}


@pytest.mark.parametrize("case", [c for c in GONE if GONE[c][1] is not None])
def test_all_go(case: str) -> None:
    text, left = GONE[case]
    assert left is not None
    model = loaded(text)
    result, report = checked(SinkTransposes(), model)
    assert report.rolled_back == []
    assert len(report.hits) == 1
    expected = left.split()
    assert op_histogram(result) == {k: expected.count(k) for k in sorted(set(expected))}
    assert_same(model, result)
    again, second = checked(SinkTransposes(), result)
    assert again is result
    assert second.hits == []


def test_a_transpose_stays_for_its_other_reader() -> None:
    model = loaded(GONE["several Transposes, one stays for its other reader"][0])
    result, report = checked(SinkTransposes(), model)
    assert [h.anchor for h in report.hits] == ["m"]
    assert op_histogram(result) == {"Neg": 1, "Relu": 1, "Transpose": 1}
    assert_same(model, result)


CONSTANTS = {  # shape of the constant, shape in the result
    "3": (3, 1, 1),
    "1,3": (3, 1, 1),
    "5,3": (3, 1, 5),
    "4,1,1": (4, 1),
    "1,1,1,3": (1, 3, 1, 1),
    "2,4,5,3": (2, 3, 4, 5),
    "1": (1,),
}


@pytest.mark.parametrize("kind", ["float", "double", "float16"])
@pytest.mark.parametrize("shape", CONSTANTS)
def test_constants_are_moved(shape: str, kind: str) -> None:
    model = loaded(back("u = Mul(t, b)", more=f"{kind}[{shape}] b", kind=kind))
    result, report = checked(SinkTransposes(), model)
    assert report.rolled_back == []
    node = next(n for n in result.graph if n.op_type == "Mul")
    found = constant(node.inputs[1])
    assert found is not None
    assert found.shape == CONSTANTS[shape]
    assert found.flags.c_contiguous
    assert_same(model, result, 5e-3 if kind == "float16" else 1e-5)


@pytest.mark.parametrize("perm", [p for p in itertools.permutations(range(4)) if not is_identity(p)])
def test_every_permutation(perm: tuple[int, ...]) -> None:
    other = inverse(perm)
    text = (
        "g (float[2,3,4,5] x) => (float[A,B,C,D] y) <float[1,1,1,1] c, int64[2] a = {1, -1}, int64[2] s = {0, 1}, "
        f"int64[2] e = {{2, 4}}> {{ [n] t = Transpose<perm = {list(perm)}>(x) b = Softmax<axis = 1>(t) "
        f"d = Slice(b, s, e, a) f = ReduceSum(d, s1) h = Concat<axis = 2>(d, d) u = Add(h, f) "
        f"y = Transpose<perm = {list(other)}>(u) }}"
    ).replace("int64[2] e", "int64[1] s1 = {2}, int64[2] e")
    model = loaded(text)
    result, report = checked(SinkTransposes(), model)
    assert report.rolled_back == []
    assert "Transpose" not in op_histogram(result)
    assert_same(model, result)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 18, 21])
def test_opsets(opset: int) -> None:
    axes = "(t, a)" if opset >= 18 else "<axes = [1]>(t)"
    model = loaded(
        back(
            f"r = ReduceMax{axes} k = Relu(t) q = Mul(k, b) u = Add(q, r)",
            more="float[3] b, int64[1] a = {1}",
            opset=opset,
        )
    )
    result, report = checked(SinkTransposes(), model)
    assert report.rolled_back == []
    assert "Transpose" not in op_histogram(result)
    assert_same(model, result)


@pytest.mark.parametrize("x", ["N,3,4,5", "N,3,H,W", "N,C,H,W"])
def test_symbolic_sizes(x: str) -> None:
    model = loaded(back("k = Relu(t) u = Add(k, t)", x=x))
    result, _ = checked(SinkTransposes(), model)
    assert "Transpose" not in op_histogram(result)
    add = next(n for n in result.graph if n.op_type == "Add")
    assert dims_of(add.inputs[0]) == dims_of(model.graph.inputs[0])  # type: ignore[arg-type]
    assert_same(model, result)


@pytest.mark.parametrize(("rank", "axes"), [(2, "1,0"), (3, "0,2,1"), (5, "0,2,3,4,1")])
def test_ranks(rank: int, axes: str) -> None:
    perm = tuple(int(a) for a in axes.split(","))
    sizes = ",".join("23456"[:rank])
    out = ",".join("ABCDE"[:rank])
    model = loaded(
        f"g (float[{sizes}] x) => (float[{out}] y) <float[{sizes[perm[-1] * 2]}] b> {{ [n] t = Transpose<perm = [{axes}]>(x) "
        f"u = Add(t, b) y = Transpose<perm = {list(inverse(perm))}>(u) }}"
    )
    result, _ = checked(SinkTransposes(), model)
    assert op_histogram(result) == {"Add": 1}
    assert_same(model, result)


def test_one_fewer() -> None:
    """Two branches come in transposed, one Transpose behind the sum is enough."""
    model = loaded(
        net(f"k = Transpose<{LAST}>(z) u = Add(t, k) y = Conv(u, w)", more="float[2,4,3,2] w").replace(
            "x) =>", "x, float[2,3,4,5] z) =>"
        )
    )
    result, report = checked(SinkTransposes(), model)
    assert len(report.hits) == 1
    assert op_histogram(result) == {"Add": 1, "Conv": 1, "Transpose": 1}
    assert_same(model, result)


def test_fewer_bytes() -> None:
    """5: after the Slice."""
    model = loaded(
        net(
            "u = Slice(t, s, e, a) y = Conv(u, w)",
            x="2,8,4,5",
            more="float[2,4,3,2] w, int64[1] s = {0}, int64[1] e = {2}, int64[1] a = {3}",
        )
    )
    result, report = checked(SinkTransposes(), model)
    assert [h.anchor for h in report.hits] == ["n"]
    assert [n.op_type for n in result.graph] == ["Slice", "Transpose", "Conv"]
    assert_same(model, result)
    assert checked(SinkTransposes(), result)[1].hits == []


def test_a_view_is_left() -> None:
    """5: after the reduction only axes of size 1 move."""
    model = loaded(net("u = ReduceMean<axes = [1, 2]>(t) y = Conv(u, w)", x="N,3,4,5", more="float[2,1,1,2] w"))
    result, report = checked(SinkTransposes(), model)
    assert len(report.hits) == 1
    assert op_histogram(result) == {"Conv": 1, "ReduceMean": 1, "Reshape": 1}
    reshape = next(n for n in result.graph if n.op_type == "Reshape")
    found = constant(reshape.inputs[1])
    assert found is not None
    assert found.tolist() == [0, 1, 1, 3]
    assert_same(model, result)


def test_a_global_pool_in_another_layout() -> None:
    text = (
        f"g (float[2,4,5,3] x) => (float[A,B,C,D] y) {{ [n] t = Transpose<{FIRST}>(x) u = GlobalAveragePool(t) "
        f"k = Mul(t, u) y = Transpose<{LAST}>(k) }}"
    )
    model = loaded(text)
    result, report = checked(SinkTransposes(), model)
    assert report.rolled_back == []
    assert op_histogram(result) == {"Mul": 1, "ReduceMean": 1}
    assert_same(model, result)


SKIPS = {  # text, part of the reason
    "6 a layer": (net("y = Conv(t, w)", more="float[2,4,3,2] w"), "Conv 'Conv_y' wants another"),
    "6 the output's layout": (
        net("y = Identity(t)").replace("y = Identity(t)", "").replace("] t =", "] y =").replace("n] y", "n] y"),
        "the graph's output 'y' has another",
    ),
    "6 Quantize": (
        back("q = QuantizeLinear(t, s, z) u = DequantizeLinear(q, s, z)", more="float s = {0.1}, int8 z = {0}"),
        "QuantizeLinear",
    ),
    "6 edge 59: Softmax before opset 13 over several axes": (
        back("u = Softmax<axis = 2>(t)", opset=11),
        "Softmax 'Softmax_u'",
    ),
    "6 BatchNormalization of another axis": (
        back("u = BatchNormalization(t, s, s, s, var)", more="float[4] s, float[4] var"),
        "BatchNormalization",
    ),
    "6 axes that are an input": (back("u = ReduceSum(t, a)").replace("x) =>", "x, int64[1] a) =>"), "ReduceSum"),
    "6 edge 8: an operand that the caller may set": (
        back("u = Add(t, b)").replace("x) =>", "x, float[3] b) =>").replace("<float unused>", "<float[3] b = {1,2,3}>"),
        "Add",
    ),
    "6 operands of different ranks": (back("u = Add(t, b)").replace("x) =>", "x, float[5,3] b) =>"), "Add"),
    "6 a Reshape that mixes the axes": (
        net("y = Reshape(t, s)", more="int64[2] s = {2, 60}", y="A,B"),
        "Reshape",
    ),
    "6 Dropout with a mask": (back("u, k = Dropout(t)").replace("y) <", "y, bool[E,F,G,H] k) <"), "Dropout"),
    "6 a large shared constant": (
        back("u = Add(t, b) ", x="1,32,32,32", more="float[1,32,32,32] b")
        .replace("y) <", "y, float[E,F,G,H] z) <")
        .replace("[m]", "z = Neg(x) o = Exp(b) [m]")
        .replace("z = Neg(x)", "k = Neg(x) z = Add(k, b)"),
        "Add",
    ),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    model = loaded(text)
    result, report = checked(SinkTransposes(), model)
    assert result is model
    assert report.rolled_back == []
    assert any(reason in s.reason for s in report.skips), report.skips


def test_an_inner_output_stays() -> None:
    """The value between is an output of the graph: it keeps its layout, for the price of one Transpose."""
    model = loaded(back("u = Relu(t)").replace("y) <", "y, float[E,F,G,H] u) <"))
    result, report = checked(SinkTransposes(), model)
    assert report.rolled_back == []
    assert op_histogram(result)["Transpose"] == 1
    assert_same(model, result)


def test_what_a_body_reads_stays() -> None:
    text = (
        f"g (float[2,3,4,5] x, bool c) => (float[A,B,C,D] y, float[E,F,G,H] z) {{ [n] t = Transpose<{LAST}>(x) u = Relu(t) "
        f"[m] y = Transpose<{FIRST}>(u) z = If(c) <then_branch = p () => (float[2,4,5,3] a) {{ a = Neg(u) }}, "
        "else_branch = q () => (float[2,4,5,3] b) { b = Exp(u) }> }"
    )
    model = loaded(text)
    result, report = checked(SinkTransposes(), model)
    assert report.rolled_back == []
    assert op_histogram(result)["Transpose"] == 1
    assert_same(model, result)


def test_in_a_body() -> None:
    text = (
        "g (float[2,3,4,5] x, bool c) => (float[2,3,4,5] y) <float[3] k> { y = If(c) <then_branch = p () => (float[2,3,4,5] a) "
        f"{{ t = Transpose<{LAST}>(x) u = Add(t, k) a = Transpose<{FIRST}>(u) }}, "
        "else_branch = q () => (float[2,3,4,5] b) { b = Exp(x) }> }"
    )
    model = loaded(text)
    result, report = checked(SinkTransposes(), model)
    assert report.rolled_back == []
    assert op_histogram(result) == {"Add": 1, "Exp": 1, "If": 1}
    assert_same(model, result)


def test_outputs_of_the_graph_are_made_by_its_nodes() -> None:
    """Nothing but two Transposes: the output cannot be a copy of the input."""
    model = loaded(
        f"g (float[1,3,4,5] x) => (float[A,B,C,D] y) {{ t = Transpose<{LAST}>(x) y = Transpose<{FIRST}>(t) }}"
    )
    result, report = checked(SinkTransposes(), model)
    assert report.rolled_back == []
    assert_same(model, result)


def test_readers_that_stand_before_the_region() -> None:
    """The new nodes stand where the last old one was; the graph is sorted afterwards."""
    model = loaded(
        back("a = Relu(t) z = Transpose<perm = [0, 3, 1, 2]>(a) o = Neg(z) u = Exp(a)").replace(
            "y) <", "y, float[E,F,G,H] o) <"
        )
    )
    result, report = checked(SinkTransposes(), model)
    assert report.rolled_back == []
    assert "Transpose" not in op_histogram(result)
    seen: set[ir.Node] = set()
    for node in result.graph:
        assert all(v is None or v.producer() is None or v.producer() in seen for v in node.inputs)
        seen.add(node)
    assert_same(model, result)


def test_a_long_region_is_cut_off_and_ends() -> None:
    chain = " ".join(f"v{k + 1} = Relu(v{k})" for k in range(300))
    model = loaded(net(f"v0 = Neg(t) {chain} y = Transpose<{FIRST}>(v300)"))
    result, report = checked(SinkTransposes(), model)
    assert report.rolled_back == []
    assert_same(model, result)


def test_random_graphs() -> None:
    """Element-wise operators, reductions and Concats over values in both layouts, never wrong and never more."""
    rng = np.random.default_rng(0)
    for _ in range(12):
        lines: list[str] = []
        values = {True: ["x"], False: ["t"]}  # channels first, channels last
        lines.append(f"t = Transpose<{LAST}>(x)")
        for k in range(14):
            first = bool(rng.integers(2))
            mine, name = values[first], f"v{k}"
            a, b = (mine[rng.integers(len(mine))] for _ in range(2))
            kind = rng.integers(5)
            if kind == 0:
                lines.append(f"{name} = Transpose<{LAST if first else FIRST}>({a})")
                first = not first
            elif kind == 1:
                lines.append(f"r{k} = ReduceMean<axes = [{rng.integers(1, 4)}]>({b}) {name} = Add({a}, r{k})")
            elif kind == 2:
                lines.append(f"{name} = Add({a}, {b})")
            elif kind == 3:
                lines.append(f"{name} = Mul({a}, {'c' if first else 'd'})")
            else:
                lines.append(f"{name} = Softmax<axis = {rng.integers(1, 4)}>({a})")
            values[first].append(name)
        last = values[True][-1]
        other = values[False][-1]
        text = (
            "g (float[2,3,4,5] x) => (float[A,B,C,D] y, float[E,F,G,H] z) <float[3,1,1] c, float[3] d> { "
            f"{' '.join(lines)} y = Neg({last}) z = Exp({other}) }}"
        )
        model = loaded(text)
        result, report = checked(SinkTransposes(), model)
        assert report.rolled_back == []
        assert len(list(result.graph)) <= len(list(model.graph))
        assert op_histogram(result).get("Transpose", 0) <= op_histogram(model)["Transpose"]
        assert_same(model, result)


# ------------------------------------------------------------------------------------------------ permutations
def test_permutations() -> None:
    for p in itertools.permutations(range(4)):
        assert is_identity(composed(p, inverse(p)))
        x = np.arange(120).reshape(2, 3, 4, 5)
        q = (3, 1, 0, 2)
        assert np.array_equal(x.transpose(p).transpose(q), x.transpose(composed(p, q)))


@pytest.mark.parametrize(
    ("before", "after", "groups"),
    [
        ((2, 6, 5), (2, 2, 3, 5), (((0,), (0,)), ((1,), (1, 2)), ((2,), (3,)))),
        ((2, 6, 5), (12, 5), (((0, 1), (0,)), ((2,), (1,)))),
        ((4, 6), (6, 4), (((0, 1), (0, 1)),)),
        (("N", 1, 6), ("N", 6, 1, 1), (((0,), (0,)), ((2,), (1,)))),
        (("N", 6), (6, "N"), None),
        (("N", 6), (None, 6), None),
        ((0, 6), (6, 0), None),
        ((1, 1), (1,), ()),
        ((6,), (4,), None),
    ],
)
def test_factors(before: tuple[int, ...], after: tuple[int, ...], groups: object) -> None:
    assert factors(before, after) == groups


def test_carried() -> None:
    groups = (((0,), (0,)), ((1,), (2,)))  # Unsqueeze at 1
    assert carried((1, 0), groups, 3) == (2, 1, 0)
    assert carried((1, 0), groups, 3, "follow") == (2, 0, 1)
    assert carried((1, 0), groups, 3, "precede") == (1, 2, 0)
    assert carried((0, 2, 1), (((0,), (0,)), ((1, 2), (1,))), 2) is None
    assert fits((1, 0), (2, 1, 0), groups)
    assert not fits((1, 0), (0, 1, 2), groups)


@pytest.mark.parametrize(
    ("before", "after", "shape"),
    [
        (("N", 3, 1), ("N", 1, 3), [0, 1, 3]),
        (("N", 3), (3, "N"), [3, -1]),
        (("N", "M"), ("M", "N"), None),
        (("N", "M", 1), ("N", 1, "M"), [0, 1, -1]),
        ((2, 0), (0, 2), None),
        ((None, 3), (None, 3), [-1, 3]),
    ],
)
def test_view_shape(before: tuple[int, ...], after: tuple[int, ...], shape: list[int] | None) -> None:
    assert view_shape(before, after) == shape


def test_moves_only_ones() -> None:
    assert moves_only_ones((2, 1, 3, 1), (1, 0, 3, 2))
    assert not moves_only_ones((2, 1, 3, 1), (2, 0, 1, 3))
    assert not moves_only_ones(("N", 1, "M"), (2, 0, 1))


@pytest.mark.parametrize(
    "text", ["Conv(x, w)", "MatMul(x, x)", "DepthToSpace<blocksize = 2>(x)", "QuantizeLinear(x, s)"]
)
def test_no_relation(text: str) -> None:
    model = loaded(
        f"g (float[1,4,4,4] x) => (float[A,B,C,D] y) <float[4,4,1,1] w, float s> {{ [n] y = {text} }}".replace(
            "(float[A", "(uint8[A" if "Quant" in text else "(float[A"
        )
    )
    assert relation(next(n for n in model.graph if n.name == "n"), 17) is None


# ------------------------------------------------------------------------------------------------ sabotage
def _skewed(rewrite):  # type: ignore[no-untyped-def]
    """A wrong axis in the first new node."""
    node = rewrite.replacement[0]
    node.attributes["axis"] = ir.AttrInt64("axis", (attribute(node, "axis") + 1) % 4)
    return rewrite


def test_sabotage_a_wrong_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    text = net("u = Softmax<axis = -1>(t) v = Softmax<axis = 1>(u) y = Transpose<perm = [0, 3, 1, 2]>(v)", x="2,3,3,3")
    model = loaded(text)
    from edgeopt.oracle import Oracle, run_checked
    from tests.passes.sabotage import Broken

    class Everywhere(Broken):
        def match(self, node: ir.Node, state: Any) -> Answer:
            answer = self.rule.match(node, state)
            return self.how(answer) if isinstance(answer, Rewrite) else answer

    rewritten, report = run_checked(Everywhere(SinkTransposes(), _skewed, ""), model, Oracle(model))
    assert rewritten is model
    assert report.rolled_back


def test_sabotage_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    text = net("y = Add(r, k)", y="A,B", more="float[3] k").replace(
        "y = Add(r, k)", "a = Mul(t, k) y = ReduceMean<axes = [1, 2], keepdims = 0>(a)"
    )
    assert_caught(SinkTransposes(), text, scaled(1, 1, 1.01), monkeypatch)


def test_sabotage_no_transpose_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreduced(rewrite):  # type: ignore[no-untyped-def]
        node = rewrite.replacement[0]
        node.attributes["axes"] = ir.AttrInt64s("axes", [1, 2])
        assert first_input(node).name == "x"
        return rewrite

    assert_caught(
        SinkTransposes(),
        net("y = ReduceMean<axes = [1, 2], keepdims = 0>(t)", x="4,4,4,4", y="A,B"),
        unreduced,
        monkeypatch,
    )
