"""One thread watches all deadlines."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edgeopt.errors import ModelError
from edgeopt.runtime import Session
from edgeopt.watchdog import Watchdog
from tests.models import model

LONG_S = 3600.0
ENDLESS = """
agraph (int64 trips, bool go, float[64,64] x) => (float[64,64] y) {
  y = Loop (trips, go, x) <body = b (int64 i, bool c, float[64,64] v) => (bool d, float[64,64] w) {
    d = Identity (c)
    w = MatMul (v, v)
  }>
}
"""


def test_a_block_that_takes_too_long_is_stopped() -> None:
    stopped = threading.Event()
    with Watchdog().guard(0.01, stopped.set):
        assert stopped.wait(60)


def test_a_block_that_ends_in_time_is_not() -> None:
    watchdog, early, late = Watchdog(), threading.Event(), threading.Event()
    with watchdog.guard(0.05, early.set):
        pass
    with watchdog.guard(0.1, late.set):
        assert late.wait(60)  # by now the first deadline has passed too
    assert not early.is_set()


def test_a_shorter_deadline_is_seen_while_a_longer_one_is_awaited() -> None:
    watchdog, long, short = Watchdog(), threading.Event(), threading.Event()
    with watchdog.guard(LONG_S, long.set), watchdog.guard(0.01, short.set):
        assert short.wait(60)
    with watchdog.guard(0.01, short.clear):  # and again, with the longer one gone
        while short.is_set():
            pass
    assert not long.is_set()


def test_several_blocks_share_one_thread() -> None:
    watchdog, events = Watchdog(), [threading.Event() for _ in range(3)]
    before = threading.active_count()

    def block(event: threading.Event) -> None:
        with watchdog.guard(0.05, event.set):
            assert event.wait(60)

    threads = [threading.Thread(target=block, args=(e,)) for e in events]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(e.is_set() for e in events)
    assert threading.active_count() == before + 1


def test_a_stop_that_fails_leaves_the_next_block_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    watchdog, failed, stopped = Watchdog(), threading.Event(), threading.Event()

    def fail() -> None:
        raise ValueError("on purpose")

    monkeypatch.setattr(threading, "excepthook", lambda _: failed.set())
    with watchdog.guard(0.01, fail):
        assert failed.wait(60)
    watchdog._thread.join(60) if watchdog._thread else None
    with watchdog.guard(0.01, stopped.set):
        assert stopped.wait(60)


def test_a_run_that_takes_too_long_is_an_error() -> None:
    session = Session(model(ENDLESS))
    feed = {"trips": np.array(2**60), "go": np.array(True), "x": np.zeros((64, 64), np.float32)}
    with pytest.raises(ModelError, match=r"ran longer than 0\.3 s"):
        session.run(feed, timeout_s=0.3)
    assert session.run(feed | {"trips": np.array(2)})["y"].shape == (64, 64)
