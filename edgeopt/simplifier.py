"""The exact passes, run to a fixpoint under the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from edgeopt import files, shapes
from edgeopt.graph import input_specs, output_specs
from edgeopt.oracle import Oracle, PassReport, run_checked
from edgeopt.passes import EXACT
from edgeopt.progress import Progress, silent
from edgeopt.rewrite import Rule

_MAX_ROUNDS = 6


@dataclass
class Simplified:
    """The simplified model (types inferred) and what each pass did."""

    model: ir.Model
    passes: list[PassReport]
    warnings: list[str] = field(default_factory=list)


def simplify(
    model: ir.Model,
    oracle: Oracle,
    *,
    pipeline: Sequence[Rule] = EXACT,
    checker_clean: bool = True,
    progress: Progress = silent,
) -> Simplified:
    """Run the pipeline until nothing changes; the input is not mutated.

    Args:
        model: The model as loaded.
        oracle: Made from the same model.
        pipeline: The passes in order.
        checker_clean: Whether the input passed the ONNX checker; the output then must too.
        progress: Told of each pass.
    """
    reports = {rule.name: PassReport(rule.name) for rule in pipeline}
    start = shapes.infer(model.clone())
    current = start
    for _ in range(_MAX_ROUNDS):
        changed = False
        for rule in pipeline:
            progress(f"pass {rule.name}")
            current, found = run_checked(rule, current, oracle)
            _merge(reports[rule.name], found)
            changed |= found.changed
        if not changed:
            break
    result = Simplified(current, list(reports.values()))
    problem = _damage(model, current, checker_clean)
    if problem is not None:
        result.model = start
        result.warnings.append(f"all passes were rolled back: {problem}")
        for report in result.passes:
            report.hits, report.removed_initializers = [], 0
    if oracle.enabled and oracle.problem is not None and any(r.changed for r in result.passes):
        result.warnings.append(f"whole models could not be compared, each rewrite was checked alone: {oracle.problem}")
    return result


def _merge(total: PassReport, found: PassReport) -> None:
    """Add a round; skips and roll-backs of the last round stand for all, since they see the final graph."""
    total.hits += found.hits
    total.skips = found.skips
    known = {s.node for s in total.rolled_back}
    total.rolled_back += [s for s in found.rolled_back if s.node not in known]
    total.removed_initializers += found.removed_initializers
    total.max_abs_error = max(total.max_abs_error, found.max_abs_error)
    total.seconds += found.seconds


def _damage(before: ir.Model, after: ir.Model, checker_clean: bool) -> str | None:
    """Whether the interface or the validity suffered: the last line of defence."""
    if input_specs(before) != input_specs(after) or [v.name for v in before.graph.inputs] != [
        v.name for v in after.graph.inputs
    ]:
        return "the graph's inputs changed"
    if output_specs(before) != output_specs(after):
        return "the graph's outputs changed"
    error = files.checker_error(after) if checker_clean else None
    return f"the ONNX checker refuses the result: {error}" if error else None
