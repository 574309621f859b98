"""Which nodes around a Transpose should compute their twins: a minimum cut.

From one value with a permutation the region grows through operators that have a relation between axes
(``layout_ops``), along data inputs and outputs, and gives each value its permutation. Every node of the region
computes its outputs either as they are or as twins. A value that is computed in one form and read in the other costs
one conversion for all those readers: nothing where the permutation is the identity, a Reshape where it moves only
axes of size 1, else a Transpose. A Transpose that is there already joins the region at its border: as the producer of
a value it costs what leads to the form asked for, as a reader what leads from that form to its output. Whatever else
reads or makes a value wants it as it is. The cheapest choice is a minimum s-t cut (source: twins), as in
``edgeopt.min_cut``; the graphs are small, so shortest augmenting paths (Edmonds and Karp 1972,
doi:10.1145/321694.321699) suffice.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import onnx_ir as ir

from edgeopt.graph import constant_tensor, dims_of, is_op, shapes_with, tensor_bytes
from edgeopt.passes.layout_ops import relation
from edgeopt.passes.layout_perms import (
    Perm,
    composed,
    inverse,
    is_identity,
    moves_only_ones,
    perm_of,
    twin_dims,
    view_shape,
)
from edgeopt.passes.layout_relations import Relation, carried, fits

_MOST_NODES = 200  # a larger region is cut off: matching stays O(1)
_ASSUMED = 64  # for sizes that are not known, to compare bytes
_NODE, _MOVE, _BYTES = 10**9, 10**7, 10**6  # a node counts first, then whether it moves data, then how much
_LESS_BYTES = 0.75  # what must be left of the bytes moved where no node is saved


@dataclass(frozen=True)
class Cost:
    """Nodes, those that move data, bytes that these move."""

    nodes: int = 0
    moves: int = 0
    moved: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.nodes + other.nodes, self.moves + other.moves, self.moved + other.moved)

    def better_than(self, other: Cost) -> bool:
        """Fewer nodes; or as many, and fewer of them move data; or as many, and clearly fewer bytes."""
        if (self.nodes, self.moves) != (other.nodes, other.moves):
            return self.nodes <= other.nodes and self.moves <= other.moves
        return self.moved <= _LESS_BYTES * other.moved and self.moved < other.moved


@dataclass
class Region:
    """Values with their permutation, nodes with their relation; what the cut decided."""

    graph: ir.Graph
    version: int
    free: str
    values: dict[ir.Value, Perm] = field(default_factory=dict)
    nodes: dict[ir.Node, tuple[Relation, Perm, Perm]] = field(default_factory=dict)
    twins: set[ir.Node] = field(default_factory=set)  # nodes, and Transposes at the border, that work with twins
    fixed: list[str] = field(default_factory=list)  # who wants a value as it is, for explanations

    def grow(self, seed: ir.Value, perm: Perm) -> None:
        """Give the seed its permutation, and follow it."""
        queue = deque([seed])
        self.values[seed] = perm
        while queue:
            value = queue.popleft()
            around = [value.producer(), *(use.node for use in value.uses())]
            for node in dict.fromkeys(around):
                if node is not None and node not in self.nodes and len(self.nodes) < _MOST_NODES:
                    queue.extend(self._join(node, value))

    def _join(self, node: ir.Node, value: ir.Value) -> list[ir.Value]:
        """Take the node in if its axes fit; the values that got their permutation by it."""
        if node.graph is not self.graph or is_op(node, "Transpose"):
            return []
        found = relation(node, self.version)
        if found is None:
            return []
        inputs = [v for k in found.data if (v := node.inputs[k]) is not None]
        outputs = [v for v in node.outputs if v.uses() or v.is_graph_output()]
        perm = self.values[value]
        if value in inputs:
            p: Perm | None = perm if len(perm) == found.ranks[0] else None
            q = carried(perm, found.groups, found.ranks[1], self.free) if p else None
            known = next((self.values[v] for v in outputs if v in self.values), None)
            q = known if known is not None else q
        elif value in outputs:
            q = perm if len(perm) == found.ranks[1] else None
            known = next((self.values[v] for v in inputs if v in self.values), None)
            back = tuple((b, a) for a, b in found.groups)
            p = known if known is not None else carried(perm, back, found.ranks[0], self.free) if q else None
        else:
            return []
        if p is None or q is None or len(p) != found.ranks[0] or len(q) != found.ranks[1]:
            return []
        ports = [*((v, p) for v in inputs), *((v, q) for v in outputs)]
        if any(self.values.get(v, wanted) != wanted or _rank(v) != len(wanted) for v, wanted in ports):
            return []
        if not fits(p, q, found.groups) or not found.allowed(p, q):
            return []
        new = [v for v, _ in ports if v not in self.values]
        self.nodes[node] = (found, p, q)
        self.values.update(ports)
        return list(dict.fromkeys(new))

    # -------------------------------------------------------------------------------------------- costs
    def conversion(self, value: ir.Value) -> Cost:
        """Between the value and its twin."""
        return cost(value, self.values[value], self.values[value])

    def source_perm(self, transpose: ir.Node) -> Perm | None:
        """From the input of a Transpose that makes a value of the region to the value's twin."""
        own = perm_of(transpose)
        return composed(own, inverse(self.values[transpose.outputs[0]])) if own is not None else None

    def target_perm(self, transpose: ir.Node) -> Perm | None:
        """From the twin of a value to the output of a Transpose that reads it."""
        value = transpose.inputs[0]
        own = perm_of(transpose)
        return composed(self.values[value], own) if own is not None and value is not None else None

    def makes(self, node: ir.Node | None) -> bool:
        """Whether this is a Transpose at the border that makes a value of the region."""
        return self._border(node) and node is not None and node.outputs[0] in self.values

    def reads(self, node: ir.Node | None) -> bool:
        """Whether this is a Transpose at the border that reads a value of the region."""
        return self._border(node) and node is not None and not self.makes(node) and node.inputs[0] in self.values

    def _border(self, node: ir.Node | None) -> bool:
        return is_op(node, "Transpose") and node is not None and node.graph is self.graph and perm_of(node) is not None

    def cut(self) -> tuple[Cost, Cost]:
        """Choose the nodes that work with twins; the cost as it is, and with that choice."""
        network = _Network()
        prices: list[Cost] = []
        unary: dict[ir.Node, tuple[Cost, Cost]] = {}

        def price(of: Cost) -> int:
            prices.append(of)
            return len(prices) - 1

        edges: list[tuple[object, object, int | None]] = []
        for value in self.values:
            producer = value.producer()
            maker: object = _SINK
            if producer in self.nodes:
                maker = producer
            elif self.makes(producer) and producer is not None:
                maker = producer
                source, perm = producer.inputs[0], self.source_perm(producer)
                if source is None or perm is None:
                    return Cost(), Cost()
                unary[producer] = (cost(source, perm_of(producer) or (), None), cost(source, perm, None))
            index = price(self.conversion(value))
            edges += [(maker, ("back", value), index), (("there", value), maker, index)]
            for reader in self._readers(value, producer, unary):
                edges += [(("back", value), reader, None)]
                if reader is not _SINK:
                    edges += [(reader, ("there", value), None)]
        everything = sum((p.moved for p in [*prices, *(c for cs in unary.values() for c in cs)]), start=1)

        def number(of: Cost) -> int:
            return of.nodes * _NODE + of.moves * _MOVE + of.moved * _BYTES // everything

        for start, end, which in edges:
            network.add(start, end, None if which is None else number(prices[which]))
        for node, (as_it_is, as_twin) in unary.items():
            network.add(_SOURCE, node, number(as_it_is))
            network.add(node, _SINK, number(as_twin))
        side = network.source_side()
        self.twins = {n for n in (*self.nodes, *unary) if n in side}
        before = sum((c for c, _ in unary.values()), start=Cost())
        after = sum((pair[node in self.twins] for node, pair in unary.items()), start=Cost())
        for value in self.values:
            producer = value.producer()
            mine = producer in self.twins
            if any((reader in self.twins) != mine for reader in self._readers(value, producer, None)):
                after += self.conversion(value)
        return before, after

    def _readers(
        self, value: ir.Value, producer: ir.Node | None, unary: dict[ir.Node, tuple[Cost, Cost]] | None
    ) -> list[object]:
        """Who reads the value: nodes of the region, Transposes at its border, ``_SINK`` for all others."""
        found: list[object] = [_SINK] if value.is_graph_output() else []
        taken = False  # an output of the graph can take the place of one value only
        for use in value.uses():
            node = use.node
            if node in self.nodes and use.idx in self.nodes[node][0].data:
                found.append(node)
            elif self.reads(node) and (perm := self.target_perm(node)) is not None:
                outside = node.outputs[0].is_graph_output() and is_identity(perm)
                if outside and (taken or self.makes(producer) or producer is None):
                    found.append(_SINK)
                    continue
                taken |= outside
                found.append(node)
                if unary is not None:
                    unary[node] = (cost(value, perm_of(node) or (), None), cost(value, perm, self.values[value]))
            else:
                found.append(_SINK)
                self.fixed.append(f"{node.op_type} {node.name!r}")
        return list(dict.fromkeys(found))


