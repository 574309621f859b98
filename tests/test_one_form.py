"""The same net, written as different exporters write it, ends in the same operators.

What still differs, and why, is asserted at the end.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeopt import saving
from edgeopt.graph import op_histogram
from tests import models, pipeline

WEIGHTS = (
    "float[8,3,3,3] w, float[8] s, float[8] b, float[8] m, float[8] var, float[2,8,1,1] u, float[2] ub, float[8,2,1,1] e,"
    " float[8] eb, float[8] g, float[8] h, float[8,16] l, float[16] lb, float[16,5] k, float[5] kb"
)
NUMBERS = (
    "float zero = {0}, float one = {1}, float two = {2}, float three = {3}, float six = {6}, float half = {0.5},"
    " float sixth = {0.16666667}, float eps = {0.00001}, float root = {1.4142135}, float inv = {0.70710678},"
    " int64[1] last = {-1}, int64[2] image = {2, 3}, int64[2] image_last = {1, 2}, int64[1] eight = {8},"
    " int64[2] flat = {-1, 8}, int64[1] c = {0}"
)
STYLES = {
    "raw dynamo": """
        z0 = CastLike(zero, x) z1 = Expand(z0, eight) a = Conv<pads = [1,1,1,1]>(x, w, z1)
        n = BatchNormalization(a, s, b, m, var)
        h0 = HardSigmoid<alpha = 0.16666667, beta = 0.5>(n) v = Mul(n, h0)
        p = ReduceMean<keepdims = 1, noop_with_empty_axes = 0>(v, image) q0 = Conv(p, u, ub) q = Relu(q0)
        r0 = Conv(q, e, eb) r = HardSigmoid<alpha = 0.16666667, beta = 0.5>(r0) f = Mul(v, r)
        d = ReduceMean<keepdims = 0>(f, image)
        ln, l1, l2 = LayerNormalization<axis = -1, epsilon = 0.00001>(d, g, h)
        o0 = MatMul(ln, l) o = Add(o0, lb) c0 = CastLike(root, o) g0 = Div(o, c0) g1 = Erf(g0) c1 = CastLike(one, g1)
        g2 = Add(g1, c1) c2 = CastLike(half, g2) g3 = Mul(c2, g2) g4 = Mul(o, g3) y0 = MatMul(g4, k) y = Add(y0, kb)
    """,
    "optimized dynamo": """
        a = Conv<pads = [1,1,1,1]>(x, w) n = BatchNormalization(a, s, b, m, var) v = HardSwish(n)
        p = ReduceMean<keepdims = 1>(v, image) q0 = Conv(p, u, ub) q = Relu(q0) r0 = Conv(q, e, eb)
        r = HardSigmoid<alpha = 0.16666667, beta = 0.5>(r0) f = Mul(v, r) d = ReduceMean<keepdims = 0>(f, image)
        ln = LayerNormalization<axis = -1, epsilon = 0.00001>(d, g, h) o = Gemm(ln, l, lb) g4 = Gelu(o)
        y = Gemm(g4, k, kb)
    """,
    "TorchScript": """
        a = Conv<pads = [1,1,1,1]>(x, w) n = BatchNormalization(a, s, b, m, var) i0 = Identity(three) t = Add(n, i0)
        t1 = Clip(t, zero, six) t2 = Div(t1, six) v = Mul(n, t2) p = GlobalAveragePool(v) q0 = Conv(p, u, ub)
        q = Relu(q0) r0 = Conv(q, e, eb) r1 = Add(r0, three) r2 = Clip(r1, zero, six) r = Div(r2, six) f = Mul(v, r)
        d = ReduceMean<keepdims = 0>(f, image) m0 = ReduceMean(d, last) m1 = Sub(d, m0) m2 = Pow(m1, two)
        m3 = ReduceMean(m2, last) m4 = Add(m3, eps) m5 = Sqrt(m4) m6 = Div(m1, m5) m7 = Mul(m6, g) ln = Add(m7, h)
        o = Gemm(ln, l, lb) g0 = Div(o, root) g1 = Erf(g0) g2 = Add(g1, one) g3 = Mul(o, g2) g4 = Mul(g3, half)
        y = Gemm(g4, k, kb)
    """,
    "TensorFlow": """
        x1 = Transpose<perm = [0,2,3,1]>(x) x2 = Transpose<perm = [0,3,1,2]>(x1) a = Conv<auto_pad = "SAME_UPPER">(x2, w)
        n = BatchNormalization(a, s, b, m, var) n1 = Transpose<perm = [0,2,3,1]>(n) t = Add(n1, three) t0 = Relu(t)
        t1 = Min(t0, six) t2 = Mul(t1, sixth) v = Mul(n1, t2) p = ReduceMean<keepdims = 1>(v, image_last)
        p1 = Transpose<perm = [0,3,1,2]>(p) q0 = Conv(p1, u, ub) q = Relu(q0) r0 = Conv(q, e, eb)
        r9 = Transpose<perm = [0,2,3,1]>(r0) r1 = Add(r9, three) r2 = Relu(r1) r3 = Min(r2, six) r = Mul(r3, sixth)
        f = Mul(v, r) d = ReduceMean<keepdims = 0>(f, image_last)
        m0 = ReduceMean(d, last) m1 = Sub(d, m0) m2 = Mul(m1, m1) m3 = ReduceMean(m2, last) m4 = Add(m3, eps)
        m5 = Sqrt(m4) m6 = Reciprocal(m5) m7 = Mul(m6, g) m8 = Mul(d, m7) m9 = Mul(m0, m7) m10 = Sub(h, m9)
        ln = Add(m8, m10) o0 = MatMul(ln, l) o = Add(o0, lb) g0 = Mul(o, inv) g1 = Erf(g0) g2 = Add(g1, one)
        g5 = Mul(half, o) g4 = Mul(g5, g2) y0 = MatMul(g4, k) y = Add(y0, kb)
    """,
}
FORM = {"Conv": 3, "Gelu": 1, "Gemm": 2, "GlobalAveragePool": 1, "HardSigmoid": 1, "HardSwish": 1}
FORM |= {"LayerNormalization": 1, "Mul": 1, "ReduceMean": 1, "Relu": 1}


def written(style: str) -> onnx.ModelProto:
    header = '<ir_version: 10, opset_import: ["" : 20]>\n'
    return models.filled(f"{header}g (float[1,3,8,8] x) => (float[1,5] y) <{WEIGHTS}, {NUMBERS}> {{ {STYLES[style]} }}")


@pytest.mark.parametrize("style", STYLES)
def test_four_styles_of_one_net(style: str) -> None:
    given = written(style)
    done = pipeline.simplified(given)
    assert pipeline.problems(given, done) == []
    assert op_histogram(done.model) == FORM
    feed = {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    assert pipeline.differences(written("optimized dynamo"), saving.to_proto(done.model), [feed]) == []


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    """One torch module in three exports."""
    torch = pytest.importorskip("torch", reason="needs torch (pip install edgeopt[torch])")
    net = importlib.import_module("tests.torch_nets").Blocks().eval()
    ways: dict[str, dict[str, Any]] = {
        "raw dynamo": {"dynamo": True, "optimize": False, "external_data": False},
        "optimized dynamo": {"dynamo": True, "optimize": True, "external_data": False},
        "TorchScript": {"dynamo": False},
    }
    found = {}
    for name, options in ways.items():
        path: Path = tmp_path_factory.mktemp("exports") / "net.onnx"
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(net, (torch.rand(2, 3, 16, 16),), str(path), opset_version=20, **options)
        found[name] = onnx.load(path)
    return found


@pytest.mark.filterwarnings("ignore")
def test_three_exports_of_a_torch_module(exported: dict[str, onnx.ModelProto]) -> None:
    forms = {}
    for name, given in exported.items():
        done = pipeline.simplified(given)
        assert pipeline.problems(given, done) == []
        forms[name] = op_histogram(done.model)
    first = forms["optimized dynamo"]
    assert forms == dict.fromkeys(forms, first)
    assert {"HardSwish", "HardSigmoid", "Mish", "Gelu", "LayerNormalization", "InstanceNormalization"} <= first.keys()
    assert not {"Erf", "Tanh", "Pow", "Sqrt", "Div", "BatchNormalization", "Clip"} & first.keys()
    assert first["Mul"] == 2  # the gate of the channels, and SiLU


def test_a_cube_before_opset_20_keeps_its_form() -> None:
    """Gelu by tanh has no operator there; Pow and products stay apart, since runtimes look for either."""
    forms = []
    for cube in ("a = Pow(x, three)", "s = Mul(x, x) a = Mul(s, x)"):
        text = f"g (float[2,8] x) => (float[2,8] y) <float three = {{3}}, float k = {{0.044715}}> {{ {cube} "
        text += "b = Mul(a, k) c = Add(x, b) y = Tanh(c) }"
        forms.append(op_histogram(pipeline.simplified(models.filled(text)).model))
    assert forms[0] == {"Add": 1, "Mul": 1, "Pow": 1, "Tanh": 1}
    assert forms[1] == {"Add": 1, "Mul": 3, "Tanh": 1}


def test_a_mean_without_axes_stays_apart_from_a_pool_and_a_view() -> None:
    """One node against two: ReduceMean drops the axes itself, while a pool may be a kernel that devices know."""
    forms = []
    for mean in ("y = ReduceMean<axes = [2, 3], keepdims = 0>(x)", "p = GlobalAveragePool(x) y = Flatten(p)"):
        given = models.filled(f"g (float[1,4,6,6] x) => (float[1,4] y) {{ {mean} }}")
        forms.append(op_histogram(pipeline.simplified(given).model))
    assert forms == [{"ReduceMean": 1}, {"Flatten": 1, "GlobalAveragePool": 1}]
