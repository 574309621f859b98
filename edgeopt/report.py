"""The machine-readable report: its parts, in the words of the published JSON schema (``schema/``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import onnx_ir as ir

from edgeopt import files, runtime, saving
from edgeopt.graph import opset
from edgeopt.latency import Latency
from edgeopt.memory import Memory
from edgeopt.ops import Count, count
from edgeopt.oracle import PassReport

SCHEMA = 1


def version() -> str:
    """edgeopt's version; that of the source tree when it is not installed."""
    try:
        return metadata.version("edgeopt")
    except metadata.PackageNotFoundError:
        return "0.1.0+source"


def head(loaded: files.Loaded) -> dict[str, Any]:
    """Schema, version, and which model this is about."""
    model: dict[str, Any] = {
        "path": str(loaded.path) if loaded.path else None,
        "sha256": loaded.sha256,
        "opset": opset(loaded.model),
        "repairs": list(loaded.repairs),
    }
    return {"schema": SCHEMA, "edgeopt": version(), "model": {k: v for k, v in model.items() if v is not None}}


def device_part(name: str, threads: int) -> dict[str, Any]:
    """Where the figures hold."""
    return {"name": name, "runtime": runtime.version(), "threads": threads}


def size_part(model: ir.Model, file_bytes: int | None = None, counted: Count | None = None) -> dict[str, Any]:
    """Parameters, MACs and bytes; ``file_bytes`` of the message where no file is known; ``counted`` if it was."""
    counted = counted or count(model)
    result: dict[str, Any] = {
        "params": counted.params,
        "macs": counted.macs,
        "weight_bytes": counted.weight_bytes,
        "file_bytes": file_bytes if file_bytes is not None else saved_bytes(model),
        "nodes": sum(len(g) for g in [model.graph, *model.graph.subgraphs()]),
    }
    if counted.assumed_dims:
        result["assumed_dims"] = counted.assumed_dims
    return result


def saved_bytes(model: ir.Model) -> int:
    """Bytes that saving the model would write, external data included."""
    if runtime.fits_message(model):
        return saving.made(model).size
    return count(model).weight_bytes + saving.made(model).size


def measured_part(latency: Latency | None, memory: Memory | None, score: Any | None) -> dict[str, Any]:
    """The measured figures; what was not measured is left out."""
    result: dict[str, Any] = {}
    if latency is not None:
        result["latency_ms"] = latency.as_json()
    if memory is not None:
        result["memory"] = memory.as_json()
    if score is not None:
        result["score"] = score.as_json()
    return result


def passes_part(passes: Sequence[PassReport], explain: bool = False) -> list[dict[str, Any]]:
    """One entry per pass; with ``explain``, the nodes of each hit too."""
    result = []
    for p in passes:
        entry: dict[str, Any] = {
            "name": p.name,
            "hits": len(p.hits),
            "skips": [{"node": s.node, "reason": s.reason} for s in p.skips],
            "rolled_back": [{"node": s.node, "reason": s.reason} for s in p.rolled_back],
            "removed_initializers": p.removed_initializers,
            "max_abs_error": p.max_abs_error,
            "seconds": round(p.seconds, 4),
        }
        if explain:
            entry["rewrites"] = [{"node": h.anchor, "replaced": list(h.nodes), "made": list(h.made)} for h in p.hits]
        result.append(entry)
    return result


def ratios_part(before: Mapping[str, Any], after: Mapping[str, Any], speedup: float | None) -> dict[str, float]:
    """How many times smaller or faster: above 1 is better."""
    result = {}
    for key in ("file_bytes", "params", "macs"):
        if before.get(key) and after.get(key):
            result[key] = round(before[key] / after[key], 4)
    if speedup is not None:
        result["latency"] = round(speedup, 4)
    return result
