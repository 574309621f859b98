"""What is proposed, for searches that find what the tests want."""

from __future__ import annotations

from typing import Any

import pytest

from edgeopt import proposals
from edgeopt.decisions import Decisions
from edgeopt.effort import Effort
from edgeopt.errors import ModelError
from edgeopt.latency import Ratio
from edgeopt.layouts import Layout
from edgeopt.mixed_precision import Split
from edgeopt.progress import silent
from edgeopt.proposals import Proposals
from edgeopt.quant import Scheme
from tests.test_making import Kitchen

WIDE = Layout(padded=("conv1",), block=8)


def ratio(value: float) -> Ratio:
    return Ratio(value, (value, value))


def split(speedup: float, *keep_float: str, noise: float = 0.1) -> Split:
    return Split(frozenset(keep_float), "mse", ratio(speedup), noise, dict.fromkeys(keep_float, "slow"))


class Found:
    """In the place of both searches: what each finds, by the number of layouts searched before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.layout: tuple[Layout, Ratio | None] | ModelError = (Layout(), None)
        self.fastest: list[Split | ModelError | None] = []
        self.softer: list[Split] | ModelError = []
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Layouts:
            def __init__(self, *_: Any, **options: Any) -> None:
                outer.asked.append(options)

            def run(self) -> tuple[Layout, Ratio | None]:
                if isinstance(outer.layout, ModelError):
                    raise outer.layout
                return outer.layout

        class Mixed:
            ranges = "mse"

            def __init__(self, *_: Any, **options: Any) -> None:
                outer.asked.append(options)

            def fastest(self) -> Split | None:
                found = outer.fastest.pop(0)
                if isinstance(found, ModelError):
                    raise found
                return found

            def gentler(self) -> list[Split]:
                if isinstance(outer.softer, ModelError):
                    raise outer.softer
                return outer.softer

        monkeypatch.setattr(proposals, "LayoutSearch", Layouts)
        monkeypatch.setattr(proposals, "MixedPrecision", Mixed)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Found:
    return Found(monkeypatch)


def proposed(kitchen: Kitchen, *, search_s: float = 1.0, scheme: Scheme | None = None, **options: Any) -> Proposals:
    asked: dict[str, Any] = {"ranges": "auto", "keep_float": frozenset(), "block": 8, "threads": 1, "seed": 0}
    effort = Effort(8, 0.1, False, search_s, 0.01)
    return Proposals(kitchen.maker, scheme or Scheme(), effort, **(asked | options), progress=silent)


def decisions(found: list[proposals.Proposal]) -> list[Decisions]:
    return [p.decisions for p in found]


def test_all_in_int8_and_the_fastest_regions(found: Found) -> None:
    found.fastest = [split(1.5, "conv1")]
    first = proposed(Kitchen()).first()
    assert decisions(first) == [
        Decisions("int8", "mse", bias_correction=True),
        Decisions("mixed", "mse", ("conv1",), bias_correction=True),
    ]
    assert first[1].reasons == {"conv1": "slow"}


def test_regions_that_are_the_whole_model_are_no_choice_of_their_own(found: Found) -> None:
    found.fastest = [split(1.5)]
    assert decisions(proposed(Kitchen()).first()) == [Decisions("int8", "mse", bias_correction=True)]


def test_what_the_user_keeps_in_float_is_no_decision(found: Found) -> None:
    found.fastest = [split(1.5, "dense", "conv1")]
    first = proposed(Kitchen(), keep_float=frozenset(["dense"])).first()
    assert decisions(first)[1].keep_float == ("conv1",)


def test_no_region_pays(found: Found) -> None:
    found.fastest = [None]
    search = proposed(Kitchen())
    assert decisions(search.first()) == [Decisions("int8", "minmax", bias_correction=True)]
    assert search.gentler() == []


def test_ranges_as_asked_where_no_region_pays(found: Found) -> None:
    found.fastest = [None]
    assert decisions(proposed(Kitchen(), ranges="entropy").first())[0].range == "entropy"


@pytest.mark.parametrize(("plain", "wide", "chosen"), [(1.6, 1.2, False), (1.3, 1.2, True)])
def test_regions_of_the_layout_that_is_faster_in_all(
    plain: float, wide: float, chosen: bool, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout alone is 1.2 times as fast as the plain model."""
    kitchen = Kitchen()
    monkeypatch.setattr(Layout, "apply", lambda self, model: model.clone())
    found.layout = (WIDE, ratio(1.2))
    found.fastest = [split(plain, "conv1"), split(wide, "conv2")]
    layout, _, mixed = decisions(proposed(kitchen).first())
    assert layout == Decisions("layout", pad_channels=("conv1",), channel_block=8)
    assert mixed.keep_float == (("conv2",) if chosen else ("conv1",))
    assert (mixed.pad_channels, mixed.channel_block) == ((("conv1",), 8) if chosen else ((), 0))


