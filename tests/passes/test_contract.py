"""What holds for every exact pass on every model, whatever it is about."""

from __future__ import annotations

import copy

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import files, saving, shapes
from edgeopt.graph import graphs, input_specs, output_specs
from edgeopt.oracle import Oracle, run_checked
from edgeopt.passes import EXACT
from edgeopt.rewrite import Rule
from tests.models import assert_same, filled

BN = "float[4] gamma, float[4] beta, float[4] mean, float[4] var"

MODELS = {
    "an ordinary net": (
        f"g (float[N,3,8,8] x) => (float[N,5] y) <float[4,3,3,3] w, {BN}, float[4,5] m, int64[2] s = {{0, -1}}, "
        "float[4,4,1,1] w2, float one = {1}> { a = Conv<pads = [1,1,1,1]>(x, w)"
        " b = BatchNormalization(a, gamma, beta, mean, var) c = Relu(b) d = Identity(c) e = Conv(d, w2) f = Mul(e, one)"
        " h = GlobalAveragePool(f) i = Reshape(h, s) j = Dropout(i) y = MatMul(j, m) }"
    ),
    "an If": (
        f"g (float[1,3,4,4] x, bool c) => (float[1,4,2,2] y) <float[4,3,3,3] w, {BN}> {{ z = Identity(x) y = If(c) <"
        "then_branch = p () => (float[1,4,2,2] a) {"
        " k = Neg(w) t = Conv(z, k) u = BatchNormalization(t, gamma, beta, mean, var) a = Identity(u) },"
        "else_branch = q () => (float[1,4,2,2] a) { t = Conv(z, w) v = Dropout(t) dead = Exp(v) a = Relu(v) }> }"
    ),
    "nested Ifs that use the same names": (
        "g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> { y = If(c) <"
        "then_branch = p () => (float[2] a) { t = Neg(w) s = Add(x, t) a = If(c) <"
        "then_branch = r () => (float[2] b) <float[2] v = {3, 4}> { u = Exp(v) b = Add(s, u) },"
        "else_branch = o () => (float[2] b) <float[2] v = {5, 6}> { u = Neg(v) b = Mul(s, u) }> },"
        "else_branch = q () => (float[2] a) <float[2] v = {7, 8}> { t = Exp(v) a = Mul(x, t) }> }"
    ),
    "branches that return outer values": (
        "g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> { t = Exp(x) k = Neg(w) y = If(c) <"
        "then_branch = p () => (float[2] a) { a = Identity(t) }, else_branch = q () => (float[2] a) { a = Neg(k) }> }"
    ),
    "a Loop": (
        "g (float[2] x, int64 n) => (float[2] y, float[M,2] all) <float[2] w = {0.5, 0.25}> {"
        " c = Constant<value = bool {1}>() y, all = Loop(n, c, x) <body = b (int64 i, bool ci, float[2] a) =>"
        " (bool co, float[2] a2, float[2] o) { co = Identity(ci) k = Exp(w) d = Dropout(a) a2 = Mul(d, k)"
        " o = Identity(a2) }> }"
    ),
    "a Scan": (
        "g (float[3,2] x, float[2] s0) => (float[2] s, float[3,2] ys) <float[2] w = {1, 2}> {"
        " s, ys = Scan<num_scan_inputs = 1, body = b (float[2] acc, float[2] v) => (float[2] acc2, float[2] o) {"
        " k = Neg(w) t = Add(acc, v) acc2 = Add(t, k) o = Identity(acc2) }>(s0, x) }"
    ),
    "a local function": (
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>'
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { k = local.f<alpha = 0.5>(w) z = Identity(x)"
        " y = Add(z, k) }"
        ' <domain: "local", opset_import: ["" : 17]> f <alpha> (a) => (b) {'
        " k = Constant<value_float: float = @alpha>() z = Identity(a) b = Mul(z, k) }"
    ),
    "weights shared by two layers": (
        f"g (float[1,3,4,4] x) => (float[1,4,2,2] y, float[1,4,2,2] z) <float[4,3,3,3] w, {BN}> {{ a = Conv(x, w)"
        " y = BatchNormalization(a, gamma, beta, mean, var) n = Neg(x) b = Conv(n, w)"
        " z = BatchNormalization(b, beta, gamma, mean, var) }"
    ),
    "a sequence": (
        "g (float[2] x) => (seq(float[2]) y, float[2] z) <float[2] w = {1, 2}, int64 i = {1}> {"
        " k = SequenceConstruct(w, w) l = SequenceInsert(k, x) y = Identity(l) m = SequenceAt(k, i) z = Add(x, m) }"
    ),
    "an optional": (
        "g (float[2] x) => (float[2] y) { o = Optional(x) p = OptionalGetElement(o) q = Identity(p) y = Neg(q) }"
    ),
    "unused inputs": "g (float[2] x, float[3] a, int64[N] b) => (float[2] y) { d = Exp(a) y = Neg(x) }",
    "overridable initializers": (
        f"g (float[1,3,4,4] x, float[4,3,3,3] w, float[4] mean) => (float[1,4,2,2] y) <float[4,3,3,3] w2, {BN}> {{"
        " a = Conv(x, w2) y = BatchNormalization(a, gamma, beta, mean, var) k = Neg(w) }"
    ).replace("float[4] mean, float[4] var>", "float[4] var>"),
    "an output that is an input": "g (float[2] x) => (float[2] x, float[2] y) { t = Identity(x) y = Neg(t) }",
    "outputs that are initializers": (
        "g (float[2] x) => (float[2] w, float[2] y, float[2] v) <float[2] w = {1, 2}> { v = Neg(w) y = Add(x, v) }"
    ),
    "one value as two outputs": (
        "g (float[2] x) => (float[2] y, float[2] z) { t = Neg(x) y = Identity(t) z = Identity(t) }"
    ),
    "no inputs": "g () => (float[2] y, float[2] z) <float[2] w = {1, 2}> { y = Neg(w) t = Exp(w) z = Add(t, w) }",
    "empty tensors": (
        "g (float[0,3] x) => (float[0,3] y, float[2,3] z) <float[0,3] e = {}, float[2,3] w, int64[2] s = {0, 3}> {"
        " t = Concat<axis = 0>(x, e) y = Reshape(t, s) u = Concat<axis = 0>(e, w) z = Neg(u) }"
    ),
    "scalars": "g (float x) => (float y) <float a = {2}, float b = {1}> { t = Mul(x, b) k = Neg(a) y = Add(t, k) }",
    "a custom operator": (
        f'<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[1,3,4,4] x) => (float[1,4,2,2] y, float[2] z) '
        f"<float[4,3,3,3] w, {BN}> {{ a = Conv(x, w) b = BatchNormalization(a, gamma, beta, mean, var) c = Identity(b)"
        " y = Relu(c) k = my.Op(c) z = Identity(k) }"
    ),
    "names that rewrites would like to have": (
        f"g (float[1,3,4,4] x) => (float[1,4,2,2] y, float[4] t) <float[4,3,3,3] w, {BN}> {{ [u] a = Conv(x, w)"
        " [v] y = BatchNormalization(a, gamma, beta, mean, var) [u_1] b = Neg(mean) t = Exp(b) }"
    ),
    "opset 6": (
        '<ir_version: 3, opset_import: ["" : 6]> g (float[1,3,4,4] x) => (float[1,4,2,2] y) <float[4,3,3,3] w> {'
        " a = Conv(x, w) b = Identity(a) c = Clip(b) y = Relu(c) }"
    ),
    "opset 7": (
        '<ir_version: 3, opset_import: ["" : 7]>'
        f" g (float[1,3,4,4] x) => (float[1,4,2,2] y) <float[4,3,3,3] w, {BN}> {{"
        " a = Conv(x, w) b = BatchNormalization(a, gamma, beta, mean, var) c = Dropout(b) y = Relu(c) }"
    ),
    "opset 9": (
        f'<ir_version: 4, opset_import: ["" : 9]> g (float[N,3,4,4] x) => (float[N,16] y) <float[4,3,3,3] w, {BN}> {{'
        " a = Conv(x, w) b = BatchNormalization(a, gamma, beta, mean, var) s = Shape(b)"
        " t = Slice<starts = [0], ends = [1]>(s) m = Constant<value = int64[1] {-1}>() u = Concat<axis = 0>(t, m)"
        " y = Reshape(b, u) }"
    ),
    "opset 22, IR 10": (
        '<ir_version: 10, opset_import: ["" : 22]>'
        f" g (float[N,3,4,4] x) => (float[N,4,2,2] y) <float[4,3,3,3] w, {BN}> {{"
        " a = Conv(x, w) b = BatchNormalization(a, gamma, beta, mean, var) c = Identity(b) y = Relu(c) }"
    ),
    "float16": (
        "g (float16[1,3,4,4] x) => (float16[1,4,2,2] y) <float16[4,3,3,3] w, float16[4] gamma, float16[4] beta,"
        " float16[4] mean, float16[4] var> { a = Conv(x, w) b = BatchNormalization(a, gamma, beta, mean, var)"
        " y = Cast<to = 10>(b) }"
    ),
    "QDQ": (
        f"g (float[1,3,4,4] x) => (float[1,4,2,2] y) <int8[4,3,3,3] w, float s = {{0.1}}, int8 z = {{0}}, {BN}> {{"
        " q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) k = DequantizeLinear(w, s, z) a = Conv(d, k)"
        " b = BatchNormalization(a, gamma, beta, mean, var) r = Relu(b) p = QuantizeLinear(r, s, z)"
        " y = DequantizeLinear(p, s, z) }"
    ),
    "random operators": (
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { k = Neg(w) r = RandomUniformLike(k) t = Add(x, r)"
        " y = Identity(t) }"
    ),
    "channels last before the flattening": (
        "g (float[N,2,3,4] x) => (float[M,5] y, float[M,5] z) <float[24,5] w, float[5] b, int64[2] s = {-1, 24}> {"
        " a = Transpose<perm = [0, 2, 3, 1]>(x) c = Reshape(a, s) y = MatMul(c, w) d = Neg(x)"
        " e = Transpose<perm = [0, 3, 1, 2]>(d) f = Flatten(e) z = Gemm(f, w, b) }"
    ),
    "unsorted nodes": (
        "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(t, k) t = Identity(x) k = Neg(w) }"
    ),
}

RULES = {rule.name: rule for rule in EXACT}
TOLERANCE = {"float16": 5e-3}
PROBLEMS = {"a custom operator", "random operators"}  # models that the oracle cannot run as a whole


def interface(model: ir.Model) -> list[object]:
    return [input_specs(model), output_specs(model), [(v.name, str(v.type), str(v.shape)) for v in model.graph.inputs]]


def phantom_readers(model: ir.Model) -> list[str]:
    """Values read by nodes that a rule made and did not hand in: the next rule would count them as readers."""
    values = [
        v for g in graphs(model) for v in (*g.inputs, *g.initializers.values(), *(o for n in g for o in n.outputs))
    ]
    return [v.name or "" for v in values if any(use.node.graph is None for use in v.uses())]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rule", RULES)
def test_contract(rule: str, name: str) -> None:
    source = filled(MODELS[name])
    given = source.SerializeToString(deterministic=True)
    found = files.load(source)
    assert source.SerializeToString(deterministic=True) == given
    model = shapes.infer(found.model)
    start = saving.serialize(model)
    clean = files.checker_error(model) is None
    oracle = Oracle(model)
    assert (oracle.problem is not None) == (name in PROBLEMS), oracle.problem
    names = {n.name for g in graphs(model) for n in g}

    after, report = run_checked(RULES[rule], model, oracle)

    assert saving.serialize(model) == start  # not mutated
    assert report.rolled_back == []
    assert report.changed == (after is not model)
    assert interface(after) == interface(model)
    assert not clean or files.checker_error(after) is None
    for skip in report.skips:
        assert skip.reason
        assert skip.node in names
    assert phantom_readers(after) == []
    for hit in report.hits:
        assert hit.anchor in names
        assert hit.anchor in hit.nodes
        assert set(hit.nodes) <= names
    if name not in PROBLEMS:
        assert_same(model, after, TOLERANCE.get(name, 1e-5))

    again, second = run_checked(RULES[rule], after, oracle)  # idempotent
    assert (second.hits, second.removed_initializers) == ([], 0)
    assert again is after
    twin, _ = run_checked(RULES[rule], model, oracle)  # deterministic
    assert saving.serialize(twin) == saving.serialize(after)


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_pipeline_reaches_a_fixpoint(name: str) -> None:
    model = shapes.infer(files.load(filled(MODELS[name])).model)
    oracle = Oracle(model)
    current = model
    for _ in range(6):
        changed = False
        assert phantom_readers(current) == []
        for rule in EXACT:
            current, report = run_checked(rule, current, oracle)
            assert report.rolled_back == []
            changed |= report.changed
        if not changed:
            break
    assert not changed
    assert interface(current) == interface(model)
    if name not in PROBLEMS:
        assert_same(model, current, TOLERANCE.get(name, 1e-5))


def test_a_callers_override_of_a_default_still_counts() -> None:
    model = shapes.infer(files.load(filled(MODELS["overridable initializers"])).model)
    current = model
    for rule in EXACT:
        current, _ = run_checked(rule, current, Oracle(current))
    mean = np.arange(4, dtype=np.float32)
    assert_same(model, current, mean=mean)


@pytest.mark.parametrize("rule", EXACT, ids=lambda r: str(r.name))
def test_rules_hold_no_state(rule: Rule) -> None:
    """Two models treated in turn by one instance come out as by two."""
    twin = copy.deepcopy(rule)
    names = ["an ordinary net", "opset 9", "an ordinary net"]
    for name in names:
        model = shapes.infer(files.load(filled(MODELS[name])).model)
        a, _ = run_checked(rule, model, Oracle(model))
        b, _ = run_checked(copy.deepcopy(twin), model, Oracle(model))
        assert saving.serialize(a) == saving.serialize(b)
