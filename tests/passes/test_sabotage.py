"""The oracle against broken passes: whatever a pass gets wrong must be rolled back, whether an output shows it or not.

A row is a rule, a model on which the intact rule has a hit, and how the rule is broken: a function from the right
Rewrite to a wrong one, or a Patch of something inside the pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import Array, constant
from edgeopt.oracle import Oracle, run_checked
from edgeopt.passes import fold_batchnorm, fold_pad, fold_transpose_gemm, remove_noops
from edgeopt.passes.dead_code import DeadCode
from edgeopt.passes.fold_batchnorm import FoldBatchnorm
from edgeopt.passes.fold_constants import FoldConstants
from edgeopt.passes.fold_pad import FoldPad
from edgeopt.passes.fold_transpose_gemm import FoldTransposeGemm
from edgeopt.passes.remove_noops import RemoveNoops
from edgeopt.rewrite import CLEAN_UP, Answer, Rewrite, Rule
from tests.models import assert_same, loaded
from tests.passes.sabotage import (
    Breakage,
    Patch,
    assert_caught,
    first_input,
    scaled,
    swapped_outputs,
    wired_to_another,
    wired_to_its_input,
    wrong_element,
)

# ------------------------------------------------------------------------------------------------ models
PARAMETERS = "float[4] gamma, float[4] beta, float[4] mean, float[4] var"
NORMALIZED = "t = Conv<pads = [1, 1, 1, 1]>(x, w, b) [bn] u = BatchNormalization(t, gamma, beta, mean, var)"


def net(rest: str, *, x: str = "2,4,6,6", y: str = "2,4,6,6", extra: str = "", layer: str = NORMALIZED) -> str:
    weights = f"float[4,4,3,3] w, float[4] b, {PARAMETERS}"
    return f"g (float[{x}] x) => (float[{y}] y) <{weights}{extra}> {{ {layer} {rest} }}"


NETS = {
    "plain": net("y = Relu(u)"),
    "symbolic": net("y = Relu(u)", x="N,4,H,W", y="N,4,H,W"),
    "dead after Relu": net("v = Sub(u, k) y = Relu(v)", extra=", float k = {1000000}"),
    "hidden by a later layer": net("v = Mul(u, k) y = Add(v, x)", extra=", float[4,1,1] k = {0, 0, 0, 0}"),
    "hidden by a maximum": net("v = Max(u, k) y = Clip(v, , k)", extra=", float k = {1000000}"),
    "custom operator elsewhere": '<ir_version: 8, opset_import: ["" : 17, "my" : 1]>'
    + net("v = Relu(u) y = my.Op(v)", y="A,B,C,D"),
    "an If": (
        f"g (float[2,4,6,6] x, bool c) => (float[2,4,6,6] y) <float[4,4,3,3] w, float[4] b, {PARAMETERS}> {{"
        " y = If(c) <"
        f"then_branch = p () => (float[2,4,6,6] a) {{ {NORMALIZED} a = Relu(u) }},"
        "else_branch = q () => (float[2,4,6,6] a) { a = Neg(x) }> }"
    ),
    "float16": net("y = Relu(u)").replace("float[", "float16["),
    "Gemm": (
        f"g (float[3,4] x) => (float[3,4] y) <float[4,4] w, float[4] b, {PARAMETERS}> "
        "{ t = Gemm(x, w, b) [bn] u = BatchNormalization(t, gamma, beta, mean, var) y = Relu(u) }"
    ),
    "Gemm, transB": (
        f"g (float[3,4] x) => (float[3,4] y) <float[4,4] w, float[4] b, {PARAMETERS}> "
        "{ t = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, b)"
        " [bn] u = BatchNormalization(t, gamma, beta, mean, var) y = Relu(u) }"
    ),
    "ConvTranspose in groups": (
        f"g (float[2,4,6,6] x) => (float[2,4,8,8] y) <float[4,2,3,3] w, float[4] b, {PARAMETERS}> "
        "{ t = ConvTranspose<group = 2>(x, w, b) [bn] u = BatchNormalization(t, gamma, beta, mean, var) y = Relu(u) }"
    ),
}

affine = fold_batchnorm.affine


def affine_with(epsilon: float) -> Callable[[ir.Node], tuple[Array, Array] | None]:
    def wrong(node: ir.Node) -> tuple[Array, Array]:
        gamma, beta, mean, var = (np.asarray(constant(v), np.float64) for v in node.inputs[1:5])
        scale = gamma / np.sqrt(var + epsilon)
        return scale, beta - mean * scale

    return wrong


def affine_swapped(node: ir.Node) -> tuple[Array, Array] | None:
    found = affine(node)
    return None if found is None else (found[1], found[0])


def affine_mean_added(node: ir.Node) -> tuple[Array, Array] | None:
    found = affine(node)
    return None if found is None else (found[0], found[1] + 2 * np.asarray(constant(node.inputs[3])) * found[0])


def along_inputs(weight: Array, scale: Array, *_: Any) -> Array:
    """The scale along axis 1, or along axis 0 of a ConvTranspose in groups."""
    if weight.shape[1] != scale.size:
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return weight * scale.reshape(1, -1, *[1] * (weight.ndim - 2))


def other_transposition(weight: Array, scale: Array, transposed: bool) -> Array:
    return weight * (scale[None, :] if transposed else scale[:, None])


def fold_rows() -> dict[str, tuple[Rule, str, Breakage | Patch]]:
    """Every breakage of the fold on every net."""
    rows: dict[str, tuple[Rule, str, Breakage | Patch]] = {}
    for title, text in NETS.items():
        half = "float16" in text  # 11 bits: 1e-3 is a rounding error there
        axis = 1 if title == "Gemm" else 1 if "Transpose" in title else 0
        fold = "fold_gemm" if "Gemm" in title else "fold_conv_transpose" if "Transpose" in title else "fold_conv"
        breakages: dict[str, Breakage | Patch] = {
            "one channel wrong": scaled(1, 1, 1.05 if half else 1.001, axis),
            "one bias wrong": scaled(2, 1, 1.5 if half else 1.01),
            "wrong epsilon": Patch(fold_batchnorm, "affine", affine_with(0.5 if half else 1e-3)),
            "scale and shift swapped": Patch(fold_batchnorm, "affine", affine_swapped),
            "mean added": Patch(fold_batchnorm, "affine", affine_mean_added),
            "wrong axis": Patch(fold_batchnorm, fold, other_transposition if "Gemm" in title else along_inputs),
            "normalization dropped": wired_to_its_input,
        }
        rows |= {f"fold_batchnorm, {title}: {b}": (FoldBatchnorm(), text, how) for b, how in breakages.items()}
    return rows


FLATTENED = (
    "g (float[5,3,3,3] x) => (float[5,27] y) <float[27,27] w, float k = {1000000}> { s = Neg(x)"
    " t = Transpose<perm = [0, 2, 3, 1]>(s) f = Flatten(t) [n] g = MatMul(f, w) y = Relu(g) }"
)
reordered = fold_transpose_gemm.reordered


def reordered_as(how: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Patch:
    """The weight's rows for another permutation than the right one."""

    def wrong(weight: Array, sizes: tuple[int, ...], order: tuple[int, ...], axis: int) -> Array:
        return reordered(weight, sizes, how(order), axis)

    return Patch(fold_transpose_gemm, "reordered", wrong)


