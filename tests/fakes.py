"""Latencies and memory as a test wants them, so that what ``optimize`` decides does not hang on the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgeopt.candidates import Candidate
from edgeopt.decisions import INT8, Decisions
from edgeopt.latency import Latency, summarize
from edgeopt.levers import Budget
from edgeopt.making import Maker
from edgeopt.memory import Memory
from edgeopt.proposals import Proposal

PEAK_BYTES = 1000


WHOLE = (Decisions(INT8, "minmax"),)


def install(
    monkeypatch: pytest.MonkeyPatch,
    *times_ms: Mapping[str, float],
    peaks: Sequence[int] = (),
    proposed: Sequence[Decisions] = WHOLE,
    gentler: Sequence[Decisions] = (),
) -> list[list[str]]:
    """Replace the measuring of ``optimize``, its search too; returns the choices of each comparison that was timed.

    Args:
        monkeypatch: Undoes it.
        times_ms: Latency by choice, for the first comparison, the second, …; the last one stands for all later.
        peaks: Measured bytes, in the order original, float, int8; 1000 where there are no more.
        proposed: What the search finds.
        gentler: What it finds where that loses too much.
    """
    asked: list[list[str]] = []
    given = iter(peaks)

    def measure(sessions: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, Latency]:
        times = times_ms[min(len(asked), len(times_ms) - 1)]
        asked.append(list(sessions))
        jitter = 1 + 1e-3 * np.sin(np.arange(30))
        return {name: summarize([float(v) for v in times[name] * jitter]) for name in sessions}

    def memory(*_: Any, **__: Any) -> Memory:
        return Memory(64, 64, next(given, PEAK_BYTES), "measured", "conv2")

    class Found:
        """In the place of ``Proposals``; int8 chooses its ranges as it is asked to."""

        def __init__(self, _: Maker, scheme: object, *__: object, ranges: str, **___: object) -> None:
            self.scheme, self.ranges = scheme, ranges

        def first(self) -> list[Proposal]:
            return [
                Proposal(d if self.ranges == "auto" or not d.is_int8 else replace(d, range=self.ranges))
                for d in proposed
                if self.scheme is not None or not d.is_int8
            ]

        def gentler(self) -> list[Proposal]:
            return [Proposal(d, dict.fromkeys(d.keep_float, "kept float for a reason")) for d in gentler]

    monkeypatch.setattr("edgeopt.optimizer.Proposals", Found)
    monkeypatch.setattr("edgeopt.latency.measure", measure)
    monkeypatch.setattr("edgeopt.memory.measure", memory)
    return asked


def lose(monkeypatch: pytest.MonkeyPatch, drops: Mapping[str, float]) -> None:
    """Let these choices lose as much; all others nothing."""

    def loss(candidate: Candidate, budget: Budget) -> float:
        drop = drops.get(candidate.choice, 0.0)
        if candidate.comparison is not None:
            monkeypatch.setattr(candidate.comparison, "drop", lambda: drop)
        return drop

    monkeypatch.setattr("edgeopt.candidates.loss", loss)
