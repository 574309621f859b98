"""The graph as the search for int8 regions sees it: units that are int8 or float as a whole, and their borders.

1. Unit: a node that can run in int8, with the activation that its quantization absorbs; nodes that only move data
   and hand it on to each other are one unit, since onnxruntime fuses such chains (channel shuffles, for one)
2. Border: a value between units; it costs a Q where float hands over to int8, a DQ where int8 hands over to float
3. Everything that cannot run in int8, and what lies outside of the graph, is float for good: ``None`` here
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from edgeopt.graph import constant_tensor, is_op, only_consumer
from edgeopt.passes.int8_plan import MOVEMENT, Plan

_CHAINED = tuple(op for op in MOVEMENT if op != "MaxPool")


@dataclass(frozen=True)
class Border:
    """One value that is handed over.

    Attributes:
        tensor: Its name.
        producer: The unit that computes it; None: float for good.
        readers: The units that read it; None among them: somebody who wants it in float.
        elements: How many numbers it holds.
    """

    tensor: str
    producer: str | None
    readers: tuple[str | None, ...]
    elements: int


@dataclass(frozen=True)
class Regions:
    """Units and borders of a model.

    Attributes:
        units: Name of the unit (its first node) to the names of its nodes, in topological order.
        borders: In topological order of the values.
    """

    units: dict[str, tuple[str, ...]]
    borders: tuple[Border, ...]

    def keep_float(self, int8: Collection[str]) -> frozenset[str]:
        """The names of the nodes of all units but these."""
        return frozenset(n for unit, nodes in self.units.items() if unit not in int8 for n in nodes)

    def int8_units(self, nodes: Collection[str]) -> frozenset[str]:
        """The units whose first node is among ``nodes``."""
        return frozenset(u for u in self.units if u in nodes)

    def unit_of(self) -> dict[str, str]:
        """Name of a node to its unit."""
        return {n: unit for unit, nodes in self.units.items() for n in nodes}


def regions(model: ir.Model, found: Plan, sizes: Mapping[str, int]) -> Regions:
    """Cut a model into units.

    Args:
        model: Float model with names for all nodes.
        found: The plan that quantizes all that can be.
        sizes: Value name to number of elements; those unknown count as 0.
    """
    unit_of: dict[str, str] = {}
    for node in model.graph:
        name = node.name or ""
        if name not in found.nodes or name in unit_of:
            continue
        unit_of[name] = name
        if is_op(node, *_CHAINED) and node.inputs[0] is not None:
            before = node.inputs[0].producer()
            if before is not None and is_op(before, *_CHAINED) and before.name in unit_of:
                unit_of[name] = unit_of[before.name or ""]
        for absorbed in _absorbed(node, found):
            unit_of[absorbed.name or ""] = name
    units: dict[str, tuple[str, ...]] = {}
    for node_name, unit in unit_of.items():
        units[unit] = (*units.get(unit, ()), node_name)
    borders = []
    values = [*model.graph.inputs, *(o for n in model.graph for o in n.outputs)]
    for value in values:
        border = _border(value, unit_of, sizes)
        if border is not None:
            borders.append(border)
    return Regions(units, tuple(borders))


def _absorbed(node: ir.Node, found: Plan) -> Iterator[ir.Node]:
    """Case 1: the nodes between a layer and the value that its quantization follows."""
    follows, value = found.fused.get(node.name or ""), node.outputs[0]
    while follows is not None and value.name != follows and (reader := only_consumer(value)) is not None:
        yield reader
        value = reader.outputs[0]


def _border(value: ir.Value, unit_of: Mapping[str, str], sizes: Mapping[str, int]) -> Border | None:
    """Cases 2 and 3; None where nothing is handed over between units, or only the shape is wanted."""
    if constant_tensor(value) is not None:
        return None
    node = value.producer()
    producer = unit_of.get(node.name or "") if node is not None else None
    readers: dict[str | None, None] = {}
    for use in value.uses():
        if not is_op(use.node, "Shape", "Size"):
            readers[unit_of.get(use.node.name or "") if use.node.graph is value.graph else None] = None
    if value.is_graph_output():
        readers[None] = None
    if producer is not None:
        readers.pop(producer, None)
    if not readers or (producer is None and set(readers) == {None}):
        return None
    return Border(value.name or "", producer, tuple(readers), sizes.get(value.name or "", 0))
