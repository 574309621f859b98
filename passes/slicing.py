"""What Slice and Split nodes take of each axis, whatever form their opset has for saying so.

A part (start, stop, step) is what Slice states: negative positions count from the end, and all are clamped. A span
(first, count, step) is what it means for an axis of known size. Slice has inputs from opset 10, Split from 13.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, constant_value, dims_of, input_or_none
from edgeopt.passes.replacing import axis_of

Part = tuple[int, int, int]
Span = tuple[int, int, int]
END = 2**31 - 1  # beyond the end of any axis, in 32 bits too
_BEFORE_START = -(2**31) + 1


def dim_at(value: ir.Value | None, axis: int) -> int | None:
    """The size of an axis, if it is fixed."""
    dims = dims_of(value) if value is not None else None
    if dims is None or not -len(dims) <= axis < len(dims):
        return None
    size = dims[axis]
    return size if isinstance(size, int) else None


def parts_of(node: ir.Node, version: int) -> dict[int, Part] | None:
    """What a Slice takes, by axis counted from the front; None if that is not constant or the axis is unknown."""
    if version < 10:
        starts, stops = attribute(node, "starts"), attribute(node, "ends")
        axes, steps = attribute(node, "axes"), None
    else:
        given = [input_or_none(node, k) for k in range(1, 5)]
        values = [constant(v) for v in given]
        if any(v is None and g is not None for g, v in zip(given, values, strict=True)):
            return None
        starts, stops, axes, steps = values
    if starts is None or stops is None:
        return None
    result: dict[int, Part] = {}
    for k, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        axis = axis_of(int(axes[k]) if axes is not None else k, node.inputs[0])
        step = int(steps[k]) if steps is not None else 1
        if axis is None or axis in result or step == 0:
            return None
        if step < 0 and stop >= END:  # nothing, says the specification; all down to the start, says onnxruntime
            return None
        result[axis] = (int(start), int(stop), step)
    return result


def span_of(part: Part, size: int) -> Span:
    """What the part means for an axis of this size."""
    start, stop, step = part
    start, stop = (p + size if p < 0 else p for p in (start, stop))
    if step > 0:
        first, last = min(max(start, 0), size), min(max(stop, 0), size)
        return first, max(0, -(-(last - first) // step)), step
    first, last = min(max(start, 0), size - 1), min(max(stop, -1), size - 1)
    return first, max(0, -(-(last - first) // step)), step


def part_of(span: Span) -> Part:
    """A part that means this span."""
    first, count, step = span
    if count == 0:
        return 0, 0, 1
    last = first + (count - 1) * step
    if step > 0:
        return first, last + 1, step
    return first, last - 1 if last > 0 else _BEFORE_START, step


def combined(inner: Part, outer: Part, size: int | None) -> Part | None:
    """One part that takes what ``outer`` takes of what ``inner`` takes; None if that depends on an unknown size."""
    if size is not None:
        first, count, step = span_of(inner, size)
        again, left, stride = span_of(outer, count)
        return part_of((first + again * step, left, step * stride))
    if inner[2] != 1 or outer[2] != 1 or min(*inner, *outer) < 0:
        return None
    start = inner[0] + outer[0]
    stop = min(inner[1], inner[0] + outer[1])
    return start, min(stop, END), 1


def slice_operands(
    source: ir.Value | None, parts: Mapping[int, Part], version: int, base: str
) -> tuple[list[ir.Value | None], list[ir.Attr]] | None:
    """Inputs and attributes of a Slice; None if this opset has no such Slice."""
    axes = sorted(parts)
    columns = [[parts[a][k] for a in axes] for k in range(3)]
    if version < 10:
        if any(step != 1 for step in columns[2]):
            return None
        names = ("starts", "ends", "axes")
        return [source], [ir.AttrInt64s(n, v) for n, v in zip(names, (*columns[:2], axes), strict=True)]
    stored = [*columns[:2], axes, *([columns[2]] if any(step != 1 for step in columns[2]) else [])]
    all_names = ("starts", "ends", "axes", "steps")
    inputs = [constant_value(f"{base}/{n}", np.array(v, np.int64)) for n, v in zip(all_names, stored, strict=False)]
    return [source, *inputs], []


def split_sizes(node: ir.Node, version: int) -> list[int] | None:
    """The sizes of a Split's outputs, if they are known."""
    if version < 2:
        return None
    if version < 13:
        stated = attribute(node, "split")
    else:
        given = input_or_none(node, 1)
        stated = constant(given)
        if given is not None and stated is None:
            return None
    if stated is not None:
        return [int(s) for s in stated]
    size, count = dim_at(node.inputs[0], attribute(node, "axis", 0)), len(node.outputs)
    if size is None or (version < 18 and size % count):
        return None
    chunk = -(-size // count)
    sizes = [chunk] * (count - 1) + [size - chunk * (count - 1)]
    return sizes if sizes[-1] >= 0 else None


def split_operands(
    source: ir.Value, sizes: list[int], axis: int, version: int, base: str
) -> tuple[list[ir.Value | None], list[ir.Attr]]:
    """Inputs and attributes of a Split into these sizes (opset 2 and later)."""
    attributes: list[ir.Attr] = [ir.AttrInt64("axis", axis)]
    if version < 13:
        return [source], [*attributes, ir.AttrInt64s("split", sizes)]
    return [source, constant_value(f"{base}/split", np.array(sizes, np.int64))], attributes
