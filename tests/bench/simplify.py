"""``simplify`` beside other graph simplifiers: ``python -m tests.bench.simplify --peers-python PATH``.

Every model of ``../shared/data`` and the nets of ``tests/nets.py``, through each tool in a process of its own: nodes,
seconds, peak memory, whether the outputs are still the original's, and latency in onnxruntime. Writes
results/simplify.md; exit code 1 if edgeopt breaks a promise (see ``problems``). Without the interpreter of an
environment that holds the peers (see ``../shared/bench/README.md``), edgeopt runs alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from tests import pipeline
from tests.bench import timing
from tests.bench.shared_data import HERE, shared_folder
from tests.bench.simplify_reasons import REASONS

OURS = "edgeopt"
COUNTED = ("onnxsim", "onnxslim", "onnxoptimizer", "onnxscript", "ort-basic")
"""Peers that write operators of the standard domain, mostly; node counts of files without others compare."""
PEERS = (*COUNTED, "ort-extended")
SHORT = {"onnxsim": "sim", "onnxslim": "slim", "onnxoptimizer": "oopt", "onnxscript": "script", "ort-basic": "ortB"}
TIMEOUT_S = 120.0
_SLOWER = 1.02
_LONGEST = 140  # characters of an error


@dataclass
class Tool:
    """What one tool made of one model.

    Attributes:
        nodes: Of all graphs of its file, Constant nodes included; None if it made none.
        seconds: Imports of the tool included.
        peak_rss_mb: Of its process.
        error: Why there is no file, or why it is wrong.
        ms: Median latency.
        ratio: Its latency over the original's, the middle one of the repeats.
        ratios: In each repeat, of fresh sessions.
        rolled_back: Rewrites that edgeopt had to undo.
        domains: Of operators in its file that the model has none of; with any, nodes do not compare.
        locked: How many weights that callers of the model may override they may override no more.
    """

    nodes: int | None = None
    seconds: float | None = None
    peak_rss_mb: float | None = None
    error: str = ""
    ms: float | None = None
    ratio: float | None = None
    ratios: list[float] = field(default_factory=list)
    rolled_back: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    locked: int = 0


@dataclass
class Row:
    """One model: its name, where it comes from, its own nodes and latency, and what the tools made of it.

    Peers that take weights away from those who may override them compare with ``--fix-weights`` only (``fixed``).
    """

    name: str
    group: str
    nodes: int
    ms: float | None = None
    tools: dict[str, Tool] = field(default_factory=dict)
    problem: str = ""  # why the files could not be judged
    fixed: bool = False

    @property
    def ours(self) -> Tool:
        """What edgeopt made."""
        return self.tools.get(OURS, Tool(error="did not run"))

    def best_count(self) -> int | None:
        """The fewest nodes of any valid peer's file that brings in no other domain."""
        valid = [t for name, t in self.tools.items() if name in COUNTED and self.compares(t) and not t.domains]
        counts = [t.nodes for t in valid if t.nodes is not None]
        return min(counts, default=None)

    def compares(self, tool: Tool) -> bool:
        """Whether its file is valid and keeps what edgeopt's keeps."""
        return not tool.error and (self.fixed or not tool.locked)

    def best_ratio(self) -> float | None:
        """The latency of the fastest valid peer's file, over the original's (see ``fastest``)."""
        chosen = self.fastest()
        return mean([tool.ratios[k] for k, (_, tool) in enumerate(chosen)]) if chosen else None

    def against_best(self) -> float | None:
        """Edgeopt's latency over that of the fastest peer."""
        chosen, ours = self.fastest(), self.ours.ratios
        if not chosen or len(ours) != len(chosen):
            return None
        return mean([ours[k] / tool.ratios[k] for k, (_, tool) in enumerate(chosen)])

    def fastest(self) -> list[tuple[str, Tool]]:
        """For each repeat, the peer that was the fastest in the others: the lowest of many figures is low by luck."""
        peers = [(n, t) for n, t in self.tools.items() if n in PEERS and self.compares(t) and t.ratios]
        if not peers:
            return []

        def elsewhere(k: int, tool: Tool) -> float:
            others = [r for j, r in enumerate(tool.ratios) if j != k] or tool.ratios
            return sum(others) / len(others)

        return [min(peers, key=lambda p: elsewhere(k, p[1])) for k in range(len(peers[0][1].ratios))]


def count(path: Path) -> int:
    """Nodes of all graphs and local functions."""
    return len(pipeline.all_nodes(onnx.load(path, load_external_data=False)))


def domains(path: Path) -> set[str]:
    """Of the operators."""
    found = {node.domain for node in pipeline.all_nodes(onnx.load(path, load_external_data=False))}
    return {"" if domain == "ai.onnx" else domain for domain in found}


