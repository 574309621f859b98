"""Bias correction: the mean error that int8 makes in each channel is taken out of the biases. No node is added.

Rounding and clipping shift the mean of what a layer computes (Nagel et al. 2019, arXiv:1906.04721, section 4.2):

    correction[c] = E[y_float[c]] - E[y_int8[c]]     over samples and positions, y: before the activation

1. Layers take their turn in the order in which they are computed, behind layers that are corrected already:
   what those have made good is not counted twice
2. The mean of few samples is uncertain itself: its expected squared error is taken off the correction's square
   (James and Stein 1961)
3. A layer whose error is below a thousandth of its output's standard deviation is left alone, so is one whose error
   is beyond two of them: nothing is right there, and a bias will not mend it
4. Every other sample is kept for a trial: the corrections, as they are or by half, must lower the noise at the
   outputs by a twentieth, in each half of those samples; else there are none. Where a Softmax or Sigmoid ends the
   model, the noise is looked at before it: behind it a few undecided samples would decide
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from edgeopt.calibration.observed import Observed
from edgeopt.errors import ModelError
from edgeopt.graph import Array, constant, dims_of, is_op
from edgeopt.layer_walk import LayerWalk
from edgeopt.passes.int8_plan import WEIGHTED, Plan, plan
from edgeopt.passes.int8_rules import weight_axis
from edgeopt.quant import Scheme
from edgeopt.quantizer import Calibrated, draft
from edgeopt.sensitivity import OutputNoise

_FEWEST = 8  # samples in all
_FEWEST_FITTED = 4
_LEAST, _MOST = 1e-3, 2.0  # of the standard deviation of a layer's output
_FACTORS = (1.0, 0.5)
_BETTER = 0.95  # corrections that leave more than this share of the noise may be luck
# When the float model and the walk must be done, as shares of the time. A sample's part in the trial, and in the walk,
# takes about four times as long as its run of the float model; there are as many in each as there was time for here.
_MEANS_UNTIL, _WALK_UNTIL = 0.1, 0.6
_CURVES = ("Softmax", "LogSoftmax", "Sigmoid")

Feed = Mapping[str, Array]


@dataclass(frozen=True)
class _Layer:
    """A layer whose bias can be corrected.

    Attributes:
        name: Of the Conv, Gemm or MatMul.
        holder: Name of the node that holds the bias: the layer itself, or the Add behind a MatMul.
        channels: How many output channels.
        axis: Where they are in the output.
    """

    name: str
    holder: str
    channels: int
    axis: int


def find_corrections(
    calibrated: Calibrated,
    scheme: Scheme,
    feeds: Sequence[Feed],
    *,
    ranges: str = "minmax",
    keep_float: frozenset[str] = frozenset(),
    threads: int = 1,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Array]:
    """What to add to the float biases of layers that run in int8, for ``quantizer.build``.

    Args:
        calibrated: From ``quantizer.calibrate``.
        scheme: The target's operand types.
        feeds: Input name to array, one per sample; with fewer than 8 there are no corrections.
        ranges: As for ``build``.
        keep_float: As for ``build``.
        threads: For onnxruntime.
        seconds: For all of it, about; samples and layers that are not reached in time are left out.
        clock: Seconds; replaced in tests.

    Returns:
        Name of the layer (Conv, Gemm, or MatMul with an Add for its bias) to float32 [output channels]; empty where
        corrections do not help.

    Raises:
        ModelError: onnxruntime refuses the float or the int8 model.
    """
    begin = clock()
    model = calibrated.model
    layers = _layers(model, plan(model, keep_float))
    fitted, held_out = feeds[::2], feeds[1::2]

    def drafted(corrections: Mapping[str, Array]) -> ir.Model | None:
        found = draft(calibrated, scheme, ranges=ranges, keep_float=keep_float, corrections=corrections)
        return None if found is None else found[0]

    model8 = drafted({layer.name: np.zeros(layer.channels, np.float32) for layer in layers})
    if model8 is None or not layers or len(feeds) < _FEWEST:
        return {}
    means = _means(model, layers, fitted, threads, lambda: clock() - begin > _MEANS_UNTIL * seconds)
    walk = LayerWalk(model8, [layer.holder for layer in layers], fitted[: len(means)], threads=threads)
    corrections = _walked(walk, model8, layers, means, lambda: clock() - begin > _WALK_UNTIL * seconds)
    if not corrections:
        return {}
    curves = _last_curves(model) & _last_curves(model8)
    trial = held_out[: len(means)]
    judges = [OutputNoise(_without(model, curves), half, threads) for half in (trial[::2], trial[1::2])]

    def noise(tried: Mapping[str, Array]) -> list[float]:
        result = drafted(tried)
        return [] if result is None else [judge.of(_without(result, curves)) for judge in judges]

    return _helpful(corrections, noise)


def _layers(model: ir.Model, found: Plan) -> list[_Layer]:
    """The layers in int8 that have a bias, or can be given one, in the order in which they are computed."""
    result = []
    for node in model.graph:
        name = node.name or ""
        if (
            name not in found.nodes
            or not is_op(node, *WEIGHTED)
            or (is_op(node, "MatMul") and name not in found.biases)
        ):
            continue
        dims = dims_of(node.inputs[1]) if node.inputs[1] is not None else None
        channels = dims[weight_axis(node)] if dims is not None else None
        if isinstance(channels, int):
            result.append(_Layer(name, found.biases.get(name, name), channels, -1 if is_op(node, "MatMul") else 1))
    return result


def _means(
    model: ir.Model, layers: Sequence[_Layer], feeds: Sequence[Feed], threads: int, late: Callable[[], bool]
) -> list[dict[str, Array]]:
    """The float model: layer to the mean of its output in each channel, for as many samples as there is time for."""
    outputs = {n.name or "": n.outputs[0].name or "" for n in model.graph if n.outputs}
    observed = Observed(model, list(dict.fromkeys(outputs[layer.holder] for layer in layers)), threads)
    result: list[dict[str, Array]] = []
    for feed in feeds:
        found = observed.run(feed)
        result.append({layer.name: _moments(found[outputs[layer.holder]], layer)[0] for layer in layers})
        if late() and len(result) >= _FEWEST_FITTED:
            break
    return result


def _moments(array: Array, layer: _Layer) -> tuple[Array, Array]:
    """Mean and mean square in each channel, float64; not a number where there is nothing."""
    rows = np.moveaxis(array, layer.axis, 0).reshape(layer.channels, -1).astype(np.float64)
    if rows.shape[1] == 0:
        return np.full(layer.channels, np.nan), np.full(layer.channels, np.nan)
    return rows.mean(axis=1), np.square(rows).mean(axis=1)


def _walked(
    walk: LayerWalk,
    model8: ir.Model,
    layers: Sequence[_Layer],
    means: Sequence[Mapping[str, Array]],
    late: Callable[[], bool],
) -> dict[str, Array]:
    """Cases 1 to 3; the biases in ``model8`` are corrected on the way."""
    nodes = {n.name: n for n in model8.graph}
    corrections: dict[str, Array] = {}
    for layer in layers:
        if late():
            break
        try:
            seen = walk.step(partial(_moments, layer=layer))
        except ModelError:  # a part of the model that does not run alone; the layers in front are done
            break
        float_means = np.stack([of_sample[layer.name] for of_sample in means[: len(seen)]])
        int8_means, squares = (np.stack(moments) for moments in zip(*seen, strict=True))
        variance = np.maximum(squares.mean(axis=0) - np.square(int8_means.mean(axis=0)), 0)  # of a channel
        correction = _correction(float_means - int8_means, float(np.sqrt(variance.mean())))
        if correction is not None:
            corrections[layer.name] = correction
            _correct(nodes[layer.holder], correction)
    return corrections


def _correction(shifts: Array, deviation: float) -> Array | None:
    """Cases 2 and 3; ``shifts`` is [samples, channels], ``deviation`` that of the layer's output."""
    mean = shifts.mean(axis=0)
    if not np.isfinite(mean).all() or not np.isfinite(deviation):
        return None
    power, uncertain = mean**2, shifts.var(axis=0, ddof=1) / len(shifts)
    result = mean * np.divide(power - uncertain, power, out=np.zeros_like(mean), where=power > uncertain)
    largest = float(np.abs(result).max(initial=0.0))
    return result.astype(np.float32) if largest > 0 and _LEAST * deviation <= largest <= _MOST * deviation else None


