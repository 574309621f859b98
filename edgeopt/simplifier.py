"""The exact passes, run to a fixpoint under the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from edgeopt import files, shapes
from edgeopt.graph import input_specs, output_specs
from edgeopt.oracle import Oracle, PassReport, run_pipeline
from edgeopt.passes import EXACT
from edgeopt.progress import Progress, silent
from edgeopt.rewrite import Rule

_MAX_SWEEPS = 16  # nested Ifs take one or two each


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
    typed: ir.Model | None = None,
    progress: Progress = silent,
) -> Simplified:
    """Run the pipeline until nothing changes; the input is not mutated.

    Args:
        model: The model as loaded.
        oracle: Made from the same model.
        pipeline: The passes in order.
        checker_clean: Whether the input passed the ONNX checker; the output then must too.
        typed: A copy of ``model`` with all types that inference knows, to be used up.
        progress: Told of each pass.
    """
    spare = [typed] if typed is not None else []

    def copy() -> ir.Model:
        return spare.pop() if spare else shapes.infer(model.clone())

    start = copy() if oracle.enabled else model
    current, reports = run_pipeline(
        pipeline, start, oracle, sweeps=_MAX_SWEEPS, copy=start.clone if oracle.enabled else copy, progress=progress
    )
    if current is model:
        current = start = copy()
    result = Simplified(current, reports)
    problem = _damage(model, current, checker_clean)
    if problem is not None:
        result.model = copy()
        result.warnings.append(f"all passes were rolled back: {problem}")
        for report in result.passes:
            report.hits, report.removed_initializers = [], 0
    if oracle.enabled and oracle.problem is not None and any(r.changed for r in result.passes):
        result.warnings.append(f"whole models could not be compared, each rewrite was checked alone: {oracle.problem}")
    return result


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
