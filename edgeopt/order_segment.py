"""A piece of a graph that is ordered alone: which nodes can run when, what that costs, and a lower bound.

Two rules speak here. A **unit** is a node with those that run right before it: a node that frees nothing in any order,
and that a single node waits for, can as well run right before that one. The **bound** is the largest sum, over the
nodes, of what must be alive at the node in every order.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence

import numpy as np

from edgeopt.graph import Array
from edgeopt.order_costs import Problem, Step

WINDOW = 600  # nodes of a segment that are ordered together
LARGEST_MATRIX = 3000  # nodes of a segment whose lower bound looks at all pairs


class Segment:
    """Nodes that follow each other in the given order, in numbers of their own: what can run, and what it costs.

    Attributes:
        nodes: In the given order; bit i stands for the i-th.
        live: Bytes alive before them.
        highest: The peak of the given order.
        bound: No order of them has a lower peak.
        units: The nodes that run as one.
        masks: The same as bits.
        needs: The nodes that must run before each unit, as bits.
        leaves: Bytes of what each unit writes that outlives it.
        overwritten_after: The other readers, as bits, of what each unit may write over.
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
        if self.bound < self.highest and len(nodes) <= WINDOW:
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
        pairs = count <= LARGEST_MATRIX
        reaches = self._reaches() if pairs else None
        own = np.zeros(count, np.int64)
        for number, (producer, users) in self._mortal.items():
            size = problem.tensors[number].size
            if reaches is None:
                needed[users] += size
                continue
            alive: Array = np.asarray(reaches[:, users].any(axis=1))
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
        """Collect the units, from the last node to the first."""
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
        self.masks = [sum(1 << i for i in unit) for unit in self._members]
        unit_of = {i: u for u, unit in enumerate(self._members) for i in unit}
        inside = [{p for i in unit for p in self._before[i]} - set(unit) for unit in self._members]
        self.needs = [sum(1 << p for p in needs) for needs in inside]
        self.leaves = [sum(self._leaves[i] for i in unit) for unit in self._members]
        self.overwritten_after = [
            functools.reduce(operator.or_, (users for i in unit for users, _ in self._over[i]), 0)
            for unit in self._members
        ]
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
        result += [u for u in self._followers[unit] if not self.needs[u] & remaining]
        result.sort()
        return result
