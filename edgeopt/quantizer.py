"""From a float model and samples to an int8 model that has been checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt import shapes
from edgeopt.calibration import Sample
from edgeopt.calibration.collect import collect
from edgeopt.calibration.statistics import Statistics, check_range
from edgeopt.errors import CheckError, ModelError
from edgeopt.graph import Array, Names, dtype_of, graphs, opset
from edgeopt.kernel_check import left_float, to_refuse
from edgeopt.kernels import kernels
from edgeopt.ops import count
from edgeopt.oracle import Oracle
from edgeopt.passes.int8_check import check
from edgeopt.passes.int8_plan import WEIGHTED, Plan, observable, plan
from edgeopt.passes.quantize_int8 import MINIMUM_OPSET, quantize_int8
from edgeopt.quant import Ranges, Scheme

_CHECK_SAMPLES = 4
_FLOAT32 = np.dtype(np.float32)
_ROUNDS = 4  # of planning anew what onnxruntime has left in float


@dataclass
class Quantized:
    """The int8 model and what became of each node."""

    model: ir.Model
    int8: dict[str, Any]
    nothing_to_do: bool = False
    warnings: list[str] = field(default_factory=list)


@dataclass
class Calibrated:
    """A float model and what is known of its tensors: what any number of int8 models can be built from.

    Attributes:
        model: Float model at an opset that int8 needs.
        statistics: Of each tensor that some plan may quantize.
        samples: The first few samples, for the check.
        refused: Name of a node that must stay float, whatever is asked, to the reason.
        warnings: What the user should know.
    """

    model: ir.Model
    statistics: dict[str, Statistics]
    samples: list[dict[str, Array]]
    refused: Mapping[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _ranges: dict[tuple[str, Scheme], Ranges] = field(default_factory=dict, repr=False)

    def ranges(self, tensors: Iterable[str], method: str, scheme: Scheme) -> Ranges:
        """(low, high) of each tensor by a method of ``edgeopt.calibration.statistics``; found once per method."""
        known = self._ranges.setdefault((method, scheme), {})
        wanted = list(tensors)
        known.update({t: self.statistics[t].range(method, scheme) for t in wanted if t not in known})
        return {t: known[t] for t in wanted}


def calibrate(
    model: ir.Model,
    samples: Iterable[Sample],
    oracle: Oracle,
    *,
    full: bool = False,
    threads: int = 1,
    progress: Callable[[], None] | None = None,
) -> Calibrated:
    """One pass over the samples that observes every tensor which int8 may need; the input is not mutated.

    Args:
        model: Float model with inferred types, simplified.
        samples: Calibration data, read once.
        oracle: Of the model as it came in; judges the conversion of an old opset.
        full: Count every value, not an evenly spaced part of those of large tensors.
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

    outputs = [v.name or "" for v in model.graph.outputs if v.producer() is not None and dtype_of(v) == _FLOAT32]
    tensors = [*observable(model), *outputs]  # NaN in an output is the data's fault, or the model's
    statistics = collect(model, tensors, feeds(), threads=threads, full=full, progress=progress)
    infinite = {name for name, found in statistics.items() if found.extremes.infinite}
    if infinite:
        warnings.append(
            f"infinite values or NaN on the calibration data in {', '.join(sorted(infinite))}: what computes or reads "
            "them stays float"
        )
    return Calibrated(model, statistics, first, dict(_touching(model, infinite)), warnings)


def _touching(model: ir.Model, infinite: Collection[str]) -> Iterator[tuple[str, str]]:
    """Nodes that compute or read these tensors, with the reason to leave them in float."""
    for node in model.graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.name in infinite:
                yield node.name or "", f"tensor {value.name!r} has infinite values or NaN on the calibration data"
                break


