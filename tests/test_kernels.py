from __future__ import annotations

import pytest

from edgeopt import files, shapes
from edgeopt.calibration.collect import collect
from edgeopt.errors import ModelError
from edgeopt.feeds import random_feed
from edgeopt.graph import input_specs
from edgeopt.kernels import kernels
from edgeopt.passes.int8_plan import plan
from edgeopt.passes.quantize_int8 import quantize_int8
from edgeopt.quant import Scheme
from tests import models, tiny


def test_a_float_model_has_no_integer_kernels() -> None:
    found = kernels(files.load(tiny.net()).model)
    assert found.integer == {}
    assert {"conv1", "conv2", "dense"} <= set(found.floating)


def test_int8_nodes_keep_their_names() -> None:
    model = shapes.infer(files.load(tiny.net()).model)
    found = plan(model)
    statistics = collect(model, found.observed(), [random_feed(input_specs(model))])
    quantize_int8(model, found, {t: s.range() for t, s in statistics.items()}, Scheme())
    made = kernels(model)
    assert made.integer["conv1"] == made.integer["conv2"] == "QLinearConv"
    assert made.integer["add"] == "QLinearAdd"
    assert made.integer["dense"] in ("QGemm", "MatMulIntegerToFloat")
    assert "norm" in made.floating


def test_a_product_with_a_float_output_is_an_integer_kernel() -> None:
    model = models.loaded("g (float[N,4] x) => (float[N,3] y) <float[4,3] w> { [dense] y = MatMul(x, w) }")
    found = plan(model)
    quantize_int8(model, found, {"x": (-1.0, 1.0)}, Scheme())
    assert kernels(model).integer == {"dense": "MatMulIntegerToFloat"}


def test_a_model_that_the_runtime_refuses() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "com.acme" : 1]> g (float[N] x) => (float[N] y) { y = com.acme.F(x) }'
    )
    with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
        kernels(models.model(text))
