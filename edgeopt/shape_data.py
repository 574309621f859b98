"""What is known of sizes inside a model: dims of values, and the elements of the small tensors that hold sizes.

Exporters write shapes as computations: Shape, Gather, Mul, Concat, Reshape. ``ShapeData`` follows them with symbols
in place of numbers (``sizes.Size``), so that a rule can see that a Reshape's target is ``[N, 256]`` whatever N is.
Everything holds for every value of the symbols. Three things are taken for granted: equal names of dimensions are
equal sizes within a graph; a dimension that is stated is stated rightly, but for 0 and negative ones, which exporters
write for "unknown"; sizes are below 2**24, so that float32 holds them exactly.

Each value is looked at once, on demand, in O(1) of its node. Unknown is always an answer: None.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt import sizes
from edgeopt.graph import attribute, constant, constant_tensor, dims_of, input_or_none, is_op, opset
from edgeopt.sizes import Size

Dims = tuple[Size, ...]
Element = Size | bool | None
_MOST_ELEMENTS = 64
_MOST_DEPTH = 200  # values followed upwards from one question, beyond what was already known
_LARGEST_FACTOR = 4096  # of a size in float32: its product with a size is exact
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)

_SAME_SHAPE = frozenset(
    "Identity Cast CastLike Dropout BatchNormalization InstanceNormalization LayerNormalization GroupNormalization"
    " LpNormalization MeanVarianceNormalization LRN Relu LeakyRelu PRelu ThresholdedRelu Elu Celu Selu Gelu Mish"
    " Sigmoid HardSigmoid HardSwish Swish Tanh Softplus Softsign Softmax LogSoftmax Hardmax Clip Abs Neg Exp Log Sqrt"
    " Reciprocal Floor Ceil Round Sign Erf Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Not IsNaN IsInf"
    " BitwiseNot QuantizeLinear DequantizeLinear CumSum Trilu ReverseSequence Shrink".split()
)
_BROADCAST = frozenset(
    "Add Sub Mul Div Pow Mod Min Max Sum Mean And Or Xor Equal Less Greater LessOrEqual GreaterOrEqual Where"
    " BitwiseAnd BitwiseOr BitwiseXor BitShift".split()
)


@dataclass(frozen=True)
class Data:
    """The elements of a scalar (``scalar``) or vector; an element that is not known is None, truths are bools."""

    elements: tuple[Element, ...]
    scalar: bool
    dtype: ir.DataType

    def numbers(self) -> list[Size] | None:
        """The elements, all known and no truths; else None."""
        found = [e for e in self.elements if isinstance(e, Size)]
        return found if len(found) == len(self.elements) else None

    def array(self) -> np.ndarray[Any, np.dtype[Any]] | None:
        """The elements as an array where none depends on a symbol, and the type holds them exactly; else None."""
        values: list[bool | int | float] = []
        for e in self.elements:
            plain = e if isinstance(e, bool) else e.number if e is not None else None
            if plain is None:
                return None
            if self.dtype in _INTEGERS and plain.denominator != 1:
                return None
            values.append(float(plain) if self.dtype in _FLOATS else int(plain))
        try:
            result = np.array(values, self.dtype.numpy())
        except (OverflowError, TypeError):
            return None
        exact = all(Fraction(x.item()) == Fraction(v) for x, v in zip(result, values, strict=True))
        return (result.reshape(()) if self.scalar else result) if exact else None


class ShapeData:
    """Answers for one model, as it is when asked; rewrites that keep every value's meaning keep the answers.

    Args:
        model: Read only.
    """

    def __init__(self, model: ir.Model) -> None:
        self._main = model.graph
        self._version = opset(model)
        self._dims: dict[ir.Value, Dims | None] = {}
        self._data: dict[ir.Value, Data | None] = {}
        self._aliases: dict[str, Size] = {}
        self._unknown = itertools.count()
        self._depth = 0
        self._base = {d for v in model.graph.inputs for d in dims_of(v) or () if isinstance(d, str)}

    # ------------------------------------------------------------------------------------------------ dims
    def dims(self, value: ir.Value | None) -> Dims | None:
        """Dims of a value; None if its rank is unknown. A dimension of unknown size is a symbol of its own."""
        if value is None:
            return None
        if value not in self._dims:
            if self._depth > _MOST_DEPTH:
                return self._merged(value, None, keep=False)
            self._depth += 1
            self._dims[value] = None  # a cycle cannot happen in a sorted graph; in a broken one it ends here
            found = self._derived(value)
            self._depth -= 1
            self._dims[value] = self._merged(value, found)
        return self._dims[value]

    def _merged(
        self, value: ir.Value, found: Sequence[Size | None] | None, *, keep: bool = True
    ) -> Dims | None:
        """What is stated and what follows from the producer, the more telling of both per axis."""
        tensor = constant_tensor(value)
        if tensor is not None:
            return tuple(sizes.number(int(d)) for d in tensor.shape.numpy())  # type: ignore[union-attr]
        stated = dims_of(value)
        if stated is None:
            if found is None:
                return None
            stated = (None,) * len(found)
        if found is None or len(found) != len(stated):
            found = (None,) * len(stated)
        return tuple(self._one(value, s, f, keep) for s, f in zip(stated, found, strict=True))

    def _one(self, value: ir.Value, stated: int | str | None, found: Size | None, keep: bool) -> Size:
        if isinstance(stated, int) and stated > 0:
            return sizes.number(stated)
        if not isinstance(stated, str):
            return found if found is not None else sizes.symbol(f"?{next(self._unknown)}")
        if value.graph is not self._main:  # a name inside a body need not mean the same size on every trip
            own = f"{stated}@{value.graph.name if value.graph else ''}#{id(value.graph)}"
            return found if found is not None else sizes.symbol(own)
        if stated in self._base:
            return sizes.symbol(stated)
        if found is not None:
            return self._aliases.setdefault(stated, found) if keep else found
        return self._aliases.get(stated, sizes.symbol(stated))

    def _derived(self, value: ir.Value) -> Sequence[Size | None] | None:
        node = value.producer()
        if node is None or not is_op(node, node.op_type):
            return None
        if node.op_type in _SAME_SHAPE:
            first = node.outputs[0] is value or node.op_type == "Dropout"
            return self.dims(input_or_none(node, 0)) if first else None
        if node.op_type in _BROADCAST:
            return self._broadcast([self.dims(v) for v in node.inputs]) if self._version >= 7 else None
        rule = _DIMS.get(node.op_type)
        return rule(self, node, node.outputs.index(value)) if rule is not None else None

    @staticmethod
    def _broadcast(shapes: Sequence[Dims | None]) -> list[Size | None] | None:
        known = [s for s in shapes if s is not None]
        if len(known) != len(shapes):
            return None
        result: list[Size | None] = []
        for axis in range(-max(map(len, known), default=0), 0):
            given = {s[axis] for s in known if len(s) >= -axis} - {sizes.number(1)}
            fixed = [g for g in given if g.integer is not None]
            result.append(
                sizes.number(1) if not given else given.pop() if len(given) == 1 else fixed[0] if fixed else None
            )
        return result

    # ------------------------------------------------------------------------------------------------ data
    def data(self, value: ir.Value | None) -> Data | None:
        """Elements of a scalar or vector of sizes; None if it is something else or nothing is known of it."""
        if value is None:
            return None
        if value not in self._data:
            if self._depth > _MOST_DEPTH:
                return None
            self._depth += 1
            self._data[value] = None
            found = self._computed(value)
            self._depth -= 1
            self._data[value] = found
        return self._data[value]

    def _computed(self, value: ir.Value) -> Data | None:
        tensor = constant_tensor(value)
        if tensor is not None:
            return _constant_data(value, tensor)
        node = value.producer()
        if node is None or not is_op(node, node.op_type) or len(node.outputs) != 1 and node.op_type != "Split":
            return None
        rule = _DATA.get(node.op_type)
        found = rule(self, node, node.outputs.index(value)) if rule is not None else None
        if found is None or len(found.elements) > _MOST_ELEMENTS or value.dtype not in (None, found.dtype):
            return None
        return Data(tuple(_sound(e, found.dtype) for e in found.elements), found.scalar, found.dtype)


def _sound(element: Element, dtype: ir.DataType) -> Element:
    """None for what the type would not hold exactly."""
    if not isinstance(element, Size):
        return element
    if dtype in _INTEGERS:
        limit = 2 ** (63 if dtype == ir.DataType.INT64 else 31)
        fine = element.whole and all(abs(c) < limit for _, c in element.terms)
    else:
        fine = all(
            c.denominator & (c.denominator - 1) == 0 and c.denominator <= _LARGEST_FACTOR
            and abs(c.numerator) < (_LARGEST_FACTOR if m else 2**24)
            for m, c in element.terms
        )  # fmt: skip
    return element if fine else None


def _constant_data(value: ir.Value, tensor: ir.TensorProtocol) -> Data | None:
    kinds = (*_INTEGERS, *_FLOATS, ir.DataType.BOOL)
    if tensor.dtype not in kinds or len(tensor.shape) > 1 or tensor.size > _MOST_ELEMENTS:
        return None
    array = constant(value)
    assert array is not None  # it has a tensor
    elements: list[Element] = []
    for item in array.reshape(-1).tolist():
        if isinstance(item, bool):
            elements.append(item)
        else:
            elements.append(sizes.number(item) if math.isfinite(item) else None)
    return Data(tuple(elements), array.ndim == 0, tensor.dtype)


# ---------------------------------------------------------------------------------------- data, by operator
def _shape(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    dims = of.dims(input_or_none(node, 0))
    if dims is None:
        return None
    start, end = attribute(node, "start", 0), attribute(node, "end", len(dims))
    return Data(dims[slice(start, end)], False, ir.DataType.INT64)


def _size(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    dims = of.dims(input_or_none(node, 0))
    total = product(dims) if dims is not None else None
    return None if total is None else Data((total,), True, ir.DataType.INT64)


def product(factors: Sequence[Element]) -> Size | None:
    """Of all; None if one is unknown or the product too long."""
    total: Size | None = sizes.number(1)
    for factor in factors:
        if total is None or not isinstance(factor, Size):
            return None
        total = sizes.multiply(total, factor)
    return total


def _handed_on(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    return of.data(input_or_none(node, 0))


def _cast(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    given, to = of.data(input_or_none(node, 0)), ir.DataType(attribute(node, "to", 0))
    if given is None or to not in (*_INTEGERS, *_FLOATS):
        return None
    elements: list[Element] = []
    for e in given.elements:
        if isinstance(e, bool):
            elements.append(sizes.number(int(e)))
        elif e is None or to in _FLOATS or e.whole:
            elements.append(e)
        else:
            elements.append(sizes.floor_divide(e, sizes.number(1)) if e.at_least_zero else None)
    return Data(tuple(elements), given.scalar, to)


def _gather(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    given, indices = of.data(input_or_none(node, 0)), constant(input_or_none(node, 1))
    if given is None or given.scalar or indices is None or indices.ndim > 1 or attribute(node, "axis", 0) not in (0, -1):
        return None
    chosen = [int(i) for i in indices.reshape(-1)]
    count = len(given.elements)
    if any(not -count <= i < count for i in chosen):
        return None
    return Data(tuple(given.elements[i] for i in chosen), indices.ndim == 0, given.dtype)


def _slice(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    given = of.data(input_or_none(node, 0))
    bounds = slice_bounds(node, of)
    if given is None or given.scalar or bounds is None or len(bounds) > 1:
        return None
    if not bounds:
        return given
    (axis, start, end, step), *_none = bounds
    first, last = start.integer, end.integer
    if axis not in (0, -1) or first is None or last is None or step == 0:
        return None
    count = len(given.elements)
    if step > 0:
        chosen = given.elements[slice(first, last, step)]
    else:
        low = last + count if -count <= last < 0 else last
        chosen = given.elements[slice(first, low if low >= 0 else None, step)]
    return Data(chosen, False, given.dtype)


def slice_bounds(node: ir.Node, of: ShapeData) -> list[tuple[int, Size, Size, int]] | None:
    """(axis, start, end, step) of a Slice, by inputs or attributes; None where one is not known."""
    if "starts" in node.attributes:
        starts, ends = attribute(node, "starts"), attribute(node, "ends")
        axes = attribute(node, "axes", list(range(len(starts))))
        return [(a, sizes.number(s), sizes.number(e), 1) for a, s, e in zip(axes, starts, ends, strict=False)]
    found = [of.data(input_or_none(node, k)) for k in (1, 2)]
    pair = [d.numbers() if d is not None else None for d in found]
    first, last = pair
    if first is None or last is None or len(first) != len(last):
        return None
    listed, stepped = input_or_none(node, 3), input_or_none(node, 4)
    axes_, steps_ = constant(listed), constant(stepped)
    if (listed is not None and axes_ is None) or (stepped is not None and steps_ is None):
        return None
    axes = list(range(len(first))) if axes_ is None else [int(a) for a in axes_.reshape(-1)]
    steps = [1] * len(first) if steps_ is None else [int(s) for s in steps_.reshape(-1)]
    if not len(axes) == len(steps) == len(first):
        return None
    return list(zip(axes, first, last, steps, strict=True))


def _concat(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    parts = [of.data(v) for v in node.inputs]
    elements: list[Element] = []
    dtype = None
    for value, part in zip(node.inputs, parts, strict=True):
        if part is None:  # a vector of unknown elements still has a length
            dims = of.dims(value)
            count = dims[0].integer if dims is not None and len(dims) == 1 else None
            if count is None or count > _MOST_ELEMENTS:
                return None
            elements += [None] * count
        elif part.scalar:
            return None
        else:
            elements += part.elements
            dtype = part.dtype
    return None if dtype is None else Data(tuple(elements), False, dtype)


def _lifted(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    given = of.data(input_or_none(node, 0))
    axes = fixed_axes(node)
    fits = given is not None and given.scalar and axes is not None and len(axes) == 1 and axes[0] in (0, -1)
    return Data(given.elements, False, given.dtype) if fits and given is not None else None


def _lowered(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    given = of.data(input_or_none(node, 0))
    if given is None or given.scalar or len(given.elements) != 1:
        return None
    axes = fixed_axes(node)
    return Data(given.elements, True, given.dtype) if axes in ([0], [-1], None) and _axes_known(node) else None


def _axes_known(node: ir.Node) -> bool:
    listed = input_or_none(node, 1)
    return listed is None or constant_tensor(listed) is not None


def fixed_axes(node: ir.Node) -> list[int] | None:
    """Axes of a Squeeze, Unsqueeze or Reduce, by input or attribute; None if not given or not constant."""
    listed = input_or_none(node, 1)
    found = constant(listed) if listed is not None else attribute(node, "axes")
    return None if found is None else [int(a) for a in np.asarray(found).reshape(-1)]


def _reshaped(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    given, target = of.data(input_or_none(node, 0)), constant(input_or_none(node, 1))
    if given is None or target is None or target.size > 1:
        return None
    count = len(given.elements)
    if target.size == 0:
        return Data(given.elements, True, given.dtype) if count == 1 else None
    return Data(given.elements, False, given.dtype) if int(target.reshape(-1)[0]) in (-1, count) else None


def _pairs(of: ShapeData, node: ir.Node) -> tuple[list[tuple[Element, Element]], bool, ir.DataType] | None:
    if len(node.inputs) != 2:
        return None
    a, b = of.data(node.inputs[0]), of.data(node.inputs[1])
    if a is None or b is None or a.dtype != b.dtype:
        return None
    count = max(len(a.elements), len(b.elements)) if len(a.elements) != 0 != len(b.elements) else 0
    if any(len(d.elements) not in (1, count) for d in (a, b)):
        return None
    left, right = (d.elements * count if len(d.elements) == 1 else d.elements for d in (a, b))
    return list(zip(left, right, strict=True)), a.scalar and b.scalar, a.dtype


def _arithmetic(how: Callable[[Size, Size, bool], Size | bool | None]) -> Callable[[ShapeData, ir.Node, int], Data | None]:
    def rule(of: ShapeData, node: ir.Node, _: int) -> Data | None:
        found = _pairs(of, node)
        if found is None:
            return None
        pairs, scalar, dtype = found
        floats = dtype in _FLOATS
        results = tuple(how(a, b, floats) if isinstance(a, Size) and isinstance(b, Size) else None for a, b in pairs)
        truth = node.op_type in _COMPARISONS
        return Data(results, scalar, ir.DataType.BOOL if truth else dtype)

    return rule


def _divided(a: Size, b: Size, floats: bool) -> Size | None:
    """Whole numbers are cut towards 0, which for sizes of at least 0 is down."""
    if floats:
        return sizes.quotient(a, b)
    if not b.terms:
        return None
    exact = sizes.quotient(a, b)
    if exact is not None and exact.whole:
        return exact
    return sizes.floor_divide(a, b) if a.at_least_zero and b.at_least_zero else None


def _modulo(a: Size, b: Size, floats: bool) -> Size | None:
    return sizes.remainder(a, b) if not floats and a.at_least_zero and b.at_least_zero and b.terms else None


def _not_below(a: Size, b: Size) -> bool | None:
    """Whether a >= b; None if it depends."""
    up, down = sizes.subtract(a, b), sizes.subtract(b, a)
    if up is not None and up.at_least_zero:
        return True
    if down is not None and down.at_least_zero and _constant_term(down) > 0:
        return False
    return None


def _constant_term(size: Size) -> Fraction:
    return next((c for m, c in size.terms if not m), Fraction(0))


def _larger(a: Size, b: Size, floats: bool) -> Size | None:
    if a == b or _not_below(a, b):
        return a
    return b if _not_below(b, a) else None


def _smaller(a: Size, b: Size, floats: bool) -> Size | None:
    if a == b or _not_below(b, a):
        return a
    return b if _not_below(a, b) else None


def _equal(a: Size, b: Size, floats: bool) -> bool | None:
    if a == b:
        return True
    difference = sizes.subtract(a, b)
    if difference is None:
        return None
    opposite = sizes.subtract(b, a)
    apart = [d for d in (difference, opposite) if d is not None and d.at_least_zero and _constant_term(d) > 0]
    return False if apart else None


def _opposite(truth: bool | None) -> bool | None:
    return None if truth is None else not truth


_COMPARISONS = ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")


def _logic(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    found = _pairs(of, node)
    if found is None:
        return None
    pairs, scalar, dtype = found
    decisive = node.op_type == "Or"  # the truth that settles it alone

    def both(a: Element, b: Element) -> bool | None:
        if decisive in (a, b) and any(isinstance(x, bool) and x is decisive for x in (a, b)):
            return decisive
        return (not decisive) if isinstance(a, bool) and isinstance(b, bool) else None

    return Data(tuple(both(a, b) for a, b in pairs), scalar, dtype)


def _negated(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    given = of.data(input_or_none(node, 0))
    if given is None:
        return None
    return Data(tuple(not e if isinstance(e, bool) else None for e in given.elements), given.scalar, given.dtype)


def _rounded(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    given = of.data(input_or_none(node, 0))
    if given is None:
        return None
    down = node.op_type == "Floor"

    def one(e: Element) -> Element:
        if not isinstance(e, Size) or e.whole:
            return e
        return sizes.floor_divide(e, sizes.number(1)) if down and e.at_least_zero else None

    return Data(tuple(map(one, given.elements)), given.scalar, given.dtype)


def _reduced(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    given = of.data(input_or_none(node, 0))
    axes = fixed_axes(node)
    if given is None or given.scalar or not given.elements or not _axes_known(node):
        return None
    if axes not in (None, [0], [-1], []) or (axes in (None, []) and attribute(node, "noop_with_empty_axes", 0)):
        return None
    total: Element = given.elements[0]
    for e in given.elements[1:]:
        if not isinstance(total, Size) or not isinstance(e, Size):
            return None
        total = {
            "ReduceProd": sizes.multiply,
            "ReduceSum": sizes.add,
            "ReduceMax": lambda a, b: _larger(a, b, False),
            "ReduceMin": lambda a, b: _smaller(a, b, False),
        }[node.op_type](total, e)
    if not isinstance(total, Size):
        return None
    return Data((total,), not attribute(node, "keepdims", 1), given.dtype)


def _chosen(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    parts = [of.data(input_or_none(node, k)) for k in range(3)]
    known = [p for p in parts if p is not None]
    if len(known) != 3 or known[1].dtype != known[2].dtype:
        return None
    count = max(len(p.elements) for p in known)
    if any(len(p.elements) not in (1, count) for p in known):
        return None
    tests, a, b = (p.elements * count if len(p.elements) == 1 else p.elements for p in known)
    results = tuple(
        (x if t else y) if isinstance(t, bool) else (x if x is not None and x == y else None)
        for t, x, y in zip(tests, a, b, strict=True)
    )
    return Data(results, all(p.scalar for p in known), known[1].dtype)


def _filled(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    """ConstantOfShape of a vector."""
    target = of.data(input_or_none(node, 0))
    numbers = target.numbers() if target is not None else None
    count = numbers[0].integer if numbers is not None and len(numbers) == 1 else None
    tensor = attribute(node, "value")
    if count is None or not 0 <= count <= _MOST_ELEMENTS or (target is not None and target.scalar):
        return None
    if tensor is None:
        return Data((sizes.number(0),) * count, False, ir.DataType.FLOAT)
    if tensor.dtype not in (*_INTEGERS, *_FLOATS):
        return None
    item = np.asarray(tensor.numpy()).reshape(-1)[0].item()
    return Data((sizes.number(item),) * count, False, tensor.dtype) if math.isfinite(item) else None


def _range(of: ShapeData, node: ir.Node, _: int) -> Data | None:
    parts = [of.data(input_or_none(node, k)) for k in range(3)]
    numbers = [n[0].integer if p is not None and (n := p.numbers()) else None for p in parts]
    start, limit, step = numbers
    dtype = parts[0].dtype if parts[0] is not None else None
    if start is None or limit is None or step is None or step == 0 or dtype not in _INTEGERS:
        return None
    items = range(start, limit, step)
    if len(items) > _MOST_ELEMENTS or dtype is None:
        return None
    return Data(tuple(sizes.number(i) for i in items), False, dtype)


def _part(of: ShapeData, node: ir.Node, index: int) -> Data | None:
    """Split of a vector into parts of known sizes."""
    given = of.data(input_or_none(node, 0))
    listed = input_or_none(node, 1)
    lengths = constant(listed) if listed is not None else attribute(node, "split")
    if given is None or given.scalar or (listed is not None and lengths is None):
        return None
    count = len(given.elements)
    if lengths is None:
        if count % len(node.outputs):
            return None
        lengths = [count // len(node.outputs)] * len(node.outputs)
    starts = np.cumsum([0, *np.asarray(lengths).reshape(-1)])
    if len(starts) != len(node.outputs) + 1 or starts[-1] != count:
        return None
    return Data(given.elements[starts[index] : starts[index + 1]], False, given.dtype)


_DATA: dict[str, Callable[[ShapeData, ir.Node, int], Data | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _handed_on,
    "Cast": _cast,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _lifted,
    "Squeeze": _lowered,
    "Reshape": _reshaped,
    "Add": _arithmetic(lambda a, b, _: sizes.add(a, b)),
    "Sub": _arithmetic(lambda a, b, _: sizes.subtract(a, b)),
    "Mul": _arithmetic(lambda a, b, _: sizes.multiply(a, b)),
    "Div": _arithmetic(_divided),
    "Mod": _arithmetic(_modulo),
    "Max": _arithmetic(_larger),
    "Min": _arithmetic(_smaller),
    "Equal": _arithmetic(_equal),
    "GreaterOrEqual": _arithmetic(lambda a, b, _: _not_below(a, b)),
    "LessOrEqual": _arithmetic(lambda a, b, _: _not_below(b, a)),
    "Less": _arithmetic(lambda a, b, _: _opposite(_not_below(a, b))),
    "Greater": _arithmetic(lambda a, b, _: _opposite(_not_below(b, a))),
    "And": _logic,
    "Or": _logic,
    "Not": _negated,
    "Floor": _rounded,
    "Ceil": _rounded,
    "Round": _rounded,
    "ReduceProd": _reduced,
    "ReduceSum": _reduced,
    "ReduceMax": _reduced,
    "ReduceMin": _reduced,
    "Where": _chosen,
    "ConstantOfShape": _filled,
    "Range": _range,
    "Split": _part,
}
DATA_OPS = frozenset(_DATA)


# ---------------------------------------------------------------------------------------- dims, by operator
def _transposed(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims = of.dims(input_or_none(node, 0))
    if dims is None:
        return None
    perm = attribute(node, "perm", list(range(len(dims)))[::-1])
    return [dims[p] for p in perm] if sorted(perm) == list(range(len(dims))) else None


def _joined(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    shapes = [of.dims(v) for v in node.inputs]
    known = [s for s in shapes if s is not None]
    axis = attribute(node, "axis", 1)
    if not known or any(len(s) != len(known[0]) for s in known) or not -len(known[0]) <= axis < len(known[0]):
        return None
    result: list[Size | None] = []
    for k in range(len(known[0])):
        given = [s[k] for s in known]
        if k == axis % len(known[0]):
            total: Size | None = sizes.number(0) if len(known) == len(shapes) else None
            for size in given:
                total = sizes.add(total, size) if total is not None else None
            result.append(total)
        else:
            result.append(next((g for g in given if g.integer is not None), given[0]))
    return result


def _target(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    """Reshape."""
    data, dims = of.data(input_or_none(node, 1)), of.dims(input_or_none(node, 0))
    if data is None or data.scalar:
        return None
    result: list[Size | None] = []
    open_ = None
    for k, e in enumerate(data.elements):
        if not isinstance(e, Size):
            result.append(None)
        elif e.integer == -1:
            open_ = k
            result.append(None)
        elif e.integer == 0 and not attribute(node, "allowzero", 0):
            result.append(dims[k] if dims is not None and k < len(dims) else None)
        else:
            result.append(e)
    if open_ is not None and dims is not None:
        others = product([r for k, r in enumerate(result) if k != open_])
        total = product(dims)
        found = sizes.quotient(total, others) if total is not None and others is not None else None
        result[open_] = found if found is not None and found.whole else None
    return result


def _expanded(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    data, dims = of.data(input_or_none(node, 1)), of.dims(input_or_none(node, 0))
    wanted = data.numbers() if data is not None and not data.scalar else None
    return ShapeData._broadcast([tuple(wanted), dims]) if wanted is not None and dims is not None else None


def _resized(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims = of.dims(input_or_none(node, 0))
    if dims is None or attribute(node, "axes") is not None:
        return None
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        data = of.data(node.inputs[3])
        plain = attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
        if data is None or not plain or len(data.elements) != len(dims):
            return None
        return [e if isinstance(e, Size) else None for e in data.elements]
    if attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    given = input_or_none(node, 2 if len(node.inputs) > 2 else 1)
    data = of.data(given)
    scales = data.numbers() if data is not None and data.dtype in _FLOATS else None
    if scales is None or len(scales) != len(dims):
        return None
    result: list[Size | None] = []
    for size, scale in zip(dims, scales, strict=True):
        scaled = sizes.multiply(size, scale) if scale.integer is not None else None
        result.append(scaled)
    return result


def _windowed(of: ShapeData, node: ir.Node, index: int) -> Sequence[Size | None] | None:
    """Conv and pooling."""
    dims = of.dims(input_or_none(node, 0))
    if dims is None or len(dims) < 3:
        return None
    spatial = len(dims) - 2
    channels: Size | None = dims[1]
    kernel = attribute(node, "kernel_shape")
    if node.op_type == "Conv":
        weight = of.dims(input_or_none(node, 1))
        if weight is None or len(weight) != len(dims):
            return None
        channels = weight[0]
        found = [w.integer for w in weight[2:]]
        kernel = kernel or [k for k in found if k is not None]
    strides, dilations = (attribute(node, k, [1] * spatial) for k in ("strides", "dilations"))
    pads, auto = attribute(node, "pads", [0] * 2 * spatial), attribute(node, "auto_pad", "NOTSET")
    if not kernel or len(kernel) != spatial or attribute(node, "ceil_mode", 0):
        return [dims[0], channels, *[None] * spatial]
    result: list[Size | None] = []
    for k in range(spatial):
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            up = sizes.add(dims[2 + k], sizes.number(strides[k] - 1))
            result.append(sizes.floor_divide(up, sizes.number(strides[k])) if up is not None else None)
            continue
        around = pads[k] + pads[k + spatial] if auto == "NOTSET" else 0
        room = sizes.add(dims[2 + k], sizes.number(around - dilations[k] * (kernel[k] - 1) - 1))
        steps = sizes.floor_divide(room, sizes.number(strides[k])) if room is not None else None
        result.append(sizes.add(steps, sizes.number(1)) if steps is not None else None)
    return [dims[0], channels, *result]


def _pooled(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims = of.dims(input_or_none(node, 0))
    return None if dims is None else [*dims[:2], *[sizes.number(1)] * (len(dims) - 2)]


def _flattened(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims, axis = of.dims(input_or_none(node, 0)), attribute(node, "axis", 1)
    if dims is None:
        return None
    axis = axis + len(dims) if axis < 0 else axis
    return [product(dims[:axis]), product(dims[axis:])]


def _with_axes(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims, axes = of.dims(input_or_none(node, 0)), fixed_axes(node)
    if dims is None or axes is None:
        return None
    rank = len(dims) + len(axes)
    wanted = {a % rank for a in axes}
    rest = iter(dims)
    return [sizes.number(1) if k in wanted else next(rest) for k in range(rank)] if len(wanted) == len(axes) else None


def _without_axes(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims, axes = of.dims(input_or_none(node, 0)), fixed_axes(node)
    if dims is None or axes is None:
        return None
    gone = {a % len(dims) for a in axes} if dims else set()
    return [d for k, d in enumerate(dims) if k not in gone]


def _sliced(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims, bounds = of.dims(input_or_none(node, 0)), slice_bounds(node, of)
    if dims is None or bounds is None:
        return list((None,) * len(dims)) if dims is not None else None
    result: list[Size | None] = list(dims)
    for axis, start, end, step in bounds:
        k = axis % len(dims)
        whole = step == 1 and start == sizes.number(0) and (end == dims[k] or (end.integer or 0) >= 2**31 - 1)
        if not whole:
            result[k] = None
    return result


def _picked(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims, indices, axis = of.dims(input_or_none(node, 0)), of.dims(input_or_none(node, 1)), attribute(node, "axis", 0)
    if dims is None or indices is None or not dims:
        return None
    k = axis % len(dims)
    return [*dims[:k], *indices, *dims[k + 1 :]]


def _multiplied(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    a, b = of.dims(input_or_none(node, 0)), of.dims(input_or_none(node, 1))
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return None
    batch = ShapeData._broadcast([a[:-2], b[:-2]])
    return [*batch, a[-2], b[-1]] if batch is not None else None


def _gemm(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    a, b = of.dims(input_or_none(node, 0)), of.dims(input_or_none(node, 1))
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    return [a[1 if attribute(node, "transA", 0) else 0], b[0 if attribute(node, "transB", 0) else 1]]


def _split(of: ShapeData, node: ir.Node, index: int) -> Sequence[Size | None] | None:
    dims, axis = of.dims(input_or_none(node, 0)), attribute(node, "axis", 0)
    if dims is None or not dims:
        return None
    listed = input_or_none(node, 1)
    lengths = constant(listed) if listed is not None else attribute(node, "split")
    part = None if lengths is None else sizes.number(int(np.asarray(lengths).reshape(-1)[index]))
    return [part if k == axis % len(dims) else d for k, d in enumerate(dims)]


def _padded(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims, given = of.dims(input_or_none(node, 0)), input_or_none(node, 1)
    pads = constant(given) if given is not None else attribute(node, "pads")
    if dims is None or pads is None or input_or_none(node, 3) is not None or len(pads) != 2 * len(dims):
        return None
    return [
        d if not (a or b) else sizes.add(d, sizes.number(int(a) + int(b)))
        for d, a, b in zip(dims, pads[: len(dims)], pads[len(dims) :], strict=True)
    ]


def _filled_dims(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    data = of.data(input_or_none(node, 0))
    return None if data is None or data.scalar else [e if isinstance(e, Size) else None for e in data.elements]


def _rank(of: ShapeData, node: ir.Node, _: int) -> Sequence[Size | None] | None:
    dims = of.dims(input_or_none(node, 0))
    if dims is None:
        return None
    start, end = attribute(node, "start", 0), attribute(node, "end", len(dims))
    return [sizes.number(len(dims[slice(start, end)]))]


_DIMS: dict[str, Callable[[ShapeData, ir.Node, int], Sequence[Size | None] | None]] = {
    "Transpose": _transposed,
    "Concat": _joined,
    "Reshape": _target,
    "Expand": _expanded,
    "Resize": _resized,
    "Conv": _windowed,
    "MaxPool": _windowed,
    "AveragePool": _windowed,
    "GlobalAveragePool": _pooled,
    "GlobalMaxPool": _pooled,
    "Flatten": _flattened,
    "Unsqueeze": _with_axes,
    "Squeeze": _without_axes,
    "Slice": _sliced,
    "Gather": _picked,
    "MatMul": _multiplied,
    "Gemm": _gemm,
    "Split": _split,
    "Pad": _padded,
    "ConstantOfShape": _filled_dims,
    "Shape": _rank,
}
