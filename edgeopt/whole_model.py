"""Whole models side by side: the original's outputs, and whether another model gives the same.

Outputs are compared on random and on calibration inputs, without onnxruntime's own optimizations. They must agree
within 1e-5 of their scale (float32), or within 4 times the original's own noise: how far its outputs move when
onnxruntime optimizes it, or when its inputs or weights change in their last bit.

Nor may onnxruntime's optimizations fail on the rewritten model, or spoil an output, where the original stands them:
some of its fusions are wrong for graphs that few exporters write.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.feeds import runnable_feed
from edgeopt.graph import Array, graphs, input_specs, stored_tensors, weight_tensors
from edgeopt.parity import channel_errors, exact_bound, is_float, machine_epsilon
from edgeopt.runtime import Level, Session, as_array

_NOISE_FACTOR = 4.0
_TIMEOUT_S = 60.0
_DRAWS = 3
_MOST_MOVED_BYTES = 100_000_000
_SPOILED = 0.1  # of the scale: int8 kernels round so much
_SPOILED_FLOATS = {"float32": 1e-2, "float64": 1e-6}
_INT8_OPS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


class Oracle:
    """Knows the original's outputs, and compares other models with them.

    Args:
        original: The model as it came in.
        samples: A few calibration inputs; random ones are used too, if the model runs on them.
        seed: Of the random inputs.
        enabled: False trusts every rewrite (``--no-verify``).

    Attributes:
        problem: Why whole models cannot be compared (onnxruntime does not run the original, say), or None.
    """

    def __init__(
        self, original: ir.Model, samples: Sequence[Mapping[str, Array]] = (), *, seed: int = 0, enabled: bool = True
    ) -> None:
        self.enabled = enabled
        self.seed = seed
        self.problem: str | None = None
        self._original = original
        self._feeds: list[Mapping[str, Array]] = []
        self._outputs: list[dict[str, Any]] = []
        self._noise: list[dict[str, float]] | None = None
        self._default: list[dict[str, Any]] | None = None
        self._session: Session | None = None
        if enabled:
            try:
                self._session = Session(original, Level.NONE)
                self._feeds = [*self._random_feed(samples), *samples]
                self._outputs = [self._session.run(f, timeout_s=_TIMEOUT_S) for f in self._feeds]
                again = self._session.run(self._feeds[0], timeout_s=_TIMEOUT_S)
                if any(_distance(self._outputs[0][n], v)[0] > 0 for n, v in again.items()):
                    self.problem = "the original gives other outputs on each run (random operators)"
            except ModelError as error:
                self.problem = error.message

    def _random_feed(self, samples: Sequence[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
        """Random inputs; none where the model only runs on real ones, and there are some."""
        assert self._session is not None  # made just before
        try:
            return [runnable_feed(self._session, input_specs(self._original), self.seed, _TIMEOUT_S)]
        except ModelError:
            if not samples:
                raise
            return []

    def disagreement(self, model: ir.Model) -> tuple[str | None, float]:
        """Why the model is not the original, or None; and the largest absolute error seen."""
        if self.problem is not None:
            return None, 0.0
        worst = 0.0
        try:
            session = Session(model, Level.NONE)
            if session.output_names != list(self._outputs[0]):
                return f"the outputs are {session.output_names}, were {list(self._outputs[0])}", math.inf
            for k, (feed, wanted) in enumerate(zip(self._feeds, self._outputs, strict=True)):
                found = session.run(feed, timeout_s=_TIMEOUT_S)
                for name, reference in wanted.items():
                    relative, absolute = _distance(reference, found[name])
                    worst = max(worst, absolute)
                    array = as_array(reference)
                    bound = exact_bound(array.dtype) if array is not None else 0.0
                    if relative > bound and relative > _NOISE_FACTOR * self._noise_of(k, name):
                        return f"output {name!r} differs by {relative:.3g} of its scale", worst
        except ModelError as error:
            return f"the rewritten model does not run: {error.message}", math.inf
        return self._spoiled(model), worst

    def inner_disagreement(
        self, before: ir.Model, after: ir.Model, places: Mapping[str, Sequence[tuple[str, str]]]
    ) -> dict[str, str]:
        """Compare replaced values inside the whole models, channel by channel: for places that cannot be cut out.

        Args:
            before: The model that the pass was applied to.
            after: What it made of it.
            places: Anchor to pairs (name of the value before, name of what took its place).

        Returns:
            The anchors that disagree, or whose values cannot be seen (they lie in a body), with the reason.
        """
        old = _exposed(before, {a for p in places.values() for a, _ in p})
        wanted = {b for p in places.values() for _, b in p}
        new = _exposed(after, wanted)
        constants = {n: t.numpy() for n, t in weight_tensors(after).items() if n in wanted}
        failed: dict[str, str] = {}
        try:
            first, second = Session(old, Level.NONE), Session(new, Level.NONE)
            for feed in self._feeds:
                values = first.run(feed, timeout_s=_TIMEOUT_S)
                nudged = first.run({n: _nudged(a) for n, a in feed.items()}, timeout_s=_TIMEOUT_S)
                found = {**constants, **feed, **second.run(feed, timeout_s=_TIMEOUT_S)}
                for anchor, pairs in places.items():
                    for a, b in pairs:
                        reason = self._place_problem(values.get(a), found.get(b), nudged.get(a))
                        if reason is not None:
                            failed.setdefault(anchor, reason)
        except ModelError as error:
            return dict.fromkeys(places, f"cannot be verified inside the model: {error.message}")
        return failed

    def _place_problem(self, old: Any, new: Any, nudged: Any) -> str | None:
        if old is None or new is None:
            return "cannot be verified: it can be neither cut out nor seen from outside"
        a, b, c = as_array(old), as_array(new), as_array(nudged)
        if a is None or b is None or c is None:
            return None if _same_structure(old, new) else "the sequence or map that it gives differs"
        relative = channel_errors(a, b)[1]
        if relative <= exact_bound(a.dtype) or relative <= _NOISE_FACTOR * channel_errors(a, c)[1] < math.inf:
            return None
        return f"output differs by {relative:.3g} of its channel's scale"

    def _noise_of(self, k: int, name: str) -> float:
        """How far the original's own outputs move under rounding alone, as a share of their scale."""
        if self._noise is None:
            assert self._session is not None  # set whenever there is no problem
            runs = [self._runs(self._session, [{n: _nudged(a) for n, a in feed.items()} for feed in self._feeds])]
            rng = np.random.default_rng(self.seed)
            small = sum(t.nbytes for t in stored_tensors(self._original)) <= _MOST_MOVED_BYTES
            runs += [
                self._runs(_with_moved_weights(self._original, rng), self._feeds) for _ in range(_DRAWS if small else 0)
            ]
            runs.append(self._shipped())
            self._noise = [
                {
                    n: max((_finite(_distance(v, run[i][n])[0]) for run in runs if run), default=0.0)
                    for n, v in wanted.items()
                }
                for i, wanted in enumerate(self._outputs)
            ]
        return self._noise[k][name]

    def _shipped(self) -> list[dict[str, Any]]:
        """The original's outputs as onnxruntime runs it by default; none if it does not."""
        if self._default is None:
            try:
                self._default = self._runs(Session(self._original, Level.DEFAULT), self._feeds)
            except ModelError:
                self._default = []
        return self._default

    def _runs(self, model: Session | ir.Model, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Any]]:
        """The outputs for each feed; none at all if the model or a run fails (its weights were sizes, say)."""
        try:
            session = model if isinstance(model, Session) else Session(model, Level.NONE)
            return [session.run(feed, timeout_s=_TIMEOUT_S) for feed in feeds]
        except ModelError:
            return []

    def _limit(self, output: Any) -> float:
        """More than what other kernels round."""
        array = as_array(output)
        int8 = any(node.op_type in _INT8_OPS for graph in graphs(self._original) for node in graph)
        return _SPOILED if array is None or int8 else _SPOILED_FLOATS.get(array.dtype.name, _SPOILED)

    def _spoiled(self, model: ir.Model) -> str | None:
        """What onnxruntime's own optimizations do to the model, while the original stands them; or None."""
        try:
            found: list[dict[str, Any]] | ModelError = [
                Session(model, Level.DEFAULT).run(feed, timeout_s=_TIMEOUT_S) for feed in self._feeds[:1]
            ]
        except ModelError as error:
            found = error
        if isinstance(found, ModelError):
            return f"onnxruntime's optimizations do not stand it: {found.message}" if self._shipped() else None
        for wanted, values in zip(self._outputs, found, strict=False):
            limits = {n: self._limit(v) for n, v in wanted.items()}
            far = {n: d for n, v in wanted.items() if (d := _distance(v, values[n])[0]) > limits[n]}
            off = [n for n, d in far.items() if d > _NOISE_FACTOR * self._noise_of(0, n)]
            own = self._shipped() if off else []
            if off and own and all(_distance(wanted[n], own[0][n])[0] <= limits[n] / 2 for n in off):
                return f"onnxruntime's optimizations spoil output {off[0]!r}"
        return None


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0


