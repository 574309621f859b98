"""The vocabulary of ``shape_data`` and its rules: elements of small tensors, and questions that the rules share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from edgeopt import sizes
from edgeopt.graph import attribute, constant, input_or_none
from edgeopt.sizes import Size

Dims = tuple[Size, ...]
Element = Size | bool | None
MOST_ELEMENTS = 64
INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_LARGEST_FACTOR = 4096  # of a size in float32: its product with a size is exact


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
            if self.dtype in INTEGERS and plain.denominator != 1:
                return None
            values.append(float(plain) if self.dtype in FLOATS else int(plain))
        try:
            result = np.array(values, self.dtype.numpy())
        except (OverflowError, TypeError):
            return None
        exact = all(Fraction(x.item()) == Fraction(v) for x, v in zip(result, values, strict=True))
        return (result.reshape(()) if self.scalar else result) if exact else None


class Known(Protocol):
    """Whoever can be asked: ``shape_data.ShapeData``."""

    def dims(self, value: ir.Value | None) -> Dims | None:
        """Dims of a value."""

    def data(self, value: ir.Value | None) -> Data | None:
        """Elements of a scalar or vector."""


def held(element: Element, dtype: ir.DataType) -> Element:
    """None for what the type would not hold exactly."""
    if not isinstance(element, Size):
        return element
    if dtype in INTEGERS:
        limit = 2 ** (63 if dtype == ir.DataType.INT64 else 31)
        fine = element.whole and all(abs(c) < limit for _, c in element.terms)
    else:
        fine = all(
            c.denominator & (c.denominator - 1) == 0 and c.denominator <= _LARGEST_FACTOR
            and abs(c.numerator) < (_LARGEST_FACTOR if m else 2**24)
            for m, c in element.terms
        )  # fmt: skip
    return element if fine else None


def product(factors: Sequence[Element]) -> Size | None:
    """Of all; None if one is unknown or the product too long."""
    total: Size | None = sizes.number(1)
    for factor in factors:
        if total is None or not isinstance(factor, Size):
            return None
        total = sizes.multiply(total, factor)
    return total


def broadcast(shapes: Sequence[Dims | None]) -> list[Size | None] | None:
    """Dims of what these broadcast to; None if one is unknown."""
    known = [s for s in shapes if s is not None]
    if len(known) != len(shapes):
        return None
    if all(s == known[0] for s in known[1:]):
        return list(known[0]) if known else None
    result: list[Size | None] = []
    for axis in range(-max(map(len, known), default=0), 0):
        given = {s[axis] for s in known if len(s) >= -axis} - {sizes.number(1)}
        fixed = [g for g in given if g.integer is not None]
        result.append(sizes.number(1) if not given else given.pop() if len(given) == 1 else fixed[0] if fixed else None)
    return result


def fixed_axes(node: ir.Node) -> list[int] | None:
    """Axes of a Squeeze, Unsqueeze or Reduce, by input or attribute; None if not given or not constant."""
    listed = input_or_none(node, 1)
    found = constant(listed) if listed is not None else attribute(node, "axes")
    return None if found is None else [int(a) for a in np.asarray(found).reshape(-1)]


def slice_bounds(node: ir.Node, of: Known) -> list[tuple[int, Size, Size, int]] | None:
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