def overridable(path: Path) -> int:
    """How many initializers callers may override."""
    model = onnx.load(path, load_external_data=False)
    return len(
        {t.name for t in model.graph.initializer} & {v.name for v in model.graph.input} if model.ir_version > 3 else ()
    )


def problems(row: Row) -> list[str]:
    """The promises that edgeopt breaks on this model."""
    ours = row.ours
    found = [ours.error] if ours.error else []
    found += [f"rolled back: {text}" for text in ours.rolled_back]
    if ours.nodes is not None and ours.nodes > row.nodes:
        found.append(f"{ours.nodes} nodes, the original has {row.nodes}")
    return found


def exceptions(row: Row) -> list[str]:
    """Where a peer leaves fewer nodes, or a faster file by more than the noise of the measurement."""
    found = []
    best, ratio = row.best_count(), row.against_best()
    if best is not None and row.ours.nodes is not None and row.ours.nodes > best:
        peers = [
            n for n, t in row.tools.items() if n in COUNTED and t.nodes == best and row.compares(t) and not t.domains
        ]
        found.append(f"{row.ours.nodes} nodes, {', '.join(peers)} {best}")
    if ratio is not None and ratio > _SLOWER:
        fastest = dict.fromkeys(name for name, _ in row.fastest())
        found.append(f"latency {ratio:.2f} times that of {', '.join(fastest)}")
    return found


