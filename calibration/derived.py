"""Tensors that need not be looked at, since their values follow from those of another one.

Relu and Clip take each value to another one, whatever its place; views and transpositions only move values. What
calibration keeps of their inputs (extremes of each run, counts per bin) gives exactly what it would keep of their
outputs. In most nets this halves the number of values to look at.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, input_or_none, is_op

_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity")


@dataclass(frozen=True)
class Derived:
    """A tensor is Clip(source, low, high).

    Attributes:
        source: Name of the tensor that it follows from.
        low: Lower bound, -inf for none.
        high: Upper bound, inf for none; at least ``low``.
    """

    source: str
    low: float = -math.inf
    high: float = math.inf


def derivations(model: ir.Model, tensors: Collection[str]) -> dict[str, Derived]:
    """Which of the tensors follow from others of them, by name; no source is itself derived."""
    result: dict[str, Derived] = {}
    wanted = set(tensors)
    for node in model.graph:  # in topological order: sources come before what follows from them
        found = _derived(node)
        name = node.outputs[0].name or ""
        if found is None or name not in wanted or found.source not in wanted:
            continue
        if (before := result.get(found.source)) is not None:
            low, high = (min(max(v, found.low), found.high) for v in (before.low, before.high))
            found = Derived(before.source, low, high)
        result[name] = found
    return result


def _derived(node: ir.Node) -> Derived | None:
    source = input_or_none(node, 0)
    if source is None or not source.name:
        return None
    if is_op(node, *_MOVES):
        return Derived(source.name)
    if is_op(node, "Relu"):
        return Derived(source.name, 0.0)
    if not is_op(node, "Clip"):
        return None
    low, high = (_bound(node, index, name) for index, name in ((1, "min"), (2, "max")))
    if low is None or high is None or not low <= high:
        return None
    return Derived(source.name, low, high)


def _bound(node: ir.Node, index: int, name: str) -> float | None:
    """A bound of a Clip, in float32; infinite if there is none, None if it is no constant."""
    missing = -math.inf if name == "min" else math.inf
    value = input_or_none(node, index)
    if value is None:
        return float(np.float32(attribute(node, name, missing)))  # until opset 6 (an attribute)
    stored = constant(value)
    return float(np.float32(stored.item())) if stored is not None and stored.size == 1 else None
