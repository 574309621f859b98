from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from rich.console import Console

from edgeopt import terminal
from edgeopt.terminal import Status, count_text, print_report, size_text

Capture = pytest.CaptureFixture[str]


def state(latency_ms: float, weight_bytes: int, score: float) -> dict[str, Any]:
    return {
        "params": 1_234_567,
        "macs": 40_600_000,
        "weight_bytes": weight_bytes,
        "file_bytes": weight_bytes + 1000,
        "nodes": 12,
        "latency_ms": {
            "median": latency_ms,
            "p90": latency_ms * 1.1,
            "runs": 100,
            "evidence": "measured",
            "interval_90": [1, 2],
        },
        "memory": {
            "activation_lower_bound_bytes": 2048,
            "arena_bytes": 4096,
            "runtime_peak_bytes": 9 * 2**20,
            "evidence": "measured",
            "peak_node": "conv1",
        },
        "score": {"metric": "top1", "value": score, "samples": 500},
    }


REPORT: dict[str, Any] = {
    "schema": 1,
    "model": {"path": "net[1].onnx", "sha256": "0123456789abcdef", "opset": 17, "repairs": ["1 nodes named"]},
    "device": {"name": "host", "runtime": "onnxruntime 1.31.1", "threads": 2},
    "before": state(4.0, 4_000_000, 0.91),
    "after": state(2.5, 1_000_000, 0.905),
    "agreement": {"samples": 500, "top1_agreement": 0.986, "sqnr_db": 31.25, "cosine": 0.9995, "max_abs_error": 0.125},
    "candidates": [
        {
            "choice": "original",
            "shipped": False,
            "file_bytes": 4_001_000,
            "reason": "another choice serves the budgets better",
        },
        {
            "choice": "int8",
            "shipped": True,
            "file_bytes": 1_001_000,
            "reason": "the fastest that keeps all budgets",
            "latency_ms": {"median": 2.5},
            "speedup": 1.6,
            "speedup_interval_90": [1.55, 1.66],
            "drop": 0.005,
        },
    ],
    "passes": [
        {
            "name": "fold_batchnorm",
            "hits": 3,
            "skips": [{"node": "norm[4]", "reason": "read by 2 nodes"}],
            "rolled_back": [{"node": "norm5", "reason": "output 'y' differs"}],
            "max_abs_error": 1e-6,
        }
    ],
    "int8": {
        "nodes_int8": 9,
        "nodes_float": 2,
        "macs_int8_share": 0.987,
        "float_nodes": [
            {"node": "s1", "op": "Softmax", "reason": "no int8 kernel"},
            {"node": "s2", "op": "Softmax", "reason": "no int8 kernel"},
        ],
    },
    "ratios": {"latency": 1.6},
    "verdict": "ok",
    "warnings": ["only 12 samples [of 500]"],
}
GOLDEN = """\
net[1].onnx  opset 17  sha256 0123456789ab
repaired: 1 nodes named
device host: onnxruntime 1.31.1, 2 thread(s)
                                  before      after  ratio
score (top1, n=500)               0.9100     0.9050
latency, median                 4.000 ms   2.500 ms  1.60×
latency, p90                    4.400 ms   2.750 ms  1.60×
file                             3.8 MiB  977.5 KiB  4.00×
weights                          3.8 MiB  976.6 KiB  4.00×
parameters                        1.23 M     1.23 M  1.00×
MACs                             40.60 M    40.60 M  1.00×
nodes                                 12         12  1.00×
memory, measured peak            9.0 MiB    9.0 MiB  1.00×
memory, activation arena         4.0 KiB    4.0 KiB  1.00×
memory, activation lower bound   2.0 KiB    2.0 KiB  1.00×
agreement with the original: top-1 98.60%, SQNR 31.2 dB, cosine 0.999500, max error 0.125 over 500 samples
choice        median  speed-up  90 % interval     drop       file  why
  original                                                3.8 MiB  another choice serves the budgets better
→ int8      2.500 ms     1.60×      1.55–1.66  +0.0050  977.5 KiB  the fastest that keeps all budgets
pass            hits  skips  rolled back  max error
fold_batchnorm     3      1            1    1.0e-06
rolled back fold_batchnorm at norm5: output 'y' differs
int8: 9 nodes, 98.7% of the MACs; float: 2 nodes
  2 × Softmax: no int8 kernel
verdict: ok
warning: only 12 samples [of 500]
written: out[1].onnx
"""


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_a_report_as_text(capsys: Capture) -> None:
    print_report("optimize", REPORT, output="out[1].onnx")
    out, err = capsys.readouterr()
    assert lines(out) == lines(GOLDEN)
    assert err == ""


