"""What one run of a model takes, and how its outputs are cut back into single samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeopt.graph import Array


@dataclass(frozen=True)
class Sample:
    """What one run of the model takes.

    Attributes:
        inputs: One array per required input: batch axis included, the input's dtype, C-contiguous, finite.
        label: The label (a number, an array, any object), None without labels. With ``batch`` > 1: the list of
            ``batch`` labels, or None.
        valid: How many of the ``batch`` samples are real; the rest repeats the last real one.
        batch: How many samples are in the inputs: 1, or the model's fixed batch size.
    """

    inputs: dict[str, Array]
    label: Any | None
    valid: int = 1
    batch: int = 1


def rows(sample: Sample, outputs: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Outputs and label of each real sample of a run, as a :class:`Metric` takes them.

    Outputs whose first axis is the batch are cut along it, the axis itself stays (size 1); others go to each.
    """
    if sample.batch == 1:
        yield dict(outputs), sample.label
        return
    for i in range(sample.valid):
        cut = {
            n: v[i : i + 1] if isinstance(v, np.ndarray) and v.ndim and v.shape[0] == sample.batch else v
            for n, v in outputs.items()
        }
        yield cut, None if sample.label is None else sample.label[i]
