"""Two graphs, the same inputs: how far apart are the outputs?

Errors of one output: ``max |a-b|``; SQNR = 10 log10(sum a² / sum (a-b)²) in dB; cosine = a·b / (|a| |b|), all
over every element and sample, accumulated in float64. The first operand is the reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from edgeopt.errors import ModelError
from edgeopt.graph import Array
from edgeopt.runtime import as_array

# Bound of an exact rewrite, as a share of the output's scale (its largest magnitude), by element type.
_EXACT_BOUND = {"float64": 1e-10, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
_LEAST_CERTAINTY = 0.1  # what a guessing model must lose, for the expected drop to tell anything at all


@dataclass
class Difference:
    """Accumulates the difference of one output over many samples (see the module's formulas)."""

    max_abs_error: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    _dot: float = 0.0
    _other: float = 0.0

    def add(self, reference: Array, other: Array) -> None:
        """Count one sample. Elements that are NaN in both, or the same infinity in both, count as equal."""
        a, b = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        if not np.isfinite(a).all() or not np.isfinite(b).all():
            if not same[~(np.isfinite(a) & np.isfinite(b))].all():
                self.max_abs_error = math.inf
                self.noise = math.inf
            keep = np.isfinite(a) & np.isfinite(b)
            a, b = a[keep], b[keep]
        if a.size:
            d = a - b
            self.max_abs_error = max(self.max_abs_error, float(np.abs(d).max()))
            self.signal += float(a @ a)
            self.noise += float(d @ d)
            self._dot += float(a @ b)
            self._other += float(b @ b)

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in dB; +inf for equal outputs, -inf for noise on a zero signal."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 and self.noise < math.inf else -math.inf

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the outputs; 1 for two zero vectors, 0 when only one is zero."""
        norm = math.sqrt(self.signal) * math.sqrt(self._other)
        if norm == 0:
            return 1.0 if self.signal == self._other else 0.0
        return min(1.0, max(-1.0, self._dot / norm))


@dataclass
class Agreement:
    """How well a second model agrees with the first, over a data set.

    Attributes:
        strict: Outputs of other shapes are an error; else they count as infinitely far apart (the number of boxes
            that a detector finds may differ).
        unjudged: Outputs that no figure covers: sequences, maps, texts.
    """

    outputs: dict[str, Difference] = field(default_factory=dict)
    samples: int = 0
    decisions: int = 0
    same_decisions: int = 0
    expected_drop_sum: float = 0.0
    classifier: str | None = None
    strict: bool = True
    unjudged: set[str] = field(default_factory=set)
    _guess_sum: float = 0.0
    _no_classes: bool = False

    def add(self, a: Mapping[str, Any], b: Mapping[str, Any], valid: int = 1, batch: int | None = None) -> None:
        """Count one run of both models; ``valid`` rows of the ``batch`` (default: all) are real samples.

        Raises:
            ModelError: the outputs differ in number, or (if ``strict``) in shape.
        """
        if len(a) != len(b):
            raise ModelError(f"the first model has {len(a)} outputs, the second {len(b)}")
        self.samples += valid
        for (name, x), (other_name, y) in zip(a.items(), b.items(), strict=True):
            left, right = as_array(x), as_array(y)
            if left is None or right is None or left.dtype.kind not in "biuf":
                self.unjudged.add(name)
                continue
            if left.shape != right.shape and not self.strict:
                found = self.outputs.setdefault(name, Difference())
                found.max_abs_error = found.noise = math.inf
                continue
            if left.shape != right.shape:
                raise ModelError(
                    f"has shape {list(left.shape)} in the first model, {list(right.shape)} in the second",
                    where=f"output {name!r} / {other_name!r}",
                )
            self.outputs.setdefault(name, Difference()).add(left, right)
        self._decide(a, b, valid, valid if batch is None else batch)

    def _decide(self, a: Mapping[str, Any], b: Mapping[str, Any], valid: int, batch: int) -> None:
        """Top-1 decisions of a classifier: one float output of shape [batch, classes].

        No classifier: a table with other rows than the batch (boxes), one column that is no probability (a
        regression), NaN.
        """
        floats = {k: v for k, v in a.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}
        if len(floats) != 1:
            return
        name, left = next(iter(floats.items()))
        rows = left.reshape(left.shape[0], -1) if left.ndim >= 2 and math.prod(left.shape[2:]) == 1 else None
        right = np.asarray(list(b.values())[list(a).index(name)])
        if rows is None or left.shape[0] != batch or right.shape != left.shape:
            self._no_classes = True
            return
        right = right.reshape(rows.shape)
        if rows.shape[1] == 1 and not bool(((rows >= 0) & (rows <= 1)).all()):
            self._no_classes = True
            return
        with np.errstate(invalid="ignore"):
            p, q = probabilities(rows[:valid]), probabilities(right[:valid])
        if not np.isfinite(p).all() or not np.isfinite(q).all():  # scores of -inf are fine, NaN and inf are not
            self._no_classes = True
            return
        self.classifier = name
        first, second = p.argmax(1), q.argmax(1)
        self.decisions += valid
        self.same_decisions += int((first == second).sum())
        index = np.arange(valid)
        self.expected_drop_sum += float((p[index, first] - p[index, second]).sum())
        self._guess_sum += float((p[index, first] - 1 / p.shape[1]).sum())

    @property
    def top1_agreement(self) -> float | None:
        """Share of samples with the same top-1 class; None if the model is no classifier."""
        return self.same_decisions / self.decisions if self.decisions and not self._no_classes else None

    @property
    def expected_drop(self) -> float | None:
        """Drop of accuracy to expect by the first model's own probabilities: mean(p[its class] - p[new class]).

        None where it tells nothing: no classifier, or one so unsure that even guessing would hardly cost it
        anything (an embedding's softmax is almost flat, and any other embedding would pass).
        """
        if not self.decisions or self._no_classes or self._guess_sum / self.decisions < _LEAST_CERTAINTY:
            return None
        return self.expected_drop_sum / self.decisions

    def worst(self) -> Difference | None:
        """The output with the lowest SQNR."""
        return min(self.outputs.values(), key=lambda d: d.sqnr_db, default=None)


def probabilities(scores: Array) -> Array:
    """Rows as probabilities [N, classes]: kept if they are already, a sigmoid column split in two, else softmax."""
    x = scores.astype(np.float64)
    if x.shape[1] == 1:
        p = x if ((x >= 0) & (x <= 1)).all() else 1 / (1 + np.exp(-np.clip(x, -500, 500)))
        return np.concatenate([1 - p, p], axis=1)
    if (x >= 0).all() and np.allclose(x.sum(1), 1, atol=1e-3):
        return x
    e = np.exp(x - x.max(axis=1, keepdims=True))
    result: Array = e / e.sum(axis=1, keepdims=True)
    return result


def exact_bound(dtype: np.dtype[Any]) -> float:
    """Error that an exact rewrite may have, as a share of the output's scale; 0 for types without rounding."""
    return _EXACT_BOUND.get(dtype.name, 0.0)


def channel_errors(reference: Array, other: Array, *, by_element: bool = False) -> tuple[float, float]:
    """Largest error, absolute and as a share of the scale of the channel it is in.

    Channels lie on axis 1, and on the last axis too for up to three axes (Gemm, MatMul). A channel's scale is
    its largest finite magnitude; without this split, one wrong channel of small magnitude would hide behind
    the others. Different shapes, NaNs or infinities in different places give (inf, inf). ``by_element``: as a
    share of the element itself, where both were computed by the same kernels from the same constants.
    """
    if reference.shape != other.shape or reference.dtype != other.dtype:
        return math.inf, math.inf
    if reference.size == 0:
        return 0.0, 0.0
    if not is_float(reference.dtype):
        return (0.0, 0.0) if np.array_equal(reference, other) else (math.inf, math.inf)
    return float_channel_errors(reference.astype(np.float64), other.astype(np.float64), by_element=by_element)


def machine_epsilon(dtype: np.dtype[Any]) -> float:
    """The distance from 1 to the next number of a floating-point type, those that numpy lacks included."""
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether it is a floating-point type, the small ones of ml_dtypes included."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.names is None)


def float_channel_errors(a: Array, b: Array, *, by_element: bool = False) -> tuple[float, float]:
    """The same for two float64 arrays of one shape."""
    finite = np.isfinite(a) & np.isfinite(b)
    if not ((a == b) | (np.isnan(a) & np.isnan(b)) | finite).all():
        return math.inf, math.inf
    if a.size == 0:
        return 0.0, 0.0
    shares = channel_shares(a, b, by_element=by_element)
    absolute = np.abs(np.where(finite, a, 0.0) - np.where(finite, b, 0.0)).max()
    return float(absolute), max(float(s.max()) for s in shares)


def channel_shares(a: Array, b: Array, *, by_element: bool = False) -> list[Array]:
    """Largest error of each channel as a share of the channel's scale, for every axis that channels may lie on.

    Args:
        a: Reference, float64, not empty.
        b: The other, of the same shape. Elements that are not finite in both are left out.
        by_element: Each element is its own channel.
    """
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    error, scale = np.abs(a - b), np.abs(a)
    axes = {1, a.ndim - 1} if a.ndim in (2, 3) else {1} if a.ndim >= 4 else {None}
    shares = [(error, scale)] if by_element else []
    for axis in () if by_element else axes:
        others = tuple(i for i in range(a.ndim) if i != axis) if axis is not None else None
        shares.append((np.asarray(error.max(axis=others)), np.asarray(scale.max(axis=others))))
    return [np.where(e > 0, e / np.maximum(s, 1e-300), 0.0) for e, s in shares]
