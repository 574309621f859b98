"""``edgeopt optimize`` on every trained model of ``../shared/data``, and what came of it, measured anew.

The verb runs as a user runs it: the command line, in a process of its own. What it ships is then scored and timed
here without edgeopt's measurement (``timing``), beside the original, edgeopt's int8 model (made by ``edgeopt
quantize`` where it was not shipped) and the peer's. ``problems`` says which promises a row breaks.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgeopt.calibration import Dataset, open_dataset, rows
from edgeopt.graph import input_specs
from tests.bench import timing
from tests.bench.shared_data import FIGURES, HERE, SETS, shared_folder
from tests.bench.timing import Speedup

ROOT = HERE.parents[1]
TIME_LIMIT_S = 600  # what optimize may take on any of these models
SLOWER = 0.03  # a share: what is shipped may be so much slower than fp32, for noise
LOSS = {"psnr_y": 0.1}  # dB
_LOSS = 0.01  # one point
_HANGS_S = 1800


@dataclass
class Int8:
    """An int8 model of edgeopt or of the peer; ``note``: why there is none, or why it was not shipped."""

    score: float | None = None
    speedup: Speedup | None = None
    file_bytes: int | None = None
    note: str = ""


@dataclass
class Row:
    """One model. Scores are shares, or dB for ``psnr_y``; parts that could not be found out are None or empty.

    Attributes:
        published: fp32 score in models.json, rounded to ``digits``.
        reported: (before, after) as edgeopt scores them.
        measured: (before, after) as scored here, from the files.
        passes: Name to (hits, rolled back).
        int8_share: (int8 nodes, float nodes, share of the MACs) if int8 was shipped.
        rivals: int8 files that other tools made, by tool.
        best_rival: The fastest of fp32 and those rivals that lose no more than is allowed.
        against_best: What was shipped, against that one, in the same rounds.
    """

    model: str
    exit_code: int
    verdict: str
    seconds: float
    metric: str = ""
    published: float | None = None
    digits: int = 4
    reported: tuple[float, float] | None = None
    measured: tuple[float, float] | None = None
    choice: str = ""
    speedup: Speedup | None = None
    file_bytes: tuple[int, int] | None = None
    nodes: tuple[int, int] | None = None
    passes: dict[str, tuple[int, int]] = field(default_factory=dict)
    int8_share: tuple[int, int, float] | None = None
    int8: Int8 = field(default_factory=Int8)
    peer: Int8 = field(default_factory=Int8)
    rivals: dict[str, Int8] = field(default_factory=dict)
    best_rival: str = ""
    against_best: Speedup | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def reproduced(self) -> bool:
        """Whether edgeopt's fp32 score has the digits of models.json."""
        return self.reported is not None and round(self.reported[0], self.digits) == self.published


def allowed_loss(metric: str) -> float:
    """How much of this score may be lost."""
    return LOSS.get(metric, _LOSS)


def problems(row: Row) -> list[str]:
    """Which promises the row breaks; empty if none."""
    if row.exit_code not in (0, 3):
        return [f"exit code {row.exit_code}: {row.verdict}"]
    found = []
    if row.exit_code == 3 and not row.verdict.startswith("budget missed: "):
        found.append(f"exit code 3 is not explained: {row.verdict}")
    if not row.reproduced:
        found.append(f"fp32 score {row.reported and row.reported[0]}, models.json says {row.published}")
    if row.measured is None or row.speedup is None or row.reported is None:
        return [*found, "what was shipped could not be measured"]
    if any(round(a, row.digits) != round(b, row.digits) for a, b in zip(row.reported, row.measured, strict=True)):
        found.append(f"reported scores {row.reported}, measured here {row.measured}")
    loss = row.measured[0] - row.measured[1]
    if loss > allowed_loss(row.metric) + 1e-12:
        found.append(f"loses {loss:.4g} of {row.metric}, allowed {allowed_loss(row.metric):g}")
    if row.speedup.ratio < 1 / (1 + SLOWER):
        found.append(f"{row.choice} runs {row.speedup.ratio:.3f} times as fast as fp32")
    if row.against_best is not None and row.against_best.ratio < 1 / (1 + SLOWER):
        found.append(f"{row.choice} runs {row.against_best.ratio:.3f} times as fast as {row.best_rival}")
    if row.seconds > TIME_LIMIT_S:
        found.append(f"took {row.seconds:.0f} s, allowed {TIME_LIMIT_S}")
    return found


