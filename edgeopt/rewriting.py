"""The verbs that make one model of another: simplify, quantize, export.

Parameters that all verbs share: ``model`` is a path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model`` and is never
mutated; ``input_shape`` fixes dynamic dimensions, as ``{"name": (1, 3, 224, 224)}`` or ``["name=1,3,224,224"]``;
``threads`` are onnxruntime's intra-op threads; ``seed`` is that of random inputs; ``progress`` is called with a
line of text at each step. Every verb may raise ModelError (the model), UsageError (a parameter) and, where it
takes data, DataError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from edgeopt import conversions, exporters, files, latency, saving, shapes
from edgeopt.calibration import open_dataset
from edgeopt.calibration.statistics import check_range
from edgeopt.collecting import without_collecting
from edgeopt.decisions import FLOAT, INT8
from edgeopt.effort import EFFORTS
from edgeopt.errors import UsageError
from edgeopt.feeds import runnable_feed
from edgeopt.graph import Array, input_specs
from edgeopt.graph import opset as opset_of
from edgeopt.latency import Ratio
from edgeopt.onnxsim_pass import run_onnxsim
from edgeopt.ops import Count, count
from edgeopt.oracle import Oracle, PassReport
from edgeopt.progress import Progress, silent
from edgeopt.quantizer import quantize as quantize_model
from edgeopt.report import device_part, head, measured_part, passes_part, ratios_part, size_part
from edgeopt.request import (
    Shapes,
    check_effort,
    check_seed,
    check_threads,
    finisher,
    host_device,
    open_model,
    scheme_of,
    untouched,
)
from edgeopt.result import Exported, Result
from edgeopt.runtime import Session, fits_message
from edgeopt.simplifier import simplify as simplify_model

_MEASURE_S = 3.0
_QUICK_MEASURE_S = 1.0


@without_collecting
def simplify(
    model: Any,
    *,
    explain: bool = False,
    verify: bool = True,
    with_: Sequence[str] = (),
    device: str | Path | None = None,
    opset: int | None = None,
    input_shape: Shapes | None = None,
    threads: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> Result:
    """Apply all exact passes; the standard domain is kept, and the opset unless another one is asked for.

    Args:
        model: See the module.
        explain: List every rewritten node in the report.
        verify: Check each rewrite against the original; without it, rewrites are trusted.
        with_: Foreign simplifiers to run first: ``onnxsim``.
        device: Decide by measuring there (this machine: ``host``); without it nothing is measured.
        opset: Convert to this version of the standard operator set: up before the passes, down after them.
        input_shape: See the module.
        threads: See the module.
        seed: See the module.
        progress: See the module.

    Raises:
        CheckError: the model at the other opset computes something else.
    """
    check_threads(threads)
    check_seed(seed)
    if opset is not None:
        conversions.check_opset(opset)
    unknown = set(with_) - {"onnxsim"}
    if unknown:
        raise UsageError(f"expected onnxsim, found {', '.join(sorted(unknown))}", where="--with")
    target = host_device(device) if device is not None else None
    loaded = open_model(model, input_shape)
    if loaded.untouchable:
        return untouched(loaded)
    oracle = Oracle(loaded.model, seed=seed, enabled=verify)
    base, foreign = loaded.model, list[PassReport]()
    converted = opset is not None and opset != opset_of(base)
    if opset is not None and opset > opset_of(base):
        progress(f"converting to opset {opset}")
        base = conversions.to_opset(loaded, base, opset, seed=seed).model
    start = base
    if with_:
        progress("onnxsim")
        check = oracle if verify else Oracle(loaded.model, seed=seed)
        start, found = run_onnxsim(start, check)
        foreign.append(found)
    typed = shapes.infer(start.clone(), light=loaded.light if start is loaded.model else None)
    before = size_part(typed if start is loaded.model else loaded.model, loaded.file_bytes)
    done = simplify_model(start, oracle, checker_clean=loaded.checker_error is None, typed=typed, progress=progress)
    passes = foreign + done.passes
    result = done.model
    counted: Count | None = count(result)  # while the types are there
    shapes.forget_inferred(result, shapes.stated(base))
    if opset is not None and opset < opset_of(result):  # what was folded needs no conversion
        progress(f"converting to opset {opset}")
        result, counted = conversions.to_opset(loaded, result, opset, seed=seed).model, None
    changed = converted or any(p.changed for p in passes)
    if changed:
        finisher(loaded, "simplify", passes)(result, FLOAT)
    warnings = list(done.warnings)
    if not verify:
        warnings.append("the rewrites were not verified (--no-verify)")
    report = head(loaded)
    message = saving.made(result) if changed and fits_message(result) else None
    after = size_part(result, message.size if message else None, counted) if changed else dict(before)
    speedup = None
    if target is not None and changed:
        report["device"] = device_part(target.name, threads)
        progress("measuring latency")
        feed = runnable_feed(Session(loaded.model, threads=threads), input_specs(loaded.model), seed)
        timed_before, timed_after, ratio = _compared(loaded.model, result, feed, threads, seed, _MEASURE_S)
        before |= timed_before
        if ratio.slower and converted:
            warnings.append(f"at opset {opset} it ran {ratio.median:.2f} times as fast on {target.name}")
        if ratio.slower and not converted:
            warnings.append(
                f"the original is kept: simplified it ran {ratio.median:.2f} times as fast on {target.name}"
            )
            result, message, after, changed = loaded.model.clone(), None, dict(before), False
        else:
            after |= timed_after
            speedup = ratio.median
    if converted:
        report["opset"] = opset
    report |= {
        "before": before,
        "after": after,
        "passes": passes_part(passes, explain),
        "ratios": ratios_part(before, after, speedup),
        "verdict": "ok" if changed else "unchanged",
        "warnings": warnings,
    }
    return Result(result, report, unchanged=not changed, _loaded=loaded, _message=message)


def quantize(
    model: Any,
    *,
    calib: Any,
    device: str | Path = "host",
    range: str = "minmax",
    effort: str = "normal",
    keep_float: Sequence[str] = (),
    input_shape: Shapes | None = None,
    threads: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> Result:
    """Simplify, then quantize to int8 (QDQ) all that the device's runtime has integer kernels for.

    Args:
        model: See the module.
        calib: Calibration data; anything that ``--calib`` takes, or an iterable of samples.
        device: A device or an integer-kernel preset.
        range: How ranges are chosen: ``minmax``, ``moving-average``, ``percentile``, ``entropy`` or ``mse``.
        effort: ``fast`` uses at most 64 calibration samples, ``normal`` 512, ``best`` all, and counts every value.
        keep_float: Names of nodes, or operator types, that stay float.
        input_shape: See the module.
        threads: See the module.
        seed: See the module.
        progress: See the module.

    Raises:
        CheckError: the int8 model failed its check.
    """
    check_threads(threads)
    check_seed(seed)
    check_effort(effort)
    check_range(range)
    target, scheme = scheme_of(device)
    loaded = open_model(model, input_shape)
    data = open_dataset(calib, input_specs(loaded.model), model=loaded.model)
    if loaded.untouchable:
        return untouched(loaded)
    first = [s.inputs for s in islice(data, 2)]
    oracle = Oracle(loaded.model, first, seed=seed)
    simplified = simplify_model(loaded.model, oracle, checker_clean=loaded.checker_error is None, progress=progress)
    samples, advance = EFFORTS[effort].calibration(data, progress)
    done = quantize_model(
        simplified.model,
        samples,
        scheme,
        oracle,
        ranges=range,
        full=EFFORTS[effort].full_counts,
        keep_float=frozenset(keep_float),
        threads=threads,
        progress=advance,
    )
    result = shapes.as_stated(done.model, loaded.model)
    changed = not done.nothing_to_do or any(p.changed for p in simplified.passes)
    if changed:
        finisher(loaded, "quantize", simplified.passes)(result, FLOAT if done.nothing_to_do else INT8)
    warnings = data.warnings + simplified.warnings + done.warnings
    report = head(loaded) | {"device": device_part(target.name, threads), "calibration": data.description}
    before, after = size_part(loaded.model, loaded.file_bytes), size_part(result)
    speedup = None
    if done.nothing_to_do:
        warnings.append("no Conv, Gemm or MatMul can run in int8: the model is float")
    elif target.kind == "host":
        progress("measuring latency")
        timed_before, timed_after, ratio = _compared(loaded.model, result, first[0], threads, seed, _QUICK_MEASURE_S)
        before, after, speedup = before | timed_before, after | timed_after, ratio.median
        if ratio.slower:
            warnings.append(
                f"int8 is slower than float here: {speedup:.2f} times as fast; optimize ships what is faster"
            )
    report |= {
        "before": before,
        "after": after,
        "passes": passes_part(simplified.passes),
        "int8": done.int8,
        "ratios": ratios_part(before, after, speedup),
        "verdict": "ok" if changed else "unchanged",
        "warnings": warnings,
    }
    return Result(result, report, unchanged=not changed, _loaded=loaded)


def _compared(
    before: ir.Model, after: ir.Model, feed: Mapping[str, Array], threads: int, seed: int, budget_s: float
) -> tuple[dict[str, Any], dict[str, Any], Ratio]:
    """Latency of both, measured side by side: the parts for the report, and how many times faster ``after`` is."""
    sessions = {"before": Session(before, threads=threads), "after": Session(after, threads=threads)}
    times = latency.measure(sessions, feed, budget_s=budget_s, rng_seed=seed)
    ratio = latency.ratio(times["before"].samples_ms, times["after"].samples_ms)
    return measured_part(times["before"], None, None), measured_part(times["after"], None, None), ratio


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
