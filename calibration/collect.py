"""One pass over the calibration data that observes the tensors a quantizer asks for."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeopt.calibration.counts import Counts
from edgeopt.calibration.derived import derivations
from edgeopt.calibration.observed import Observed
from edgeopt.calibration.statistics import Statistics
from edgeopt.errors import DataError, ModelError
from edgeopt.graph import Array
from edgeopt.quant import Range

_PHASE_VALUES = 1000


def collect(
    model: ir.Model,
    tensors: Sequence[str],
    feeds: Iterable[Mapping[str, Array]],
    *,
    threads: int = 1,
    full: bool = False,
    progress: Callable[[], None] | None = None,
) -> dict[str, Statistics]:
    """Statistics of each tensor over all samples; memory is flat in their number.

    Smallest and largest values are those of all values. What is counted of tensors with more than
    ``counts.TAKEN`` values is an evenly spaced part, another one for each sample, unless ``full``. The result does
    not hang on the order of the samples, and statistics of parts of the data merge into those of the whole.

    Args:
        model: Float model; not changed.
        tensors: Names of values of the main graph (inputs, node outputs).
        feeds: One dict of input arrays per run, of any shapes that the model takes; read once.
        threads: For onnxruntime.
        full: Count every value.
        progress: Called after each sample.

    Raises:
        DataError: no samples, a sample without a value for an input, or NaN in an input or output of the model;
            what is NaN or infinite inside the model has no range (``extremes.infinite``).
        ModelError: the model has no such tensor, or does not run on a sample.
    """
    names = list(dict.fromkeys(tensors))
    inputs = {v.name or "": v for v in model.graph.inputs}
    inside = {o.name for n in model.graph for o in n.outputs}
    for name in names:
        if name not in inputs and name not in inside:
            raise ModelError(f"the model has no tensor {name!r}")
    derived = derivations(model, names)
    looked_at = [t for t in names if t not in derived]
    wanted = [t for t in looked_at if t not in inputs]
    observed = Observed(model, wanted, threads)
    statistics = {t: Statistics(t, counts=Counts(full)) for t in names}
    outputs = {v.name for v in model.graph.outputs}
    no_numbers: set[str] = set()  # tensors with NaN
    samples = 0
    for feed in feeds:
        found = observed.run(feed) if wanted else {}
        phase = _phase(feed)
        extremes: dict[str, Range | None] = {}
        for name in looked_at:
            array = found[name] if name in found else feed.get(name, _default(inputs[name]))
            if array is None:
                raise DataError("a sample has no value for it", where=f"input {name!r}")
            try:
                extremes[name] = statistics[name].update(np.asarray(array), phase)
            except DataError as error:
                extremes[name] = None
                if name in inputs or name in outputs:
                    raise _nan_error(name, statistics, no_numbers, error) from error
                statistics[name].extremes.infinite = True  # no range covers it, but the model may well mask it
                no_numbers.add(name)
        for name, rule in derived.items():
            if (run := extremes[rule.source]) is not None:
                statistics[name].extremes.observe(*(min(max(v, rule.low), rule.high) for v in run))
        samples += 1
        if progress is not None:
            progress()
    if samples == 0:
        raise DataError("the calibration data has no samples")
    for name, rule in derived.items():
        source = statistics[rule.source]
        statistics[name].extremes.infinite = source.extremes.infinite
        statistics[name].counts = source.counts.clipped(rule.low, rule.high)
    return statistics


def _nan_error(
    name: str, statistics: Mapping[str, Statistics], no_numbers: Collection[str], error: DataError
) -> DataError:
    """NaN in an input or output, told by the tensor where it begins."""
    origin = next((t for t, found in statistics.items() if found.extremes.infinite), None)
    if origin is None or origin in no_numbers:
        return DataError(error.message, where=f"tensor {origin or name!r}", hint=error.hint)
    message = f"the model computes infinite values on the calibration data, which end as NaN in {name!r}"
    return DataError(message, where=f"tensor {origin!r}", hint=error.hint)


def _phase(feed: Mapping[str, Array]) -> int:
    """A number that varies from sample to sample and hangs on nothing else: a checksum of some of its values."""
    result = 0
    for value in feed.values():
        flat = np.ascontiguousarray(value).reshape(-1)
        if flat.dtype != object:
            result = zlib.crc32(flat[:: max(1, flat.size // _PHASE_VALUES)].tobytes(), result)
    return result


def _default(value: ir.Value) -> Array | None:
    """What an input holds that callers leave out: its initializer, if it has one."""
    return None if value.const_value is None else np.asarray(value.const_value.numpy())
