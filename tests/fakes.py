"""Latencies and memory as a test wants them, so that what ``optimize`` decides does not hang on the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from edgeopt.latency import Latency, summarize
from edgeopt.memory import Memory

PEAK_BYTES = 1000


def install(
    monkeypatch: pytest.MonkeyPatch, *times_ms: Mapping[str, float], peaks: Sequence[int] = ()
) -> list[list[str]]:
    """Replace the measuring of ``optimize``; returns the choices of each comparison that was timed.

    Args:
        monkeypatch: Undoes it.
        times_ms: Latency by choice, for the first comparison, the second, …; the last one stands for all later.
        peaks: Measured bytes, in the order original, float, int8; 1000 where there are no more.
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

    monkeypatch.setattr("edgeopt.latency.measure", measure)
    monkeypatch.setattr("edgeopt.memory.measure", memory)
    return asked
