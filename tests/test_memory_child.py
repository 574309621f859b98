"""What the child process does, in this process."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeopt import memory_child
from edgeopt.memory_child import main, measure, reset_peak, sizes, status_bytes
from tests.models import proto

STATUS = "Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n"


@pytest.fixture
def job(tmp_path: Path) -> dict[str, object]:
    onnx.save(proto("g (float[2] x) => (float[2] y) { y = Relu(x) }"), tmp_path / "m.onnx")
    np.savez(tmp_path / "feed.npz", a0=np.ones(2, np.float32))
    return {
        "model": str(tmp_path / "m.onnx"),
        "feed": str(tmp_path / "feed.npz"),
        "names": ["x"],
        "threads": 1,
        "runs": 2,
        "external_folder": str(tmp_path),
    }


def test_status_bytes() -> None:
    assert status_bytes(STATUS, "VmHWM") == 300 * 1024
    assert status_bytes(STATUS, "VmSwap") is None


def test_sizes_from_the_status_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "status").write_text(STATUS)
    monkeypatch.setattr(memory_child, "_STATUS", tmp_path / "status")
    assert sizes() == (200 * 1024, 300 * 1024, "VmHWM of /proc/self/status")


@pytest.mark.parametrize("text", [None, "Name:\tpython\n"])
def test_sizes_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    if text is not None:
        (tmp_path / "status").write_text(text)
    monkeypatch.setattr(memory_child, "_STATUS", tmp_path / "status")
    now, peak, method = sizes()
    assert now == peak
    assert "getrusage" in method
    monkeypatch.setattr(sys, "platform", "darwin")
    assert abs(sizes()[1] - peak / 1024) < 0.1 * peak / 1024  # bytes there, KiB here


def test_a_system_that_allows_no_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: dict[str, object]) -> None:
    monkeypatch.setattr(memory_child, "_CLEAR", tmp_path / "absent" / "clear_refs")
    assert not reset_peak()
    assert str(measure(job)["method"]).endswith("not reset after the imports")


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs a writable /proc/self/clear_refs")
def test_the_reset_lowers_the_high_water_mark() -> None:
    block = np.ones(64 * 2**20, np.uint8)
    before = sizes()[1]
    del block
    assert reset_peak()
    assert sizes()[1] < before - 32 * 2**20


def test_measure(job: dict[str, object]) -> None:
    found = measure(job)
    assert found["peak_bytes"] >= found["steady_bytes"] >= 0
    assert found["baseline_bytes"] > 0


def test_errors_are_answers(job: dict[str, object]) -> None:
    Path(str(job["model"])).write_bytes(b"x")
    assert "cannot load the model" in measure(job)["error"]


def test_main(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], job: dict[str, object]
) -> None:
    (tmp_path / "job.json").write_text(json.dumps(job))
    monkeypatch.setattr(sys, "argv", ["memory_child", str(tmp_path / "job.json")])
    assert main() == 0
    assert set(json.loads(capsys.readouterr().out)) == {"peak_bytes", "steady_bytes", "baseline_bytes", "method"}
