"""From a float model and samples to an int8 model that has been checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from edgeopt import shapes
from edgeopt.calibration import Sample
from edgeopt.calibration.collect import collect
from edgeopt.errors import CheckError, ModelError
from edgeopt.graph import Array, Names, graphs, opset
from edgeopt.kernels import Kernels, kernels
from edgeopt.ops import count
from edgeopt.oracle import Oracle
from edgeopt.passes.int8_check import check
from edgeopt.passes.int8_plan import FUSED, WEIGHTED, Plan, observable, plan
from edgeopt.passes.quantize_int8 import MINIMUM_OPSET, quantize_int8
from edgeopt.quant import Ranges, Scheme

_CHECK_SAMPLES = 4
_COUNTED = {*WEIGHTED, *FUSED, "Add", "Mul", "ConvTranspose"}  # nodes that compute: what a share of int8 is about


@dataclass
class Quantized:
    """The int8 model and what became of each node."""

    model: ir.Model
    int8: dict[str, Any]
    nothing_to_do: bool = False
    warnings: list[str] = field(default_factory=list)


@dataclass
class Calibrated:
    """A float model and the ranges of its tensors: what any number of int8 models can be built from.

    Attributes:
        model: Float model at an opset that int8 needs.
        ranges: (low, high) of each tensor that some plan may quantize.
        samples: The first few samples, for the check.
        warnings: What the user should know.
    """

    model: ir.Model
    ranges: Ranges
    samples: list[dict[str, Array]]
    warnings: list[str] = field(default_factory=list)


def calibrate(
    model: ir.Model,
    samples: Iterable[Sample],
    oracle: Oracle,
    *,
    threads: int = 1,
    progress: Callable[[], None] | None = None,
) -> Calibrated:
    """One pass over the samples that observes every tensor which int8 may need; the input is not mutated.

    Args:
        model: Float model with inferred types, simplified.
        samples: Calibration data, read once.
        oracle: Of the model as it came in; judges the conversion of an old opset.
        threads: For onnxruntime.
        progress: Called after each sample.

    Raises:
        DataError: the calibration data cannot be used.
        ModelError: the model does not run, or its opset cannot be converted.
    """
    warnings: list[str] = []
    if opset(model) < MINIMUM_OPSET:
        warnings.append(f"opset {opset(model)} converted to {MINIMUM_OPSET}, which int8 per channel needs")
        model = _converted(model, oracle)
    first: list[dict[str, Array]] = []

    def feeds() -> Iterable[dict[str, Array]]:
        for sample in samples:
            if len(first) < _CHECK_SAMPLES:
                first.append(sample.inputs)
            yield sample.inputs

    ranges = collect(model, observable(model), feeds(), threads=threads, progress=progress)
    return Calibrated(model, ranges, first, warnings)


def build(
    calibrated: Calibrated,
    scheme: Scheme,
    oracle: Oracle,
    *,
    keep_float: frozenset[str] = frozenset(),
    threads: int = 1,
) -> Quantized:
    """An int8 model with some nodes left in float; checked, nothing is mutated.

    Args:
        calibrated: From ``calibrate``.
        scheme: The target's operand types.
        oracle: Of the model as it came in.
        keep_float: Node names or operator types that stay float.
        threads: For onnxruntime.

    Raises:
        CheckError: the result is not the original but for quantization.
        ModelError: onnxruntime refuses the result.
    """
    model = calibrated.model
    found = plan(model, keep_float)
    if not any(n.name in found.nodes and n.op_type in WEIGHTED for n in model.graph):
        return Quantized(model, _report(model, Plan(reasons=found.reasons), None), True)
    result = model.clone()
    quantize_int8(result, found, calibrated.ranges, scheme)
    if oracle.enabled:
        problem = check(model, result, found, calibrated.ranges, calibrated.samples, oracle)
        if problem is not None:
            raise CheckError(
                f"the int8 model failed its check: {problem}", hint="please report it; ship the float model"
            )
    return Quantized(result, _report(model, found, kernels(result, threads)))


def quantize(
    model: ir.Model,
    samples: Iterable[Sample],
    scheme: Scheme,
    oracle: Oracle,
    *,
    keep_float: frozenset[str] = frozenset(),
    threads: int = 1,
    progress: Callable[[], None] | None = None,
) -> Quantized:
    """Quantize all that can be, in one pass over the samples; the input is not mutated.

    Args:
        model: Float model with inferred types, simplified.
        samples: Calibration data, read once.
        scheme: The target's operand types.
        oracle: Of the model as it came in.
        keep_float: Node names or operator types that stay float.
        threads: For onnxruntime.
        progress: Called after each sample.

    Raises:
        CheckError: the result is not the original but for quantization.
        DataError: the calibration data cannot be used.
        ModelError: the model does not run, or its opset cannot be converted.
    """
    warnings = _unknown(model, keep_float)
    found = plan(model, keep_float)
    if not any(n.name in found.nodes and n.op_type in WEIGHTED for n in model.graph):
        return Quantized(model, _report(model, Plan(reasons=found.reasons), None), True, warnings)
    calibrated = calibrate(model, samples, oracle, threads=threads, progress=progress)
    result = build(calibrated, scheme, oracle, keep_float=keep_float, threads=threads)
    result.warnings = warnings + calibrated.warnings
    return result


def _unknown(model: ir.Model, keep_float: frozenset[str]) -> list[str]:
    """A warning for each name that is neither a node nor an operator type: most likely a typing error."""
    nodes = [n for g in graphs(model) for n in g]
    unknown = keep_float - {n.name for n in nodes} - {n.op_type for n in nodes}
    return [f"keep_float: {name!r} is no node and no operator type of the simplified model" for name in sorted(unknown)]


def _converted(model: ir.Model, oracle: Oracle) -> ir.Model:
    result = shapes.infer(shapes.convert_opset(model, MINIMUM_OPSET))
    names = Names(result)
    for node in (n for g in graphs(result) for n in g if not n.name):  # those that the converter added
        node.name = names.fresh(node.op_type)
    reason, _ = oracle.disagreement(result)
    if reason is not None:
        raise ModelError(f"the conversion to opset {MINIMUM_OPSET} changes the result: {reason}")
    return result


def _report(model: ir.Model, found: Plan, made: Kernels | None) -> dict[str, Any]:
    """The ``int8`` part of a report: what onnxruntime made of the plan, node by node."""
    macs = count(model).by_node
    integer, floating = _settled(model.graph, found, made)
    for graph in list(graphs(model))[1:]:
        floating += [(n, found.reasons[n.name or ""]) for n in graph if n.name in found.reasons]
    total = sum(macs.values())
    return {
        "nodes_int8": len(integer),
        "nodes_float": len(floating),
        "macs_int8_share": sum(macs.get(n, 0) for n in integer) / total if total else 0.0,
        "float_nodes": [{"node": n.name, "op": n.op_type, "reason": reason} for n, reason in floating],
    }


def _settled(
    nodes: Sequence[ir.Node], found: Plan, made: Kernels | None
) -> tuple[list[str], list[tuple[ir.Node, str]]]:
    integer: list[str] = []
    floating: list[tuple[ir.Node, str]] = []
    for node in nodes:
        name = node.name or ""
        if name in found.reasons:
            floating.append((node, found.reasons[name]))
        elif name in found.nodes and made is not None:
            computed = made.floating.get(name)
            if computed is not None and node.op_type in _COUNTED:
                floating.append((node, f"asked for int8, but onnxruntime computes it in float, as {computed}"))
            else:
                integer.append(name)
    return integer, floating