def one_row_wrong(rewrite: Rewrite) -> Rewrite:
    value = rewrite.replacement[1].inputs[1]
    assert value is not None
    assert value.const_value is not None
    array = np.array(value.const_value.numpy())
    array[11] *= 1.001
    value.const_value = ir.tensor(array)
    return rewrite


X = "g (float[2,3] x) => (float[2,3] y)"
always = remove_noops._always
PADDED = (
    "g (float[1,3,6,6] x) => (float[A,B,C,D] y) <float[4,3,3,3] w, int64[8] p = {0,0,1,2,0,0,3,0}> "
    "{ e = Neg(x) t = Pad(e, p) [n] u = Conv(t, w) y = Neg(u) }"
)
POOLED = PADDED.replace("Conv(t, w)", "AveragePool<kernel_shape = [4,4]>(t)")
spatial_pads = fold_pad.spatial_pads


def with_pads(change: Callable[[list[int]], list[int]]) -> Patch:
    def wrong(pad: ir.Node, version: int) -> list[int] | str:
        found = spatial_pads(pad, version)
        return found if isinstance(found, str) else change(found)

    return Patch(fold_pad, "spatial_pads", wrong)


def without_attribute(name: str) -> Breakage:
    def how(rewrite: Rewrite) -> Rewrite:
        del rewrite.replacement[0].attributes[name]
        return rewrite

    return how


def around(self: DeadCode, node: ir.Node, state: Any) -> Answer:
    """A live node wired around."""
    if node.name != "n":
        return None
    return Rewrite((node,), (), ((node.outputs[0], first_input(node)),))


def remove_everything(self: DeadCode, model: ir.Model) -> int:
    removed = len(model.graph.initializers)
    model.graph.initializers.clear()
    return removed


