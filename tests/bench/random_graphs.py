"""Random graphs through ``simplify``: ``python -m tests.bench.random_graphs --graphs 5000 --seed 0``.

Each graph (``tests.random_graphs``) is compared with the original as onnxruntime runs it without optimizations.
Writes results/random.md; exit code 1 if a result is wrong, something crashes or a place is rolled back.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import onnx
import onnxruntime as ort

from edgeopt.passes import EXACT
from tests.bench.shared_data import HERE
from tests.random_graphs.judging import Verdict, judge
from tests.random_graphs.making import graph

GRAPHS = 5000
MANY = 3  # rewrites


def judged(seed: int) -> tuple[int, int, Verdict]:
    """The seed, the opset, and what became of its graph."""
    model = graph(seed)
    return seed, next(o.version for o in model.opset_import if not o.domain), judge(model)


def run(seeds: Iterable[int], workers: int) -> dict[int, tuple[int, Verdict]]:
    """All seeds, by some processes; each problem is printed as it is found."""
    found = {}
    with ProcessPoolExecutor(workers) as pool:
        for seed, opset, verdict in pool.map(judged, seeds, chunksize=20):
            found[seed] = (opset, verdict)
            for problem in (*verdict.problems, *verdict.spared):
                print(f"seed {seed}: {problem}", file=sys.stderr, flush=True)
    return found


def markdown(found: Mapping[int, tuple[int, Verdict]], seconds: float) -> str:
    """The report."""
    verdicts = {seed: v for seed, (_, v) in found.items() if v.runs}
    values = list(verdicts.values())
    opsets = sorted({o for o, _ in found.values()})
    ops, passes = Counter[str](), Counter[str]()
    for verdict in values:
        ops.update(verdict.ops.keys())
        passes.update(verdict.rewrites.keys())
    many = sum(v.total >= MANY for v in values)
    rows = [
        ("graphs", len(found)),
        ("that onnxruntime runs", len(values)),
        ("wrong results", sum(bool(v.wrong) for v in values)),
        ("crashes", sum(bool(v.crashed) for v in values)),
        ("graphs with places rolled back", sum(bool(v.rolled_back) for v in values)),
        (
            "graphs with places given up as onnxruntime's optimizations fail on them",
            sum(bool(v.spared) for v in values),
        ),
        (f"graphs with {MANY} rewrites or more", f"{many} ({many / max(len(values), 1):.0%})"),
        ("rewrites", sum(v.total for v in values)),
        ("nodes before", sum(sum(v.ops.values()) for v in values)),
        ("nodes after", sum(v.after for v in values)),
    ]
    lines = [
        "# Random graphs through simplify",
        "",
        f"`make bench-random`, {seconds:.0f} s; onnx {onnx.__version__}, onnxruntime {ort.__version__}; opsets "
        f"{opsets[0]} to {opsets[-1]}. Outputs are compared with the original's without onnxruntime's optimizations, "
        "for three inputs, with its optimizations and without.",
        "",
        "| | |",
        "| --- | ---: |",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        f"## Operators ({len(ops)}), by the number of graphs that hold them",
        "",
        ", ".join(f"{name} {count}" for name, count in ops.most_common()),
        "",
        "## Passes, by the number of graphs that they rewrite",
        "",
        ", ".join(f"{r.name} {passes[r.name]}" for r in sorted(EXACT, key=lambda r: -passes[r.name])),
        "",
    ]
    bad = [f"- seed {seed}: {p}" for seed, v in verdicts.items() for p in (*v.problems, *v.spared)]
    return "\n".join([*lines, *(["## Exceptions", "", *bad, ""] if bad else [])])


def main() -> int:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.random_graphs", description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=int, default=GRAPHS, metavar="N", help=f"how many (default {GRAPHS})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (default 0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to save (default tests/bench/results)")
    asked = parser.parse_args()
    start = time.perf_counter()
    found = run(range(asked.seed, asked.seed + asked.graphs), asked.workers)
    text = markdown(found, time.perf_counter() - start)
    print(text)
    out = asked.out or (HERE / "results" if asked.graphs == GRAPHS and not asked.seed else None)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "random.md").write_text(text, encoding="utf-8")
    return 1 if any(v.problems for _, v in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
