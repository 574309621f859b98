"""What ``inspect`` finds odd or improvable in a model, one sentence each."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgeopt.errors import EdgeoptError
from edgeopt.files import Loaded
from edgeopt.graph import dims_of, dtype_of, opset
from edgeopt.passes import EXACT
from edgeopt.rewrite import apply
from edgeopt.shapes import infer


def findings(loaded: Loaded) -> list[dict[str, Any]]:
    """Findings as ``{kind, text}``: ``repair``, ``odd``, ``improvable``; nothing is run or changed."""
    model = infer(loaded.model.clone())
    found = [{"kind": "repair", "text": r} for r in loaded.repairs]
    if loaded.untouchable:
        found.append({"kind": "odd", "text": f"{loaded.untouchable}: rewriting verbs return the model untouched"})
    if loaded.checker_error:
        found.append({"kind": "odd", "text": f"the ONNX checker refuses the model: {loaded.checker_error}"})
    found += [{"kind": "odd", "text": text} for text in _oddities(model)]
    for rule in EXACT:
        try:
            hits = len(apply(rule, model, cases=False).hits)
        except EdgeoptError as error:
            found.append({"kind": "odd", "text": f"pass {rule.name} does not apply: {error.message}"})
            continue
        if hits:
            found.append({"kind": "improvable", "text": f"pass {rule.name} would rewrite {hits} places"})
    return found


def _oddities(model: ir.Model) -> list[str]:
    texts = []
    unused = [v.name for v in model.graph.inputs if not v.uses() and not v.is_graph_output()]
    if unused:
        texts.append(f"inputs that nothing reads: {', '.join(repr(n) for n in unused)}")
    overridable = [v.name for v in model.graph.inputs if v.is_initializer()]
    if overridable:
        texts.append(
            f"{len(overridable)} initializers are graph inputs too: callers may override them, so nothing folds; "
            "--fix-weights makes them constants"
        )
    if opset(model) < 13:
        texts.append(f"opset {opset(model)} is old; int8 per channel needs 13, quantize converts it")
    shapeless = sum(dims_of(v) is None for n in model.graph for v in n.outputs if dtype_of(v) is not None)
    if shapeless:
        texts.append(f"the rank of {shapeless} tensors cannot be inferred")
    return texts
