from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeopt.calibration.batches import batch_axes, fixed_batch, split
from edgeopt.calibration.elements import Element
from edgeopt.errors import DataError
from edgeopt.graph import TensorSpec
from tests.calibration.specs import noise, spec

UNKNOWN = TensorSpec("x", np.dtype(np.float32), None)


@pytest.mark.parametrize(
    ("specs", "axes", "batch"),
    [
        ([spec("x", "N", 3, 8, 8)], {"x": 0}, 1),  # case 1
        ([spec("x", 1, 3, 8, 8)], {"x": 0}, 1),
        ([spec("x", None, 5)], {"x": 0}, 1),
        (
            [spec("x", "batch", "sequence"), spec("state", 2, "batch", 128), spec("sr")],
            {"x": 0, "state": 1, "sr": None},
            1,
        ),
        ([spec("x", "seq_len", "batch", 5)], {"x": 1}, 1),  # case 2
        ([spec("x", "seq_len", 5)], {"x": None}, 1),
        ([spec("x", 8, 3, 4, 4)], {"x": 0}, 8),  # case 3
        ([spec("x", 8, 3), spec("y", 8, 5)], {"x": 0, "y": 0}, 8),
        ([spec("x", 1, 3), spec("y", 2, 1, 5)], {"x": 0, "y": None}, 1),
        ([spec("x", "samples")], {"x": None}, 1),  # case 4
        ([spec("x", 16000)], {"x": None}, 1),
        ([spec("x")], {"x": None}, 1),
        ([UNKNOWN], {"x": None}, 1),
        ([spec("x", "N", 3), spec("y", "N")], {"x": 0, "y": 0}, 1),
    ],
)
def test_axes(specs: list[TensorSpec], axes: dict[str, Any], batch: int) -> None:
    assert batch_axes(specs) == axes
    assert fixed_batch(specs, batch_axes(specs)) == batch


def cut(element: Element, *specs: TensorSpec, ranks: dict[str, int] | None = None) -> list[tuple[Any, ...]]:
    found = split(element, specs, batch_axes(specs), ranks or {}, "here")
    return [(*(row.inputs[s.name].shape for s in specs), row.label) for row in found]


def test_single_samples_are_left_alone() -> None:
    x = spec("x", "N", 4)
    assert cut(Element({"x": noise(4)}, 1), x) == [((4,), 1)]
    assert cut(Element({"x": noise(4)}, [1, 2]), x) == [((4,), [1, 2])]


def test_batches_are_cut_with_their_labels() -> None:
    x = spec("x", "N", 4)
    assert cut(Element({"x": noise(3, 4)}, None), x) == [((4,), None)] * 3
    assert cut(Element({"x": noise(2, 4)}, np.array([5, 6])), x) == [((4,), 5), ((4,), 6)]
    assert cut(Element({"x": noise(2, 4)}, ["a", "b"]), x) == [((4,), "a"), ((4,), "b")]
    state = spec("s", 2, "N", 3)
    assert cut(Element({"x": noise(5, 4), "s": noise(2, 5, 3)}, None), x, state) == [((4,), (2, 3), None)] * 5
    rate = spec("r")
    assert cut(Element({"x": noise(2, 4), "r": np.array(1)}, None), x, rate) == [((4,), (), None)] * 2


def test_a_batch_of_one_unwraps_only_a_plain_list_of_labels() -> None:
    x = spec("x", "N", 4)
    assert cut(Element({"x": noise(1, 4)}, np.array([5])), x) == [((4,), 5)]
    assert cut(Element({"x": noise(1, 4)}, ["a"]), x) == [((4,), "a")]
    assert cut(Element({"x": noise(1, 4)}, 7), x) == [((4,), 7)]
    ((_, label),) = cut(Element({"x": noise(1, 4)}, noise(1, 5)), x)
    assert label.shape == (1, 5)


def test_declared_layout_gives_the_rank() -> None:
    x = spec("x", "N", 1, 8, 8)
    assert cut(Element({"x": noise(3, 8, 8)}, None), x, ranks={"x": 2}) == [((8, 8), None)] * 3
    assert cut(Element({"x": noise(8, 8)}, None), x, ranks={"x": 2}) == [((8, 8), None)]


def test_a_full_fixed_batch_with_one_label_stays_whole() -> None:
    x = spec("x", 3, 4, 4)  # not a batch at all, but channels
    rows = split(Element({"x": noise(3, 4, 4)}, 7), [x], batch_axes([x]), {}, "here")
    assert [(r.inputs["x"].shape, r.label, r.whole) for r in rows] == [((3, 4, 4), 7, True)]
    assert len(cut(Element({"x": noise(3, 4, 4)}, [1, 2, 3]), x)) == 3


def test_disagreements() -> None:
    x, y = spec("x", "N", 4), spec("y", "N", 2)
    with pytest.raises(DataError, match=r"different batch sizes: \{'x': 3, 'y': 2\}"):
        cut(Element({"x": noise(3, 4), "y": noise(2, 2)}, None), x, y)
    with pytest.raises(DataError, match="2 labels for a batch of 3"):
        cut(Element({"x": noise(3, 4)}, [1, 2]), x)
    with pytest.raises(DataError, match="one label for a batch of 3"):
        cut(Element({"x": noise(3, 4)}, 1), x)
