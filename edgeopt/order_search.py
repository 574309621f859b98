"""The order of a segment's nodes that needs the least memory: exact within limits, a beam beyond.

**Search.** A state is a set of nodes that have run; what is alive then depends on the set alone, so that one way
to reach it is as good as any other (dynamic programming over down-sets, as in SERENITY, Ahn et al. 2020,
arXiv:2003.02369). ``within`` answers whether some order stays within a budget. Three rules keep the states few, and
lose no answer, because live memory is a submodular function of the set: what a node adds can only shrink, and
what it frees can only grow, the more nodes have run.

1. A node that fits the budget and adds nothing in all runs at once.
2. A node that frees nothing in any order, and that a single node waits for, runs right before that one.
3. States are taken by the number of their nodes. The first that holds no more than the state where the search
   started is the smallest such set; every order may go there first, so the search starts anew from it. So it does
   from a state that is the only one left.

**Budget.** The search begins at a lower bound: at each node, what must be alive there in any order. Where a budget
fails, the least refused step is a new lower bound; otherwise the peak of the order found is a new upper bound.
Between them the budget is halved until they meet. The limits count evaluated steps, not time, so that the same
graph always gives the same order. Beyond them the widths of the levels are bounded: what is found then is an
order, but a failure proves nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeopt.graph import Array
from edgeopt.order_costs import Problem, Step, segments, steps

EVALUATIONS = 60_000  # of one search for one graph; about 0.3 s
_EXACT_SHARE = 3  # an exact answer may take this part of what is left
_BEAM_WIDTHS = (4, 24)
_TRIES_AT_BOUND = 2  # then the budget is halved
_WINDOW = 600  # nodes of a segment that are ordered together
_LARGEST_MATRIX = 3000  # nodes of a segment whose lower bound looks at all pairs


@dataclass(frozen=True)
class Ordered:
    """The best order found.

    Attributes:
        order: All nodes.
        bound: No order has a lower peak.
        beam: Whether a part of it was found by the beam.
    """

    order: list[int]
    bound: int
    beam: bool


@dataclass
class _Limit:
    evaluations: int


def search(problem: Problem, order: Sequence[int], evaluations: int = EVALUATIONS) -> Ordered:
    """The order of least peak among those of the problem, or the best that the limit allows.

    Args:
        problem: The graph.
        order: A valid order; what needs no change keeps its place.
        evaluations: How many steps may be tried.
    """
    walked = steps(problem, order)
    position = {node: i for i, node in enumerate(order)}
    parts: list[_Segment] = []
    bound = problem.edges
    for nodes in segments(problem, order):
        start = position[nodes[0]]
        part = _Segment(problem, nodes, position, walked[start].before, walked[start : start + len(nodes)])
        bound = max(bound, part.bound)
        parts.append(part)
    limit = _Limit(evaluations)
    best = [part.nodes for part in parts]
    proves = problem.inner == problem.inner_bound  # what lies inside is at its least too
    beam = False
    for i in sorted(range(len(parts)), key=lambda i: (-parts[i].highest, i)):
        if parts[i].highest <= bound:
            break
        if len(parts[i].nodes) <= _WINDOW:
            best[i], low, by_beam = _least(parts[i], bound, limit)
            bound = max(bound, low) if proves else bound
            beam |= by_beam
            continue
        best[i], beam = [], True  # windows are no cuts: an order may do better than the best of each
        start = position[parts[i].nodes[0]]
        for k in range(start, start + len(parts[i].nodes), _WINDOW):
            nodes = parts[i].nodes[k - start : k - start + _WINDOW]
            window = _Segment(problem, nodes, position, walked[k].before, walked[k : k + len(nodes)])
            best[i] += _least(window, max(bound, window.bound), limit)[0] if window.highest > bound else nodes
    return Ordered([n for part in best for n in part], bound, beam)


def _least(segment: _Segment, goal: int, limit: _Limit) -> tuple[list[int], int, bool]:
    """The best order of a segment; a bound on all its orders, unless that is below ``goal``; whether by beam."""
    low, high, best = goal, segment.highest, segment.nodes
    beam = False
    tries = 0
    while low < high:
        budget = low if tries < _TRIES_AT_BOUND else (low + high) // 2
        tries += 1
        share = _Limit(limit.evaluations // _EXACT_SHARE)
        given = share.evaluations
        answer = _within(segment, budget, share)
        limit.evaluations -= given - share.evaluations
        if answer.order is not None:
            high, best = answer.peak, answer.order
        elif answer.refused is not None:
            low = min(answer.refused, high)
        else:
            break
    hoped = low
    while hoped < high and limit.evaluations > 0:  # the limit was reached: nothing is proven from here on
        budget = (hoped + high) // 2
        for width in _BEAM_WIDTHS:
            answer = _within(segment, budget, limit, width)
            if answer.order is not None:
                high, best, beam = answer.peak, answer.order, True
                break
        else:
            hoped = budget + 1
    return best, low, beam


@dataclass(frozen=True)
class _Answer:
    """An order within the budget and its peak; or the least step refused, if no order is within; or neither."""

    order: list[int] | None
    peak: int = 0
    refused: int | None = None


@dataclass(slots=True, eq=False)
class _State:
    """A set of nodes that have run: ``remaining`` are the others, as bits.

    Attributes:
        remaining: One bit for each node of the segment that has not run.
        live: Bytes alive.
        peak: On the way here.
        options: Units that may run next within the budget: number, and what ``_Segment.run`` says of them.
        ready: Units whose predecessors have run.
        ran: The units that led here from ``parent``, in order.
        parent: The state before.
    """

    remaining: int
    live: int
    peak: int
    options: list[tuple[int, tuple[int, int, int]]]
    ready: list[int]
    ran: list[int]
    parent: _State | None

    def units(self) -> list[int]:
        """All units in the order they ran."""
        parts: list[list[int]] = []
        state: _State | None = self
        while state is not None:
            parts.append(state.ran)
            state = state.parent
        return [u for part in reversed(parts) for u in part]


def _within(segment: _Segment, budget: int, limit: _Limit, width: int | None = None) -> _Answer:
    """Whether an order of the segment stays within the budget; ``width`` bounds the states of one size."""
    everything = (1 << len(segment.nodes)) - 1
    refused: int | None = None
    complete = True

    def settle(parent: _State | None, unit: int | None, after: tuple[int, int, int], ready: list[int]) -> _State:
        """Run what rule 1 allows, and see what may come next."""
        nonlocal refused
        remaining, live, peak = after
        ran = [] if unit is None else [unit]
        while True:
            options: list[tuple[int, tuple[int, int, int]]] = []
            for candidate in ready:
                limit.evaluations -= 1
                then = segment.run(candidate, remaining, live)
                if then[2] > budget:
                    refused = then[2] if refused is None else min(refused, then[2])
                elif then[1] <= live:
                    ran.append(candidate)
                    remaining, live, peak = then[0], then[1], max(peak, then[2])
                    ready = segment.ready_after(candidate, remaining, ready)
                    break
                else:
                    options.append((candidate, then))
            else:
                return _State(remaining, live, peak, options, ready, ran, parent)

    first = settle(None, None, (everything, segment.live, 0), segment.ready)
    heap = [(len(segment.nodes) - first.remaining.bit_count(), first.live, 0, first)]
    started_at = first.live
    seen: set[int] = set()
    taken: dict[int, int] = {}
    serial = 0
    while heap:
        size, live, _, state = heapq.heappop(heap)
        if not state.remaining:
            order = [n for u in state.units() for n in segment.units[u]]
            return _Answer(order, state.peak)
        if not heap or live <= started_at:
            heap.clear()
            seen.clear()
            started_at = live
        elif width is not None:
            taken[size] = taken.get(size, 0) + 1
            if taken[size] > width:
                complete = False
                continue
        if limit.evaluations <= 0:
            return _Answer(None)
        for unit, then in state.options:
            if then[0] in seen:
                continue
            seen.add(then[0])
            after = (then[0], then[1], max(state.peak, then[2]))
            new = settle(state, unit, after, segment.ready_after(unit, then[0], state.ready))
            if new.remaining in seen and new.remaining != then[0]:
                continue
            seen.add(new.remaining)
            serial += 1
            heapq.heappush(heap, (len(segment.nodes) - new.remaining.bit_count(), new.live, serial, new))
    return _Answer(None, refused=refused if complete else None)


class _Segment:
    """Nodes that follow each other in the given order, in numbers of their own: what can run, and what it costs.

    Attributes:
        nodes: In the given order; bit i stands for the i-th.
        live: Bytes alive before them.
        highest: The peak of the given order.
        bound: No order of them has a lower peak.
        units: The nodes that run as one (rule 2).
        ready: The units that can run first.
    """

    def __init__(
        self, problem: Problem, nodes: list[int], position: dict[int, int], live: int, walked: Sequence[Step]
    ) -> None:
        self.nodes, self.live = nodes, live
        self.highest = max(s.during for s in walked)
        self.bound = self.highest
        self._problem = problem
        if len(nodes) == 1:
            return
        self._start = position[nodes[0]]
        self._position = position
        self._collect()
        self.bound = min(self.highest, self._least_at_any_node())
        if self.bound < self.highest and len(nodes) <= _WINDOW:
            self._make_units()

    def _local(self, nodes: Iterable[int]) -> list[int]:
        """Those of this segment, in its numbers."""
        places = (self._position[n] - self._start for n in nodes)
        return [i for i in places if 0 <= i < len(self.nodes)]

    def _collect(self) -> None:
        """What each node writes and frees, of tensors that can die in here and of others."""
        problem, count = self._problem, len(self.nodes)
        end = self._start + count
        self._writes = [0] * count  # bytes
        self._leaves = [0] * count  # of those, what outlives the node
        self._frees: list[list[tuple[int, int]]] = [[] for _ in range(count)]  # users as bits, bytes
        self._mortal: dict[int, tuple[int | None, list[int]]] = {}  # tensor: its producer and users in here
        self._immortal: list[tuple[int, int]] = []  # producer in here, bytes
        masks: dict[int, int] = {}
        touched = {t for n in self.nodes for t in (*problem.written[n], *problem.touched[n])}
        for number in sorted(touched):
            tensor = problem.tensors[number]
            users = self._local(tensor.users)
            producer = self._local([] if tensor.producer is None else [tensor.producer])
            dies = not tensor.kept and all(self._position[u] < end for u in tensor.users)
            if producer:
                self._writes[producer[0]] += tensor.size
                self._leaves[producer[0]] += tensor.size if users or not dies else 0
            if dies and users:
                masks[number] = sum(1 << u for u in users)
                self._mortal[number] = (producer[0] if producer else None, users)
                for user in users:
                    self._frees[user].append((masks[number], tensor.size))
            elif producer and not dies:
                self._immortal.append((producer[0], tensor.size))
        self._over = [
            [(masks[t], problem.tensors[t].size) for t in problem.overwritable.get(n, ()) if t in masks]
            for n in self.nodes
        ]
        self._before = [self._local(problem.before[n]) for n in self.nodes]
        self._after = [self._local(problem.after[n]) for n in self.nodes]
        self._inner = [problem.inner.get(n, 0) for n in self.nodes]

    def _reaches(self) -> Array:
        """Row i: the nodes that come after node i in every order."""
        count = len(self.nodes)
        result = np.zeros((count, count), bool)
        for node in range(count - 1, -1, -1):
            for later in self._after[node]:
                result[node] |= result[later]
                result[node, later] = True
        return result

    def _least_at_any_node(self) -> int:
        """At each node, what must be alive in every order; the largest of these sums."""
        count, problem = len(self.nodes), self._problem
        entering = sum(problem.tensors[t].size for t, (producer, _) in self._mortal.items() if producer is None)
        needed = np.full(count, self.live - entering, np.int64)
        pairs = count <= _LARGEST_MATRIX
        reaches = self._reaches() if pairs else None
        own = np.zeros(count, np.int64)
        for number, (producer, users) in self._mortal.items():
            size = problem.tensors[number].size
            if reaches is None:
                needed[users] += size
                continue
            alive = reaches[:, users].any(axis=1)
            alive[users] = True
            if producer is not None:
                alive &= reaches[producer]
            needed[alive] += size
        for producer, size in self._immortal:
            if reaches is not None:
                needed[reaches[producer]] += size
        for i, node in enumerate(self.nodes):
            saved = max((size for _, size in self._over[i]), default=0)
            own[i] = max(self._writes[i] - saved, problem.inner_bound.get(node, 0))
        self._reach = reaches
        return int((needed + own).max())

    def _make_units(self) -> None:
        """Rule 2, from the last node to the first."""
        assert self._reach is not None  # few enough nodes
        count = len(self.nodes)
        leader = list(range(count))  # the node that a node runs right before, or itself
        mortal_of: list[list[list[int]]] = [[] for _ in range(count)]
        for _, users in self._mortal.values():
            for user in users:
                mortal_of[user].append(users)
        for node in range(count - 1, -1, -1):
            if len(self._after[node]) != 1 or self._inner[node] or self._leaves[node] != self._writes[node]:
                continue
            if len(self._problem.after[self.nodes[node]]) != 1:
                continue
            if all(any(self._reach[node, u] for u in users) for users in mortal_of[node]):
                leader[node] = leader[self._after[node][0]]
        members: dict[int, list[int]] = {}
        for node in range(count):
            members.setdefault(leader[node], []).append(node)
        self._members = list(members.values())
        self.units = [[self.nodes[i] for i in unit] for unit in self._members]
        unit_of = {i: u for u, unit in enumerate(self._members) for i in unit}
        inside = [{p for i in unit for p in self._before[i]} - set(unit) for unit in self._members]
        self._needs = [sum(1 << p for p in needs) for needs in inside]
        self._followers: list[list[int]] = [
            sorted({unit_of[s] for i in unit for s in self._after[i]} - {u}) for u, unit in enumerate(self._members)
        ]
        self.ready = [u for u, needs in enumerate(inside) if not needs]

    def run(self, unit: int, remaining: int, live: int) -> tuple[int, int, int]:
        """What remains, is alive, and was alive at most, once the unit has run."""
        peak = 0
        for node in self._members[unit]:
            remaining &= ~(1 << node)
            writes = self._writes[node]
            for users, size in self._over[node]:
                if not users & remaining:
                    writes -= size
                    break
            peak = max(peak, live + max(writes, self._inner[node]))
            live += self._leaves[node]
            for users, size in self._frees[node]:
                if not users & remaining:
                    live -= size
        return remaining, live, peak

    def ready_after(self, unit: int, remaining: int, ready: list[int]) -> list[int]:
        """The units that can run next, once ``unit`` of ``ready`` has run."""
        result = [u for u in ready if u != unit]
        result += [u for u in self._followers[unit] if not self._needs[u] & remaining]
        result.sort()
        return result
