"""The rules, the tables and the measurement of the benchmark, with made-up rows, reports and clocks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest

from tests.bench import timing
from tests.bench.optimize_all import Int8, Row, from_report, problems, without_paths
from tests.bench.optimize_table import markdown
from tests.bench.timing import Speedup


def speedup(ratio: float) -> Speedup:
    return Speedup(ratio, (ratio - 0.01, ratio + 0.01), 2.0, 2.0 / ratio, (ratio,) * 3, 60)


def good(**changes: Any) -> Row:
    row = Row(
        model="some_net",
        exit_code=0,
        verdict="ok",
        seconds=12.3,
        metric="top1",
        published=0.8359,
        reported=(0.8359375, 0.83),
        measured=(0.8359375, 0.83),
        choice="int8",
        speedup=speedup(1.5),
        file_bytes=(4_000_000, 1_000_000),
        nodes=(60, 80),
        passes={"fold_constants": (3, 0), "fold_batchnorm": (7, 2)},
        int8_share=(20, 2, 0.987),
        int8=Int8(0.83, speedup(1.5), 1_000_000),
        peer=Int8(0.82, speedup(1.2), 1_100_000),
    )
    return replace(row, **changes)


@pytest.mark.parametrize(
    "row",
    [
        good(),
        good(exit_code=3, verdict="budget missed: latency_ms"),
        good(speedup=speedup(0.975)),  # within 3 %
        good(measured=(0.84, 0.83), reported=(0.84, 0.83), published=0.84),  # exactly one point
        good(metric="psnr_y", digits=3, published=32.031, reported=(32.0310, 31.95), measured=(32.0310, 31.95)),
    ],
)
def test_a_row_that_keeps_its_promises(row: Row) -> None:
    assert problems(row) == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (good(exit_code=1, verdict="internal error"), "exit code 1: internal error"),
        (good(exit_code=4), "exit code 4"),
        (good(exit_code=-1), "exit code -1"),
        (good(exit_code=3), "exit code 3 is not explained: ok"),
        (good(published=0.8), "models.json says 0.8"),
        (good(reported=None), "could not be measured"),
        (good(measured=None), "could not be measured"),
        (good(speedup=None), "could not be measured"),
        (good(measured=(0.8359375, 0.82)), "loses 0.01594 of top1, allowed 0.01"),
        (good(measured=(0.8359375, 0.8299)), "reported scores"),
        (good(speedup=speedup(0.96)), "int8 runs 0.960 times as fast as fp32"),
        (good(seconds=601.0), "took 601 s"),
        (
            good(metric="psnr_y", digits=3, published=32.031, reported=(32.031, 31.92), measured=(32.031, 31.92)),
            "loses 0.111 of psnr_y, allowed 0.1",
        ),
    ],
)
def test_a_row_that_breaks_one(row: Row, said: str) -> None:
    assert any(said in problem for problem in problems(row))


def table_lines(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its rule."""
    lines = next(part for part in text[text.index(heading) :].split("\n\n") if part.startswith("| model"))
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines.splitlines() if "---" not in line]


def test_the_tables() -> None:
    failed = Row("broken_net", 1, "internal error: a | b", 1.0)
    unshipped = good(
        model="slow_net",
        choice="original",
        int8_share=None,
        int8=Int8(0.9, speedup(0.5), None, "slower than the original"),
        peer=Int8(note="error: duplicate definition"),
    )
    text = markdown([good(), unshipped, failed], {"processor": "P", "threads": "1"}, {"effort": "fast"})
    assert "processor: P · threads: 1 · effort: fast" in text
    head, first, second, third = table_lines(text, "# `edgeopt optimize`")
    assert len(head) == len(first) == len(second) == len(third)
    cells = dict(zip(head, first, strict=True))
    assert cells["fp32 score"] == "0.8359"
    assert cells["= models.json"] == "yes"
    assert cells["shipped"] == "int8"
    assert cells["drop"] == "0.59"
    assert cells["speed-up"] == "1.50× (1.49 to 1.51)"
    assert cells["ms"] == "2 → 1.33"
    assert cells["KB"] == "4000 → 1000"
    assert dict(zip(head, third, strict=True))["verdict"] == "internal error: a / b"
    assert dict(zip(head, third, strict=True))["speed-up"] == "–"
    head, first, second, third = table_lines(text, "## What the passes did")
    assert first == ["some_net", "3", "7 (2)", "20 / 2", "98.7%"]
    assert third == ["broken_net", "–", "–", "–", "–"]
    head, first, second, third = table_lines(text, "## int8, shipped or not")
    assert first[1:] == [
        "0.8359",
        "1.50× (1.49 to 1.51)",
        "0.8300",
        "0.59",
        "1.20× (1.19 to 1.21)",
        "0.8200",
        "1.59",
        "–",
    ]
    assert second[5:] == ["error: duplicate definition", "–", "–", "slower than the original"]
    assert second[4] == "-6.41"
    assert text.rstrip().endswith("- broken_net: exit code 1: internal error: a | b")


