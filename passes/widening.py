"""Constants of single nodes replaced by other versions: what widens weights shares this.

A constant may serve several nodes, and only some of them may need the new version: each replacement is a constant
of its own, equal ones are stored once, and what no node reads any more goes, leaving its name to its successor.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, Names, constant_value, is_op


class Replacements:
    """Collects the new constants of one model, which is changed in place."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._names = Names(model)
        self._new: dict[ir.Value, list[ir.Value]] = {}  # by the value replaced
        self._origin: dict[ir.Value, ir.Value] = {}

    def put(self, node: ir.Node, index: int, array: Array) -> None:
        """Give the node this array in place of the constant at ``index``."""
        current = node.inputs[index]
        assert current is not None  # callers have read its value
        old = self._origin.get(current, current)
        for value in self._new.setdefault(old, []):
            known = value.const_value
            if known is not None and known.shape == array.shape and np.array_equal(known.numpy(), array):
                node.replace_input_with(index, value)
                return
        value = constant_value(self._names.fresh(f"{node.name}/{old.name}"), array)
        self._new[old].append(value)
        self._origin[value] = old
        self._graph.register_initializer(value)
        node.replace_input_with(index, value)

    def finish(self) -> None:
        """Remove what is not read any more; the first successor takes its name."""
        for old, found in self._new.items():
            for value in found:
                if not value.uses():
                    del self._graph.initializers[value.name or ""]
            kept = [value for value in found if value.uses()]
            if old.uses() or old.is_graph_output():
                continue
            name, producer = old.name or "", old.producer()
            if is_op(producer, "Constant") and producer is not None and producer.graph is self._graph:
                self._graph.remove(producer, safe=True)
            else:
                del self._graph.initializers[name]
            if kept:
                del self._graph.initializers[kept[0].name or ""]
                kept[0].name = name
                self._graph.register_initializer(kept[0])
