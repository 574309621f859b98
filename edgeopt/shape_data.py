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
from collections.abc import Sequence

import onnx_ir as ir

from edgeopt import sizes
from edgeopt.graph import constant, constant_tensor, dims_of, input_or_none, is_op, opset
from edgeopt.shape_dims import BROADCAST, DIMS, SAME_SHAPE
from edgeopt.shape_elements import ELEMENTS
from edgeopt.shape_known import FLOATS, INTEGERS, MOST_ELEMENTS, Data, Dims, Element, broadcast, held
from edgeopt.sizes import Size

DATA_OPS = frozenset(ELEMENTS)
_MOST_DEPTH = 200  # values followed upwards from one question, beyond what was already known


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

    def _merged(self, value: ir.Value, found: Sequence[Size | None] | None, *, keep: bool = True) -> Dims | None:
        """What is stated and what follows from the producer, the more telling of both per axis."""
        tensor = constant_tensor(value)
        if tensor is not None:
            return tuple(sizes.number(int(d)) for d in tensor.shape.numpy())
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
        if node.op_type in SAME_SHAPE:
            first = node.outputs[0] is value or node.op_type == "Dropout"
            return self.dims(input_or_none(node, 0)) if first else None
        if node.op_type in BROADCAST:
            return broadcast([self.dims(v) for v in node.inputs]) if self._version >= 7 else None
        rule = DIMS.get(node.op_type)
        return rule(self, node, node.outputs.index(value)) if rule is not None else None

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
        if node is None or not is_op(node, node.op_type) or (len(node.outputs) != 1 and node.op_type != "Split"):
            return None
        rule = ELEMENTS.get(node.op_type)
        found = rule(self, node, node.outputs.index(value)) if rule is not None else None
        if found is None or len(found.elements) > MOST_ELEMENTS or value.dtype not in (None, found.dtype):
            return None
        return Data(tuple(held(e, found.dtype) for e in found.elements), found.scalar, found.dtype)


def _constant_data(value: ir.Value, tensor: ir.TensorProtocol) -> Data | None:
    kinds = (*INTEGERS, *FLOATS, ir.DataType.BOOL)
    if tensor.dtype not in kinds or len(tensor.shape) > 1 or tensor.size > MOST_ELEMENTS:
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
