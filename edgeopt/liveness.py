"""When each activation buffer of a graph is alive, in the graph's own node order.

What shares a buffer or needs none:

1. Constants, and what is computed from constants alone, are weights: no activation memory (this covers
   DequantizeLinear on weights).
2. Views (Reshape, Flatten, Squeeze, Unsqueeze, Identity) share the buffer of their input; only a graph output
   that views a graph input is copied.
3. QDQ is folded as integer kernels do: a tensor between QuantizeLinear and DequantizeLinear has its 8-bit form,
   and so has the float tensor that an operator with an integer kernel takes from DequantizeLinear or hands to
   QuantizeLinear, with Relu, Clip, MaxPool, Transpose and views in between (they commute with rounding).
   A float operator beside keeps its float buffer.
4. An element-wise operator writes over an operand of the same size that it is the last to read. Graph inputs
   belong to the caller and are never written over.

Graph inputs are alive from the start to their last use, graph outputs from their node to the end. Tensors that a
body (If, Loop, Scan) reads from outside stay alive until the node that holds the body has run. A tensor of
unknown size counts as 0 and is listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from edgeopt.graph import (
    constant_tensor,
    dtype_of,
    input_or_none,
    is_op,
    only_consumer,
    static_shape,
    tensor_bytes,
)
from edgeopt.ops import ELEMENT_WISE, INTEGER_KERNELS, VIEWS, bodies, is_random, is_view, node_key

_COMMUTE_WITH_ROUNDING = (*sorted(VIEWS), "Relu", "Clip", "MaxPool", "Transpose")


@dataclass
class Buffer:
    """One piece of memory.

    Attributes:
        name: The first value that lives in it.
        size_bytes: Of its largest tensor, not aligned.
        first: The step that writes it; 0 is "before the first node", node ``i`` is step ``i + 1``.
        last: The last step that reads it; one more than the number of nodes for graph outputs.
    """

    name: str
    size_bytes: int
    first: int
    last: int


@dataclass
class Liveness:
    """All buffers of one graph and the steps they live through.

    Attributes:
        buffers: In the order of their first step.
        steps: What each step is called: ``inputs``, then the node keys, then ``outputs``.
        bodies: Step to the bodies that run at it.
        written: Step to the bytes that its node writes into buffers of their own.
        unknown: Values whose size is not known; they count as 0 bytes.
    """

    buffers: list[Buffer]
    steps: list[str]
    bodies: dict[int, list[ir.Graph]] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Shared:
    """Tensors that share one buffer in every order of the nodes (rules 2 and 3).

    Attributes:
        size_bytes: Of the largest of them.
        producer: The step that writes the first of them, in the graph's own order.
        users: The other steps that read or write them, in rising order.
        to_the_end: One of them is a graph output.
        of_caller: One of them is a graph input: nothing is written over them.
    """

    size_bytes: int
    producer: int
    users: tuple[int, ...]
    to_the_end: bool
    of_caller: bool


@dataclass(frozen=True)
class Sharing:
    """What the memory of a graph depends on, whatever the order of its nodes.

    Attributes:
        buffers: Those of one byte and more.
        overwritable: Step of an element-wise node to the buffers that its result may take, in the order of its
            operands (rule 4): each of them if this node is the last that touches it.
        unknown: Values whose size is not known; they count as 0 bytes.
    """

    buffers: list[Shared]
    overwritable: dict[int, list[int]]
    unknown: list[str]


def sharing(graph: ir.Graph, *, is_body: bool = False) -> Sharing:
    """The same as ``analyse`` before the order of the nodes comes in."""
    return _Analysis(graph, is_body).sharing()


def analyse(graph: ir.Graph, *, is_body: bool = False) -> Liveness:
    """Buffers and lifetimes of one graph whose shapes are resolved (``static_shapes.resolve``).

    Args:
        graph: The main graph, or a body.
        is_body: The inputs of a body are tensors of the graph around it and are not counted.
    """
    return _Analysis(graph, is_body).result()


class _Analysis:
    def __init__(self, graph: ir.Graph, is_body: bool) -> None:
        self.graph = graph
        self.nodes = list(graph)
        self.outputs = set(graph.outputs)
        self.step = {node: i + 1 for i, node in enumerate(self.nodes)}
        for node, i in list(self.step.items()):
            for body in bodies(node):
                self.step.update((inner, i) for inner in body.all_nodes())
        self.constant = self._constants()
        self.inputs = [] if is_body else [v for v in graph.inputs if v not in self.constant]
        self.parent: dict[ir.Value, ir.Value] = {}
        self.item_dtype: dict[ir.Value, ir.Value] = {}  # float value to the quantized one whose type it takes
        self.integer_nodes: set[ir.Node] = set()
        self.unknown: list[str] = []

    def _constants(self) -> set[ir.Value]:
        found = {v for v in (*self.graph.initializers.values(), *self.graph.inputs) if v.is_initializer()}
        for node in self.nodes:
            if is_random(node) or any(bodies(node)):
                continue
            if all(v is None or v in found or constant_tensor(v) is not None for v in node.inputs):
                found.update(node.outputs)
        return found

    def _values(self) -> list[ir.Value]:
        return [*self.inputs, *(v for n in self.nodes for v in n.outputs if v not in self.constant and v.name)]

    def _buffers(self) -> dict[ir.Value, Buffer]:
        """Rules 1 to 3: the root of the values that share a buffer to the buffer."""
        self._fold_quantize()
        self._fold_dequantize()
        self._share_views()
        buffer_of: dict[ir.Value, Buffer] = {}
        for value in self._values():
            root = self._root(value)
            if root not in buffer_of:
                producer = root.producer()
                first = self.step.get(producer, 0) if producer is not None else 0
                buffer_of[root] = Buffer(root.name or "", 0, first, first)
            buffer = buffer_of[root]
            producer = value.producer()
            buffer.first = min(buffer.first, self.step.get(producer, 0) if producer is not None else 0)
            buffer.last = max(buffer.last, *self._reads(value), buffer.first)
            if root is value or value in self.item_dtype:
                buffer.size_bytes = max(buffer.size_bytes, self._bytes(value))
        return buffer_of

    def sharing(self) -> Sharing:
        buffer_of = self._buffers()
        users: dict[ir.Value, set[int]] = {root: set() for root in buffer_of}
        ends = {self._root(v) for v in self.outputs}
        for value in self._values():
            producer = value.producer()
            users[self._root(value)] |= {*self._reads(value), self.step.get(producer, 0) if producer is not None else 0}
        roots = [root for root, buffer in buffer_of.items() if buffer.size_bytes]
        number = {root: i for i, root in enumerate(roots)}
        of_caller = {self._root(v) for v in self.inputs}
        behind = {0, len(self.nodes) + 1}
        buffers = [
            Shared(b.size_bytes, b.first, tuple(sorted(users[r] - behind - {b.first})), r in ends, r in of_caller)
            for r, b in ((r, buffer_of[r]) for r in roots)
        ]
        overwritable: dict[int, list[int]] = {}
        for node in self.nodes:
            target = number.get(self._root(node.outputs[0])) if is_op(node, *ELEMENT_WISE) else None
            if target is None or buffers[target].producer != self.step[node]:
                continue
            sources = [number.get(self._root(v)) for v in node.inputs if v is not None and v not in self.constant]
            overwritable[self.step[node]] = [
                s
                for s in dict.fromkeys(sources)
                if s is not None
                and s != target
                and buffers[s].size_bytes == buffers[target].size_bytes
                and not (buffers[s].of_caller or buffers[s].to_the_end)
            ]
        return Sharing(buffers, overwritable, self.unknown)

    def result(self) -> Liveness:
        buffer_of = self._buffers()
        left = self._write_in_place(buffer_of)
        buffers = [b for b in buffer_of.values() if id(b) not in left]
        steps = ["inputs", *(node_key(n) for n in self.nodes), "outputs"]
        inner = {self.step[n]: list(bodies(n)) for n in self.nodes if any(bodies(n))}
        written: dict[int, int] = {}
        for buffer in buffers:
            written[buffer.first] = written.get(buffer.first, 0) + buffer.size_bytes
        return Liveness(sorted(buffers, key=lambda b: b.first), steps, inner, written, self.unknown)

    def _root(self, value: ir.Value) -> ir.Value:
        while value in self.parent:
            value = self.parent[value]
        return value

    def _reads(self, value: ir.Value) -> Iterator[int]:
        yield 0
        if value in self.outputs:
            yield len(self.nodes) + 1
        for user, _ in value.uses():
            yield self.step.get(user, 0)

    def _bytes(self, value: ir.Value) -> int:
        size = tensor_bytes(dtype_of(self.item_dtype.get(value, value)), static_shape(value))
        if size is None:
            self.unknown.append(value.name or "")
        return size or 0

    def _fold_quantize(self) -> None:
        """Rule 3: walk back from each QuantizeLinear to the operator whose integer kernel writes its output."""
        for node in self.nodes:
            if not is_op(node, "QuantizeLinear") or node.inputs[0] is None or node.inputs[0] in self.constant:
                continue
            value = node.inputs[0]
            chain: list[ir.Value] = []
            passed: set[ir.Node] = set()
            while True:
                producer = value.producer()
                if producer is None or (only_consumer(value) is None and not is_op(producer, "DequantizeLinear")):
                    break
                if is_op(producer, "DequantizeLinear"):
                    if chain:  # DequantizeLinear → Relu → QuantizeLinear: all in integers
                        self._make_integer(chain, passed, node)
                    break
                chain.append(value)
                passed.add(producer)
                if is_op(producer, *_COMMUTE_WITH_ROUNDING) and producer.inputs[0] is not None:
                    value = producer.inputs[0]
                    continue
                if is_op(producer, *INTEGER_KERNELS) and self._takes_integers(producer):
                    self._make_integer(chain, passed, node)
                break

    def _make_integer(self, chain: list[ir.Value], passed: set[ir.Node], quantize: ir.Node) -> None:
        self.integer_nodes |= passed
        self.parent[chain[0]] = quantize.outputs[0]
        self.item_dtype.update((value, quantize.outputs[0]) for value in chain)

    def _takes_integers(self, node: ir.Node) -> bool:
        """Whether every floating-point input is constant or comes from DequantizeLinear."""
        varying = [v for v in node.inputs if v is not None and v not in self.constant]
        return bool(varying) and all(
            is_op(v.producer(), "DequantizeLinear") or (v.dtype is not None and not v.dtype.is_floating_point())
            for v in varying
        )

    def _fold_dequantize(self) -> None:
        for node in self.nodes:
            source = input_or_none(node, 0)
            if not is_op(node, "DequantizeLinear") or source is None or source in self.constant:
                continue
            value = node.outputs[0]
            readers = [user for user, _ in value.uses()]
            if readers and value not in self.outputs and all(self._reads_integers(r) for r in readers):
                self.parent[value] = source

    def _reads_integers(self, node: ir.Node) -> bool:
        mixed = is_op(node, "MatMul", "Gemm") and self._takes_integers(node)  # integers in, floats out
        return node in self.integer_nodes or mixed or is_op(node, "QuantizeLinear")

    def _share_views(self) -> None:
        for node in self.nodes:
            source = input_or_none(node, 0)
            if not is_view(node) or source is None or source in self.constant or node.outputs[0] in self.constant:
                continue
            target, origin = self._root(node.outputs[0]), self._root(source)
            of_caller = origin in self.graph.inputs or origin.graph is not self.graph
            if target is not origin and not (of_caller and {target, node.outputs[0]} & self.outputs):
                self.parent[target] = origin

    def _write_in_place(self, buffer_of: dict[ir.Value, Buffer]) -> set[int]:
        """Rule 4, in node order: the result moves into the buffer of a dying operand. The ids of those it left."""
        kept = {id(buffer_of[self._root(v)]) for v in self.inputs}
        into: dict[int, Buffer] = {}

        def current(value: ir.Value | None) -> Buffer | None:
            buffer = None if value is None or value in self.constant else buffer_of.get(self._root(value))
            while buffer is not None and id(buffer) in into:
                buffer = into[id(buffer)]
            return buffer

        for node in self.nodes:
            target = current(node.outputs[0]) if is_op(node, *ELEMENT_WISE) else None
            if target is None or target.first != self.step[node]:
                continue
            for source in map(current, node.inputs):
                if source is None or source is target or id(source) in kept:
                    continue
                if source.last == self.step[node] and source.size_bytes == target.size_bytes:
                    source.last = target.last
                    into[id(target)] = source
                    break
        return set(into)
