"""Exact rewrites that pay on some machines only: decided by measuring.

``depth_to_space``, ``absorb_split`` and ``pad_channels`` let the runtime's convolutions work in their own layout, and
save copies, for additional multiplications.

1. Each rewrite alone, at all its places, is timed beside the best so far, and kept if that is faster
2. Padded places are judged one by one too: each is left out if all together are faster, else each is tried by itself
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from edgeopt import latency
from edgeopt.errors import ModelError
from edgeopt.graph import Array
from edgeopt.latency import Ratio
from edgeopt.passes import absorb_split, depth_to_space, pad_channels
from edgeopt.runtime import Session

_GAIN = 1.01  # less cannot be told from the difference between two sessions


@dataclass(frozen=True)
class Layout:
    """Names of the places that are rewritten, and the block that channels are padded to."""

    spaced: tuple[str, ...] = ()
    absorbed: tuple[str, ...] = ()
    padded: tuple[str, ...] = ()
    block: int = 0

    def __bool__(self) -> bool:
        return bool(self.spaced or self.absorbed or self.padded)

    def apply(self, model: ir.Model) -> ir.Model:
        """The model with these places rewritten; the model itself if there are none."""
        if self.spaced:
            model = depth_to_space.apply(model, self.spaced)
        if self.absorbed:
            model = absorb_split.apply(model, self.absorbed)
        return pad_channels.apply(model, self.padded, self.block) if self.padded else model


class LayoutSearch:
    """One search; see the module.

    Args:
        model: Float model.
        feed: Input name to array, what is timed.
        block: Channels that the runtime's layout takes together.
        threads: For onnxruntime.
        seed: Of the order in which models take turns.
        trial_s: Seconds of timed runs per trial.
        seconds: For all of it; case 1 is always done.
        progress: Called with each trial's number.
        clock: Seconds; replaced in tests.
    """

    def __init__(
        self,
        model: ir.Model,
        feed: Mapping[str, Array],
        *,
        block: int,
        threads: int = 1,
        seed: int = 0,
        trial_s: float,
        seconds: float,
        progress: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model, self._feed, self._block, self._threads = model, feed, block, threads
        self._seed, self._trial_s, self._progress, self._clock = seed, trial_s, progress, clock
        self._deadline = clock() + seconds
        self._tried = 0

    def run(self) -> tuple[Layout, Ratio | None]:
        """The fastest layout, and how many times faster than the model it is; an empty one if nothing pays.

        Raises:
            ModelError: onnxruntime refuses the model.
        """
        best, session = Layout(), Session(self._model, threads=self._threads)
        plain = session
        for step in (self._spaced, self._absorbed, self._padded, self._absorbed_and_padded):
            layout = step(best)
            if layout != best and (found := self._try(layout, session)) is not None:
                best, session = layout, found
        for name in self._padded(best).padded if not best.padded else best.padded:
            if self._clock() > self._deadline:
                break
            layout = self._toggled(best, name)
            if layout and (found := self._try(layout, session)) is not None:
                best, session = layout, found
        return best, self._compare(plain, session) if best else None

    def _toggled(self, best: Layout, name: str) -> Layout:
        """Case 2: with this place, if it is without it, and the other way round."""
        names = tuple(n for n in best.padded if n != name) if name in best.padded else (*best.padded, name)
        return replace(best, padded=names, block=self._block if names else 0)

    def _spaced(self, best: Layout) -> Layout:
        return replace(best, spaced=tuple(p.name for p in depth_to_space.places(self._model)))

    def _absorbed(self, best: Layout) -> Layout:
        return replace(best, absorbed=tuple(p.name for p in absorb_split.places(best.apply(self._model))))

    def _padded(self, best: Layout) -> Layout:
        names = tuple(p.name for p in pad_channels.places(best.apply(self._model), self._block))
        return replace(best, padded=names, block=self._block if names else 0)

    def _absorbed_and_padded(self, best: Layout) -> Layout:
        """What is absorbed can be worth it only with what can be padded because of it."""
        return best if best.absorbed else self._padded(self._absorbed(replace(best, padded=(), block=0)))

    def _try(self, layout: Layout, rival: Session) -> Session | None:
        """The layout's session, if it is faster than the rival."""
        self._tried += 1
        self._progress(self._tried)
        try:
            session = Session(layout.apply(self._model), threads=self._threads)
        except ModelError:
            return None
        gain = self._compare(rival, session)
        return session if gain.median > _GAIN and gain.interval_90[0] > 1 else None

    def _compare(self, rival: Session, session: Session) -> Ratio:
        found = latency.measure(
            {"rival": rival, "trial": session},
            self._feed,
            budget_s=self._trial_s,
            min_runs=12,
            max_runs=1000,
            rng_seed=self._seed,
        )
        return latency.ratio(found["rival"].samples_ms, found["trial"].samples_ms)
