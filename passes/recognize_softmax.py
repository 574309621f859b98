"""Replace the formula of a Softmax, or of one of its relatives, by its operator.

With d = x - max(x):

1. Softmax       exp(d) / sum exp(d), over the last axis
2. LogSoftmax    d - log(sum exp(d)), over the last axis
3. Softsign      x / (1 + |x|)

Only where the target states that it has the operator (``legal``), since onnxruntime is slower with it:
4. Softplus      log(1 + exp(-|x|)) + relu(x): 0.2 times as fast
5. Softmax and LogSoftmax over another axis (opset 13): 0.2 times as fast

Not recognized: formulas that overflow where the operator does not: log(1 + exp(x)), exp(x) / sum exp(x), and
log(softmax(x)), which is -∞ where the operator says -120 (6); maximum and sum over different axes, or several (7);
reductions that drop their axis (8); an inner value that somebody else reads or that is an output of the graph (9).
No reduction is made of several nodes: in onnxruntime ReduceL2, ReduceSumSquare, ReduceL1, ReduceLogSum and
ReduceLogSumExp over the last axis take 2 to 7 times as long as what they are made of.
Exact up to the rounding of a few operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import onnx_ir as ir

from edgeopt.graph import dims_of
from edgeopt.passes.formula import Finder, FormulaRule
from edgeopt.passes.pattern import Found, producer, reduced, split_scalar


def _softplus(node: ir.Node, version: int) -> Iterator[Found]:
    """Case 4."""
    for positive, tail in (node.inputs, node.inputs[::-1]):
        log = producer(tail, "Log")
        x = _relu_source(positive)
        parts = split_scalar(producer(log.inputs[0], "Add")) if log is not None else None
        e = producer(parts[0], "Exp") if parts is not None and parts[1] == 1 else None
        minus = producer(e.inputs[0], "Neg") if e is not None else None
        size = producer(minus.inputs[0], "Abs") if minus is not None else None
        if x is not None and size is not None and size.inputs[0] is x:
            yield Found("Softplus", (x,))


def _relu_source(value: ir.Value | None) -> ir.Value | None:
    node = producer(value, "Relu", "Max")
    if node is None:
        return None
    if node.op_type == "Relu":
        return node.inputs[0]
    parts = split_scalar(node)
    return parts[0] if parts is not None and parts[1] == 0 else None


def _softsign(node: ir.Node, version: int) -> Iterator[Found]:
    """Case 3."""
    x, below = node.inputs
    parts = split_scalar(producer(below, "Add"))
    size = producer(parts[0], "Abs") if parts is not None and parts[1] == 1 else None
    if x is not None and size is not None and size.inputs[0] is x:
        yield Found("Softsign", (x,))


def _centred(value: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """x and the axes of ``x - max(x)``."""
    node = producer(value, "Sub")
    highest = reduced(producer(node.inputs[1], "ReduceMax"), "ReduceMax") if node is not None else None
    if node is None or highest is None or node.inputs[0] is not highest[0]:
        return None
    return highest


def _softmax_of(x: ir.Value, axes: tuple[int, ...], op: str, version: int) -> Iterator[Found]:
    dims = dims_of(x)
    if dims is not None and len(axes) == 1 and (version >= 13 or axes[0] == len(dims) - 1):
        yield Found(op, (x,), (ir.AttrInt64("axis", axes[0]),))


def _softmax(node: ir.Node, version: int) -> Iterator[Found]:
    """Case 1."""
    total = reduced(producer(node.inputs[1], "ReduceSum"), "ReduceSum")
    e = producer(node.inputs[0], "Exp")
    centred = _centred(e.inputs[0]) if e is not None else None
    if total is not None and centred is not None and total[0] is node.inputs[0] and total[1] == centred[1]:
        yield from _softmax_of(centred[0], centred[1], "Softmax", version)


def _log_softmax(node: ir.Node, version: int) -> Iterator[Found]:
    """Case 2."""
    log = producer(node.inputs[1], "Log")
    total = reduced(producer(log.inputs[0], "ReduceSum"), "ReduceSum") if log is not None else None
    e = producer(total[0], "Exp") if total is not None else None
    centred = _centred(node.inputs[0])
    if total is None or e is None or centred is None:
        return
    inner = _centred(e.inputs[0])
    if inner is not None and inner[0] is centred[0] and inner[1] == centred[1] == total[1]:
        yield from _softmax_of(centred[0], centred[1], "LogSoftmax", version)


_FINDERS: dict[str, tuple[Finder, ...]] = {
    "Div": (_softsign, _softmax),
    "Sub": (_log_softmax,),
    "Add": (_softplus,),
}


class RecognizeSoftmax(FormulaRule):
    """The rule (see the module's docstring)."""

    name = "recognize_softmax"
    finders: ClassVar[Mapping[str, tuple[Finder, ...]]] = _FINDERS
