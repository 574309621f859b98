"""Write matrix products as one Gemm.

    Gemm(A, B, C) = alpha A' B' + beta C        A' and B' transposed or not

1. Add(MatMul(A, B), C)             A and B of rank 2, C no larger than the product
2. Add(Gemm(A, B), C)               a Gemm without C, or with beta 0
3. Add(Gemm(A, B, c), d)            both constant, one number per column: beta c + d
4. Gemm(Transpose(A), B, …)         transA turned over; for B, transB
5. MatMul(Transpose(A), B)          Gemm with transA; for B, transB (opset 11, where C may be missing)
6. alpha and beta other than 1      into a constant B and a constant C

Not done: a rank is unknown or not 2 (7; a MatMul of more axes stays), C has more axes, more rows or more columns than
the product is known to have (8), another type than float or double (9), opset below 7, where C broadcasts by an
attribute (10), the inner value is read elsewhere or is an output (11), large shared weights (12, in 6), a MatMul of
what comes from DequantizeLinear, which runtimes compute in int8 with the Add behind it (13).
Exact up to rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import (
    Array,
    attribute,
    constant,
    constant_value,
    dims_of,
    input_or_none,
    is_op,
    only_consumer,
    opset,
    stored_twice,
)
from edgeopt.passes.convolutions import stored
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


class WriteGemm:
    """The rule (see the module's docstring)."""

    name = "gemm"
    ops = frozenset({"Add", "Gemm", "MatMul"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: Gemm broadcasts C from 7 on, and can do without it from 11 on."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Make one Gemm of this node and the one before it."""
        if state < 7:
            return None
        if is_op(node, "Add"):
            return _added(node)
        if not is_op(node, "Gemm", "MatMul") or node.outputs[0].dtype not in _TYPES:
            return None
        return _transposed(node, state) or (_factors(node) if is_op(node, "Gemm") else None)


def _added(node: ir.Node) -> Answer:
    """Cases 1 to 3."""
    name = node.name or ""
    for index in (0, 1):
        value, other = node.inputs[index], node.inputs[1 - index]
        layer = value.producer() if value is not None else None
        if value is None or other is None or layer is None or layer.graph is not node.graph:
            continue
        if not is_op(layer, "MatMul", "Gemm") or value.dtype not in _TYPES:
            continue
        dims = dims_of(value)
        if is_op(layer, "MatMul") and not _is_plain(layer):
            continue
        if dims is None or len(dims) != 2:
            continue
        if only_consumer(value) is not node:
            return Skip(name, f"the output of {layer.name!r} is read by other nodes too, or is an output of the graph")
        if not _fits(dims_of(other), dims):
            return Skip(name, f"what it adds may be larger than the matrix of {layer.name!r}")
        answer = _with_addend(node, layer, other, dims)
        if answer is not None:
            return answer
    return None


def _rank(value: ir.Value | None) -> int | None:
    dims = dims_of(value) if value is not None else None
    return None if dims is None else len(dims)


def _is_plain(matmul: ir.Node) -> bool:
    """Two matrices, none of which comes from int8 (7 and 13)."""
    return all(_rank(v) == 2 and v is not None and not is_op(v.producer(), "DequantizeLinear") for v in matmul.inputs)


def _fits(addend: tuple[int | str | None, ...] | None, dims: tuple[int | str | None, ...]) -> bool:
    """Case 8: each size is 1 or the product's own."""
    if addend is None or len(addend) > 2:
        return False
    own = dims[len(dims) - len(addend) :]
    return all(a == 1 or (a is not None and a == d) for a, d in zip(addend, own, strict=True))


def _with_addend(node: ir.Node, layer: ir.Node, addend: ir.Value, dims: tuple[int | str | None, ...]) -> Answer:
    attributes = dict(layer.attributes)
    given = input_or_none(layer, 2)
    if given is not None and attribute(layer, "beta", 1.0) != 0:
        first, second = _vector(constant(given), dims[1]), _vector(constant(addend), dims[1])
        if first is None or second is None:
            return None
        total = stored(first * attribute(layer, "beta", 1.0) + second, constant(given).dtype)  # type: ignore[union-attr] # read just before
        if total is None:
            return None
        addend = constant_value(f"{layer.name or layer.op_type}/bias", total)
    attributes.pop("beta", None)
    new = _gemm(node, [layer.inputs[0], layer.inputs[1], addend], attributes, layer.name or node.name)
    return Rewrite((node, layer), (new,), ((node.outputs[0], new.outputs[0]),))


def _vector(array: Array | None, columns: int | str | None) -> Array | None:
    """One number per column, or one, float64."""
    if array is None or array.shape not in ((columns,), (1, columns), (1,), (1, 1), ()):
        return None
    return array.astype(np.float64).reshape(-1)


def _gemm(node: ir.Node, inputs: list[ir.Value | None], attributes: dict[str, ir.Attr], name: str | None) -> ir.Node:
    output = node.outputs[0]
    return ir.Node(
        "",
        "Gemm",
        inputs=inputs,
        attributes=attributes.values(),
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape)],
        name=name,
    )


def _transposed(node: ir.Node, version: int) -> Rewrite | None:
    """Cases 4 and 5."""
    if is_op(node, "MatMul") and (version < 11 or not _is_plain(node)):
        return None
    for index, name in enumerate(("transA", "transB")):
        value = node.inputs[index]
        before = value.producer() if value is not None else None
        if value is None or before is None or not is_op(before, "Transpose") or before.graph is not node.graph:
            continue
        if only_consumer(value) is not node or list(attribute(before, "perm", [1, 0])) != [1, 0]:
            continue
        attributes = dict(node.attributes)
        attributes[name] = ir.AttrInt64(name, 1 - attribute(node, name, 0))
        inputs = list(node.inputs)
        inputs[index] = before.inputs[0]
        new = _gemm(node, inputs, attributes, node.name)
        return Rewrite((node, before), (new,), ((node.outputs[0], new.outputs[0]),))
    return None


def _factors(node: ir.Node) -> Answer:
    """Case 6."""
    inputs, attributes, changed = list(node.inputs), dict(node.attributes), False
    for name, index in (("alpha", 1), ("beta", 2)):
        factor, value = attribute(node, name, 1.0), input_or_none(node, index)
        array = constant(value) if factor != 1 and factor != 0 else None
        if array is None:
            continue
        if (reason := stored_twice(value)) is not None:
            return Skip(node.name or "", reason)
        scaled = stored(array.astype(np.float64) * factor, array.dtype)
        if scaled is None:
            continue
        label = "weight" if index == 1 else "bias"
        inputs[index] = constant_value(f"{node.name or node.op_type}/{label}", scaled)
        del attributes[name]
        changed = True
    if not changed:
        return None
    new = _gemm(node, inputs, attributes, node.name)
    return Rewrite((node,), (new,), ((node.outputs[0], new.outputs[0]),))
