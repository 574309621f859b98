from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeopt.calibration.preprocess import Preprocess, for_images
from edgeopt.errors import DataError
from edgeopt.graph import Array
from tests.calibration.specs import noise, pixels

NCHW = ("N", 3, 8, 6)
IMAGE = pixels(8, 6, 3)


def test_nothing_declared_changes_nothing() -> None:
    value = noise(3, 4)
    assert Preprocess().apply(value, ("N", 3, 4), "here") is value
    assert Preprocess().describe() == {}


def test_scale_then_mean_then_std_per_channel() -> None:
    steps = Preprocess(layout="NHWC", scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = (IMAGE.astype(np.float64) / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    result = steps.apply(IMAGE, NCHW, "here")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), rtol=1e-6)
    assert steps.describe() == {
        "layout": "NHWC",
        "scale": 1 / 255,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
    }


def test_scalars_need_no_layout() -> None:
    np.testing.assert_allclose(Preprocess(mean=1.0, std=2.0).apply(np.array([1, 3, 5]), ("N", 3), "here"), [0, 1, 2])


@pytest.mark.parametrize(
    ("layout", "model_layout", "shape", "dims", "expected"),
    [
        ("NHWC", None, (8, 6, 3), ("N", 3, 8, 6), (3, 8, 6)),
        ("NHWC", None, (8, 6, 3), ("N", 8, 6, 3), (8, 6, 3)),
        ("NCHW", None, (3, 8, 6), ("N", 8, 6, 3), (8, 6, 3)),
        ("NCHW", None, (3, 8, 6), ("N", 3, 8, 6), (3, 8, 6)),
        ("NHWC", None, (8, 6, 3), ("N", 3, "H", "W"), (3, 8, 6)),
        ("NHWC", None, (8, 6, 3), ("N", "H", "W", 3), (8, 6, 3)),
        ("NHWC", None, (8, 8, 2), ("N", 8, 8, 2), (8, 8, 2)),
        ("NHW", None, (8, 6), ("N", 1, 8, 6), (1, 8, 6)),
        ("NHW", None, (8, 6), ("N", 8, 6, 1), (8, 6, 1)),
        ("NHWC", "NCHW", (3, 3, 3), ("N", 3, 3, 3), (3, 3, 3)),
        ("NHWC", "NHWC", (8, 6, 3), ("N", "a", "b", "c"), (8, 6, 3)),
        ("NHWC", None, (1, 8, 6, 3), ("N", 3, 8, 6), (3, 8, 6)),
        ("NCHW", None, (3, 8, 6), ("N", 12), (3, 8, 6)),
        ("NHWC", None, (9, 6, 3), ("N", 3, 8, 6), (3, 9, 6)),
        ("NHWC", None, (9, 6, 2), ("N", 3, 8, 6), (2, 9, 6)),
    ],
)
def test_layouts(layout: str, model_layout: str | None, shape: Any, dims: Any, expected: Any) -> None:
    assert Preprocess(layout=layout, model_layout=model_layout).apply(pixels(*shape), dims, "here").shape == expected


@pytest.mark.parametrize("shape", [(8, 6, 3), (3, 8, 6), (8, 6), (1, 8, 6, 3)])
def test_a_layout_that_the_shape_tells(shape: tuple[int, ...]) -> None:
    assert Preprocess(color="RGB").apply(pixels(*shape), NCHW, "here").shape == (3, 8, 6)


def test_transposed_values_are_the_right_ones() -> None:
    result = Preprocess(layout="NHWC", model_layout="NCHW").apply(pixels(3, 3, 3), ("N", 3, 3, 3), "here")
    np.testing.assert_array_equal(result, pixels(3, 3, 3).transpose(2, 0, 1))


