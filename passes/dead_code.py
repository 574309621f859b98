"""Drop what no output depends on.

1. Nodes whose outputs nobody reads and which are no graph outputs; then their producers in turn.
2. Initializers that nobody reads, unless they are graph inputs too (those belong to the interface) or a quantization
   annotation names them.

Kept: nodes without outputs (a custom operator may exist for its side effect) and unused graph inputs. Readers
inside If, Loop and Scan bodies count. Nothing that is computed changes.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgeopt.graph import ANNOTATION_KEY, graphs
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite


class DeadCode:
    """The rule (see the module's docstring)."""

    name = "dead_code"
    ops = None
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> None:
        """Nothing to prepare."""

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Case 1."""
        if not node.outputs or any(o.uses() or o.is_graph_output() for o in node.outputs):
            return None
        return Rewrite((node,))

    def finish(self, model: ir.Model) -> int:
        """Case 2."""
        removed = 0
        for graph in graphs(model):
            unread = [
                name
                for name, value in graph.initializers.items()
                if not value.uses() and not value.is_graph_output() and not value.is_graph_input()
            ]
            annotated = _annotated(graph) if unread else set()
            for name in unread:
                if name not in annotated:
                    del graph.initializers[name]
                    removed += 1
        return removed


def _annotated(graph: ir.Graph) -> set[str]:
    """The tensors that the graph's quantization annotations name."""
    values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
    return {name for v in values for name in v.meta.get(ANNOTATION_KEY, {}).values()}
