"""Where the time of a model goes: onnxruntime's own profile, rescaled to the un-profiled total.

Profiling costs time itself (0 to 53 % of the total on small networks) and leaves out what happens between nodes,
so only the proportions are used: each node's share of the profiled sum times the end-to-end latency. The times
therefore add up to that latency exactly. A node that holds a body (If, Loop, Scan) gets its time less that of the
nodes inside it.

``bound`` is the largest of three estimates for the node, a roofline with a floor (Williams, Waterman and Patterson
2009, doi:10.1145/1498765.1498785): MACs / peak rate (``compute``), bytes read and written / bandwidth
(``memory``), a fixed cost per node (``dispatch``). Only ratios between the constants matter; they are those of one
x86 core that runs onnxruntime 1.31 (MatMul of 256×256 and 512×512, Abs of 2 and 32 MiB, Abs of 4 elements).
"""

from __future__ import annotations

import bisect
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.errors import UsageError
from edgeopt.graph import Array, graphs
from edgeopt.macs import MACS
from edgeopt.ops import count, node_key
from edgeopt.runtime import Level, Session, options
from edgeopt.static_shapes import dims_of_feed

FLOAT_MACS_PER_S = 50e9
INT8_MACS_PER_S = 200e9
BYTES_PER_S = 30e9
DISPATCH_S = 3e-6

WARMUP_RUNS = 3
_KERNEL = "_kernel_time"
# What onnxruntime's transformers put around the name of the node that they rewrite
_ADDED = re.compile(
    r"^fused |^Fused|_nchwc$|_nhwc$|_token_\d+$|/(MatMulAdd|GemmActivation|ConvActivation|DuplicateDQ)\w*$|_quant$"
)


_MELTED_DEPTH = 4  # Conv, BatchNormalization, Add, activation


@dataclass(frozen=True)
class NodeTime:
    """One node as the runtime executes it.

    Attributes:
        name: The name in the model; the runtime's name where it made up the node or melted several into it.
        op: The operator as executed (``QLinearConv``, ``FusedGemm``, …).
        latency_ms: Its part of the total.
        share: ``latency_ms`` / total, 0 to 1.
        bound: ``compute``, ``memory`` or ``dispatch``.
    """

    name: str
    op: str
    latency_ms: float
    share: float
    bound: str

    def as_json(self) -> dict[str, Any]:
        """The keys of ``profile --json``."""
        return {
            "name": self.name,
            "op": self.op,
            "latency_ms": self.latency_ms,
            "share": self.share,
            "bound": self.bound,
        }


@dataclass
class _Event:
    name: str
    op: str
    start: int
    end: int
    arguments: Mapping[str, Any]
    inner: int = 0  # microseconds spent in nodes of its bodies


def per_node(
    model: ir.Model, feed: Mapping[str, Array], total_ms: float, threads: int = 1, runs: int = 20
) -> list[NodeTime]:
    """Profile the model and share ``total_ms`` out among the nodes, in the order of execution.

    Args:
        model: Not changed.
        feed: Input name to array.
        total_ms: The median latency without profiling (``latency.measure``).
        threads: Intra-op threads.
        runs: Profiled runs; a node's time is the interquartile mean over them (the profile counts in whole
            microseconds, too coarse for a median).

    Returns:
        One entry per executed node; their times sum to ``total_ms``. Empty when nothing is left to execute
        (a model of constants).

    Raises:
        UsageError: ``total_ms`` or ``runs`` is not positive.
        ModelError: onnxruntime refuses the model or the feed.
    """
    if not total_ms > 0 or runs < 1:
        raise UsageError(f"expected positive total_ms and runs, found {total_ms} and {runs}", where="per_node")
    named = _with_names(model)
    profiled = _profile(named, feed, threads, runs)
    times = {key: _midmean([t for t, _ in found]) for key, found in profiled.items()}
    measured = sum(times.values())
    if not measured:
        times = dict.fromkeys(times, 1.0)  # all below the resolution of the profile
        measured = float(len(times))
    macs = count(named, dims_of_feed(named, feed)).by_node
    originals = Originals(named)
    taken: set[str] = set()
    result = []
    for key, microseconds in times.items():
        event = profiled[key][0][1]
        name = originals.name(event.name, event.op)
        if name in taken:
            name = event.name
        taken.add(name)
        share = microseconds / measured
        work = macs[name] if name in macs else _macs_of(event)
        result.append(NodeTime(name, event.op, share * total_ms, share, bound_of(work, event.op, event.arguments)))
    return result


def _with_names(model: ir.Model) -> ir.Model:
    clone = model.clone()
    taken = {node.name for graph in graphs(clone) for node in graph}
    for graph in graphs(clone):
        for node in graph:
            if not node.name:
                base, number = node_key(node), 0
                node.name = base
                while node.name in taken:
                    number += 1
                    node.name = f"{base}_{number}"
                taken.add(node.name)
    return clone


