"""From a detector's output to boxes, and from boxes to average precision: metrics for ``datasets/*.toml``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def decode_fastestdet(output: Array) -> tuple[Array, Array, Array]:
    """Boxes [cells, 4] (corners, shares of the image), scores and classes from the output [85, rows, columns].

    Channels: objectness, x and y offset (tanh, in cells), width and height (sigmoid, shares), 80 class scores;
    the score is objectness^0.6 · class^0.4 (FastestDet's own decoder).
    """
    _, height, width = output.shape
    row, column = np.indices((height, width))
    centre = np.stack([(column + np.tanh(output[1])) / width, (row + np.tanh(output[2])) / height], axis=-1)
    size = (1 / (1 + np.exp(-output[3:5]))).transpose(1, 2, 0)
    box = np.concatenate([centre - size / 2, centre + size / 2], axis=-1)
    score = np.maximum(output[0], 0) ** 0.6 * output[5:].max(axis=0) ** 0.4
    return box.reshape(-1, 4), score.ravel(), output[5:].argmax(axis=0).ravel()


def overlap(one: Array, many: Array) -> Array:
    """Intersection over union of one box with each of many."""
    low, high = np.maximum(one[:2], many[:, :2]), np.minimum(one[2:], many[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    area = np.prod(one[2:] - one[:2]) + np.prod(many[:, 2:] - many[:, :2], axis=1)
    return np.asarray(shared / (area - shared + 1e-9))


def suppress(
    box: Array, score: Array, kind: Array, *, iou: float, at_most: int, above: float
) -> tuple[Array, Array, Array]:
    """The best boxes, without those that overlap a better one of their class by more than ``iou``."""
    order = np.argsort(-score)[:at_most]
    order = order[score[order] > above]
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        same = kind[order] == kind[best]
        order = order[~(same & (overlap(box[best], box[order]) > iou))]
    return box[kept], score[kept], kind[kept]


def average_precision(guesses: Sequence[tuple[Array, Array]], truth: Sequence[Array], threshold: float) -> float:
    """Area under the precision envelope at 101 recalls (COCO); better guesses claim their box first.

    Args:
        guesses: Per image, boxes and scores.
        truth: Per image, reference boxes.
        threshold: Least overlap of a hit.
    """
    flat = [
        (float(s), image, box) for image, (b, scores) in enumerate(guesses) for box, s in zip(b, scores, strict=True)
    ]
    flat.sort(key=lambda guess: -guess[0])
    free = [np.ones(len(t), bool) for t in truth]
    hits = np.zeros(len(flat))
    for position, (_, image, box) in enumerate(flat):
        if not len(truth[image]):
            continue
        shares = np.where(free[image], overlap(box, truth[image]), -1)
        best = int(np.argmax(shares))
        if shares[best] >= threshold:
            free[image][best] = False
            hits[position] = 1
    if not flat:
        return 0.0
    recall = np.cumsum(hits) / sum(len(t) for t in truth)
    precision = np.cumsum(hits) / np.arange(1, len(flat) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)  # 0 where no recall is that high
    return float(np.mean(envelope[np.searchsorted(recall, np.linspace(0, 1, 101))]))


def coco_map(outputs: Array, labels: Any) -> float:
    """COCO's mean average precision of FastestDet: classes that occur, IoU 0.50 to 0.95 in steps of 0.05.

    ``labels``: per image [boxes, 5]: class, then centre and size as shares of the image.
    """
    found = [suppress(*decode_fastestdet(o), iou=0.45, at_most=300, above=0.01) for o in outputs]
    corners = [
        np.concatenate([t[:, 1:3] - t[:, 3:5] / 2, t[:, 1:3] + t[:, 3:5] / 2], axis=1) for t in map(np.asarray, labels)
    ]
    precisions = []
    for kind in range(80):
        truth = [c[np.asarray(t)[:, 0] == kind] for c, t in zip(corners, labels, strict=True)]
        if not any(len(t) for t in truth):
            continue
        guesses = [(b[c == kind], s[c == kind]) for b, s, c in found]
        precisions.append([average_precision(guesses, truth, t) for t in np.arange(0.5, 0.96, 0.05)])
    return float(np.mean(precisions))


def face_ap50(outputs: Any, labels: Any) -> float:
    """Average precision at IoU 0.5 of the RFB face detector; ``labels``: per image [boxes, 4], corners."""
    guesses = []
    for box, score in zip(outputs["boxes"], outputs["scores"][:, :, 1], strict=True):
        one_class = np.zeros(len(box), np.int64)
        guesses.append(suppress(box, score, one_class, iou=0.3, at_most=400, above=0.02)[:2])
    return average_precision(guesses, [np.asarray(t) for t in labels], 0.5)
