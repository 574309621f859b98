from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import bias_correction, quantizer
from edgeopt.bias_correction import _correction, _helpful, _Layer, _moments, find_corrections
from edgeopt.calibration import Sample
from edgeopt.errors import ModelError
from edgeopt.graph import Array, constant, input_specs
from edgeopt.layer_walk import LayerWalk
from edgeopt.oracle import Oracle
from edgeopt.quant import Scheme
from edgeopt.quantizer import Calibrated
from edgeopt.runtime import Level, Session
from edgeopt.sensitivity import OutputNoise
from tests import models

COARSE = Scheme(weight_bits=4)  # rounds weights so much that positive inputs shift the mean of every layer
NET = """
g (float[N,3,H,W] x) => (float[N,3,h,v] y)
<float[6,3,3,3] w1, float[6] b1, float[6,6,1,1] w2, float[3,6,3,3] w3, float[3] b3>
{
    [first] c = Conv<pads=[1,1,1,1]>(x, w1, b1)
    [relu] r = Relu(c)
    [second] d = Conv(r, w2)
    [skip] s = Add(d, r)
    [third] y = Conv(s, w3, b3)
}
"""
HEAD = """
g (float[N,3,4,4] x) => (float[N,5] y, float[N,5] u, float[N,2] z)
<float[6,3,4,4] w1, float[6,5] w2, float[6,5] w3, float[5] b3, float[6,2] w4>
{
    [conv] c = Conv(x, w1)
    [flat] f = Flatten(c)
    [dense] l = Gemm(f, w2)
    [curve] y = Softmax<axis=1>(l)
    [matmul] m = MatMul(f, w3)
    [bias] u = Add(m, b3)
    [plain] z = MatMul(f, w4)
}
"""


def bright(model: ir.Model, count: int = 16, size: int = 8, seed: int = 0) -> list[dict[str, Array]]:
    """Samples between 0 and 1."""
    rng = np.random.default_rng(seed)
    shapes = {
        s.name: [d if isinstance(d, int) else 1 if k == 0 else size for k, d in enumerate(s.dims or ())]
        for s in input_specs(model)
    }
    return [{name: rng.random(shape, np.float32) for name, shape in shapes.items()} for _ in range(count)]


def calibrated(model: ir.Model, feeds: Sequence[dict[str, Array]]) -> Calibrated:
    return quantizer.calibrate(model, [Sample(feed, None) for feed in feeds], Oracle(model, feeds[:2]))


def found(model: ir.Model, feeds: Sequence[dict[str, Array]], **options: Any) -> dict[str, Array]:
    return find_corrections(calibrated(model, feeds), COARSE, feeds, **{"seconds": 1e9, **options})


def drafted(
    model: ir.Model, feeds: Sequence[dict[str, Array]], corrections: dict[str, Array], **options: Any
) -> ir.Model:
    result = quantizer.draft(calibrated(model, feeds), COARSE, corrections=corrections, **options)
    assert result is not None
    return result[0]


def mean(model: ir.Model, node: str, feeds: Sequence[dict[str, Array]]) -> Array:
    """Of the node's output in each channel; it is the float model's or the int8 model's."""
    shown = model.clone()
    value = next(n for n in shown.graph if n.name == node).outputs[0]
    if not value.is_graph_output():
        shown.graph.outputs.append(value)
    session = Session(shown, Level.NONE)
    arrays = [session.run(feed)[value.name or ""] for feed in feeds]
    means = [np.moveaxis(a, 1, 0).reshape(a.shape[1], -1).mean(axis=1) for a in arrays]
    return np.asarray(np.mean(means, axis=0))


def test_every_layer_has_the_mean_of_the_float_model() -> None:
    model = models.loaded(NET)
    feeds = bright(model)
    corrections = found(model, feeds)
    assert list(corrections) == ["first", "second", "third"]
    assert {c.dtype.name for c in corrections.values()} == {"float32"}
    before, after = drafted(model, feeds, {}), drafted(model, feeds, corrections)
    for node in corrections:
        wanted = mean(model, node, feeds[::2])
        shift, left = (np.abs(mean(m, node, feeds[::2]) - wanted).max() for m in (before, after))
        assert left < shift / 20


