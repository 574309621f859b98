"""Store what Constant nodes hold as initializers of the same graph.

1. Every dense form: value, value_float(s), value_int(s), value_string(s); the element type is the node's own:
   value_float is float32, value_int is int64
2. Constants of If, Loop and Scan bodies become initializers of that body

Left alone: sparse constants (3), references to the attributes of a function (4), and constants that are an output
of their graph, which not every runtime accepts as an initializer (5; ``fold_constants`` makes them nodes, too).
Exact: the same bytes. The rivals' node counts leave out Constants, and so do runtimes: they are weights.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgeopt.graph import constant_tensor, is_op
from edgeopt.passes.replacing import by_value
from edgeopt.rewrite import EVERYWHERE, Answer


class ConstantsToInitializers:
    """The rule (see the module's docstring)."""

    name = "constants_to_initializers"
    ops = frozenset({"Constant"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> None:
        """Nothing to prepare."""

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Store this constant."""
        if not is_op(node, "Constant"):
            return None
        output = node.outputs[0]
        tensor = constant_tensor(output)
        if tensor is None or output.is_graph_output() or not output.uses():
            return None
        shape = ir.Shape(tensor.shape.numpy())
        new = ir.Value(name=output.name, const_value=_own(tensor), type=ir.TensorType(tensor.dtype), shape=shape)
        return by_value((node,), new)


def _own(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same content under a name of its own: copies of a model share the tensors of Constant nodes."""
    if tensor.dtype == ir.DataType.STRING:
        return ir.StringTensor(tensor.numpy(), shape=ir.Shape(tensor.shape.numpy()))
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype)