def _profile(
    model: ir.Model, feed: Mapping[str, Array], threads: int, runs: int
) -> dict[tuple[str, str, str], list[tuple[float, _Event]]]:
    """Node identity to one (own microseconds, event) per run."""
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        session_options = options(Level.DEFAULT, threads)
        session_options.enable_profiling = True
        session_options.profile_file_prefix = str(Path(folder) / "profile")
        session = Session(model, session_options=session_options)
        try:
            for _ in range(WARMUP_RUNS + runs):
                session.run({k: v for k, v in feed.items() if k in session.input_names})
        finally:
            path = Path(session.ort.end_profiling())
        return by_run(json.loads(path.read_text(encoding="utf-8")))


def by_run(events: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[tuple[float, _Event]]]:
    """Own time of every node in every run after the warm-up; time in a body belongs to the body's nodes."""
    starts = sorted(e["ts"] for e in events if e["cat"] == "Session" and e["name"] == "model_run")
    kernels = sorted(_kernels(events), key=lambda e: (e.start, -e.end))
    open_events: list[_Event] = []
    for event in kernels:
        while open_events and open_events[-1].end < event.end:
            open_events.pop()
        if open_events:
            open_events[-1].inner += event.end - event.start
        open_events.append(event)
    sums: dict[tuple[str, str, str], dict[int, tuple[float, _Event]]] = {}
    for event in kernels:
        run = bisect.bisect_right(starts, event.start) - 1
        if run < WARMUP_RUNS:
            continue
        found = sums.setdefault((event.name, event.op, str(event.arguments.get("node_index"))), {})
        before = found[run][0] if run in found else 0.0  # a node of a loop body runs several times
        found[run] = (before + max(0, event.end - event.start - event.inner), event)
    return {key: list(found.values()) for key, found in sums.items()}


def _kernels(events: list[dict[str, Any]]) -> Iterator[_Event]:
    for e in events:
        if e["cat"] == "Node" and e["name"].endswith(_KERNEL):
            arguments = e.get("args", {})
            name = e["name"].removesuffix(_KERNEL)
            yield _Event(name, str(arguments.get("op_name", "")), e["ts"], e["ts"] + e["dur"], arguments)


def _midmean(values: list[float]) -> float:
    ordered = sorted(values)
    cut = len(ordered) // 4
    return float(np.mean(ordered[cut : len(ordered) - cut]))


class Originals:
    """Finds the model's node behind a node that onnxruntime renamed.

    Its transformers put text before or behind the name of the node that they rewrite; its NCHWc transformer names
    a convolution after the value that it writes, which is that of the last node melted into it.
    """

    def __init__(self, model: ir.Model) -> None:
        nodes = [node for graph in graphs(model) for node in graph]
        self._nodes = {node.name or "" for node in nodes}
        self._producers = {v.name or "": node for node in nodes for v in node.outputs}

    def name(self, executed: str, op: str) -> str:
        """The model's name, or ``executed`` itself if it cannot be told."""
        candidate = executed
        while True:
            if candidate in self._nodes:
                return candidate
            if candidate in self._producers:
                return self._melted(self._producers[candidate], op).name or executed
            shorter = _ADDED.sub("", candidate)
            if shorter == candidate:
                return executed
            candidate = shorter

    def _melted(self, last: ir.Node, op: str) -> ir.Node:
        """The node of operator ``op`` that wrote what ``last`` finished; ``last`` itself if there is none."""
        frontier = [last]
        for _ in range(_MELTED_DEPTH):
            for node in frontier:
                if op.endswith(node.op_type):
                    return node
            producers = [v.producer() for n in frontier for v in n.inputs if v is not None and len(v.uses()) == 1]
            frontier = [p for p in producers if p is not None]
        return last


def _macs_of(event: _Event) -> int:
    """MACs from the shapes in the profile, for nodes whose name says nothing of the model's."""
    inputs, outputs = _shapes(event.arguments, "input_type_shape"), _shapes(event.arguments, "output_type_shape")
    if event.op not in MACS or not outputs or not inputs:
        return 0
    weight = 3 if event.op.startswith(("QLinear", "QGemm")) else 1
    if "Conv" in event.op and len(inputs) > weight and "Transpose" not in event.op:
        return int(np.prod(outputs[0]) * np.prod(inputs[weight][1:]))
    if "MatMul" in event.op or "Gemm" in event.op:
        return int(np.prod(outputs[0]) * (inputs[0][-1] if inputs[0] else 1))
    return 0


def _shapes(arguments: Mapping[str, Any], key: str) -> list[list[int]]:
    return [shape for entry in arguments.get(key, []) for shape in entry.values()]


def bound_of(macs: int, op: str, arguments: Mapping[str, Any]) -> str:
    """The largest of the three estimates; ``arguments`` are those of the profile's event (sizes in bytes)."""
    quantized = op.startswith(("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantize"))
    touched = sum(int(arguments.get(k, 0)) for k in ("activation_size", "parameter_size", "output_size"))
    estimates = {
        "compute": macs / (INT8_MACS_PER_S if quantized else FLOAT_MACS_PER_S),
        "memory": touched / BYTES_PER_S,
        "dispatch": DISPATCH_S,
    }
    return max(estimates, key=lambda kind: estimates[kind])
