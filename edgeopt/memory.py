"""Activation memory: a lower bound from liveness, an arena plan, and the measured peak of the runtime.

Bound and plan are those of ``edgeopt.arena``. The **runtime peak** is what onnxruntime really adds to a process,
weights included; for small networks it is several times weights plus lower bound, because of the pages of its own
code, copies of the weights in other layouts, and its allocator's reserve.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.arena import LowerBound, Placed, Plan, activation_lower_bound, arena_plan, lower_bound, plan
from edgeopt.errors import ModelError, UsageError
from edgeopt.graph import Array
from edgeopt.liveness import analyse
from edgeopt.runtime import INLINE_LIMIT_BYTES, external_folder, inline_bytes
from edgeopt.static_shapes import dims_of_feed, resolve

__all__ = [
    "LowerBound",
    "Memory",
    "Peak",
    "Placed",
    "Plan",
    "activation_lower_bound",
    "arena_plan",
    "estimate",
    "measure",
    "measure_peak",
]


@dataclass(frozen=True)
class Peak:
    """What a fresh process needed to load the model and run it.

    Attributes:
        peak_bytes: Highest resident size while loading and running, less ``baseline_bytes``.
        steady_bytes: Resident size after the runs, less ``baseline_bytes``.
        baseline_bytes: Resident size after the imports, before the model was loaded.
        runs: How often the model ran.
        evidence: ``measured``.
        method: Where the figures come from.
    """

    peak_bytes: int
    steady_bytes: int
    baseline_bytes: int
    runs: int
    method: str
    evidence: str = "measured"


@dataclass(frozen=True)
class Memory:
    """The memory part of a report; ``evidence`` is that of ``runtime_peak_bytes``, ``model`` if that is absent."""

    activation_lower_bound_bytes: int
    arena_bytes: int
    runtime_peak_bytes: int | None
    evidence: str
    peak_node: str
    unknown: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """The keys of ``report.json``; absent figures are left out."""
        result: dict[str, Any] = {
            "activation_lower_bound_bytes": self.activation_lower_bound_bytes,
            "arena_bytes": self.arena_bytes,
        }
        if self.runtime_peak_bytes is not None:
            result["runtime_peak_bytes"] = self.runtime_peak_bytes
        result |= {"evidence": self.evidence, "peak_node": self.peak_node}
        if self.unknown:
            result["unknown"] = list(self.unknown)
        return result


def estimate(model: ir.Model, assumed: Mapping[str, int] | None = None) -> Memory:
    """Lower bound and arena; nothing is run."""
    live = analyse(resolve(model, assumed).model.graph)
    bound = lower_bound(live)
    arena = plan(live).arena_bytes
    return Memory(bound.size_bytes, arena, None, "model", bound.peak_node, bound.unknown)


def measure(model: ir.Model, feed: Mapping[str, Array], *, threads: int = 1, timeout_s: float = 120) -> Memory:
    """Lower bound and arena at the shapes of ``feed``, and the peak of a fresh process; see ``measure_peak``."""
    modelled = estimate(model, dims_of_feed(model, feed))
    peak = measure_peak(model, feed, threads=threads, timeout_s=timeout_s)
    return Memory(
        modelled.activation_lower_bound_bytes,
        modelled.arena_bytes,
        peak.peak_bytes,
        peak.evidence,
        modelled.peak_node,
        modelled.unknown,
    )


def measure_peak(
    model: ir.Model | Path,
    feed: Mapping[str, Array],
    *,
    threads: int = 1,
    timeout_s: float = 120,
    runs: int = 3,
) -> Peak:
    """Load and run the model in a fresh process and report what memory that took.

    The process imports onnxruntime first; what it holds then is the baseline. The model and the feed are read
    from files, as an application would. This is also the safe way to try a model that may crash onnxruntime.

    Args:
        model: A model, or the path of one.
        feed: Input name to array; numbers, booleans or strings.
        threads: Intra-op threads.
        timeout_s: For everything, the imports included.
        runs: How often to run it.

    Raises:
        ModelError: onnxruntime refuses the model, crashes on it, or the time is up.
        UsageError: an array of ``feed`` has an element type that cannot be handed over.
    """
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as temporary:
        folder = Path(temporary)
        job: dict[str, Any] = {"threads": threads, "runs": runs, "names": list(feed)}
        if isinstance(model, ir.Model):
            job["external_folder"] = external_folder(model)
            path = folder / "model.onnx"
            if inline_bytes(model) > INLINE_LIMIT_BYTES:
                ir.save(model.clone(), path, external_data="model.data")
                job["external_folder"] = None
            else:
                path.write_bytes(ir.to_proto(model).SerializeToString())
        else:
            path = model.resolve()
        job["model"], job["feed"] = str(path), str(folder / "feed.npz")
        _save(folder / "feed.npz", feed)
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        answer = _run_child(folder / "job.json", timeout_s)
    if "error" in answer:
        raise ModelError(str(answer["error"]), where=str(model) if isinstance(model, Path) else None)
    return Peak(
        peak_bytes=int(answer["peak_bytes"]),
        steady_bytes=int(answer["steady_bytes"]),
        baseline_bytes=int(answer["baseline_bytes"]),
        runs=runs,
        method=str(answer["method"]),
    )


def _save(path: Path, feed: Mapping[str, Array]) -> None:
    arrays: dict[str, Array] = {}
    for number, (name, array) in enumerate(feed.items()):
        plain = array.astype(np.str_) if array.dtype == object else array
        if plain.dtype.kind not in "biufcU":
            raise UsageError(f"the element type {array.dtype} cannot be handed over", where=f"feed {name!r}")
        arrays[f"a{number}"] = plain  # input names may hold "/" or be those of numpy's own parameters
    np.savez(path, allow_pickle=False, **arrays)


def _run_child(job: Path, timeout_s: float) -> dict[str, Any]:
    root = str(Path(__file__).resolve().parent.parent)  # a bare checkout is importable from any folder
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    # -P: a user's numpy.py in the current folder must not be taken for numpy
    command = [sys.executable, "-P", "-m", "edgeopt.memory_child", str(job)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"the model had not run after {timeout_s:g} s in a process of its own, which was stopped",
            hint="allow more time, or use smaller inputs",
        ) from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name if -done.returncode in set(signal.Signals) else "unknown"
        raise ModelError(
            f"onnxruntime crashed (signal {-done.returncode}, {name}) on this model",
            hint="SIGKILL mostly means that memory ran out" if name == "SIGKILL" else None,
        )
    try:
        answer = json.loads(done.stdout.decode("utf-8").splitlines()[-1])
    except (ValueError, IndexError):
        answer = None
    if done.returncode != 0 or not isinstance(answer, dict):
        tail = " ".join(done.stderr.decode("utf-8", "replace").split())[-300:]
        raise ModelError(f"the process that runs the model ended with exit code {done.returncode}: {tail}")
    return answer
