"""int8 in regions: where it pays on this machine, and no more than the accuracy allows.

1. The fastest split is searched by measuring (``region_search``)
2. Its ranges are chosen in the way that leaves the least noise at the outputs, if that is left open (``auto``)
3. Where that split loses too much, gentler ones are made: each unit's price in int8 rises by its noise times a
   weight, the cheapest split is cut anew for growing weights, and measured. Whoever asked judges which is good enough
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeopt.calibration.statistics import RANGES
from edgeopt.decisions import AUTO
from edgeopt.graph import Array
from edgeopt.latency import Ratio
from edgeopt.progress import Progress, silent
from edgeopt.quant import Scheme
from edgeopt.quantizer import Calibrated, draft
from edgeopt.region_search import RegionSearch
from edgeopt.sensitivity import OutputNoise, by_unit
from edgeopt.trials import Trial, Trials

_NOISE_RUN_S = 0.15  # how long the samples for one figure of noise may take
_FEWEST_SAMPLES = 4
_WEIGHTS = tuple(0.02 * 1.7**k for k in range(16))  # of all noise, in units of the float model's latency
_GENTLER = 0.9  # a split with more than this share of the last one's noise is no other choice
_BETTER_RANGES = 0.95  # ranges with more than this share of min-max's noise are no better


@dataclass(frozen=True)
class Split:
    """One way to divide the model.

    Attributes:
        keep_float: What ``quantizer.build`` leaves in float.
        ranges: How ranges are chosen.
        speedup: Against the float model, unchecked and with min-max ranges, which changes nothing about the time.
        noise: At the outputs, predicted for gentler splits; see ``sensitivity``.
        reasons: Name of a node that is kept float to the reason.
    """

    keep_float: frozenset[str]
    ranges: str
    speedup: Ratio
    noise: float
    reasons: Mapping[str, str] = field(default_factory=dict)


class MixedPrecision:
    """The search over one float model; see the module.

    Args:
        calibrated: The float model and its statistics.
        scheme: The target's operand types.
        feeds: Calibration samples, the first of which is timed.
        ranges: One of ``RANGES``, or ``auto``.
        keep_float: What the user wants in float.
        threads: For onnxruntime.
        seed: Of the order in which models take turns.
        search_s: Seconds for case 1, and again for case 3.
        trial_s: Seconds of timed runs per trial.
        progress: Called with what is being done.
    """

    def __init__(
        self,
        calibrated: Calibrated,
        scheme: Scheme,
        feeds: Sequence[Mapping[str, Array]],
        *,
        ranges: str = AUTO,
        keep_float: frozenset[str] = frozenset(),
        threads: int = 1,
        seed: int = 0,
        search_s: float,
        trial_s: float,
        progress: Progress = silent,
    ) -> None:
        self._calibrated, self._scheme, self._feeds, self._asked_ranges = calibrated, scheme, feeds, ranges
        self._asked_float, self._threads, self._seconds, self._progress = keep_float, threads, search_s, progress
        self._trials = Trials(
            calibrated, scheme, feeds[0], keep_float=keep_float, threads=threads, seed=seed, trial_s=trial_s
        )
        self._search = RegionSearch(
            self._trials, seconds=search_s, progress=lambda n: progress(f"searching int8 regions, trial {n}")
        )
        self._noise: OutputNoise | None = None
        self._best: Trial | None = None
        self.ranges = ranges

    def fastest(self) -> Split | None:
        """Cases 1 and 2; None where no layer in int8 pays.

        Raises:
            ModelError: onnxruntime refuses a model.
        """
        if not self._trials.regions.units:
            return None
        best = self._search.run()
        if not best.int8:
            return None
        self._best = best
        keep_float = self._trials.keep_float(best.int8)
        self.ranges = self._chosen_ranges(keep_float)
        return self._split(best, self._noise_of(keep_float, self.ranges), {})

    def gentler(self) -> list[Split]:
        """Case 3: splits with less and less noise than the fastest one's, each faster than float.

        Raises:
            ModelError: onnxruntime refuses a model.
        """
        if self._best is None:
            return []
        units = list(self._trials.regions.units)
        self._progress("finding out which layers int8 hurts")
        everything = frozenset(units)
        whole = self._noise_of(self._trials.keep_float(everything), self.ranges)

        def noise_of(unit: str) -> float:
            """Alone; what cannot be in int8 alone (an Add between float layers): by how much all make more with it."""
            if self._trials.is_layer(unit):
                return self._noise_of(self._trials.keep_float({unit}), self.ranges)
            return max(0.0, whole - self._noise_of(self._trials.keep_float(everything - {unit}), self.ranges))

        noise = by_unit(units, noise_of, seconds=self._seconds)
        base_ms = self._search.trials[frozenset()].latency_ms
        total = sum(noise[u] for u in self._best.int8)
        if not math.isfinite(sum(noise.values())) or total <= 0:
            return []  # nothing to weigh: no layer makes noise, or the outputs are not numbers
        last, result = total, []
        self._search.extend(self._seconds)
        for weight in _WEIGHTS:
            wanted = self._search.cut(noise, weight * base_ms / total)
            left = sum(noise[u] for u in wanted)
            if not wanted or left > _GENTLER * last:
                continue
            trial = self._search.measure(wanted)
            if trial.speedup.faster:
                result.append(self._split(trial, left, {u: noise[u] / total for u in units}))
                last = left
            if self._search.late():
                break
        return result

    def _split(self, trial: Trial, noise: float, shares: Mapping[str, float]) -> Split:
        return Split(
            self._trials.keep_float(trial.int8), self.ranges, trial.speedup, noise, self._reasons(trial, shares)
        )

    def _reasons(self, trial: Trial, shares: Mapping[str, float]) -> dict[str, str]:
        """For each node of a unit that could run in int8 but is not to."""
        costs = self._search.costs
        found: dict[str, str] = {}
        fastest = self._best.int8 if self._best is not None else frozenset()
        for unit, nodes in self._trials.regions.units.items():
            if unit in trial.int8:
                continue
            float_us, int8_us = (1e3 * prices.get(unit, 0.0) for prices in (costs.float_ms, costs.int8_ms))
            times = f"{float_us:.1f} µs in float, {int8_us:.1f} µs in int8"
            if unit in fastest:
                reason = f"kept float for accuracy: alone it makes {shares.get(unit, 0.0):.0%} of the noise ({times})"
            elif int8_us > float_us:
                reason = f"kept float because it is faster so here: {times}"
            else:
                reason = f"kept float because its borders cost more than it gains here: {times}"
            found |= dict.fromkeys(nodes, reason)
        return found

    def _chosen_ranges(self, keep_float: frozenset[str]) -> str:
        """Case 2."""
        if self._asked_ranges != AUTO:
            return self._asked_ranges
        self._progress("choosing ranges")
        noise = {method: self._noise_of(keep_float, method) for method in RANGES}
        best = min(noise, key=lambda method: noise[method])
        return best if noise[best] < _BETTER_RANGES * noise[RANGES[0]] else RANGES[0]

    def _noise_of(self, keep_float: frozenset[str], ranges: str) -> float:
        drafted = draft(self._calibrated, self._scheme, ranges=ranges, keep_float=keep_float)
        if drafted is None:
            return 0.0
        if self._noise is None:
            run_s = self._search.trials[frozenset()].latency_ms / 1e3
            enough = max(_FEWEST_SAMPLES, int(_NOISE_RUN_S / max(run_s, 1e-6)))
            self._noise = OutputNoise(self._calibrated.model, self._feeds[:enough], self._threads)
        return self._noise.of(drafted[0])
