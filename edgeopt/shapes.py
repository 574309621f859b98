"""Shape inference, fixing of dynamic dimensions, and upward opset conversion, all on a copy of the model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir

from edgeopt.errors import ModelError, UsageError
from edgeopt.graph import STANDARD_DOMAINS, dims_of, graphs, opset, static_shape
from edgeopt.protos import all_graphs
from edgeopt.skeleton import skeleton

_MISLED_OPSET = 10
_UNKNOWN = "edgeopt.unknown"  # a domain without operators


def infer(model: ir.Model, *, outputs: bool = False, light: onnx.ModelProto | None = None) -> ir.Model:
    """Add the dims and types that ONNX's own inference finds, in place; symbolic dimensions are kept.

    What it cannot infer (unknown domains, contradictions) stays as it was: missing shapes cost precision of
    reports, never correctness. Graph inputs and outputs are the user's: they keep what they state, unless
    ``outputs`` asks for theirs too. (onnx_ir's own pass replaces stated dims, and gives sequences the type of a
    tensor.)  ``light`` is the model's ``skeleton``, if it is known already.
    """
    try:
        proto = _inferred(light or skeleton(model))
    except Exception:  # noqa: BLE001 -- inference is best effort, and its errors have no common base
        return model
    for graph, inferred in _pairs(model.graph, proto.graph):
        messages = {v.name: v for v in (*inferred.value_info, *(inferred.output if outputs else ()))}
        for node in graph:
            for value in node.outputs:
                message = messages.get(value.name or "")
                if message is None or (value.is_graph_output() and not outputs):
                    continue
                if value.type is not None and static_shape(value) is not None:
                    continue  # known already
                kind, shape = _read(message)
                if value.type is None:
                    value.type = kind
                if shape is not None and (value.shape is None or len(shape) == len(value.shape)):
                    value.shape = shape
    return model


def _inferred(message: onnx.ModelProto) -> onnx.ModelProto:
    """The message with what inference finds.

    For Slice of opset 10, onnx hands the names of the input's open dims on, cut or not, and to all that reads them.
    Such a Slice counts as unknown, and its open dims have no name.
    """
    proto = onnx.shape_inference.infer_shapes(message, check_type=False, data_prop=True)
    if not any(o.domain in STANDARD_DOMAINS and o.version == _MISLED_OPSET for o in message.opset_import):
        return proto
    misled, mended = False, onnx.ModelProto()
    mended.CopyFrom(message)
    for given, found in zip(all_graphs(mended.graph), all_graphs(proto.graph), strict=True):
        types = {v.name: v for v in found.value_info}
        for node in given.node:
            value = types.get(node.output[0]) if node.op_type == "Slice" and node.domain in STANDARD_DOMAINS else None
            if value is None or not any(d.dim_param for d in value.type.tensor_type.shape.dim):
                continue
            misled = True
            node.domain = _UNKNOWN
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.Clear()
            for k in reversed(range(len(given.value_info))):
                if given.value_info[k].name == value.name:
                    del given.value_info[k]
            given.value_info.append(value)
    if not misled:
        return proto
    mended.opset_import.add(domain=_UNKNOWN, version=1)
    return onnx.shape_inference.infer_shapes(mended, check_type=False, data_prop=True)


def _read(message: onnx.ValueInfoProto) -> tuple[ir.TypeProtocol | None, ir.Shape | None]:
    """What onnx_ir's deserializer reads; the common case in a third of the time."""
    if message.type.WhichOneof("value") != "tensor_type" or message.type.denotation:
        value = ir.serde.deserialize_value_info_proto(message, None)
        return value.type, value.shape
    tensor = message.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
    shape = ir.Shape(dims) if tensor.HasField("shape") else None
    return ir.TensorType(ir.DataType(tensor.elem_type)), shape