def _correct(holder: ir.Node, correction: Array) -> None:
    """Add to the stored bias of a layer in the int8 model."""
    for value in holder.inputs:
        dq = value.producer() if value is not None else None
        if dq is None or not is_op(dq, "DequantizeLinear") or dq.inputs[0] is None:
            continue
        stored, scale = constant(dq.inputs[0]), constant(dq.inputs[1])
        if stored is not None and scale is not None and stored.dtype == np.int32:
            limits = np.iinfo(np.int32)
            steps = np.clip(stored + np.rint(correction / scale.astype(np.float64)), limits.min, limits.max)
            dq.inputs[0].const_value = ir.tensor(steps.astype(np.int32))


def _last_curves(model: ir.Model) -> set[str]:
    """The nodes of which a graph output is nothing but a curve."""
    producers = [v.producer() for v in model.graph.outputs]
    return {p.name or "" for p in producers if p is not None and is_op(p, *_CURVES)}


def _without(model: ir.Model, nodes: set[str]) -> ir.Model:
    """A copy in which these nodes of one operand hand it on as it is."""
    result = model.clone()
    for node in [n for n in result.graph if n.name in nodes]:
        new = ir.Node("", "Identity", node.inputs[:1], name=node.name)
        ir.convenience.replace_nodes_and_values(result.graph, node, [node], [new], node.outputs, new.outputs)
    return result


def _helpful(corrections: dict[str, Array], noise: Callable[[Mapping[str, Array]], list[float]]) -> dict[str, Array]:
    """Case 4; ``noise`` gives that of each half of the samples."""
    before, best = noise({}), {}
    least = sum(before)
    for factor in _FACTORS:
        tried = {name: np.asarray(c * np.float32(factor)) for name, c in corrections.items()}
        found = noise(tried)
        if all(a < _BETTER * b for a, b in zip(found, before, strict=True)) and sum(found) < least:
            least, best = sum(found), tried
    return best
