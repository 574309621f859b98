from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import attribute, constant, op_histogram
from edgeopt.passes import fold_resize
from edgeopt.passes.fold_resize import FoldResize
from edgeopt.runtime import Level, Session
from tests.models import checked, loaded
from tests.passes.sabotage import Breakage, Patch, assert_caught, scaled, wired_to_its_input
from tests.passes.tables import assert_fires, assert_left_alone, graph

RULE = FoldResize()


def net(body: str, constants: str = "", *, x: str = "1,2,4,4", kind: str = "float", opset: int = 17) -> str:
    """The part under test from p to q. ``s2`` and ``s3`` are scales, ``z8`` sizes, ``r`` is no region."""
    more = "float[4] s2 = {1, 1, 2, 2}, float[4] s3 = {1, 1, 3, 1}, int64[4] z8 = {1, 2, 8, 8}, float[0] r = {}"
    head = f"g ({kind}[{x}] x) => ({kind}[] y) <{more}{', ' if constants else ''}{constants}>"
    return graph(f"{head} {{ p = Neg(x) {body} y = Neg(q) }}", opset)


def resize(mode: str = "", coordinates: str = "", rounding: str = "", more: str = "") -> str:
    given = [("mode", mode), ("coordinate_transformation_mode", coordinates), ("nearest_mode", rounding)]
    stated = ", ".join([*(f'{n} = "{v}"' for n, v in given if v), *([more] if more else [])])
    return f"Resize<{stated}>" if stated else "Resize"


FLOOR = resize("nearest", "asymmetric", "floor")
ONE = {"Neg": 2, "Resize": 1}
FOLDED = {
    "1 sizes, linear": net(f"q = {resize('linear')}(p, , , z8)"),
    "1 sizes, cubic": net(f"q = {resize('cubic', '', '', 'cubic_coeff_a = -0.5')}(p, , , z8)"),
    "1 sizes, aligned corners": net(f"q = {resize('linear', 'align_corners')}(p, , , z8)"),
    "1 sizes, asymmetric": net(f"q = {resize('linear', 'asymmetric')}(p, , , z8)"),
    "1 sizes, pytorch": net(f"q = {resize('linear', 'pytorch_half_pixel')}(p, , , z8)"),
    "1 sizes, upwards": net(f"q = {resize('nearest', 'asymmetric', 'ceil')}(p, , , z8)"),
    "1 sizes of opset 11": net(f"q = {resize('linear')}(p, r, r, z8)", opset=11),
    "1 sizes of opset 13": net(f"q = {resize('linear')}(p, , , z8)", opset=13),
    "1 sizes of opset 21": net(f"q = {resize('linear')}(p, , , z8)", opset=21),
    "2 the defaults": net("q = Resize(p, , s2)"),
    "2 rounded up": net(f"q = {resize('nearest', 'half_pixel', 'round_prefer_ceil')}(p, , s2)"),
    "2 pytorch": net(f"q = {resize('', 'pytorch_half_pixel')}(p, , s3)"),
    "2 sizes": net("q = Resize(p, , , z8)"),
    "2 opset 11": net("q = Resize(p, r, s2)", opset=11),
    "2 opset 13": net("q = Resize(p, , s2)", opset=13),
    "2 opset 18": net("q = Resize(p, , s2)", opset=18),
    "2 opset 21": net("q = Resize(p, , s2)", opset=21),
    "2 an open batch": net("q = Resize(p, , s2)", x="N,2,4,4"),
    "2 open sizes": net("q = Resize(p, , s2)", x="N,2,H,W"),
    "2 a line": net("q = Resize(p, , t)", "float[3] t = {1, 1, 4}", x="1,2,4"),
    "2 a volume": net("q = Resize(p, , t)", "float[5] t = {1, 1, 2, 2, 2}", x="1,1,2,2,2"),
    "2 of integers": net("q = Resize(p, , s2)", kind="int32"),
    "2 by 64": net("q = Resize(p, , t)", "float[3] t = {1, 1, 64}", x="1,2,9"),
    "3 two": net(f"a = {FLOOR}(p, , s2) q = {FLOOR}(a, , s3)"),
    "3 the defaults": net("a = Resize(p, , s2) q = Resize(a, , s2)"),
    "3 sizes, then scales": net(f"a = {FLOOR}(p, , , z8) q = Resize(a, , s2)"),
    "3 three": net("a = Resize(p, , s2) b = Resize(a, , s2) q = Resize(b, , s3)"),
    "3 opset 11": net("a = Resize(p, r, s2) q = Resize(a, r, s2)", opset=11),
    "3 the second is an output": graph(
        "g (float[1,1,3] x) => (float[1,1,12] y) <float[3] t = {1, 1, 2}>"
        f" {{ a = {FLOOR}(x, , t) y = {FLOOR}(a, , t) }}"
    ).replace("p = Neg(x)", ""),
    "4 no region": net(f"q = {resize('linear')}(p, r, s2)"),
    "4 a region that means nothing": net(
        f"q = {resize('linear', 'align_corners')}(p, t, s2)", "float[8] t = {0, 0, 0, 0, 1, 1, 1, 1}"
    ),
    "4 a region and sizes": net(f"q = {resize('linear')}(p, r, , z7)", "int64[4] z7 = {1, 2, 7, 7}"),
    "in a branch": graph(
        "g (float[1,1,3] x, bool c) => (float[1,1,M] y) <float[3] t = {1, 1, 2}> { y = If(c) <then_branch = p () =>"
        f" (float[1,1,12] a) {{ r = Exp(x) u = {FLOOR}(r, , t) v = {FLOOR}(u, , t) a = Neg(v) }},"
        " else_branch = q () => (float[1,1,3] b) { b = Abs(x) }> }"
    ),
}


