from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any, cast

import pytest

from edgeopt.latency import Ratio
from edgeopt.node_times import NodeTime
from edgeopt.region_costs import Costs, Line
from edgeopt.region_search import RegionSearch, connected, in_turns
from edgeopt.regions import Border, Regions
from edgeopt.trials import Trial
from tests.test_min_cut import chain

NOTHING = cast("Any", None)


class Machine:
    """A bench whose times are known: unit prices, borders, and what neighbours do to each other.

    ``together`` is what a pair of units saves (negative) or costs in addition if both are in int8, which no profile
    of the float model shows.
    """

    def __init__(
        self,
        regions: Regions,
        costs: Costs,
        together: Mapping[frozenset[str], float] | None = None,
        noise: float = 0.0,
        session: bool = False,
    ) -> None:
        self.regions, self.costs, self.together, self.noise = regions, costs, together or {}, noise
        self.built: list[frozenset[str]] = []
        self.raced: list[frozenset[str]] = []
        self.session = cast("Any", "a session") if session else NOTHING

    def time_ms(self, int8: frozenset[str]) -> float:
        pairs = sum(ms for pair, ms in self.together.items() if pair <= int8)
        return self.costs.predicted_ms(self.regions, int8) + pairs

    def run(self, int8: Collection[str], rival: Trial | None = None) -> tuple[Trial, Ratio | None]:
        taken = frozenset(int8)
        self.built.append(taken)
        time_ms = self.time_ms(taken)

        def ratio(other_ms: float) -> Ratio:
            value = other_ms / time_ms
            return Ratio(value, (value - self.noise, value + self.noise))

        trial = Trial(taken, NOTHING, self.session, time_ms, ratio(self.time_ms(frozenset())))
        return trial, None if rival is None else ratio(rival.latency_ms)

    def race(self, trials: Sequence[Trial]) -> list[Ratio]:
        self.raced = [t.int8 for t in trials]
        plain = self.time_ms(frozenset())
        return [Ratio(plain / self.time_ms(t.int8), (0.0, 9.0)) for t in trials]

    def profile(self, trial: Trial) -> list[NodeTime]:
        found = []
        for unit, nodes in self.regions.units.items():
            prices = self.costs.int8_ms if unit in trial.int8 else self.costs.float_ms
            pairs = sum(ms / 2 for pair, ms in self.together.items() if unit in pair and pair <= trial.int8)
            found.append(NodeTime(nodes[0], "Conv", prices[unit] + pairs, 0.1, "compute"))
        for border in self.regions.borders:
            crosses = (border.producer in trial.int8) != any(r in trial.int8 for r in border.readers)
            if crosses:
                op, line = (
                    ("DequantizeLinear", self.costs.dequantize)
                    if border.producer in trial.int8
                    else ("QuantizeLinear", self.costs.quantize)
                )
                found.append(NodeTime(f"{border.tensor}/{op}", op, line(border), 0.1, "memory"))
        return found

    def best_ms(self) -> float:
        names = list(self.regions.units)
        sides = product((False, True), repeat=len(names))
        return min(self.time_ms(frozenset(n for n, on in zip(names, s, strict=True) if on)) for s in sides)


def search(machine: Machine, **options: Any) -> Trial:
    return RegionSearch(machine, **({"seconds": 1e9} | options)).run()


SMALL_BORDERS = (Line(0.003, 1e-4), Line(0.003, 1e-4))


def test_first_layers_stay_float() -> None:
    """Like MobileNet: the first Convs are slow in int8, all others fast."""
    costs = Costs(
        dict(zip("abcdef", (1.0, 0.5, 2.0, 2.0, 2.0, 2.0), strict=True)),
        dict(zip("abcdef", (3.0, 2.5, 0.5, 0.5, 0.5, 0.5), strict=True)),
        *SMALL_BORDERS,
    )
    machine = Machine(chain(10, 10, 10, 10, 10, 10, 10), costs)
    best = search(machine)
    assert best.int8 == frozenset("cdef")
    assert best.latency_ms == pytest.approx(machine.best_ms())
    assert len(machine.built) < 12  # of 64 splits


def test_a_slow_island_in_the_middle_stays_float_only_if_its_borders_are_small() -> None:
    costs = Costs(dict.fromkeys("abc", 2.0), {"a": 1.0, "b": 2.5, "c": 1.0}, *SMALL_BORDERS)
    assert search(Machine(chain(1, 1, 1, 1), costs)).int8 == frozenset("ac")
    assert search(Machine(chain(1, 9000, 9000, 1), costs)).int8 == frozenset("abc")


def test_nothing_pays() -> None:
    costs = Costs(dict.fromkeys("abc", 1.0), dict.fromkeys("abc", 1.5), *SMALL_BORDERS)
    best = search(Machine(chain(1, 1, 1, 1), costs))
    assert best.int8 == frozenset()
    assert best.speedup.median == 1.0


def test_all_pays() -> None:
    costs = Costs(dict.fromkeys("abc", 1.0), dict.fromkeys("abc", 0.5), *SMALL_BORDERS)
    assert search(Machine(chain(1, 1, 1, 1), costs)).int8 == frozenset("abc")


