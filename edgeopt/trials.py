"""Tries splits into int8 and float regions: built without checks, timed beside the float model, profiled."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgeopt import latency
from edgeopt.graph import Array, static_shape
from edgeopt.latency import Ratio
from edgeopt.node_times import NodeTime, per_node
from edgeopt.passes.int8_plan import WEIGHTED, plan
from edgeopt.quant import Scheme
from edgeopt.quantizer import Calibrated, draft
from edgeopt.regions import regions
from edgeopt.runtime import Session
from edgeopt.static_shapes import dims_of_feed, resolve

_PROFILE_S = 0.25
_PROFILED_RUNS = (8, 150)  # at least, at most


@dataclass
class Trial:
    """A split that was timed.

    Attributes:
        int8: The units that run in int8; fewer than asked for where a unit's neighbours leave it no choice.
        model: The int8 model, not checked yet; the float model where nothing is in int8; None once released.
        session: It, opened; None once released.
        latency_ms: Median, as if the machine had been as fast as during the first trial: the float model runs in the
            rounds of every trial, and tells how fast it was.
        speedup: Against the float model, in the same rounds.
    """

    int8: frozenset[str]
    model: ir.Model | None
    session: Session | None
    latency_ms: float
    speedup: Ratio

    def release(self) -> None:
        """Give its memory back: a search makes dozens of them."""
        self.model = self.session = None


class Trials:
    """Builds and times splits of one model.

    Args:
        calibrated: The float model and its statistics.
        scheme: The target's operand types.
        feed: Input name to array, what is timed.
        ranges: How ranges are chosen.
        keep_float: What the user wants in float.
        threads: For onnxruntime.
        seed: Of the order in which models take turns.
        trial_s: Seconds of timed runs per trial.
    """

    def __init__(
        self,
        calibrated: Calibrated,
        scheme: Scheme,
        feed: Mapping[str, Array],
        *,
        ranges: str = "minmax",
        keep_float: frozenset[str] = frozenset(),
        threads: int = 1,
        seed: int = 0,
        trial_s: float = 0.5,
    ) -> None:
        self._calibrated, self._scheme, self._feed, self._ranges = calibrated, scheme, feed, ranges
        self._keep_float, self._threads, self._seed, self._trial_s = keep_float, threads, seed, trial_s
        self._float = Session(calibrated.model, threads=threads)
        self._float_ms: float | None = None
        self._layers = {n.name for n in calibrated.model.graph if n.op_type in WEIGHTED}
        self.regions = regions(calibrated.model, plan(calibrated.model, keep_float, calibrated.refused), self._sizes())

    def _sizes(self) -> dict[str, int]:
        model = self._calibrated.model
        static = resolve(model, dims_of_feed(model, self._feed)).model
        values = [*static.graph.inputs, *(o for n in static.graph for o in n.outputs)]
        shapes = {v.name or "": static_shape(v) for v in values}
        return {name: math.prod(shape) for name, shape in shapes.items() if shape is not None}

    def is_layer(self, unit: str) -> bool:
        """Whether the unit can run in int8 between float ones: Conv, Gemm and MatMul can."""
        return unit in self._layers

    def keep_float(self, int8: Collection[str]) -> frozenset[str]:
        """What ``quantizer.build`` must leave in float for this split."""
        return self._keep_float | self.regions.keep_float(int8)

    def run(self, int8: Collection[str], rival: Trial | None = None) -> tuple[Trial, Ratio | None]:
        """Build a split and time it; also beside ``rival``, if there is one (above 1: faster than the rival).

        Raises:
            ModelError: onnxruntime refuses the model.
        """
        model, taken = self._drafted(int8)
        session = Session(model, threads=self._threads)
        sessions = {"float": self._float, "trial": session}
        if rival is not None and rival.session is not None:
            sessions["rival"] = rival.session
        found_ms = latency.measure(
            sessions, self._feed, budget_s=self._trial_s, min_runs=12, max_runs=1000, rng_seed=self._seed
        )
        times = {name: value.samples_ms for name, value in found_ms.items()}
        speedup = latency.ratio(times["float"], times["trial"])
        if self._float_ms is None:
            self._float_ms = found_ms["float"].median_ms
        trial = Trial(taken, model, session, self._float_ms / speedup.median, speedup)
        return trial, latency.ratio(times["rival"], times["trial"]) if "rival" in times else None

    def _drafted(self, int8: Collection[str]) -> tuple[ir.Model, frozenset[str]]:
        drafted = draft(self._calibrated, self._scheme, ranges=self._ranges, keep_float=self.keep_float(int8))
        if drafted is None:
            return self._calibrated.model, frozenset()
        return drafted[0], self.regions.int8_units(drafted[1].nodes)

    def race(self, trials: Sequence[Trial]) -> list[Ratio]:
        """Time several splits again, all in the same rounds and in fresh sessions: against the float model.

        Raises:
            ModelError: onnxruntime refuses a model.
        """
        sessions = {str(k): Session(self._drafted(t.int8)[0], threads=self._threads) for k, t in enumerate(trials)}
        sessions["float"] = Session(self._calibrated.model, threads=self._threads)
        budget_s = self._trial_s * len(sessions)
        found = latency.measure(
            sessions, self._feed, budget_s=budget_s, min_runs=12, max_runs=2000, rng_seed=self._seed
        )
        plain = found["float"].samples_ms
        return [latency.ratio(plain, found[str(k)].samples_ms) for k in range(len(trials))]

    def profile(self, trial: Trial) -> list[NodeTime]:
        """Where the time of a split goes."""
        model = trial.model or self._drafted(trial.int8)[0]
        runs = min(max(int(_PROFILE_S * 1e3 / trial.latency_ms), _PROFILED_RUNS[0]), _PROFILED_RUNS[1])
        return per_node(model, self._feed, trial.latency_ms, self._threads, runs)