def test_the_noise_of_other_samples_falls_and_the_result_passes_its_check() -> None:
    model = models.loaded(NET)
    feeds = bright(model)
    data = calibrated(model, feeds)
    corrections = find_corrections(data, COARSE, feeds, seconds=1e9)
    noise = OutputNoise(model, bright(model, seed=1))
    made = quantizer.build(data, COARSE, Oracle(model, feeds[:2]), corrections=corrections)
    plain = quantizer.build(data, COARSE, Oracle(model, feeds[:2]))
    assert noise.of(made.model) < noise.of(plain.model) / 2
    assert len(list(made.model.graph)) == len(list(plain.model.graph)) + 1  # a DQ of the bias that second had not


def test_layers_behind_corrected_ones_do_not_count_twice() -> None:
    model = models.loaded(NET)
    feeds = bright(model)
    corrections = found(model, feeds)
    alone = mean(model, "third", feeds[::2]) - mean(drafted(model, feeds, {}), "third", feeds[::2])
    assert np.abs(corrections["third"] - alone).max() > np.abs(alone).max() / 5


def test_the_same_samples_give_the_same_bytes() -> None:
    model = models.loaded(NET)
    feeds = bright(model)
    a, b = (found(model, feeds) for _ in range(2))
    assert {n: c.tobytes() for n, c in a.items()} == {n: c.tobytes() for n, c in b.items()}


def test_a_layer_that_stays_float_has_no_correction() -> None:
    model = models.loaded(NET)
    feeds = bright(model)
    keep = frozenset({"second"})
    data = calibrated(model, feeds)
    corrections = find_corrections(data, COARSE, feeds, keep_float=keep, seconds=1e9)
    assert list(corrections) == ["first", "third"]
    noise = OutputNoise(model, bright(model, seed=1))
    plain, made = (drafted(model, feeds, c, keep_float=keep) for c in ({}, corrections))
    assert noise.of(made) < noise.of(plain) / 2
    assert quantizer.build(data, COARSE, Oracle(model, feeds[:2]), keep_float=keep, corrections=corrections).model


def test_layers_without_bias_and_outputs_of_all_kinds() -> None:
    model = models.loaded(HEAD)
    feeds = bright(model, 64)
    corrections = found(model, feeds)
    assert {name: c.shape for name, c in corrections.items()} == {"conv": (6,), "dense": (5,), "matmul": (5,)}
    after = drafted(model, feeds, corrections)
    nodes = {n.name: n for n in after.graph}
    assert [len(nodes[name].inputs) for name in ("conv", "dense", "plain")] == [3, 3, 2]
    noise = OutputNoise(model, bright(model, 32, seed=1))
    assert noise.of(after) < noise.of(drafted(model, feeds, {}))


def test_samples_of_several_sizes() -> None:
    model = models.loaded(NET)
    feeds = [feed for k in range(8) for feed in bright(model, 2, 6 + k, k)]
    assert list(found(model, feeds)) == ["first", "second", "third"]


def test_corrections_that_hurt_other_samples_are_rejected() -> None:
    model = models.loaded(NET)
    feeds = bright(model)
    assert found(model, feeds)
    opposite = [{n: (-1) ** k * a for n, a in feed.items()} for k, feed in enumerate(feeds)]  # all fitted ones are > 0
    assert found(model, opposite) == {}


@pytest.mark.parametrize(
    ("noises", "factor"),
    [
        ({0.0: [1.0, 1.0], 1.0: [0.5, 0.5], 0.5: [0.7, 0.7]}, 1.0),
        ({0.0: [1.0, 1.0], 1.0: [0.8, 0.8], 0.5: [0.7, 0.7]}, 0.5),
        ({0.0: [1.0, 1.0], 1.0: [0.1, 1.1], 0.5: [0.7, 0.9]}, 0.5),  # the full ones hurt a half
        ({0.0: [1.0, 1.0], 1.0: [0.1, 1.1], 0.5: [0.5, 0.96]}, None),  # less than a twentieth better
    ],
)
def test_corrections_are_taken_as_they_are_or_by_half(noises: dict[float, list[float]], factor: float | None) -> None:
    def noise(tried: Any) -> list[float]:
        return noises[float(tried["a"][0]) if tried else 0.0]

    best = _helpful({"a": np.ones(2, np.float32)}, noise)
    assert {n: c.tolist() for n, c in best.items()} == ({} if factor is None else {"a": [factor, factor]})


