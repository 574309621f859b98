"""Makes candidates from decisions, each step checked: the one way by which a search and a replay come to a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice

import onnx_ir as ir

from edgeopt import shapes
from edgeopt.bias_correction import find_corrections
from edgeopt.calibration import Sample
from edgeopt.candidates import Candidate
from edgeopt.decisions import Decisions
from edgeopt.errors import CheckError, ModelError
from edgeopt.graph import Array
from edgeopt.layouts import Layout
from edgeopt.ops import count
from edgeopt.oracle import Oracle
from edgeopt.passes.int8_plan import plan
from edgeopt.progress import Progress
from edgeopt.quant import Scheme
from edgeopt.quantizer import Calibrated, build, calibrate, has_layers, unknown_names

_CORRECTION_SAMPLES = (8, 32)  # at least, at most
_CORRECTION_MACS = 60e9  # over all samples: a few seconds

Samples = Callable[[], tuple[Iterable[Sample], Callable[[], None]]]


class Maker:
    """Makes candidates of one model; calibrates once per layout.

    Args:
        original: As it came in, for the types of its interface.
        simplified: After all exact passes, with inferred types.
        scheme: Operand types of the target's integer kernels.
        oracle: Of the original.
        samples: Opens the calibration data: samples, and what to call after each.
        full_counts: Calibration counts every value.
        keep_float: What the user wants in float.
        threads: For onnxruntime.
        finish: Puts the metadata into a model that may be shipped.
        progress: Called with what is being done.

    Attributes:
        warnings: What the user should know, in the order in which it was found.
    """

    def __init__(
        self,
        original: ir.Model,
        simplified: ir.Model,
        scheme: Scheme | None,
        oracle: Oracle,
        samples: Samples,
        *,
        full_counts: bool = False,
        keep_float: frozenset[str] = frozenset(),
        threads: int = 1,
        finish: Callable[[ir.Model, str], ir.Model],
        progress: Progress,
    ) -> None:
        self._original, self._simplified, self._scheme, self._oracle = original, simplified, scheme, oracle
        self._samples, self._full_counts = samples, full_counts
        self._keep_float, self._threads = keep_float, threads
        self._finish, self._progress = finish, progress
        self._layouts: dict[Layout, ir.Model | None] = {Layout(): simplified}
        self._calibrated: dict[Layout, Calibrated | None] = {}
        self.warnings: list[str] = unknown_names(simplified, keep_float) if scheme is not None else []

    def layout_model(self, layout: Layout) -> ir.Model | None:
        """The simplified model in this layout; None, with a warning, if it does not compute the same."""
        if not layout:
            return self._simplified
        if layout not in self._layouts:
            model = layout.apply(self._simplified)
            reason: str | None = None
            if self._oracle.enabled:
                reason = self._oracle.problem or self._oracle.disagreement(model)[0]  # what cannot be checked, too
            if reason is not None:
                self.warnings.append(f"the layout rolled back: {reason}")
            self._layouts[layout] = model if reason is None else None
        return self._layouts[layout]

    def calibrated(self, layout: Layout) -> Calibrated | None:
        """Statistics of the model in this layout; None, with a warning, where there can be no int8."""
        if layout not in self._calibrated:
            self._calibrated[layout] = self._calibrate(layout)
        return self._calibrated[layout]

    def _calibrate(self, layout: Layout) -> Calibrated | None:
        model = self.layout_model(layout)
        if self._scheme is None or model is None or not has_layers(model, plan(model, self._keep_float)):
            return None
        samples, advance = self._samples()
        try:
            found = calibrate(
                model, samples, self._oracle, full=self._full_counts, threads=self._threads, progress=advance
            )
        except ModelError as error:
            self.warnings.append(f"no int8: {error.message}")
            return None
        self.warnings += [w for w in found.warnings if w not in self.warnings]
        return found

    def feeds(self, most: int) -> list[Mapping[str, Array]]:
        """The inputs of the first calibration samples."""
        return [sample.inputs for sample in islice(self._samples()[0], most)]

    def make(self, decisions: Decisions, reasons: Mapping[str, str] | None = None) -> Candidate | None:
        """The candidate; None, with a warning, if it cannot be made or its check fails.

        Args:
            decisions: What to make; not the original.
            reasons: Name of a node that is kept float to the reason for the report.
        """
        layout = Layout(
            decisions.depth_to_space, decisions.absorb_split, decisions.pad_channels, decisions.channel_block
        )
        if not decisions.is_int8:
            model = self.layout_model(layout)
            return None if model is None else Candidate(decisions, self._finished(model, decisions))
        calibrated = self.calibrated(layout)
        if calibrated is None or self._scheme is None:
            return None
        keep_float = self._keep_float | frozenset(decisions.keep_float)
        ranges = decisions.range or "minmax"
        corrections: dict[str, Array] = {}
        try:
            if decisions.bias_correction:
                corrections = self._corrections(calibrated, ranges, keep_float)
            found = build(
                calibrated,
                self._scheme,
                self._oracle,
                ranges=ranges,
                keep_float=keep_float,
                corrections=corrections,
                threads=self._threads,
            )
        except (CheckError, ModelError) as error:
            self.warnings.append(f"no {decisions.choice}: {error.message}")
            return None
        if found.nothing_to_do:
            return None
        for node in found.int8["float_nodes"]:
            node["reason"] = (reasons or {}).get(node["node"], node["reason"])
        decisions = replace(decisions, bias_correction=bool(corrections))
        return Candidate(decisions, self._finished(found.model, decisions), found.int8)

    def _corrections(self, calibrated: Calibrated, ranges: str, keep_float: frozenset[str]) -> dict[str, Array]:
        if self._scheme is None:
            return {}
        self._progress("correcting biases")
        fewest, most = _CORRECTION_SAMPLES
        affordable = _CORRECTION_MACS / max(1, count(calibrated.model).macs)
        return find_corrections(
            calibrated,
            self._scheme,
            self.feeds(int(min(max(affordable, fewest), most))),
            ranges=ranges,
            keep_float=keep_float,
            threads=self._threads,
            seconds=math.inf,  # a replay must come to the same bytes on a slower machine: the samples set the time
        )

    def _finished(self, model: ir.Model, decisions: Decisions) -> ir.Model:
        return self._finish(shapes.as_stated(model, self._original), decisions.choice)
