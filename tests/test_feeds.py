from __future__ import annotations

import numpy as np
import pytest

from edgeopt import feeds
from edgeopt.errors import ModelError
from edgeopt.feeds import random_array, random_feed, runnable_feed
from edgeopt.graph import TensorSpec, input_specs
from edgeopt.runtime import Level, Session
from tests.models import model

FLOAT = np.dtype(np.float32)


def spec(*dims: int | str | None, dtype: object = np.float32) -> TensorSpec:
    return TensorSpec("x", np.dtype(dtype), dims)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        ((2, 3), (2, 3)),
        (("N", 3), (1, 3)),
        ((None, 3), (1, 3)),
        (("N", "T", 3), (1, 7, 3)),
        (("N", "N"), (1, 1)),
        ((4, None), (4, 7)),
        ((), ()),
        ((0, 3), (0, 3)),
    ],
)
def test_random_feed_shapes(dims: tuple[int | str | None, ...], shape: tuple[int, ...]) -> None:
    feed = random_feed([spec(*dims)], size=7)
    assert feed["x"].shape == shape
    assert feed["x"].dtype == FLOAT


def test_random_feed_assumes() -> None:
    assert random_feed([spec("N", "T")], assumed={"N": 3, "T": 5})["x"].shape == (3, 5)


def test_random_feed_is_repeatable() -> None:
    first, second, other = (random_feed([spec(50)], seed)["x"] for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("bad", [TensorSpec("x", None, (1,)), TensorSpec("x", FLOAT, None)])
def test_random_feed_of_what_is_no_tensor(bad: TensorSpec) -> None:
    with pytest.raises(ModelError, match="cannot be fed at random") as caught:
        random_feed([bad])
    assert "input 'x'" in str(caught.value)


@pytest.mark.parametrize(
    "kind", ["float32", "float64", "float16", "int8", "uint8", "int64", "bool", "object", "complex64"]
)
def test_random_array(kind: str) -> None:
    array = random_array(np.random.default_rng(0), np.dtype(kind), (200,), (0, 2))
    assert array.dtype == np.dtype(kind)
    if np.dtype(kind).kind in "iu":
        assert set(array.tolist()) == {0, 1, 2}
    elif np.dtype(kind).kind == "f":
        assert abs(float(array.std()) - 1) < 0.2
    elif kind == "object":
        assert set(array.tolist()) == {"a", "b"}


def test_runnable_feed_tries_sizes() -> None:
    made = model(
        "g (float[N,T] x) => (float[N,T] y) <float[1,64] w> { y = Add(x, w) }".replace("<float[1,64] w>", "")
        .replace("Add(x, w)", "Reshape(x, s)")
        .replace("{ y", "<int64[2] s = {1, 224}> { y")
    )
    feed = runnable_feed(Session(made, Level.NONE), input_specs(made))
    assert feed["x"].shape == (1, 224)


def test_runnable_feed_tries_integers() -> None:
    made = model("g (int64[1] x) => (float[1] y) <float[1] w = {5}> { y = Gather(w, x) }")
    feed = runnable_feed(Session(made, Level.NONE), input_specs(made))
    assert feed["x"].tolist() == [0]


def test_runnable_feed_without_inputs() -> None:
    made = model("g () => (float[1] y) <float[1] w = {5}> { y = Neg(w) }")
    assert runnable_feed(Session(made, Level.NONE), []) == {}


def test_runnable_feed_gives_up_with_the_first_reason() -> None:
    made = model("g (float[N,T] x) => (float[A,B] y) <int64[2] s = {1, 9999}> { y = Reshape(x, s) }")
    with pytest.raises(ModelError, match=r"\{1,32\}"):
        runnable_feed(Session(made, Level.NONE), input_specs(made))


def test_runnable_feed_stops_at_its_time() -> None:
    class Slow:
        runs = 0

        def run(self, feed: object, timeout_s: float) -> None:
            self.runs += 1
            assert timeout_s <= 0.0
            raise ModelError("too slow")

    slow = Slow()
    with pytest.raises(ModelError, match="too slow"):
        runnable_feed(slow, [spec("N", "T")], timeout_s=0.0)  # type: ignore[arg-type]
    assert slow.runs == 1
    assert len(feeds._TRIED_SIZES) > 1
