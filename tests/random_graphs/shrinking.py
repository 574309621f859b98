"""The smallest graph that still goes wrong."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx.printer

from tests import pipeline


def text(model: onnx.ModelProto) -> str:
    """The model as text that onnx.parser reads, weights included."""
    return str(onnx.printer.to_text(model))


def shrink(model: onnx.ModelProto, fails: Callable[[onnx.ModelProto], bool]) -> onnx.ModelProto:
    """Drop outputs and nodes (a reader of the dropped one reads its first input instead) while it still fails."""

    def attempt(change: Callable[[onnx.GraphProto], None]) -> bool:
        nonlocal model
        candidate = onnx.ModelProto()
        candidate.CopyFrom(model)
        try:
            change(candidate.graph)
            _forget_unused(candidate.graph)
            onnx.checker.check_model(candidate, full_check=True)
            failed = fails(candidate)
        except Exception:  # noqa: BLE001 -- no valid model: not this way
            return False
        if failed:
            model = candidate
        return failed

    progress = True
    while progress:
        progress = False
        for k in reversed(range(len(model.graph.output))):
            progress |= len(model.graph.output) > 1 and attempt(lambda g, k=k: g.output.pop(k))  # type: ignore[misc]
        for k in reversed(range(len(model.graph.node))):
            if k < len(model.graph.node):
                progress |= attempt(lambda g, k=k: _bypass(g, k))  # type: ignore[misc]
                progress |= k < len(model.graph.node) and attempt(lambda g, k=k: _expose(g, k))  # type: ignore[misc]
    return model


def _bypass(graph: onnx.GraphProto, k: int) -> None:
    node = graph.node.pop(k)
    source = node.input[0] if node.input else ""
    for other in (*graph.node, *(n for m in graph.node for n in pipeline.inner_nodes(m))):
        for i, name in enumerate(other.input):
            if name in node.output:
                other.input[i] = source


def _expose(graph: onnx.GraphProto, k: int) -> None:
    """What the node reads becomes the only output."""
    source = graph.node[k].input[0]
    info = onnx.ValueInfoProto()
    info.CopyFrom(graph.output[0])
    info.name = source
    info.type.tensor_type.ClearField("shape")
    del graph.output[:]
    graph.output.append(info)


def _forget_unused(graph: onnx.GraphProto) -> None:
    outputs = {v.name for v in graph.output}
    while True:
        read = outputs | {n for node in graph.node for m in (node, *pipeline.inner_nodes(node)) for n in m.input}
        unread = [k for k, node in enumerate(graph.node) if not read & set(node.output)]
        if not unread:
            break
        for k in reversed(unread):
            graph.node.pop(k)
    for values in (graph.initializer, graph.input):
        for k in reversed(range(len(values))):
            if values[k].name not in read:
                values.pop(k)
