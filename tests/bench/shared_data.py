"""The evaluation sets of ``../shared/data`` as data sources, and metrics (those of detectors: ``detection.py``).

The sets lie beside the project and are never copied into it; ``EDGEOPT_SHARED`` names another place. Images are
stored as differences between neighbours (``d2``: along both axes, planes; ``y``/``c``: along rows, luma and
chroma at half resolution), which is undone here, one image at a time. Every callable gives float32 or uint8
[H, W, C], RGB; scale, mean and std are declared in ``datasets/*.toml``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.runtime import Session

Array = np.ndarray[Any, np.dtype[Any]]
HERE = Path(__file__).resolve().parent


def shared_folder() -> Path:
    """``$EDGEOPT_SHARED``, or the folder ``shared`` beside the project."""
    return Path(os.environ.get("EDGEOPT_SHARED") or HERE.parents[2] / "shared")


def _spec(name: str) -> str:
    return str(HERE / "datasets" / f"{name}.toml")


SETS: dict[str, tuple[str, str]] = {
    model: (_spec(f"{name}_calib"), _spec(f"{name}_eval"))
    for model, name in {
        "cifar10_resnet20": "cifar10_torch",
        "cifar10_resnet56": "cifar10_torch",
        "cifar10_mlperf_resnet8": "cifar10_raw",
        "imagenet_squeezenet10_dc": "imagenet_bgr",
        "imagenet_mobilenetv1_025": "imagenet_pm1",
        "fer_mini_xception": "fer",
        "vww_mobilenetv1_025_96": "vww",
        "person_mobilenetv2_035_128": "person",
        "kws_dscnn": "kws",
        "handposture_cnn": "handposture",
        "coco_fastestdet": "coco",
        "face_rfb320": "face",
        "sr_imdn_rtc_x2": "sr",
        "vad_silero_16k_op15": "vad",
        "cifar10_resnet20_ft": "cifar10_torch",
    }.items()
}
"""Model name in models.json to its calibration and its evaluation set."""

FIGURES = {
    "top1": ("top1", 4),
    "coco_map": ("mAP", 4),
    "face_ap50": ("AP50", 4),
    "psnr_y": ("psnr_y", 3),
    "decision_agreement": ("decision_agreement", 4),
}
"""Metric to the figure of models.json that it gives, and how many digits are printed there."""


@lru_cache(maxsize=4)
def _arrays(name: str) -> dict[str, Array]:
    with np.load(shared_folder() / "data" / "eval" / f"{name}.npz", allow_pickle=False) as stored:
        return {k: stored[k] for k in stored.files}


def _undo_differences(stored: Array, *axes: int) -> Array:
    for axis in axes:
        stored = np.asarray(np.add.accumulate(stored, axis=axis, dtype=np.uint8))  # modulo 256, as they were taken
    return stored


def _rgb_from_planes(luma: Array, chroma: Array) -> Array:
    """JFIF's YCbCr to RGB, chroma repeated to full size; uint8 [H, W, 3]."""
    y = luma.astype(np.float32)
    full = np.repeat(np.repeat(chroma, 2, axis=0), 2, axis=1).astype(np.float32) - 128
    cb, cr = full[:, :, 0], full[:, :, 1]
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2)
    rounded: Array = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return rounded


def images(name: str) -> Iterator[Array]:
    """The images of a set, one by one: uint8 [H, W, C], RGB or grey."""
    arrays = _arrays(name)
    if "d2" in arrays:
        for planes in arrays["d2"]:
            yield _undo_differences(planes, 1, 2).transpose(1, 2, 0)
    else:
        for luma, chroma in zip(arrays["y"], arrays["c"], strict=True):
            yield _rgb_from_planes(_undo_differences(luma, 1), _undo_differences(chroma, 1))


def _along(size: int, target: int) -> tuple[Array, Array, Array]:
    """For each target pixel: its lower and upper neighbour, and the upper one's weight (half-pixel centres)."""
    centre = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    lower = centre.astype(np.int64)
    return lower, np.minimum(lower + 1, size - 1), (centre - lower).astype(np.float32)


def resized(image: Array, height: int, width: int) -> Array:
    """Bilinear without antialiasing, float32; the sets' published scores were taken with this one."""
    pixels = image.astype(np.float32)
    if pixels.shape[:2] == (height, width):
        return pixels
    lower, upper, weight = _along(pixels.shape[0], height)
    weight = weight[:, None, None]
    pixels = pixels[lower] * (1 - weight) + pixels[upper] * weight
    lower, upper, weight = _along(pixels.shape[1], width)
    weight = weight[None, :, None]
    return np.asarray(pixels[:, lower] * (1 - weight) + pixels[:, upper] * weight)


def resized_images(name: str, height: int, width: int) -> Iterator[Array]:
    """The images of a set at another size: float32 [height, width, C]."""
    for image in images(name):
        yield resized(image, height, width)


def field(name: str, key: str) -> Iterator[Any]:
    """One stored array, row by row: labels, features, high-resolution images."""
    yield from _arrays(name)[key]


def boxes(name: str) -> Iterator[Array]:
    """Reference boxes of each image: float32 [boxes, columns]."""
    arrays = _arrays(name)
    ends = np.cumsum(arrays["box_count"])
    for end, count in zip(ends, arrays["box_count"], strict=True):
        yield arrays["boxes"][end - count : end]


