"""The oracle of the int8 pass: the quantized model is the original, but for quantization.

1. Every planned value passes one Q/DQ pair of one scale and zero point on its way from or to an int8 node, and
   nothing else does; every weight, bias and constant of an int8 node is stored in integers; a bias has the scale
   that integer kernels take for granted (input scale times weight scale, zero point 0), weights per channel have
   theirs along the output channels
2. What is stored, dequantized by its own DQ, lies within half a step of the original's (a bias: of the original's
   and its correction); this catches wrong axes, scales and zero points
3. Activation scales cover the calibrated range within half a step (a zero point is rounded), and no more than that
4. With every Q/DQ pair taken out and the original's constants put back, the model is the original again, within
   the bound of exact rewrites
5. With onnxruntime's integer kernels, outputs stay close to those with its optimizations off: the power
   of the difference is at most twice that of the quantization itself, as with two roundings that know nothing of
   each other, or the difference at most one step of 8 bits. Kernels that compute garbage
   (weights per channel on the wrong axis) are caught here
6. Around a Pad of integers scale and zero point stay, and it fills with the zero point
7. No layer that is kept float is exposed to onnxruntime's own quantization (``int8_guard``)

Nodes that ``int8_lowering`` rewrites are held against their other form; that this one is exact, case 4 shows. A
product with a number that became another scale (``Plan.rescaled``) is put back for case 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.graph import Array, Names, attribute, constant, constant_tensor, constant_value, input_or_none, is_op
from edgeopt.oracle import Oracle
from edgeopt.parity import Agreement
from edgeopt.passes.int8_guard import exposed, unguarded
from edgeopt.passes.int8_lowering import lower
from edgeopt.passes.int8_plan import Plan
from edgeopt.passes.int8_strip import pads_in_float, pair_parameters, stripped
from edgeopt.passes.int8_structure import pairs_problem, structure_problem
from edgeopt.quant import Parameters, Ranges, dequantize
from edgeopt.runtime import Level, Session

_STEP_SHARE = 1 / 255  # one step of an 8-bit output, as a share of its range
_NO_RANGE = 1e-30  # a tensor that is always 0 gets the smallest scale there is


def check(
    original: ir.Model,
    quantized: ir.Model,
    plan: Plan,
    ranges: Ranges,
    samples: Sequence[Mapping[str, Array]],
    oracle: Oracle,
    corrections: Mapping[str, Array] = MappingProxyType({}),
) -> str | None:
    """Why the quantized model cannot be trusted, or None.

    Args:
        original: The float model that was quantized (after simplification).
        quantized: The result.
        plan: What was to be quantized.
        ranges: The calibrated ranges.
        samples: A few inputs.
        oracle: Of the model as it came in; lends its feeds and noise.
        corrections: What was to be added to biases: name of a layer to float32 [output channels].
    """
    lowered = original.clone()
    plan = lower(lowered, plan)
    wanted = _corrected(lowered, plan, corrections)
    plain, problem = pads_in_float(unguarded(quantized))
    return (
        problem
        or _guard_problem(quantized, plan)
        or structure_problem(wanted, plain, plan)
        or pairs_problem(plain, plan)
        or _constants_problem(wanted, plain)
        or _ranges_problem(plain, plan, ranges)
        or oracle.disagreement(stripped(lowered, plain, plan))[0]
        or _kernel_problem(original, quantized, samples)
    )


def _corrected(lowered: ir.Model, plan: Plan, corrections: Mapping[str, Array]) -> ir.Model:
    """Case 2: the float model with the biases that are to be stored."""
    model = lowered.clone()
    names, nodes = Names(model), {n.name: n for n in model.graph}
    for name, correction in corrections.items():
        if name not in plan.nodes or (is_op(nodes[name], "MatMul") and name not in plan.biases):
            continue
        holder = nodes[plan.biases.get(name, name)]
        index = 2
        if is_op(holder, "Add"):
            index = next(k for k, v in enumerate(holder.inputs) if constant_tensor(v) is not None)
        before = constant(input_or_none(holder, index))
        total = correction if before is None else (before + correction).reshape(before.shape)
        value = constant_value(names.fresh(f"{name}/corrected bias"), total)
        model.graph.register_initializer(value)
        holder.resize_inputs(max(len(holder.inputs), index + 1))
        holder.replace_input_with(index, value)
    return model


def _guard_problem(quantized: ir.Model, plan: Plan) -> str | None:
    """Case 7."""
    for node in exposed(quantized, plan.reasons.keys()):
        return f"node {node.name!r} is kept float, but lies between DQ and Q without a guard: it would run in int8"
    return None


def _constants_problem(original: ir.Model, quantized: ir.Model) -> str | None:
    """Case 2, by position: node names and operand places are those of the original."""
    sources = {n.name: n for n in original.graph}
    for node in quantized.graph:
        source = sources.get(node.name)
        if source is None or is_op(node, "QuantizeLinear", "DequantizeLinear"):
            continue
        for index, value in enumerate(node.inputs):
            dq = value.producer() if value is not None else None
            wanted = constant(source.inputs[index]) if index < len(source.inputs) else None
            if dq is None or not is_op(dq, "DequantizeLinear") or wanted is None:
                continue
            stored, parameters = constant(dq.inputs[0]), pair_parameters(dq)
            if stored is None or parameters is None:
                continue
            axis = attribute(dq, "axis", 1) if parameters.scale.ndim else None
            found = dequantize(stored, parameters, axis)
            if stored.dtype == np.int32 and wanted.ndim and found.shape == wanted.shape[-1:] == (wanted.size,):
                wanted = wanted.reshape(-1)  # a bias without its axes of size 1
            if found.shape != wanted.shape:
                return f"constant {index} of node {node.name!r} has shape {found.shape}, was {wanted.shape}"
            step = _step(parameters, found.ndim, axis)
            rounding = np.abs(wanted.astype(np.float64)) * 1e-6  # an int32 bias has more digits than a float32
            if bool((np.abs(found - wanted) > 0.501 * step + rounding).any()):
                return f"constant {index} of node {node.name!r} is more than half a step away from the original"
    return None


def _step(parameters: Parameters, rank: int, axis: int | None) -> Array:
    shape = [1] * rank
    if axis is not None:
        shape[axis] = -1
    return np.asarray(parameters.scale, dtype=np.float64).reshape(shape)


def _ranges_problem(quantized: ir.Model, plan: Plan, ranges: Ranges) -> str | None:
    """Case 3."""
    for node in quantized.graph:
        source = node.inputs[0].name if is_op(node, "QuantizeLinear") and node.inputs[0] is not None else None
        parameters = pair_parameters(node) if source is not None else None
        if source is None or parameters is None or source.removesuffix("/float") not in plan.tensors:
            continue
        bounds = plan.range_of(source.removesuffix("/float"), ranges)
        low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
        info = np.iinfo(parameters.zero_point.dtype)
        scale, zero = float(parameters.scale), int(parameters.zero_point)
        least, most = (int(info.min) - zero) * scale, (int(info.max) - zero) * scale
        in_the_middle = zero == (int(info.min) + int(info.max) + 1) // 2
        wanted = max(2 * max(high, -low) if in_the_middle else high - low, _NO_RANGE)
        outside = max(least - low, high - most)
        if outside > 0.501 * scale or most - least > wanted + 1.01 * scale:
            return f"tensor {source!r} covers {least:.4g} to {most:.4g}, calibrated were {low:.4g} to {high:.4g}"
    return None


def _kernel_problem(original: ir.Model, quantized: ir.Model, samples: Sequence[Mapping[str, Array]]) -> str | None:
    """Case 5; outputs whose shape depends on the values (the boxes that NMS keeps) cannot be compared so."""
    reference = Session(original)
    wanted = [reference.run(sample) for sample in samples]  # a ModelError here is the model's, not the check's
    by_kernels, by_quantization = Agreement(strict=False), Agreement(strict=False)
    scale: dict[str, float] = {}
    reshaped: set[str] = set()
    try:
        exact, integer = Session(quantized, Level.NONE), Session(quantized)
        for sample, before in zip(samples, wanted, strict=True):
            slow, fast = exact.run(sample), integer.run(sample)
            by_quantization.add(before, slow)
            by_kernels.add(slow, fast)
            for name, array in slow.items():
                if len({np.shape(run[name]) for run in (before, slow, fast) if isinstance(run[name], np.ndarray)}) > 1:
                    reshaped.add(name)
                if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.size:
                    scale[name] = max(scale.get(name, 0.0), float(np.ptp(array)))
    except ModelError as error:
        return error.message
    for name, found in by_kernels.outputs.items():
        if name in reshaped:
            continue
        allowed = max(
            2 * _power(by_quantization.outputs[name].noise),
            found.signal * 1e-4,
            (scale.get(name, 0.0) * _STEP_SHARE) ** 2,
        )
        if found.noise > allowed and found.max_abs_error > scale.get(name, 0.0) * _STEP_SHARE:
            return (
                f"output {name!r}: onnxruntime's integer kernels are {found.sqnr_db:.1f} dB away from the same model "
                f"without them, quantization itself {by_quantization.outputs[name].sqnr_db:.1f} dB from float"
            )
    return None


def _power(noise: float) -> float:
    return noise if math.isfinite(noise) else 0.0
