"""The benchmark of random graphs: its report, and its exit code."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.bench import random_graphs
from tests.random_graphs.judging import Verdict


def test_report_of_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["random", "--graphs", "12", "--workers", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    assert random_graphs.main() == 0
    text = (tmp_path / "random.md").read_text(encoding="utf-8")
    assert text.strip() == capsys.readouterr().out.strip()
    assert "| wrong results | 0 |" in text
    assert "fold_batchnorm" in text


def test_exceptions_are_listed() -> None:
    wrong = Verdict(Counter(Conv=2), wrong=["differs"], rewrites={"gemm": 3}, after=1)
    spared = Verdict(Counter(Conv=1), spared=["does not stand it"], after=1)
    text = random_graphs.markdown({4: (9, wrong), 5: (21, spared), 6: (11, Verdict(Counter(), runs=False))}, 1.0)
    assert "| graphs | 3 |" in text
    assert "| that onnxruntime runs | 2 |" in text
    assert "| wrong results | 1 |" in text
    assert "| graphs with 3 rewrites or more | 1 (50%) |" in text
    assert "- seed 4: differs\n- seed 5: does not stand it" in text
    assert "Conv 2" in text
    assert "gemm 1" in text


def test_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["random", "--graphs", "1"])
    monkeypatch.setattr(random_graphs, "run", lambda seeds, workers: {0: (9, Verdict(Counter(), crashed="x"))})
    assert random_graphs.main() == 1
