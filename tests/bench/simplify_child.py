"""One step of the simplify benchmark in a process of its own, which prints JSON as its last line.

``python -m tests.bench.simplify_child edgeopt MODEL OUT [fixed]`` simplifies; seconds and memory count what
``simplify_peer.py`` counts of the others: imports of the tool, reading, simplifying, writing.
``python -m tests.bench.simplify_child judge MODEL ROUNDS NAME=FILE …`` compares each file's outputs with the model's
and measures their latencies, interleaved; ROUNDS is 0 for no latency, -1 for as many as fill the time.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

FEEDS = 2
REPEATS, LEAST_ROUNDS, BUDGET_S = 5, 20, 0.6


def simplify(model: str, out: str, fixed: str = "") -> dict[str, Any]:
    """Run edgeopt; with ``--fix-weights``, if so."""
    start = time.time()
    import edgeopt

    result = edgeopt.simplify(model, fix_weights=bool(fixed))
    result.save(out)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    undone = [f"{p['name']} at {s['node']}: {s['reason']}" for p in result.report["passes"] for s in p["rolled_back"]]
    return {"seconds": round(time.time() - start, 2), "peak_rss_mb": round(rss), "rolled_back": undone}


def judge(model: str, rounds: int, files: dict[str, str]) -> dict[str, Any]:
    """By tool: ``wrong`` (why, or None), ``ms``, ``ratio`` and ``ratios``: latency over the model's."""
    import onnx_ir as ir

    from edgeopt.feeds import runnable_feed
    from edgeopt.graph import input_specs
    from edgeopt.ops import is_random
    from edgeopt.runtime import Level, Session
    from tests import pipeline
    from tests.bench import timing

    found: dict[str, Any] = {
        "original": {"ms": None},
        **{t: {"wrong": None, "ms": None, "ratio": None, "ratios": []} for t in files},
    }
    given = ir.load(model)
    specs = input_specs(given)
    plain = Session(Path(model), Level.NONE)
    feeds = [runnable_feed(plain, specs, seed) for seed in range(FEEDS)]
    wanted = [plain.run(feed) for feed in feeds]
    random = any(is_random(node) for node in given.graph)
    opened = []
    for tool, file in files.items():
        try:
            session = Session(Path(file), Level.NONE)
            for feed, reference in zip(feeds, wanted, strict=True):
                values = session.run(feed)
                differing = [] if random else [n for n in reference if pipeline.distance(reference[n], values.get(n))]
                if differing or list(values) != list(reference):
                    found[tool]["wrong"] = f"outputs {differing or list(values)}"
            timing.session(Path(file)).run(None, feeds[0])
            opened.append(tool)
        except Exception as error:  # noqa: BLE001 -- a peer's file may fail in any way
            found[tool]["wrong"] = "does not run: " + " ".join(str(error).split())[:150]
    if rounds and opened:
        tries = []
        for number in range(REPEATS):  # in fresh sessions: two of one model differ for as long as they live
            paths = {"": model} | {tool: files[tool] for tool in opened}
            order = list(paths) if number % 2 == 0 else list(paths)[::-1]
            sessions = {tool: timing.session(Path(paths[tool])) for tool in order}
            runs = [timing.runner(sessions[tool], feeds[0]) for tool in paths]
            tries.append(timing.one_repeat(runs, least=LEAST_ROUNDS, budget_s=BUDGET_S, rounds=max(rounds, 0)))
        for tool, repeats in zip(opened, zip(*tries, strict=True), strict=True):
            figures = timing.middle(repeats)
            found[tool] |= {
                "ms": figures.after_ms,
                "ratio": 1 / figures.ratio,
                "ratios": [1 / r.ratio for r in repeats],
            }
            found["original"]["ms"] = figures.before_ms
    return found


if __name__ == "__main__":
    what, path, *rest = sys.argv[1:]
    if what == "edgeopt":
        print(json.dumps(simplify(path, *rest)))
    else:
        print(json.dumps(judge(path, int(rest[0]), dict(r.split("=", 1) for r in rest[1:]))))
