"""One pass over the calibration data that observes the tensors a quantizer asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.calibration.minmax import MinMax
from edgeopt.errors import DataError, ModelError
from edgeopt.graph import Array
from edgeopt.quant import Ranges
from edgeopt.runtime import Level, Session


def collect(
    model: ir.Model,
    tensors: Sequence[str],
    feeds: Iterable[Mapping[str, Array]],
    *,
    threads: int = 1,
    progress: Callable[[], None] | None = None,
) -> Ranges:
    """Smallest and largest value of each tensor over all samples; memory is flat in their number.

    Args:
        model: Float model; not changed.
        tensors: Names of values of the main graph (inputs, node outputs).
        feeds: One dict of input arrays per sample, read once.
        threads: For onnxruntime.
        progress: Called after each sample.

    Raises:
        DataError: no samples, a sample without a value for an input, or NaN or infinite values in a tensor.
        ModelError: the model has no such tensor, or does not run on a sample.
    """
    observed = model.clone()
    values: dict[str, ir.Value] = {v.name or "": v for v in observed.graph.inputs}
    values |= {o.name or "": o for n in observed.graph for o in n.outputs}
    inputs = {v.name for v in observed.graph.inputs}
    present = {v.name for v in observed.graph.outputs}
    wanted = [t for t in dict.fromkeys(tensors) if t not in inputs]
    for tensor in wanted:
        if tensor not in values:
            raise ModelError(f"the model has no tensor {tensor!r}")
    observed.graph.outputs.extend(values[t] for t in wanted if t not in present)
    session = Session(observed, Level.DEFAULT, threads)
    observers = {t: MinMax() for t in dict.fromkeys(tensors)}
    samples = 0
    for feed in feeds:
        found: dict[str, Any] = session.run(feed, wanted) if wanted else {}
        for name, observer in observers.items():
            array = found[name] if name in found else feed.get(name, _default(values[name]))
            if array is None:
                raise DataError("a sample has no value for it", where=f"input {name!r}")
            observer.update(np.asarray(array), name)
        samples += 1
        if progress is not None:
            progress()
    if samples == 0:
        raise DataError("the calibration data has no samples")
    return {t: o.range() for t, o in observers.items()}


def _default(value: ir.Value) -> Array | None:
    """What an input holds that callers leave out: its initializer, if it has one."""
    return None if value.const_value is None else np.asarray(value.const_value.numpy())
