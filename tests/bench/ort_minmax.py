"""The peer ``ort-minmax``: onnxruntime's own static quantization at its strong setting, in a process of its own.

    python -m tests.bench.ort_minmax MODEL.onnx CALIB OUT.onnx

QDQ, uint8 activations, int8 weights per channel, ranges by min-max over at most 128 calibration samples, after
onnxruntime's own pre-processing (shape inference and graph optimization), which its manual asks for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edgeopt.calibration import open_dataset
from edgeopt.graph import input_specs

SAMPLES = 128


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Hands the samples out one by one."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._feeds = feeds
        self._left: Iterator[dict[str, Any]] = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self._left, None)

    def rewind(self) -> None:
        self._left = iter(self._feeds)


def quantize(model: Path, calib: str, out: Path) -> None:
    """Write the int8 model to ``out``, and the pre-processed float model beside it."""
    onnxruntime.set_default_logger_severity(3)
    loaded = ir.load(model)
    feeds = [s.inputs for s in open_dataset(calib, input_specs(loaded), model=loaded, limit=SAMPLES)]
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(out),
        Reader(feeds),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


if __name__ == "__main__":
    quantize(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
