from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import constant_value, dims_of
from edgeopt.node_types import infer_outputs


def typed(*dims: int | str) -> ir.Value:
    return ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(dims))


def made(op: str, *inputs: ir.Value | None, domain: str = "", **attributes: object) -> ir.Node:
    node = ir.node(op, inputs, attributes=attributes, domain=domain)  # type: ignore[arg-type]
    infer_outputs(node, {"": 17}, 8)
    return node


def test_type_and_dims() -> None:
    out = made("Transpose", typed("N", 3, 4), perm=[0, 2, 1]).outputs[0]
    assert (out.dtype, dims_of(out)) == (ir.DataType.FLOAT, ("N", 4, 3))


def test_a_new_constant_is_read() -> None:
    shape = constant_value("s", np.array([2, -1], np.int64))
    assert dims_of(made("Reshape", typed(2, 3, 4), shape).outputs[0]) == (2, 12)


def test_an_empty_input() -> None:
    assert dims_of(made("Clip", typed(2, 3), None, None).outputs[0]) == (2, 3)


def test_what_is_known_stays() -> None:
    node = ir.node("Relu", [typed(2, 3)])
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["A", "B"])
    infer_outputs(node, {"": 17}, 8)
    assert dims_of(node.outputs[0]) == ("A", "B")


@pytest.mark.parametrize(
    ("op", "value", "domain"),
    [("Relu", typed(2), "my"), ("Nothing", typed(2), ""), ("Relu", ir.Value(name="x"), ""), ("Gemm", typed(2), "")],
)
def test_what_cannot_be_told_stays_unknown(op: str, value: ir.Value, domain: str) -> None:
    assert made(op, value, domain=domain).outputs[0].shape is None
