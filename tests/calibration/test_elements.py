from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeopt.calibration.elements import Element, normalise, to_array, to_label
from edgeopt.errors import DataError
from edgeopt.graph import Array
from tests.calibration.specs import noise

A, B = noise(1, 4), noise(1, 2, seed=1)


class Tensor:
    """What torch's tensors look like from outside."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.dtype = "torch.float32"
        self.steps: list[str] = []

    def detach(self) -> Tensor:
        self.steps.append("detach")
        return self

    def cpu(self) -> Tensor:
        self.steps.append("cpu")
        return self

    def numpy(self) -> Array:
        assert self.steps == ["detach", "cpu"]
        return self.array


@pytest.mark.parametrize(
    ("value", "names", "label"),
    [
        (A, ["x"], None),  # case 1
        ((A,), ["x"], None),  # case 2
        ([A, B], ["x", "y"], None),
        ((A, 3), ["x"], 3),  # case 3
        ([A, B, "cat"], ["x", "y"], "cat"),
        (({"x": A, "y": B}, 3), ["x", "y"], 3),  # case 4
        (((A, B), 3), ["x", "y"], 3),
        ({"x": A, "y": B}, ["x", "y"], None),  # case 5
        ({"x": A, "labels": 3}, ["x"], 3),
        ({"image": A, "label": 3}, ["x"], 3),
        ({"x": A, "labels": B}, ["x", "labels"], None),  # an input that is called labels is an input
    ],
)
def test_forms(value: Any, names: list[str], label: Any) -> None:
    element = normalise(value, names, "here")
    assert list(element.inputs) == names
    assert element.label == label
    np.testing.assert_array_equal(element.inputs[names[0]], A)
    if len(names) > 1:
        np.testing.assert_array_equal(element.inputs[names[1]], B)


def test_an_element_passes() -> None:
    element = Element({"x": A}, 1)
    assert normalise(element, ["x"], "here") is element


def test_tensors_without_their_library() -> None:
    element = normalise((Tensor(A), Tensor(np.array(5))), ["x"], "here")
    np.testing.assert_array_equal(element.inputs["x"], A)
    assert element.label == 5
    assert isinstance(element.label, np.ndarray)


@pytest.mark.parametrize(
    ("value", "names", "message"),
    [
        (A, ["x", "y"], "one ndarray for a model with 2 inputs"),
        ((A, B, 1), ["x"], "a tuple of 3, expected 1 (inputs) or 2 (inputs and label)"),
        ([A], ["x", "y"], "a list of 1, expected 2"),
        ({"x": A}, ["x", "y"], "no array for input 'y'"),
        ({"x": A, "y": B, "z": B}, ["x", "y"], "unknown 'z'"),
        ({"p": A, "q": B}, ["x"], "no array for input 'x'; unknown 'p', 'q'"),
        ({}, ["x"], "no array for input 'x'"),
    ],
)
def test_wrong_entries(value: Any, names: list[str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        normalise(value, names, "here")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "value", [object(), [[1], [1, 2]], np.array([1j]), np.array([{}], dtype=object), np.zeros(1, "M8[s]")]
)
def test_not_arrays(value: Any) -> None:
    with pytest.raises(DataError, match="array"):
        to_array(value, "here")


def test_strings_and_numbers_are_arrays() -> None:
    assert to_array(["a", "bc"], "here").shape == (2,)
    assert to_array(np.array(["a"], dtype=object), "here").dtype == np.dtype(object)
    assert to_array(3, "here").shape == ()


def test_labels_stay_what_they_are() -> None:
    assert to_label(None) is None
    assert to_label("cat") == "cat"
    assert to_label({"boxes": 1}) == {"boxes": 1}
