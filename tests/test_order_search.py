"""The search itself, on made-up problems: compared with all orders, and with the peak counted by hand."""

from __future__ import annotations

import functools
import random

import pytest

from edgeopt.order_costs import Problem, Tensor, peak, segments, steps
from edgeopt.order_search import search


def made_up(rng: random.Random, count: int, density: float) -> Problem:
    """A random graph: one input, one tensor for each node, some that may write over an operand, some with a body."""
    before = [[j for j in range(i) if rng.random() < density] for i in range(count)]
    sizes = rng.choice([[1, 2, 3, 4], [1, 5, 20, 60], [8], [2, 4, 8, 16]])
    first = tuple(i for i in range(count) if not before[i])
    tensors = [Tensor(rng.choice(sizes), None, first)]
    for i in range(count):
        users = tuple(k for k in range(count) if i in before[k])
        tensors.append(Tensor(rng.choice(sizes), i, users, kept=not users and rng.random() < 0.7))
    over: dict[int, list[int]] = {}
    for i in range(count):
        fits = [j + 1 for j in before[i] if tensors[j + 1].size == tensors[i + 1].size]
        if fits and rng.random() < 0.4:
            over[i] = fits
    inner = {i: rng.choice(sizes) for i in range(count) if rng.random() < 0.1}
    return Problem(before, tensors, over, inner, dict(inner))


def least(problem: Problem) -> int:
    """The least peak of all orders, from the definitions alone."""
    count = len(problem.before)

    def alive(ran: int) -> int:
        return sum(
            t.size
            for t in problem.tensors
            if (t.producer is None or ran >> t.producer & 1) and (t.kept or any(not ran >> u & 1 for u in t.users))
        )

    def during(node: int, ran: int) -> int:
        written = sum(t.size for t in problem.tensors if t.producer == node)
        over = [problem.tensors[t] for t in problem.overwritable.get(node, ())]
        saved = max((t.size for t in over if all(u == node or ran >> u & 1 for u in t.users)), default=0)
        return alive(ran) + max(written - saved, problem.inner.get(node, 0))

    @functools.cache
    def rest(ran: int) -> int:
        ready = [n for n in range(count) if not ran >> n & 1 and all(ran >> b & 1 for b in problem.before[n])]
        return min((max(during(n, ran), rest(ran | 1 << n)) for n in ready), default=0)

    return max(problem.edges, rest(0))


def assert_valid(problem: Problem, order: list[int]) -> None:
    place = {node: i for i, node in enumerate(order)}
    assert sorted(order) == list(range(len(problem.before)))
    assert all(place[b] < place[n] for n in order for b in problem.before[n])


@pytest.mark.parametrize("start", range(0, 600, 50))
def test_no_order_is_better(start: int) -> None:
    gained = 0
    for seed in range(start, start + 50):
        rng = random.Random(seed)
        problem = made_up(rng, rng.randint(3, 11), rng.choice([0.1, 0.2, 0.3, 0.5]))
        given = range(len(problem.before))
        found = search(problem, given)
        assert_valid(problem, found.order)
        assert peak(problem, found.order) == found.bound == least(problem), seed
        assert search(problem, given) == found
        gained += found.bound < peak(problem, given)
    assert gained > 10


@pytest.mark.parametrize("evaluations", [0, 10, 50, 200, 1000])
def test_within_any_limit_the_order_is_valid_and_the_bound_holds(evaluations: int) -> None:
    for seed in range(40):
        rng = random.Random(seed)
        problem = made_up(rng, 11, 0.2)
        given = list(range(11))
        found = search(problem, given, evaluations)
        assert_valid(problem, found.order)
        assert found.bound <= least(problem) <= peak(problem, found.order) <= peak(problem, given)


def test_what_runs_beside_a_smaller_set_does_not_hide_it() -> None:
    """Rule 1 makes {0, 1, 2} larger by 4 and 5; {0, 1, 2, 3} is no way to go, though it holds less than the start."""
    problem = Problem(
        before=[[], [], [0, 1], [], [], [4], [2, 3, 5]],
        tensors=[
            Tensor(27, None, (4,)),
            Tensor(25, None, (2,)),
            Tensor(48, None, (6,)),
            Tensor(10, 0, (2,)),
            Tensor(10, 1, (2,)),
            Tensor(20, 2, (6,)),
            Tensor(3, 3, (6,)),
            Tensor(27, 4, (5,)),
            Tensor(20, 5, (6,)),
            Tensor(1, 6, (), kept=True),
        ],
    )
    found = search(problem, range(7))
    assert peak(problem, found.order) == found.bound == least(problem)


def test_steps_tell_what_is_alive() -> None:
    # 0 writes 8 of which nothing is read; 1 writes 4 over its operand; 2 holds a body that needs 9
    problem = Problem(
        before=[[], [], [1]],
        tensors=[Tensor(4, None, (0, 1)), Tensor(8, 0, ()), Tensor(4, 1, (2,)), Tensor(2, 2, (), kept=True)],
        overwritable={1: [0]},
        inner={2: 9},
    )
    assert [(s.node, s.before, s.during) for s in steps(problem, [0, 1, 2])] == [(0, 4, 12), (1, 4, 4), (2, 4, 13)]
    assert [(s.node, s.before, s.during) for s in steps(problem, [1, 0, 2])] == [(1, 4, 8), (0, 8, 16), (2, 4, 13)]
    assert peak(problem, [0, 1, 2]) == 13


def test_segments_are_cut_where_every_order_can_be() -> None:
    diamond = Problem([[], [0], [0], [1, 2], [3]], [])
    assert segments(diamond, range(5)) == [[0], [1, 2], [3], [4]]
    assert segments(Problem([[], [], [0]], []), range(3)) == [[0, 1, 2]]


def test_more_nodes_than_a_window() -> None:
    """Chains side by side, all starts first: what the windows leave is still better."""
    width, length = 90, 10
    before: list[list[int]] = [[] for _ in range(width)]
    before += [[i - width] for i in range(width, width * length)]
    before.append([i for i in range(width * length) if i >= width * (length - 1)])
    last = len(before) - 1
    tensors = []
    for i in range(last):
        user = i + width if i + width < last else last
        tensors.append(Tensor(1 if user == last else 10, i, (user,)))
    problem = Problem(before, [*tensors, Tensor(1, last, (), kept=True)])
    found = search(problem, range(last + 1))
    assert_valid(problem, found.order)
    assert found.bound < peak(problem, found.order) < peak(problem, range(last + 1)) / 5