def test_no_escapes_where_there_is_no_terminal(capsys: Capture) -> None:
    print_report("optimize", REPORT, verbose=True)
    assert "\x1b" not in capsys.readouterr().out


def test_verbose_lists_skips_and_float_nodes(capsys: Capture) -> None:
    print_report("quantize", REPORT, verbose=True)
    out = capsys.readouterr().out
    assert "  fold_batchnorm skipped norm[4]: read by 2 nodes\n" in out
    assert "  float s1 (Softmax): no int8 kernel\n" in out


def test_explain_lists_rewrites_and_skips(capsys: Capture) -> None:
    report = copy.deepcopy(REPORT)
    report["passes"][0]["rewrites"] = [{"node": "norm1", "replaced": ["conv1", "norm1"], "made": ["norm1"]}]
    print_report("simplify", report)
    out = capsys.readouterr().out
    assert "  fold_batchnorm at norm1: conv1, norm1 → norm1\n" in out
    assert "skipped norm[4]" in out


def test_a_long_list_of_reasons_is_cut(capsys: Capture) -> None:
    report = copy.deepcopy(REPORT)
    nodes = [{"node": f"n{k}", "op": f"Op{k}", "reason": "no"} for k in range(20)]
    report["int8"]["float_nodes"] = nodes
    print_report("quantize", report)
    assert "  … and 8 more reasons (--verbose lists every node)\n" in capsys.readouterr().out


def test_equal_outputs_and_a_small_report(capsys: Capture) -> None:
    small = {"params": 1, "macs": 0, "weight_bytes": 4, "file_bytes": 100, "nodes": 1}
    report = {
        "model": {"sha256": "f" * 64, "opset": 13},
        "before": small,
        "after": small | {"weight_bytes": 0},
        "agreement": {"samples": 3, "max_abs_error": 0.0},
        "passes": [],
        "ratios": {},
        "verdict": "unchanged",
    }
    print_report("simplify", report)
    out = capsys.readouterr().out
    assert "model  opset 13  sha256 ffffffffffff" in out
    assert "agreement with the original: outputs equal, max error 0 over 3 samples" in out
    print_report("simplify", report | {"agreement": {"samples": 3, "cosine": 1.0}})  # what is infinite is left out
    assert "agreement with the original: no SQNR (NaN, " in capsys.readouterr().out
    assert ["weights", "4", "B", "0", "B"] in [line.split() for line in out.splitlines()]


def test_inspect(capsys: Capture) -> None:
    report = {
        "model": REPORT["model"],
        **{k: v for k, v in REPORT["before"].items() if k in ("params", "macs", "weight_bytes", "file_bytes")},
        "activation_lower_bound_bytes": 100,
        "assumed_dims": {"N": 1},
        "ops": {"Conv": 2, "Add": 5},
        "inputs": [{"name": "x", "type": "float32[N,3]"}],
        "outputs": [{"name": "y", "type": "float32[N]"}],
        "findings": [{"kind": "odd", "text": "inputs [1] that nothing reads"}],
    }
    print_report("inspect", report)
    assert lines(capsys.readouterr().out)[2:] == [
        "input x: float32[N,3]",
        "output y: float32[N]",
        "1.23 M parameters, 40.60 M MACs, weights 3.8 MiB, file 3.8 MiB, activations at least 100 B",
        "assumed for MACs and memory: N = 1",
        "operators: 5 × Add, 2 × Conv",
        "odd: inputs [1] that nothing reads",
    ]


