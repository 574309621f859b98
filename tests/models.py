"""Models written as ONNX text, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from edgeopt import files, shapes
from edgeopt.feeds import random_feed
from edgeopt.graph import input_specs
from edgeopt.oracle import Oracle, PassReport, run_checked
from edgeopt.rewrite import Rule
from edgeopt.runtime import Level, Session


def proto(text: str) -> onnx.ModelProto:
    """The model that the text describes (onnx.parser syntax), opset 17 and IR 8 unless it says so itself."""
    if not text.lstrip().startswith("<"):
        text = '<ir_version: 8, opset_import: ["" : 17]>\n' + text
    return onnx.parser.parse_model(text)


def model(text: str) -> ir.Model:
    """The same as an ``onnx_ir.Model``."""
    return ir.from_proto(proto(text))


def filled(text: str, seed: int = 0) -> onnx.ModelProto:
    """The same; what ``<float[4,3,3,3] w>`` declares and nothing computes becomes a random initializer.

    Names that begin with ``var`` get values from 0.5 to 1.5, all others N(0, 1).
    """
    result = proto(text)
    rng = np.random.default_rng(seed)

    def fill(graph: onnx.GraphProto) -> None:
        known = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        known.update(name for node in graph.node for name in node.output)
        for info in [v for v in graph.value_info if v.name not in known]:
            kind = info.type.tensor_type
            shape = [d.dim_value for d in kind.shape.dim]
            array = rng.uniform(0.5, 1.5, shape) if info.name.startswith("var") else rng.standard_normal(shape)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            graph.initializer.append(onnx.numpy_helper.from_array(array.astype(dtype), info.name))
            graph.value_info.remove(info)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    fill(attribute.g)

    fill(result.graph)
    return result


def loaded(text: str, seed: int = 0) -> ir.Model:
    """``filled``, read as edgeopt reads models: names repaired, shapes inferred."""
    return shapes.infer(files.load(filled(text, seed)).model)


def outputs(model: ir.Model, seed: int = 1, size: int = 4, **given: Any) -> dict[str, Any]:
    """What the model computes from random (or given) inputs, without onnxruntime's own rewriting."""
    feed = random_feed(input_specs(model), seed, size) | given
    return Session(model, Level.NONE).run(feed)


def assert_same(a: ir.Model, b: ir.Model, tolerance: float = 1e-5, **given: Any) -> None:
    """Both models give the same outputs: names, types, shapes, and values within ``tolerance`` of the scale."""
    left, right = outputs(a, **given), outputs(b, **given)
    assert list(left) == list(right)
    for name, x in left.items():
        y = right[name]
        if not isinstance(x, np.ndarray):
            assert np.array_equal(np.asarray(x), np.asarray(y)), name
            continue
        assert (x.dtype, x.shape) == (y.dtype, y.shape), name
        if x.dtype.kind != "f":
            assert np.array_equal(x, y), name
            continue
        scale = float(np.abs(x[np.isfinite(x)]).max(initial=0))
        np.testing.assert_allclose(y, x, rtol=0, atol=tolerance * scale, err_msg=name)


def checked(rule: Rule, model: ir.Model) -> tuple[ir.Model, PassReport]:
    """One application under the oracle, with inferred shapes as the pipeline has them."""
    return run_checked(rule, model, Oracle(model))
