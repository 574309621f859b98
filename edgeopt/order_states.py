"""Whether some order of a segment stays within a budget of bytes: a search over the sets of nodes that have run.

What is alive depends on the set alone, so that one way to reach it is as good as any other (dynamic programming over
down-sets, as in SERENITY, Ahn et al. 2020, arXiv:2003.02369). Live memory is a submodular function of the set: what a
node adds can only shrink, and what it frees can only grow, the more nodes have run. Hence four rules that keep the
states few and lose no answer:

1. A node that fits the budget and adds nothing in all runs at once.
2. A node that frees nothing in any order, and that a single node waits for, runs right before that one
   (``order_segment``).
3. Let L be what is alive at the start. Of all sets that can be reached within the budget and hold no more than L,
   one of fewest nodes may come first in every order: for such a set S and any state T of an order,
   live(S ∪ T) ≤ live(T) + live(S) - live(S ∩ T), and S ∩ T cannot hold less than S, as it could be reached too and is
   smaller. The search starts anew from S. (States are taken by their number of nodes; rule 1 may run nodes outside of
   S beside smaller sets, which hides their number. Where it did, the search is repeated among the nodes of S.)

4. A step is idle if it frees nothing and holds no more while it runs than afterwards. What follows an idle step and
   does not need it could as well have come before: all it would have met is less. So a state that was entered by an
   idle step is left only by what needs that step, by what could not come before for the same price (it now takes the
   place of an operand, or frees a tensor that the step read too), and, of idle steps in a row, in the order of
   their numbers.

A state that is the only one left may also come first in every order.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from edgeopt.order_segment import Segment

_After = tuple[int, int, int]  # what ``Segment.run`` tells: nodes that remain, bytes alive, the peak


@dataclass
class Limit:
    """How many steps may still be evaluated."""

    evaluations: int


@dataclass(frozen=True)
class Answer:
    """What became of one search.

    Attributes:
        order: An order within the budget; None if none was found.
        peak: Of that order.
        refused: The least step that went over the budget; None if there was none.
        complete: Without an order: whether there is none, and so none below ``refused``.
    """

    order: list[int] | None
    peak: int = 0
    refused: int | None = None
    complete: bool = True


@dataclass(slots=True, eq=False)
class _State:
    """A set of nodes that have run.

    Attributes:
        remaining: One bit for each node of the segment that has not run.
        live: Bytes alive.
        peak: On the way here.
        options: Units that may run next within the budget, what then is, and whether the step is idle.
        entered: The idle steps that led here, each with the idle steps (as bits) that could have been taken instead;
            None if another step led here too.
        ready: Units whose predecessors have run.
        ran: The units that led here from ``parent``, in order.
        parent: The state before.
    """

    remaining: int
    live: int
    peak: int
    options: list[tuple[int, _After, bool]]
    entered: list[tuple[int, int]] | None
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


def within(segment: Segment, budget: int, limit: Limit, width: int | None = None) -> Answer:
    """Whether an order of the segment stays within the budget.

    Args:
        segment: What is ordered.
        budget: In bytes.
        limit: Reduced by what was evaluated; where it is used up, there is no answer.
        width: Bounds the states of one size that are looked at; what is not found then may still be there.
    """
    return _Search(segment, budget, limit, width).answer()


class _Search:
    def __init__(self, segment: Segment, budget: int, limit: Limit, width: int | None) -> None:
        self._segment, self._budget, self._limit, self._width = segment, budget, limit, width
        self._refused: int | None = None
        self._complete = True
        self._forced = 0  # the nodes that rule 1 ran since the last start

    def answer(self) -> Answer:
        segment = self._segment
        everything = (1 << len(segment.nodes)) - 1
        state = self._settle(None, None, (everything, segment.live, 0), segment.ready, 0)
        while state.remaining:
            found, is_first = self._next(state, 0)
            restricted = False
            while found is not None and not is_first and self._width is None:
                restricted = True
                found, is_first = self._next(state, found.remaining)
            if found is None:
                return Answer(None, refused=self._refused, complete=self._complete)
            state = found
            if restricted:  # what was left aside may run now
                state = self._settle(found, None, (found.remaining, found.live, found.peak), found.ready, 0)
        return Answer([n for u in state.units() for n in segment.units[u]], state.peak)

    def _next(self, start: _State, aside: int) -> tuple[_State | None, bool]:
        """The state that every order may go to from ``start``; False beside it if that is not certain yet (rule 3).

        Args:
            start: Where the search starts.
            aside: Nodes that must not run.
        """
        count, masks = len(self._segment.nodes), self._segment.masks
        heap: list[tuple[int, int, int, _State]] = []
        known: dict[int, _State] = {}
        taken: dict[int, int] = {}
        self._forced = 0
        state = start
        while True:
            idle = sum(1 << unit for unit, _, is_idle in state.options if is_idle)
            for unit, then, is_idle in state.options:
                if masks[unit] & aside or not self._may_follow(state, unit, is_idle):
                    continue
                new = known.get(then[0])
                if new is None:
                    after = (then[0], then[1], max(state.peak, then[2]))
                    ready = self._segment.ready_after(unit, then[0], state.ready)
                    new = self._settle(state, unit, after, ready, aside)
                    if is_idle and new.remaining == then[0]:
                        new.entered = []
                    twin = known.setdefault(new.remaining, new)
                    if twin is new:
                        heapq.heappush(heap, (count - new.remaining.bit_count(), new.live, len(known), new))
                    else:
                        twin.entered = None
                    known[then[0]] = new = twin
                if new.entered is not None:
                    new.entered = [*new.entered, (unit, idle)] if is_idle else None
            while heap:
                size, _, _, state = heapq.heappop(heap)
                if not heap or not state.remaining:
                    return state, True
                if state.live <= start.live:
                    return state, not self._forced & state.remaining
                taken[size] = taken.get(size, 0) + 1
                if self._width is None or taken[size] <= self._width:
                    break
                self._complete = False
            else:
                return None, False
            if self._limit.evaluations <= 0:
                self._complete = False
                return None, False

    def _settle(self, parent: _State | None, unit: int | None, after: _After, ready: list[int], aside: int) -> _State:
        """Run what rule 1 allows, and see what may come next."""
        segment, budget = self._segment, self._budget
        remaining, live, peak = after
        ran = [] if unit is None else [unit]
        while True:
            options: list[tuple[int, _After, bool]] = []
            for candidate in ready:
                if segment.masks[candidate] & aside:
                    continue
                self._limit.evaluations -= 1
                then = segment.run(candidate, remaining, live)
                if then[2] > budget:
                    self._refused = then[2] if self._refused is None else min(self._refused, then[2])
                elif then[1] <= live:
                    ran.append(candidate)
                    self._forced |= segment.masks[candidate]
                    remaining, live, peak = then[0], then[1], max(peak, then[2])
                    ready = segment.ready_after(candidate, remaining, ready)
                    break
                else:
                    options.append((candidate, then, then[1] - live == segment.leaves[candidate] == then[2] - live))
            else:
                return _State(remaining, live, peak, options, None, ready, ran, parent)

    def _may_follow(self, state: _State, unit: int, is_idle: bool) -> bool:
        """Rule 4."""
        if state.entered is None:
            return True
        segment = self._segment
        for step, others in state.entered:
            if (segment.needs[unit] | segment.overwritten_after[unit]) & segment.masks[step]:
                return True
            if others >> unit & 1 and (not is_idle or unit > step):
                return True
        return False
