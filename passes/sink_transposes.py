"""Move Transposes to where they cancel, become views or move fewer bytes.

Around each Transpose grows a region of operators that do not care about the order of axes; a minimum cut says which
of them should work on transposed data (``layout_region``, ``layout_ops``). The region is rewritten as one.

1. Between two Transposes that undo each other: element-wise operators, Concat, Split, Slice, Pad, Reduce…, Softmax,
   Resize and their like; constants are transposed once and for all
2. Around residual sums and branches: all readers and operands at once
3. In front of an operator that ends in a tensor without any order to keep (a reduction over the moved axes, a Gather
   or Squeeze of them): the Transpose goes
4. Through a Reshape that only splits, merges or adds axes: channel shuffles that are split at once
5. Where as many nodes stay: a Transpose becomes a Reshape (only axes of size 1 move), or moves at most 3/4 of the bytes

Done only if the number of nodes falls and no more data-moving Transposes are left, or as in 5. Left alone with a reason
(6): the readers or producers want the order that they have, and moving the Transpose would only shift the work. Never
through QuantizeLinear and DequantizeLinear, layers, other graphs' values, and outputs of the graph, whose layout is the
user's.
Exact: the same numbers are combined in the same way, sums of reductions possibly in another order.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgeopt.graph import dims_of, graphs, is_op, opset
from edgeopt.passes.layout_perms import Perm, inverse, is_identity, perm_of, transposing, twin_dims
from edgeopt.passes.layout_region import Cost, Region, cost
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_FIRST_OPSET = 5  # Reshape has its shape as an input
_FREE = ("stay", "follow", "precede")


class SinkTransposes:
    """The rule (see the module's docstring)."""

    name = "sink_transposes"
    ops = frozenset({"Transpose"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: whether axes are attributes or inputs."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """A region is put where its last node was; its readers may stand before that."""
        for graph in graphs(model):
            if not _is_sorted(graph):
                graph.sort()
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Rewrite the region below or above this Transpose."""
        if not is_op(node, "Transpose") or node.graph is None or state < _FIRST_OPSET:
            return None
        perm, source, output = perm_of(node), node.inputs[0], node.outputs[0]
        if perm is None or source is None or is_identity(perm):
            return None
        if dims_of(source) is None or dims_of(output) is None:
            return Skip(node.name or "", "the rank of what it reads or gives is not known")
        best: tuple[Any, Region] | None = None
        fixed: list[str] = []
        for seed, start in ((output, perm), (source, inverse(perm))):
            for free in _FREE:
                region = Region(node.graph, state, free)
                region.grow(seed, start)
                before, after = region.cut()
                fixed += region.fixed
                if (
                    after.better_than(before)
                    and node in region.twins
                    and (best is None or _key(after, before) < best[0])
                ):
                    best = (_key(after, before), region)
                if not any(r.ranks[0] != r.ranks[1] or len(r.groups) < r.ranks[1] for r, _, _ in region.nodes.values()):
                    break  # no axis is free: the other choices are the same
        if best is not None and (rewrite := _Rebuild(best[1]).rewrite(node)) is not None:
            return rewrite
        return Skip(node.name or "", _why(node, source, output, fixed))


def _key(after: Any, before: Any) -> tuple[int, int, float]:
    return after.nodes - before.nodes, after.moves - before.moves, after.moved - before.moved


def _why(node: ir.Node, source: ir.Value, output: ir.Value, fixed: list[str]) -> str:
    """Case 6."""
    producer = source.producer()
    above = f"{producer.op_type} {producer.name!r}" if producer is not None else f"{source.name!r}"
    if producer is None and source.is_graph_input():
        above = f"the graph's input {source.name!r}"
    if output.is_graph_output():
        return f"{above} gives one order of axes, the graph's output {output.name!r} has another"
    readers = [r for r in dict.fromkeys(fixed) if r != f"{node.op_type} {node.name!r}"]
    below = readers[0] if readers else "what reads it"
    return f"{above} gives one order of axes, {below} wants another; moved elsewhere it would save nothing"


def _is_sorted(graph: ir.Graph) -> bool:
    seen: set[ir.Node] = set()
    for node in graph:
        for value in node.inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer.graph is graph and producer not in seen:
                return False
        seen.add(node)
    return True


class _Rebuild:
    """Writes the rewrite that a region's cut stands for."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.new: list[ir.Node] = []
        self._made: dict[ir.Value, ir.Value] = {}  # output of a node with a twin → the twin
        self._converted: dict[tuple[ir.Value, Perm], ir.Value] = {}

    def rewrite(self, anchor: ir.Node) -> Rewrite | None:
        """The whole region as one rewrite; None if the anchor would stay as it is."""
        old_nodes = _in_order(self.region.twins)
        if self._stays(anchor):
            return None
        outputs: list[tuple[ir.Value, ir.Value]] = []
        for node in old_nodes:
            if node in self.region.nodes:
                self._twin_node(node)
        for node in old_nodes:
            if self.region.makes(node):
                continue  # gone without readers, or it stays as it is
            outputs += [
                (old, self._plain(old))
                for old in node.outputs
                if old.is_graph_output() or any(use.node not in self.region.twins for use in old.uses())
            ]
        if not self._after().better_than(self._before(old_nodes)):
            return None  # counted on what is written: each rewrite makes the graph better, so that they come to an end
        return Rewrite(tuple(old_nodes[::-1]), tuple(self.new), tuple(outputs))

    def _before(self, nodes: list[ir.Node]) -> Cost:
        """Of the Transposes that go."""
        gone = [n for n in nodes if n not in self.region.nodes and not self._stays(n)]
        costs = [cost(n.inputs[0], perm_of(n) or (), None) for n in gone if n.inputs[0] is not None]
        return sum(costs, start=Cost())

    def _after(self) -> Cost:
        """Of the Transposes and Reshapes that come."""
        return sum((cost(value, perm, None) for value, perm in self._converted), start=Cost())

    def _stays(self, node: ir.Node) -> bool:
        """Whether this Transpose still gives somebody its value as it is."""
        value = node.outputs[0]
        if not self.region.makes(node):
            return False
        return value.is_graph_output() or any(
            u.node not in self.region.twins or not self._by_twin(u.node, u.idx) for u in value.uses()
        )

    def _by_twin(self, node: ir.Node, position: int) -> bool:
        return self.region.reads(node) or (node in self.region.nodes and position in self.region.nodes[node][0].data)

    def _twin_node(self, node: ir.Node) -> None:
        found, p, q = self.region.nodes[node]
        inputs: list[ir.Value | None] = []
        for k, value in enumerate(node.inputs):
            form = self._twin if k in found.data else self._plain
            inputs.append(form(value) if value is not None else None)
        parts = found.twin(p, q, inputs)
        attributes = {**node.attributes, **parts.attributes}
        outputs = []
        for value in node.outputs:
            dims = twin_dims(value, q)
            shape = ir.Shape(dims) if dims is not None else None
            outputs.append(ir.Value(name=value.name and f"{value.name}/twin", type=value.type, shape=shape))
        new = ir.Node(
            "",
            parts.op_type,
            inputs=list(parts.inputs),
            attributes=[a for a in attributes.values() if a is not None],
            outputs=outputs,
            name=node.name,
        )
        self.new.append(new)
        self._made.update(zip(node.outputs, outputs, strict=True))

    def _twin(self, value: ir.Value) -> ir.Value:
        """The twin of a value of the region."""
        if value in self._made:
            return self._made[value]
        producer = value.producer()
        if producer is not None and producer in self.region.twins and self.region.makes(producer):
            perm, source = self.region.source_perm(producer), producer.inputs[0]
            assert perm is not None  # the cut asked for it
            assert source is not None
            return self._convert(self._plain(source), perm, producer.name)
        return self._convert(self._plain(value), inverse(self.region.values[value]), None)

    def _plain(self, value: ir.Value) -> ir.Value:
        """What holds the value as it is, after the rewrite."""
        producer = value.producer()
        if value in self._made:
            return self._convert(self._made[value], self.region.values[value], None)
        if producer is not None and producer in self.region.twins and self.region.reads(producer):
            perm, source = self.region.target_perm(producer), producer.inputs[0]
            assert perm is not None  # the cut asked for it
            assert source is not None
            return self._convert(self._twin(source), perm, producer.name)
        return value

    def _convert(self, value: ir.Value, perm: Perm, name: str | None) -> ir.Value:
        """Transposed, or reshaped where that is the same."""
        if is_identity(perm):
            return value
        if (value, perm) not in self._converted:
            node = transposing(value, perm, name)
            self.new.append(node)
            self._converted[value, perm] = node.outputs[0]
        return self._converted[value, perm]


def _in_order(nodes: set[ir.Node]) -> list[ir.Node]:
    """Producers before readers, as far as they depend on each other directly; the same on every run."""
    result: list[ir.Node] = []
    done: set[ir.Node] = set()
    for start in sorted(nodes, key=lambda n: n.name or ""):
        stack = [(start, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                result.append(node)
            elif node not in done:
                done.add(node)
                stack.append((node, True))
                producers = [v.producer() for v in node.inputs if v is not None]
                stack += [(p, False) for p in producers[::-1] if p is not None and p in nodes]
    return result