def bench(
    name: str, effort: str, folder: Path, *, peers: bool, rivals: Path | None = None, say: Callable[[str], None]
) -> Row:
    """Everything about one model; ``folder`` takes the files, ``rivals`` has TOOL/MODEL.onnx of other tools."""
    facts = json.loads((shared_folder() / "data" / "models.json").read_text())[name]
    model, (calib, evaluation) = shared_folder() / "data" / facts["file"], SETS[name]
    loaded = ir.load(model)
    data = open_dataset(evaluation, input_specs(loaded), model=loaded)
    metric = data.metric.name.rpartition(":")[2] if data.metric is not None else ""
    figure, digits = FIGURES[metric]
    say(f"{name}: optimize")
    budget = ["--max-drop", str(allowed_loss(metric)), "--effort", effort]
    out = folder / name
    row = _optimized(name, [str(model), "-o", str(out), "--calib", calib, "--eval", evaluation, *budget])
    row.metric, row.published, row.digits = metric, facts["fp32"][figure], digits
    if row.exit_code not in (0, 3):
        return row
    shipped = out / "model.onnx"
    files = {"before": model, "after": shipped}
    feed = next(iter(data)).inputs
    for path in sorted(rivals.glob(f"*/{name}.onnx")) if rivals is not None else ():
        files |= _opened(row.rivals.setdefault(path.parent.name, Int8()), path.parent.name, path, feed)
    if row.choice == "int8":
        files["int8"] = shipped
    elif row.int8.score is not None:
        say(f"{name}: quantize")
        command = ["edgeopt", "quantize", str(model), "--calib", calib, "--effort", effort, "-o"]
        files |= _made(row.int8, "int8", folder / f"{name}.int8.onnx", command, feed)
    if peers:
        say(f"{name}: ort-minmax")
        command = ["tests.bench.ort_minmax", str(model), calib]
        files |= _made(row.peer, "peer", folder / f"{name}.peer.onnx", command, feed)
    say(f"{name}: scoring and timing")
    scores = scored(data, files)
    row.measured = scores["before"], scores["after"]
    row.int8.score, row.peer.score = scores.get("int8"), scores.get("peer")
    for tool, rival in row.rivals.items():
        rival.score = scores.get(tool)
    (row.speedup,) = timing.speedups([model, shipped], feed)
    others = [k for k in ("int8", "peer") if k in files]
    if others:
        for key, found in zip(others, timing.speedups([model, *(files[k] for k in others)], feed), strict=True):
            (row.int8 if key == "int8" else row.peer).speedup = found
    _compare_with_rivals(row, files, feed)
    return row


def _compare_with_rivals(row: Row, files: Mapping[str, Path], feed: Mapping[str, Any]) -> None:
    """Against the fastest of fp32 and the rivals that keep the score."""
    tools = [tool for tool in row.rivals if tool in files]
    if not tools or row.measured is None:
        return
    for tool, found in zip(tools, timing.speedups([files["before"], *(files[t] for t in tools)], feed), strict=True):
        row.rivals[tool].speedup = found
    allowed = row.measured[0] - allowed_loss(row.metric) - 1e-12
    ratios = {"before": 1.0}
    for tool in tools:
        score, speed = row.rivals[tool].score, row.rivals[tool].speedup
        if score is not None and speed is not None and score >= allowed:
            ratios[tool] = speed.ratio
    best = max(ratios, key=lambda tool: ratios[tool])
    row.best_rival = "fp32" if best == "before" else best
    (row.against_best,) = timing.speedups([files[best], files["after"]], feed)


