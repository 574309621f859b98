"""A model as a message without its large weights, for what only asks for structure: the checker, shape inference.

Each large initializer of the main graph stands as a graph input of the same type and dims. Nothing of the model
changes, and no weight is read.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

SMALL_BYTES = 1000  # constants up to this size may be the shapes that inference needs


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """The message; bodies and functions are whole.

    Raises:
        Exception: what the serializer raises for a model that it cannot write.
    """
    proto = onnx.ModelProto(ir_version=model.ir_version)
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    for function in model.functions.values():
        ir.serde.serialize_function_into(proto.functions.add(), function)
    graph, source = proto.graph, model.graph
    graph.name = source.name or "graph"
    for value in source.inputs:
        ir.serde.serialize_value_into(graph.input.add(), value)
    given = {v.name for v in source.inputs}
    for name, value in source.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        if tensor.nbytes <= SMALL_BYTES:
            message = graph.initializer.add()
            ir.serde.serialize_tensor_into(message, tensor)
            message.name = name
        elif name not in given:
            kind = graph.input.add(name=name).type.tensor_type
            kind.elem_type = int(tensor.dtype)
            kind.shape.SetInParent()
            for size in tensor.shape.numpy():
                kind.shape.dim.add(dim_value=size)
    for node in source:
        ir.serde.serialize_node_into(graph.node.add(), node)
        for value in node.outputs:
            if value.name and value.type is not None and not value.is_graph_output():
                ir.serde.serialize_value_into(graph.value_info.add(), value)
    for value in source.outputs:
        ir.serde.serialize_value_into(graph.output.add(), value)
    return proto