def _with_moved_weights(model: ir.Model, rng: np.random.Generator) -> ir.Model:
    result = model.clone()
    for value in result.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and is_float((array := np.asarray(tensor.numpy())).dtype) and tensor.size:
            step = machine_epsilon(array.dtype) / 2
            moved = np.asarray(array.astype(np.float64) * (1 + rng.uniform(-step, step, array.shape)))
            value.const_value = ir.Tensor(moved.astype(array.dtype), dtype=tensor.dtype, name=tensor.name)
    return result


def _exposed(model: ir.Model, names: Collection[str]) -> ir.Model:
    """The model with these values of its main graph as outputs too; those of bodies stay hidden."""
    result = model.clone()
    present = {v.name for v in result.graph.outputs}
    inner = [v for n in result.graph for v in n.outputs if v.name in names and v.name not in present]
    result.graph.outputs.extend(inner)
    return result


def _nudged(array: Array) -> Array:
    """The input with each element moved by one unit in the last place, up or down in turn."""
    if array.dtype.kind != "f":
        return array
    up = np.arange(array.size).reshape(array.shape) % 2 == 0
    return np.asarray(np.nextafter(array, np.where(up, np.inf, -np.inf).astype(array.dtype)))


def _distance(reference: Any, other: Any) -> tuple[float, float]:
    """Largest error as a share of the reference's scale, and absolute; (inf, inf) where kinds differ."""
    a, b = as_array(reference), as_array(other)
    if a is None or b is None:
        return (0.0, 0.0) if _same_structure(reference, other) else (math.inf, math.inf)
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf, math.inf
    if not is_float(a.dtype):
        if np.array_equal(a, b):
            return 0.0, 0.0
        return float(np.mean(a != b)), float(np.abs(a.astype(float) - b).max()) if a.dtype.kind in "iu" else 1.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    if not ((x == y) | (np.isnan(x) & np.isnan(y)) | finite).all():
        return math.inf, math.inf
    if not finite.any():
        return 0.0, 0.0
    error = float(np.abs(x[finite] - y[finite]).max())
    return (error / max(float(np.abs(x[finite]).max()), 1e-300) if error else 0.0), error


def _same_structure(a: Any, b: Any) -> bool:
    """Sequences and maps: the same structure, arrays equal within the exact bound."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return _distance(a, b)[0] <= exact_bound(a.dtype)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same_structure(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same_structure(a[k], b[k]) for k in a)
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-7)
    return bool(a == b)
