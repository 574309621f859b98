"""Squeeze where an If would, if the model can run in no other way.

TorchScript writes squeeze(x, d) of an open size as an If: Squeeze(x, [d]) where x.shape[d] is 1, else x as it is. Both
ranks then have to be carried on. Often one reader further on takes no tensor of the larger rank (an LSTM behind it, a
Conv), so the model runs only where the size is 1.

1. x with the axis can be read by nobody (``rank_facts``): Squeeze(x, [d])

Exact on every input on which the model runs; on the others it fails at the Squeeze in place of further on.

Kept: an If of this kind whose readers could take both ranks (2).
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgeopt import sizes
from edgeopt.graph import attribute, constant, constant_value, dims_of, input_or_none, is_op
from edgeopt.passes.layout_axes import axes_of
from edgeopt.passes.rank_facts import needed, possible
from edgeopt.passes.shape_chains import chain_of
from edgeopt.rewrite import EVERYWHERE, NOTHING, Answer, Rewrite, Skip
from edgeopt.shape_data import ShapeData


class DecideSqueeze:
    """The rule (see the module's docstring)."""

    name = "decide_squeeze"
    ops = frozenset({"If"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> Any:
        """What is known of sizes, and the nodes that the outputs hang on."""
        if not any(is_op(node, "If") for node in model.graph):
            return NOTHING
        return ShapeData(model), needed(model.graph)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Case 1."""
        known, running = state
        then, other = attribute(node, "then_branch"), attribute(node, "else_branch")
        if not is_op(node, "If") or then is None or other is None or node not in running or len(node.outputs) != 1:
            return None
        squeeze = then.outputs[0].producer()
        source = input_or_none(squeeze, 0) if squeeze is not None and is_op(squeeze, "Squeeze") else None
        if source is None or len(then) != 1 or squeeze is None or not _is_copy(other, source):
            return None
        dims, shape = dims_of(source), known.dims(source)
        axes = axes_of(squeeze, 1, len(dims)) if dims is not None else None
        if dims is None or shape is None or axes is None or len(axes) != 1:
            return None
        if not _asks_for_one(node.inputs[0], shape[axes[0]], known):
            return None
        if possible(node.outputs[0], len(dims), running):
            return Skip(node.name or "", f"what reads it could take {source.name!r} with axis {axes[0]}, or without")
        chain = chain_of([node.inputs[0]])
        if chain is None:
            return None
        stored = constant(input_or_none(squeeze, 1))
        inputs = [source] if stored is None else [source, constant_value(f"{node.name}/axes", stored)]
        new = ir.Node("", "Squeeze", inputs, list(squeeze.attributes.values()), name=node.name)
        new.outputs[0].name, new.outputs[0].type = node.outputs[0].name, source.type
        new.outputs[0].shape = ir.Shape([d for k, d in enumerate(dims) if k != axes[0]])
        fixed = tuple(sizes.number(1) if k == axes[0] else size for k, size in enumerate(shape))
        return Rewrite((node, *chain), (new,), ((node.outputs[0], new.outputs[0]),), {source: fixed})


def _is_copy(branch: ir.Graph, source: ir.Value) -> bool:
    """Whether the branch hands on this value of the graph around it."""
    producer = branch.outputs[0].producer()
    return producer is not None and is_op(producer, "Identity") and producer.inputs[0] is source and len(branch) == 1


def _asks_for_one(condition: ir.Value | None, size: sizes.Size, known: ShapeData) -> bool:
    """Whether the condition is ``size == 1``."""
    node = condition.producer() if condition is not None else None
    if node is None or not is_op(node, "Equal"):
        return False
    elements = [known.data(v) for v in node.inputs]
    if any(e is None or len(e.elements) != 1 for e in elements):
        return False
    return {e.elements[0] for e in elements if e is not None} == {size, sizes.number(1)}
