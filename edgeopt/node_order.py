"""Order the nodes of a model so that its activations need the least memory; no value changes.

The order of least peak is searched for each graph, bodies first, under the very rules that ``arena.lower_bound``
counts by (``order_costs``, ``order_search``). It is taken only if that peak, counted anew on the reordered model,
falls and the arena plan does not grow; otherwise every node stays where it was. What comes with it is a proven bound
on the peak of every valid order, and so the gap.

Nodes of which two runs may differ (``ops.is_random``: random generators, custom operators) keep their order among
themselves. Left alone are:

1. a model with local functions,
2. a model with a tensor whose size stays unknown once its open dimensions are assumed (``static_shapes.resolve``).

Whom it serves: runtimes that run the nodes as the file has them and plan their arena for that order, such as
TensorFlow Lite for Microcontrollers after conversion, ncnn in its default mode, and code generators.
onnxruntime sorts the nodes anew: by default backwards from the outputs, depth first, whatever the file says, where
an order of the file only settles ties; with ``session.execution_order`` = 1 (by priority) in the order of the
file among nodes that are ready. A smaller peak here is therefore no promise for onnxruntime's default.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from edgeopt.arena import lower_bound, plan
from edgeopt.graph import captured_values, graphs, has_subgraph
from edgeopt.liveness import analyse, sharing
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
        method: ``given`` (the order that came in), ``exact`` (another one, proven to be the best) or ``heuristic``
            (another one, the best that was found within the limits of the search).
        arena_bytes_before: Of the arena plan in the order that came in.
        arena_bytes_after: The same in the order of ``model``.
        reason: Why no other order was looked for; None if one was.
    """

    model: ir.Model
    peak_bytes_before: int
    peak_bytes_after: int
    lower_bound_bytes: int
    method: str
    arena_bytes_before: int
    arena_bytes_after: int
    reason: str | None = None

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
        result = {
            "peak_bytes_before": self.peak_bytes_before,
            "peak_bytes_after": self.peak_bytes_after,
            "arena_bytes_before": self.arena_bytes_before,
            "arena_bytes_after": self.arena_bytes_after,
            "method": self.method,
        }
        if self.reason is not None:
            return result | {"reason": self.reason}
        return result | {
            "lower_bound_bytes": self.lower_bound_bytes,
            "gap": round(self.gap, 4),
            "optimal": self.optimal,
        }


def reorder(model: ir.Model, assumed: Mapping[str, int] | None = None, *, evaluations: int = EVALUATIONS) -> Reordered:
    """Order the nodes for the least peak of activation memory.

    Args:
        model: Not changed. If its types are known already, so much the faster.
        assumed: Sizes of open dimensions, as in ``static_shapes.resolve``.
        evaluations: How much may be searched for each graph (``order_search``).
    """
    tagged = [node for graph in graphs(model) for node in graph]
    for tag, node in enumerate(tagged):
        node.meta[_TAG] = tag
    try:
        resolved = resolve(model, assumed).model
        live = analyse(resolved.graph)
        counted = lower_bound(live)
        before, arena = counted.size_bytes, plan(live).arena_bytes

        def given(bound: int, reason: str | None = None) -> Reordered:
            return Reordered(model, before, before, min(bound, before), "given", arena, arena, reason)

        if model.functions:
            return given(0, "the model has local functions")
        if counted.unknown:
            return given(0, f"the size of {counted.unknown[0]!r} is unknown")
        if has_only_order(resolved.graph):
            return given(before)
        search_ = _Search(evaluations)
        found = search_.least(resolved.graph, is_body=False)
        if found.peak >= before:
            return given(found.bound)
        result = model.clone()
    finally:
        for node in tagged:
            del node.meta[_TAG]
    _apply(result, {tag: place for place, tag in enumerate(search_.tags)})
    after = analyse(resolve(result, assumed).model.graph)
    peak_after, arena_after = lower_bound(after).size_bytes, plan(after).arena_bytes
    if peak_after >= before or arena_after > arena:
        return given(found.bound)
    method = "exact" if peak_after <= found.bound else "heuristic"
    return Reordered(result, before, peak_after, min(found.bound, peak_after), method, arena, arena_after)


