"""The main job: pull every lever, price it by measuring, and ship the best choice that keeps all budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import onnx_ir as ir

from edgeopt import latency, memory, shapes
from edgeopt.calibration import Dataset, Sample
from edgeopt.candidates import FLOAT, INT8, ORIGINAL, Candidate, price
from edgeopt.errors import CheckError, ModelError
from edgeopt.evaluation import agreement_json, compare_all
from edgeopt.files import Loaded
from edgeopt.graph import Array
from edgeopt.latency import Latency
from edgeopt.levers import Budget, Lever, Solution, solve
from edgeopt.memory import Memory
from edgeopt.oracle import Oracle
from edgeopt.progress import Progress, counting
from edgeopt.quant import Scheme
from edgeopt.quantizer import Quantized, quantize
from edgeopt.report import measured_part, passes_part, ratios_part, saved_bytes, size_part
from edgeopt.runtime import Session
from edgeopt.simplifier import Simplified, simplify

_ORACLE_SAMPLES = 2
_MOST_RUNS = 5000  # a few hundred runs of a tiny model take less time than one disturbance of the machine


@dataclass(frozen=True)
class Effort:
    """How much work an effort level does.

    Attributes:
        calibration_samples: At most so many; None for all.
        measure_s: Seconds of timed runs per comparison.
        confirm: Whether the winner is timed once more in fresh sessions.
    """

    calibration_samples: int | None
    measure_s: float
    confirm: bool

    def calibration(self, data: Dataset, progress: Progress) -> tuple[Iterable[Sample], Callable[[], None]]:
        """The samples to calibrate with, and what to call after each of them."""
        limit = self.calibration_samples
        total = len(data) if limit is None else min(limit, len(data))
        return islice(data, limit), counting(progress, "calibrating", total)


EFFORTS = {
    "fast": Effort(64, 1.5, False),
    "normal": Effort(512, 4.0, True),
    "best": Effort(None, 12.0, True),
}


@dataclass
class Outcome:
    """What ``optimize`` found: the candidate to ship, and the report's parts."""

    shipped: Candidate
    solution: Solution
    parts: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


