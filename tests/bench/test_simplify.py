"""The rules and the table of the benchmark, with made-up rows; its child processes on a tiny model and on failures."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests import models
from tests.bench import simplify
from tests.bench.simplify import OURS, Row, Tool, exceptions, markdown, mean, problems, run_json

MODEL = "g (float[1,4,8,8] x) => (float[] y) <float[4,4,3,3] w> { h = Identity(x) k = Conv(h, w) y = Relu(k) }"


def row(**tools: Tool) -> Row:
    named = {name.replace("_", "-"): tool for name, tool in tools.items()}
    return Row("net", "models", 10, 1.0, {OURS: Tool(5, 0.5, 100, ms=0.9, ratio=0.9, ratios=[0.9]), **named})


@pytest.mark.parametrize(
    ("ours", "wanted"),
    [
        (Tool(5, 1, 1), []),
        (Tool(11, 1, 1), ["11 nodes, the original has 10"]),
        (Tool(None, error="exit code 1"), ["exit code 1"]),
        (Tool(5, error="outputs ['y']"), ["outputs ['y']"]),
        (Tool(5, rolled_back=["fold_pad at a: why"]), ["rolled back: fold_pad at a: why"]),
    ],
)
def test_promises(ours: Tool, wanted: list[str]) -> None:
    assert problems(row(edgeopt=ours)) == wanted


def test_what_peers_do_better() -> None:
    assert (
        exceptions(row(onnxsim=Tool(5, 1, 1, ratio=0.89, ratios=[0.89]), onnxslim=Tool(7, ratio=1.0, ratios=[1.0])))
        == []
    )
    assert exceptions(
        row(onnxsim=Tool(4, 1, 1, ratio=0.8, ratios=[0.8]), onnxslim=Tool(4, ratio=1.0, ratios=[1.0]))
    ) == [
        "5 nodes, onnxsim, onnxslim 4",
        "latency 1.12 times that of onnxsim",
    ]


def test_a_known_reason_is_told() -> None:
    found = Row("qkv", "nets", 10, 1.0, {OURS: Tool(5, ratios=[0.9]), "onnxsim": Tool(4, ratios=[0.9])})
    assert "- qkv: 5 nodes, onnxsim 4. onnxsim writes com.microsoft's Attention" in markdown([found], {}, {}, 1)


def test_the_fastest_peer_is_chosen_in_one_repeat_and_judged_in_another() -> None:
    lucky, steady = Tool(5, ratios=[0.5, 1.2, 1.2]), Tool(5, ratios=[0.9, 0.9, 0.9])
    found = Row("net", "models", 10, 1.0, {OURS: Tool(5, ratios=[0.9, 0.9, 0.9]), "onnxsim": lucky, "onnxslim": steady})
    assert [name for name, _ in found.fastest()] == ["onnxslim", "onnxsim", "onnxsim"]
    assert found.against_best() == pytest.approx((1 * 0.9 / 1.2 * 0.9 / 1.2) ** (1 / 3))
    assert found.best_ratio() == pytest.approx((0.9 * 1.2 * 1.2) ** (1 / 3))


def test_files_that_are_wrong_or_fused_do_not_count() -> None:
    assert row(onnxsim=Tool(4, error="outputs ['y']", ratio=0.1, ratios=[0.1])).best_count() is None
    assert row(ort_extended=Tool(2, ratio=0.5, ratios=[0.5])).best_count() is None
    assert row(onnxsim=Tool(4, domains=["com.microsoft"], ratio=0.1, ratios=[0.1])).best_count() is None
    assert exceptions(row(onnxsim=Tool(4, domains=["com.microsoft"]), onnxslim=Tool(4))) == ["5 nodes, onnxslim 4"]
    assert row(ort_extended=Tool(2, ratio=0.5, ratios=[0.5])).best_ratio() == 0.5
    locked = row(onnxsim=Tool(2, ratio=0.5, ratios=[0.5], locked=3))
    assert (locked.best_count(), locked.best_ratio()) == (None, None)
    locked.fixed = True
    assert (locked.best_count(), locked.best_ratio()) == (2, 0.5)
    assert row(onnxsim=Tool(4, error="outputs ['y']", ratio=0.1, ratios=[0.1])).against_best() is None


def test_mean() -> None:
    assert mean([]) is None
    assert mean([0.5, 2.0]) == pytest.approx(1)


def test_the_table() -> None:
    rows = [
        row(onnxsim=Tool(4, 0.1, 50, ratio=0.8, ratios=[0.8], ms=0.8), onnxslim=Tool(None, error="signal 11: ")),
        row(
            onnxsim=Tool(6, 0.3, 60, ratio=1.0, ratios=[1.0], ms=1.0), onnxslim=Tool(3, 0.2, 40, error="outputs ['y']")
        ),
    ]
    text = markdown(rows, {"load": "0.1"}, {"onnxsim": "1.2"}, 120)
    assert "| net | 10 | 5 | **4** | fails | 1.000 | 0.900 | 0.800 | 1.125 |\n" in text
    assert "| net | 10 | **5** | 6 | 3 wrong | 1.000 | 0.900 | 1.000 | 0.900 |\n" in text
    assert "| onnxslim | 0.20 | 0.20 | 40 | 40 | 1 | 1 |\n" in text
    assert "edgeopt / best peer: geometric mean 1.006 over 2 models" in text
    assert "- net: 5 nodes, onnxsim 4; latency 1.12 times that of onnxsim\n" in text
    assert "- net, onnxslim: signal 11: \n" in text


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("print('talk'); print('{\"nodes\": 3}')", {"nodes": 3}),
        ("raise ValueError('odd')", {"error": "exit code 1: ValueError: odd"}),
        ("import os; os.kill(os.getpid(), 11)", {"error": "signal 11"}),
        ("print('no json')", {"error": "no result"}),
        ("pass", {"error": "no result"}),
        ("import time; time.sleep(60)", {"error": "more than 1 s"}),
    ],
)
def test_children(code: str, wanted: dict[str, Any]) -> None:
    found = run_json([sys.executable, "-c", code], 1 if "sleep" in code else 60)
    assert {k: v[: len(str(wanted[k]))] if k == "error" else v for k, v in found.items()} == wanted


def test_memory_is_that_of_the_child() -> None:
    held = bytearray(300_000_000)
    code = "import json, resource; print(json.dumps({'mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))"
    assert run_json([sys.executable, "-c", code])["mb"] < 100
    del held


def test_one_model_without_peers(tmp_path: Path) -> None:
    onnx.save(models.filled(MODEL), tmp_path / "net.onnx")
    found = simplify.bench("net", "models", tmp_path / "net.onnx", tmp_path, [OURS], None, 5)
    assert (found.nodes, found.ours.nodes, found.ours.error) == (3, 2, "")
    assert found.ours.ratio is not None
    assert found.ours.seconds is not None
    assert found.best_count() is None
    assert problems(found) == []


def test_a_file_that_is_wrong_is_told(tmp_path: Path) -> None:
    onnx.save(models.filled(MODEL), tmp_path / "net.onnx")
    onnx.save(models.filled(MODEL, seed=1), tmp_path / "other.onnx")
    onnx.save(models.filled(MODEL.replace("x)", "z)").replace("] x", "] z")), tmp_path / "renamed.onnx")
    files = {name: tmp_path / f"{name}.onnx" for name in ("net", "other", "renamed")}
    found = Row("net", "models", 3, tools={name: Tool(3) for name in files})
    simplify.judged(found, tmp_path / "net.onnx", files, 0)
    assert [t.error[:15] for t in found.tools.values()] == ["", "outputs ['y']", "does not run: o"]
    assert found.ms is None


def test_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("tests.nets")
    source = "import onnx\ndef a() -> onnx.ModelProto: ...\ndef b(n: int) -> onnx.ModelProto: ...\ndef c() -> int: ..."
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, "tests.nets", module)
    assert list(simplify.nets()) == ["a"]
    module.__dict__["NETS"] = {"other": module.__dict__["a"]}
    assert list(simplify.nets()) == ["other"]
