"""Order the nodes of a model so that its activations need the least memory; no value changes.

The order of least peak is searched for each graph, bodies first, under the very rules that ``arena.lower_bound``
counts by (``order_costs``, ``order_search``). It is taken only if that bound, counted anew on the reordered model,
falls and the arena plan does not grow; otherwise every node stays where it was. What comes with it is a proven bound
on the peak of every valid order, and so the gap.

Nodes of which two runs may differ (``ops.is_random``: random generators, custom operators) keep their order among
themselves. A model with local functions keeps its order.

Whom it serves: runtimes that run the nodes as the file has them and plan their arena for that order, such as
TensorFlow Lite for Microcontrollers after conversion, ncnn in its default mode, and code generators.
onnxruntime sorts the nodes anew: by default backwards from the outputs, depth first, whatever the file says, where
an order of the file only settles ties; with ``session.execution_order`` = 1 (by priority) in the order of the
file among nodes that are ready. A smaller peak here is therefore no promise for onnxruntime's default.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from edgeopt.arena import lower_bound, plan
from edgeopt.graph import graphs
from edgeopt.liveness import Liveness, analyse, sharing
from edgeopt.ops import bodies, is_random
from edgeopt.order_costs import Problem, Tensor, peak
from edgeopt.order_search import EVALUATIONS, search
from edgeopt.static_shapes import resolve

_TAG = "edgeopt.node_order"  # in the nodes' metadata in memory, which is never written


@dataclass(frozen=True)
class Reordered:
    """What became of the order of a model's nodes.

    Attributes:
        model: A clone with its nodes in the new order; the model that was given where nothing is gained.
        peak_bytes_before: Largest sum of live activations in the order that came in (``arena.lower_bound``).
        peak_bytes_after: The same in the order of ``model``.
        lower_bound_bytes: No valid order has a lower peak.
        method: ``given`` (the order that came in), ``exact`` (found by the exact search) or ``beam`` (beyond its
            limits).
        arena_bytes_before: Of the arena plan in the order that came in.
        arena_bytes_after: The same in the order of ``model``.
    """

    model: ir.Model
    peak_bytes_before: int
    peak_bytes_after: int
    lower_bound_bytes: int
    method: str
    arena_bytes_before: int
    arena_bytes_after: int

    @property
    def changed(self) -> bool:
        """Whether any node moved."""
        return self.method != "given"

    @property
    def optimal(self) -> bool:
        """Whether the peak is proven to be the least."""
        return self.peak_bytes_after == self.lower_bound_bytes

    @property
    def gap(self) -> float:
        """How far the peak may be above the least, as a share of it; 0 if it is proven."""
        return self.peak_bytes_after / self.lower_bound_bytes - 1 if self.lower_bound_bytes else 0.0

    def as_json(self) -> dict[str, Any]:
        """The ``node_order`` part of a report."""
        return {
            "peak_bytes_before": self.peak_bytes_before,
            "peak_bytes_after": self.peak_bytes_after,
            "lower_bound_bytes": self.lower_bound_bytes,
            "gap": round(self.gap, 4),
            "optimal": self.optimal,
            "method": self.method,
        }


def reorder(model: ir.Model, assumed: Mapping[str, int] | None = None, *, evaluations: int = EVALUATIONS) -> Reordered:
    """Order the nodes for the least peak of activation memory.

    Args:
        model: Not changed.
        assumed: Sizes of open dimensions, as in ``static_shapes.resolve``.
        evaluations: How much may be searched for each graph (``order_search``).
    """
    result = model.clone()
    tags: dict[int, ir.Node] = dict(enumerate(n for g in graphs(result) for n in g))
    for tag, node in tags.items():
        node.meta[_TAG] = tag
    resolved = resolve(result, assumed).model
    for node in tags.values():
        del node.meta[_TAG]
    live = analyse(resolved.graph)
    before, arena = lower_bound(live).size_bytes, plan(live).arena_bytes
    found = _Orders(evaluations)
    bound = found.least(resolved.graph, is_body=False).bound
    given = Reordered(model, before, before, min(bound, before), "given", arena, arena)
    if found.best_peak >= before or model.functions:
        return given
    rank = {tag: i for i, tag in enumerate(found.tags)}
    if not _apply(result, tags, rank):
        return given
    after = analyse(resolve(result, assumed).model.graph)
    peak_after, arena_after = lower_bound(after).size_bytes, plan(after).arena_bytes
    if peak_after >= before or arena_after > arena:
        return given
    method = "beam" if found.beam else "exact"
    return Reordered(result, before, peak_after, bound, method, arena, arena_after)
