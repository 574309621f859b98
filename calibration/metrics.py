"""Scores: top1, top5, and the user's own ``module:function``; higher is better.

A user's function is called once, as ``function(outputs, labels) -> float``:

- ``outputs`` of a model with one output is one array ``[N, …]`` when the output has the same shape for all N
  samples: joined along the batch axis if each sample's has size 1 there, else stacked. When shapes differ (or
  the output is a sequence or map) it is the list of the samples' outputs, as the runtime gave them.
- With several outputs it is an :class:`Outputs`, a mapping from output name to that, which can also be indexed
  by position: ``outputs[0]``.
- ``labels`` is one array when all labels are numbers or arrays of the same shape, else the list of them.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.calibration import user_code
from edgeopt.errors import DataError
from edgeopt.graph import Array

BUILT_IN = ("top1", "top5")
SampleOutputs = Mapping[str, Any]


class Outputs(Mapping[str, Any]):
    """Outputs of all samples by name, or by position in the model's order."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: str | int) -> Any:
        return self._values[key] if isinstance(key, str) else list(self._values.values())[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Metric:
    """A score over a whole data set.

    Attributes:
        name: ``top1``, ``top5``, or the reference ``module:function``.
        higher_is_better: Always true; a user's error measure must be negated.
    """

    higher_is_better: bool = True

    def __init__(self, name: str, compute: Callable[[list[dict[str, Any]], list[Any]], Any]) -> None:
        self.name = name
        self._compute = compute

    def __call__(self, outputs: list[dict[str, Any]], labels: list[Any]) -> float:
        """The score.

        Args:
            outputs: One dict per sample, output name to what the runtime gave.
            labels: One per sample.

        Raises:
            DataError: no samples, another number of labels, outputs or labels that the metric cannot take, or a
                result that is no finite number.
        """
        if not outputs or len(outputs) != len(labels):
            raise DataError(f"{len(outputs)} outputs and {len(labels)} labels", where=f"metric {self.name}")
        result = self._compute(outputs, labels)
        if isinstance(result, np.ndarray | np.generic) and result.size == 1:
            result = result.item()
        elif hasattr(result, "item") and not isinstance(result, np.ndarray):
            result = result.item()  # a tensor of one element
        if not isinstance(result, numbers.Real) or not np.isfinite(float(result)):
            found = repr(result) if isinstance(result, numbers.Number) else f"a {type(result).__name__}"
            raise DataError(f"returned {found}, expected a finite number", where=f"metric {self.name}")
        return float(result)

    def __repr__(self) -> str:
        return f"Metric({self.name!r})"


def resolve_metric(name: str, folders: Sequence[Path]) -> Metric:
    """The metric of this name.

    Args:
        name: ``top1``, ``top5`` or ``module:function``.
        folders: Where modules are looked for first.

    Raises:
        DataError: unknown, or the function cannot be loaded.
    """
    if name == "top1":
        return Metric(name, lambda outputs, labels: _top_k(outputs, labels, 1))
    if name == "top5":
        return Metric(name, lambda outputs, labels: _top_k(outputs, labels, 5))
    if not user_code.is_reference(name):
        raise DataError(f"unknown metric {name!r}; expected {', '.join(BUILT_IN)} or module:function")
    function = user_code.load(name, folders)

    def compute(outputs: list[dict[str, Any]], labels: list[Any]) -> Any:
        with user_code.guarded(name, folders):
            return function(gather(outputs), stack_labels(labels))

    return Metric(name, compute)


def gather(outputs: Sequence[SampleOutputs]) -> Any:
    """What a user's function gets as ``outputs`` (see the module's docstring)."""
    joined = {name: _join([o[name] for o in outputs]) for name in outputs[0]}
    return next(iter(joined.values())) if len(joined) == 1 else Outputs(joined)


def _join(values: list[Any]) -> Any:
    first = values[0]
    if not all(isinstance(v, np.ndarray) and v.shape == first.shape for v in values):
        return values
    return np.concatenate(values) if first.ndim and first.shape[0] == 1 else np.stack(values)


def stack_labels(labels: Sequence[Any]) -> Any:
    """One array when all labels are numbers or arrays of one shape, else the list."""
    if all(isinstance(v, numbers.Number | np.ndarray | np.generic) for v in labels):
        arrays = [np.asarray(v) for v in labels]
        if len({a.shape for a in arrays}) == 1:
            return np.stack(arrays)
    return list(labels)


def class_id(label: Any) -> int | None:
    """The label as a class number, or None when it is none (not one whole number ≥ 0)."""
    if not isinstance(label, numbers.Number | np.ndarray | np.generic):
        return None
    array = np.asarray(label)
    if array.size != 1 or array.dtype.kind not in "buif":
        return None
    number = array.reshape(-1)[0]
    return int(number) if number >= 0 and number == np.trunc(number) else None


def _top_k(outputs: Sequence[SampleOutputs], labels: Sequence[Any], k: int) -> float:
    """Share of samples whose class is among the k largest scores; equal scores go by the lower class.

    One column p is read as (1 − p, p), so that it thresholds at 0.5. A single output of whole numbers, one per
    sample, is the predicted class itself. A row with NaN predicts nothing.
    """
    hits = 0
    for i, (sample, label) in enumerate(zip(outputs, labels, strict=True)):
        where = f"metric top{k}, sample {i}"
        wanted = class_id(label)
        if wanted is None:
            found = f"shape {label.shape}" if isinstance(label, np.ndarray) and label.size != 1 else repr(label)
            raise DataError(
                f"expected one class number per sample, found {found}",
                where=where,
                hint="one-hot labels: take their argmax; other tasks: give a module:function as metric",
            )
        scores = _class_scores(sample, where)
        if scores.dtype.kind in "iub" and scores.size == 1:
            hits += k == 1 and int(scores[0]) == wanted
            if k > 1:
                raise DataError("the model gives classes, not scores; top5 needs scores", where=where)
            continue
        if scores.size == 1:
            scores = np.array([1 - scores[0], scores[0]])
        if wanted >= scores.size:
            raise DataError(
                f"label {wanted}, but the model has {scores.size} classes (0 to {scores.size - 1})",
                where=where,
                hint="are the labels numbered from 1, or for another model?",
            )
        hits += not np.isnan(scores).any() and wanted in np.argsort(-scores, kind="stable")[:k]
    return hits / len(labels)


def _class_scores(sample: SampleOutputs, where: str) -> Array:
    """The scores [classes] of one sample: from the single output, or the first with two dimensions."""
    arrays = {n: np.asarray(v) for n, v in sample.items() if isinstance(v, np.ndarray)}
    candidates = list(arrays.values())
    if len(sample) > 1:  # beside others: the first table of scores, else classes (as scikit-learn's converters give)
        tables = [a for a in candidates if a.ndim == 2]
        candidates = tables[:1] or [a for a in candidates if a.ndim == 1 and a.dtype.kind in "iu"][:1]
    for array in candidates:
        if array.size and array.size == max(array.shape, default=1) and (array.ndim < 2 or array.shape[0] == 1):
            flat = array.reshape(-1)
            return flat.astype(np.float64) if flat.dtype.kind not in "iub" or flat.size > 1 else flat
    shapes = {n: np.shape(v) if isinstance(v, np.ndarray) else type(v).__name__ for n, v in sample.items()}
    raise DataError(
        f"no output of shape [1, classes]; found {shapes}", where=where, hint="give a module:function as metric"
    )
