"""What is worth making into a candidate: decided by quick measurements on models that nothing has checked yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeopt.calibration.statistics import RANGES
from edgeopt.decisions import AUTO, INT8, LAYOUT, MIXED, Decisions
from edgeopt.effort import Effort
from edgeopt.errors import ModelError
from edgeopt.layouts import Layout, LayoutSearch
from edgeopt.making import Maker
from edgeopt.mixed_precision import MixedPrecision, Split
from edgeopt.progress import Progress
from edgeopt.quant import Scheme

NOISE_SAMPLES = 32  # calibration samples on which the noise of int8 is found


@dataclass(frozen=True)
class Proposal:
    """Decisions, and for the report the reason for each node that is kept float."""

    decisions: Decisions
    reasons: Mapping[str, str] = field(default_factory=dict)


class Proposals:
    """Searches layouts and int8 regions.

    Args:
        maker: Of the model.
        scheme: Operand types of the target's integer kernels; None if it has none.
        effort: How long to search.
        ranges: How ranges are chosen, or ``auto``.
        keep_float: What the user wants in float.
        block: Channels that the runtime's layout takes together.
        threads: For onnxruntime.
        seed: Of the order in which models take turns.
        progress: Called with what is being done.
    """

    def __init__(
        self,
        maker: Maker,
        scheme: Scheme | None,
        effort: Effort,
        *,
        ranges: str,
        keep_float: frozenset[str],
        block: int,
        threads: int,
        seed: int,
        progress: Progress,
    ) -> None:
        self._maker, self._scheme, self._effort, self._ranges = maker, scheme, effort, ranges
        self._keep_float, self._block, self._threads = keep_float, block, threads
        self._seed, self._progress = seed, progress
        self._feeds = maker.feeds(NOISE_SAMPLES)
        self._search: MixedPrecision | None = None
        self._layout = Layout()

    def first(self) -> list[Proposal]:
        """The fastest layout, all in int8, and the fastest int8 regions, as far as there are such."""
        found: list[Proposal] = []
        layouts = {Layout(): 1.0}
        layout, gain = self._fastest_layout()
        if layout:
            layouts[layout] = gain
            found.append(Proposal(self._decisions(LAYOUT, layout)))
        best, split = 0.0, None
        for candidate, gain_of_layout in layouts.items():
            search, fastest = self._searched(candidate)
            if fastest is not None and fastest.speedup.median * gain_of_layout > best:
                best, split = fastest.speedup.median * gain_of_layout, fastest
                self._search, self._layout = search, candidate
        if self._maker.calibrated(Layout()) is not None:
            ranges = self._search.ranges if self._search is not None else self._ranges
            found.append(Proposal(Decisions(INT8, RANGES[0] if ranges == AUTO else ranges, bias_correction=True)))
        if split is not None and (split.keep_float - self._keep_float or self._layout):
            found.append(self._mixed(MIXED, split))
        return found

    def gentler(self) -> list[Proposal]:
        """int8 regions that lose less and less, the fastest ones first; empty if no region pays."""
        try:
            splits = self._search.gentler() if self._search is not None else []
        except ModelError as error:
            self._give_up("gentler int8 regions", error)
            return []
        splits.sort(key=lambda s: -s.speedup.median)
        return [self._mixed(f"{MIXED}-{k}", split) for k, split in enumerate(splits, 2)]

    def _give_up(self, what: str, error: ModelError) -> None:
        """A search that fails costs its result, never what others have found."""
        self._maker.warnings.append(f"the search for {what} was given up: {error.message}")

    def _fastest_layout(self) -> tuple[Layout, float]:
        """It and how much faster it is; an empty one if nothing pays or computes the same."""
        plain = self._maker.layout_model(Layout())
        if plain is None or not self._effort.search_s:
            return Layout(), 1.0
        try:
            layout, gain = LayoutSearch(
                plain,
                self._feeds[0],
                block=self._block,
                threads=self._threads,
                seed=self._seed,
                trial_s=self._effort.trial_s,
                seconds=self._effort.search_s,
                progress=lambda n: self._progress(f"searching layouts, trial {n}"),
            ).run()
        except ModelError as error:
            self._give_up("layouts", error)
            return Layout(), 1.0
        known = gain is not None and self._maker.layout_model(layout) is not None
        return (layout, gain.median) if known and gain is not None else (Layout(), 1.0)

    def _searched(self, layout: Layout) -> tuple[MixedPrecision | None, Split | None]:
        calibrated = self._maker.calibrated(layout)
        if calibrated is None or self._scheme is None or not self._effort.search_s:
            return None, None
        try:
            search = MixedPrecision(
                calibrated,
                self._scheme,
                self._feeds,
                ranges=self._ranges,
                keep_float=self._keep_float,
                threads=self._threads,
                seed=self._seed,
                search_s=self._effort.search_s,
                trial_s=self._effort.trial_s,
                progress=self._progress,
            )
            return search, search.fastest()
        except ModelError as error:
            self._give_up("int8 regions", error)
            return None, None

    def _mixed(self, choice: str, split: Split) -> Proposal:
        keep_float = tuple(sorted(split.keep_float - self._keep_float))
        return Proposal(
            self._decisions(choice, self._layout, split.ranges, keep_float, bias_correction=True), split.reasons
        )

    def _decisions(
        self,
        choice: str,
        layout: Layout,
        ranges: str | None = None,
        keep_float: tuple[str, ...] = (),
        *,
        bias_correction: bool = False,
    ) -> Decisions:
        return Decisions(
            choice, ranges, keep_float, bias_correction, layout.spaced, layout.absorbed, layout.padded, layout.block
        )
