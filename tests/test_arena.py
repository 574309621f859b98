"""The lower bound, and plans that are valid and tight."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path

import onnx_ir as ir
import pytest

from edgeopt.arena import Plan, activation_lower_bound, arena_plan, lower_bound, plan
from edgeopt.errors import UsageError
from edgeopt.liveness import Buffer, Liveness
from tests.models import model


def assert_valid(found: Plan, alignment: int) -> None:
    for (a, p), (b, q) in combinations(found.buffers.items(), 2):
        together = p.first <= q.last and q.first <= p.last
        overlap = p.offset < q.offset + q.size_bytes and q.offset < p.offset + p.size_bytes
        assert not (together and overlap), f"{a} and {b} live at the same time in the same place"
    for placed in found.buffers.values():
        assert placed.offset % alignment == 0
        assert placed.offset + placed.size_bytes <= found.arena_bytes


def test_lower_bound_and_where_it_is() -> None:
    # at "b": the input is gone, a (4 × 6 floats) and b (4 × 6 floats) are alive
    m = model("g (float[4,2] x, float[2,6] w) => (y) { [a] a = MatMul(x, w) [b] b = Softmax(a) [c] y = ReduceMax(b) }")
    found = activation_lower_bound(m)
    assert (found.size_bytes, found.peak_node, found.unknown) == (2 * 4 * 24, "b", ())


def test_the_inputs_alone_can_be_the_peak() -> None:
    m = model("g (float[100] x, float[100] unused) => (y) { y = ReduceMax(x) }")
    found = activation_lower_bound(m)
    assert (found.size_bytes, found.peak_node) == (800, "inputs")


def test_assumed_sizes_reach_the_bound() -> None:
    m = model("g (float[N,5] x) => (y) { y = Softmax(x) }")
    assert activation_lower_bound(m).size_bytes == 2 * 20
    assert activation_lower_bound(m, {"N": 3}).size_bytes == 2 * 60


def test_a_body_adds_its_own_peak() -> None:
    text = """g (float[8] x, bool c) => (y)
    { [if] y = If(c) <then_branch = a () => (p)
        { [one] s = Softmax(x) [two] t = Softmax(s) [three] p = Softmax(t) },
      else_branch = b () => (q) { q = Neg(x) }> }"""
    found = activation_lower_bound(model(text))
    # x (32), c (1), and s and t of the branch; y is the branch's own result and not there twice
    assert (found.size_bytes, found.peak_node) == (32 + 1 + 64, "if/two")
    placed = arena_plan(model(text))
    assert placed.offsets["if/body"][1] == 128
    assert placed.arena_bytes >= found.size_bytes


def test_unknown_sizes_are_told() -> None:
    text = """g (float[8] x, bool c) => (y)
    { i = NonZero(x) y = If(c) <then_branch = a () => (p) { j = NonZero(x) p = Relu(x) },
      else_branch = b () => (q) { q = Neg(x) }> }"""
    assert activation_lower_bound(model(text)).unknown == ("i", "j")


def test_plan_aligns_and_reuses() -> None:
    m = model("g (float[3] x) => (y) { a = Softmax(x) b = Softmax(a) y = Softmax(b) }")
    found = arena_plan(m, alignment=64)
    assert found.arena_bytes == 128
    assert_valid(found, 64)
    assert arena_plan(m, alignment=1).arena_bytes == 24
    assert set(found.offsets) == {"x", "a", "b", "y"}


def test_alignment_must_be_positive() -> None:
    with pytest.raises(UsageError, match="at least 1 byte, found 0"):
        arena_plan(model("g (float[3] x) => (y) { y = Relu(x) }"), alignment=0)


def test_a_model_without_activations_needs_no_arena() -> None:
    m = model("g () => (y) { y = Constant<value_floats=[1.0]>() }")
    assert arena_plan(m) == Plan({}, 0)
    assert activation_lower_bound(m).size_bytes == 0


def test_first_fit_fills_the_lowest_gap() -> None:
    # sizes 40 and 30 take the bottom; 10 fits between once 40 has died, under the 30 that lives on
    live = Liveness([Buffer("big", 40, 0, 1), Buffer("long", 30, 1, 3), Buffer("late", 10, 2, 3)], ["s"] * 4)
    found = plan(live, 1)
    assert found.offsets == {"big": (0, 40), "long": (40, 30), "late": (0, 10)}


def test_buffers_of_the_same_name_are_kept_apart() -> None:
    live = Liveness([Buffer("a", 8, 0, 1), Buffer("a", 8, 0, 1)], ["s"] * 2)
    found = plan(live, 1)
    assert found.arena_bytes == 16
    assert len(found.buffers) == 2


@pytest.mark.parametrize("seed", range(20))
def test_random_lifetimes(seed: int) -> None:
    rng = random.Random(seed)
    steps = 30
    buffers = []
    for i in range(60):
        first = rng.randrange(steps - 1)
        buffers.append(Buffer(f"t{i}", rng.choice([0, 1, 7, 64, 100, 4096]), first, rng.randrange(first, steps)))
    live = Liveness(buffers, [f"s{i}" for i in range(steps)])
    bound = lower_bound(live).size_bytes
    by_hand = max(sum(b.size_bytes for b in buffers if b.first <= s <= b.last) for s in range(steps))
    assert bound == by_hand
    for alignment in (1, 64):
        found = plan(live, alignment)
        assert_valid(found, alignment)
        assert bound <= found.arena_bytes <= sum(-(-b.size_bytes // alignment) * alignment for b in buffers)
        assert found == plan(live, alignment)  # the same plan every time


def made_up(seed: int) -> list[Buffer]:
    rng = random.Random(seed)
    spans = [sorted(rng.choices(range(8), k=2)) for _ in range(6)]
    return [Buffer(f"t{i}", rng.randint(1, 20), *span) for i, span in enumerate(spans)]


def first_fit(buffers: Sequence[Buffer]) -> int:
    """The block that first fit in this order needs, the plain way."""
    placed: list[tuple[Buffer, int]] = []
    for b in buffers:
        taken = sorted((at, at + o.size_bytes) for o, at in placed if o.first <= b.last and b.first <= o.last)
        at = 0
        for start, end in taken:
            if start - at >= b.size_bytes:
                break
            at = max(at, end)
        placed.append((b, at))
    return max(at + b.size_bytes for b, at in placed)


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_small_plans_beside_all_plans(start: int) -> None:
    """First fit finds the smallest block in some order of the buffers; a plan is hardly ever larger."""
    missed = 0
    for seed in range(start, start + 20):
        buffers = made_up(seed)
        found = plan(Liveness(list(buffers), ["s"] * 8), 1)
        assert_valid(found, 1)
        least = min(map(first_fit, permutations(buffers)))
        by_size = first_fit(sorted(buffers, key=lambda b: (-b.size_bytes, b.first, b.name)))
        assert least <= found.arena_bytes <= by_size
        missed += found.arena_bytes > least
    assert missed <= 1


def test_two_that_live_together_in_one_place_are_seen() -> None:
    found = plan(Liveness(made_up(1), ["s"] * 8), 1)
    seen = 0
    for name, placed in found.buffers.items():
        for offset in range(found.arena_bytes - placed.size_bytes):
            moved = Plan(found.buffers | {name: replace(placed, offset=offset)}, found.arena_bytes)
            try:
                assert_valid(moved, 1)
            except AssertionError:
                seen += 1
    assert seen > 20


def test_what_reaches_the_end_is_placed_anew() -> None:
    """Small and long-lived between large ones: none of the three orders finds the block of what is alive at once."""
    improved = 0
    for seed in range(300):
        buffers = made_up(seed)
        orders: tuple[Callable[[Buffer], int], ...] = (
            lambda b: b.size_bytes,
            lambda b: b.size_bytes * (b.last - b.first + 1),
            lambda b: b.last - b.first,
        )
        greedy = min(first_fit(sorted(buffers, key=lambda b: (-o(b), -b.size_bytes, b.first, b.name))) for o in orders)
        found = plan(Liveness(list(buffers), ["s"] * 8), 1).arena_bytes
        assert found <= greedy
        improved += found < greedy
    assert improved > 3


def test_real_models(shared: Path) -> None:
    files = [*sorted((shared / "data" / "models").glob("*.onnx")), *sorted((shared / "data" / "corpus").glob("*.onnx"))]
    assert files
    for path in files:
        m = ir.load(path)
        found, bound = arena_plan(m), activation_lower_bound(m)
        assert_valid(found, 64)
        assert found.arena_bytes >= bound.size_bytes, path.name
        if bound.size_bytes > 100_000:
            assert found.arena_bytes <= 1.1 * bound.size_bytes, path.name