def _pairs(graph: ir.Graph, message: onnx.GraphProto) -> Iterator[tuple[ir.Graph, onnx.GraphProto]]:
    """A graph and its message, then all their bodies side by side."""
    yield graph, message
    for node, written in zip(graph, message.node, strict=True):
        for attribute in written.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _pairs(node.attributes[attribute.name].as_graph(), attribute.g)
            elif attribute.type == onnx.AttributeProto.GRAPHS:
                bodies = node.attributes[attribute.name].as_graphs()
                for body, inner in zip(bodies, attribute.graphs, strict=True):
                    yield from _pairs(body, inner)


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read ``name=1,3,224,224``.

    Raises:
        UsageError: the text has another form, or a dimension below 1.
    """
    name, equals, dims = text.rpartition("=")
    try:
        shape = tuple(int(d) for d in dims.split(",")) if dims.strip() else ()
        if not equals or not name or any(d < 1 for d in shape):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"expected NAME=D0,D1,… with dimensions of at least 1, found {text!r}",
            where="--input-shape",
            hint="for example --input-shape input=1,3,224,224",
        ) from None
    return name, shape


def fix_dims(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> ir.Model:
    """Give dynamic input dimensions fixed values, in place; a symbol takes its value wherever it occurs.

    Args:
        model: Changed in place.
        shapes: Input name to its full shape.

    Raises:
        UsageError: no such input, a dimension below 1, another rank, a contradiction to a dimension that is
            already fixed, or two values for one symbol.
    """
    inputs = {v.name or "": v for v in model.graph.inputs}
    symbols: dict[str, int] = {}
    for name, shape in shapes.items():
        where = f"--input-shape {name}"
        if name not in inputs:
            raise UsageError("the model has no such input", where=where, hint=f"its inputs are {sorted(inputs)}")
        if any(size < 1 for size in shape):
            raise UsageError(f"expected dimensions of at least 1, found {list(shape)}", where=where)
        found = dims_of(inputs[name])
        if found is not None and len(found) != len(shape):
            raise UsageError(
                f"{len(shape)} dimensions given, the model's input has {len(found)}: {list(found)}", where=where
            )
        for axis, size in enumerate(shape):
            old = found[axis] if found is not None else None
            if isinstance(old, int) and old != size:
                raise UsageError(f"axis {axis} is fixed to {old} in the model, {size} was asked for", where=where)
            if isinstance(old, str) and symbols.setdefault(old, size) != size:
                raise UsageError(f"the symbol {old!r} cannot be both {symbols[old]} and {size}", where=where)
    for name, shape in shapes.items():
        inputs[name].shape = ir.Shape(shape)
    for graph in [model.graph, *model.graph.subgraphs()]:
        values = [*graph.inputs, *graph.outputs, *(o for n in graph for o in n.outputs)]
        for value in values:
            if (dims := dims_of(value)) is not None and any(isinstance(d, str) and d in symbols for d in dims):
                value.shape = ir.Shape([symbols.get(d, d) if isinstance(d, str) else d for d in dims])
    return infer(model)


def convert_opset(model: ir.Model, target: int) -> ir.Model:
    """The model at a higher version of the standard domain, as a new model (``onnx.version_converter``).

    Raises:
        ModelError: the converter knows no way, or the model has parts that it drops (functions, weights that
            do not fit into one message).
    """
    current = opset(model)
    if target <= current:
        return model.clone()
    where = f"opset {current} → {target}"
    if model.functions:
        raise ModelError("cannot be converted: the model has local functions", where=where)
    if any(isinstance(v.const_value, ir.ExternalTensor) for v in model.graph.initializers.values()):
        raise ModelError("cannot be converted: the weights lie outside of the model file", where=where)
    try:
        converted = onnx.version_converter.convert_version(ir.to_proto(model), target)
    except Exception as error:  # the converter raises RuntimeError, ValueError and its own ConvertError
        text = re.sub(r"^\S+:\d+: ", "", " ".join(str(error).split()))[:300]  # without the converter's source line
        raise ModelError(f"cannot be converted: {text}", where=where) from error
    result = ir.from_proto(converted)
    result.metadata_props.update(model.metadata_props)  # the converter drops them
    return result


def stated(model: ir.Model) -> frozenset[str]:
    """Names of the values whose type the model itself states, before any inference."""
    return frozenset(v.name or "" for g in graphs(model) for n in g for v in n.outputs if v.type is not None)


def as_stated(model: ir.Model, original: ir.Model) -> ir.Model:
    """A copy of a rewritten model without the types that inference added to ``original``'s own."""
    result = model.clone()
    forget_inferred(result, stated(original))
    return result


def forget_inferred(model: ir.Model, known: frozenset[str]) -> None:
    """Drop, in place, the types that inference added: the file need not carry what every reader can infer.

    Graph outputs and what the model stated itself (``known``, from ``stated``) keep theirs.
    """
    for graph in graphs(model):
        for node in graph:
            for value in node.outputs:
                if value.name not in known and not value.is_graph_output():
                    value.type = None
                    value.shape = None