SABOTAGES: dict[str, tuple[Rule, str, Breakage | Patch]] = fold_rows() | {
    "fold_batchnorm: one channel wrong, of unknown rank and hidden by the scale of another": (
        FoldBatchnorm(),
        "g (float[1,3,8,8] x) => (float[A,B,C,D] y) <float[4,3,3,3] w, float[4] g1 = {1000, 1, 1, 1}, float[4] b1, "
        "float[4] m1, float[4] v1 = {1, 1, 1, 1}, bool[4] all = {1, 1, 1, 1}> { s = Shape(x) t = Compress(s, all) "
        "u = Reshape(x, t) h = Conv(u, w) [bn] y = BatchNormalization(h, g1, b1, m1, v1) }",
        scaled(1, 2, 1.001),
    ),
    "remove_noops: wrong value wired": (
        RemoveNoops(),
        f"{X} {{ s = Exp(x) [n] t = Identity(x) u = Neg(s) y = Add(t, u) }}",
        wired_to_another("s"),
    ),
    "remove_noops: wrong value wired, seen by no output": (
        RemoveNoops(),
        f"{X} <float k = {{1000000}}> {{ s = Exp(x) [n] t = Identity(x) u = Add(s, t) v = Sub(u, k) y = Relu(v) }}",
        wired_to_another("s"),
    ),
    "remove_noops: wrong value wired, whole model does not run": (
        RemoveNoops(),
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]>'
        "g (float[2,3] x) => (float[2,3] y, float[N] z) { s = Exp(x) [n] t = Identity(x) y = Neg(t) z = my.Op(s) }",
        wired_to_another("s"),
    ),
    "remove_noops: 0 - x": (
        RemoveNoops(),
        f"{X} <float z = {{0}}> {{ i = Identity(x) [n] t = Sub(z, i) y = Exp(t) }}",
        Patch(remove_noops._NEUTRAL, "Sub", (0, (0, 1))),
    ),
    "remove_noops: 1 / x": (
        RemoveNoops(),
        f"{X} <float z = {{1}}> {{ i = Identity(x) [n] t = Div(z, i) y = Exp(t) }}",
        Patch(remove_noops._NEUTRAL, "Div", (1, (0, 1))),
    ),
    "remove_noops: 1 ** x": (
        RemoveNoops(),
        f"{X} <float z = {{1}}> {{ i = Identity(x) [n] t = Pow(z, i) y = Exp(t) }}",
        Patch(remove_noops._NEUTRAL, "Pow", (1, (0, 1))),
    ),
    "remove_noops: x * 2, where the factor cancels": (
        RemoveNoops(),
        f"{X} <float z = {{2}}> {{ i = Identity(x) [n] t = Mul(i, z) y = Div(t, t) }}",
        Patch(remove_noops._NEUTRAL, "Mul", (2, (0, 1))),
    ),
    "remove_noops: a bound that positive numbers never meet": (
        RemoveNoops(),
        f"{X} <float z = {{0}}> {{ i = Identity(x) s = Exp(i) [n] t = Clip(s, z) y = Neg(t) }}",
        Patch(remove_noops._UNARY, "Clip", always),
    ),
    "remove_noops: a transposition of a square": (
        RemoveNoops(),
        "g (float[3,3] x) => (float[3,3] y) { i = Identity(x) [n] t = Transpose(i) y = Neg(t) }",
        Patch(remove_noops._UNARY, "Transpose", always),
    ),
    "fold_constants: one element": (
        FoldConstants(),
        f"{X} <float[3] a, float[3] b> {{ [n] t = Mul(a, b) y = Add(x, t) }}",
        wrong_element(1),
    ),
    "fold_constants: a small element beside a large one": (
        FoldConstants(),
        f"{X} <float[3] a = {{1000000, 1, 2}}> {{ [n] t = Neg(a) y = Add(x, t) }}",
        wrong_element(1),
    ),
    "fold_constants: seen by no output": (
        FoldConstants(),
        f"{X} <float[3] a, float[3] z = {{0, 0, 0}}> {{ [n] t = Neg(a) u = Add(x, t) v = Mul(u, z) y = Add(v, x) }}",
        wrong_element(2),
    ),
    "fold_constants: behind a node that stays": (
        FoldConstants(),
        f"{X} <float[1,1] a, int64[2] s = {{100, 30}}> {{ t = Expand(a, s) [n] u = ReduceSum(t) y = Add(x, u) }}",
        wrong_element(0),
    ),
    "fold_constants: an integer off by one": (
        FoldConstants(),
        f"{X} <int64[2] s = {{2, 3}}> {{ [n] t = Abs(s) u = Neg(x) y = Expand(u, t) }}",
        wrong_element(0, 1, -1),
    ),
    "fold_constants: a shape off by one": (
        FoldConstants(),
        f"{X} {{ [n] t = Shape(x) u = Neg(x) y = Expand(u, t) }}",
        wrong_element(0, 1, -1),
    ),
    "fold_constants: a boolean, seen by no output": (
        FoldConstants(),
        f"{X} <bool[3] a = {{1, 0, 1}}> {{ [n] t = Not(a) u = Neg(x) y = Where(t, u, u) }}",
        wrong_element(0, 0, 1),
    ),
    "fold_constants: an output of the graph": (
        FoldConstants(),
        "g (float[2] x) => (float[2] y, float[2] z) <float[2] a> { [n] y = Neg(a) z = Neg(x) }",
        wrong_element(1),
    ),
    "fold_constants: outputs swapped": (
        FoldConstants(),
        f"{X} <float[6] a> {{ [n] s, t = Split<axis = 0>(a) u = Mul(x, s) y = Add(u, t) }}",
        swapped_outputs,
    ),
    "fold_constants: float16": (
        FoldConstants(),
        "g (float16[2] x) => (float16[2] y) <float16[2] a> { [n] t = Neg(a) y = Add(x, t) }",
        wrong_element(1, 1.01),
    ),
    "fold_constants: with a custom operator": (
        FoldConstants(),
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]>'
        "g (float[3] x) => (float[N] y) <float[3] a> { [n] t = Neg(a) y = my.Op(x, t) }",
        wrong_element(1),
    ),
    "fold_constants: in a branch that is not taken": (
        FoldConstants(),
        f"{X} <float[3] a, bool c = {{1}}> {{ y = If(c) <then_branch = p () => (float[2,3] q) {{ q = Neg(x) }},"
        " else_branch = o () => (float[2,3] q) { [n] t = Neg(a) q = Add(x, t) }> }",
        wrong_element(1),
    ),
    "fold_pad: before and behind swapped": (FoldPad(), PADDED, with_pads(lambda p: p[2:] + p[:2])),
    "fold_pad: axes swapped": (FoldPad(), PADDED, with_pads(lambda p: [p[1], p[0], p[3], p[2]])),
    "fold_pad: one side off by one": (FoldPad(), PADDED, with_pads(lambda p: [p[0], p[1] + 1, p[2], p[3]])),
    "fold_pad: pads lost": (FoldPad(), PADDED, without_attribute("pads")),
    "fold_pad: AveragePool that does not count": (FoldPad(), POOLED, without_attribute("count_include_pad")),
    "fold_pad: pads of a pool swapped": (FoldPad(), POOLED, with_pads(lambda p: p[2:] + p[:2])),
    "fold_pad: reads another value": (FoldPad(), PADDED, wired_to_another("e")),
    "fold_transpose_gemm: rows as they were": (FoldTransposeGemm(), FLATTENED, reordered_as(lambda order: (0, 1, 2))),
    "fold_transpose_gemm: rows in the inverse order": (
        FoldTransposeGemm(),
        FLATTENED,
        reordered_as(lambda order: tuple(order.index(k) for k in range(3))),
    ),
    "fold_transpose_gemm: columns reordered": (
        FoldTransposeGemm(),
        FLATTENED,
        Patch(fold_transpose_gemm, "reordered", lambda weight, sizes, order, axis: reordered(weight, sizes, order, 1)),
    ),
    "fold_transpose_gemm: seen by no output": (
        FoldTransposeGemm(),
        FLATTENED.replace("y = Relu(g)", "h = Sub(g, k) y = Relu(h)"),
        reordered_as(lambda order: (0, 2, 1)),
    ),
    "fold_transpose_gemm: one row wrong": (FoldTransposeGemm(), FLATTENED, one_row_wrong),
    "dead_code: a live node": (
        DeadCode(),
        f"{X} {{ [n] t = Relu(x) dead = Exp(t) y = Neg(t) }}",
        Patch(DeadCode, "match", around),
    ),
    "dead_code: a live node, seen by no output": (
        DeadCode(),
        f"{X} {{ s = Exp(x) [n] t = Relu(s) dead = Exp(t) y = Neg(t) }}",
        Patch(DeadCode, "match", around),
    ),
    "dead_code: live initializers": (
        DeadCode(),
        f"{X} <float[3] a, float[3] dead> {{ y = Add(x, a) }}",
        Patch(DeadCode, "finish", remove_everything),
    ),
    "dead_code: live initializers, whole model does not run": (
        DeadCode(),
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]>'
        "g (float[3] x) => (float[N] y) <float[3] a, float[3] dead> { y = my.Op(x, a) }",
        Patch(DeadCode, "finish", remove_everything),
    ),
}


def culprit(name: str) -> str:
    return "bn" if name.startswith("fold_batchnorm") else CLEAN_UP if "initializers" in name else "n"


@pytest.mark.parametrize("name", SABOTAGES)
def test_sabotage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_caught(*SABOTAGES[name], monkeypatch, culprit(name))


def test_the_intact_passes_survive_on_every_net() -> None:
    for title, text in NETS.items():
        model = loaded(text, seed=3)
        rewritten, report = run_checked(FoldBatchnorm(), model, Oracle(model))
        assert [h.anchor for h in report.hits] == ["bn"], title
        if "my.Op" not in text:
            assert_same(model, rewritten, 5e-3 if "float16" in text else 1e-5)
