"""What the whole pipeline makes of a random graph: right or wrong, kept or rolled back."""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import dataclass, field

import onnx

from edgeopt import saving
from tests import pipeline

GROWING = frozenset({"unroll_loop", "einsum"})  # passes that say that they may add nodes
_BY_RUNTIME = "onnxruntime's optimizations"


@dataclass
class Verdict:
    """One graph.

    Attributes:
        runs: Whether onnxruntime runs the graph without optimizations; else nothing can be judged.
        wrong: Other results, another interface, an invalid model, more nodes.
        crashed: The end of the traceback.
        rolled_back: Places at which the oracle stopped a pass: the pass was wrong.
        spared: Places rolled back as onnxruntime's own optimizations fail there, though the rewrite is right.
        rewrites: How many were kept, by pass.
        ops: The operators of the graph, bodies and functions included.
    """

    ops: Counter[str]
    runs: bool = True
    wrong: list[str] = field(default_factory=list)
    crashed: str = ""
    rolled_back: list[str] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)
    rewrites: dict[str, int] = field(default_factory=dict)
    after: int = 0

    @property
    def total(self) -> int:
        """Rewrites kept."""
        return sum(self.rewrites.values())

    @property
    def problems(self) -> list[str]:
        """Everything that must not be."""
        return [*self.wrong, *self.rolled_back, *([self.crashed] if self.crashed else [])]


def judge(model: onnx.ModelProto) -> Verdict:
    """Simplify it and compare with the original, which onnxruntime runs without optimizations."""
    nodes = pipeline.all_nodes(model)
    verdict = Verdict(Counter(n.op_type for n in nodes if not n.domain))
    feeds = pipeline.feeds(model)
    try:
        for feed in feeds:
            pipeline.run(model, feed, pipeline.LEVELS[0])
    except Exception:  # noqa: BLE001 -- onnxruntime raises many kinds
        verdict.runs = False
        return verdict
    try:
        done = pipeline.simplified(model)
        after = saving.to_proto(done.model)
        verdict.rewrites = {r.name: len(r.hits) for r in done.passes if r.hits}
        verdict.after = len(pipeline.all_nodes(after))
        for problem in pipeline.problems(model, done):
            place = " rolled back '" in problem
            target = verdict.spared if _BY_RUNTIME in problem else verdict.rolled_back if place else verdict.wrong
            target.append(problem)
        verdict.wrong += pipeline.differences(model, after, feeds)
    except Exception:  # noqa: BLE001 -- this is the question
        verdict.crashed = traceback.format_exc()[-600:]
        return verdict
    if verdict.after > len(nodes) and not GROWING & verdict.rewrites.keys():
        verdict.wrong.append(f"{len(nodes)} nodes became {verdict.after}")
    return verdict