@pytest.mark.parametrize("verbose", [False, True])
def test_profile(verbose: bool, capsys: Capture) -> None:
    nodes = [
        {"name": f"n{k}", "op": "Conv", "latency_ms": 0.1 * k, "share": 0.01 * k, "bound": "compute"} for k in range(14)
    ]
    state = REPORT["before"]
    profile = {"device": REPORT["device"], "latency_ms": state["latency_ms"], "memory": state["memory"], "nodes": nodes}
    print_report("profile", {"model": REPORT["model"], "profiles": [profile]}, verbose=verbose)
    out = capsys.readouterr().out
    assert "latency 4.000 ms median (1.000–2.000 with 90 %), p90 4.400 ms, 100 runs, measured" in out
    assert "memory: activations at least 2.0 KiB, arena 4.0 KiB, measured peak 9.0 MiB" in out
    rows = [line.split()[0] for line in out.splitlines() if " Conv " in line]
    assert rows[0] == "n13"  # the slowest first
    assert len(rows) == (14 if verbose else 12)
    assert ("… and 2 more nodes (--verbose)" in out) != verbose


def test_a_profile_without_measuring(capsys: Capture) -> None:
    memory = {k: v for k, v in REPORT["before"]["memory"].items() if k != "runtime_peak_bytes"}
    print_report("profile", {"model": REPORT["model"], "profiles": [{"device": REPORT["device"], "memory": memory}]})
    out = capsys.readouterr().out
    assert "latency" not in out
    assert "arena 4.0 KiB\n" in out


def test_compare(capsys: Capture) -> None:
    score = {"metric": "top1", "value": 0.5, "samples": 4}
    report = {
        "outputs": {
            "y": {"max_abs_error": 0.5, "sqnr_db": 20.0, "cosine": 0.75},
            "same": {"max_abs_error": 0.0},
            "nan": {},
        },
        "top1_agreement": 0.75,
        "samples": 4,
        "score_a": score,
        "score_b": score | {"value": 0.25},
    }
    print_report("compare", report)
    assert lines(capsys.readouterr().out) == [
        "output  max error      SQNR    cosine",
        "y             0.5  20.00 dB  0.750000",
        "same            0     equal  1.000000",
        "nan           inf         -  1.000000",
        "top-1 agreement 75.00% over 4 samples",
        "score (top1, n=4): 0.5000 → 0.2500",
    ]


def test_export(capsys: Capture) -> None:
    check = {"exporter": "dynamo", "samples": 3, "fallbacks": []}
    print_report("export", {"model": REPORT["model"], "format": "onnx", "file_bytes": 2048, "check": check})
    assert lines(capsys.readouterr().out)[2:] == ["format onnx, 2.0 KiB", "exporter: dynamo", "samples: 3"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_500_000, "1.4 MiB"), (3 * 2**30, "3.00 GiB")],
)
def test_sizes(count: float | None, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0"), (999, "999"), (12_300, "12.30 k"), (4e6, "4.00 M"), (4e9, "4.00 G"), (4e12, "4.00 T")],
)
def test_counts(count: float | None, text: str) -> None:
    assert count_text(count) == text


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for enabled in (True, False):
        with Status(enabled=enabled) as status:
            status.update("pass [fold]", 1, 2)
    assert capsys.readouterr() == ("", "")
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "Console", lambda **_: Console(file=screen, force_terminal=True, width=80))
    with Status(enabled=True) as status:
        status.update("pass [fold]", 1, 2)
    assert "pass [fold] 1/2" in screen.getvalue()
    assert capsys.readouterr() == ("", "")