class Optimizer:
    """One run of ``optimize``, step by step.

    Args:
        loaded: The model as it came in, dynamic dims fixed if asked.
        calib: Calibration data.
        evaluation: Data to score or compare on; may be the calibration data.
        scheme: Operand types of the target's integer kernels; None if it has none.
        budget: All budgets; its error is ``--max-drop``.
        effort: How much work to do.
        keep_float: Node names or operator types that stay float.
        threads: For onnxruntime.
        seed: Of random inputs.
        choice: A decision to replay instead of measuring.
        finish: Puts the metadata into a model that is about to be shipped.
        save: Called with each model that is safe to ship, better ones later.
        progress: Called with what is being done.
    """

    def __init__(
        self,
        loaded: Loaded,
        calib: Dataset,
        evaluation: Dataset,
        scheme: Scheme | None,
        budget: Budget,
        effort: Effort,
        *,
        keep_float: frozenset[str] = frozenset(),
        threads: int = 1,
        seed: int = 0,
        choice: str | None = None,
        finish: Callable[[ir.Model, str], ir.Model],
        save: Callable[[ir.Model], None],
        progress: Progress,
    ) -> None:
        self._loaded, self._calib, self._evaluation = loaded, calib, evaluation
        self._scheme, self._budget, self._effort = scheme, budget, effort
        self._keep_float, self._threads, self._seed = keep_float, threads, seed
        self._choice, self._finish, self._save, self._progress = choice, finish, save, progress
        self._warnings: list[str] = []
        self._not_confirmed: set[str] = set()
        self._missed: tuple[str, ...] = ()

    def run(self) -> Outcome:
        """Do all of it.

        Raises:
            ModelError: onnxruntime does not run the model on the data.
            DataError: the data cannot be used.
        """
        first = [s.inputs for s in islice(self._calib, _ORACLE_SAMPLES)]
        self._progress("trying the model in a process of its own")
        original = Candidate(ORIGINAL, self._loaded.model)
        original.memory = self._memory(original, first[0])  # also the probe: a crash ends that process, not this one
        oracle = Oracle(self._loaded.model, first, seed=self._seed)
        simplified, exact = self._simplified(oracle)
        candidates = [exact, original] if any(p.changed for p in simplified.passes) else [original]
        quantized = self._quantized(simplified, oracle)
        if quantized is not None and not quantized.nothing_to_do:
            candidates.append(Candidate(INT8, self._finish(quantized.model, INT8)))
        candidates = [c for c in candidates if c is original or self._runs(c, first[0])]
        for candidate in candidates:
            candidate.file_bytes = saved_bytes(candidate.model)
        original.file_bytes = self._loaded.file_bytes
        self._judge(original, candidates)
        self._time(candidates, original, first[0])
        solution = self._choose(candidates, original, first[0])
        self._missed = solution.missed
        shipped = next(c for c in candidates if c.choice == solution.levers[0].choice)
        return Outcome(shipped, solution, self._parts(candidates, shipped, simplified, quantized), self._warnings)

    def _simplified(self, oracle: Oracle) -> tuple[Simplified, Candidate]:
        result = simplify(
            self._loaded.model,
            oracle,
            checker_clean=self._loaded.checker_error is None,
            progress=self._progress,
        )
        self._warnings += result.warnings
        exact = self._finish(shapes.as_stated(result.model, self._loaded.model), FLOAT)
        self._save(exact)  # from here on, stopping leaves a valid model behind
        return result, Candidate(FLOAT, exact)

    def _quantized(self, simplified: Simplified, oracle: Oracle) -> Quantized | None:
        if self._scheme is None or self._choice in (ORIGINAL, FLOAT):
            return None
        samples, advance = self._effort.calibration(self._calib, self._progress)
        try:
            result = quantize(
                simplified.model,
                samples,
                self._scheme,
                oracle,
                keep_float=self._keep_float,
                threads=self._threads,
                progress=advance,
            )
        except (CheckError, ModelError) as error:
            self._warnings.append(f"no int8: {error.message}")
            return None
        self._warnings += result.warnings
        result.model = shapes.as_stated(result.model, self._loaded.model)
        return result

    def _judge(self, original: Candidate, candidates: list[Candidate]) -> None:
        """Score each candidate beside the original."""
        judging = [c for c in candidates if c is not original] or [original]
        sessions = [Session(c.model, threads=self._threads) for c in judging]
        advance = counting(self._progress, f"comparing {', '.join(c.choice for c in judging)}", len(self._evaluation))
        reference = Session(original.model, threads=self._threads)
        found = compare_all(reference, sessions, self._evaluation, advance, strict=False)
        for candidate, comparison in zip(judging, found, strict=True):
            candidate.comparison = comparison
        judged = next(c.comparison for c in candidates if c.comparison is not None)
        if self._evaluation.metric is None and len(candidates) > 1:
            if judged.drop() is None:
                self._warnings.append(
                    "no score was given: the loss is judged by SQNR (at least 40 dB), which is no proxy for a "
                    "detector's mAP; give --eval with labels and a metric"
                )
            else:
                self._warnings.append(
                    "no labels were given: the drop is the one expected from the original's own probabilities"
                )

    def _time(self, candidates: list[Candidate], original: Candidate, feed: Mapping[str, Array]) -> None:
        self._progress("measuring latency")
        sessions = {c.choice: Session(c.model, threads=self._threads) for c in candidates}
        found = self._latencies(sessions, feed, self._seed)
        for candidate in candidates:
            candidate.latency = found[candidate.choice]
            candidate.speedup = latency.ratio(found[ORIGINAL].samples_ms, found[candidate.choice].samples_ms)

    def _runs(self, candidate: Candidate, feed: Mapping[str, Array]) -> bool:
        """Whether it runs in a process of its own, where its memory is measured; else it is dropped."""
        self._progress(f"measuring memory of {candidate.choice}")
        try:
            candidate.memory = self._memory(candidate, feed)
        except ModelError as error:
            self._warnings.append(f"no {candidate.choice}: {error.message}")
            return False
        return True

    def _latencies(self, sessions: Mapping[str, Session], feed: Mapping[str, Array], seed: int) -> dict[str, Latency]:
        budget_s = self._effort.measure_s
        return latency.measure(sessions, feed, budget_s=budget_s, max_runs=_MOST_RUNS, rng_seed=seed)

    def _memory(self, candidate: Candidate, feed: Mapping[str, Array]) -> Memory:
        return memory.measure(candidate.model, feed, threads=self._threads)

    def _choose(self, candidates: list[Candidate], original: Candidate, feed: Mapping[str, Array]) -> Solution:
        """Solve; a winner that turns out otherwise in fresh sessions gets that price, and all is solved again.

        It may win all the same, where only its size keeps a budget.
        """
        if self._choice is not None:
            kept = [c for c in candidates if c.choice == self._choice]
            if kept:
                lever = price(kept[0], original, self._budget)
                solution = solve([lever], replace(self._budget, error=float("inf")))
                if lever.error <= self._budget.error:
                    return solution
                self._warnings.append(
                    f"the recipe's choice {self._choice!r} is not within --max-drop {self._budget.error:g} on this data"
                )
                return replace(solution, missed=("max_drop", *solution.missed))
            self._warnings.append(f"the recipe's choice {self._choice!r} cannot be made for this model; decided anew")
        while True:
            solution = solve([price(c, original, self._budget) for c in candidates], self._budget)
            winner = next(c for c in candidates if c.choice == solution.levers[0].choice)
            known_slower = winner.speedup is not None and winner.speedup.slower
            settled = winner is original or known_slower or winner.choice in self._not_confirmed
            if settled or not self._effort.confirm or self._confirmed(winner, original, feed):
                return solution

    def _confirmed(self, winner: Candidate, original: Candidate, feed: Mapping[str, Array]) -> bool:
        """Whether fresh sessions agree: int8 that won by its speed must be faster again, others not slower."""
        self._progress(f"confirming that {winner.choice} pays")
        sessions = {c.choice: Session(c.model, threads=self._threads) for c in (winner, original)}
        found = self._latencies(sessions, feed, self._seed + 1)
        again = latency.ratio(found[ORIGINAL].samples_ms, found[winner.choice].samples_ms)
        won_by_speed = winner.choice == INT8 and winner.speedup is not None and winner.speedup.faster
        confirmed = again.faster if won_by_speed else not again.slower
        if not confirmed:
            self._not_confirmed.add(winner.choice)
            winner.speedup = again
            self._warnings.append(
                f"{winner.choice} was only {again.median:.2f} times as fast as the original when measured again"
            )
        return confirmed

    def _parts(
        self,
        candidates: list[Candidate],
        shipped: Candidate,
        simplified: Simplified,
        quantized: Quantized | None,
    ) -> dict[str, Any]:
        original = next(c for c in candidates if c.choice == ORIGINAL)
        baseline = next(c.comparison.first for c in candidates if c.comparison is not None)
        before = size_part(original.model, original.file_bytes)
        before |= measured_part(original.latency, original.memory, baseline)
        after = size_part(shipped.model, shipped.file_bytes)
        score = shipped.comparison.second if shipped.comparison is not None else baseline
        after |= measured_part(shipped.latency, shipped.memory, score)
        parts: dict[str, Any] = {"before": before, "after": after}
        if shipped.comparison is not None:
            parts["agreement"] = agreement_json(shipped.comparison.agreement)
        parts["passes"] = passes_part(simplified.passes)
        if quantized is not None and shipped.choice == INT8:
            parts["int8"] = quantized.int8
        speedup = shipped.speedup.median if shipped.speedup is not None else None
        parts["ratios"] = ratios_part(before, after, speedup)
        parts["candidates"] = [self._candidate_part(c, original, shipped) for c in candidates]
        return parts

    def _candidate_part(self, candidate: Candidate, original: Candidate, shipped: Candidate) -> dict[str, Any]:
        """One line of the comparison of choices, with the reason why it was or was not shipped."""
        lever = price(candidate, original, self._budget)
        entry: dict[str, Any] = {
            "choice": candidate.choice,
            "shipped": candidate is shipped,
            "file_bytes": candidate.file_bytes,
            "reason": self._reason(candidate, lever, shipped),
        }
        if candidate.latency is not None and candidate.speedup is not None:
            entry["latency_ms"] = candidate.latency.as_json()
            entry["speedup"] = round(candidate.speedup.median, 4)
            entry["speedup_interval_90"] = [round(v, 4) for v in candidate.speedup.interval_90]
        if candidate.comparison is not None:
            entry["agreement"] = agreement_json(candidate.comparison.agreement)
            if (drop := candidate.comparison.drop()) is not None:
                entry["drop"] = drop
            if candidate.comparison.second is not None:
                entry["score"] = candidate.comparison.second.as_json()
        return entry

    def _reason(self, candidate: Candidate, lever: Lever, shipped: Candidate) -> str:
        if candidate is shipped:
            if self._choice == candidate.choice:
                return "replayed from the recipe"
            if self._missed:
                return "no choice keeps all budgets; this one exceeds them least"
            return "the fastest that keeps all budgets"
        if candidate.choice in self._not_confirmed:
            slower = candidate.speedup is not None and candidate.speedup.slower
            return f"{'slower' if slower else 'not faster'} than the original when measured again"
        if lever.error > self._budget.error:
            drop = candidate.comparison.drop() if candidate.comparison is not None else None
            if drop is None and candidate.comparison is not None and candidate.comparison.agreement.unjudged:
                names = ", ".join(sorted(candidate.comparison.agreement.unjudged))
                return f"no figure covers its output {names} (a sequence or text), and there is no score"
            if drop is None:
                return "its outputs are too far from the original's (SQNR below 40 dB), and there is no score"
            return f"it loses {drop:.4g}, more than --max-drop {self._budget.error:g}"
        if candidate.choice == ORIGINAL:
            return "the reference; another choice serves the budgets better"
        if candidate.speedup is not None and candidate.speedup.slower:
            return "slower than the original"
        if candidate.speedup is not None and not candidate.speedup.faster:
            return "not faster than the original beyond noise"
        return "another choice serves the budgets better"
