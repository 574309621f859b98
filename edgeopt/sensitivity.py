"""What int8 costs in accuracy, unit by unit: the noise at the outputs when one unit alone is in int8.

The noise of an output is the power of its difference from float over the variance of the output itself, summed over
the outputs; quantization noises of different units are nearly independent, so that their powers add up (Lin,
Talathi and Annapureddy 2016, arXiv:1511.06393, section 3). No labels are needed. It ranks and it adds up; what a
split really loses is judged afterwards, by its score.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array
from edgeopt.runtime import Session, as_array

Feeds = Sequence[Mapping[str, Array]]


class OutputNoise:
    """Compares int8 models with the float model on a few samples.

    Args:
        model: The float model.
        feeds: Input name to array, one per sample.
        threads: For onnxruntime.
    """

    def __init__(self, model: ir.Model, feeds: Feeds, threads: int = 1) -> None:
        self._feeds, self._threads = feeds, threads
        session = Session(model, threads=threads)
        self._wanted = [session.run(feed) for feed in feeds]
        self._variance = {name: self._power(name) for name in session.output_names}

    def _power(self, name: str) -> float:
        arrays = [as_array(w[name]) for w in self._wanted]
        floats = [a.astype(np.float64).ravel() for a in arrays if a is not None and a.dtype.kind == "f" and a.size]
        with np.errstate(invalid="ignore", over="ignore"):
            return float(np.var(np.concatenate(floats))) if floats else 0.0

    def of(self, model: ir.Model) -> float:
        """Noise power over variance, summed over the outputs that are float arrays of unchanged shape.

        Infinity where an output has become infinite or NaN.

        Raises:
            ModelError: onnxruntime refuses the model.
        """
        session = Session(model, threads=self._threads)
        noise: dict[str, list[float]] = {}
        for feed, wanted in zip(self._feeds, self._wanted, strict=True):
            for name, value in session.run(feed).items():
                a, b = as_array(wanted[name]), as_array(value)
                if a is not None and b is not None and a.shape == b.shape and a.dtype.kind == "f" and a.size:
                    with np.errstate(invalid="ignore", over="ignore"):
                        noise.setdefault(name, []).append(float(np.mean((a.astype(np.float64) - b) ** 2)))
        total = sum(float(np.mean(v)) / max(self._variance[name], 1e-30) for name, v in noise.items())
        return total if math.isfinite(total) else math.inf


def by_unit(
    units: Sequence[str],
    noise_of: Callable[[str], float],
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Noise of every unit; units left over when the time is up are given the mean of the others.

    Args:
        units: In topological order; they are taken in strides, so that what is left over lies everywhere.
        noise_of: Unit to the output noise that it makes.
        seconds: For all of it; one unit is always looked at.
        clock: Seconds; replaced in tests.
    """
    begin, found = clock(), {}
    for unit in _spread(units):
        found[unit] = noise_of(unit)
        if clock() - begin > seconds:
            break
    mean = float(np.mean(list(found.values()))) if found else 0.0
    return {unit: found.get(unit, mean) for unit in units}


def _spread(units: Sequence[str], stride: int = 4) -> list[str]:
    return [unit for start in range(stride) for unit in units[start::stride]]
