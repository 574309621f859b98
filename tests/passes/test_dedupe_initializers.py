from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeopt import files, shapes
from edgeopt.graph import graphs
from edgeopt.oracle import Oracle, run_checked
from edgeopt.passes import dedupe_initializers
from edgeopt.passes.dedupe_initializers import DedupeInitializers
from edgeopt.rewrite import CLEAN_UP
from tests.models import assert_same, checked, filled, loaded

RULE = DedupeInitializers()
X = "g (float[2] x) => (float[2] y)"


def weights(text: str) -> tuple[int, list[list[str]]]:
    model = loaded(text)
    result, report = checked(RULE, model)
    assert report.rolled_back == []
    assert_same(model, result)
    again, second = checked(RULE, result)
    assert (again is result, second.removed_initializers) == (True, 0)
    return report.removed_initializers, [sorted(g.initializers) for g in graphs(result)]


MERGED = {
    "1 vectors": (f"{X} <float[2] a = {{1, 2}}, float[2] b = {{1, 2}}> {{ t = Add(x, a) y = Mul(t, b) }}", 1, [["a"]]),
    "1 three": (
        f"{X} <float a = {{1}}, float b = {{1}}, float c = {{1}}> {{ t = Add(x, a) u = Mul(t, b) y = Sub(u, c) }}",
        2,
        [["a"]],
    ),
    "1 two inputs of one node": (
        f"{X} <float a = {{1}}, float b = {{1}}> {{ t = Add(a, b) y = Mul(t, x) }}",
        1,
        [["a"]],
    ),
    "1 integers": (
        f"{X} <int64[1] a = {{0}}, int64[1] b = {{0}}> {{ t = Unsqueeze(x, a) y = Squeeze(t, b) }}",
        1,
        [["a"]],
    ),
    "1 empty": (
        "g (float[2] x) => (float[2] y) <float[0] a = {}, float[0] b = {}> { t = Concat<axis = 0>(x, a)"
        " y = Concat<axis = 0>(t, b) }",
        1,
        [["a"]],
    ),
    "2 a body's copy of an outer one": (
        "g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> { t = Mul(x, w) y = If(c) <then_branch = p () =>"
        " (float[2] a) <float[2] v = {1, 2}> { a = Add(t, v) }, else_branch = q () => (float[2] a) { a = Neg(t) }> }",
        1,
        [["w"], [], []],
    ),
    "2 siblings keep their own": (
        "g (float[2] x, bool c) => (float[2] y) { y = If(c) <then_branch = p () => (float[2] a) <float[2] v = {1, 2}>"
        " { a = Add(x, v) }, else_branch = q () => (float[2] a) <float[2] w = {1, 2}> { a = Mul(x, w) }> }",
        0,
        [[], ["v"], ["w"]],
    ),
    "edge 42: another type": (
        "g (float[2] x) => (float[2] y) <int32[1] a = {1}, float[1] b = {1}> { k = Cast<to = 1>(a) t = Add(x, k)"
        " y = Add(t, b) }",
        0,
        [["a", "b"]],
    ),
    "edge 42: the same bytes of another type": (
        "g (float[2] x) => (float[2] y) <int32[1] a = {0}, float[1] b = {0}> { k = Cast<to = 1>(a) t = Add(x, k)"
        " y = Add(t, b) }",
        0,
        [["a", "b"]],
    ),
    "edge 42: another shape": (
        f"{X} <float a = {{1}}, float[1] b = {{1}}> {{ t = Add(x, a) y = Mul(t, b) }}",
        0,
        [["a", "b"]],
    ),
    "edge 42: -0.0": (
        f"{X} <float a = {{0.0}}, float b = {{-0.0}}> {{ t = Add(x, a) y = Div(t, b) }}",
        0,
        [["a", "b"]],
    ),
    "3 overridable": (
        "g (float[2] x, float[2] a) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {1, 2}> { t = Add(x, a) y = Mul(t, b) }",
        0,
        [["a", "b"]],
    ),
    "3 edge 46: an output": (
        "g (float[2] x) => (float[2] y, float[2] a) <float[2] a = {1, 2}, float[2] b = {1, 2}> { t = Add(x, a) y = Mul(t, b) }",
        0,
        [["a", "b"]],
    ),
}


@pytest.mark.parametrize("case", MERGED)
def test_merged(case: str) -> None:
    text, removed, left = MERGED[case]
    assert weights(text) == (removed, left)


def test_any_size_and_only_if_every_byte_agrees() -> None:
    """Ends alike, one element in the middle not."""
    proto = filled(
        "g (float[1,200] x) => (float[1,200] y) <float[200,200] a> { t = MatMul(x, a) u = MatMul(t, b)"
        " y = MatMul(u, c) }".replace("a>", "a, float[200,200] b, float[200,200] c>")
    )
    weight = np.random.default_rng(0).standard_normal((200, 200)).astype(np.float32)
    other = weight.copy()
    other[100, 100] += 1
    for tensor, array in zip(proto.graph.initializer, (weight, other, weight), strict=True):
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    model = shapes.infer(files.load(proto).model)
    result, report = checked(RULE, model)
    assert (report.removed_initializers, sorted(result.graph.initializers)) == (1, ["a", "b"])
    assert_same(model, result)


def test_weights_outside_of_the_file(tmp_path: Path) -> None:
    proto = filled(
        "g (float[1,64] x) => (float[1,64] y) <float[64,64] a, float[64,64] b> { t = MatMul(x, a) y = MatMul(t, b) }"
    )
    proto.graph.initializer[1].raw_data = proto.graph.initializer[0].raw_data
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    model = shapes.infer(files.load(tmp_path / "m.onnx").model)
    result, report = checked(RULE, model)
    assert (report.removed_initializers, sorted(result.graph.initializers)) == (1, ["a"])
    assert_same(model, result)


def test_5_notes_of_its_own() -> None:
    model = loaded(MERGED["1 vectors"][0])
    model.graph.initializers["b"].metadata_props["scale"] = "b_scale"
    result, report = checked(RULE, model)
    assert (result is model, report.removed_initializers) == (True, 0)


def test_sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged by their looks alone."""
    text = f"{X} <float a = {{1}}, float b = {{2}}> {{ t = Add(x, a) y = Mul(t, b) }}"
    monkeypatch.setattr(dedupe_initializers, "_bytes", lambda tensor: np.zeros(4, np.uint8))
    monkeypatch.setattr(dedupe_initializers, "_look", lambda tensor: tensor.dtype)
    model = loaded(text)
    result, report = run_checked(RULE, model, Oracle(model))
    assert result is model
    assert [s.node for s in report.rolled_back] == [CLEAN_UP]
