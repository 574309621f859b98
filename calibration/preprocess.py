"""Declared preprocessing: stored images to what the model takes.

In this order: colour, resize, center_crop, then value · scale, then (value − mean) / std, then the axes as the
model wants them. Stored arrays and image files are taken as RGB; ``color`` says what the model gets, and
``mean`` and ``std`` are in that order of channels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from edgeopt.errors import DataError
from edgeopt.graph import Array, Dims

COLORS = ("RGB", "BGR", "GRAY")
LAYOUTS = {"NHWC": 3, "NCHW": 3, "NHW": 2}  # and the rank of one stored sample
MODEL_LAYOUTS = ("NHWC", "NCHW")
Numbers = float | tuple[float, ...]


@dataclass(frozen=True)
class Preprocess:
    """What is done to each sample of one input.

    Attributes:
        layout: How samples are stored: NHWC, NCHW or NHW (grey, no channel axis); None: not images, or by shape.
        model_layout: NHWC or NCHW; None: read off the input's dimensions (which axis has the channel count).
        resize: Short side in pixels (aspect kept), or (height, width), which stretches; bilinear, with
            antialiasing when shrinking (Pillow's BILINEAR).
        center_crop: Height and width in pixels cut from the middle.
        color: RGB, BGR or GRAY (ITU-R BT.601 luma), what the model gets; None: as stored.
        scale: Factor on the values.
        mean: Subtracted after scaling; one number, or one per channel.
        std: Divided by; one number, or one per channel.
    """

    layout: str | None = None
    model_layout: str | None = None
    resize: int | tuple[int, int] | None = None
    center_crop: tuple[int, int] | None = None
    color: str | None = None
    scale: float | None = None
    mean: Numbers | None = None
    std: Numbers | None = None

    def describe(self) -> dict[str, Any]:
        """The settings that are not left out, for the report."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if v is not None}

    @property
    def stored_rank(self) -> int | None:
        """Rank of one stored sample, when the layout says it."""
        return None if self.layout is None else LAYOUTS[self.layout]

    @property
    def _needs_axes(self) -> bool:
        per_channel = any(isinstance(v, tuple) and len(v) > 1 for v in (self.mean, self.std))
        return per_channel or any(v is not None for v in (self.layout, self.resize, self.center_crop, self.color))

    def apply(self, value: Array, dims: Dims | None, where: str) -> Array:
        """One sample as the model takes it (without batch axis; dtype is conformed later).

        Args:
            value: One stored sample; a batch axis of size 1 in front is dropped.
            dims: The model input's dimensions.
            where: For messages.

        Raises:
            DataError: the sample is no image of the declared layout, too small for the crop, or has another
                number of channels than mean, std or the model.
        """
        if not self._needs_axes:
            return self._arithmetic(value, where)
        pixels = self._stored_to_hwc(value, where)
        if self.color is not None:
            pixels = _recolor(pixels, self.color, where)
        if self.resize is not None:
            pixels = _resize(pixels, self.resize)
        if self.center_crop is not None:
            pixels = _center_crop(pixels, self.center_crop, where)
        pixels = self._arithmetic(pixels, where)
        return pixels.transpose(2, 0, 1) if self._model_wants(pixels, dims, where) == "NCHW" else pixels

    def _stored_to_hwc(self, value: Array, where: str) -> Array:
        layout = self.layout or _layout_by_shape(value, where)
        rank = LAYOUTS[layout]
        if value.ndim == rank + 1 and value.shape[0] == 1:
            value = value[0]
        if value.ndim != rank:
            raise DataError(f"a sample of shape {value.shape} is not {layout[1:]}, the declared layout", where=where)
        if layout == "NHW":
            return value[:, :, None]
        return value.transpose(1, 2, 0) if layout == "NCHW" else value

    def _arithmetic(self, value: Array, where: str) -> Array:
        if self.scale is None and self.mean is None and self.std is None:
            return value
        if value.dtype.kind not in "buif":
            raise DataError(f"scale, mean and std need numbers, found {value.dtype}", where=where)
        result = value.astype(np.float64) * (1.0 if self.scale is None else self.scale)  # rounded once, at the end
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if isinstance(numbers, tuple) and len(numbers) > 1 and value.shape[-1] != len(numbers):
                raise DataError(
                    f"{name} has {len(numbers)} numbers, the sample has {value.shape[-1]} channels", where=where
                )
        if self.mean is not None:
            result -= np.asarray(self.mean)
        if self.std is not None:
            result /= np.asarray(self.std)
        with np.errstate(over="ignore"):
            return result.astype(np.float32)

    def _model_wants(self, pixels: Array, dims: Dims | None, where: str) -> str:
        if self.model_layout is not None:
            return self.model_layout
        if dims is None or len(dims) != 4:
            return "NHWC" if self.layout in (None, "NHW") else self.layout or "NHWC"
        height, width, channels = pixels.shape
        fits_nchw = _agrees(dims[1:], (channels, height, width))
        fits_nhwc = _agrees(dims[1:], (height, width, channels))
        if fits_nchw != fits_nhwc:
            return "NCHW" if fits_nchw else "NHWC"
        first, last = dims[1] == channels, dims[3] == channels
        if first != last:
            return "NCHW" if first else "NHWC"
        if not fits_nchw:
            return "NCHW"  # neither fits: the shape check that follows says so
        raise DataError(
            f"the model's input {list(dims)} does not tell which axis holds the {channels} channels",
            where=where,
            hint='add model_layout = "NCHW" (or "NHWC") to the dataset.toml',
        )


def _agrees(dims: Dims, shape: tuple[int, ...]) -> bool:
    return all(not isinstance(d, int) or d == n for d, n in zip(dims, shape, strict=True))


def _layout_by_shape(value: Array, where: str) -> str:
    shape = value.shape[1:] if value.ndim == 4 and value.shape[0] == 1 else value.shape
    if len(shape) == 2:
        return "NHW"
    if len(shape) == 3 and (shape[0] in (1, 3, 4)) != (shape[2] in (1, 3, 4)):
        return "NHWC" if shape[2] in (1, 3, 4) else "NCHW"
    raise DataError(
        f"a sample of shape {value.shape} does not tell which axis holds the channels",
        where=where,
        hint='add layout = "NHWC" (or "NCHW", "NHW") to the dataset.toml',
    )


def _recolor(pixels: Array, color: str, where: str) -> Array:
    channels = pixels.shape[2]
    if channels not in (1, 3):
        raise DataError(f'color = "{color}" needs 1 or 3 channels, found {channels}', where=where)
    if color == "GRAY":
        if channels == 1:
            return pixels
        if pixels.dtype == np.uint8:  # the integer form that Pillow's convert("L") uses
            red, green, blue = (pixels[:, :, i].astype(np.uint32) for i in range(3))
            return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)[:, :, None]
        luma: Array = pixels @ np.array([0.299, 0.587, 0.114])
        return luma[:, :, None]
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    return pixels[:, :, ::-1] if color == "BGR" else pixels


