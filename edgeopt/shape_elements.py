"""Elements of the small tensors that hold sizes, operator by operator.

Each rule takes whom to ask (``Known``), the node and which output; None where nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import onnx_ir as ir

from edgeopt import sizes
from edgeopt.graph import attribute, constant, constant_tensor, input_or_none
from edgeopt.shape_known import FLOATS, INTEGERS, MOST_ELEMENTS, Data, Element, Known, fixed_axes, product, slice_bounds
from edgeopt.sizes import Size


def _shape(of: Known, node: ir.Node, _: int) -> Data | None:
    dims = of.dims(input_or_none(node, 0))
    if dims is None:
        return None
    start, end = attribute(node, "start", 0), attribute(node, "end", len(dims))
    return Data(dims[slice(start, end)], False, ir.DataType.INT64)


def _size(of: Known, node: ir.Node, _: int) -> Data | None:
    dims = of.dims(input_or_none(node, 0))
    total = product(dims) if dims is not None else None
    return None if total is None else Data((total,), True, ir.DataType.INT64)


def _handed_on(of: Known, node: ir.Node, _: int) -> Data | None:
    return of.data(input_or_none(node, 0))


def _cast(of: Known, node: ir.Node, _: int) -> Data | None:
    given, to = of.data(input_or_none(node, 0)), ir.DataType(attribute(node, "to", 0))
    if given is None or to not in (*INTEGERS, *FLOATS):
        return None
    elements: list[Element] = []
    for e in given.elements:
        if isinstance(e, bool):
            elements.append(sizes.number(int(e)))
        elif e is None or to in FLOATS or e.whole:
            elements.append(e)
        else:
            elements.append(sizes.floor_divide(e, sizes.number(1)) if e.at_least_zero else None)
    return Data(tuple(elements), given.scalar, to)


def _gather(of: Known, node: ir.Node, _: int) -> Data | None:
    given, indices = of.data(input_or_none(node, 0)), constant(input_or_none(node, 1))
    if (
        given is None
        or given.scalar
        or indices is None
        or indices.ndim > 1
        or attribute(node, "axis", 0) not in (0, -1)
    ):
        return None
    chosen = [int(i) for i in indices.reshape(-1)]
    count = len(given.elements)
    if any(not -count <= i < count for i in chosen):
        return None
    return Data(tuple(given.elements[i] for i in chosen), indices.ndim == 0, given.dtype)


def _slice(of: Known, node: ir.Node, _: int) -> Data | None:
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


def _concat(of: Known, node: ir.Node, _: int) -> Data | None:
    parts = [of.data(v) for v in node.inputs]
    elements: list[Element] = []
    dtype = None
    for value, part in zip(node.inputs, parts, strict=True):
        if part is None:  # a vector of unknown elements still has a length
            dims = of.dims(value)
            count = dims[0].integer if dims is not None and len(dims) == 1 else None
            if count is None or count > MOST_ELEMENTS:
                return None
            elements += [None] * count
        elif part.scalar:
            return None
        else:
            elements += part.elements
            dtype = part.dtype
    return None if dtype is None else Data(tuple(elements), False, dtype)


def _lifted(of: Known, node: ir.Node, _: int) -> Data | None:
    given = of.data(input_or_none(node, 0))
    axes = fixed_axes(node)
    fits = given is not None and given.scalar and axes is not None and len(axes) == 1 and axes[0] in (0, -1)
    return Data(given.elements, False, given.dtype) if fits and given is not None else None


def _lowered(of: Known, node: ir.Node, _: int) -> Data | None:
    given = of.data(input_or_none(node, 0))
    if given is None or given.scalar or len(given.elements) != 1:
        return None
    axes = fixed_axes(node)
    return Data(given.elements, True, given.dtype) if axes in ([0], [-1], None) and _axes_known(node) else None


def _axes_known(node: ir.Node) -> bool:
    listed = input_or_none(node, 1)
    return listed is None or constant_tensor(listed) is not None


def _reshaped(of: Known, node: ir.Node, _: int) -> Data | None:
    given, target = of.data(input_or_none(node, 0)), constant(input_or_none(node, 1))
    if given is None or target is None or target.size > 1:
        return None
    count = len(given.elements)
    if target.size == 0:
        return Data(given.elements, True, given.dtype) if count == 1 else None
    return Data(given.elements, False, given.dtype) if int(target.reshape(-1)[0]) in (-1, count) else None


def _pairs(of: Known, node: ir.Node) -> tuple[list[tuple[Element, Element]], bool, ir.DataType] | None:
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


def _arithmetic(how: Callable[[Size, Size, bool], Size | bool | None]) -> Callable[[Known, ir.Node, int], Data | None]:
    def rule(of: Known, node: ir.Node, _: int) -> Data | None:
        found = _pairs(of, node)
        if found is None:
            return None
        pairs, scalar, dtype = found
        floats = dtype in FLOATS
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


def _logic(of: Known, node: ir.Node, _: int) -> Data | None:
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


def _negated(of: Known, node: ir.Node, _: int) -> Data | None:
    given = of.data(input_or_none(node, 0))
    if given is None:
        return None
    return Data(tuple(not e if isinstance(e, bool) else None for e in given.elements), given.scalar, given.dtype)


def _rounded(of: Known, node: ir.Node, _: int) -> Data | None:
    given = of.data(input_or_none(node, 0))
    if given is None:
        return None
    down = node.op_type == "Floor"

    def one(e: Element) -> Element:
        if not isinstance(e, Size) or e.whole:
            return e
        return sizes.floor_divide(e, sizes.number(1)) if down and e.at_least_zero else None

    return Data(tuple(map(one, given.elements)), given.scalar, given.dtype)


_REDUCTIONS: dict[str, Callable[[Size, Size], Size | None]] = {
    "ReduceProd": sizes.multiply,
    "ReduceSum": sizes.add,
    "ReduceMax": lambda a, b: _larger(a, b, False),
    "ReduceMin": lambda a, b: _smaller(a, b, False),
}


def _reduced(of: Known, node: ir.Node, _: int) -> Data | None:
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
        total = _REDUCTIONS[node.op_type](total, e)
    if not isinstance(total, Size):
        return None
    return Data((total,), not attribute(node, "keepdims", 1), given.dtype)


def _chosen(of: Known, node: ir.Node, _: int) -> Data | None:
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


def _filled(of: Known, node: ir.Node, _: int) -> Data | None:
    """ConstantOfShape of a vector."""
    target = of.data(input_or_none(node, 0))
    numbers = target.numbers() if target is not None else None
    count = numbers[0].integer if numbers is not None and len(numbers) == 1 else None
    tensor = attribute(node, "value")
    if count is None or not 0 <= count <= MOST_ELEMENTS or (target is not None and target.scalar):
        return None
    if tensor is None:
        return Data((sizes.number(0),) * count, False, ir.DataType.FLOAT)
    if tensor.dtype not in (*INTEGERS, *FLOATS):
        return None
    item = np.asarray(tensor.numpy()).reshape(-1)[0].item()
    return Data((sizes.number(item),) * count, False, tensor.dtype) if math.isfinite(item) else None


def _range(of: Known, node: ir.Node, _: int) -> Data | None:
    parts = [of.data(input_or_none(node, k)) for k in range(3)]
    numbers = [n[0].integer if p is not None and (n := p.numbers()) else None for p in parts]
    start, limit, step = numbers
    dtype = parts[0].dtype if parts[0] is not None else None
    if start is None or limit is None or step is None or step == 0 or dtype not in INTEGERS:
        return None
    items = range(start, limit, step)
    if len(items) > MOST_ELEMENTS or dtype is None:
        return None
    return Data(tuple(sizes.number(i) for i in items), False, dtype)


def _part(of: Known, node: ir.Node, index: int) -> Data | None:
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


ELEMENTS: dict[str, Callable[[Known, ir.Node, int], Data | None]] = {
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