def build(
    calibrated: Calibrated,
    scheme: Scheme,
    oracle: Oracle,
    *,
    ranges: str = "minmax",
    keep_float: frozenset[str] = frozenset(),
    corrections: Mapping[str, Array] = MappingProxyType({}),
    threads: int = 1,
) -> Quantized:
    """An int8 model with some nodes left in float; checked, nothing is mutated.

    Args:
        calibrated: From ``calibrate``.
        scheme: The target's operand types.
        oracle: Of the model as it came in.
        ranges: How ranges are chosen, one of ``edgeopt.calibration.statistics.RANGES``.
        keep_float: Node names or operator types that stay float.
        corrections: To add to biases, see ``passes.quantize_int8``.
        threads: For onnxruntime.

    Raises:
        CheckError: the result is not the original but for quantization.
        ModelError: onnxruntime refuses the result.
    """
    model = calibrated.model
    refused = dict(calibrated.refused)
    for _ in range(_ROUNDS):
        drafted = draft(
            calibrated, scheme, ranges=ranges, keep_float=keep_float, refused=refused, corrections=corrections
        )
        if drafted is None:
            reasons = plan(model, keep_float, refused).reasons
            return Quantized(model, _report(model, Plan(reasons=reasons), {}), True)
        result, found, bounds = drafted
        made = kernels(result, threads, int8_activations=scheme.activation_dtype == "int8")
        left = left_float(model, result, found, made)
        if not left:
            break
        refused |= to_refuse(result, found, left)
    if oracle.enabled:
        problem = check(model, result, found, bounds, calibrated.samples, oracle, corrections)
        if problem is not None:
            raise CheckError(
                f"the int8 model failed its check: {problem}", hint="please report it; ship the float model"
            )
    return Quantized(result, _report(model, found, left))


def draft(
    calibrated: Calibrated,
    scheme: Scheme,
    *,
    ranges: str = "minmax",
    keep_float: frozenset[str] = frozenset(),
    refused: Mapping[str, str] = MappingProxyType({}),
    corrections: Mapping[str, Array] = MappingProxyType({}),
) -> tuple[ir.Model, Plan, Ranges] | None:
    """An int8 model that nothing has checked, for trying out; None where no layer can run in int8.

    See ``build`` for the arguments; ``refused`` are names of nodes that onnxruntime is known to leave in float, with
    the reason.
    """
    found = plan(calibrated.model, keep_float, {**calibrated.refused, **refused})
    if not has_layers(calibrated.model, found):
        return None
    result = calibrated.model.clone()
    bounds = calibrated.ranges(found.observed(), ranges, scheme)
    found.parts.update(quantize_int8(result, found, bounds, scheme, corrections).parts)
    return result, found, bounds


def quantize(
    model: ir.Model,
    samples: Iterable[Sample],
    scheme: Scheme,
    oracle: Oracle,
    *,
    ranges: str = "minmax",
    full: bool = False,
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
        ranges: How ranges are chosen, one of ``edgeopt.calibration.statistics.RANGES``.
        full: See ``calibrate``.
        keep_float: Node names or operator types that stay float.
        threads: For onnxruntime.
        progress: Called after each sample.

    Raises:
        CheckError: the result is not the original but for quantization.
        DataError: the calibration data cannot be used.
        ModelError: the model does not run, or its opset cannot be converted.
        UsageError: there is no such way of choosing ranges.
    """
    check_range(ranges)
    warnings = unknown_names(model, keep_float)
    found = plan(model, keep_float)
    if not has_layers(model, found):
        return Quantized(model, _report(model, Plan(reasons=found.reasons), {}), True, warnings)
    calibrated = calibrate(model, samples, oracle, full=full, threads=threads, progress=progress)
    result = build(calibrated, scheme, oracle, ranges=ranges, keep_float=keep_float, threads=threads)
    result.warnings = warnings + calibrated.warnings
    return result


def has_layers(model: ir.Model, found: Plan) -> bool:
    """Whether the plan brings any Conv, Gemm or MatMul to int8; without one nothing is gained."""
    return any(n.name in found.nodes and n.op_type in WEIGHTED for n in model.graph)


def unknown_names(model: ir.Model, keep_float: frozenset[str]) -> list[str]:
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


def _report(model: ir.Model, found: Plan, left: Mapping[str, str]) -> dict[str, Any]:
    """The ``int8`` part of a report: what became of the plan, node by node; ``left`` is what onnxruntime refused."""
    macs = count(model).by_node
    integer, floating = _settled(model.graph, found, left)
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
    nodes: Sequence[ir.Node], found: Plan, left: Mapping[str, str]
) -> tuple[list[str], list[tuple[ir.Node, str]]]:
    integer: list[str] = []
    floating: list[tuple[ir.Node, str]] = []
    for node in nodes:
        name = node.name or ""
        reason = found.reasons.get(name) or left.get(name)
        if reason is not None:
            floating.append((node, reason))
        elif name in found.nodes:
            integer.append(name)
    return integer, floating
