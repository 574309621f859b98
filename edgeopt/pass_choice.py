"""Which of the passes that help some runtimes and hurt others are good for the target.

A pass that pays everywhere (``Rule.pays``) is always taken. One that need not is taken, on a target that can be
measured, if the model with it is not slower than the model without it, both measured side by side; on a target that
cannot be measured it is left out. Nothing is measured where no such pass found a place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from edgeopt import latency
from edgeopt.errors import ModelError
from edgeopt.graph import Array
from edgeopt.oracle import PassReport
from edgeopt.passes import EXACT
from edgeopt.progress import Progress, silent
from edgeopt.rewrite import CLEAN_UP, Rule, Skip
from edgeopt.runtime import Session
from edgeopt.simplifier import Simplified

Make = Callable[[Sequence[Rule]], Simplified]


def doubtful(pipeline: Sequence[Rule] = EXACT) -> list[str]:
    """Names of the passes that do not pay everywhere."""
    return list(dict.fromkeys(rule.name for rule in pipeline if not rule.pays.everywhere))


def without(names: Collection[str], pipeline: Sequence[Rule] = EXACT) -> list[Rule]:
    """The pipeline without these passes."""
    return [rule for rule in pipeline if rule.name not in names]


def choose(
    make: Make,
    feed: Mapping[str, Array],
    *,
    target: str,
    pipeline: Sequence[Rule] = EXACT,
    threads: int = 1,
    seed: int = 0,
    budget_s: float = 1.0,
    progress: Progress = silent,
) -> tuple[Simplified, tuple[str, ...]]:
    """Simplify by all passes but those that make the model slower on this machine.

    Args:
        make: Simplifies by the passes that it is given.
        feed: A sample, by input name.
        target: The device's name, for the report.
        pipeline: All passes.
        threads: Of onnxruntime.
        seed: Of the order of the runs.
        budget_s: Seconds for each comparison.
        progress: Told of each.

    Returns:
        What was simplified, its reports naming the passes left out and why; and their names.
    """
    chosen, left_out = make(pipeline), dict[str, str]()
    for name in doubtful(pipeline):
        if not any(p.name == name and p.hits for p in chosen.passes):
            continue
        progress(f"measuring {name}")
        other = make(without({*left_out, name}, pipeline))
        try:
            sessions = {
                "with": Session(chosen.model, threads=threads),
                "without": Session(other.model, threads=threads),
            }
            times = latency.measure(sessions, feed, budget_s=budget_s, rng_seed=seed)
        except ModelError:
            continue  # whoever ships the model meets the same error, and reports it
        found = latency.ratio(times["with"].samples_ms, times["without"].samples_ms)
        if found.faster:
            chosen, why = other, f"left out: without it the model ran {found.median:.2f} times as fast on {target}"
            left_out[name] = why
    told(chosen, left_out)
    return chosen, tuple(left_out)


def told(simplified: Simplified, left_out: Mapping[str, str]) -> None:
    """Put the passes that were left out into the reports, with the reason."""
    simplified.passes += [PassReport(name, skips=[Skip(CLEAN_UP, why)]) for name, why in left_out.items()]
