"""Replace the formula of an activation by its operator.

 1. HardSigmoid (opset 6)   c · clip(a · x + b, 0, 1 / c), the clip also as Relu and Min, Max and Min
 2. HardSwish (opset 14)    x · clip(x + 3, 0, 6) / 6, x · HardSigmoid(x; 1/6, 1/2); before: x · HardSigmoid(x)
 3. Mish (opset 18)         x · tanh(softplus(x))
 4. Gelu (opset 20)         x · (1 + erf(x / √2)) / 2, and x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))) / 2
 5. LeakyRelu (opset 6)     max(x, a · x) with 0 < a < 1; min(x, a · x) with a > 1; relu(x) - a · relu(-x);
                            relu(x) + a / 2 · (x - |x|); x > 0 ? x : a · x
 6. Softsign                x / (1 + |x|)
 7. Softmax                 exp(d) / sum exp(d), d = x - max(x), over the last axis
 8. LogSoftmax              d - log(sum exp(d)), d = x - max(x), over the last axis
 9. Sqrt                    x ^ 0.5 where x cannot be negative (x ^ 0.5 of -inf is inf)

The constants may be scalars of any rank up to that of x, the factors of products in any order.

Only where the target states that it has the operator (``legal``), since onnxruntime is slower with it:
10. Swish (opset 24)        x · sigmoid(x): 0.6 times as fast, and not at all from opset 25
11. Softplus                log(1 + exp(-|x|)) + relu(x): 0.2 times as fast
12. Elu                     x > 0 ? x : a · (exp(x) - 1): 0.5 times as fast
13. PRelu (opset 7)         case 5 with a slope for each channel: 0.4 to 0.7 times as fast
    Softmax and LogSoftmax over another axis (opset 13): 0.2 times as fast

Not recognized: other constants or bounds, another x inside (1); an inner value that somebody else reads, that is an
output of the graph or lies in another graph (2); constants that raise the rank of the result (3); integers, and types
that onnxruntime has no kernel for: most of these operators in double (4); an opset that has no such operator (5).
No formula that overflows where the operator does not: log(1 + exp(x)), exp(x) / sum exp(x), log(softmax(x)) (6).
Exact up to the rounding of a few operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator

import onnx_ir as ir

from edgeopt.graph import Array, attribute, constant, constant_tensor, constant_value, dims_of, is_op, opset
from edgeopt.passes.pattern import (
    Found,
    affine,
    bounds,
    dtype_name,
    factors,
    inner_nodes,
    introduced,
    near,
    new_node,
    producer,
    reduced,
    scalar,
    split_scalar,
)
from edgeopt.rewrite import Answer, Pays, Rewrite

_SLOW = frozenset({"Swish", "Softplus", "Elu", "PRelu"})  # in onnxruntime 1.31, next to their formulas
_SINCE = {"LeakyRelu": 6, "HardSigmoid": 6, "Elu": 6, "Sqrt": 6, "PRelu": 7}  # before: other attributes, broadcasting
_DOUBLE = {"LeakyRelu": 16, "PRelu": 16, "Softmax": 6, "LogSoftmax": 6, "Sqrt": 6}  # kernels for double, from here on
_NOT_NEGATIVE = frozenset({"Abs", "Exp", "Sigmoid", "Softplus", "ReduceL1", "ReduceL2", "ReduceSumSquare"})
_GELU_CUBE = 0.044715
_GELU_TANH = math.sqrt(2 / math.pi)

Finder = Callable[[ir.Node, int], Iterator[Found]]


class RecognizeActivations:
    """The rule (see the module's docstring).

    Args:
        legal: Operators that the target has; None for onnxruntime, whose slow ones are then not used.
        max_opset: No operators that came later.
    """

    name = "recognize_activations"
    pays = Pays(False, "one kernel instead of many, where the runtime has it")

    def __init__(self, legal: Collection[str] | None = None, max_opset: int | None = None) -> None:
        self.legal = frozenset(legal) if legal is not None else None
        self.max_opset = max_opset
        self.ops = frozenset(_FINDERS)

    def prepare(self, model: ir.Model) -> int:
        """The opset: it decides which operators exist, and where Clip and reductions keep their parameters."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: int) -> Answer:
        """Take this node as the last of a formula."""
        if not is_op(node, *_FINDERS) or len(node.outputs) != 1:
            return None
        kind = dtype_name(node.outputs[0])
        if kind not in ("float32", "float16", "float64"):
            return None
        for finder in _FINDERS[node.op_type]:
            for found in finder(node, state):
                if not self._usable(found, state, kind):
                    continue
                leaves = [v for v in found.inputs if constant_tensor(v) is None]
                nodes = inner_nodes(node, leaves)
                if nodes is not None and (len(nodes) > 1 or found.op == "Sqrt"):
                    return _rewrite(nodes, found, state)
        return None

    def _usable(self, found: Found, version: int, kind: str) -> bool:
        if version < max(introduced(found.op), _SINCE.get(found.op, 1)):
            return False
        if self.max_opset is not None and introduced(found.op) > self.max_opset:
            return False
        if kind == "float64" and version < _DOUBLE.get(found.op, 10_000):
            return False
        if self.legal is not None:
            return found.op in self.legal
        return found.op not in _SLOW and (found.op not in ("Softmax", "LogSoftmax") or _over_last_axis(found))


def _rewrite(nodes: list[ir.Node], found: Found, version: int) -> Rewrite | None:
    root = nodes[0]
    old = root.outputs[0]
    if found.op == "HardSigmoid" and len(found.inputs) == 2:  # HardSwish before opset 14
        x = found.inputs[0]
        if len(nodes) < 3:
            return None
        share = new_node("HardSigmoid", [x], attributes=found.attributes)
        last = new_node("Mul", [x, share.outputs[0]], old, name=root.name)
        return Rewrite(tuple(nodes), (share, last), ((old, last.outputs[0]),))
    node = new_node(found.op, found.inputs, old, name=root.name, attributes=found.attributes)
    return Rewrite(tuple(nodes), (node,), ((old, node.outputs[0]),))


def _over_last_axis(found: Found) -> bool:
    dims = dims_of(found.inputs[0])
    axis = int(found.attributes[0].value)
    return dims is not None and axis == len(dims) - 1


def _hard_attributes(alpha: float, beta: float) -> tuple[ir.Attr, ir.Attr]:
    return ir.AttrFloat32("alpha", alpha), ir.AttrFloat32("beta", beta)


# -------------------------------------------------------------------------------------------------- products
def _hard_sigmoid(node: ir.Node, version: int) -> Iterator[Found]:
    """Case 1."""
    number, others = factors(node) if is_op(node, "Mul", "Div") else (1.0, [node.outputs[0]])
    if len(others) == 1 and (others[0] is not node.outputs[0] or node.op_type not in ("Mul", "Div")):
        yield from _hard(others[0], number, version, dtype_name(node.outputs[0]))


def _hard(value: ir.Value, number: float, version: int, kind: str) -> Iterator[Found]:
    clip = bounds(value, version)
    if clip is None or clip[0] != 0 or not near(number * clip[1], 1.0, kind):
        return
    for scale, offset, x in [*affine(clip[2])][:0:-1]:
        alpha, beta = number * scale, number * offset
        if alpha > 0 and 0 < beta < 1:
            yield Found("HardSigmoid", (x,), _hard_attributes(alpha, beta))


def _self_gated(node: ir.Node, version: int) -> Iterator[Found]:
    """Cases 2, 3, 4 and 10: x times a function of x."""
    number, others = factors(node)
    if len(others) != 2 or node.outputs[0] in others:
        return
    kind = dtype_name(node.outputs[0])
    for x, gate in (others, others[::-1]):
        yield from _hard_swish(x, gate, number, version, kind)
        yield from _gelu(x, gate, number, kind)
        if near(number, 1.0, kind):
            tanh = producer(gate, "Tanh")
            softplus = producer(tanh.inputs[0], "Softplus") if tanh is not None else None
            if softplus is not None and softplus.inputs[0] is x:
                yield Found("Mish", (x,))
            sigmoid = producer(gate, "Sigmoid")
            if sigmoid is not None and sigmoid.inputs[0] is x:
                yield Found("Swish", (x,))


def _hard_swish(x: ir.Value, gate: ir.Value, number: float, version: int, kind: str) -> Iterator[Found]:
    hard = producer(gate, "HardSigmoid")
    if hard is not None and hard.inputs[0] is x and near(number, 1.0, kind):
        alpha, beta = attribute(hard, "alpha", 0.2), attribute(hard, "beta", 0.5)
        if near(alpha, 1 / 6, "float32") and beta == 0.5:
            yield Found("HardSwish", (x,))
        return
    clip = bounds(gate, version)
    if clip is None or clip[0] != 0 or not near(number * clip[1], 1.0, kind):
        return
    for scale, offset, source in affine(clip[2]):
        alpha, beta = number * scale, number * offset
        if source is x and near(alpha, 1 / 6, kind) and near(beta, 0.5, kind):
            yield Found("HardSwish", (x,))
            yield Found("HardSigmoid", (x, x), _hard_attributes(alpha, beta))


def _gelu(x: ir.Value, gate: ir.Value, number: float, kind: str) -> Iterator[Found]:
    for scale, offset, source in affine(gate):
        curve = producer(source, "Erf", "Tanh")
        if curve is None or curve.inputs[0] is None:
            continue
        if not near(number * scale, 0.5, kind) or not near(number * offset, 0.5, kind):
            continue
        if curve.op_type == "Erf":
            if any(
                inner is x and plus == 0 and near(slope, math.sqrt(0.5), kind)
                for slope, plus, inner in affine(curve.inputs[0])
            ):
                yield Found("Gelu", (x,))
        elif _is_gelu_tanh(curve.inputs[0], x, kind):
            yield Found("Gelu", (x,), (ir.AttrString("approximate", "tanh"),))


def _is_gelu_tanh(value: ir.Value, x: ir.Value, kind: str) -> bool:
    """``√(2/π) · (x + 0.044715 · x³)``, or the same with x taken out of the sum."""
    node = producer(value, "Mul", "Div")
    if node is None:
        return False
    number, others = factors(node)
    if not near(number, _GELU_TANH, kind):
        return False
    if len(others) == 2 and any(o is x for o in others):  # x · (1 + 0.044715 · x²)
        rest = others[1] if others[0] is x else others[0]
        parts = split_scalar(producer(rest, "Add"))
        return parts is not None and near(parts[1], 1.0, kind) and _is_power(parts[0], x, 2, _GELU_CUBE, kind)
    total = producer(others[0], "Add") if len(others) == 1 else None
    if total is None:
        return False
    a, b = total.inputs
    rest_ = b if a is x else a if b is x else None
    return rest_ is not None and _is_power(rest_, x, 3, _GELU_CUBE, kind)


def _is_power(value: ir.Value, x: ir.Value, exponent: int, wanted: float, kind: str) -> bool:
    """``wanted · x^exponent``, as a product or with Pow."""
    node = producer(value, "Mul", "Div")
    if node is None:
        return False
    number, others = factors(node)
    degree = 0
    for other in others:
        power = producer(other, "Pow")
        square = producer(other, "Mul")
        if other is x:
            degree += 1
        elif power is not None and power.inputs[0] is x and (k := scalar(power.inputs[1])) in (2.0, 3.0):
            degree += int(k)
        elif square is not None and square.inputs[0] is x and square.inputs[1] is x:
            degree += 2
        else:
            return False
    return degree == exponent and near(number, wanted, kind)


# ------------------------------------------------------------------------------------------------ two slopes
def _slope(value: ir.Value | None) -> tuple[ir.Value, Array, ir.Value] | None:
    """Source, constant and its value, of ``source · constant`` (a scalar or one number for each channel)."""
    node = producer(value, "Mul")
    if node is None:
        return None
    for source, factor in (node.inputs, node.inputs[::-1]):
        array = constant(factor) if constant_tensor(factor) is not None else None
        if source is not None and factor is not None and array is not None and array.size:
            return source, array, factor
    return None


def _two_slopes(x: ir.Value, slope: Array, like: ir.Value | None) -> Iterator[Found]:
    """LeakyRelu for one number; PRelu if ``like`` (a constant of the model) holds these very slopes."""
    if slope.size == 1:
        yield Found(
            "LeakyRelu",
            (x,),
            (ir.AttrFloat32("alpha", float(slope.reshape(())))),
        )
    elif like is not None and _broadcasts_into(slope.shape, x):
        yield Found("PRelu", (x, like))


def _broadcasts_into(shape: tuple[int, ...], x: ir.Value) -> bool:
    dims = dims_of(x)
    if dims is None or len(shape) > len(dims):
        return False
    return all(s in (1, d) for s, d in zip(shape[::-1], dims[::-1], strict=False))


def _max_of_slopes(node: ir.Node, version: int) -> Iterator[Found]:
    """Case 5, max and min."""
    if len(node.inputs) != 2:
        return
    for x, scaled in (node.inputs, node.inputs[::-1]):
        parts = _slope(scaled)
        if parts is None or x is None or parts[0] is not x:
            continue
        slope = parts[1]
        if ((slope > 0) & (slope < 1)).all() if node.op_type == "Max" else (slope > 1).all():
            yield from _two_slopes(x, slope, parts[2])


def _sum_of_slopes(node: ir.Node, version: int) -> Iterator[Found]:
    """Case 5: ``relu(x) ± a · relu(-x)`` and ``relu(x) + a / 2 · (x - |x|)``."""
    for positive, negative in (node.inputs, node.inputs[::-1])[: 1 if node.op_type == "Sub" else 2]:
        relu = producer(positive, "Relu")
        x = relu.inputs[0] if relu is not None else None
        parts = _slope(negative)
        if x is None or parts is None:
            continue
        mirrored = producer(parts[0], "Relu")
        minus = producer(mirrored.inputs[0], "Neg") if mirrored is not None else None
        if minus is not None and minus.inputs[0] is x:
            if node.op_type == "Sub":
                yield from _two_slopes(x, parts[1], parts[2])
            else:
                yield from _two_slopes(x, -parts[1], constant_value(f"{node.outputs[0].name}/slope", -parts[1]))
        product = producer(negative, "Mul")
        if product is not None and node.op_type == "Add":
            number, others = factors(product)
            kink = producer(others[0], "Sub") if len(others) == 1 else None
            size = producer(kink.inputs[1], "Abs") if kink is not None else None
            if kink is not None and kink.inputs[0] is x and size is not None and size.inputs[0] is x:
                yield Found("LeakyRelu", (x,), (ir.AttrFloat32("alpha", 2 * number),))


def _chosen_slope(node: ir.Node, version: int) -> Iterator[Found]:
    """Cases 5 and 12: ``x > 0 ? x : f(x)``."""
    condition, first, second = node.inputs
    test = producer(condition, "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
    if test is None or first is None or second is None:
        return
    left_zero, right_zero = scalar(test.inputs[0]) == 0, scalar(test.inputs[1]) == 0
    x = test.inputs[1] if left_zero else test.inputs[0] if right_zero else None
    if x is None:
        return
    positive = test.op_type.startswith("Greater") == right_zero
    same, other = (first, second) if positive else (second, first)
    if same is not x:
        return
    parts = _slope(other)
    if parts is not None and parts[0] is x:
        yield from _two_slopes(x, parts[1], parts[2])
    for scale, offset, source in affine(other):
        e = producer(source, "Exp")
        if e is not None and e.inputs[0] is x and scale > 0 and near(-offset, scale, dtype_name(x)):
            yield Found("Elu", (x,), (ir.AttrFloat32("alpha", scale),))


# ------------------------------------------------------------------------------------------------------ sums
def _softplus(node: ir.Node, version: int) -> Iterator[Found]:
    """Case 11."""
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
    """Case 6."""
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
    """Case 7."""
    total = reduced(producer(node.inputs[1], "ReduceSum"), "ReduceSum")
    e = producer(node.inputs[0], "Exp")
    centred = _centred(e.inputs[0]) if e is not None else None
    if total is not None and centred is not None and total[0] is node.inputs[0] and total[1] == centred[1]:
        yield from _softmax_of(centred[0], centred[1], "Softmax", version)


def _log_softmax(node: ir.Node, version: int) -> Iterator[Found]:
    """Case 8."""
    log = producer(node.inputs[1], "Log")
    total = reduced(producer(log.inputs[0], "ReduceSum"), "ReduceSum") if log is not None else None
    e = producer(total[0], "Exp") if total is not None else None
    centred = _centred(node.inputs[0])
    if total is None or e is None or centred is None:
        return
    inner = _centred(e.inputs[0])
    if inner is not None and inner[0] is centred[0] and inner[1] == centred[1] == total[1]:
        yield from _softmax_of(centred[0], centred[1], "LogSoftmax", version)


# ---------------------------------------------------------------------------------------------------- powers
def _root(node: ir.Node, version: int) -> Iterator[Found]:
    """Case 9."""
    x = node.inputs[0]
    if x is not None and scalar(node.inputs[1]) == 0.5 and _never_negative(x, 4):
        yield Found("Sqrt", (x,))


def _never_negative(value: ir.Value, depth: int) -> bool:
    """Whether the formula of the value shows that it is at least 0 (or NaN)."""
    node = value.producer()
    if node is None or depth == 0 or not is_op(node, node.op_type) or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type in _NOT_NEGATIVE:
        return True
    if node.op_type in ("ReduceMean", "ReduceSum", "ReduceMax", "Cast"):
        return _never_negative(node.inputs[0], depth - 1)
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return True
    if node.op_type == "Pow":
        return scalar(node.inputs[1]) in (2.0, 4.0)
    parts = split_scalar(node)
    if parts is None or node.op_type not in ("Add", "Mul"):
        return False
    return parts[1] >= 0 and math.isfinite(parts[1]) and _never_negative(parts[0], depth - 1)


_FINDERS: dict[str, tuple[Finder, ...]] = {
    "Mul": (_self_gated, _hard_sigmoid),
    "Div": (_self_gated, _hard_sigmoid, _softsign, _softmax),
    "Clip": (_hard_sigmoid,),
    "Min": (_hard_sigmoid, _max_of_slopes),
    "Max": (_hard_sigmoid, _max_of_slopes),
    "Add": (_sum_of_slopes, _softplus),
    "Sub": (_sum_of_slopes, _log_softmax),
    "Where": (_chosen_slope,),
    "Pow": (_root,),
}
