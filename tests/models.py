"""Models written as ONNX text, for tests."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir


def proto(text: str) -> onnx.ModelProto:
    """The model that the text describes (onnx.parser syntax), opset 17 and IR 8 unless it says so itself."""
    if not text.lstrip().startswith("<"):
        text = '<ir_version: 8, opset_import: ["" : 17]>\n' + text
    return onnx.parser.parse_model(text)


def model(text: str) -> ir.Model:
    """The same as an ``onnx_ir.Model``."""
    return ir.from_proto(proto(text))