def test_no_broken_promise_is_said_too() -> None:
    assert markdown([good()], {}, {}).rstrip().endswith("All 1 models keep them.")


def test_a_score_in_decibels() -> None:
    row = good(metric="psnr_y", digits=3, published=32.031, reported=(32.031, 32.0), measured=(32.031, 32.0))
    head, cells = table_lines(markdown([row], {}, {}), "# ")
    assert cells[head.index("fp32 score")] == "32.031"
    assert cells[head.index("drop")] == "0.031 dB"


REPORT: dict[str, Any] = {
    "verdict": "ok",
    "choice": "float",
    "warnings": ["made from /home/someone/nets/a.onnx"],
    "before": {"score": {"value": 0.8}, "file_bytes": 100, "nodes": 9},
    "after": {"score": {"value": 0.8}, "file_bytes": 90, "nodes": 5},
    "passes": [{"name": "fold_constants", "hits": 3, "rolled_back": [{"node": "n", "reason": "r"}]}],
    "candidates": [
        {"choice": "float"},
        {"choice": "int8", "score": {"value": 0.7}, "file_bytes": 40, "reason": "it loses 0.1"},
    ],
}


def test_a_report_becomes_a_row() -> None:
    row = from_report("net", 0, REPORT, 5.0)
    assert (row.choice, row.reported, row.file_bytes, row.nodes) == ("float", (0.8, 0.8), (100, 90), (9, 5))
    assert row.passes == {"fold_constants": (3, 1)}
    assert row.int8_share is None
    assert row.int8 == Int8(0.7, None, 40, "it loses 0.1")
    assert row.warnings == ["made from …/a.onnx"]
    assert json.loads(json.dumps(asdict(row)))["model"] == "net"


def test_a_report_without_an_int8_candidate() -> None:
    report = REPORT | {"candidates": [], "warnings": ["no int8: the model failed its check"]}
    assert from_report("net", 0, report, 5.0).int8 == Int8(note="no int8: the model failed its check")
    assert from_report("net", 0, report | {"warnings": []}, 5.0).int8.note == "nothing to quantize"


def test_a_report_of_int8() -> None:
    report = REPORT | {"choice": "int8", "int8": {"nodes_int8": 4, "nodes_float": 1, "macs_int8_share": 0.5}}
    assert from_report("net", 0, report, 5.0).int8_share == (4, 1, 0.5)


def test_an_error_becomes_a_row() -> None:
    row = from_report("net", 2, {"schema": 1, "error": {"message": "cannot read /home/someone/a.onnx"}}, 1.0)
    assert problems(row) == ["exit code 2: cannot read …/a.onnx"]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("in '/a/b/c.py'", "in '…/c.py'"),
        ("24 / 4 nodes, ../shared_data.py:x", "24 / 4 nodes, ../shared_data.py:x"),
        ("node /layer1/conv", "node …/conv"),
    ],
)
def test_folders_are_left_out(text: str, left: str) -> None:
    assert without_paths(text) == left


class Clock:
    """Advances by what the run of the moment takes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def run(self, name: str, seconds: float) -> timing.Run:
        def run() -> None:
            self.calls.append(name)
            self.now += seconds

        return run


def test_models_take_turns() -> None:
    clock = Clock()
    first, second = timing.one_repeat([clock.run(*r) for r in (("a", 0.2), ("b", 0.1), ("c", 0.4))], clock)
    assert first.ratio == pytest.approx(2.0)
    assert second.ratio == pytest.approx(0.5)
    assert first.before_ms == pytest.approx(200)
    assert first.after_ms == pytest.approx(100)
    assert first.rounds == timing.LEAST_ROUNDS  # although that takes longer than the budget
    timed = clock.calls[3 * 5 :]
    assert len(timed) == 3 * timing.LEAST_ROUNDS
    assert timed[:9] == [*"abc", *"bca", *"cab"]


@pytest.mark.parametrize(("seconds", "rounds"), [(1e-6, timing.MOST_ROUNDS), (0.01, 100)])
def test_fast_models_run_more_rounds(seconds: float, rounds: int) -> None:
    clock = Clock()
    (found,) = timing.one_repeat([clock.run("a", seconds), clock.run("b", seconds)], clock)
    assert found.rounds == pytest.approx(rounds, abs=1)
    assert found.ratio == pytest.approx(1.0)


def repeats() -> Iterator[Speedup]:
    for ratio in (1.3, 0.9, 1.1):
        yield Speedup(ratio, (ratio, ratio), 1.0, 1 / ratio, (ratio,), 60)


def test_the_middle_repeat_counts() -> None:
    found = timing.middle(list(repeats()))
    assert (found.ratio, found.interval_90, found.repeats) == (1.1, (1.1, 1.1), (1.3, 0.9, 1.1))


def test_the_machine_is_described() -> None:
    facts = timing.machine()
    assert list(facts) == ["processor", "SIMD", "processors", "onnxruntime", "threads", "python", "load", "date"]
    assert all(facts.values())
