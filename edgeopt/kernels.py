"""What onnxruntime really computes in integers: read from the graph that it has optimized for itself.

A QDQ model only asks for int8. Whether a node gets an integer kernel is decided when the session is created; a
rule that fails leaves the node in float, silently. The optimized graph is written without layout changes
(level "extended"), where fused nodes keep the name of the node they came from.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort

from edgeopt.runtime import Session, options

_INTEGER_OPS = re.compile(
    r"^(QLinear\w+|QGemm|QAttention|MatMulInteger\w*|ConvInteger|DynamicQuantize\w+|MatMulNBits)$"
)
_SUFFIX = re.compile(r"(/MatMulAddFusion|_token_\d+|/GemmTransposeFusion)+/?$")


@dataclass(frozen=True)
class Kernels:
    """Nodes of the optimized graph by the name of the node they came from.

    Attributes:
        integer: Name to the integer operator that computes it.
        floating: Name to the operator of every other node.
        dequantized: Names of those among ``floating`` that read floats right behind a DequantizeLinear.
    """

    integer: dict[str, str]
    floating: dict[str, str]
    dequantized: frozenset[str] = frozenset()


def kernels(model: ir.Model, threads: int = 1, *, int8_activations: bool = False) -> Kernels:
    """Open the model in onnxruntime and read what it made of it.

    Args:
        model: Any model, float or int8.
        threads: Intra-op threads.
        int8_activations: Keep int8 activations as they are, as onnxruntime does on Arm; on x86 it converts them to
            uint8 where it can, and leaves the other nodes in float.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        path = Path(folder) / "optimized.onnx"
        so = options(threads=threads)
        so.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        so.optimized_model_filepath = str(path)
        # Only node names and types are wanted: weights go to a file of their own, which is thrown away.
        so.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        so.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        if int8_activations:
            so.add_session_config_entry("session.qdqisint8allowed", "1")
        Session(model, session_options=so)
        proto = onnx.load(path, load_external_data=False)
    integer: dict[str, str] = {}
    floating: dict[str, str] = {}
    behind = {output for n in proto.graph.node if n.op_type == "DequantizeLinear" for output in n.output}
    dequantized: set[str] = set()
    for node in proto.graph.node:
        target = integer if _INTEGER_OPS.match(node.op_type) else floating
        name = _SUFFIX.sub("", node.name)
        target[name] = node.op_type
        if target is floating and behind.intersection(node.input):
            dequantized.add(name)
    return Kernels(integer, floating, frozenset(dequantized))
