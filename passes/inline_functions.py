"""Put the nodes of a model's own function in the place of each call.

1. Attributes of the call, else the function's defaults, take the place of references; an attribute that has neither
   is left out of the node that refers to it
2. Optional inputs that the call leaves out are left out inside
3. Functions that call functions: the calls inside are inlined in turn
4. A function that nobody calls any more is dropped

Runtimes inline functions when they load a model; the other rules do not look into them, so that a
BatchNormalization inside stays. The node count grows where one function is called often: it is what runs.

Kept: the function is written for another version of an operator set than the model imports (5); it calls itself (6);
it has random operators, so that nothing can be compared (7); the call has more inputs or outputs than it (8).
Exact: the same nodes on the same values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from edgeopt.graph import STANDARD_DOMAINS, graphs
from edgeopt.ops import is_random
from edgeopt.passes.copies import Copier, rewrite
from edgeopt.rewrite import EVERYWHERE, NOTHING, Answer, Skip

_MOST_NODES = 20_000  # of one call, all that it calls included
_Key = tuple[str, str, str]


@dataclass
class _Functions:
    """The model's functions, and why some of them stay."""

    known: dict[_Key, ir.Function]
    problems: dict[_Key, str] = field(default_factory=dict)


class InlineFunctions:
    """The rule (see the module's docstring)."""

    name = "inline_functions"
    ops = None
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> Any:
        """Which functions can be taken apart."""
        if not model.functions:
            return NOTHING
        state = _Functions(dict(model.functions))
        sizes: dict[_Key, int] = {}
        for key in state.known:
            _size(key, state, sizes, ())
        for key, function in state.known.items():
            if (reason := _problem(function, model, state)) is not None:
                state.problems.setdefault(key, reason)
        return state

    def finish(self, model: ir.Model) -> int:
        """Case 4."""
        if not model.functions:
            return 0
        called: set[_Key] = set()
        waiting = [n for g in graphs(model) for n in g]
        while waiting:
            node = waiting.pop()
            key = node.op_identifier()
            if key in model.functions and key not in called:
                called.add(key)
                waiting += model.functions[key].all_nodes()
        for key in [k for k in model.functions if k not in called]:
            del model.functions[key]
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Inline the call."""
        key = node.op_identifier()
        function = state.known.get(key)
        if function is None:
            return None
        if key in state.problems:
            return Skip(node.name or "", f"the function {function.name!r} {state.problems[key]}")
        if len(node.inputs) > len(function.inputs) or len(node.outputs) > len(function.outputs):
            return Skip(node.name or "", f"it has more inputs or outputs than the function {function.name!r}")
        given: dict[ir.Value, ir.Value | None] = dict.fromkeys(function.inputs)
        given.update(zip(function.inputs, node.inputs, strict=False))
        attributes = {k: a for k, a in function.attributes.items() if a.value is not None} | dict(node.attributes)
        copier = Copier(given, attributes, prefix=f"{node.name}/")
        copier.copy(function)
        results = function.outputs[: len(node.outputs)]
        if any(copier.values.get(v, v) is None for v in results):
            return Skip(node.name or "", f"the function {function.name!r} gives out an input that the call leaves out")
        for made in copier.nodes:
            for name, text in node.metadata_props.items():
                made.metadata_props.setdefault(name, text)
        return rewrite(node, copier.nodes, [copier.value(v) for v in results])


def _size(key: _Key, state: _Functions, sizes: dict[_Key, int], callers: tuple[_Key, ...]) -> int:
    """Nodes of a call, fully inlined; notes functions that call themselves or grow without measure."""
    if key in callers:
        for name in callers[callers.index(key) :]:
            state.problems.setdefault(name, "calls itself")
        return 1
    if key not in sizes:
        total = 0
        for node in state.known[key].all_nodes():
            inner = node.op_identifier()
            total += _size(inner, state, sizes, (*callers, key)) if inner in state.known else 1
        sizes[key] = total
        if total > _MOST_NODES:
            state.problems.setdefault(key, f"stands for {total} nodes")
    return sizes[key]


def _problem(function: ir.Function, model: ir.Model, state: _Functions) -> str | None:
    """Cases 5 and 7."""
    ours = {"" if d in STANDARD_DOMAINS else d: v for d, v in model.opset_imports.items()}
    theirs = {"" if d in STANDARD_DOMAINS else d: v for d, v in function.opset_imports.items()}
    for node in function.all_nodes():
        if node.op_identifier() in state.known:
            continue
        domain = "" if node.domain in STANDARD_DOMAINS else node.domain
        if domain not in ours:
            return f"uses the operator set {domain!r}, which the model does not import"
        if theirs.get(domain, ours[domain]) != ours[domain]:
            return (
                f"is written for version {theirs[domain]} of the operator set {domain!r}, the model for {ours[domain]}"
            )
        if is_random(node):
            return "holds random or unknown operators, so nothing can be compared"
    return None
