"""What an order of nodes costs in activation memory, told in numbers alone.

Nodes are 0 … n-1. While a node runs, alive are: every buffer that was written before and is still to be touched (or
is a graph output), what the node writes (less one operand that it writes over), or what a body inside it needs if
that is more. The largest of these sums is the peak: the very figure that ``arena.lower_bound`` gives for that
order, since all rules of ``liveness`` but the one on writing over an operand are the same in every order, and that
one depends only on which nodes have run before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tensor:
    """One buffer: ``size`` in bytes, the node that writes it first (None: there from the start), who touches it then.

    ``kept`` ones are graph outputs and live to the end.
    """

    size: int
    producer: int | None
    users: tuple[int, ...]
    kept: bool = False


@dataclass
class Problem:
    """A graph to be ordered.

    Attributes:
        before: Node to the nodes that must run before it.
        tensors: All buffers.
        overwritable: Node to the tensors that its result may take the place of, each if the node is its last user.
        inner: Node to the bytes that its bodies need while it runs, beside what lives around it.
        inner_bound: The same, whatever the order inside of them.
    """

    before: list[list[int]]
    tensors: list[Tensor]
    overwritable: dict[int, list[int]] = field(default_factory=dict)
    inner: dict[int, int] = field(default_factory=dict)
    inner_bound: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.before)
        self.written: list[list[int]] = [[] for _ in range(count)]
        self.touched: list[list[int]] = [[] for _ in range(count)]
        for i, tensor in enumerate(self.tensors):
            if tensor.producer is not None:
                self.written[tensor.producer].append(i)
            for user in tensor.users:
                self.touched[user].append(i)
        self.after: list[list[int]] = [[] for _ in range(count)]
        for node, needed in enumerate(self.before):
            for other in needed:
                self.after[other].append(node)
        first = sum(t.size for t in self.tensors if t.producer is None)
        self.edges = max(first, sum(t.size for t in self.tensors if t.kept))

    @property
    def at_start(self) -> int:
        """Bytes alive before the first node, those that no node needs left out."""
        return sum(t.size for t in self.tensors if t.producer is None and (t.users or t.kept))


@dataclass(frozen=True)
class Step:
    """One node of an order: bytes alive before it and while it runs."""

    node: int
    before: int
    during: int


def steps(problem: Problem, order: Iterable[int]) -> list[Step]:
    """Walk an order once."""
    left = [len(t.users) for t in problem.tensors]
    live = problem.at_start
    result: list[Step] = []
    for node in order:
        saved = 0
        for source in problem.overwritable.get(node, ()):
            if left[source] == 1:
                saved = problem.tensors[source].size
                break
        written = sum(problem.tensors[i].size for i in problem.written[node])
        result.append(Step(node, live, live + max(written - saved, problem.inner.get(node, 0))))
        live += written
        for i in problem.written[node]:
            if not left[i] and not problem.tensors[i].kept:
                live -= problem.tensors[i].size
        for i in problem.touched[node]:
            left[i] -= 1
            if not left[i] and not problem.tensors[i].kept:
                live -= problem.tensors[i].size
    return result


def peak(problem: Problem, order: Iterable[int]) -> int:
    """The largest sum of live bytes over an order, its first and its last step included."""
    return max([problem.edges, *(s.during for s in steps(problem, order))])


def depth_first(problem: Problem, order: Sequence[int], *, largest_first: bool) -> list[int]:
    """From the nodes that none waits for, in the given order, backwards: what a node needs runs right before it.

    Args:
        problem: The graph.
        order: A valid order.
        largest_first: Of what a node needs, what writes most comes first, else what came first in the given order.
    """
    position = {node: i for i, node in enumerate(order)}
    size = [sum(problem.tensors[i].size for i in written) for written in problem.written]

    def needed(node: int) -> list[int]:
        key = (lambda p: (size[p], -position[p])) if largest_first else (lambda p: (0, -position[p]))
        return sorted(problem.before[node], key=key)  # the first to run is the last

    result: list[int] = []
    state = bytearray(len(size))  # 1: what it needs is on the stack, 2: has run
    stack = [node for node in reversed(order) if not problem.after[node]]
    while stack:
        node = stack[-1]
        if state[node]:
            stack.pop()
            if state[node] == 1:
                result.append(node)
            state[node] = 2
            continue
        state[node] = 1
        stack += [p for p in needed(node) if not state[p]]
    return result


def segments(problem: Problem, order: Sequence[int]) -> list[list[int]]:
    """Cut an order where every valid order can be cut: around each node that all others come before or after.

    Such a node stands at the same place in every order, with the same nodes before it, so each segment can be
    ordered alone. (All nodes before position i come before the node there if each of them has a successor at i
    or earlier; the same holds backwards.)
    """
    position = {node: i for i, node in enumerate(order)}
    count = len(order)
    latest = -1  # of the nodes so far, the latest first successor
    all_before = []
    for i, node in enumerate(order):
        all_before.append(latest <= i)
        latest = max(latest, min((position[s] for s in problem.after[node]), default=count))
    earliest = count
    all_after = [False] * count
    for i in range(count - 1, -1, -1):
        all_after[i] = earliest >= i
        earliest = min(earliest, max((position[p] for p in problem.before[order[i]]), default=-1))
    result: list[list[int]] = [[]]
    for i, node in enumerate(order):
        if all_before[i] and all_after[i]:
            result += [[node], []]
        else:
            result[-1].append(node)
    return [s for s in result if s]
