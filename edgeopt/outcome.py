"""What the report says about the candidates: the shipped one before and after, and why each was or was not shipped."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from edgeopt.candidates import Candidate, price
from edgeopt.decisions import ORIGINAL
from edgeopt.evaluation import agreement_json
from edgeopt.levers import Budget, Lever
from edgeopt.report import measured_part, passes_part, ratios_part, size_part
from edgeopt.simplifier import Simplified


class Explanation:
    """Writes the report's parts.

    Args:
        candidates: All that were measured, the original among them.
        shipped: The one that is shipped.
        budget: All budgets.
        replayed: Whether a recipe made the choice.
        missed: Names of budgets that the shipped one does not keep.
        not_confirmed: Choices that did not prove themselves when measured again.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        shipped: Candidate,
        budget: Budget,
        *,
        replayed: bool,
        missed: Sequence[str],
        not_confirmed: Collection[str],
    ) -> None:
        self._candidates, self._shipped, self._budget = candidates, shipped, budget
        self._replayed, self._missed, self._not_confirmed = replayed, missed, not_confirmed
        self._original = next(c for c in candidates if c.choice == ORIGINAL)

    def parts(self, simplified: Simplified) -> dict[str, Any]:
        """The keys of ``report.json`` from ``before`` on."""
        original, shipped = self._original, self._shipped
        baseline = next(c.comparison.first for c in self._candidates if c.comparison is not None)
        before = size_part(original.model, original.file_bytes)
        before |= measured_part(original.latency, original.memory, baseline)
        after = size_part(shipped.model, shipped.file_bytes)
        score = shipped.comparison.second if shipped.comparison is not None else baseline
        after |= measured_part(shipped.latency, shipped.memory, score)
        parts: dict[str, Any] = {"before": before, "after": after}
        if shipped.comparison is not None:
            parts["agreement"] = agreement_json(shipped.comparison.agreement)
        parts["passes"] = passes_part(simplified.passes)
        if shipped.int8 is not None:
            parts["int8"] = shipped.int8
        speedup = shipped.speedup.median if shipped.speedup is not None else None
        parts["ratios"] = ratios_part(before, after, speedup)
        parts["candidates"] = [self._candidate_part(c) for c in self._candidates]
        return parts

    def _candidate_part(self, candidate: Candidate) -> dict[str, Any]:
        """One line of the comparison of choices, with the reason why it was or was not shipped."""
        lever = price(candidate, self._original, self._budget)
        entry: dict[str, Any] = {
            "choice": candidate.choice,
            "shipped": candidate is self._shipped,
            "file_bytes": candidate.file_bytes,
            "reason": self._reason(candidate, lever),
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

    def _reason(self, candidate: Candidate, lever: Lever) -> str:
        if candidate is self._shipped:
            if self._replayed:
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
