"""A lower bound on activation memory, and a plan that packs all activations into one block.

The **lower bound** is the largest sum of the buffers that are alive at one step, in the model's own node order
(``edgeopt.liveness`` says what shares a buffer). A runtime that keeps the order and neither recomputes nor tiles
cannot need less. The **arena** is what a placement of those buffers in a single block takes: greedy, first fit,
in three orders, of which the best result is kept: by size (Pisarchyk and Lee 2020, "Efficient Memory Management
for Deep Neural Net Inference", arXiv:2001.03288, section 5), by size × lifetime, and by lifetime. If that is more
than what is alive at once, the best order is changed, buffer by buffer, as long as the tries last: the plan is never
larger than that of any of the three orders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import onnx_ir as ir

from edgeopt.errors import UsageError
from edgeopt.liveness import Liveness, analyse
from edgeopt.static_shapes import resolve

_Wanted = tuple[str, int, int, int]  # name, bytes, first step, last step

ALIGNMENT_BYTES = 64  # onnxruntime's allocator; a cache line
_TRIES = 100  # to improve a plan
_PLACEMENTS = 6000  # of all these tries together; about 0.1 s


@dataclass(frozen=True)
class LowerBound:
    """The least activation memory in the given node order.

    Attributes:
        size_bytes: The bound.
        peak_node: The node at which it is reached (``inputs`` before the first node).
        unknown: Tensors of unknown size, counted as 0.
    """

    size_bytes: int
    peak_node: str
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placed:
    """One buffer of an arena plan: ``size_bytes`` at ``offset``, alive from step ``first`` to ``last`` inclusive."""

    offset: int
    size_bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """Where each buffer lies in one block of ``arena_bytes``; named after the first tensor that lives in it."""

    buffers: dict[str, Placed]
    arena_bytes: int

    @property
    def offsets(self) -> dict[str, tuple[int, int]]:
        """Name to (offset, size), both in bytes."""
        return {name: (b.offset, b.size_bytes) for name, b in self.buffers.items()}


def activation_lower_bound(model: ir.Model, assumed: Mapping[str, int] | None = None) -> LowerBound:
    """Largest sum of live activation bytes over the steps; open dimensions as in ``static_shapes.resolve``."""
    return lower_bound(analyse(resolve(model, assumed).model.graph))


def lower_bound(live: Liveness) -> LowerBound:
    """The bound of one analysed graph, the bodies of its nodes included."""
    change = [0] * (len(live.steps) + 1)
    for buffer in live.buffers:
        change[buffer.first] += buffer.size_bytes
        change[buffer.last + 1] -= buffer.size_bytes
    unknown = list(live.unknown)
    best, peak, now = 0, live.steps[0], 0
    for step, name in enumerate(live.steps):
        now += change[step]
        total, where = now, name
        for body in live.bodies.get(step, []):
            inner = lower_bound(analyse(body, is_body=True))
            unknown.extend(inner.unknown)
            # the results of a body may be the very buffers of its node, so those are not counted twice
            within = now - live.written.get(step, 0) + inner.size_bytes
            if within > total:
                total, where = within, f"{name}/{inner.peak_node}"
        if total > best:
            best, peak = total, where
    return LowerBound(best, peak, tuple(dict.fromkeys(unknown)))


def arena_plan(model: ir.Model, assumed: Mapping[str, int] | None = None, alignment: int = ALIGNMENT_BYTES) -> Plan:
    """Place every buffer, graph inputs and outputs included, at a fixed offset of one block.

    Args:
        model: Not changed.
        assumed: Sizes of open dimensions, as in ``static_shapes.resolve``.
        alignment: Offsets and sizes are multiples of it, in bytes.

    Raises:
        UsageError: ``alignment`` is below 1.
    """
    if alignment < 1:
        raise UsageError(f"expected at least 1 byte, found {alignment}", where="alignment")
    return plan(analyse(resolve(model, assumed).model.graph), alignment)


def plan(live: Liveness, alignment: int = ALIGNMENT_BYTES) -> Plan:
    """The plan of one analysed graph; a node with bodies gets one buffer for the largest of them."""
    wanted = [(b.name, b.size_bytes, b.first, b.last) for b in live.buffers if b.size_bytes]
    for step, inner in live.bodies.items():
        arena = max((plan(analyse(body, is_body=True), alignment).arena_bytes for body in inner), default=0)
        if arena:
            wanted.append((f"{live.steps[step]}/body", arena, step, step))
    orders: tuple[Callable[[_Wanted], int], ...] = (
        lambda w: w[1],
        lambda w: w[1] * (w[3] - w[2] + 1),
        lambda w: w[3] - w[2],
    )
    least = _most_at_once(wanted, alignment)
    best: Plan | None = None
    tried: list[_Wanted] = []
    for order in orders:
        in_order = sorted(wanted, key=lambda w: (-order(w), -w[1], w[2], w[0]))
        found = _place(in_order, alignment)
        if best is None or found.arena_bytes < best.arena_bytes:
            best, tried = found, in_order
        if best.arena_bytes == least:
            return best
    assert best is not None
    return _improved(best, tried, least, alignment)


def _most_at_once(wanted: Sequence[_Wanted], alignment: int) -> int:
    """The largest sum of aligned sizes at one step: no plan is smaller."""
    change: dict[int, int] = {}
    for _, size_bytes, first, last in wanted:
        size = -(-size_bytes // alignment) * alignment
        change[first] = change.get(first, 0) + size
        change[last + 1] = change.get(last + 1, 0) - size
    return max(accumulate(change[step] for step in sorted(change)), default=0)


def _improved(best: Plan, wanted: list[_Wanted], least: int, alignment: int) -> Plan:
    """Place what reaches the end of the block before all others, again and again; the best plan of all.

    The number of tries is bounded by their cost, and they end where a plan is proven to be the smallest.
    """
    current, found = list(wanted), best
    for _ in range(min(_TRIES, _PLACEMENTS // max(1, len(wanted)))):
        offsets = list(found.buffers.values())  # in the order of ``current``
        highest = max(range(len(current)), key=lambda i: (offsets[i].offset + current[i][1], -i))
        if highest == 0:
            break
        current.insert(0, current.pop(highest))
        found = _place(current, alignment)
        if found.arena_bytes < best.arena_bytes:
            best = found
        if best.arena_bytes == least:
            break
    return best


def _place(wanted: list[_Wanted], alignment: int) -> Plan:
    """First fit in the given order: the lowest gap among the buffers that live at the same time."""
    first, last, offset, end = (np.zeros(len(wanted), np.int64) for _ in range(4))
    placed: dict[str, Placed] = {}
    for n, (name, size_bytes, begins, ends) in enumerate(wanted):
        size = -(-size_bytes // alignment) * alignment
        together = np.flatnonzero((first[:n] <= ends) & (last[:n] >= begins))
        together = together[np.argsort(offset[together], kind="stable")]
        position = 0
        if together.size:
            floor = np.concatenate([[0], np.maximum.accumulate(end[together])])  # where each gap begins
            fits = np.flatnonzero(offset[together] - floor[:-1] >= size)
            position = int(floor[fits[0]] if fits.size else floor[-1])
        first[n], last[n], offset[n], end[n] = begins, ends, position, position + size
        placed[name if name not in placed else f"{name}#{n}"] = Placed(position, size, begins, ends)
    return Plan(placed, int(end.max(initial=0)))