Rows = Callable[[], Iterator[Any]]
cifar10_eval: Rows = partial(images, "cifar10_test_public")
cifar10_eval_labels: Rows = partial(field, "cifar10_test_public", "labels")
cifar10_calib: Rows = partial(images, "cifar10_train_public")
cifar10_calib_labels: Rows = partial(field, "cifar10_train_public", "labels")
imagenet_eval: Rows = partial(images, "imagenet_eval_public")
imagenet_eval_labels: Rows = partial(field, "imagenet_eval_public", "labels")
imagenet_calib: Rows = partial(images, "imagenet_calib_public")
imagenet_calib_labels: Rows = partial(field, "imagenet_calib_public", "labels")
imagenet_calib_96: Rows = partial(resized_images, "imagenet_calib_public", 96, 96)
imagenet_calib_128: Rows = partial(resized_images, "imagenet_calib_public", 128, 128)
person_eval_96: Rows = partial(resized_images, "coco_person_public", 96, 96)
person_eval_128: Rows = partial(resized_images, "coco_person_public", 128, 128)
person_eval_labels: Rows = partial(field, "coco_person_public", "labels")
fer_eval: Rows = partial(images, "fer_eval_public")
fer_eval_labels: Rows = partial(field, "fer_eval_public", "labels")
fer_calib: Rows = partial(images, "fer_calib_public")
fer_calib_labels: Rows = partial(field, "fer_calib_public", "labels")
kws_eval: Rows = partial(field, "kws_eval_public", "features")
kws_eval_labels: Rows = partial(field, "kws_eval_public", "labels")
kws_calib: Rows = partial(field, "kws_calib_public", "features")
kws_calib_labels: Rows = partial(field, "kws_calib_public", "labels")
handposture_eval: Rows = partial(field, "handposture_eval_public", "features")
handposture_eval_labels: Rows = partial(field, "handposture_eval_public", "labels")
handposture_calib: Rows = partial(field, "handposture_calib_public", "features")
handposture_calib_labels: Rows = partial(field, "handposture_calib_public", "labels")
coco_eval_352: Rows = partial(resized_images, "coco_val_public", 352, 352)
coco_eval_boxes: Rows = partial(boxes, "coco_val_public")
coco_calib_352: Rows = partial(resized_images, "coco_train_public", 352, 352)
coco_calib_boxes: Rows = partial(boxes, "coco_train_public")
face_eval: Rows = partial(images, "face_eval_public")
face_eval_boxes: Rows = partial(boxes, "face_eval_public")
face_calib: Rows = partial(images, "face_calib_public")
sr_eval: Rows = partial(field, "sr_eval_public", "lr")
sr_eval_targets: Rows = partial(field, "sr_eval_public", "hr")
sr_calib: Rows = partial(field, "sr_calib_public", "lr")
sr_calib_targets: Rows = partial(field, "sr_calib_public", "hr")

FRAME, CONTEXT, RATE = 512, 64, 16000


@lru_cache(maxsize=1)
def _speech_frames() -> tuple[dict[str, Array], ...]:
    """The inputs of every frame; the float model runs once over the recording to get the states between them."""
    session = Session(shared_folder() / "data" / "models" / "vad_silero_16k_op15.onnx")
    sound = np.concatenate(
        [np.zeros(CONTEXT, np.float32), _arrays("vad_eval_public")["pcm"].astype(np.float32) / 32768]
    )
    state = np.zeros((2, 1, 128), np.float32)
    frames = []
    for start in range(0, len(sound) - CONTEXT - FRAME + 1, FRAME):
        window = sound[None, start : start + CONTEXT + FRAME]
        frames.append({"input": window, "state": state, "sr": np.array(RATE, np.int64)})
        state = session.run(frames[-1])["stateN"]
    return tuple(frames)


def vad_frames(key: str, step: int = 1) -> Iterator[Array]:
    """One input of every ``step``-th frame (to calibrate: there is no other recording)."""
    for frame in _speech_frames()[::step]:
        yield frame[key]


vad_windows: Rows = partial(vad_frames, "input")
vad_states: Rows = partial(vad_frames, "state")
vad_rates: Rows = partial(vad_frames, "sr")
vad_reference: Rows = partial(field, "vad_eval_public", "ref")
vad_calib_windows: Rows = partial(vad_frames, "input", 7)
vad_calib_states: Rows = partial(vad_frames, "state", 7)
vad_calib_rates: Rows = partial(vad_frames, "sr", 7)


def psnr_y(outputs: Array, labels: Array) -> float:
    """Mean peak signal-to-noise ratio of the luma in dB (ITU-R BT.601), 2 pixels at the border left out."""
    weights = np.array([65.481, 128.553, 24.966])
    values = []
    for output, target in zip(outputs, labels, strict=True):
        pixels = np.rint(np.clip(output.transpose(1, 2, 0), 0, 1) * 255).astype(np.float64)
        error = ((pixels - target.astype(np.float64)) @ weights / 255)[2:-2, 2:-2]
        values.append(10 * np.log10(255**2 / np.mean(error**2)))
    return float(np.mean(values))


def decision_agreement(outputs: Any, labels: Array) -> float:
    """Share of frames where the decision (probability above 0.5) is the reference's."""
    return float(np.mean((outputs["output"].reshape(-1) > 0.5) == (labels > 0.5)))