def _run(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a Python module."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_HANGS_S,
            check=False,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return -1, "", f"had not ended after {_HANGS_S} s"
    return done.returncode, done.stdout, done.stderr


def _optimized(name: str, arguments: Sequence[str]) -> Row:
    start = time.perf_counter()
    code, stdout, stderr = _run(["edgeopt", "optimize", *arguments, "--json"])
    seconds = time.perf_counter() - start
    try:
        report = json.loads(stdout)
    except ValueError:
        return Row(name, code or 1, f"no JSON on stdout; stderr: {_last_line(stderr)}", seconds)
    return from_report(name, code, report, seconds)


def from_report(name: str, code: int, report: Mapping[str, Any], seconds: float) -> Row:
    """What edgeopt says itself: ``report.json``, or ``{schema, error}``."""
    if "error" in report:
        return Row(name, code, without_paths(str(report["error"].get("message"))), seconds)
    row = Row(name, code, report["verdict"], seconds, choice=report.get("choice", ""))
    row.warnings = [without_paths(warning) for warning in report["warnings"]]
    before, after = report["before"], report["after"]
    if "score" in before and "score" in after:
        row.reported = before["score"]["value"], after["score"]["value"]
    row.file_bytes = before["file_bytes"], after["file_bytes"]
    row.nodes = before["nodes"], after["nodes"]
    row.passes = {p["name"]: (p["hits"], len(p["rolled_back"])) for p in report["passes"]}
    if "int8" in report:
        part = report["int8"]
        row.int8_share = part["nodes_int8"], part["nodes_float"], part["macs_int8_share"]
    for candidate in report.get("candidates", ()):
        if candidate["choice"] == "int8":
            row.int8 = Int8(candidate["score"]["value"], None, candidate["file_bytes"], candidate["reason"])
            break
    else:
        row.int8.note = next((w for w in row.warnings if w.startswith("no int8")), "nothing to quantize")
    return row


def _made(into: Int8, key: str, path: Path, command: Sequence[str], feed: Mapping[str, Any]) -> dict[str, Path]:
    """Make another model in a process of its own and try it: ``{key: path}``, or nothing and a note."""
    code, _, stderr = _run([*command, str(path)])
    if code != 0:
        into.note = f"error: {_last_line(stderr)}"
        return {}
    return _opened(into, key, path, feed)


def _opened(into: Int8, key: str, path: Path, feed: Mapping[str, Any]) -> dict[str, Path]:
    """``{key: path}`` if the file runs; else nothing and a note."""
    try:
        timing.runner(timing.session(path), feed)()
    except Exception as error:  # noqa: BLE001 -- a file that onnxruntime refuses is a finding, not a failure
        into.note = f"error: onnxruntime refuses the file: {_last_line(str(error))}"
        return {}
    into.file_bytes = path.stat().st_size
    return {key: path}


def without_paths(text: str) -> str:
    """The text with the folders of absolute paths left out: results tell nothing about the machine's files."""
    return re.sub(r"(?<![\w.])/[^\s'\"]*/", "…/", text)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return without_paths(lines[-1])[:160] if lines else "nothing was said"


def scored(data: Dataset, files: Mapping[str, Path]) -> dict[str, float]:
    """The score of each file over the data, sample by sample, so that the data is prepared once."""
    sessions = {path: timing.session(path) for path in files.values()}
    outputs: dict[Path, list[dict[str, Any]]] = {path: [] for path in sessions}
    labels: list[Any] = []
    for sample in data:
        for path, opened in sessions.items():
            names = [o.name for o in opened.get_outputs()]
            own = {i.name: sample.inputs[i.name] for i in opened.get_inputs()}
            pairs = list(rows(sample, dict(zip(names, opened.run(None, own), strict=True))))
            outputs[path] += [output for output, _ in pairs]
        labels += [label for _, label in pairs]
    if data.metric is None:
        return {}
    values = {path: data.metric(found, labels) for path, found in outputs.items()}
    return {key: values[path] for key, path in files.items()}
