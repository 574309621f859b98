"""The order of nodes that needs the least memory: exact within limits, heuristic beyond.

It starts from the given order, or from one of two depth-first orders where that is better. The order is cut where
every valid order can be cut, and each segment is ordered alone. **Budget.** For a segment the search begins at a lower
bound (``order_segment``). Where no order stays within a budget (``order_states``), the least refused step is a new
lower bound; otherwise the peak of the order found is a new upper bound. Between them the budget is halved until they
meet. The limits count evaluated steps, not time, so that the same graph always gets the same order. Beyond them the
number of states of one size is bounded: what is found then is an order, but a failure proves nothing. A segment of
very many nodes is ordered window by window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeopt.order_costs import Problem, depth_first, peak, segments, steps
from edgeopt.order_segment import WINDOW, Segment
from edgeopt.order_states import Limit, within

EVALUATIONS = 200_000  # of one search for one graph; about 1 s
_EXACT_SHARE = 3  # an exact answer may take this part of what is left
_BEAM_WIDTHS = (4, 24)
_TRIES_AT_BOUND = 2  # then the budget is halved


@dataclass(frozen=True)
class Ordered:
    """The best order found.

    Attributes:
        order: All nodes.
        bound: No order has a lower peak.
    """

    order: list[int]
    bound: int


def search(problem: Problem, order: Sequence[int], evaluations: int = EVALUATIONS) -> Ordered:
    """The order of least peak among those of the problem, or the best that the limit allows.

    Args:
        problem: The graph.
        order: A valid order. If no other is better, it is kept.
        evaluations: How many steps may be tried.
    """
    starts = [list(order), *(depth_first(problem, order, largest_first=largest) for largest in (False, True))]
    order = min(starts, key=lambda start: peak(problem, start))  # the given one of equals
    walked = steps(problem, order)
    position = {node: i for i, node in enumerate(order)}
    parts: list[Segment] = []
    bound = problem.edges
    for nodes in segments(problem, order):
        start = position[nodes[0]]
        part = Segment(problem, nodes, position, walked[start].before, walked[start : start + len(nodes)])
        bound = max(bound, part.bound)
        parts.append(part)
    limit = Limit(evaluations)
    best = [part.nodes for part in parts]
    proves = problem.inner == problem.inner_bound  # what lies inside is at its least too
    for i in sorted(range(len(parts)), key=lambda i: (-parts[i].highest, i)):
        if parts[i].highest <= bound:
            break
        if len(parts[i].nodes) <= WINDOW:
            best[i], low = _least(parts[i], bound, limit)
            bound = max(bound, low) if proves else bound
            continue
        best[i] = []  # windows are no cuts: an order may do better than the best of each
        start = position[parts[i].nodes[0]]
        for k in range(start, start + len(parts[i].nodes), WINDOW):
            nodes = parts[i].nodes[k - start : k - start + WINDOW]
            window = Segment(problem, nodes, position, walked[k].before, walked[k : k + len(nodes)])
            best[i] += _least(window, max(bound, window.bound), limit)[0] if window.highest > bound else nodes
    return Ordered([n for part in best for n in part], bound)


def _least(segment: Segment, goal: int, limit: Limit) -> tuple[list[int], int]:
    """The best order of a segment; a bound on all its orders, unless that is below ``goal``."""
    low, high, best = goal, segment.highest, segment.nodes
    tries = 0
    while low < high:
        budget = low if tries < _TRIES_AT_BOUND else (low + high) // 2
        tries += 1
        share = Limit(limit.evaluations // _EXACT_SHARE)
        given = share.evaluations
        answer = within(segment, budget, share)
        limit.evaluations -= given - share.evaluations
        if answer.order is not None:
            high, best = answer.peak, answer.order
        elif answer.complete and answer.refused is not None:
            low = min(answer.refused, high)
        else:
            break
    hoped = low
    while hoped < high and limit.evaluations > 0:  # the limit was reached: nothing is proven from here on
        budget = (hoped + high) // 2
        beyond = high
        for width in _BEAM_WIDTHS:
            answer = within(segment, budget, limit, width)
            if answer.order is not None:
                high, best = answer.peak, answer.order
                break
            beyond = min(beyond, answer.refused or high)  # a budget below it would refuse the same steps
        else:
            hoped = max(budget + 1, beyond)
    return best, low
