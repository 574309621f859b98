"""Outputs of inner nodes, one node after the other, of a model whose constants may change between two of them.

The graph is cut in front of each node. What of each sample is needed behind a cut is kept, as integers where it is
quantized; from cut to cut runs the part of the model between them. So all nodes together cost about two runs of the
model, rather than one each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, is_op
from edgeopt.runtime import Level, Session

_FEWEST = 3  # samples that are kept whatever room they take
T = TypeVar("T")


class LayerWalk:
    """A walk over nodes of a model, in topological order.

    Args:
        model: With inferred types. Its constants may be replaced between two steps, those of nodes behind the last
            cut; not its structure.
        nodes: Names of nodes of the main graph, in its order; it is their first output that is looked at.
        feeds: Input name to array, one per sample.
        threads: For onnxruntime.
        room_bytes: For what is kept of all samples together; samples that do not fit are left out from there on.
    """

    def __init__(
        self,
        model: ir.Model,
        nodes: Sequence[str],
        feeds: Sequence[Mapping[str, Array]],
        *,
        threads: int = 1,
        room_bytes: int = 64 * 2**20,
    ) -> None:
        self._model, self._threads, self._room = model, threads, room_bytes
        self._feeds = list(feeds)
        self._kept: list[dict[str, Any]] = [{} for _ in feeds]
        by_name = {n.name: n for n in model.graph}
        self._nodes = [by_name[name] for name in nodes]
        given = set(feeds[0]) if feeds else set()
        self._inputs = [v for v in model.graph.inputs if v.name in given]
        self._cuts = self._found_cuts()
        self._next = 0

    def step(self, look: Callable[[Array], T]) -> list[T]:
        """What ``look`` makes of the next node's output, one per sample that is left.

        Raises:
            ModelError: onnxruntime refuses the part of the model, or it does not run.
        """
        before = self._cuts[self._next - 1] if self._next else []
        cut, output = self._cuts[self._next], self._nodes[self._next].outputs[0]
        new = [v for v in cut if v not in before]
        session, names = self._session([*self._inputs, *before], [output, *new])
        seen, kept, used = [], [], 0
        for feed, old in zip(self._feeds, self._kept, strict=True):
            found = session.run({name: old[name] if name in old else feed[name] for name in names})
            seen.append(look(found[output.name or ""]))
            kept.append({name: found[name] if name in found else old[name] for name in (v.name or "" for v in cut)})
            used += sum(value.nbytes for value in kept[-1].values() if isinstance(value, np.ndarray))
            if used > self._room and len(kept) > _FEWEST:
                kept.pop()
                break
        self._kept, self._feeds = kept, self._feeds[: len(kept)]
        self._next += 1
        return seen

    def _session(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> tuple[Session, list[str]]:
        """The part between two cuts, without onnxruntime's optimizations, and what it reads."""
        whole = self._model
        graph = ir.convenience.extract(whole.graph, inputs, outputs)
        for value in [v for v in graph.inputs if not v.uses()]:
            graph.inputs.remove(value)
        part = ir.Model(graph, ir_version=whole.ir_version, functions=list(whole.functions.values()))
        return Session(part, Level.NONE, self._threads), [v.name or "" for v in graph.inputs]

    def _found_cuts(self) -> list[list[ir.Value]]:
        """For each node the values, graph inputs aside, that it and what comes behind it need from before it."""
        order = {node: k for k, node in enumerate(self._model.graph)}
        reads = {node: _reads(node) for node in order}
        varying: set[ir.Value] = set(self._inputs)
        for node in order:
            if any(value in varying for value in reads[node]):
                varying.update(node.outputs)
        needed: set[ir.Node] = set()
        result = []
        for target in reversed(self._nodes):
            stack = [target]
            while stack:
                node = stack.pop()
                if node not in needed:
                    needed.add(node)
                    stack += [p for v in reads[node] if (p := v.producer()) is not None]
            behind = sorted((n for n in needed if order[n] >= order[target]), key=lambda n: order[n])
            crossing: dict[ir.Value, None] = {}
            for value in (v for n in behind for v in reads[n] if v in varying):
                producer = value.producer()
                if producer is None or order[producer] >= order[target]:
                    continue
                stored = producer.inputs[0] if is_op(producer, "DequantizeLinear") else None
                kept = stored if stored is not None and stored in varying else value
                if kept.producer() is not None:
                    crossing[kept] = None
            result.append(list(crossing))
        return result[::-1]


def _reads(node: ir.Node) -> list[ir.Value]:
    """The inputs of a node, and what its bodies (If, Loop, Scan) read from its own graph."""
    result = [v for v in node.inputs if v is not None]
    for attr in node.attributes.values():
        kind = None if attr.is_ref() else attr.type
        bodies = [attr.as_graph()] if kind == ir.AttributeType.GRAPH else []
        bodies += attr.as_graphs() if kind == ir.AttributeType.GRAPHS else []
        for body in bodies:
            inner = [v for n in ir.traversal.RecursiveGraphIterator(body) for v in n.inputs]
            result += [v for v in inner if v is not None and v.graph is node.graph]
    return result
