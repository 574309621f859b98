"""Speed-ups measured apart from edgeopt's own measurement, and the machine on which they hold.

Sessions are plain onnxruntime: CPU provider, one thread, everything else default. Models under comparison run in
turn, one run each per round; a speed-up is the median of the ratios within the rounds. Two sessions of one model
differ for as long as they live, so the whole is repeated in fresh sessions, made in another order, and the repeat
with the middle ratio counts.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgeopt.latency import ratio

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[], object]

REPEATS = 3
LEAST_ROUNDS, MOST_ROUNDS = 60, 1000
BUDGET_S = 2.0  # per repeat; rounds beyond the least number fill it
_WARMUP = 5
_SIMD = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")  # as /proc/cpuinfo names them


@dataclass(frozen=True)
class Speedup:
    """How many times faster a model runs than the one it was measured with.

    Attributes:
        ratio: Median of the paired ratios in the middle repeat; above 1 is faster.
        interval_90: 90 % interval of that median.
        before_ms: Median latency of the reference in the same repeat.
        after_ms: Median latency of the model in the same repeat.
        repeats: The median ratio of every repeat, in order.
        rounds: Timed rounds of the middle repeat.
    """

    ratio: float
    interval_90: tuple[float, float]
    before_ms: float
    after_ms: float
    repeats: tuple[float, ...]
    rounds: int


def session(model: Path) -> ort.InferenceSession:
    """A session with default options but for one thread and less talk."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def speedups(models: Sequence[Path], feed: Mapping[str, Array]) -> list[Speedup]:
    """The speed-up of each model over the first one, all measured in the same rounds."""
    tries: list[list[Speedup]] = []
    for number in range(REPEATS):
        order = range(len(models)) if number % 2 == 0 else range(len(models) - 1, -1, -1)
        sessions = {k: session(models[k]) for k in order}
        tries.append(one_repeat([runner(sessions[k], feed) for k in range(len(models))]))
    return [middle(repeats) for repeats in zip(*tries, strict=True)]


def runner(opened: ort.InferenceSession, feed: Mapping[str, Array]) -> Run:
    """A run of the session on what it takes of ``feed``."""
    own = {i.name: feed[i.name] for i in opened.get_inputs()}
    return lambda: opened.run(None, own)


def one_repeat(
    runs: Sequence[Run],
    clock: Callable[[], float] = time.perf_counter,
    *,
    rounds: int = 0,
    least: int = LEAST_ROUNDS,
    budget_s: float = BUDGET_S,
) -> list[Speedup]:
    """Each of ``runs[1:]`` against ``runs[0]``, interleaved, in ``rounds`` rounds; 0: as fill the time."""
    start = clock()
    for _ in range(_WARMUP):
        for run in runs:
            run()
    one_round = max((clock() - start) / _WARMUP, 1e-6)
    rounds = rounds or int(np.clip(budget_s / one_round, least, MOST_ROUNDS))
    samples: list[list[float]] = [[] for _ in runs]
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for k in range(len(runs)):
                turn = (k + number) % len(runs)
                start = clock()
                runs[turn]()
                samples[turn].append((clock() - start) * 1e3)
    finally:
        gc.enable()
    before = float(np.median(samples[0]))
    result = []
    for own in samples[1:]:
        found = ratio(samples[0], own)
        after = float(np.median(own))
        result.append(Speedup(found.median, found.interval_90, before, after, (found.median,), rounds))
    return result


def middle(repeats: Sequence[Speedup]) -> Speedup:
    """The repeat with the median ratio, which also remembers the others' ratios."""
    chosen = sorted(repeats, key=lambda s: s.ratio)[len(repeats) // 2]
    ratios = tuple(s.ratio for s in repeats)
    return Speedup(chosen.ratio, chosen.interval_90, chosen.before_ms, chosen.after_ms, ratios, chosen.rounds)


def machine() -> dict[str, str]:
    """What the figures depend on; neither the machine's name nor its paths.

    ``load``: mean number of processes that wanted to run in the minute before; much above 0, timings are noisy.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in fields.items()}
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "SIMD": ", ".join(name for name in _SIMD if name in flags) or "unknown",
        "processors": str(os.cpu_count()),
        "onnxruntime": ort.__version__,
        "threads": "1",
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