def cost(value: ir.Value, perm: Perm, twin_of: Perm | None) -> Cost:
    """Of transposing a value (or its twin under ``twin_of``) by ``perm``."""
    if is_identity(perm):
        return Cost()
    dims = dims_of(value)
    if dims is not None and twin_of is not None and len(dims) == len(twin_of):
        dims = twin_dims(value, twin_of)
    if dims is None or len(dims) != len(perm):
        return Cost(1, 1, 1)
    if moves_only_ones(dims, perm) and view_shape(dims, tuple(dims[k] for k in perm)) is not None:
        return Cost(1, 0, 0)
    kind = value.dtype.numpy() if value.dtype is not None and value.dtype != ir.DataType.STRING else None
    sizes = shapes_with(dims, {}, _ASSUMED)
    return Cost(1, 1, tensor_bytes(kind, sizes) or math.prod(sizes))


def _rank(value: ir.Value) -> int | None:
    dims = dims_of(value)
    return len(dims) if dims is not None and constant_tensor(value) is None else None


_SOURCE, _SINK = "source", "sink"


class _Network:
    """A flow network; None as a capacity is unbounded."""

    def __init__(self) -> None:
        self._left: dict[object, dict[object, float]] = {_SOURCE: {}, _SINK: {}}

    def add(self, start: object, end: object, capacity: int | None) -> None:
        if start is end:
            return
        forward = self._left.setdefault(start, {})
        forward[end] = forward.get(end, 0) + (math.inf if capacity is None else capacity)
        self._left.setdefault(end, {}).setdefault(start, 0)

    def source_side(self) -> set[object]:
        """Push all flow that fits; what can still be reached from the source, the smallest such side."""
        while True:
            came: dict[object, object] = {_SOURCE: _SOURCE}
            queue: deque[object] = deque([_SOURCE])
            while queue and _SINK not in came:
                here = queue.popleft()
                for there, left in self._left[here].items():
                    if left > 0 and there not in came:
                        came[there] = here
                        queue.append(there)
            if _SINK not in came:
                return set(came)
            path = [_SINK]
            at: object = _SINK
            while at != _SOURCE:
                at = came[at]
                path.append(at)  # type: ignore[arg-type]
            steps = list(zip(path[1:], path[:-1], strict=True))
            amount = min(self._left[a][b] for a, b in steps)
            if amount == math.inf:
                return set()  # cannot be: nothing ties the source to the sink without a price
            for a, b in steps:
                self._left[a][b] -= amount
                self._left[b][a] += amount