@pytest.mark.parametrize("case", FOLDED)
def test_folded(case: str) -> None:
    result = assert_fires(RULE, FOLDED[case], None)
    (left,) = [n for g in (result.graph, *result.graph.subgraphs()) for n in g if n.op_type == "Resize"]
    sizes = len(left.inputs) > 3 and left.inputs[3] is not None
    assert sizes == ("z7" in FOLDED[case])
    if case[0] in "23":
        assert (attribute(left, "coordinate_transformation_mode"), attribute(left, "nearest_mode")) == (
            "asymmetric",
            "floor",
        )
    if left.inputs[1] is not None:
        assert "opset 11" in case


KEPT: dict[str, tuple[str, str | None]] = {
    "5 scales that are computed": (
        graph("g (float[1,1,3] x, float[3] s) => (float[] y) { p = Neg(x) q = Resize(p, , s) y = Neg(q) }"),
        None,
    ),
    "5 sizes that callers may override": (
        graph(
            "g (float[1,1,3] x, int64[3] s) => (float[] y) <int64[3] s = {1,1,6}> { p = Neg(x) q = Resize(p, , , s) y = Neg(q) }"
        ),
        None,
    ),
    "6 open dimensions": (net(f"q = {resize('linear')}(p, , , z8)", x="1,2,H,W"), None),
    "7 sizes that are no multiples": (net("q = Resize(p, , , t)", "int64[4] t = {1, 2, 6, 6}"), None),
    "7 sizes that shrink": (net("q = Resize(p, , , t)", "int64[4] t = {1, 2, 2, 2}"), None),
    "7 scales that are fractions": (net("q = Resize(p, , t)", "float[4] t = {1, 1, 1.5, 1.5}"), None),
    "7 scales that shrink": (net("q = Resize(p, , t)", "float[4] t = {1, 1, 0.5, 0.5}"), None),
    "8 linear": (net(f"q = {resize('linear')}(p, , s2)"), None),
    "8 linear, twice": (net(f"a = {resize('linear')}(p, , s2) q = {resize('linear')}(a, , s2)"), None),
    "8 aligned corners": (net(f"q = {resize('nearest', 'align_corners')}(p, , s2)"), None),
    "8 asymmetric, to the nearest": (net(f"q = {resize('nearest', 'asymmetric')}(p, , s2)"), None),
    "8 asymmetric, upwards": (net(f"q = {resize('nearest', 'asymmetric', 'ceil')}(p, , s2)"), None),
    "8 half pixels, downwards": (net(f"q = {resize('nearest', 'half_pixel', 'floor')}(p, , s2)"), None),
    "8 already in its form": (net(f"q = {FLOOR}(p, , s2)"), None),
    "8 a crop": (
        net(f"q = {resize('nearest', 'tf_crop_and_resize')}(p, t, s2)", "float[8] t = {0, 0, 0, 0, 1, 1, 1, 1}"),
        None,
    ),
    "9 some axes": (net("q = Resize<axes = [2, 3]>(p, , t)", "float[2] t = {2, 2}", opset=18), None),
    "9 sizes that keep the aspect": (
        net('q = Resize<keep_aspect_ratio_policy = "not_larger">(p, , , z8)', opset=18),
        None,
    ),
    "9 antialias": (net(f"q = {resize('linear', '', '', 'antialias = 1')}(p, , , z8)", opset=18), None),
    "10 read elsewhere": (
        graph(
            f"g (float[1,1,3] x) => (float[] y, float[] z) <float[3] t = {{1, 1, 2}}>"
            f" {{ a = {FLOOR}(x, , t) b = {FLOOR}(a, , t) y = Neg(b) z = Exp(a) }}"
        ),
        "Resize 'Resize_a' before it is read elsewhere too",
    ),
    "10 an output": (
        graph(
            f"g (float[1,1,3] x) => (float[] y, float[1,1,6] a) <float[3] t = {{1, 1, 2}}>"
            f" {{ a = {FLOOR}(x, , t) b = {FLOOR}(a, , t) y = Neg(b) }}"
        ),
        "is read elsewhere too",
    ),
    "3 by more than 64 in all": (
        net(f"a = {FLOOR}(p, , t) q = {FLOOR}(a, , t)", "float[3] t = {1, 1, 9}", x="1,1,3"),
        None,
    ),
    "11 opset 10": (net("q = Resize(p, s2)", opset=10), None),
    "11 Upsample": (net("q = Upsample(p, s2)", opset=9), None),
    "the first in the outer graph": (
        graph(
            "g (float[1,1,3] x, bool c) => (float[] y) <float[3] t = {1, 1, 2}>"
            f" {{ a = {FLOOR}(x, , t) y = If(c) <then_branch = p () => (float[1,1,12] u) {{ u = {FLOOR}(a, , t) }},"
            " else_branch = q () => (float[1,1,6] v) { v = Neg(a) }> }"
        ),
        None,
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    text, reason = KEPT[case]
    assert_left_alone(RULE, text, reason)


@pytest.mark.parametrize(
    "form", [*itertools.product(("half_pixel", "pytorch_half_pixel"), ("round_prefer_floor", "round_prefer_ceil"))]
)
def test_2_every_factor(form: tuple[str, str]) -> None:
    """Each element from floor(i / s), also far from the start."""
    coordinates, rounding = form
    for factor, size in ((1, 7), (2, 500), (3, 1000), (5, 300), (7, 300), (10, 200), (48, 99), (63, 100), (64, 100)):
        text = graph(
            f"g (float[1,1,{size}] x) => (float[1,1,{size * factor}] y) <float[3] t = {{1, 1, {factor}}}>"
            f" {{ y = {resize('nearest', coordinates, rounding)}(x, , t) }}"
        )
        model = loaded(text)
        result, report = checked(RULE, model)
        assert len(report.hits) == 1
        x = np.arange(size, dtype=np.float32).reshape(1, 1, size)
        one, two = (Session(m, Level.NONE).run({"x": x})["y"] for m in (model, result))
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(two, np.repeat(x, factor, axis=2))


def test_the_scales_are_float32() -> None:
    model = loaded(net(f"q = {resize('linear')}(p, , , z8)"))
    result, _ = checked(RULE, model)
    node = next(n for n in result.graph if n.op_type == "Resize")
    scales = constant(node.inputs[2])
    assert scales is not None
    assert scales.dtype == np.float32
    assert scales.tolist() == [1, 1, 2, 2]
    assert op_histogram(result) == ONE
    assert node.inputs[2] is not None
    assert node.inputs[2].dtype == ir.DataType.FLOAT


MORE = "v = Resize(x, , s2) z = Exp(v)"
TWO = net(f"a = {FLOOR}(p, , s2) [n] b = {FLOOR}(a, , s3) {MORE} c = Mul(z, t) q = Concat<axis = 2>(b, c)", "float t")
SIZES = net(f"[n] b = {resize('linear')}(p, , , z8) {MORE} q = Concat<axis = 2>(b, z)")
BREAKAGES: dict[str, tuple[str, Breakage | Patch]] = {
    "3 left out": (TWO, wired_to_its_input),
    "1 another scale": (SIZES, scaled(2, 2, 2.0)),
    "2 another mode": (
        net(f"[n] b = {resize('linear')}(p, , s2) {MORE} q = Add(b, z)"),
        Patch(fold_resize, "_copies", lambda node: True),
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_sabotage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, how = BREAKAGES[name]
    assert_caught(RULE, text, how, monkeypatch)
