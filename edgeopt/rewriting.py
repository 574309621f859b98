"""The verbs that make one model of another: simplify and quantize.

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
from typing import Any

import onnx_ir as ir

from edgeopt import conversions, latency, origins, saving, shapes
from edgeopt import device as devices
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
from edgeopt.node_order import has_only_order, reorder
from edgeopt.onnxsim_pass import run_onnxsim
from edgeopt.ops import Count, count
from edgeopt.oracle import Oracle, PassReport
from edgeopt.pass_choice import choose, doubtful, told, without
from edgeopt.passes import EXACT
from edgeopt.progress import Progress, silent
from edgeopt.quantizer import quantize as quantize_model
from edgeopt.report import device_part, head, measured_part, passes_part, ratios_part, size_part
from edgeopt.request import (
    Shapes,
    check_effort,
    check_seed,
    check_threads,
    finisher,
    open_model,
    overridable,
    scheme_of,
    untouched,
)
from edgeopt.result import Result
from edgeopt.rewrite import Rule
from edgeopt.runtime import Session, fits_message
from edgeopt.simplifier import Simplified
from edgeopt.simplifier import simplify as simplify_model

_MEASURE_S = 3.0
_MANY_NODES = 1000  # counting what the only order needs takes as long as some passes
_MOST_NODES_UNVERIFIED = 4000
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
    fix_weights: bool = False,
    threads: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> Result:
    """Apply all exact passes; the standard domain is kept, and the opset unless another one is asked for.

    At the end the nodes are put in the order in which their activations need the least memory, where that is less.

    Args:
        model: See the module.
        explain: List every rewritten node in the report.
        verify: Check each rewrite against the original; without it, rewrites are trusted.
        with_: Foreign simplifiers to run first: ``onnxsim``.
        device: What the result must pay on. This machine (``host``): each pass that pays on some targets only is
            measured, and the original is kept if it is faster. Another: such passes are left out. Without a device
            all passes are applied, and nothing is measured.
        opset: Convert to this version of the standard operator set: up before the passes, down after them.
        input_shape: See the module.
        fix_weights: Take initializers off the list of the graph's inputs, so that nobody can override them.
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
    target = devices.load(device) if device is not None else None
    loaded = open_model(model, input_shape, fix_weights)
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
    typed = [shapes.infer(start.clone(), light=loaded.light if start is loaded.model else None)]
    before = size_part(typed[0] if start is loaded.model else loaded.model, loaded.file_bytes)
    clean = loaded.checker_error is None

    def make(pipeline: Sequence[Rule]) -> Simplified:
        spare = typed.pop() if typed else None
        return simplify_model(start, oracle, pipeline=pipeline, checker_clean=clean, typed=spare, progress=progress)

    feed: Mapping[str, Array] = {}
    if target is None:
        done = make(EXACT)
    elif target.kind == "host":
        feed = runnable_feed(Session(loaded.model, threads=threads), input_specs(loaded.model), seed)
        done, _ = choose(make, feed, target=target.name, threads=threads, seed=seed, progress=progress)
    else:
        done = make(without(doubtful()))
        told(done, dict.fromkeys(doubtful(), f"left out: it pays on some targets only, and {target.name} is not here"))
    passes = foreign + done.passes
    result = done.model
    counted: Count | None = count(result)  # while the types are there
    warnings = overridable(loaded) + done.warnings
    order_part, moved, why = dict[str, Any](), False, _no_order(result, verify=verify)
    if why is None:
        progress("ordering the nodes")
        order = reorder(result)
        result, order_part, moved = order.model, order.as_json(), order.changed
    elif why:
        warnings.append(why)
    shapes.forget_inferred(result, shapes.stated(base))
    if opset is not None and opset < opset_of(result):  # what was folded needs no conversion
        progress(f"converting to opset {opset}")
        result, counted = conversions.to_opset(loaded, result, opset, seed=seed).model, None
    changed = converted or moved or any(p.changed for p in passes)
    if changed:
        finisher(loaded, "simplify", passes)(result, FLOAT)
    if not verify:
        warnings.append("the rewrites were not verified (--no-verify)")
    report = head(loaded)
    message = saving.made(result) if changed and fits_message(result) else None
    if message is not None and fits_message(loaded.model):
        message, grown = origins.fit(result, message, loaded.file_bytes)
        warnings += grown
    after = size_part(result, message.size if message else None, counted) if changed else dict(before)
    speedup = None
    if target is not None and target.kind == "host" and changed:
        report["device"] = device_part(target.name, threads)
        progress("measuring latency")
        timed_before, timed_after, ratio = _compared(loaded.model, result, feed, threads, seed, _MEASURE_S)
        before |= timed_before
        if ratio.slower and converted:
            warnings.append(f"at opset {opset} it ran {ratio.median:.2f} times as fast on {target.name}")
        if ratio.slower and not converted:
            warnings.append(
                f"the original is kept: simplified it ran {ratio.median:.2f} times as fast on {target.name}"
            )
            result, message, after, changed = loaded.model.clone(), None, dict(before), False
            order_part = {}
        else:
            after |= timed_after
            speedup = ratio.median
    if converted:
        report["opset"] = opset
    if order_part:
        report["node_order"] = order_part
    report |= {
        "before": before,
        "after": after,
        "passes": passes_part(passes, explain),
        "ratios": ratios_part(before, after, speedup),
        "verdict": "ok" if changed else "unchanged",
        "warnings": warnings,
    }
    return Result(result, report, unchanged=not changed, _loaded=loaded, _message=message)


def _no_order(model: ir.Model, *, verify: bool) -> str | None:
    """Why the order of the nodes is left alone; empty if there is only one, None if it is not."""
    nodes = len(model.graph)
    if nodes > _MANY_NODES and has_only_order(model.graph):
        return ""
    if nodes > _MOST_NODES_UNVERIFIED and not verify:
        return f"the order of {nodes} nodes was left as it is (--no-verify: no search in so many)"
    return None


def quantize(
    model: Any,
    *,
    calib: Any,
    device: str | Path = "host",
    range: str = "minmax",
    effort: str = "normal",
    keep_float: Sequence[str] = (),
    input_shape: Shapes | None = None,
    fix_weights: bool = False,
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
        fix_weights: Take initializers off the list of the graph's inputs, so that nobody can override them.
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
    loaded = open_model(model, input_shape, fix_weights)
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
    warnings = overridable(loaded) + data.warnings + simplified.warnings + done.warnings
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