def test_a_layout_that_computes_something_else_is_not_proposed(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen = Kitchen()
    monkeypatch.setattr(kitchen.maker, "layout_model", lambda layout: None if layout else kitchen.simplified)
    found.layout = (WIDE, ratio(1.2))
    found.fastest = [split(1.5, "conv1")]
    assert [d.choice for d in decisions(proposed(kitchen).first())] == ["int8", "mixed"]


def test_gentler_ones_are_numbered_by_their_speed(found: Found) -> None:
    found.fastest = [split(1.5, "conv1")]
    found.softer = [split(1.1, "conv1", "conv2"), split(1.4, "conv2")]
    search = proposed(Kitchen())
    search.first()
    assert [(d.choice, d.keep_float) for d in decisions(search.gentler())] == [
        ("mixed-2", ("conv2",)),
        ("mixed-3", ("conv1", "conv2")),
    ]


def test_a_search_that_fails_costs_only_its_own_result(found: Found) -> None:
    kitchen = Kitchen()
    found.layout, found.fastest = ModelError("crash 1"), [ModelError("crash 2")]
    assert decisions(proposed(kitchen).first()) == [Decisions("int8", "minmax", bias_correction=True)]
    assert kitchen.maker.warnings == [
        "the search for layouts was given up: crash 1",
        "the search for int8 regions was given up: crash 2",
    ]


def test_a_search_for_gentler_ones_that_fails_is_told(found: Found) -> None:
    kitchen = Kitchen()
    found.fastest, found.softer = [split(1.5, "conv1")], ModelError("crash 3")
    search = proposed(kitchen)
    search.first()
    assert search.gentler() == []
    assert kitchen.maker.warnings == ["the search for gentler int8 regions was given up: crash 3"]


def test_without_integer_kernels_there_is_only_the_layout(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    kitchen = Kitchen(scheme=None)
    monkeypatch.setattr(Layout, "apply", lambda self, model: model.clone())
    found.layout = (WIDE, ratio(1.2))
    assert [d.choice for d in decisions(proposed(kitchen).first())] == ["layout"]


def test_without_time_nothing_is_searched(found: Found) -> None:
    assert [d.choice for d in decisions(proposed(Kitchen(), search_s=0.0).first())] == ["int8"]
    assert found.asked == []


def test_the_searches_get_what_was_asked(found: Found) -> None:
    found.fastest = [split(1.5, "conv1")]
    proposed(Kitchen(), seed=7, threads=2, ranges="percentile").first()
    layouts, mixed = found.asked
    assert (layouts["block"], layouts["seed"], layouts["threads"], layouts["seconds"]) == (8, 7, 2, 1.0)
    assert (mixed["ranges"], mixed["seed"], mixed["threads"], mixed["search_s"]) == ("percentile", 7, 2, 1.0)


@pytest.mark.usefixtures("quick")
def test_the_searches_themselves() -> None:
    """No fakes: whatever is found can be made."""
    kitchen = Kitchen()
    search = proposed(kitchen, search_s=0.2)
    for proposal in (*search.first(), *search.gentler()):
        assert kitchen.maker.make(proposal.decisions, proposal.reasons) is not None
