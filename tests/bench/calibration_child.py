"""One calibration in a process of its own: ``python -m tests.bench.calibration_child HOW MODEL SAMPLES``.

HOW is ``onnxruntime`` (its min-max calibrator), ``sampled`` or ``full`` (edgeopt, with MSE ranges afterwards). Prints
JSON: seconds of the data pass and of the search for the ranges, peak resident set in bytes, number of tensors. Of
onnxruntime's pass, making the session is left out.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader
from onnxruntime.quantization.calibrate import MinMaxCalibrater

from edgeopt import files, shapes
from edgeopt.calibration import open_dataset
from edgeopt.calibration.collect import collect
from edgeopt.calibration.statistics import Statistics
from edgeopt.graph import input_specs
from edgeopt.oracle import Oracle
from edgeopt.passes.int8_plan import observable
from edgeopt.quant import Scheme
from edgeopt.simplifier import simplify
from tests.bench.shared_data import SETS, shared_folder

KEPT = 8  # decoded samples in memory, repeated: the time to decode images is not what is measured


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Hands the samples out one by one."""

    def __init__(self, feeds: Iterator[dict[str, Any]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


class Peer(MinMaxCalibrater):  # type: ignore[misc]
    """onnxruntime's calibrator on given tensors, in a session with all graph optimizations and one thread.

    That is faster than its own choice: no graph optimization, one thread per core.
    """

    def __init__(self, model: Path, tensors: list[str]) -> None:
        self._tensors = set(tensors)
        super().__init__(str(model), augmented_model_path=str(model.with_suffix(".augmented.onnx")))
        self.augment_graph()
        chosen = onnxruntime.SessionOptions()
        chosen.intra_op_num_threads = 1
        self.infer_session = onnxruntime.InferenceSession(
            self.augmented_model_path, chosen, providers=["CPUExecutionProvider"]
        )

    def select_tensors_to_calibrate(self, model: Any) -> tuple[set[str], Any]:
        return self._tensors, super().select_tensors_to_calibrate(model)[1]


def main(how: str, name: str, samples: int) -> dict[str, Any]:
    """Measure one way on one model."""
    model = shapes.infer(files.load(shared_folder() / "data" / "models" / f"{name}.onnx").model)
    model = simplify(model, Oracle(model, enabled=False)).model
    kept = [s.inputs for s in islice(open_dataset(SETS[name][0], input_specs(model), model=model), KEPT)]
    feeds = islice(cycle(kept), samples)
    tensors = observable(model)
    found: dict[str, Statistics] = {}
    with tempfile.TemporaryDirectory(prefix="edgeopt-bench-") as folder:
        path = Path(folder, "model.onnx")
        ir.save(model, path)
        peer = Peer(path, tensors) if how == "onnxruntime" else None
        start = time.perf_counter()
        if peer is not None:
            peer.collect_data(Reader(feeds))
            peer.compute_data()
        else:
            found = collect(model, tensors, feeds, full=how == "full")
        pass_s = time.perf_counter() - start
    start = time.perf_counter()
    for statistics in found.values():
        statistics.range("mse", Scheme())
    return {
        "pass_s": pass_s,
        "range_s": time.perf_counter() - start,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "tensors": len(tensors),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
