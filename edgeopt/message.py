"""A model as one protobuf message, written without ever holding its large weights twice.

The graph's large initializers come last, their data straight from where they lie; all else is what protobuf writes.
The order of fields in a message is free (protobuf documentation, "Encoding"), so every reader takes it; the same
model always gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import onnx
import onnx_ir as ir

from edgeopt.graph import Array
from edgeopt.protos import all_graphs
from edgeopt.wire import APART_BYTES, GRAPH, INITIALIZER, RAW_DATA, header


class _Empty(ir.TensorProtocol):
    """Stands for a tensor while the rest is serialized."""

    def __init__(self, tensor: ir.TensorProtocol) -> None:
        self.tensor = tensor
        self.name, self.doc_string, self.dtype, self.shape = tensor.name, tensor.doc_string, tensor.dtype, tensor.shape
        self.metadata_props, self.meta, self.raw = tensor.metadata_props, tensor.meta, None

    @property
    def size(self) -> int:
        return self.tensor.size

    @property
    def nbytes(self) -> int:
        return self.tensor.nbytes

    def tobytes(self) -> bytes:
        return b""

    def numpy(self) -> Array:
        return self.tensor.numpy()

    def __array__(self, dtype: Any = None) -> Array:
        return self.tensor.__array__(dtype)

    def __dlpack__(self, *, stream: Any = ...) -> Any:
        return self.tensor.__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        found: tuple[int, int] = self.tensor.__dlpack_device__()
        return found


class Message:
    """The message of a model: small parts as bytes, large tensors as they are.

    Args:
        model: Not changed; its tensors must stay as they are until the message is written.
    """

    def __init__(self, model: ir.Model) -> None:
        found = {n: _movable(v.const_value) for n, v in model.graph.initializers.items()}
        large = {name: _Empty(tensor) for name, tensor in found.items() if tensor is not None}
        for name, empty in large.items():
            model.graph.initializers[name].const_value = empty
        try:
            proto = to_proto(model)
        finally:
            for name, empty in large.items():
                model.graph.initializers[name].const_value = empty.tensor
        parts: list[bytes | ir.TensorProtocol] = []
        if large:
            written = [t for t in proto.graph.initializer if t.name in large]
            kept = [t for t in proto.graph.initializer if t.name not in large]
            del proto.graph.initializer[:]
            proto.graph.initializer.extend(kept)
            for message in written:
                tensor = large[message.name].tensor
                message.ClearField("raw_data")
                start = message.SerializeToString(deterministic=True) + header(RAW_DATA, tensor.nbytes)
                parts += [header(INITIALIZER, len(start) + tensor.nbytes) + start, tensor]
            graph = proto.graph.SerializeToString(deterministic=True)
            proto.ClearField("graph")
            length = len(graph) + _length(parts)
            parts.insert(0, proto.SerializeToString(deterministic=True) + header(GRAPH, length) + graph)
        else:
            parts.append(proto.SerializeToString(deterministic=True))
        self._parts = parts
        self.size = _length(parts)

    def write(self, file: BinaryIO) -> None:
        """Write it to an open file."""
        for piece in self._pieces():
            file.write(piece)

    def tobytes(self) -> bytes:
        """All of it."""
        return b"".join(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        for part in self._parts:
            yield part if isinstance(part, bytes) else part.tobytes()


def _length(parts: list[bytes | ir.TensorProtocol]) -> int:
    return sum(len(p) if isinstance(p, bytes) else p.nbytes for p in parts)


def _movable(tensor: ir.TensorProtocol | None) -> ir.TensorProtocol | None:
    """The tensor if it is large and its data is plain bytes."""
    if tensor is None or tensor.dtype == ir.DataType.STRING or isinstance(tensor, ir.ExternalTensor):
        return None
    if isinstance(tensor, ir.serde.TensorProtoTensor) and not tensor.raw.HasField("raw_data"):
        return None  # its numbers may be written shorter than they are
    return tensor if tensor.nbytes >= APART_BYTES else None


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model as a message, without the types that onnx_ir repeats for initializers: they state their own."""
    proto = ir.to_proto(model)
    for graph in all_graphs(proto.graph):
        stored = {t.name for t in graph.initializer}
        kept = [v for v in graph.value_info if v.name not in stored]
        if len(kept) != len(graph.value_info):
            del graph.value_info[:]
            graph.value_info.extend(kept)
    return proto
