"""Scores and agreement of models over a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeopt.calibration import Dataset, rows
from edgeopt.parity import Agreement
from edgeopt.runtime import Session

LEAST_SQNR_DB = 40.0  # without labels, for outputs that are no class scores


@dataclass(frozen=True)
class Score:
    """A model's score: the metric's name, its value, and over how many samples."""

    metric: str
    value: float
    samples: int

    def as_json(self) -> dict[str, Any]:
        """The keys of ``report.json``."""
        return {"metric": self.metric, "value": self.value, "samples": self.samples}


@dataclass
class Comparison:
    """Two models on the same data."""

    agreement: Agreement
    first: Score | None
    second: Score | None

    def drop(self) -> float | None:
        """What the second model loses, in the unit of ``--max-drop``; None when nothing tells.

        With labels: the score's drop. Without, for classifiers: the drop expected from the first model's own
        probabilities.
        """
        if self.first is not None and self.second is not None:
            return self.first.value - self.second.value
        return self.agreement.expected_drop

    def safe(self, max_drop: float) -> bool:
        """Whether the loss is within ``max_drop``; for outputs without score, SQNR of at least 40 dB.

        What nothing tells (sequences, maps, texts without a score) is not safe.
        """
        told = self.drop() is not None or (self.agreement.worst() is not None and not self.agreement.unjudged)
        return told and self.equivalent(max_drop)

    def equivalent(self, max_drop: float) -> bool:
        """The same for what is known already to be exact: outputs that no figure covers do not count against it."""
        drop = self.drop()
        if drop is not None:
            return drop <= max_drop + 1e-12
        worst = self.agreement.worst()
        return worst is None or worst.sqnr_db >= LEAST_SQNR_DB


def compare(
    first: Session, second: Session, dataset: Dataset, progress: Callable[[], None] | None = None
) -> Comparison:
    """Run both models over the data set, sample by sample; see ``compare_all``."""
    return compare_all(first, [second], dataset, progress)[0]


def compare_all(
    first: Session,
    others: Sequence[Session],
    dataset: Dataset,
    progress: Callable[[], None] | None = None,
    *,
    strict: bool = True,
) -> list[Comparison]:
    """Compare several models with the first one in one pass over the data set, sample by sample.

    Outputs are matched by position. They are kept only where a metric needs all of them at once.

    Raises:
        DataError: a sample cannot be used.
        ModelError: a model does not run on a sample, or (if ``strict``) the outputs have other shapes.
    """
    agreements = [Agreement(strict=strict) for _ in others]
    kept: list[list[dict[str, Any]]] = [[] for _ in range(1 + len(others))]
    labels: list[Any] = []
    for sample in dataset:
        found = [first.run(sample.inputs), *(s.run(_fitted(s, sample.inputs, first)) for s in others)]
        for agreement, outputs in zip(agreements, found[1:], strict=True):
            agreement.add(found[0], outputs, sample.valid, sample.batch)
        if dataset.metric is not None:
            for outputs, into in zip(found, kept, strict=True):
                into += [row for row, _ in rows(sample, outputs)]
            labels += [label for _, label in rows(sample, found[0])]
        if progress is not None:
            progress()
    if dataset.metric is None:
        return [Comparison(agreement, None, None) for agreement in agreements]
    metric = dataset.metric
    reference, *scores = [Score(metric.name, metric(k, labels), len(labels)) for k in kept]
    return [Comparison(agreement, reference, score) for agreement, score in zip(agreements, scores, strict=True)]


def _fitted(session: Session, inputs: dict[str, Any], reference: Session) -> dict[str, Any]:
    """The inputs under the second model's names, matched by position where they differ."""
    if set(session.input_names) <= set(inputs):
        return {n: inputs[n] for n in session.input_names}
    return dict(zip(session.input_names, (inputs[n] for n in reference.input_names), strict=True))


def agreement_json(agreement: Agreement) -> dict[str, Any]:
    """The ``agreement`` part of a report: over all outputs the worst; infinite SQNR is left out."""
    worst = agreement.worst()
    result: dict[str, Any] = {"samples": agreement.samples}
    if agreement.top1_agreement is not None:
        result["top1_agreement"] = agreement.top1_agreement
    if agreement.expected_drop is not None:
        result["expected_drop"] = agreement.expected_drop
    if worst is not None:
        result |= output_json(worst)
        result["max_abs_error"] = max(d.max_abs_error for d in agreement.outputs.values())
    return {k: v for k, v in result.items() if not (isinstance(v, float) and not math.isfinite(v))}


def output_json(difference: Any) -> dict[str, Any]:
    """One output's figures; what is infinite (equal outputs have no noise) is left out."""
    found = {
        "max_abs_error": difference.max_abs_error,
        "sqnr_db": difference.sqnr_db,
        "cosine": difference.cosine,
    }
    return {k: v for k, v in found.items() if math.isfinite(v)}
