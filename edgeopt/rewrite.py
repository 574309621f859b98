"""The worklist driver: applies a rule wherever it matches, in O(nodes + rewrites).

A rule looks at one node and answers with a ``Rewrite`` (what to put where), a ``Skip`` (why not, when a reader
would have expected a rewrite) or None (not its business). The driver applies rewrites, keeps names and the
graph's interface, looks again at the neighbours of what changed, and records each rewrite as a ``Case``: the
nodes before and after, which the oracle runs side by side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import onnx
import onnx_ir as ir

from edgeopt.graph import ANNOTATION_KEY, Names, captured_values, constant_tensor, graphs, has_subgraph
from edgeopt.node_types import infer_outputs
from edgeopt.protos import rename_bodies
from edgeopt.sizes import Size


@dataclass(frozen=True)
class Skip:
    """A place that a rule left alone, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class Hit:
    """A place that a rule rewrote: the matched node (``anchor``), all nodes it replaced, and the new ones."""

    anchor: str
    nodes: tuple[str, ...]
    made: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rewrite:
    """What a rule wants done.

    Attributes:
        nodes: The nodes replaced, readers before their producers; the first is the place where ``replacement``
            goes. Each must be left without readers, or it stays.
        replacement: New nodes in topological order, not yet in any graph.
        outputs: Pairs (old value, value that takes its place). Every output of ``nodes`` that is read from
            outside must be among them.
        sizes: Dims of values read, where the rewrite rests on how they depend on each other.
    """

    nodes: tuple[ir.Node, ...]
    replacement: tuple[ir.Node, ...] = ()
    outputs: tuple[tuple[ir.Value, ir.Value], ...] = ()
    sizes: Mapping[ir.Value, Sequence[Size]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pays:
    """For which targets a rule pays.

    Attributes:
        everywhere: Fewer operations, multiplications or bytes on any runtime. Otherwise it helps some and hurts
            others: plain ``simplify`` applies it where its own fixed conditions hold, while ``optimize``, and
            ``simplify`` with a device, decide by that device's costs.
        why: In a few words.
    """

    everywhere: bool
    why: str


EVERYWHERE = Pays(True, "fewer operations, multiplications or bytes on any runtime")
Answer = Rewrite | Skip | None
ORIGIN_KEY = "edgeopt.origin"  # in a node's metadata: the rule that made it, and the nodes it was made of
_MOST_ORIGINS = 8
NOTHING = object()  # what ``Rule.prepare`` returns where no node needs to be looked at
CLEAN_UP = "*"  # stands where a node's name would: the rule as a whole, or its clean-up


class Rule(Protocol):
    """One rewrite. Stateless: what a run needs beforehand is computed by ``prepare`` and handed to ``match``.

    Attributes:
        name: As reports and recipes call it.
        ops: Operator types it can start from (standard domain); None for all nodes.
        pays: For which targets it pays.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 -- described above

    @property
    def ops(self) -> frozenset[str] | None: ...  # noqa: D102

    @property
    def pays(self) -> Pays: ...  # noqa: D102

    def prepare(self, model: ir.Model) -> Any:
        """Whatever ``match`` wants to know of the whole model; ``NOTHING`` if it would find nothing anywhere."""

    def match(self, node: ir.Node, state: Any) -> Answer:
        """What to do at this node."""

    def finish(self, model: ir.Model) -> int:
        """Clean-up that is tied to no node (unused initializers); the number of things removed."""


@dataclass
class Case:
    """One rewrite cut out of its graph: both versions, the constants they use, and the inputs they share."""

    anchor: str
    before: list[onnx.NodeProto]
    after: list[onnx.NodeProto]
    outputs: list[tuple[str, str]]
    constants: dict[str, ir.TensorProtocol]
    inputs: dict[str, ir.Value]
    uncheckable: str | None = None
    replaced: list[tuple[str, ir.Value]] = field(default_factory=list)  # names in the graph, and what is there now
    sizes: dict[str, Sequence[Size]] = field(default_factory=dict)  # dims of inputs that depend on each other


@dataclass
class Applied:
    """What one run of a rule did to a model."""

    hits: list[Hit] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    removed_initializers: int = 0


class Workspace:
    """What all rules that run on one model share: its names, and its nodes by operator type, in graph order.

    Args:
        model: The model that the rules change; whoever changes it otherwise calls ``refresh``.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.names = Names(model)
        self.refresh()

    def refresh(self) -> None:
        """Read the nodes anew."""
        self._all: list[ir.Node] = []  # while no node was added
        self._place: dict[ir.Node, tuple[int, ...]] = {}
        self._by_op: dict[str, list[ir.Node]] = {}
        for graph in graphs(self.model):
            for node in graph:
                self._place[node] = (len(self._place),)
                self._by_op.setdefault(node.op_type, []).append(node)

    def nodes(self, ops: Collection[str] | None) -> Iterable[ir.Node]:
        """The nodes of these types (all, if None), in graph order."""
        if ops is None:
            self._all = self._all or [node for graph in graphs(self.model) for node in graph]
            return self._all
        found: list[ir.Node] = []
        for op in ops:
            present = [n for n in self._by_op.get(op, ()) if n.graph is not None and n.op_type == op]
            if present:
                self._by_op[op] = present
                found += present
        return sorted(found, key=self._place.__getitem__)

    def add(self, rewrite: Rewrite) -> None:
        """Take up the new nodes, at the place of the node that they replace."""
        self._all = []
        place = self._place.get(rewrite.nodes[0], ())
        for k, node in enumerate((*rewrite.replacement, *(n for r in rewrite.replacement for n in _inner_nodes(r)))):
            self._place[node] = (*place, len(self._place), k)
            self._by_op.setdefault(node.op_type, []).append(node)


def apply(
    rule: Rule,
    model: ir.Model,
    *,
    veto: Collection[str] = (),
    limit: int | None = None,
    cases: bool = True,
    workspace: Workspace | None = None,
) -> Applied:
    """Apply a rule wherever it matches, in place.

    Args:
        rule: The rule.
        model: Changed in place.
        veto: Names of nodes at which no match may start; ``CLEAN_UP`` stands for the rule's ``finish``.
        limit: Stop after this many rewrites (the oracle bisects with it).
        cases: Record what was rewritten, for the oracle.
        workspace: Of this model, if several rules run on it.
    """
    workspace = workspace or Workspace(model)
    result = Applied()
    skips: dict[str, Skip] = {}
    queue: deque[ir.Node] = deque(workspace.nodes(rule.ops))
    state = rule.prepare(model) if queue else NOTHING
    if state is NOTHING:
        queue.clear()
    queued: set[ir.Node] = set(queue)

    def enqueue(nodes: Iterable[ir.Node | None]) -> None:
        for node in nodes:
            if node is not None and node not in queued and (rule.ops is None or node.op_type in rule.ops):
                queued.add(node)
                queue.append(node)

    while queue and (limit is None or len(result.hits) < limit):
        node = queue.popleft()
        queued.discard(node)
        if node.graph is None or node.name in veto:
            continue
        answer = rule.match(node, state)
        if answer is None:
            if skips:
                skips.pop(node.name or "", None)
            continue
        anchor = node.name or ""
        skips.pop(anchor, None)
        if isinstance(answer, Skip):
            skips[anchor] = answer
            continue
        reason = _interface_problem(answer)
        if reason is not None:
            skips[anchor] = Skip(anchor, reason)
            continue
        old_names = [old.name or "" for old, _ in answer.outputs]
        if cases:
            result.cases.append(_cut_out(anchor, answer))
        neighbours = _neighbours(answer)
        _replace(answer, workspace.names, rule.name, model)
        workspace.add(answer)
        if cases:
            result.cases[-1].replaced = list(zip(old_names, (new for _, new in answer.outputs), strict=True))
        gone = tuple(n.name or "" for n in answer.nodes if n.graph is None) or (anchor,)
        result.hits.append(Hit(anchor, gone, tuple(n.name or "" for n in answer.replacement)))
        enqueue(answer.replacement)
        enqueue(n for n in neighbours if n.graph is not None)
    if limit is None and CLEAN_UP not in veto:
        result.removed_initializers = rule.finish(model)
    result.skips = list(skips.values())
    return result


def _neighbours(rewrite: Rewrite) -> list[ir.Node]:
    """Producers and readers around the rewritten place, in a fixed order."""
    found: dict[ir.Node, None] = {}
    for node in (*rewrite.nodes, *rewrite.replacement):
        for reader in (node, *_inner_nodes(node)):
            for value in reader.inputs:
                if value is not None and (producer := value.producer()) is not None:
                    found[producer] = None
    for old, new in rewrite.outputs:
        for value in (old, new):
            found.update(dict.fromkeys(value.consumers()))
    return [n for n in found if n not in rewrite.nodes]


def _inner_nodes(node: ir.Node) -> list[ir.Node]:
    """All nodes of the bodies that the node holds."""
    bodies = [a.as_graph() for a in node.attributes.values() if not a.is_ref() and a.type == ir.AttributeType.GRAPH]
    return [inner for body in bodies for inner in body.all_nodes()]


def _remove(node: ir.Node) -> None:
    """Take the node out of its graph; what its bodies read has no reader there any more."""
    if node.graph is not None:
        node.graph.remove(node, safe=True)
    for inner in _inner_nodes(node):
        for index in range(len(inner.inputs)):
            inner.replace_input_with(index, None)


def _interface_problem(rewrite: Rewrite) -> str | None:
    """Why the graph's interface forbids the rewrite: an output must stay a value that its own graph computes."""
    for old, new in rewrite.outputs:
        if not old.is_graph_output():
            continue
        producer = new.producer()
        home = rewrite.nodes[0].graph
        inside = producer is not None and (producer in rewrite.replacement or producer.graph is home)
        if not inside:
            return f"its output {old.name!r} is an output of the graph and would become a copy of {new.name!r}"
        if new.is_graph_output():
            return f"both {old.name!r} and {new.name!r} are outputs of the graph"
    return None


def _replace(rewrite: Rewrite, names: Names, rule: str, model: ir.Model) -> None:
    graph = rewrite.nodes[0].graph
    origin = _origin(rule, rewrite.nodes)
    assert graph is not None  # the driver only matches nodes that are in a graph
    wanted = {node: node.name for node in rewrite.replacement}
    folded: set[ir.Value] = set()
    for node in rewrite.replacement:
        node.name = names.fresh(node.name or f"{rewrite.nodes[0].name}/{node.op_type}")
        for value in node.inputs:
            if value is not None and value.const_value is not None and value.producer() is None and value.graph is None:
                value.name = names.fresh(value.name or f"{node.name}/constant")
                graph.register_initializer(value)
        for value in node.outputs:
            value.name = names.fresh(value.name or f"{node.name}/output")
        node.metadata_props.setdefault(ORIGIN_KEY, origin)
    if rewrite.replacement:
        graph.insert_before(rewrite.nodes[0], rewrite.replacement)
    for old, new in rewrite.outputs:
        if new.producer() is None and new.const_value is not None and new.graph is None:
            new.name = names.fresh(new.name or f"{old.name}/folded")
            graph.register_initializer(new)
            folded.add(new)
        if not new.is_graph_output():  # else its type is part of the interface
            if new.type is None:
                new.type = old.type
            if new.shape is None and old.shape is not None:
                new.shape = old.shape.copy()
        if old.is_graph_output():  # the interface keeps its name, type and dims
            new.name, new.type, new.shape = old.name, old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    for node in rewrite.replacement:
        infer_outputs(node, model.opset_imports, model.ir_version)
    _retype([new for _, new in rewrite.outputs], model)
    for node in rewrite.nodes:
        if not any(o.uses() or o.is_graph_output() for o in node.outputs):
            _remove(node)
    free = {n.name: n for n in rewrite.nodes if n.graph is None}
    for node in rewrite.replacement:  # what takes a place takes its name: reports and anchors stay readable
        taken = free.pop(wanted[node], None)  # only one of those that ask for it
        if taken is not None:
            node.name = wanted[node]
            for key, text in taken.metadata_props.items():
                node.metadata_props.setdefault(key, text)
    for old, new in rewrite.outputs:
        gone = (producer := old.producer()) is not None and producer.graph is None
        if gone and (new.producer() in rewrite.replacement or new in folded):
            new.name = old.name
            _keep_notes(old, new)


def _retype(values: Iterable[ir.Value], model: ir.Model) -> None:
    """Readers of values that are known now may give types that are known now."""
    queue = deque(v for v in values if v.type is not None and v.shape is not None)
    while queue:
        for reader in queue.popleft().consumers():
            if untyped := [v for v in reader.outputs if v.type is None or v.shape is None]:
                infer_outputs(reader, model.opset_imports, model.ir_version)
                queue.extend(v for v in untyped if v.type is not None and v.shape is not None)


def _keep_notes(old: ir.Value, new: ir.Value) -> None:
    """What is noted of a value (metadata, quantization annotation) stays with its name."""
    for key, text in old.metadata_props.items():
        new.metadata_props.setdefault(key, text)
    if ANNOTATION_KEY in old.meta:
        new.meta.setdefault(ANNOTATION_KEY, old.meta[ANNOTATION_KEY])


def _origin(rule: str, nodes: Sequence[ir.Node]) -> str:
    """``rule: names of the model's own nodes``; what earlier rewrites had made stands for what they were made of."""
    sources: dict[str, None] = {}
    for node in reversed(nodes):
        made = node.metadata_props.get(ORIGIN_KEY)
        names = made.split(": ", 1)[1].split(", ") if made is not None and ": " in made else [node.name or node.op_type]
        sources.update(dict.fromkeys(names))
    listed = list(sources)
    more = [f"… {len(listed) - _MOST_ORIGINS} more"] if len(listed) > _MOST_ORIGINS else []
    return f"{rule}: {', '.join(listed[:_MOST_ORIGINS] + more)}"


def _inner_name(outer: Mapping[str, str], prefix: str, name: str) -> str:
    return outer.get(name, prefix + name)


def _cut_out(anchor: str, rewrite: Rewrite) -> Case:
    """Write down both versions of the place while both still exist."""
    case = Case(anchor, [], [], [], {}, {})
    if not rewrite.outputs:
        return case
    inner: dict[int, str] = {}

    def name_of(value: ir.Value) -> str:
        if id(value) in inner:
            return inner[id(value)]
        tensor = constant_tensor(value)
        if tensor is None and value.producer() is None and value.graph is None:
            tensor = value.const_value
        name = f"v{len(case.constants) + len(case.inputs)}"
        if tensor is not None:
            case.constants[name] = tensor
        else:
            case.inputs[name] = value
            if value in rewrite.sizes:
                case.sizes[name] = rewrite.sizes[value]
        inner[id(value)] = name
        return name

    def write(nodes: Sequence[ir.Node], prefix: str, into: list[onnx.NodeProto]) -> None:
        for k, node in enumerate(nodes):
            inputs = [name_of(v) if v is not None else "" for v in node.inputs]
            outer = {v.name or "": name_of(v) for v in captured_values(node)} if has_subgraph(node) else {}
            for j, value in enumerate(node.outputs):
                inner[id(value)] = f"{prefix}{k}_{j}"
            proto = ir.serde.serialize_node(node)
            if has_subgraph(node):
                rename_bodies(proto, partial(_inner_name, outer, f"{prefix}{k}/"))
            del proto.input[:], proto.output[:]
            proto.input.extend(inputs)
            used = [inner[id(v)] if v.name != "" else "" for v in node.outputs]
            proto.output.extend(used)
            into.append(proto)

    write(rewrite.nodes[::-1], "b", case.before)
    before = [name_of(old) for old, _ in rewrite.outputs]
    write(rewrite.replacement, "a", case.after)
    for old, (_, new) in zip(before, rewrite.outputs, strict=True):
        case.outputs.append((old, name_of(new)))
    return case
