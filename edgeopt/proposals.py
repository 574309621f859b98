"""What is worth making into a candidate: decided by quick measurements on models that nothing has checked yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeopt.decisions import AUTO, INT8, LAYOUT, MIXED, Decisions
from edgeopt.effort import Effort
from edgeopt.graph import Array
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
        self._search: MixedPrecision | None = None
        self._layout = Layout()

    def first(self) -> list[Proposal]:
        """The fastest layout, all in int8, and the fastest int8 regions, as far as there are such.

        Raises:
            ModelError: onnxruntime refuses the model.
        """
        feeds = self._maker.feeds(NOISE_SAMPLES)
        layouts = {Layout(): 1.0}
        found: list[Proposal] = []
        plain = self._maker.layout_model(Layout())
        if plain is not None and self._effort.search_s:
            layout, gain = LayoutSearch(
                plain,
                feeds[0],
                block=self._block,
                threads=self._threads,
                seed=self._seed,
                trial_s=self._effort.trial_s,
                seconds=self._effort.search_s,
                progress=lambda n: self._progress(f"searching layouts, trial {n}"),
            ).run()
            if layout and gain is not None and self._maker.layout_model(layout) is not None:
                layouts[layout] = gain.median
                found.append(Proposal(self._decisions(LAYOUT, layout)))
        best = 0.0
        split: Split | None = None
        for layout, gain_of_layout in layouts.items():
            search = self._searched(layout, feeds)
            fastest = search.fastest() if search is not None else None
            if fastest is not None and fastest.speedup.median * gain_of_layout > best:
                best, split = fastest.speedup.median * gain_of_layout, fastest
                self._search, self._layout = search, layout
        if self._maker.calibrated(Layout()) is not None:
            ranges = self._search.ranges if self._search is not None else self._ranges
            found.append(Proposal(Decisions(INT8, "minmax" if ranges == AUTO else ranges, bias_correction=True)))
        if split is not None and (split.keep_float - self._keep_float or self._layout):
            found.append(self._mixed(MIXED, split))
        return found

    def gentler(self) -> list[Proposal]:
        """int8 regions that lose less and less, the fastest ones first; empty if no region pays.

        Raises:
            ModelError: onnxruntime refuses the model.
        """
        splits = self._search.gentler() if self._search is not None else []
        splits.sort(key=lambda s: -s.speedup.median)
        return [self._mixed(f"{MIXED}-{k}", split) for k, split in enumerate(splits, 2)]

    def _searched(self, layout: Layout, feeds: Sequence[Mapping[str, Array]]) -> MixedPrecision | None:
        calibrated = self._maker.calibrated(layout)
        if calibrated is None or self._scheme is None or not self._effort.search_s:
            return None
        return MixedPrecision(
            calibrated,
            self._scheme,
            feeds,
            ranges=self._ranges,
            keep_float=self._keep_float,
            threads=self._threads,
            seed=self._seed,
            search_s=self._effort.search_s,
            trial_s=self._effort.trial_s,
            progress=self._progress,
        )

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