def test_measuring_corrects_what_profiles_of_single_precisions_cannot_show() -> None:
    """Alone each unit seems to gain, but side by side in int8 they disturb each other."""
    costs = Costs(dict.fromkeys("abcd", 2.0), dict.fromkeys("abcd", 1.5), *SMALL_BORDERS)
    together = {frozenset("ab"): 1.1, frozenset("cd"): -0.5}
    machine = Machine(chain(1, 1, 1, 1, 1), costs, together)
    assert search(machine).latency_ms == pytest.approx(machine.best_ms())


def test_moves_find_what_the_cut_does_not() -> None:
    """Two units that gain only together: no price of a single unit says so."""
    costs = Costs(dict.fromkeys("abc", 2.0), {"a": 1.0, "b": 2.02, "c": 2.02}, *SMALL_BORDERS)
    machine = Machine(chain(1, 1, 1, 1), costs, {frozenset("ab"): -0.5})
    assert search(machine).latency_ms == pytest.approx(machine.best_ms())


def test_what_cannot_be_told_from_noise_is_no_gain() -> None:
    costs = Costs(dict.fromkeys("ab", 2.0), dict.fromkeys("ab", 1.99), Line(0.0001, 0.0), Line(0.0001, 0.0))
    machine = Machine(chain(1, 1, 1), costs, noise=0.5)
    assert search(machine).speedup.median >= 1  # but never something slower


def test_case_4_the_race_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A split that only seemed fast when it was tried does not win."""
    costs = Costs(dict.fromkeys("abc", 2.0), {"a": 1.0, "b": 1.0, "c": 1.5}, *SMALL_BORDERS)
    machine = Machine(chain(1, 1, 1, 1), costs)
    run = Machine.run

    def flattered(self: Machine, int8: Collection[str], rival: Trial | None = None) -> tuple[Trial, Ratio | None]:
        trial, against = run(self, int8, rival)
        if trial.int8 == frozenset("abc"):
            trial.speedup = Ratio(0.5, (0.5, 0.5))
            against = None if against is None else Ratio(0.5, (0.5, 0.5))
        return trial, against

    monkeypatch.setattr(Machine, "run", flattered)
    best = search(machine)
    assert len(machine.raced) > 1
    assert frozenset() not in machine.raced
    assert best.int8 == frozenset("abc")
    assert best.latency_ms == pytest.approx(machine.best_ms())


def test_only_the_best_trial_keeps_its_memory() -> None:
    costs = Costs(dict.fromkeys("abcd", 2.0), {"a": 3.0, "b": 1.0, "c": 2.5, "d": 1.0}, *SMALL_BORDERS)
    machine = Machine(chain(1, 1, 1, 1, 1), costs, session=True)
    found = RegionSearch(machine, seconds=1e9)
    best = found.run()
    found.measure(frozenset("a"))
    unique = {id(t): t for t in found.trials.values()}.values()
    assert len(unique) > 3
    assert sum(t.session is not None for t in unique) <= 1
    assert best in unique


def test_the_time_limit_holds_and_the_first_splits_are_tried_all_the_same() -> None:
    ticks = iter(range(1000))
    costs = Costs(dict.fromkeys("abc", 2.0), dict.fromkeys("abc", 1.0), *SMALL_BORDERS)
    machine = Machine(chain(1, 1, 1, 1), costs)
    best = search(machine, seconds=0.5, clock=lambda: float(next(ticks)))
    assert best.int8 == frozenset("abc")
    assert machine.built == [frozenset(), frozenset("abc"), in_turns(machine.regions)]


def test_a_heavier_weight_on_errors_leaves_more_in_float() -> None:
    costs = Costs(dict.fromkeys("abc", 2.0), dict.fromkeys("abc", 1.0), *SMALL_BORDERS)
    found = RegionSearch(Machine(chain(1, 1, 1, 1), costs), seconds=1e9)
    found.run()
    error = {"a": 1.0, "b": 0.1, "c": 0.01}
    assert [found.cut(error, weight) for weight in (0.0, 1.5, 15.0, 1500.0)] == [
        frozenset("abc"),
        frozenset("bc"),
        frozenset("c"),
        frozenset(),
    ]


def test_a_split_is_timed_once() -> None:
    costs = Costs(dict.fromkeys("ab", 2.0), dict.fromkeys("ab", 1.0), *SMALL_BORDERS)
    machine = Machine(chain(1, 1, 1), costs)
    found = RegionSearch(machine, seconds=1e9)
    found.run()
    built = len(machine.built)
    assert found.measure(frozenset("ab")) is found.trials[frozenset("ab")]
    assert len(machine.built) == built
    assert len(machine.built) == len(set(machine.built))


def test_connected() -> None:
    regions = chain(1, 1, 1, 1, 1)
    assert connected(regions, frozenset("ad")) == [frozenset("a"), frozenset("bc"), frozenset("d")]


def test_readers_of_one_value_are_not_connected_by_it_if_its_producer_is_not() -> None:
    units: dict[str, tuple[str, ...]] = {n: (n,) for n in "abc"}
    borders = (Border("y_a", "a", ("b", "c"), 1), Border("y_b", "b", (None,), 1), Border("y_c", "c", (None,), 1))
    assert connected(Regions(units, borders), frozenset("a")) == [frozenset("a"), frozenset("b"), frozenset("c")]
    assert connected(Regions(units, borders), frozenset("abc")) == [frozenset("abc")]
