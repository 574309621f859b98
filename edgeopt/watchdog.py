"""Deadlines for calls that cannot time out by themselves: one thread watches them all.

A ``threading.Timer`` for each call would start a thread for each call: 0.2 ms when the machine is idle and several
ms when it is not, more than a run of a small network takes. Here a call costs two locked dictionary operations.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Stop = Callable[[], None]


class Watchdog:
    """Calls ``stop`` of each guarded block that has not ended in time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: dict[int, tuple[float, Stop]] = {}
        self._next_key = 0
        self._wakes_at = 0.0
        self._thread: threading.Thread | None = None

    @contextmanager
    def guard(self, timeout_s: float, stop: Stop) -> Iterator[None]:
        """Call ``stop`` from another thread if the block takes longer than ``timeout_s``.

        ``stop`` may still be called in the moment in which the block ends.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            key = self._next_key
            self._next_key += 1
            self._deadlines[key] = deadline, stop
            if self._thread is None or not self._thread.is_alive():  # the first call, or the child of a fork
                self._thread = threading.Thread(target=self._watch, name="edgeopt-watchdog", daemon=True)
                self._wakes_at = deadline
                self._thread.start()
            elif deadline < self._wakes_at:
                self._wakes_at = deadline
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._deadlines.pop(key, None)

    def _watch(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                late = [key for key, (deadline, _) in self._deadlines.items() if deadline <= now]
                stops = [self._deadlines.pop(key)[1] for key in late]
                if not stops:
                    self._wakes_at = min((d for d, _ in self._deadlines.values()), default=float("inf"))
                    self._changed.wait(self._wakes_at - now if self._deadlines else None)
            for stop in stops:
                stop()
