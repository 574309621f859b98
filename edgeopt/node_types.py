"""Types and dims of a single new node, by ONNX's own inference: what a rewrite inserts is typed at once.

Later matches ask for the dims of values that earlier rewrites made; inferring the whole model after each would cost
O(nodes) per rewrite.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir

from edgeopt.graph import STANDARD_DOMAINS, constant_tensor, has_subgraph

_SMALL_BYTES = 1000  # constants up to this size may be the shapes that inference needs


def infer_outputs(node: ir.Node, opsets: Mapping[str, int], ir_version: int) -> None:
    """Give outputs without type or dims those that inference finds, in place; what it cannot tell stays unknown.

    Graph outputs are the user's: they keep what they state.

    Args:
        node: Its inputs are typed; nodes with bodies and of other domains are left alone.
        opsets: Domain to version, as the model imports them.
        ir_version: Of the model.
    """
    missing = [v for v in node.outputs if (v.type is None or v.shape is None) and not v.is_graph_output()]
    if not missing or node.domain not in STANDARD_DOMAINS or has_subgraph(node):
        return
    version = max((v for d, v in opsets.items() if d in STANDARD_DOMAINS), default=1)
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    names: dict[ir.Value, str] = {}
    for value in node.inputs:
        if value is None or value in names:
            continue
        names[value] = f"i{len(names)}"
        tensor = constant_tensor(value) or (value.const_value if value.producer() is None else None)
        if value.type is None:
            return
        proto = onnx.TypeProto()
        ir.serde.serialize_type_into(proto, value.type)
        if value.shape is not None and proto.HasField("tensor_type"):
            ir.serde.serialize_shape_into(proto, value.shape)
        types[names[value]] = proto
        if tensor is not None and tensor.nbytes <= _SMALL_BYTES and not isinstance(tensor, ir.ExternalTensor):
            data[names[value]] = ir.serde.serialize_tensor(tensor)
    message = ir.serde.serialize_node(node)
    del message.input[:], message.output[:]
    message.input.extend(names[v] if v is not None else "" for v in node.inputs)
    message.output.extend(f"o{k}" for k in range(len(node.outputs)))
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
        found = onnx.shape_inference.infer_node_outputs(
            schema, message, types, data, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=ir_version
        )
    except Exception:  # noqa: BLE001 -- inference is best effort, and its errors have no common base
        return
    for k, value in enumerate(node.outputs):
        if value not in missing:
            continue
        better = found.get(f"o{k}")
        if better is None or not better.WhichOneof("value"):
            continue
        if value.type is None:
            value.type = ir.serde.deserialize_type_proto_for_type(better)
        if value.shape is None:
            value.shape = ir.serde.deserialize_type_proto_for_shape(better)
            if value.shape is not None and node.op_type == "Slice" and version == 10:  # see shapes.py
                value.shape = ir.Shape([d if isinstance(d, int) else None for d in value.shape])
