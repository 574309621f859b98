"""The verb export: a torch module to ONNX; an ONNX model to another opset, to float16 or to ``.ort``.

``input_shape``, ``seed`` and ``progress`` are as in ``rewriting``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from edgeopt import conversions, exporters, files, saving
from edgeopt.errors import UsageError
from edgeopt.graph import opset as opset_of
from edgeopt.progress import Progress, silent
from edgeopt.report import head
from edgeopt.request import Shapes, check_seed, finisher, open_model
from edgeopt.result import Exported


def export(
    source: Any,
    *,
    example_inputs: Any = None,
    format: Literal["onnx", "ort"] = "onnx",
    opset: int | None = None,
    precision: Literal["fp32", "fp16"] = "fp32",
    keep_float: Sequence[str] = (),
    input_shape: Shapes | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Exported:
    """A torch module to ONNX, or an ONNX model to ``.ort``, another opset or float16.

    The result is run beside the source.

    Args:
        source: ``module:callable`` whose call returns a ``torch.nn.Module`` and example inputs, or such a module
            itself; or an ONNX model (see the module).
        example_inputs: Of a module given itself: a tensor, a tuple or a dict of tensors.
        format: ``onnx`` or ``ort``.
        opset: The ONNX opset, of an exported module (the exporter's default if missing) or of a model, which is
            converted to it up or down.
        precision: ``fp16`` converts to float16 what can be; inputs and outputs stay as they are.
        keep_float: Names of nodes, or operator types, that stay float32 in ``fp16``.
        input_shape: See the module; ONNX sources only.
        seed: See the module.
        progress: See the module.

    Raises:
        CheckError: the result computes something else than the source.
    """
    if format not in ("onnx", "ort"):
        raise UsageError(f"expected onnx or ort, found {format!r}", where="--format")
    if precision not in conversions.PRECISIONS:
        raise UsageError(f"expected fp32 or fp16, found {precision!r}", where="--precision")
    if keep_float and precision != "fp16":
        raise UsageError("only with --precision fp16", where="--keep-float")
    check_seed(seed)
    check: dict[str, Any] = {}
    module, inputs = source, example_inputs
    if isinstance(source, str) and not Path(source).exists() and ":" in source:
        module, inputs = exporters.resolve_torch(source)
    if module is not source or inputs is not None:
        progress("exporting from torch")
        model, made = exporters.from_torch(module, inputs, opset=opset, seed=seed)
        check = made.as_json()
        loaded = files.load(model)
    else:
        loaded = open_model(source, input_shape)
        if format == "onnx" and opset is None and precision == "fp32":
            raise UsageError(
                "the source is ONNX already",
                where="--format",
                hint="name the output .ort, or ask for another --opset or --precision",
            )
    model, warnings = loaded.model, list[str]()
    if module is source and inputs is None and opset is not None and opset != opset_of(model):
        progress(f"converting to opset {opset}")
        done = conversions.to_opset(loaded, model, opset, seed=seed)
        model, check = done.model, done.check
    if precision == "fp16":
        progress("converting to float16")
        done = conversions.to_half(loaded, model, keep_float, seed=seed)
        model, check, warnings = (
            done.model,
            check | done.check if "exporter" not in check else done.check,
            done.warnings,
        )
    if model is not loaded.model:
        finisher(loaded, "export")(model, precision)
    report = head(loaded) | {"format": format}
    if check:
        report["check"] = check
    if warnings:
        report["warnings"] = warnings
    if format == "onnx":
        report.setdefault("check", {"compared": f"nothing: the model is at opset {opset}"})
        return Exported(model, None, report | {"file_bytes": saving.made(model).size}, loaded.path)
    progress("writing the .ort format")
    data = exporters.to_ort(model, seed=seed)
    report.setdefault("check", {"compared": "the reloaded file with the model, on random inputs"})
    return Exported(model, data, report | {"file_bytes": len(data)}, loaded.path)
