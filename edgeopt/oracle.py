"""The oracle: no rewrite survives unchecked.

Each application of a pass is checked twice. Every rewritten place is cut out and both versions run on the same
random inputs (``cutouts``). Then the whole rewritten model runs beside the original, on random and on calibration
inputs, without onnxruntime's own optimizations. The outputs must agree within 1e-5 of their scale (float32), or
within 4 times the original's own noise: how far its outputs move when onnxruntime optimizes it, or when its
inputs change in their last bit. A place that fails is rolled back and reported; if only the whole model fails,
the place is found by bisecting over the pass's rewrites.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt import cutouts, rewrite
from edgeopt.errors import ModelError
from edgeopt.feeds import runnable_feed
from edgeopt.graph import Array, graphs, input_specs, weight_tensors
from edgeopt.parity import channel_errors, exact_bound, is_float
from edgeopt.rewrite import CLEAN_UP, Applied, Hit, Rule, Skip
from edgeopt.runtime import Level, Session, as_array

_NOISE_FACTOR = 4.0
_MAX_ROLLBACKS = 16  # more failing places than this: the whole pass is rolled back
_TIMEOUT_S = 60.0


@dataclass
class PassReport:
    """What a pass did, over all its rounds."""

    name: str
    hits: list[Hit] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    rolled_back: list[Skip] = field(default_factory=list)
    removed_initializers: int = 0
    max_abs_error: float = 0.0
    seconds: float = 0.0

    @property
    def changed(self) -> bool:
        """Whether the model is another one than before."""
        return bool(self.hits or self.removed_initializers)


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
        return None, worst

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
            fused = Session(self._original, Level.DEFAULT)
            self._noise = []
            for feed, wanted in zip(self._feeds, self._outputs, strict=True):
                nudged = {n: _nudged(a) for n, a in feed.items()}
                others = [fused.run(feed), self._session.run(nudged)]
                moved = {n: max(_distance(v, o[n])[0] for o in others) for n, v in wanted.items()}
                self._noise.append({n: m if math.isfinite(m) else 0.0 for n, m in moved.items()})
        return self._noise[k][name]


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
    moved: Array = np.nextafter(array, np.where(up, np.inf, -np.inf).astype(array.dtype))
    return moved


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


def run_checked(rule: Rule, model: ir.Model, oracle: Oracle) -> tuple[ir.Model, PassReport]:
    """Apply a rule and keep only what the oracle agrees with; ``model`` itself is never changed.

    Nodes need names of their own (``files.load`` sees to it): a roll-back goes by the name.

    Returns:
        The rewritten model (``model`` itself if nothing was kept) and the report.
    """
    started = time.perf_counter()
    report = PassReport(rule.name)
    veto: dict[str, str] = {}
    while True:
        candidate = model.clone()
        try:
            applied = rewrite.apply(rule, candidate, veto=veto, cases=oracle.enabled)
            bad = _bad_places(rule, model, candidate, applied, oracle, veto, report) if oracle.enabled else {}
        except Exception as error:  # noqa: BLE001 -- a bug in one pass must not cost the user the others' results
            veto[CLEAN_UP] = f"the pass itself failed, please report it: {type(error).__name__}: {error}"
            applied, candidate = Applied(), model
            break
        if not bad:
            break
        stuck = not bad.keys() - veto.keys()
        veto.update(bad)
        if stuck or len(veto) > _MAX_ROLLBACKS:
            why = "a place failed again" if stuck else f"more than {_MAX_ROLLBACKS} places failed"
            applied, candidate = Applied(skips=[Skip(CLEAN_UP, f"{why}: the whole pass was rolled back")]), model
            break
    report.hits = applied.hits
    report.skips = applied.skips
    report.removed_initializers = applied.removed_initializers
    report.rolled_back = [Skip(anchor, reason) for anchor, reason in sorted(veto.items())]
    report.seconds = time.perf_counter() - started
    return (candidate if report.changed else model), report


def _dangling(model: ir.Model) -> set[str]:
    """Names of values that are read, or are outputs, and that nothing computes."""
    read = [v for g in graphs(model) for values in (g.outputs, *(n.inputs for n in g)) for v in values if v is not None]
    return {
        v.name or "" for v in read if v.producer() is None and not v.is_graph_input() and not v.is_initializer()
    } | {v.name or "" for v in read if (producer := v.producer()) is not None and producer.graph is None}


def _bad_places(
    rule: Rule,
    model: ir.Model,
    candidate: ir.Model,
    applied: Applied,
    oracle: Oracle,
    veto: Mapping[str, str],
    report: PassReport,
) -> dict[str, str]:
    """Anchors that must not be rewritten, with the reason."""
    if not applied.hits and not applied.removed_initializers:
        return {}
    verdict = cutouts.check(applied.cases, model, oracle.seed)
    bad = dict(verdict.failed)
    if oracle.problem is not None:
        bad |= {
            anchor: f"cannot be verified: {why}; nor can the whole model: {oracle.problem}"
            for anchor, why in verdict.unchecked.items()
        }
    if not bad and (lost := sorted(_dangling(candidate) - _dangling(model))):
        return {_culprit(rule, model, applied, oracle, veto): f"nothing computes {lost[0]!r} any more"}
    if bad:
        return bad
    reason, error = oracle.disagreement(candidate)
    if reason is None:
        report.max_abs_error = max(verdict.max_abs_error, error)
        if oracle.problem is None and verdict.unchecked:
            uncut = {c.anchor: c.replaced for c in applied.cases if c.anchor in verdict.unchecked}
            return oracle.inner_disagreement(model, candidate, uncut)
        return {}
    return {_culprit(rule, model, applied, oracle, veto): reason}


def _culprit(rule: Rule, model: ir.Model, applied: Applied, oracle: Oracle, veto: Mapping[str, str]) -> str:
    """The first rewrite after which the whole model disagrees, by bisection; else it is the clean-up."""

    def agrees(rewrites: int) -> bool:
        candidate = model.clone()
        rewrite.apply(rule, candidate, veto=veto, limit=rewrites, cases=False)
        return not _dangling(candidate) - _dangling(model) and oracle.disagreement(candidate)[0] is None

    good, failing = 0, len(applied.hits)
    if applied.removed_initializers and agrees(failing):
        return CLEAN_UP
    while failing - good > 1:
        middle = (good + failing) // 2
        if agrees(middle):
            good = middle
        else:
            failing = middle
    return applied.hits[failing - 1].anchor
