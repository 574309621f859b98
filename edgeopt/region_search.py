"""Searches the split into int8 and float regions that is fastest on this machine, by measuring.

1. The float model, the model all in int8 and one with both in turns are profiled: prices of units and borders
2. The cheapest split by these prices (a minimum cut) is built, timed and profiled; its profile corrects the prices;
   again, until a split comes back; then the same with borders cheaper and dearer, whose prices are least certain
3. From the fastest split on, single moves are tried in the order of their predicted gain: one unit at a border
   changes sides, or a whole region does; a move stays if it is faster in paired measurement
4. The splits that were fastest when they were tried are timed once more, all in the same rounds; that decides

Every trial is kept: those that are fast and those that lose less accuracy are the levers of the optimizer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

from edgeopt.latency import Ratio
from edgeopt.min_cut import cheapest_split
from edgeopt.node_times import NodeTime
from edgeopt.region_costs import Costs, crossings, layout_ms
from edgeopt.regions import Regions
from edgeopt.trials import Trial

_MOST_CUTS = 4
_PROFILES = 2  # of float and of int8 in turn: what disturbs one of them is not there in the other
_BORDER_SCALES = (1.0, 0.5, 0.2, 2.0)
_WORTH_A_TRIAL = 0.02  # a move may be predicted to lose this share: prices are that uncertain
_RACERS = 4
_GAIN = 1.01  # a move that gains less cannot be told from the difference between two sessions


class Bench(Protocol):
    """What builds and measures splits: ``edgeopt.trials.Trials``."""

    regions: Regions

    def run(self, int8: Collection[str], rival: Trial | None = None) -> tuple[Trial, Ratio | None]:
        """Build and time a split."""

    def race(self, trials: Sequence[Trial]) -> list[Ratio]:
        """Time splits again, beside each other, against float."""

    def profile(self, trial: Trial) -> list[NodeTime]:
        """Per node, of a split."""


class RegionSearch:
    """One search; see the module.

    Args:
        bench: Builds and measures.
        seconds: After which nothing new is begun; float, int8 and the split in turns are always profiled.
        progress: Called with each trial's number.
        clock: Seconds; replaced in tests.

    Attributes:
        trials: Every split that was timed, by its int8 units.
        costs: The prices as known at the end.
    """

    def __init__(
        self,
        bench: Bench,
        *,
        seconds: float,
        progress: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._bench, self._progress, self._clock = bench, progress, clock
        self._deadline = clock() + seconds
        self.trials: dict[frozenset[str], Trial] = {}
        self.costs = Costs()

    def run(self) -> Trial:
        """The fastest split found; one with no int8 unit if nothing pays.

        Raises:
            ModelError: onnxruntime refuses the model.
        """
        self._learn_prices()
        best = min(self.trials.values(), key=lambda t: -t.speedup.median)
        self._release_all_but(best)
        for scale in _BORDER_SCALES:
            for _ in range(_MOST_CUTS):
                wanted = self.cut(border_scale=scale)
                if wanted in self.trials or self.late():
                    break
                trial, against_best = self._try(wanted, best)
                if against_best is not None and against_best.median > 1:
                    best = trial
                self.costs.learn_units(self._bench.regions, trial.int8, self._bench.profile(trial))
                self._release_all_but(best)
        return self._winner(self._improved(best))

    def _winner(self, best: Trial) -> Trial:
        """Case 4."""
        unique = {trial.int8: trial for trial in self.trials.values() if trial.int8 and trial is not best}
        fastest = sorted(unique.values(), key=lambda t: -t.speedup.median)[: _RACERS - 1]
        racers = [best, *fastest] if best.int8 else fastest
        if not racers or racers == [best]:
            return best
        for racer, speedup in zip(racers, self._bench.race(racers), strict=True):
            racer.speedup = speedup
        return max([*racers, best], key=lambda t: t.speedup.median)

    def late(self) -> bool:
        """Whether the time is up."""
        return self._clock() > self._deadline

    def extend(self, seconds: float) -> None:
        """From now on, so many seconds."""
        self._deadline = self._clock() + seconds

    def cut(
        self, error: Mapping[str, float] | None = None, weight_ms: float = 0.0, border_scale: float = 1.0
    ) -> frozenset[str]:
        """The cheapest split by today's prices.

        Args:
            error: Unit to what int8 costs in accuracy.
            weight_ms: What one unit of ``error`` is worth.
            border_scale: Factor on the prices of borders, the least certain ones.
        """
        costs, int8 = self.costs, self.costs.int8_ms
        if error is not None:
            int8 = {u: p + weight_ms * error.get(u, 0.0) for u, p in int8.items()}
        return cheapest_split(
            self._bench.regions,
            costs.float_ms,
            int8,
            lambda border: border_scale * costs.quantize(border),
            lambda border: border_scale * costs.dequantize(border),
        )[0]

    def measure(self, int8: frozenset[str]) -> Trial:
        """Time a split, unless it has been timed already."""
        trial = self.trials.get(int8) or self._try(int8, None)[0]
        trial.release()
        return trial

    def _try(self, int8: frozenset[str], rival: Trial | None) -> tuple[Trial, Ratio | None]:
        trial, against = self._bench.run(int8, rival)
        self.trials[int8] = self.trials[trial.int8] = trial
        self._progress(len(self.trials))
        return trial, against

    def _learn_prices(self) -> None:
        """Case 1."""
        bench, everything = self._bench, frozenset(self._bench.regions.units)
        plain, _ = self._try(frozenset(), None)
        whole, _ = self._try(everything, None)
        for _ in range(_PROFILES):
            for trial in (plain, whole):
                times = bench.profile(trial)
                self.costs.learn_units(bench.regions, trial.int8, times)
                if trial is plain:
                    before = times
        turns, _ = self._try(in_turns(bench.regions), None)
        self.costs.learn_borders(bench.regions, turns.int8, bench.profile(turns), layout_ms(bench.regions, before))

    def _improved(self, best: Trial) -> Trial:
        """Case 3."""
        moved = True
        while moved and not self.late():
            moved = False
            for wanted in self._moves(best):
                trial, against = self._try(wanted, best)
                if against is not None and against.median > _GAIN and against.interval_90[0] > 1:
                    best, moved = trial, True
                self._release_all_but(best)
                if moved or self.late():
                    break
        return best

    def _release_all_but(self, best: Trial) -> None:
        for trial in self.trials.values():
            if trial is not best:
                trial.release()

    def _moves(self, best: Trial) -> list[frozenset[str]]:
        """Splits next to this one that have not been tried, the most promising ones first."""
        regions, costs = self._bench.regions, self.costs
        now = costs.predicted_ms(regions, best.int8)
        limit = now + _WORTH_A_TRIAL * best.latency_ms
        found = {best.int8 ^ group: 0.0 for group in _groups(regions, best.int8)}
        for wanted in found:
            found[wanted] = costs.predicted_ms(regions, wanted)
        promising = [w for w, predicted in found.items() if predicted < limit and w not in self.trials]
        return sorted(promising, key=lambda w: (found[w], sorted(w)))


def in_turns(regions: Regions) -> frozenset[str]:
    """Every second unit: a split with as many borders as possible."""
    return frozenset(list(regions.units)[::2])


def _groups(regions: Regions, int8: frozenset[str]) -> Iterator[frozenset[str]]:
    """Sets of units that may change sides together: single units at borders, and whole regions."""
    at_border: dict[str, None] = {}
    quantized, dequantized = crossings(regions, int8)
    for border in (*quantized, *dequantized):
        for unit in (border.producer, *border.readers):
            if unit is not None:
                at_border[unit] = None
    for unit in at_border:
        yield frozenset([unit])
    yield from (r for r in connected(regions, int8) if len(r) > 1)


def connected(regions: Regions, int8: frozenset[str]) -> list[frozenset[str]]:
    """The regions of a split: units of the same precision that hand values to each other."""
    neighbours: dict[str, set[str]] = {unit: set() for unit in regions.units}
    for border in regions.borders:
        units = [u for u in (border.producer, *border.readers) if u is not None]
        for unit in units[1:]:  # readers of one value hang together by it even if nothing of the model computes it
            if (units[0] in int8) == (unit in int8):
                neighbours[units[0]].add(unit)
                neighbours[unit].add(units[0])
    left, result = dict.fromkeys(regions.units), []
    while left:
        start = next(iter(left))
        region, open_units = {start}, [start]
        while open_units:
            for unit in neighbours[open_units.pop()] - region:
                region.add(unit)
                open_units.append(unit)
        for unit in region:
            del left[unit]
        result.append(frozenset(region))
    return result
