"""Memory and time of calibration beside onnxruntime's own: ``python -m tests.bench.calibration``.

Prints the table and saves it as calibration.md; exit code 1 if a promise is broken. Every measurement is a process
of its own (``calibration_child``). For the times the three ways take turns; a ratio is the median of the ratios
within the turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import timing
from tests.bench.shared_data import HERE, shared_folder

MODELS = ("imagenet_mobilenetv1_025", "imagenet_squeezenet10_dc")
PEER, SAMPLED, FULL = "onnxruntime", "sampled", "full"
FEW, MANY, TIMED = 50, 500, 100
PEAKS = 3  # processes per peak: under load, the system takes mapped pages of libraries away
MOST_GROWTH, MOST_BYTES = 0.05, 1e9
MOST_RATIO = {SAMPLED: 1.5, FULL: 2.5}


def child(how: str, model: str, samples: int) -> dict[str, Any]:
    """What one process measured."""
    command = [sys.executable, "-m", "tests.bench.calibration_child", how, model, str(samples)]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(model: str, turns: int) -> dict[str, Any]:
    """All figures of one model."""
    times: dict[str, list[dict[str, Any]]] = {how: [] for how in (PEER, SAMPLED, FULL)}
    for _ in range(turns):
        for how, found in times.items():
            found.append(child(how, model, TIMED))
    row: dict[str, Any] = {"model": model, "tensors": times[PEER][0]["tensors"]}
    for how, found in times.items():
        row[how] = {
            "ms_per_sample": median(f["pass_s"] for f in found) / TIMED * 1e3,
            "ratio": median(f["pass_s"] / p["pass_s"] for f, p in zip(found, times[PEER], strict=True)),
            "range_s": median(f["range_s"] for f in found),
        }
    for how in (SAMPLED, FULL):
        few, many = (median(child(how, model, n)["peak_bytes"] for _ in range(PEAKS)) for n in (FEW, MANY))
        row[how] |= {"few_bytes": few, "many_bytes": many, "growth": many / few - 1}
    return row


def problems(row: dict[str, Any]) -> list[str]:
    """The promises that a model breaks."""
    found = []
    for how, most in MOST_RATIO.items():
        figures = row[how]
        if figures["ratio"] > most:
            found.append(f"{how}: {figures['ratio']:.2f} times onnxruntime's time, more than {most}")
        if figures["growth"] >= MOST_GROWTH:
            found.append(f"{how}: peak memory grows by {figures['growth']:.1%} from {FEW} to {MANY} samples")
        if figures["many_bytes"] >= MOST_BYTES:
            found.append(f"{how}: peak memory is {figures['many_bytes'] / 1e6:.0f} MB")
    return found


def markdown(rows: list[dict[str, Any]], machine: dict[str, str]) -> str:
    """The table, with what it was measured on."""
    lines = [
        "# Calibration",
        "",
        ", ".join(f"{key} {value}" for key, value in machine.items()) + ".",
        "",
        f"The data pass over {TIMED} samples (8 decoded ones, repeated) on all tensors that int8 may need. `{PEER}` is",
        "its MinMaxCalibrater on the same tensors, with all graph optimizations and one thread. Time ratios are",
        "medians of those within a turn. Peak RSS is that of the whole process, ranges by MSE included, after few and",
        f"after many samples ({FEW} and {MANY}).",
        "",
        "| model | tensors | how | ms per sample | time ratio | MSE ranges, s | few, MB | many, MB | growth |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for how in (PEER, SAMPLED, FULL):
            figures = row[how]
            cells = [row["model"], str(row["tensors"]), how]
            cells += [f"{figures['ms_per_sample']:.2f}", f"{figures['ratio']:.2f}"]
            if how == PEER:
                cells += ["", "", "", ""]
            else:
                cells += [f"{figures['range_s']:.2f}"]
                cells += [f"{figures[key] / 1e6:.0f}" for key in ("few_bytes", "many_bytes")]
                cells += [f"{figures['growth']:.1%}"]
            lines.append("| " + " | ".join(cells) + " |")
    broken = [f"- {row['model']}: {text}" for row in rows for text in problems(row)]
    ratios = ", ".join(f"{how} at most {most} times {PEER}'s time" for how, most in MOST_RATIO.items())
    promise = f"Promised: {ratios}, growth below {MOST_GROWTH:.0%}, peak below {MOST_BYTES / 1e6:.0f} MB."
    lines += ["", f"{promise} {'Broken:' if broken else 'Kept.'}"]
    return "\n".join([*lines, *([""] if broken else []), *broken]) + "\n"


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.calibration", description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL", help="some only; saved only with --out")
    parser.add_argument("--turns", type=int, default=7, help="repeats of each timing (default 7)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to save (default tests/bench/results)")
    asked = parser.parse_args()
    if not (shared_folder() / "data" / "models.json").exists():
        print("the benchmarks need ../shared/data, which is not beside this checkout", file=sys.stderr)
        return 2
    rows = [measured(model, asked.turns) for model in asked.models]
    text = markdown(rows, timing.machine())
    print(text)
    out = asked.out or (HERE / "results" if tuple(asked.models) == MODELS else None)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "calibration.md").write_text(text, encoding="utf-8")
    return 1 if any(problems(row) for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