def has_only_order(graph: ir.Graph) -> bool:
    """Whether each node reads what the node before it made, and none has a body: there is no other order."""
    last: ir.Node | None = None
    for node in graph:
        if last is not None and not any(v is not None and v.producer() is last for v in node.inputs):
            return False
        if has_subgraph(node):
            return False
        last = node
    return True


@dataclass(frozen=True)
class _Least:
    """Peak of the best order found for a graph, and a bound on that of every order."""

    peak: int
    bound: int


class _Search:
    """Searches each graph, from the inside to the outside.

    Attributes:
        tags: The tags of the nodes of all graphs, those of one graph in its best order.
    """

    def __init__(self, evaluations: int) -> None:
        self._evaluations = evaluations
        self.tags: list[int] = []

    def least(self, graph: ir.Graph, *, is_body: bool) -> _Least:
        nodes = list(graph)
        inner: dict[int, int] = {}
        inner_bound: dict[int, int] = {}
        for i, node in enumerate(nodes):
            found = [self.least(body, is_body=True) for body in bodies(node)]
            if found:
                inner[i], inner_bound[i] = max(f.peak for f in found), max(f.bound for f in found)
        shared = sharing(graph, is_body=is_body)
        tensors = [
            Tensor(b.size_bytes, b.producer - 1 if b.producer else None, tuple(u - 1 for u in b.users), b.to_the_end)
            for b in shared.buffers
        ]
        over = {step - 1: sources for step, sources in shared.overwritable.items() if sources}
        problem = Problem(_predecessors(nodes), tensors, over, inner, inner_bound)
        ordered = search(problem, range(len(nodes)), self._evaluations)
        self.tags += [nodes[i].meta[_TAG] for i in ordered.order if _TAG in nodes[i].meta]
        highest = peak(problem, ordered.order)
        return _Least(highest, min(ordered.bound, highest))


def _predecessors(nodes: Sequence[ir.Node]) -> list[list[int]]:
    """For each node of one graph, those that must run before it."""
    place = {node: i for i, node in enumerate(nodes)}
    result: list[list[int]] = []
    last_random: int | None = None
    for i, node in enumerate(nodes):
        values = (*node.inputs, *captured_values(node)) if any(bodies(node)) else node.inputs
        producers = {place.get(p) for v in values if v is not None and (p := v.producer()) is not None}
        producers.discard(None)
        if is_random(node):
            if last_random is not None:
                producers.add(last_random)
            last_random = i
        result.append(sorted(p for p in producers if p is not None))
    return result


def _apply(model: ir.Model, rank: Mapping[int, int]) -> None:
    """Sort each graph by the ranks of its nodes' tags, as far as what they need allows; the tags go.

    Nodes without a rank (known from shapes alone, so the search did not see them) run as soon as they can.
    """
    for graph in list(graphs(model)):
        nodes = list(graph)
        ranks = [rank.get(node.meta.pop(_TAG, -1), -1) for node in nodes]
        order = _sorted(_predecessors(nodes), ranks)
        graph.extend(nodes[i] for i in order)  # moves those that it has


def _sorted(before: Sequence[Sequence[int]], rank: Sequence[int]) -> list[int]:
    """The topological order that always takes the node of the lowest rank, of equals the first."""
    missing = [len(b) for b in before]
    after: list[list[int]] = [[] for _ in before]
    for node, needed in enumerate(before):
        for other in needed:
            after[other].append(node)
    ready = [(rank[i], i) for i, m in enumerate(missing) if not m]
    heapq.heapify(ready)
    result: list[int] = []
    while ready:
        node = heapq.heappop(ready)[1]
        result.append(node)
        for follower in after[node]:
            missing[follower] -= 1
            if not missing[follower]:
                heapq.heappush(ready, (rank[follower], follower))
    return result