def _resize(pixels: Array, size: int | tuple[int, int]) -> Array:
    height, width = pixels.shape[:2]
    if isinstance(size, tuple):
        target = size
    elif height <= width:
        target = (size, max(1, int(size * width / height)))
    else:
        target = (max(1, int(size * height / width)), size)
    if target == (height, width):
        return pixels
    planes = [pixels[:, :, c] for c in range(pixels.shape[2])]
    if pixels.dtype != np.uint8:
        planes = [p.astype(np.float32) for p in planes]
    resized = [
        np.asarray(Image.fromarray(np.ascontiguousarray(p)).resize((target[1], target[0]), Image.Resampling.BILINEAR))
        for p in planes
    ]
    return np.stack(resized, axis=2)


def _center_crop(pixels: Array, size: tuple[int, int], where: str) -> Array:
    height, width = pixels.shape[:2]
    if height < size[0] or width < size[1]:
        raise DataError(
            f"center_crop {size[0]}×{size[1]} is larger than the image, {height}×{width} (height×width)",
            where=where,
            hint="resize first",
        )
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return pixels[top : top + size[0], left : left + size[1]]


def for_images(dims: Dims | None) -> Preprocess:
    """What is assumed for a bare folder of images: short side and middle to the model's size, its colours."""
    if dims is None or len(dims) != 4:
        return Preprocess(layout="NHWC")
    channels_first = dims[1] in (1, 3) or dims[3] not in (1, 3)
    height, width = dims[2:] if channels_first else dims[1:3]
    color = "GRAY" if dims[1 if channels_first else 3] == 1 else "RGB"
    if not isinstance(height, int) or not isinstance(width, int):
        return Preprocess(layout="NHWC", color=color)
    size = max(height, width) if height == width else None
    if size is None:  # the short side would not reach both: stretch
        return Preprocess(layout="NHWC", color=color, resize=(height, width))
    return Preprocess(layout="NHWC", color=color, resize=size, center_crop=(height, width))
