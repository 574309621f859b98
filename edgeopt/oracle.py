"""The oracle: no rewrite survives unchecked.

Every rewritten place is cut out as soon as its pass has run, and both versions run on the same inputs (``cutouts``);
a place that cannot be cut out is compared inside the models before and after its pass. When no pass finds anything
more, the whole rewritten model runs beside the original (``whole_model``). A place that fails is rolled back, alone,
and reported: all passes run again without it. If only the whole model fails, the place is found by bisecting, first
over the passes in the order in which they ran, then over the rewrites of the pass after which it failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from edgeopt import cutouts, rewrite
from edgeopt.graph import graphs
from edgeopt.progress import Progress, silent
from edgeopt.rewrite import CLEAN_UP, Applied, Hit, Rule, Skip, Workspace
from edgeopt.whole_model import Oracle

__all__ = ["Oracle", "PassReport", "run_checked", "run_pipeline"]

_MAX_ROLLBACKS = 16  # more failing places of one pass than this: the whole pass is rolled back


@dataclass
class PassReport:
    """What a pass did, over all its runs; ``skips`` are those of the last, which saw the final graph."""

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


def run_checked(rule: Rule, model: ir.Model, oracle: Oracle) -> tuple[ir.Model, PassReport]:
    """One run of one rule; see ``run_pipeline``."""
    result, reports = run_pipeline([rule], model, oracle, sweeps=1)
    return result, reports[0]


def run_pipeline(
    rules: Sequence[Rule],
    model: ir.Model,
    oracle: Oracle,
    *,
    sweeps: int,
    copy: Callable[[], ir.Model] | None = None,
    progress: Progress = silent,
) -> tuple[ir.Model, list[PassReport]]:
    """Apply rules in turn until none finds anything more, and keep only what the oracle agrees with.

    Nodes need names of their own (``files.load`` sees to it): a roll-back goes by the name.

    Args:
        rules: In order.
        model: Never changed.
        oracle: Made from the original.
        sweeps: How often each rule may run.
        copy: Makes the working copy; ``model.clone`` if missing.
        progress: Called with each pass's name.

    Returns:
        The rewritten model (``model`` itself if nothing was kept) and one report per rule.
    """
    vetoes: dict[str, dict[str, str]] = {rule.name: {} for rule in rules}
    given_up: dict[str, Skip] = {}
    spent = dict.fromkeys(vetoes, 0.0)
    while True:
        active = [r for r in rules if r.name not in given_up]
        run = _Run(active, copy or model.clone, oracle, vetoes, progress)
        bad = run.failures(sweeps)
        for name, seconds in run.seconds.items():
            spent[name] += seconds
        if not bad:
            break
        for name, places in bad.items():
            stuck = not places.keys() - vetoes[name].keys()
            vetoes[name].update(places)
            if stuck or len(vetoes[name]) > _MAX_ROLLBACKS:
                why = "a place failed again" if stuck else f"more than {_MAX_ROLLBACKS} places failed"
                given_up[name] = Skip(CLEAN_UP, f"{why}: the whole pass was rolled back")
            elif name in run.crashed:
                given_up[name] = Skip(CLEAN_UP, places[CLEAN_UP])
    reports = [run.report(rule.name) for rule in rules]
    for report in reports:
        report.rolled_back = [Skip(anchor, reason) for anchor, reason in sorted(vetoes[report.name].items())]
        report.seconds = spent[report.name]
        if report.name in given_up and report.name not in run.crashed:
            report.skips = [given_up[report.name]]
    return (run.candidate if any(r.changed for r in reports) else model), reports


@dataclass
class _Step:
    rule: Rule
    applied: Applied
    error: float = 0.0


class _Run:
    """One attempt with the vetoes known so far; every attempt with the same vetoes takes the same steps."""

    def __init__(
        self,
        rules: Sequence[Rule],
        copy: Callable[[], ir.Model],
        oracle: Oracle,
        vetoes: dict[str, dict[str, str]],
        progress: Progress,
    ) -> None:
        self.rules, self.copy, self.oracle, self.vetoes, self.progress = rules, copy, oracle, vetoes, progress
        self.steps: list[_Step] = []
        self.seconds: dict[str, float] = {}
        self.crashed: set[str] = set()
        self.candidate = copy()
        self.host = _without_nodes(self.candidate)  # a pass may drop functions that a cut-out still calls

    def failures(self, sweeps: int) -> dict[str, dict[str, str]]:
        """Rule to the anchors that must not be rewritten, with the reason; none if all is well."""
        workspace = Workspace(self.candidate)
        version = 0
        seen: dict[str, int] = {}
        for _ in range(sweeps):
            before = version
            for rule in self.rules:
                if seen.get(rule.name) == version:
                    continue  # nothing has changed since its last run
                seen[rule.name] = version
                self.progress(f"pass {rule.name}")
                started = time.perf_counter()
                try:
                    bad = self._step(rule, workspace)
                except Exception as error:  # noqa: BLE001 -- a bug in one pass must not cost the others' results
                    self.crashed.add(rule.name)
                    why = f"{type(error).__name__}: {error}"
                    bad = {CLEAN_UP: f"the pass itself failed, please report it: {why}"}
                self.seconds[rule.name] = self.seconds.get(rule.name, 0.0) + time.perf_counter() - started
                if bad:
                    return {rule.name: bad}
                applied = self.steps[-1].applied
                if applied.removed_initializers:
                    workspace.refresh()
                version += bool(applied.hits or applied.removed_initializers)
            if version == before:
                break
        return self._whole() if self.oracle.enabled and version else {}

    def _step(self, rule: Rule, workspace: Workspace) -> dict[str, str]:
        """Run one rule and check its places."""
        applied = self._apply(rule, self.candidate, workspace, cases=self.oracle.enabled)
        self.steps.append(_Step(rule, applied))
        if not self.oracle.enabled or not applied.hits:
            return {}
        replaced = {c.anchor: [(name, v.name or "") for name, v in c.replaced] for c in applied.cases}
        verdict = cutouts.check(applied.cases, self.host, self.oracle.seed)
        applied.cases = [c for c in applied.cases if c.anchor in verdict.unchecked]
        self.steps[-1].error = verdict.max_abs_error
        if verdict.failed:
            return verdict.failed
        if not verdict.unchecked:
            return {}
        if self.oracle.problem is not None:
            return {
                anchor: f"cannot be verified: {why}; nor can the whole model: {self.oracle.problem}"
                for anchor, why in verdict.unchecked.items()
            }
        places = {anchor: replaced[anchor] for anchor in self._visible(verdict.unchecked, applied.hits)}
        before = self._replayed(len(self.steps) - 1)
        if _dangling(self.candidate) - _dangling(before):
            return {}  # such a model does not run: the bisection finds who did it
        return self.oracle.inner_disagreement(before, self.candidate, places)

    def _visible(self, anchors: Iterable[str], hits: Sequence[Hit]) -> set[str]:
        """The same places, but where a later rewrite took in what this one made: that later one."""
        makers = {name: k for k, hit in enumerate(hits) for name in hit.made}
        later = {makers[n]: k for k, hit in enumerate(hits) for n in hit.nodes if n in makers and makers[n] < k}
        found = set()
        for anchor in anchors:
            k = max(i for i, hit in enumerate(hits) if hit.anchor == anchor)
            while k in later:
                k = later[k]
            found.add(hits[k].anchor)
        return found

    def _apply(
        self,
        rule: Rule,
        model: ir.Model,
        workspace: Workspace | None,
        *,
        limit: int | None = None,
        cases: bool = False,
    ) -> Applied:
        veto = self.vetoes[rule.name]
        return rewrite.apply(rule, model, veto=veto, limit=limit, cases=cases, workspace=workspace)

    def _replayed(self, steps: int, limit: int | None = None) -> ir.Model:
        """The model after so many steps, and after ``limit`` rewrites of the next one, if given."""
        model = self.copy()
        workspace = Workspace(model)
        for step in self.steps[:steps]:
            did = step.applied.hits or step.applied.removed_initializers
            if did and self._apply(step.rule, model, workspace).removed_initializers:
                workspace.refresh()
        if limit is not None:
            self._apply(self.steps[steps].rule, model, workspace, limit=limit)
        return model

    def _whole(self) -> dict[str, dict[str, str]]:
        """Compare the whole model with the original; find the culprit if it differs."""
        start = _dangling(self.copy())
        reason, error = self._problem(self.candidate, start)
        if reason is None:
            changed = [s for s in self.steps if s.applied.hits or s.applied.removed_initializers]
            if len(changed) == 1:
                changed[0].error = max(changed[0].error, error)
            return {}

        def agrees(steps: int, limit: int | None = None) -> bool:
            return self._problem(self._replayed(steps, limit), start)[0] is None

        good, failing = 0, len(self.steps)
        while failing - good > 1:
            middle = (good + failing) // 2
            good, failing = (middle, failing) if agrees(middle) else (good, middle)
        step = self.steps[failing - 1]
        hits = len(step.applied.hits)
        if step.applied.removed_initializers and agrees(failing - 1, hits):
            return {step.rule.name: {CLEAN_UP: reason}}
        good, bad = 0, hits
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if agrees(failing - 1, middle) else (good, middle)
        return {step.rule.name: {step.applied.hits[bad - 1].anchor if hits else CLEAN_UP: reason}}

    def _problem(self, model: ir.Model, known: set[str]) -> tuple[str | None, float]:
        if lost := sorted(_dangling(model) - known):
            return f"nothing computes {lost[0]!r} any more", 0.0
        return self.oracle.disagreement(model)

    def report(self, name: str) -> PassReport:
        """What the rule of this name did in this attempt."""
        result = PassReport(name)
        for step in self.steps:
            if step.rule.name == name:
                result.hits += step.applied.hits
                result.skips = step.applied.skips
                result.removed_initializers += step.applied.removed_initializers
                result.max_abs_error = max(result.max_abs_error, step.error)
        return result


def _without_nodes(model: ir.Model) -> ir.Model:
    """The opset imports, IR version and functions of a model, as cut-outs need them."""
    graph = ir.Graph([], [], nodes=[], opset_imports=dict(model.opset_imports))
    return ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))


def _dangling(model: ir.Model) -> set[str]:
    """Names of values that are read, or are outputs, and that nothing computes."""
    read = [v for g in graphs(model) for values in (g.outputs, *(n.inputs for n in g)) for v in values if v is not None]
    return {
        v.name or "" for v in read if v.producer() is None and not v.is_graph_input() and not v.is_initializer()
    } | {v.name or "" for v in read if (producer := v.producer()) is not None and producer.graph is None}
