"""Remove a QuantizeLinear that only undoes the DequantizeLinear before it.

    Q(DQ(q)) = q        where both have the same scale, zero point, axis and element type

1. One scale and zero point, or one per channel of the same axis
2. A zero point that is left out is 0 of uint8 for QuantizeLinear, and of q's own type for DequantizeLinear

(q - z) s / s differs from the whole number q - z by at most 2^-23 of it, which rounding takes away: integers of 16 bits
and fewer, and scales of a size at which the product neither overflows nor loses bits (3).

Kept: parameters that differ or are not constant (4), blocks (5), float8 and 32-bit integers (6). The DequantizeLinear
stays for its other readers, if it has any.
Source: ONNX operator specification, QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, constant_tensor, input_or_none, is_op
from edgeopt.passes.replacing import by_value
from edgeopt.rewrite import EVERYWHERE, Answer, Skip

_TYPES = frozenset(
    {
        *(ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8),
        *(ir.DataType.INT16, ir.DataType.UINT16),
    }
)
_SCALES = (1e-30, 1e30)  # products of these with 16-bit integers are normal numbers of float32


class FoldRequantize:
    """The rule (see the module's docstring)."""

    name = "fold_requantize"
    ops = frozenset({"QuantizeLinear"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> None:
        """Nothing to prepare."""

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Read q in place of the result."""
        value = input_or_none(node, 0)
        before = value.producer() if value is not None else None
        if before is None or not is_op(node, "QuantizeLinear") or not is_op(before, "DequantizeLinear"):
            return None
        source = input_or_none(before, 0)
        if source is None or source.dtype not in _TYPES:
            return None
        reason = _differs(before, node, source.dtype)
        if reason is not None:
            return Skip(node.name or "", f"{before.op_type} {before.name!r} before it {reason}")
        return by_value((node, before), source)


def _differs(before: ir.Node, node: ir.Node, kind: ir.DataType) -> str | None:
    """Cases 3 to 6."""
    if any(attribute(n, "block_size", 0) for n in (before, node)):
        return "works in blocks"
    first, second = (constant(input_or_none(n, 1)) for n in (before, node))
    if first is None or second is None:
        return "has a scale that is not constant, or this one has"
    if first.dtype != np.float32 or second.dtype != np.float32 or not np.array_equal(first, second):
        return "has another scale"
    if not ((first > _SCALES[0]) & (first < _SCALES[1])).all():
        return "has a scale that is zero, negative, infinite or tiny"
    if first.ndim and attribute(before, "axis", 1) != attribute(node, "axis", 1):
        return "has another axis"
    zeros = [_zero_point(n, kind) for n in (before, node)]
    if zeros[0] is None or zeros[1] is None:
        return "has a zero point that is not constant, or this one has"
    same = zeros[0][0] == zeros[1][0] == kind and bool((zeros[0][1] == zeros[1][1]).all())  # 0 where left out
    return None if same else "has another zero point or element type"


def _zero_point(node: ir.Node, kind: ir.DataType) -> tuple[ir.DataType, np.ndarray[Any, Any]] | None:
    """Element type and values; None if they are not constant."""
    given = input_or_none(node, 2)
    if given is None:
        stated = attribute(node, "output_dtype", 0) if is_op(node, "QuantizeLinear") else int(kind)
        return ir.DataType(stated or ir.DataType.UINT8), np.zeros((), np.int32)
    tensor = constant_tensor(given)
    return None if tensor is None else (tensor.dtype, np.asarray(tensor.numpy()).astype(np.int32))
