"""How a model's first layer answers to the data: the check for missing normalization.

A network whose input was normalized in training answers, in its first convolution or matrix product, with values
of order 1. Measured on fourteen trained nets of 0.01 to 0.8 GMAC: root mean square 0.3 to 4 with the right
preprocessing (up to 77 for two without normalization layers), 67 to 1100 when the same net is fed 0..255. A net
that takes raw pixels has absorbed the scale into its weights and answers with order 1 again. Where a
BatchNormalization follows, it stores what it saw in training, and the answer can be compared with that:
E[y²] = variance + mean².
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience

from edgeopt.errors import EdgeoptError
from edgeopt.graph import Array, constant, is_op, only_consumer
from edgeopt.runtime import Level, Session

_PASSING = (
    "Transpose", "Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Pad", "Slice", "Resize",
    "QuantizeLinear", "DequantizeLinear",
)  # fmt: skip
_SCALING = (
    "Sub", "Add", "Mul", "Div", "BatchNormalization", "InstanceNormalization", "LayerNormalization",
    "GroupNormalization", "LpNormalization", "MeanVarianceNormalization",
)  # fmt: skip
_WEIGHTED = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class FirstLayer:
    """The first node with weights that an input meets, when nothing before it scales the values.

    Attributes:
        node: The Conv, Gemm or MatMul.
        expected_rms: What a BatchNormalization behind it saw in training; None without one.
    """

    node: ir.Node
    expected_rms: float | None


def first_layer(model: ir.Model, input_name: str) -> FirstLayer | None:
    """Follow an input to its first layer; None when it is scaled on the way, branches, or meets something else."""
    value = next((v for v in model.graph.inputs if v.name == input_name), None)
    while value is not None:
        node = only_consumer(value)
        if is_op(node, *_PASSING) and node is not None and node.inputs[0] is value:
            value = node.outputs[0]
        elif is_op(node, *_WEIGHTED) and node is not None and node.inputs[0] is value:
            return FirstLayer(node, _trained_rms(node))
        else:
            return None
    return None


def scales_input(model: ir.Model, input_name: str) -> bool:
    """Whether the first thing that happens to an input's values is a normalization or an arithmetic scale."""
    value = next((v for v in model.graph.inputs if v.name == input_name), None)
    while value is not None:
        node = only_consumer(value)
        if not (is_op(node, *_PASSING) and node is not None):
            return is_op(node, *_SCALING)
        value = node.outputs[0]
    return False


def _trained_rms(node: ir.Node) -> float | None:
    norm = only_consumer(node.outputs[0])
    if norm is None or not is_op(norm, "BatchNormalization") or len(norm.inputs) < 5:
        return None
    mean, variance = constant(norm.inputs[3]), constant(norm.inputs[4])
    if mean is None or variance is None or not mean.size:
        return None
    return float(np.sqrt(np.mean(variance.astype(np.float64) + np.square(mean.astype(np.float64)))))


def response_rms(model: ir.Model, input_name: str, layer: FirstLayer, samples: Sequence[Array]) -> float | None:
    """Root mean square of the first layer's output over a few samples, or None when it cannot be run alone."""
    try:
        graph = convenience.extract(model.graph, [input_name], [layer.node.outputs[0].name or ""])
        part = ir.Model(graph, ir_version=model.ir_version)
        part.graph.opset_imports.update(model.opset_imports)
        session = Session(part, Level.DEFAULT)
        squares = [_mean_square(session, input_name, s) for s in samples]
    except (EdgeoptError, ValueError):
        return None  # a finding less; the model itself is judged elsewhere
    return float(np.sqrt(np.mean(squares)))


def _mean_square(session: Session, input_name: str, sample: Array) -> float:
    result = np.asarray(session.run({input_name: sample})[session.output_names[0]], np.float64)
    return float(np.mean(np.square(result)))
