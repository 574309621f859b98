"""A model as a message without its large weights, for what only asks for structure: the checker, shape inference.

Each large initializer of the main graph stands as a graph input of the same type and dims. Nothing of the model
changes, and no weight is read.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from edgeopt.protos import expected_bytes

_SCALARS = frozenset({ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.FLOAT})
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
        _write_node(graph.node.add(), node)
        for value in node.outputs:
            if value.name and value.type is not None and not value.is_graph_output():
                _write_value(graph.value_info.add(), value)
    for value in source.outputs:
        ir.serde.serialize_value_into(graph.output.add(), value)
    return proto


def skeleton_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same of a message, which may lack the data of large initializers already."""
    small = onnx.ModelProto(ir_version=proto.ir_version)
    small.opset_import.extend(proto.opset_import)
    small.functions.extend(proto.functions)
    graph, source = small.graph, proto.graph
    graph.name = source.name or "graph"
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.node.extend(source.node)
    graph.value_info.extend(source.value_info)
    given = {v.name for v in source.input}
    for tensor in source.initializer:
        size = expected_bytes(tensor)
        if size is None or size <= SMALL_BYTES:
            graph.initializer.append(tensor)
        elif tensor.name not in given:
            kind = graph.input.add(name=tensor.name).type.tensor_type
            kind.elem_type = tensor.data_type
            kind.shape.SetInParent()
            for dim in tensor.dims:
                kind.shape.dim.add(dim_value=dim)
    return small


def _write_node(proto: onnx.NodeProto, node: ir.Node) -> None:
    """What onnx_ir's serializer writes; the common case in a third of the time."""
    if node.overload or any(a.type not in _SCALARS or a.is_ref() for a in node.attributes.values()):
        ir.serde.serialize_node_into(proto, node)
        return
    proto.op_type, proto.domain, proto.name = node.op_type, node.domain, node.name or ""
    proto.input.extend([v.name or "" if v is not None else "" for v in node.inputs])
    names = [v.name or "" for v in node.outputs]
    while names and not names[-1]:
        names.pop()
    proto.output.extend(names)
    for attribute in node.attributes.values():
        written = proto.attribute.add(name=attribute.name, type=int(attribute.type))
        if attribute.type == ir.AttributeType.INT:
            written.i = attribute.value
        elif attribute.type == ir.AttributeType.INTS:
            written.ints.extend(attribute.value)
        else:
            written.f = attribute.value


def _write_value(proto: onnx.ValueInfoProto, value: ir.Value) -> None:
    if type(value.type) is not ir.TensorType or value.type.denotation:
        ir.serde.serialize_value_into(proto, value)
        return
    proto.name = value.name or ""
    kind = proto.type.tensor_type
    kind.elem_type = int(value.type.dtype)
    if value.shape is not None:
        kind.shape.SetInParent()
        for dim in value.shape:
            if isinstance(dim, int):
                kind.shape.dim.add(dim_value=dim)
            elif dim.value is not None:
                kind.shape.dim.add(dim_param=str(dim.value))
            else:
                kind.shape.dim.add()
