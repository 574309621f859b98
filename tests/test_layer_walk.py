from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.errors import ModelError
from edgeopt.feeds import random_feed
from edgeopt.graph import Array, input_specs
from edgeopt.layer_walk import LayerWalk
from edgeopt.passes.int8_plan import plan
from edgeopt.passes.quantize_int8 import quantize_int8
from edgeopt.quant import Scheme
from edgeopt.runtime import Level, Session
from tests import models

BRANCHES = """
g (float[N,2,H,W] x, float[1] unread) => (float[N,2,H,W] y, float[1] z) <float[2,2,3,3] w, float[2,2,1,1] v, float[1] k>
{
    [first] a = Conv<pads=[1,1,1,1]>(x, w)
    r = Relu(a)
    [second] b = Conv(r, v)
    t = Mul(b, k)
    [third] c = Conv(r, v)
    s = Add(t, c)
    [fourth] d = Conv<pads=[1,1,1,1]>(s, w)
    y = Add(d, x)
    z = Neg(unread)
}
"""
BODY = """
g (float[N,2] x, bool c) => (float[N,2] y) <float[2,2] w>
{
    [first] h = MatMul(x, w)
    t = If(c) <then_branch = t () => (float[N,2] a) { a = Add(h, h) },
               else_branch = e () => (float[N,2] b) { b = Neg(h) }>
    [second] y = MatMul(t, w)
}
"""


def feeds_of(model: ir.Model, count: int = 4) -> list[dict[str, Array]]:
    return [random_feed(input_specs(model), k) for k in range(count)]


def whole(model: ir.Model, name: str, feed: dict[str, Array]) -> Any:
    """The node's output from a run of the whole model."""
    shown = model.clone()
    value = next(n for n in shown.graph if n.name == name).outputs[0]
    shown.graph.outputs.append(value)
    return Session(shown, Level.NONE).run(feed)[value.name or ""]


def same(array: Array) -> Array:
    return array.copy()


@pytest.mark.parametrize("text", [BRANCHES, BODY])
def test_each_step_gives_what_the_whole_model_computes(text: str) -> None:
    model = models.loaded(text)
    names = [n.name for n in model.graph if n.op_type in ("Conv", "MatMul") and n.name]
    feeds = feeds_of(model)
    walk = LayerWalk(model, names, feeds)
    for name in names:
        found = walk.step(same)
        assert len(found) == 4
        for array, feed in zip(found, feeds, strict=True):
            np.testing.assert_allclose(array, whole(model, name, feed), rtol=1e-6, atol=1e-6)


def test_a_constant_that_changes_between_two_steps_counts_in_all_later_ones() -> None:
    model = models.loaded(
        BRANCHES.replace("Conv(r, v)", "Conv(r, u)", 1).replace("float[1] k", "float[1] k, float[2,2,1,1] u")
    )
    feeds = feeds_of(model)
    walk = LayerWalk(model, ["first", "second", "fourth"], feeds)
    before = [whole(model, "fourth", feed) for feed in feeds]
    walk.step(same)
    walk.step(same)
    value = model.graph.initializers["u"]
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() + np.float32(1))
    found = walk.step(same)
    for array, feed, old in zip(found, feeds, before, strict=True):
        np.testing.assert_allclose(array, whole(model, "fourth", feed), rtol=1e-5, atol=1e-5)
        assert np.abs(array - old).max() > 0.1


def test_what_is_quantized_is_kept_as_integers() -> None:
    model = models.loaded(BRANCHES)
    feeds = feeds_of(model)
    found = plan(model)
    quantize_int8(model, found, dict.fromkeys(found.observed(), (-4.0, 4.0)), Scheme())
    walk = LayerWalk(model, ["first", "second", "third", "fourth"], feeds)
    kept = []
    for _ in range(4):
        walk.step(same)
        kept.append({array.dtype.name for array in walk._kept[0].values()})
    assert kept == [{"uint8"}] * 4


def test_samples_that_find_no_room_are_left_out_from_there_on() -> None:
    model = models.loaded(BRANCHES)
    feeds = feeds_of(model, 8)
    one = random_feed(input_specs(model), 0)["x"].nbytes
    walk = LayerWalk(model, ["first", "second", "third", "fourth"], feeds, room_bytes=10 * one)
    # in front of second lies r, of third r and t, of fourth s
    assert [len(walk.step(same)) for _ in range(4)] == [8, 8, 6, 5]
    tight = LayerWalk(model, ["first", "second", "third", "fourth"], feeds, room_bytes=1)
    assert [len(tight.step(same)) for _ in range(4)] == [8, 4, 3, 3]


def test_samples_of_several_sizes() -> None:
    model = models.loaded(BRANCHES)
    feeds = [random_feed(input_specs(model), k, 4 + k) for k in range(3)]
    walk = LayerWalk(model, ["first", "fourth"], feeds)
    assert [a.shape for a in walk.step(same)] == [f["x"].shape for f in feeds]
    assert len({a.shape for a in walk.step(same)}) == 3


def test_a_default_that_samples_replace() -> None:
    text = "g (float[2] x, float[2] k) => (float[2] y) <float[2] k = {1, 1}>"
    text += "{ [first] a = Mul(x, k) [second] y = Add(a, k) }"
    model = models.loaded(text)
    x = np.ones(2, np.float32)
    replaced = LayerWalk(model, ["first", "second"], [{"x": x, "k": 3 * x}])
    assert [float(replaced.step(same)[0][0]) for _ in range(2)] == [3, 6]
    default = LayerWalk(model, ["first", "second"], [{"x": x}])
    assert [float(default.step(same)[0][0]) for _ in range(2)] == [1, 2]


def test_a_part_that_does_not_run() -> None:
    model = models.loaded(BRANCHES)
    walk = LayerWalk(model, ["first"], [{"x": np.zeros((1, 3, 4, 4), np.float32), "unread": np.zeros(1, np.float32)}])
    with pytest.raises(ModelError, match="cannot run"):
        walk.step(same)
