"""The main job: pull every lever, price it by measuring, and ship the best choice that keeps all budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import onnx_ir as ir

from edgeopt import latency, memory, shapes
from edgeopt.calibration import Dataset
from edgeopt.candidates import Candidate, price
from edgeopt.decisions import AUTO, FLOAT, ORIGINAL, Decisions
from edgeopt.effort import Effort
from edgeopt.errors import ModelError
from edgeopt.evaluation import compare_all
from edgeopt.files import Loaded
from edgeopt.graph import Array
from edgeopt.latency import Latency
from edgeopt.levers import Budget, Solution, solve
from edgeopt.making import Maker
from edgeopt.memory import Memory
from edgeopt.oracle import Oracle
from edgeopt.outcome import Explanation
from edgeopt.pass_choice import choose, told, without
from edgeopt.progress import Progress, counting
from edgeopt.proposals import Proposal, Proposals
from edgeopt.quant import Scheme
from edgeopt.report import saved_bytes
from edgeopt.rewrite import Rule
from edgeopt.runtime import Session
from edgeopt.simplifier import Simplified, simplify

_ORACLE_SAMPLES = 2
_MOST_RUNS = 5000  # a few hundred runs of a tiny model take less time than one disturbance of the machine
_MOST_GENTLER = 5  # judging takes a pass over the data for each


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
        ranges: How ranges are chosen, one of ``edgeopt.calibration.statistics.RANGES`` or ``auto``.
        keep_float: Node names or operator types that stay float.
        threads: For onnxruntime.
        seed: Of random inputs.
        block: Channels that the runtime's layout takes together.
        target: The device's name.
        replayed: Decisions to replay instead of measuring.
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
        ranges: str = AUTO,
        keep_float: frozenset[str] = frozenset(),
        block: int = 16,
        threads: int = 1,
        seed: int = 0,
        replayed: Decisions | None = None,
        target: str = "host",
        finish: Callable[[ir.Model, str], ir.Model],
        save: Callable[[ir.Model], None],
        progress: Progress,
    ) -> None:
        self._loaded, self._calib, self._evaluation = loaded, calib, evaluation
        self._scheme, self._budget, self._effort = scheme, budget, effort
        self._ranges, self._keep_float, self._threads, self._seed = ranges, keep_float, threads, seed
        self._block, self._replayed, self._target = block, replayed, target
        self._finish, self._save, self._progress = finish, save, progress
        self._warnings: list[str] = []
        self._not_confirmed: set[str] = set()
        self._without: tuple[str, ...] = ()

    def run(self) -> Outcome:
        """Do all of it.

        Raises:
            ModelError: onnxruntime does not run the model on the data.
            DataError: the data cannot be used.
        """
        first = [s.inputs for s in islice(self._calib, _ORACLE_SAMPLES)]
        self._progress("trying the model in a process of its own")
        original = Candidate(Decisions(ORIGINAL), self._loaded.model)
        original.memory = self._memory(original, first[0])  # also the probe: a crash ends that process, not this one
        original.file_bytes = self._loaded.file_bytes
        oracle = Oracle(self._loaded.model, first, seed=self._seed)
        simplified, exact = self._simplified(oracle, first[0])
        maker = self._maker(simplified, oracle)
        proposals = self._proposals(maker) if self._replayed is None else None
        proposed = proposals.first() if proposals is not None else []
        if self._replayed is not None and self._replayed.choice not in (ORIGINAL, FLOAT):
            decided = dict.fromkeys(self._replayed.keep_float, "kept float by the recipe's decision")
            proposed = [Proposal(self._replayed, decided)]
        changed = [exact] if any(p.changed for p in simplified.passes) else []
        candidates = [*self._running(changed, first[0]), original, *self._made(maker, proposed, first[0])]
        candidates = self._judged(original, candidates)
        self._time(candidates, original, first[0])
        if proposals is not None and self._too_lossy(candidates):
            gentler = self._made(maker, _spread(proposals.gentler(), _MOST_GENTLER), first[0])
            gentler = self._judged(original, [original, *gentler])[1:]
            self._time([original, *(c for c in gentler if self._safe(c))], original, first[0])
            candidates += gentler
        self._warn_of_missing_scores(candidates)
        solution = self._choose(candidates, original, first[0])
        shipped = next(c for c in candidates if c.choice == solution.levers[0].choice)
        for candidate in candidates:
            if candidate is not original:
                candidate.decisions = replace(candidate.decisions, without_passes=self._without)
        explanation = Explanation(
            candidates,
            shipped,
            self._budget,
            replayed=self._replayed is not None and self._replayed.choice == shipped.choice,
            missed=solution.missed,
            not_confirmed=self._not_confirmed,
        )
        warnings = [*self._warnings, *maker.warnings]
        return Outcome(shipped, solution, explanation.parts(simplified), list(dict.fromkeys(warnings)))

    def _maker(self, simplified: Simplified, oracle: Oracle) -> Maker:
        return Maker(
            self._loaded.model,
            simplified.model,
            self._scheme,
            oracle,
            lambda: self._effort.calibration(self._calib, self._progress),
            full_counts=self._effort.full_counts,
            keep_float=self._keep_float,
            threads=self._threads,
            finish=self._finish,
            progress=self._progress,
        )

    def _proposals(self, maker: Maker) -> Proposals:
        return Proposals(
            maker,
            self._scheme,
            self._effort,
            ranges=self._ranges,
            keep_float=self._keep_float,
            block=self._block,
            threads=self._threads,
            seed=self._seed,
            progress=self._progress,
        )

    def _made(self, maker: Maker, proposed: Sequence[Proposal], feed: Mapping[str, Array]) -> list[Candidate]:
        """The candidates that pass their checks and run."""
        made = []
        for proposal in proposed:
            self._progress(f"making and checking {proposal.decisions.choice}")
            candidate = maker.make(proposal.decisions, proposal.reasons)
            if candidate is not None:
                made.append(candidate)
        return self._running(made, feed)

    def _running(self, candidates: Sequence[Candidate], feed: Mapping[str, Array]) -> list[Candidate]:
        running = [c for c in candidates if self._runs(c, feed)]
        for candidate in running:
            candidate.file_bytes = saved_bytes(candidate.model)
        return running

    def _safe(self, candidate: Candidate) -> bool:
        return price(candidate, candidate, self._budget).error <= self._budget.error

    def _too_lossy(self, candidates: Sequence[Candidate]) -> bool:
        """Whether int8 is faster than all that is safe, and loses an amount that can be told."""
        safe = max(c.speedup.median for c in candidates if c.speedup is not None and self._safe(c))
        for candidate in candidates:
            found = candidate.comparison
            if not candidate.decisions.is_int8 or found is None or candidate.speedup is None:
                continue
            told = found.drop() is not None or not found.agreement.unjudged
            if told and not self._safe(candidate) and candidate.speedup.median > safe:
                return True
        return False

    def _simplified(self, oracle: Oracle, feed: Mapping[str, Array]) -> tuple[Simplified, Candidate]:
        clean = self._loaded.checker_error is None

        def make(pipeline: Sequence[Rule]) -> Simplified:
            return simplify(self._loaded.model, oracle, pipeline=pipeline, checker_clean=clean, progress=self._progress)

        if self._replayed is not None:
            self._without = self._replayed.without_passes
            result = make(without(self._without))
            told(result, dict.fromkeys(self._without, "left out by the recipe's decision"))
        else:
            result, self._without = choose(
                make,
                feed,
                target=self._target,
                threads=self._threads,
                seed=self._seed,
                budget_s=self._effort.measure_s,
                progress=self._progress,
            )
        self._warnings += result.warnings
        exact = self._finish(shapes.as_stated(result.model, self._loaded.model), FLOAT)
        self._save(exact)  # from here on, stopping leaves a valid model behind
        return result, Candidate(Decisions(FLOAT), exact)

    def _judged(self, original: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Score each candidate beside the original (it by itself, if it is alone at first); those that run."""
        judging = [c for c in candidates if c is not original]
        if not judging and original.comparison is None:
            judging = [original]
        if not judging:
            return list(candidates)
        advance = counting(self._progress, f"comparing {', '.join(c.choice for c in judging)}", len(self._evaluation))
        reference = Session(original.model, threads=self._threads)
        failed: list[Candidate] = []
        try:
            self._compare(reference, judging, advance)
        except ModelError:
            for candidate in judging:  # which of them?
                try:
                    self._compare(reference, [candidate], advance)
                except ModelError as error:
                    if candidate is original:
                        raise
                    failed.append(candidate)
                    self._warnings.append(f"no {candidate.choice}: {error.message}")
            if len(failed) == len(judging):
                self._compare(reference, [original], advance)  # raises if it is the original that does not run
        return [c for c in candidates if c not in failed]

    def _compare(self, reference: Session, judging: Sequence[Candidate], advance: Callable[[], None]) -> None:
        sessions = [Session(c.model, threads=self._threads) for c in judging]
        found = compare_all(reference, sessions, self._evaluation, advance, strict=False)
        for candidate, comparison in zip(judging, found, strict=True):
            candidate.comparison = comparison

    def _warn_of_missing_scores(self, candidates: Sequence[Candidate]) -> None:
        judged = next(c.comparison for c in candidates if c.comparison is not None)
        if self._evaluation.metric is not None or len(candidates) < 2:
            return
        if judged.drop() is None:
            self._warnings.append(
                "no score was given: the loss is judged by SQNR (at least 40 dB), which is no proxy for a "
                "detector's mAP; give --eval with labels and a metric"
            )
        else:
            self._warnings.append(
                "no labels were given: the drop is the one expected from the original's own probabilities"
            )

    def _time(self, candidates: Sequence[Candidate], original: Candidate, feed: Mapping[str, Array]) -> None:
        if len(candidates) == 1 and original.latency is not None:
            return
        self._progress("measuring latency")
        sessions = {c.choice: Session(c.model, threads=self._threads) for c in candidates}
        found = self._latencies(sessions, feed, self._seed)
        for candidate in candidates:
            if candidate.latency is not None:
                continue  # the original, in a later round
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
        budget_s = self._effort.measure_s * max(1.0, len(sessions) / 3)
        return latency.measure(sessions, feed, budget_s=budget_s, max_runs=_MOST_RUNS, rng_seed=seed)

    def _memory(self, candidate: Candidate, feed: Mapping[str, Array]) -> Memory:
        return memory.measure(candidate.model, feed, threads=self._threads)

    def _choose(self, candidates: list[Candidate], original: Candidate, feed: Mapping[str, Array]) -> Solution:
        """Solve; a winner that turns out otherwise in fresh sessions gets that price, and all is solved again.

        It may win all the same, where only its size keeps a budget.
        """
        if self._replayed is not None:
            choice = self._replayed.choice
            kept = [c for c in candidates if c.choice == choice]
            if kept:
                lever = price(kept[0], original, self._budget)
                solution = solve([lever], replace(self._budget, error=float("inf")))
                if lever.error <= self._budget.error:
                    return solution
                self._warnings.append(
                    f"the recipe's choice {choice!r} is not within --max-drop {self._budget.error:g} on this data"
                )
                return replace(solution, missed=("max_drop", *solution.missed))
            self._warnings.append(f"the recipe's choice {choice!r} cannot be made for this model; decided anew")
        while True:
            solution = solve([price(c, original, self._budget) for c in candidates], self._budget)
            winner = next(c for c in candidates if c.choice == solution.levers[0].choice)
            known_slower = winner.speedup is not None and winner.speedup.slower
            settled = winner is original or known_slower or winner.choice in self._not_confirmed
            if settled or not self._effort.confirm or self._confirmed(winner, original, feed):
                return solution

    def _confirmed(self, winner: Candidate, original: Candidate, feed: Mapping[str, Array]) -> bool:
        """Whether fresh sessions agree: what won by its speed must be faster again, others not slower."""
        self._progress(f"confirming that {winner.choice} pays")
        sessions = {c.choice: Session(c.model, threads=self._threads) for c in (winner, original)}
        found = self._latencies(sessions, feed, self._seed + 1)
        again = latency.ratio(found[ORIGINAL].samples_ms, found[winner.choice].samples_ms)
        won_by_speed = winner.choice != FLOAT and winner.speedup is not None and winner.speedup.faster
        confirmed = again.faster if won_by_speed else not again.slower
        if not confirmed:
            self._not_confirmed.add(winner.choice)
            winner.speedup = again
            self._warnings.append(
                f"{winner.choice} was only {again.median:.2f} times as fast as the original when measured again"
            )
        return confirmed


def _spread(found: Sequence[Proposal], most: int) -> list[Proposal]:
    """At most so many, from all over the list, the first and the last always among them."""
    if len(found) <= most:
        return list(found)
    return [found[round(k * (len(found) - 1) / (most - 1))] for k in range(most)]