def run_json(command: Sequence[str], timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """What the command prints as its last line; ``error`` where it fails, crashes or takes too long."""
    # A shell in between, which forks: a process's peak memory else begins with that of the one that started it.
    whole = ["/bin/sh", "-c", '"$@"; exit $?', "sh", *(str(c) for c in command)]
    with subprocess.Popen(
        whole, cwd=HERE.parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        try:
            out, errors = started.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            return {"error": f"more than {timeout_s:.0f} s"}
    lines = [line for line in errors.splitlines() if line.strip()]
    if code := started.returncode:
        how = f"signal {code - 128}" if code > 128 else f"exit code {code}"
        return {"error": f"{how}: {lines[-1].strip() if lines else ''}"[:_LONGEST]}
    try:
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return {"error": "no result"}
    return found


def simplified(tool: str, path: Path, out: Path, peers_python: str | None, fixed: bool = False) -> Tool:
    """Run one tool on one model; edgeopt with ``--fix-weights``, if so."""
    if tool == OURS:
        command = [sys.executable, "-m", "tests.bench.simplify_child", OURS, str(path), str(out), *["fixed"] * fixed]
    else:
        assert peers_python is not None  # peers only run with an interpreter that has them
        command = [peers_python, str(shared_folder() / "bench" / "simplify_peer.py"), tool, str(path), str(out)]
    found = run_json(command)
    result = Tool(None, found.get("seconds"), found.get("peak_rss_mb"), found.get("error", ""))
    result.rolled_back = found.get("rolled_back", [])
    if not result.error:
        try:
            result.nodes = count(out)
            result.domains = sorted(domains(out) - domains(path) - {""})
            result.locked = max(0, overridable(path) - overridable(out))
        except Exception as error:  # noqa: BLE001 -- whatever a peer has written
            result.error = f"its file cannot be read: {error}"[:_LONGEST]
    return result


def judged(row: Row, path: Path, files: dict[str, Path], rounds: int) -> None:
    """Compare outputs and latencies of all files, in place; one process for the whole row, which may crash."""
    named = [f"{tool}={file}" for tool, file in files.items()]
    found = run_json(
        [sys.executable, "-m", "tests.bench.simplify_child", "judge", str(path), str(rounds), *named], 2 * TIMEOUT_S
    )
    if "error" in found and len(files) > 1:  # perhaps one peer's file kills the runtime: ours alone
        row.problem = f"with all files: {found['error']}"
        ours = [n for n in named if n.startswith(f"{OURS}=")]
        command = [sys.executable, "-m", "tests.bench.simplify_child", "judge", str(path), str(rounds), *ours]
        found = run_json(command, TIMEOUT_S)
    if "error" in found:
        row.problem = found["error"]
        return
    row.ms = found["original"]["ms"]
    for tool in files:
        if tool in found:
            result = row.tools[tool]
            result.error = result.error or found[tool]["wrong"] or ""
            result.ms, result.ratio, result.ratios = (found[tool][k] for k in ("ms", "ratio", "ratios"))


def bench(
    name: str,
    group: str,
    path: Path,
    folder: Path,
    tools: Sequence[str],
    peers_python: str | None,
    rounds: int,
    fixed: bool = False,
) -> Row:
    """Everything about one model; the tools run two at a time, the latencies alone."""
    row = Row(f"{name} --fix-weights" if fixed else name, group, count(path), fixed=fixed)
    outs = {tool: folder / f"{name}.{tool}.onnx" for tool in tools}
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda tool: simplified(tool, path, outs[tool], peers_python, fixed), tools)
        row.tools = dict(zip(tools, made, strict=True))
    judged(row, path, {tool: outs[tool] for tool in tools if row.tools[tool].nodes is not None}, rounds)
    return row


def nets() -> dict[str, Callable[[], onnx.ModelProto]]:
    """The builders of ``tests/nets.py``, by name: its ``NETS``, else its functions that take nothing."""
    try:
        module = importlib.import_module("tests.nets")
    except ModuleNotFoundError:
        return {}
    listed = getattr(module, "NETS", None)
    if isinstance(listed, dict):
        return dict(listed)
    found = {n: f for n, f in vars(module).items() if callable(f) and getattr(f, "__module__", "") == module.__name__}
    return {
        n: f
        for n, f in found.items()
        if not n.startswith("_")
        and f.__annotations__.get("return") in (onnx.ModelProto, "onnx.ModelProto")
        and f.__code__.co_argcount <= len(f.__defaults__ or ())
    }


def inputs(only: Sequence[str], folder: Path, *, with_nets: bool) -> list[tuple[str, str, Path]]:
    """Name, group and file of what is to be run."""
    data = shared_folder() / "data"
    found = [(p.stem, group, p) for group in ("models", "corpus") for p in sorted((data / group).glob("*.onnx"))]
    for name, build in nets().items() if with_nets else ():
        if not only or any(word in name for word in only):
            path = folder / f"{name}.onnx"
            onnx.save(build(), path)
            found.append((name, "nets", path))
    return [f for f in found if not only or any(word in f[0] for word in only)]


def mean(values: Sequence[float]) -> float | None:
    """The geometric mean."""
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else None


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _cell(tool: Tool | None, best: int | None = None, fixed: bool = False) -> str:
    if tool is None:
        return ""
    if tool.error:
        return "fails" if tool.nodes is None else f"{tool.nodes} wrong"
    if tool.domains:
        return f"{tool.nodes} other domain"
    if tool.locked and not fixed:
        return f"{tool.nodes} locked"
    return f"**{tool.nodes}**" if tool.nodes is not None and tool.nodes == best else str(tool.nodes)


def markdown(rows: Sequence[Row], machine: dict[str, str], versions: dict[str, str], seconds: float) -> str:
    """The tables."""
    lines = [
        "# Simplify",
        "",
        ", ".join(f"{key} {value}" for key, value in machine.items()) + ".",
        f"Peers: {', '.join(f'{k} {v}' for k, v in versions.items()) or 'none'}. {seconds / 60:.0f} minutes in all.",
        "",
        "Nodes are counted alike for all: those of all graphs and local functions of the file that the tool wrote,",
        "Constant nodes included. Bold: the fewest of the valid files that bring in no other domain. Latency: fp32 in",
        "onnxruntime, default session options but for one thread, median of interleaved runs over the original's (below",
        "1 is faster); best peer: for each repeat (fresh sessions), the file that was the fastest in the other repeats,",
        "fused operators of other domains included; geometric means over the repeats. Locked: callers can no longer override weights that the model lets them override; such",
        "files compare with edgeopt's --fix-weights only.",
        "",
    ]
    used = [t for t in (OURS, *COUNTED) if any(t in r.tools for r in rows)]
    for group in dict.fromkeys(r.group for r in rows):
        own = [r for r in rows if r.group == group]
        heads = [
            "model",
            "original",
            *(SHORT.get(t, t) for t in used),
            "ms",
            "edgeopt / original",
            "best peer / original",
        ]
        lines += [
            f"## {group}",
            "",
            "| " + " | ".join([*heads, "edgeopt / best"]) + " |",
            "|---" * (len(heads) + 1) + "|",
        ]
        for row in own:
            valid = [n for n in (None if row.ours.error else row.ours.nodes, row.best_count()) if n is not None]
            cells = [
                row.name,
                str(row.nodes),
                *(_cell(row.tools.get(t), min(valid, default=None), row.fixed) for t in used),
            ]
            ratios = (row.ours.ratio, row.best_ratio(), row.against_best())
            cells += [_number(row.ms, 3), *(_number(r, 3) for r in ratios)]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", *_sums(own, used), ""]
    lines += [
        "## Time and memory",
        "",
        "| tool | seconds, median | longest | peak MB, median | largest | fails | wrong |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for tool in (t for t in (OURS, *PEERS) if any(t in r.tools for r in rows)):
        made = [r.tools[tool] for r in rows if tool in r.tools]
        times = sorted(t.seconds for t in made if t.seconds is not None)
        sizes = sorted(t.peak_rss_mb for t in made if t.peak_rss_mb is not None)
        pick = [(v[len(v) // 2], v[-1]) if v else (None, None) for v in (times, sizes)]
        cells = [_number(pick[0][0], 2), _number(pick[0][1], 2), _number(pick[1][0], 0), _number(pick[1][1], 0)]
        fails = sum(t.nodes is None for t in made)
        cells += [str(fails), str(sum(bool(t.error) for t in made) - fails)]
        lines.append("| " + " | ".join([tool, *cells]) + " |")
    broken = [f"- {r.name}: {text}" for r in rows for text in problems(r)]
    beaten = [f"- {r.name}: {'; '.join(found)}{_reason(r.name)}" for r in rows if (found := exceptions(r))]
    odd = [f"- {r.name}: {r.problem}" for r in rows if r.problem]
    odd += [f"- {r.name}, {n}: {t.error}" for r in rows for n, t in r.tools.items() if t.error and n != OURS]
    for title, found in (("Promises broken", broken), ("Where a peer is better", beaten), ("Failures of peers", odd)):
        lines += ["", f"## {title}", "", *(found or ["None."])]
    return "\n".join(lines) + "\n"


def _reason(name: str) -> str:
    return f". {REASONS[name]}" if name in REASONS else ""


def _sums(rows: Sequence[Row], used: Sequence[str]) -> list[str]:
    """Sums over the models that every tool has done, and geometric means."""
    done = [
        r for r in rows if all(t in r.tools and r.tools[t].nodes is not None and not r.tools[t].error for t in used)
    ]
    sums = ", ".join(f"{t} {sum(r.tools[t].nodes or 0 for r in done)}" for t in used)
    texts = [f"Nodes of the {len(done)} models that all tools do: original {sum(r.nodes for r in done)}, {sums}."]
    for what, values in (
        ("edgeopt / original", [r.ours.ratio for r in rows]),
        ("best peer / original", [r.best_ratio() for r in rows]),
        ("edgeopt / best peer", [r.against_best() for r in rows]),
    ):
        known = [v for v in values if v is not None]
        if known:
            texts.append(f"Latency, {what}: geometric mean {mean(known):.3f} over {len(known)} models.")
    singly = []
    for peer in (t for t in PEERS if any(t in r.tools for r in rows)):
        both = [(r.ours.ratio, r.tools[peer].ratio) for r in rows if r.compares(r.tools.get(peer, Tool(error="none")))]
        if known := [a / b for a, b in both if a is not None and b is not None]:
            singly.append(f"{peer} {mean(known):.3f} ({len(known)})")
    if singly:
        texts.append(f"Latency, edgeopt / each peer: {', '.join(singly)}.")
    return texts


def _versions(python: str) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in "
        "('onnxsim', 'onnxslim', 'onnxoptimizer', 'onnxscript', 'onnxruntime', 'onnx')}))"
    )
    return run_json([python, "-c", code])


def main() -> int:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.simplify", description=__doc__.splitlines()[0])
    parser.add_argument("--peers-python", metavar="PATH", help="interpreter of an environment that holds the peers")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="models whose name holds this; not saved")
    parser.add_argument("--nets", action="store_true", help="only the nets of tests/nets.py; not saved")
    parser.add_argument("--no-latency", action="store_true", help="nodes and validity only; not saved")
    parser.add_argument("--runs", type=int, default=-1, metavar="N", help="rounds per timing (default: as fill 0.6 s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to save (default tests/bench/results)")
    asked = parser.parse_args()
    if not (shared_folder() / "bench" / "simplify_peer.py").exists():
        print("the benchmark needs ../shared (models, the peers' script), which is not beside this checkout")
        return 2
    versions = _versions(asked.peers_python) if asked.peers_python else {}
    if "error" in versions:
        print(f"--peers-python: {versions['error']}", file=sys.stderr)
        return 2
    tools = [OURS, *(PEERS if asked.peers_python else ())]
    start, machine, rows = time.perf_counter(), timing.machine(), list[Row]()
    with tempfile.TemporaryDirectory(prefix="edgeopt-bench-") as name:
        found = inputs(asked.only, Path(name), with_nets=True)
        for model, group, path in [f for f in found if not asked.nets or f[1] == "nets"]:
            rounds = 0 if asked.no_latency else asked.runs
            for fixed in (False, True) if overridable(path) else (False,):
                row = bench(model, group, path, Path(name), tools, asked.peers_python, rounds, fixed)
                said = "; ".join(problems(row) + exceptions(row)) or "fine"
                print(f"{row.name}: {row.nodes} to {row.ours.nodes} nodes, {said}", file=sys.stderr, flush=True)
                rows.append(row)
    text = markdown(rows, machine, versions, time.perf_counter() - start)
    print(text)
    whole = not (asked.only or asked.nets or asked.no_latency) and asked.peers_python
    out = asked.out or (HERE / "results" if whole else None)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "simplify.md").write_text(text, encoding="utf-8")
    return 1 if any(problems(row) for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
