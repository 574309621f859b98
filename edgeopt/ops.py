"""What edgeopt knows of operators: views, randomness, integer kernels; and the size of a whole model.

The body of an If, Loop or Scan is counted once per body, however often it runs; where the condition of an If is
known from shapes alone, only the branch that runs is counted. Formulas for one node stand in ``edgeopt.macs``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from edgeopt.graph import (
    constant,
    constant_tensor,
    graphs,
    has_subgraph,
    input_or_none,
    is_op,
)
from edgeopt.macs import KNOWN_DOMAINS, node_macs
from edgeopt.static_shapes import resolve, sizes_of_symbols

__all__ = ["Count", "bodies", "count", "is_random", "is_shape_only", "is_view", "node_key", "node_macs"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
"""Operators whose output is their first input under another shape: no runtime has to move a byte."""

SHAPE_ONLY = frozenset({"Shape", "Size"})
"""Operators that read the shape of their input, never its elements."""

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)

ELEMENT_WISE = _words(
    "Abs Add And Cast Ceil Celu Clip Cos Div Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Max "
    "Mean Min Mish Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Sub Sum "
    "Swish Tan Tanh ThresholdedRelu Where Xor BatchNormalization"
)
"""Operators that may write each result over the operand it came from. BatchNormalization in its inference form."""

INTEGER_KERNELS = _words(
    "Conv Gemm MatMul Add Mul AveragePool GlobalAveragePool LeakyRelu Sigmoid Softmax Concat Where Split Reshape "
    "Transpose Flatten Squeeze Unsqueeze Slice Gather Expand Tile DepthToSpace SpaceToDepth MaxPool Resize Relu "
    "Clip"
)
"""Operators that onnxruntime's CPU provider runs on 8-bit integers between DequantizeLinear and QuantizeLinear
(its ``qdq_selectors.cc`` and ``qdq_selector_action_transformer.cc``; Relu and Clip melt into QuantizeLinear)."""

_PARAMETER_INPUTS = {  # integer weights, where they stand: standard or com.microsoft domain
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3,),
    "ConvInteger": (1,),
    "MatMulInteger": (1,),
    "QGemm": (3, 6),
    "MatMulIntegerToFloat": (1,),
    "DynamicQuantizeMatMul": (1,),
    "MatMulNBits": (1,),
    "DequantizeLinear": (0,),
}
_SCALE_INPUTS = {
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
    "QGemm": (1, 4, 7),
    "MatMulIntegerToFloat": (2, 3),
    "DynamicQuantizeMatMul": (2,),
    "MatMulNBits": (2,),
    "QLinearAdd": (1, 4, 6),
    "QLinearMul": (1, 4, 6),
}


def is_view(node: ir.Node) -> bool:
    """Whether output 0 is input 0 under another shape (a runtime shares the buffer)."""
    return is_op(node, *VIEWS)


def is_shape_only(node: ir.Node) -> bool:
    """Whether the node reads only the shape of its input."""
    return is_op(node, *SHAPE_ONLY)


def is_random(node: ir.Node) -> bool:
    """Whether two runs on the same inputs may differ: never fold such a node nor merge it with a twin.

    True for the random generators, even with a ``seed`` (runtimes advance it from run to run), for Dropout that
    may be in training mode, for operators of unknown domains and calls of local functions, of which nothing is
    known, and for an If, Loop or Scan with such a node in its body.
    """
    if node.domain not in KNOWN_DOMAINS or is_op(node, *RANDOM):
        return True
    if is_op(node, "Dropout"):
        mode = input_or_none(node, 2)
        known = None if mode is None else constant(mode)
        return mode is not None and (known is None or bool(known.any()))
    return any(is_random(inner) for graph in bodies(node) for inner in graph.all_nodes())


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that an If, Loop, Scan or SequenceMap holds."""
    if has_subgraph(node):
        for attr in node.attributes.values():
            if not attr.is_ref() and attr.type == ir.AttributeType.GRAPH:
                yield attr.as_graph()
            elif not attr.is_ref() and attr.type == ir.AttributeType.GRAPHS:
                yield from attr.as_graphs()


def node_key(node: ir.Node) -> str:
    """The node's name, or the name of its first output where it has none: what reports call the node."""
    return node.name or next((v.name for v in node.outputs if v.name), None) or node.op_type


@dataclass(frozen=True)
class Count:
    """The size of a model.

    Attributes:
        macs: Multiply-accumulates of one inference; nodes in ``unknown`` are left out.
        params: Elements of the stored weights: floating-point tensors (initializers, and Constant nodes but for
            scalars, which are settings), and integer ones that stand in the place of a weight or bias. Scales and
            zero points of quantized models do not count, so a model has as many in int8 as in float.
        weight_bytes: Bytes of all stored tensors, scales, zero points and indices included, sub-byte types packed.
        by_node: MACs of each node that has any, by ``node_key``.
        assumed_dims: The sizes that open dimensions were given, by symbol or ``input[axis]``.
        unknown: Keys of the nodes whose MACs could not be counted.
    """

    macs: int
    params: int
    weight_bytes: int
    by_node: dict[str, int] = field(default_factory=dict)
    assumed_dims: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def count(model: ir.Model, assumed: Mapping[str, int] | None = None) -> Count:
    """Count MACs, parameters and weight bytes; open dimensions as in ``static_shapes.resolve``."""
    sizes, counted = sizes_of_symbols(model, assumed), model
    if sizes is None:
        resolved = resolve(model, assumed)
        sizes, counted = resolved.assumed_dims, resolved.model
    by_node: dict[str, int] = {}
    unknown: list[str] = []
    for graph in graphs(counted):
        for node in graph:
            macs = node_macs(node, sizes)
            if macs is None:
                unknown.append(node_key(node))
            elif macs:
                by_node[node_key(node)] = by_node.get(node_key(node), 0) + macs
    params, weight_bytes = _stored(model)
    return Count(sum(by_node.values()), params, weight_bytes, by_node, sizes, unknown)


def _stored(model: ir.Model) -> tuple[int, int]:
    params = weight_bytes = 0
    bodies: list[ir.Graph | ir.Function] = [*graphs(model)]
    for function in model.functions.values():
        bodies += [function, *function.subgraphs()]
    for body in bodies:
        stored = [(v, v.const_value, False) for v in body.initializers.values()] if isinstance(body, ir.Graph) else []
        outputs = [node.outputs[0] for node in body if is_op(node, "Constant")]
        stored += [(value, constant_tensor(value), True) for value in outputs]
        for value, tensor, from_node in stored:
            if tensor is None:
                continue
            weight_bytes += tensor.nbytes
            if _is_parameter(value, tensor, from_node):
                params += tensor.size
    return params, weight_bytes


def _is_parameter(value: ir.Value, tensor: ir.TensorProtocol, from_node: bool) -> bool:
    places = [(use.node.op_type, use.idx) for use in value.uses()]
    if tensor.dtype.is_floating_point():
        if from_node and len(tensor.shape) == 0:
            return False
        return not places or any(index not in _SCALE_INPUTS.get(op, ()) for op, index in places)
    return any(index in _PARAMETER_INPUTS.get(op, ()) for op, index in places)
