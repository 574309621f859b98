"""Where the batch axis of each input is, and how elements are cut into single samples along it.

The batch axis of an input is
  1. the first axis, when its dimension is open (unless it is named like a sequence, ``seq_len`` say) or 1;
  2. another axis, when that one carries the symbol which leads another input (``[2, batch, 128]`` beside
     ``[batch, sequence]``) or is itself named like a batch (``[seq, batch, features]``);
  3. the first axis, when all inputs begin with the same fixed number b > 1: then samples are fed b at a time;
  4. none, for scalars, for inputs of one axis that stand alone (audio ``[samples]``), and otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeopt.calibration.elements import Element
from edgeopt.errors import DataError
from edgeopt.graph import Array, Dims, TensorSpec

_BATCH = re.compile(r"n|b|bs|.*batch.*", re.IGNORECASE)
_NOT_BATCH = re.compile(r"t|l|h|w|.*(seq|time|len|frame|step|height|width|point|token).*", re.IGNORECASE)


def batch_axes(specs: Sequence[TensorSpec]) -> dict[str, int | None]:
    """The batch axis of each input by name, None where it has none (cases 1 to 4 above)."""
    all_dims = {s.name: s.dims or () for s in specs}
    leading = {
        d[0] for d in all_dims.values() if len(d) > 1 and isinstance(d[0], str) and not _NOT_BATCH.fullmatch(d[0])
    }
    axes = {name: _axis(dims, leading) for name, dims in all_dims.items()}
    sizes = {dims[axis] for name, dims in all_dims.items() if (axis := axes[name]) is not None}
    if len(sizes) > 1:  # a leading number that the other inputs do not share is no batch
        for name, axis in axes.items():
            size = None if axis is None else all_dims[name][axis]
            if isinstance(size, int) and size > 1:
                axes[name] = None
    return axes


def _axis(dims: Dims, leading: set[Any]) -> int | None:
    if not dims:
        return None
    first = dims[0]
    if len(dims) == 1:
        return 0 if first in leading else None
    if (first is None) or (isinstance(first, str) and not _NOT_BATCH.fullmatch(first)):
        return 0
    for axis, dim in enumerate(dims[1:], start=1):
        if isinstance(dim, str) and (dim in leading or _BATCH.fullmatch(dim)):
            return axis
    return 0 if isinstance(first, int) else None


def fixed_batch(specs: Sequence[TensorSpec], axes: Mapping[str, int | None]) -> int:
    """How many samples one run takes: b > 1 when the model fixes it, else 1."""
    sizes = {s.dims[axis] for s in specs if s.dims and (axis := axes[s.name]) is not None}
    size = sizes.pop() if len(sizes) == 1 else 1
    return size if isinstance(size, int) and size > 1 else 1


@dataclass(frozen=True)
class Row:
    """One sample as stored.

    Attributes:
        inputs: By input name, in stored layout; without batch axis, or with one of size 1.
        label: The label or None.
        whole: The inputs fill a fixed batch b > 1 and the label belongs to all of it.
    """

    inputs: dict[str, Array]
    label: Any | None
    whole: bool = False


def split(
    element: Element,
    specs: Sequence[TensorSpec],
    axes: Mapping[str, int | None],
    stored_ranks: Mapping[str, int],
    where: str,
) -> list[Row]:
    """Cut an element along its batch axis, labels too; an element without one is a single row.

    Args:
        element: Inputs and label as the source gave them.
        specs: The model's required inputs.
        axes: From :func:`batch_axes`.
        stored_ranks: Rank of one stored sample, for inputs whose stored layout is declared; an array with one
            axis more has its batch axis first.
        where: For messages.

    Raises:
        DataError: inputs disagree on the batch size, or the label cannot be cut with them.
    """
    cut: dict[str, int] = {}
    for spec in specs:
        value = element.inputs[spec.name]
        if (rank := stored_ranks.get(spec.name)) is not None:
            if value.ndim == rank + 1:
                cut[spec.name] = 0
        elif (axis := axes[spec.name]) is not None and spec.dims is not None and value.ndim == len(spec.dims):
            cut[spec.name] = axis
    sizes = {name: element.inputs[name].shape[axis] for name, axis in cut.items()}
    if not sizes:
        return [Row(element.inputs, element.label)]
    if len(set(sizes.values())) > 1:
        raise DataError(f"the inputs have different batch sizes: {sizes}", where=where)
    size = next(iter(sizes.values()))
    fills = fixed_batch(specs, axes) == size > 1 and not stored_ranks
    if fills and element.label is not None and _length(element.label) != size:
        return [Row(element.inputs, element.label, whole=True)]
    labels = _split_label(element.label, size, where)
    return [
        Row({n: v.take(i, axis=cut[n]) if n in cut else v for n, v in element.inputs.items()}, labels[i])
        for i in range(size)
    ]


def _length(label: Any) -> int | None:
    if isinstance(label, np.ndarray):
        return len(label) if label.ndim else None
    return len(label) if isinstance(label, list | tuple) else None


def _split_label(label: Any, size: int, where: str) -> list[Any]:
    """One label per row. A batch of one keeps its label, unless that is plainly a list of one."""
    if label is None:
        return [None] * size
    length = _length(label)
    if size == 1:
        plain = isinstance(label, list | tuple) or (isinstance(label, np.ndarray) and label.ndim == 1)
        return [label[0]] if length == 1 and plain else [label]
    if length != size:
        found = "one label" if length is None else f"{length} labels"
        raise DataError(f"{found} for a batch of {size} samples", where=where, hint="give one label per sample")
    return list(label)
