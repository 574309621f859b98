"""Merge Convs whose results are added into one Conv.

    (W1 * x + b1) + (W2 * x + b2) = (W1 + W2') * x + (b1 + b2)

with W2' the smaller kernel at its place in the larger one, zeros around it. Convolution is linear in its weights, so
that branches of one input which read at the same places are one Conv: blocks as RepVGG, ACNet and MobileOne train them.

A sum is a tree of Add and Sum whose inner results nobody else reads. Its terms, over the input x of one of its Convs:

1. Conv of x: its kernel lies within that of the base, the Conv that takes the others up; strides equal, taps at the
   same places (3×3 pad 1 takes 1×1 pad 0, 1×3 and 3×1)
2. groups: a finer map goes into blocks of a coarser one (depthwise into dense or depthwise, dense not into depthwise)
3. x itself: a 1×1 kernel of ones; stride 1, as many channels out as in
4. BatchNormalization of x in inference, or x times a constant per channel: a 1×1 kernel of its factors
5. constants, one number or one per channel: into the bias
6. other terms stay and are added to the result

No MAC is added: all goes into taps that the base has. The largest Conv that can take up another term is the base.

Not merged: the weights are not constant or not finite (7), a Conv is read elsewhere or is an output of the graph (8),
the kernels do not lie within each other (9), the sum broadcasts (10), the sum overflows the element type (11), large
weights that others share (12).
Exact up to the order in which products are added; composed in float64. RepVGG: Ding et al. 2021, arXiv:2101.03697.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, attribute, constant_tensor, dims_of, is_op, only_consumer, opset
from edgeopt.passes.convolutions import Convolution, conv_like, placed, read_conv, stored, weights_shared
from edgeopt.passes.fold_batchnorm import affine
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_MOST_TERMS = 32


@dataclass(frozen=True)
class _Term:
    """A term as a Conv: the node that computes it (None for x itself), and the Conv within the base."""

    value: ir.Value
    node: ir.Node | None
    weight: Array
    bias: Array


class MergeConvSum:
    """The rule (see the module's docstring)."""

    name = "merge_conv_sum"
    ops = frozenset({"Add", "Sum"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: below 7 Add states how it broadcasts, and BatchNormalization may train."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Merge Convs in the sum that ends here."""
        if not _is_sum(node) or _inside_a_sum(node):
            return None
        sums, terms = _tree(node)
        producers = [(t, p) for t in terms if is_op(p := t.producer(), "Conv") and p is not None]
        sources = [p.inputs[0] for _, p in producers]
        shared = [(t, p) for t, p in producers if sources.count(p.inputs[0]) > 1 or _reads(terms, t, p.inputs[0])]
        if not shared:
            return None
        name, reason = node.name or "", ""
        convs: list[Convolution] = []
        for value, conv in shared:
            if conv.graph is not node.graph or only_consumer(value) is None:
                reason = reason or f"the output of {conv.name!r} is an output of the graph or read by other nodes too"
                continue
            found = read_conv(conv)
            if isinstance(found, str):
                reason = reason or found
            else:
                convs.append(found)
        for base in sorted(convs, key=lambda c: -c.weight.size):
            taken = [t for v in terms if (t := _taken(v, base, convs, state)) is not None]
            if len(taken) < 2:
                continue
            answer = _merged(node, sums, terms, base, taken)
            if not isinstance(answer, str):
                return answer
            reason = reason or answer
        return Skip(name, reason or "its Convs read the same value, but none can take up another term")


def _is_sum(node: ir.Node | None) -> bool:
    """Before opset 7 an Add that broadcasts says so."""
    return node is not None and is_op(node, "Add", "Sum") and not attribute(node, "broadcast", 0)


def _inside_a_sum(node: ir.Node) -> bool:
    reader = only_consumer(node.outputs[0])
    return reader is not None and _is_sum(reader) and reader.graph is node.graph


def _tree(root: ir.Node) -> tuple[list[ir.Node], list[ir.Value]]:
    """The sums from the root down, readers first, and the terms in order."""
    sums, terms, waiting = [root], [], [v for v in root.inputs if v is not None][::-1]
    while waiting:
        value = waiting.pop()
        producer = value.producer()
        inner = producer is not None and _is_sum(producer) and only_consumer(value) is not None
        if producer is not None and inner and producer.graph is root.graph and len(sums) < _MOST_TERMS:
            sums.append(producer)
            waiting += [v for v in producer.inputs if v is not None][::-1]
        else:
            terms.append(value)
    return sums, terms


def _reads(terms: list[ir.Value], this: ir.Value, source: ir.Value | None) -> bool:
    """Whether another term is ``source``, or one affine step away from it."""
    for term in terms:
        producer = term.producer()
        if term is this:
            continue
        if term is source or (is_op(producer, "BatchNormalization", "Mul") and producer and source in producer.inputs):
            return True
    return False


def _taken(value: ir.Value, base: Convolution, convs: list[Convolution], version: int) -> _Term | None:
    """The term as a part of the base; None if it cannot be one (cases 6, 9 and 10)."""
    producer = value.producer()
    conv = next((c for c in convs if c.node is producer and c.node.outputs[0] is value), None)
    if conv is not None:
        if conv.source is not base.source or not _same_size(conv, base):
            return None
        weight = placed(conv, base)
        fits = weight is not None and weight.shape == base.weight.shape
        return _Term(value, conv.node, weight, conv.bias) if fits and weight is not None else None
    affine_of = _factors(value, base, version)
    if affine_of is None:
        return None
    node, scale, shift = affine_of
    channels, axes = len(base.weight), len(base.kernel)
    if channels != base.weight.shape[1] * base.group or any(s != 1 for s in base.strides) or any(base.growth):
        return None
    ones = (1,) * axes
    diagonal = np.broadcast_to(scale, (channels,)).reshape(channels, 1, *ones)
    point = Convolution(base.node, diagonal, base.bias, base.dtype, channels, ones, ones, (0,) * axes, (0,) * axes)
    weight = placed(point, base)
    return None if weight is None else _Term(value, node, weight, np.broadcast_to(shift, (channels,)))


def _same_size(conv: Convolution, base: Convolution) -> bool:
    """Whether both outputs have the same dims, channels included: by their pads, or as inferred."""
    if len(conv.weight) != len(base.weight) or len(conv.kernel) != len(base.kernel):
        return False
    ours, theirs = dims_of(conv.node.outputs[0]), dims_of(base.node.outputs[0])
    known = ours is not None and theirs is not None and all(isinstance(d, int) for d in (*ours[2:], *theirs[2:]))
    return conv.growth == base.growth or (known and ours is not None and theirs is not None and ours[2:] == theirs[2:])


def _factors(value: ir.Value, base: Convolution, version: int) -> tuple[ir.Node | None, Array, Array] | None:
    """Cases 3 and 4: the node, and factor and shift per channel (or one of each)."""
    source, node = base.source, value.producer()
    channels = base.weight.shape[1] * base.group
    if value is source:
        return None, np.ones(()), np.zeros(())
    if node is None or only_consumer(value) is None or node.graph is not base.node.graph or source not in node.inputs:
        return None
    if is_op(node, "BatchNormalization") and node.inputs[0] is source:
        trains = attribute(node, "training_mode", 0) or (version < 7 and not attribute(node, "is_test", 0))
        found = affine(node) if attribute(node, "spatial", 1) and not trains else None
        fine = found is not None and found[0].shape == (channels,) and all(np.isfinite(f).all() for f in found)
        return (node, *found) if fine and found is not None else None
    if is_op(node, "Mul") and not attribute(node, "broadcast", 0):
        other = node.inputs[1] if node.inputs[0] is source else node.inputs[0]
        factor = _per_channel(other, channels, len(base.kernel))
        return None if factor is None else (node, factor, np.zeros(()))
    return None


def _per_channel(value: ir.Value | None, channels: int, axes: int) -> Array | None:
    """A constant of one element, or of [C, 1…] or [1, C, 1…]: [] or [C], float64 and finite; else None."""
    tensor = constant_tensor(value)
    if tensor is None:
        return None
    shape = tuple(tensor.shape.numpy())
    if len(shape) > axes + 2:
        return None
    full = (1,) * (axes + 2 - len(shape)) + shape
    if any(d != 1 for k, d in enumerate(full) if k != 1) or full[1] not in (1, channels):
        return None
    array = np.asarray(tensor.numpy()).astype(np.float64).reshape(-1)
    return (array[0] if array.size == 1 else array) if np.isfinite(array).all() else None


def _merged(
    root: ir.Node, sums: list[ir.Node], terms: list[ir.Value], base: Convolution, taken: list[_Term]
) -> Rewrite | str:
    gone = [t.node for t in taken if t.node is not None]
    reason = weights_shared(*gone)
    if reason is not None:
        return reason
    bias = np.sum([t.bias for t in taken], axis=0)
    values = {t.value for t in taken}
    rest = []
    for value in [v for v in terms if v not in values]:
        number = _per_channel(value, len(base.weight), len(base.kernel))
        if number is None:
            rest.append(value)
        else:
            bias = bias + number
    weight = stored(np.sum([t.weight for t in taken], axis=0), base.dtype)
    shift = stored(bias, base.dtype)
    if weight is None or shift is None:
        return f"the sum of the weights overflows {base.dtype}"
    had_bias = any(len(n.inputs) > 2 for n in gone) or bias.any()
    result = conv_like(base, base.source, weight, shift if had_bias else None, base.node.outputs[0])
    nodes, output = [result], root.outputs[0]
    if rest and any(is_op(n, "Sum") for n in sums):
        nodes.append(_sum("Sum", [result.outputs[0], *rest], root))
    else:
        for value in rest:
            nodes.append(_sum("Add", [nodes[-1].outputs[0], value], root))
    last = nodes[-1].outputs[0]
    last.name, last.type, last.shape = output.name, output.type, output.shape
    return Rewrite((*sums, *gone), tuple(nodes), ((output, last),))


def _sum(kind: str, values: list[ir.Value], root: ir.Node) -> ir.Node:
    output = ir.Value(name=root.outputs[0].name, type=root.outputs[0].type)
    return ir.Node("", kind, inputs=values, outputs=[output], name=root.name)
