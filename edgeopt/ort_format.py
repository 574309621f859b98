"""ONNX to onnxruntime's own file format (``.ort``), compared before it is handed over."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from edgeopt.errors import CheckError, ModelError, UsageError
from edgeopt.export_check import DisagreementError, agree
from edgeopt.feeds import runnable_feed
from edgeopt.graph import input_specs
from edgeopt.runtime import Session, options
from edgeopt.torch_modules import leaves

_LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}


def to_ort(model: ir.Model, *, level: Literal["basic", "extended"] = "extended", seed: int = 0) -> bytes:
    """The model in onnxruntime's own file format, which its reduced builds for phones and boards read.

    An ``.ort`` file is not optimized again when it is loaded, so what is written is what runs. ``extended``
    fuses int8 operators (without that, a QDQ model runs in float) and keeps to layouts that every processor
    can run; ``basic`` leaves out the fusions. The one thing more that onnxruntime does to an ``.onnx`` file on
    x86, the blocked NCHWc layout, is tied to the processor and never written. The file is as new as the
    installed onnxruntime: older ones may refuse it. The same model gives the same graph and weights, though not
    always the same bytes: onnxruntime writes its tables in the order of its hash maps, which changes.

    Raises:
        UsageError: an unknown level.
        ModelError: onnxruntime refuses the model.
        CheckError: the file, loaded again, gives other results than the model did at the same level.
    """
    if level not in _LEVELS:
        raise UsageError(f"unknown level {level!r}; expected one of {sorted(_LEVELS)}", where="level")
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        path = Path(folder) / "model.ort"
        writing = options()
        writing.graph_optimization_level = _LEVELS[level]
        writing.optimized_model_filepath = str(path)
        writing.add_session_config_entry("session.save_model_format", "ORT")
        Session(model, session_options=writing)
        data = path.read_bytes()
    plain = options()
    plain.graph_optimization_level = _LEVELS[level]
    original = Session(model, session_options=plain)
    try:
        written = Session(data)
        if (written.input_names, written.output_names) != (original.input_names, original.output_names):
            raise DisagreementError("its inputs or outputs have other names")
        for number in (seed, seed + 1):
            feed = runnable_feed(original, input_specs(model), number)
            expected, found = leaves(original.run(feed)), leaves(written.run(feed))
            for k, (a, b) in enumerate(zip(expected, found, strict=True)):
                agree(np.asarray(a), np.asarray(b), k, lambda: None)
    except (ModelError, DisagreementError) as error:
        raise CheckError(f"the .ort file does not do what the model does, or cannot be compared: {error}") from error
    return data
