"""Keep float nodes float: without a guard onnxruntime takes some of them for int8.

Where a Conv, ConvTranspose, Gemm or MatMul with float weights lies between a DQ and a Q, onnxruntime quantizes the
weights by itself, per tensor, and runs the layer in int8 (WeightBiasQuantization in
onnxruntime/core/optimizer/qdq_transformer, as of 1.31): what was kept float for its accuracy is ruined, unasked.
Other operators that have an int8 kernel get it, though they were kept float for their speed.

1. A layer is exposed if a DQ reaches its input and its output leads to a Q and nowhere else; Relu, Clip and data
   movement on the way do not count, Qs and DQs are moved across them
2. The guard in front of it is a Max of one operand: the identity by definition, and no optimization removes it
3. Another operator that is to stay float is exposed if DQs reach all its operands, and its output leads to a Q as in
   1; a MatMul or Gemm of two values in any case, its int8 kernel leaves a float output too
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgeopt.graph import Names, constant_tensor, input_or_none, is_op, only_consumer
from edgeopt.passes.int8_rules import FUSED, MOVEMENT, OPERANDS, POOLS

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_KERNELS = (*OPERANDS, *POOLS, "LeakyRelu", "Sigmoid", "Softmax")
_TRANSPARENT = (*MOVEMENT, "Identity", "Dropout")
_SUFFIX = "/guard"


def exposed(model: ir.Model, keep_float: Collection[str] = ()) -> list[ir.Node]:
    """Cases 1 and 3: the float nodes of a quantized model that onnxruntime would not leave in float.

    Args:
        model: With its Q/DQ pairs.
        keep_float: Names of the nodes that are to stay float; layers with float weights are known without.
    """
    return [n for n in model.graph if _is_exposed_layer(n) or (n.name in keep_float and _is_exposed(n))]


def _is_exposed_layer(node: ir.Node) -> bool:
    return is_op(node, *LAYERS) and _has_float_weights(node) and _behind_dq(node, 0) and _before_q(node)


def _is_exposed(node: ir.Node) -> bool:
    """Case 3."""
    if is_op(node, "MatMul", "Gemm"):
        return _behind_dq(node, 0) and _behind_dq(node, 1)
    operands = range(_first(node), len(node.inputs)) if is_op(node, *OPERANDS) else (0,)
    return is_op(node, *_KERNELS) and all(_behind_dq(node, k) for k in operands) and _before_q(node)


def _first(node: ir.Node) -> int:
    """The first operand that is computed with: Where begins with a condition."""
    return 1 if is_op(node, "Where") else 0


def _has_float_weights(node: ir.Node) -> bool:
    tensor = constant_tensor(input_or_none(node, 1))
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT


def _behind_dq(node: ir.Node, index: int) -> bool:
    value = input_or_none(node, index)
    producer = value.producer() if value is not None else None
    while is_op(producer, *_TRANSPARENT) and producer is not None:
        value = producer.inputs[0]
        producer = value.producer() if value is not None else None
    return is_op(producer, "DequantizeLinear")


def _before_q(node: ir.Node) -> bool:
    reader = only_consumer(node.outputs[0])
    while reader is not None and is_op(reader, *_TRANSPARENT, *FUSED) and len(reader.outputs) == 1:
        reader = only_consumer(reader.outputs[0])
    return is_op(reader, "QuantizeLinear")


def guard(model: ir.Model, keep_float: Collection[str] = ()) -> None:
    """Case 2: protect the exposed nodes, in place; see ``exposed`` for the arguments."""
    names = Names(model)
    for node in exposed(model, keep_float):
        value = node.inputs[_first(node)]
        if value is None:
            continue
        output = ir.Value(
            name=names.fresh(f"{node.name}{_SUFFIX}_output"),
            type=value.type,
            shape=value.shape.copy() if value.shape is not None else None,
        )
        model.graph.insert_before(
            node, ir.Node("", "Max", [value], outputs=[output], name=names.fresh(f"{node.name}{_SUFFIX}"))
        )
        node.replace_input_with(_first(node), output)


def unguarded(model: ir.Model) -> ir.Model:
    """A copy without guards: Max of one operand, under the name of one."""
    result = model.clone()
    for node in list(result.graph):
        if is_op(node, "Max") and len(node.inputs) == 1 and _SUFFIX in (node.name or "") and node.inputs[0] is not None:
            node.outputs[0].replace_all_uses_with(node.inputs[0])
            result.graph.remove(node, safe=True)
    return result
