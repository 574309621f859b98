"""Store equal initializers once.

1. Equal means the same element type, shape and bits (0.0 is not -0.0); any size. Weights outside of the model
   file are compared through a memory map, one at a time, and only those whose type, shape and ends agree
2. An initializer of a body may be replaced by one of the graphs around it, never by one of a sibling body

Kept: initializers that are graph inputs (callers may override them) or graph outputs (3), string tensors (4), and
those that carry metadata or quantization annotations of their own (5).
The readers change, no node does: this is a clean-up of the whole model, checked as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import graphs
from edgeopt.ops import bodies
from edgeopt.rewrite import EVERYWHERE, Answer

_END_BYTES = 256  # of both ends: tells most tensors of one shape apart without reading them


class DedupeInitializers:
    """The rule (see the module's docstring)."""

    name = "dedupe_initializers"
    ops: frozenset[str] | None = frozenset()
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> None:
        """Nothing to prepare."""

    def match(self, node: ir.Node, state: Any) -> Answer:
        """No rewrite belongs to a node."""
        return None

    def finish(self, model: ir.Model) -> int:
        """Make the readers of each copy read the first one; the copies go."""
        outer: dict[ir.Graph, ir.Graph] = {}
        found = list(graphs(model))
        for graph in found if len(found) > 1 else ():
            for node in graph:
                outer.update((body, graph) for body in bodies(node))
        alike: dict[Hashable, list[ir.Value]] = {}
        for graph in found:
            for value in graph.initializers.values():
                if _comparable(value):
                    alike.setdefault(_look(value.const_value), []).append(value)
        removed = 0
        for values in alike.values():
            if len(values) > 1:
                removed += _merge(values, outer)
        return removed


def _comparable(value: ir.Value) -> bool:
    """Cases 3 to 5; an unused initializer is a case for ``dead_code``."""
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING or value.is_graph_input() or value.is_graph_output():
        return False
    return bool(value.uses()) and not value.metadata_props and not value.meta


def _bytes(tensor: ir.TensorProtocol) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)


def _look(tensor: ir.TensorProtocol | None) -> Hashable:
    """Cheap to compute, equal for equal tensors."""
    assert tensor is not None  # asked for before
    shape = tuple(tensor.shape.numpy())
    if tensor.nbytes <= 2 * _END_BYTES:
        return tensor.dtype, shape, tensor.tobytes()
    content = _bytes(tensor)
    return tensor.dtype, shape, content[:_END_BYTES].tobytes() + content[-_END_BYTES:].tobytes()


def _merge(values: list[ir.Value], outer: dict[ir.Graph, ir.Graph]) -> int:
    first: dict[tuple[ir.Graph, bytes], ir.Value] = {}
    removed = 0
    for value in values:  # those of outer graphs come first
        assert value.const_value is not None  # asked for before
        digest = hashlib.blake2b(_bytes(value.const_value).data, digest_size=20).digest()
        graph: ir.Graph | None = value.graph if isinstance(value.graph, ir.Graph) else None
        home = graph
        while graph is not None and (graph, digest) not in first:
            graph = outer.get(graph)
        if graph is not None and home is not None:
            value.replace_all_uses_with(first[graph, digest])
            del home.initializers[value.name or ""]
            removed += 1
        elif home is not None:
            first[home, digest] = value
    return removed
