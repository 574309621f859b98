"""The oracle of the int8 pass: the quantized model is the original, but for quantization.

1. Every planned value passes one Q/DQ pair of one scale and zero point, and every weight, bias and constant of an
   int8 node is stored in integers; a bias has the scale that integer kernels take for granted (input scale times
   weight scale, zero point 0), weights per channel have theirs along the output channels
2. What is stored, dequantized by its own DQ, lies within half a step of the original's; this catches wrong axes,
   scales and zero points
3. Activation scales cover the calibrated range within half a step (a zero point is rounded), and no more than that
4. With every Q/DQ pair taken out and the original's constants put back, the model is the original again, within
   the bound of exact rewrites
5. With onnxruntime's integer kernels, outputs stay close to those with its optimizations off: the difference is
   no larger than that of the quantization itself, or at most one step of 8 bits. Kernels that compute garbage
   (weights per channel on the wrong axis) are caught here
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.graph import Array, attribute, constant, constant_tensor, constant_value, input_or_none, is_op
from edgeopt.oracle import Oracle
from edgeopt.parity import Agreement
from edgeopt.passes.int8_plan import WEIGHTED, Plan
from edgeopt.passes.quantize_int8 import weight_axis
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
) -> str | None:
    """Why the quantized model cannot be trusted, or None.

    Args:
        original: The float model that was quantized (after simplification).
        quantized: The result.
        plan: What was to be quantized.
        ranges: The calibrated ranges.
        samples: A few inputs.
        oracle: Of the model as it came in; lends its feeds and noise.
    """
    return (
        _structure_problem(original, quantized, plan)
        or _constants_problem(original, quantized)
        or _ranges_problem(quantized, plan, ranges)
        or oracle.disagreement(stripped(original, quantized))[0]
        or _kernel_problem(original, quantized, samples)
    )


def _parameters(node: ir.Node) -> Parameters | None:
    scale = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return None if scale is None or zero is None else Parameters(scale, zero)


def _structure_problem(original: ir.Model, quantized: ir.Model, plan: Plan) -> str | None:
    """Case 1."""
    nodes = {n.name: n for n in quantized.graph}
    for source in original.graph:
        if source.name not in plan.nodes:
            continue
        node = nodes.get(source.name)
        if node is None:
            return f"node {source.name!r} is missing"
        for index, (before, value) in enumerate(zip(source.inputs, node.inputs, strict=True)):
            dq = value.producer() if value is not None else None
            q = dq.inputs[0].producer() if dq is not None and is_op(dq, "DequantizeLinear") and dq.inputs[0] else None
            stored = constant(dq.inputs[0]) if dq is not None and is_op(dq, "DequantizeLinear") else None
            if before is not None and before.name in plan.tensors and not is_op(q, "QuantizeLinear"):
                return f"input {index} of node {source.name!r} has no Q/DQ pair"
            if q is not None and dq is not None and not _same(_parameters(q), _parameters(dq)):
                return f"Q and DQ of input {index} of node {source.name!r} differ in scale or zero point"
            if is_op(source, *WEIGHTED, "Add", "Mul") and constant_tensor(before) is not None and stored is None:
                return f"constant {index} of node {source.name!r} is not stored in integers"
        for before, value in zip(source.outputs, node.outputs, strict=True):
            readers = {u.node for u in value.uses()}
            if before.name in plan.tensors and not (len(readers) == 1 and is_op(next(iter(readers)), "QuantizeLinear")):
                return f"output {before.name!r} of node {source.name!r} is not read by one Q"
        if is_op(source, *WEIGHTED) and (problem := _kernel_rules_problem(node)) is not None:
            return f"node {source.name!r}: {problem}"
    return None


def _same(a: Parameters | None, b: Parameters | None) -> bool:
    if a is None or b is None:
        return False
    return np.array_equal(a.scale, b.scale) and np.array_equal(a.zero_point, b.zero_point)


def _kernel_rules_problem(node: ir.Node) -> str | None:
    """What integer kernels take for granted and do not look at."""
    x, weight, bias = (_behind(node, i) for i in range(3))
    if x is None or weight is None:
        return "the scale of its input or weights is not constant"
    dq = node.inputs[1].producer() if node.inputs[1] is not None else None
    if weight.scale.ndim and dq is not None and attribute(dq, "axis", 1) != weight_axis(node):
        return f"the scales of its weights lie along axis {attribute(dq, 'axis', 1)}, not {weight_axis(node)}"
    if bias is not None and bool(bias.zero_point.any()):
        return "its bias has a zero point"
    if bias is not None and not np.allclose(bias.scale, x.scale * weight.scale, rtol=1e-5, atol=0):
        return "the scale of its bias is not input scale times weight scale"
    return None


def _behind(node: ir.Node, index: int) -> Parameters | None:
    """Scale and zero point of the DQ in front of an input."""
    value = input_or_none(node, index)
    dq = value.producer() if value is not None else None
    return _parameters(dq) if dq is not None and is_op(dq, "DequantizeLinear") else None


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
            stored, parameters = constant(dq.inputs[0]), _parameters(dq)
            if stored is None or parameters is None:
                continue
            axis = attribute(dq, "axis", 1) if parameters.scale.ndim else None
            found = dequantize(stored, parameters, axis)
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
        parameters = _parameters(node) if source is not None else None
        if source is None or parameters is None or source.removesuffix("/float") not in plan.tensors:
            continue
        bounds = ranges[plan.root(source.removesuffix("/float"))]
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


def stripped(original: ir.Model, quantized: ir.Model) -> ir.Model:
    """Case 4: the quantized model without its Q/DQ pairs, with the original's constants."""
    model = quantized.clone()
    sources = {n.name: n for n in original.graph}
    own = {n.name for n in original.graph}
    floats: dict[str, ir.Value] = {}
    for node in list(model.graph):
        if node.name in own:
            _restore_constants(node, sources[node.name], model.graph, floats)
    for node in list(model.graph):
        if not is_op(node, "DequantizeLinear") or node.name in own:
            continue
        q = node.inputs[0].producer() if node.inputs[0] is not None else None
        if q is None or q.inputs[0] is None:
            continue
        output, source = node.outputs[0], q.inputs[0]
        if output.is_graph_output():
            source.name, output.name = output.name, f"{output.name}/dequantized"
            source.type, source.shape = output.type, output.shape
        output.replace_all_uses_with(source, replace_graph_outputs=True)
    for node in reversed(list(model.graph)):
        unused = not any(o.uses() or o.is_graph_output() for o in node.outputs)
        if unused and node.name not in own:
            model.graph.remove(node, safe=True)
    return model


def _restore_constants(node: ir.Node, source: ir.Node, graph: ir.Graph, floats: dict[str, ir.Value]) -> None:
    for index, value in enumerate(node.inputs):
        dq = value.producer() if value is not None else None
        if dq is None or not is_op(dq, "DequantizeLinear") or index >= len(source.inputs):
            continue
        wanted, before = constant(source.inputs[index]), source.inputs[index]
        if wanted is None or before is None or before is value:
            continue
        name = before.name or ""
        if name not in floats:
            fresh = constant_value(f"{name}/original", wanted)
            graph.register_initializer(fresh)
            floats[name] = fresh
        node.replace_input_with(index, floats[name])


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
            _power(by_quantization.outputs[name].noise), found.signal * 1e-4, (scale.get(name, 0.0) * _STEP_SHARE) ** 2
        )
        if found.noise > allowed and found.max_abs_error > scale.get(name, 0.0) * _STEP_SHARE:
            return (
                f"output {name!r}: onnxruntime's integer kernels are {found.sqnr_db:.1f} dB away from the same model "
                f"without them, quantization itself {by_quantization.outputs[name].sqnr_db:.1f} dB from float"
            )
    return None


def _power(noise: float) -> float:
    return noise if math.isfinite(noise) else 0.0