def test_what_the_samples_do_not_agree_on_is_taken_off() -> None:
    agreed = _correction(np.array([[0.5, 0.5]] * 4), 1.0)
    assert agreed is not None
    np.testing.assert_allclose(agreed, [0.5, 0.5])
    shifts = np.array([[1.0, 2.0], [1.0, -1.0], [1.0, 2.0], [1.0, -1.0]])  # second: mean 0.5, variance of the mean 0.75
    assert np.asarray(_correction(shifts, 1.0)).tolist() == [1.0, 0.0]
    shifts[:, 1] = [0.75, 0.25, 0.75, 0.25]
    shrunk = _correction(shifts, 1.0)
    assert shrunk is not None
    np.testing.assert_allclose(shrunk, [1.0, 0.5 - (0.0625 * 4 / 3 / 4) / 0.5])


@pytest.mark.parametrize(
    ("shift", "deviation", "taken"),
    [
        (1e-3, 0.5, True),
        (1e-3, 2.0, False),
        (1.0, 0.6, True),
        (1.0, 0.4, False),
        (0.0, 0.0, False),
        (np.nan, 1.0, False),
        (1.0, np.nan, False),
    ],
)
def test_errors_that_are_tiny_or_absurd_are_left(shift: float, deviation: float, taken: bool) -> None:
    assert (_correction(np.full((4, 2), shift), deviation) is not None) == taken


def test_an_output_without_values_has_no_mean() -> None:
    assert np.isnan(_moments(np.zeros((1, 2, 0), np.float32), _Layer("a", "a", 2, 1))).all()


def test_too_few_samples_or_nothing_in_int8() -> None:
    model = models.loaded(NET)
    feeds = bright(model)
    assert find_corrections(calibrated(model, feeds), COARSE, feeds[:7], seconds=1e9) == {}
    assert found(model, feeds, keep_float=frozenset({"Conv"})) == {}
    plain = models.loaded("g (float[N,3] x) => (float[N,2] y) <float[3,2] w> { [matmul] y = MatMul(x, w) }")
    assert found(plain, bright(plain)) == {}


def stopping(after: int) -> Callable[[], float]:
    """A clock that jumps far ahead behind so many calls."""
    calls = iter(range(10**6))
    return lambda: 0.0 if next(calls) < after else 1e9


def test_layers_that_are_not_reached_in_time_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias_correction, "_helpful", lambda corrections, noise: corrections)
    model = models.loaded(NET)
    feeds = bright(model)
    calls = 1 + 8  # at the beginning, behind each sample of the float model; then in front of each layer
    assert [list(found(model, feeds, seconds=1.0, clock=stopping(calls + k))) for k in range(4)] == [
        [],
        ["first"],
        ["first", "second"],
        ["first", "second", "third"],
    ]


def test_four_samples_are_looked_at_even_if_there_is_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.loaded(NET)
    feeds, seen = bright(model), []
    init = LayerWalk.__init__

    def spy(self: LayerWalk, model: ir.Model, nodes: Any, feeds: Any, **options: Any) -> None:
        seen.append(len(feeds))
        init(self, model, nodes, feeds, **options)

    monkeypatch.setattr(LayerWalk, "__init__", spy)
    assert found(model, feeds, seconds=1.0, clock=stopping(1)) == {}
    assert seen == [4]


def test_layers_behind_a_part_that_does_not_run_alone_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.loaded(NET)
    step = LayerWalk.step

    def failing(self: LayerWalk, look: Any) -> list[Any]:
        if self._next == 1:
            raise ModelError("no")
        return step(self, look)

    monkeypatch.setattr(LayerWalk, "step", failing)
    monkeypatch.setattr(bias_correction, "_helpful", lambda corrections, noise: corrections)
    assert list(found(model, bright(model))) == ["first"]


def test_noise_is_looked_at_before_a_softmax_that_ends_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.loaded(HEAD)
    seen: list[list[str]] = []
    init = OutputNoise.__init__

    def spy(self: OutputNoise, model: ir.Model, *arguments: Any) -> None:
        seen.append([n.op_type for n in model.graph if n.name == "curve"])
        init(self, model, *arguments)

    monkeypatch.setattr(OutputNoise, "__init__", spy)
    found(model, bright(model, 64))
    assert seen == [["Identity"], ["Identity"]]
    assert constant(model.graph.initializers["w2"]) is not None  # the model itself is not changed
    assert "Softmax" in {n.op_type for n in model.graph}