def test_colors() -> None:
    dims = ("N", "C", 8, 6)
    bgr = Preprocess(layout="NHWC", model_layout="NHWC", color="BGR", mean=(1, 2, 3)).apply(IMAGE, dims, "here")
    np.testing.assert_array_equal(bgr, IMAGE[:, :, ::-1].astype(np.float32) - [1, 2, 3])
    gray = Preprocess(layout="NHWC", model_layout="NHWC", color="GRAY")
    np.testing.assert_array_equal(
        gray.apply(IMAGE, dims, "here")[:, :, 0], np.asarray(Image.fromarray(IMAGE).convert("L"))
    )
    np.testing.assert_allclose(
        gray.apply(IMAGE / 255, dims, "here")[:, :, 0], (IMAGE / 255) @ [0.299, 0.587, 0.114], rtol=1e-12
    )
    np.testing.assert_array_equal(gray.apply(IMAGE[:, :, :1], dims, "here"), IMAGE[:, :, :1])
    rgb = Preprocess(layout="NHW", model_layout="NHWC", color="RGB").apply(IMAGE[:, :, 0], dims, "here")
    np.testing.assert_array_equal(rgb, np.repeat(IMAGE[:, :, :1], 3, axis=2))


@pytest.mark.parametrize(
    ("size", "target"), [(4, (5, 4)), (6, (8, 6)), (12, (16, 12)), ((4, 4), (4, 4)), ((8, 6), (8, 6))]
)
def test_resize_is_pillows_bilinear(size: Any, target: tuple[int, int]) -> None:
    result = Preprocess(layout="NHWC", model_layout="NHWC", resize=size).apply(IMAGE, None, "here")
    expected = np.asarray(Image.fromarray(IMAGE).resize(target[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(result, expected)


def test_resize_of_wide_and_of_float_images() -> None:
    wide = IMAGE.transpose(1, 0, 2)
    steps = Preprocess(layout="NHWC", model_layout="NHWC", resize=3)
    assert steps.apply(wide, None, "here").shape == (3, 4, 3)
    as_float = steps.apply(wide / 255, None, "here")
    np.testing.assert_allclose(as_float, steps.apply(wide, None, "here") / 255, atol=0.003)


def test_center_crop_takes_the_middle() -> None:
    result = Preprocess(layout="NHWC", model_layout="NHWC", center_crop=(4, 2)).apply(IMAGE, None, "here")
    np.testing.assert_array_equal(result, IMAGE[2:6, 2:4])


@pytest.mark.parametrize(
    ("steps", "value", "dims", "message"),
    [
        (Preprocess(layout="NHWC"), pixels(8, 6), NCHW, "is not HWC, the declared layout"),
        (Preprocess(layout="NHW"), IMAGE, NCHW, "is not HW"),
        (Preprocess(center_crop=(9, 6)), IMAGE, NCHW, "center_crop 9×6 is larger than the image, 8×6"),
        (Preprocess(layout="NHWC", mean=(1.0, 2.0)), IMAGE, NCHW, "mean has 2 numbers, the sample has 3 channels"),
        (Preprocess(layout="NHWC", std=(1.0, 2.0)), IMAGE, NCHW, "std has 2 numbers"),
        (Preprocess(layout="NHWC", color="GRAY"), pixels(8, 6, 2), NCHW, "needs 1 or 3 channels, found 2"),
        (Preprocess(color="RGB"), pixels(3, 8, 3), NCHW, "does not tell which axis holds the channels"),
        (Preprocess(color="RGB"), pixels(8), NCHW, "does not tell"),
        (Preprocess(layout="NHWC"), pixels(3, 3, 3), ("N", 3, 3, 3), "model_layout"),
        (Preprocess(scale=2.0), np.array(["a"]), ("N", 1), "need numbers"),
    ],
)
def test_what_does_not_fit(steps: Preprocess, value: Array, dims: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        steps.apply(value, dims, "here")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        (("N", 3, 8, 8), Preprocess(layout="NHWC", color="RGB", resize=8, center_crop=(8, 8))),
        (("N", 8, 6, 1), Preprocess(layout="NHWC", color="GRAY", resize=(8, 6))),
        (("N", 3, "H", "W"), Preprocess(layout="NHWC", color="RGB")),
        (("N", 12), Preprocess(layout="NHWC")),
        (None, Preprocess(layout="NHWC")),
    ],
)
def test_assumptions_for_a_bare_folder(dims: Any, expected: Preprocess) -> None:
    assert for_images(dims) == expected
