"""Random graphs through the whole pipeline: never another result, never a crash, no roll-back.

200 graphs here; ``make bench-random`` takes 5,000 (see bench/results/random.md).
"""

from __future__ import annotations

import functools
from collections import Counter

import onnx
import pytest
from hypothesis import HealthCheck, given, settings

from edgeopt.oracle import Oracle
from edgeopt.passes import EXACT, fold_batchnorm
from tests import pipeline
from tests.random_graphs.builder import OPSETS
from tests.random_graphs.judging import Verdict, judge
from tests.random_graphs.making import graph, graphs
from tests.random_graphs.shrinking import shrink

COUNT, PARTS = 200, 8
RARE = {"dedupe_initializers", "fold_expand", "fold_pads", "fold_transpose_gemm", "fold_pad", "write_einsum"}


@pytest.mark.parametrize("part", range(PARTS))
def test_never_wrong(part: int) -> None:
    found = {seed: judge(graph(seed)) for seed in range(part, COUNT, PARTS)}
    assert {seed: v.problems for seed, v in found.items() if v.problems} == {}
    assert sum(v.runs for v in found.values()) > 0.9 * len(found)
    assert sum(v.total >= 3 for v in found.values()) > 0.3 * len(found)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_never_wrong_with_hypothesis(model: onnx.ModelProto) -> None:
    assert judge(model).problems == []


def test_graphs_are_valid_and_repeatable() -> None:
    for seed in range(60):
        model = graph(seed)
        onnx.checker.check_model(model, full_check=True)
        assert model.SerializeToString(deterministic=True) == graph(seed).SerializeToString(deterministic=True)


def test_graphs_are_rich() -> None:
    models = [graph(seed) for seed in range(300)]
    ops = Counter(n.op_type for m in models for n in m.graph.node)
    assert len(ops) > 70
    assert {m.opset_import[0].version for m in models} == set(OPSETS)
    assert any(m.functions for m in models)
    assert any(d.dim_param for m in models for v in m.graph.input for d in v.type.tensor_type.shape.dim)
    assert any(len(m.graph.output) > 3 for m in models)


def test_a_wrong_pass_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge shares nothing with the oracle: with the oracle off, a broken fold shows in the outputs."""
    sound = fold_batchnorm.fold_conv
    monkeypatch.setattr(fold_batchnorm, "fold_conv", lambda w, s: sound(w, s) * 1.01)
    monkeypatch.setattr(pipeline, "Oracle", functools.partial(Oracle, enabled=False))
    seeds = [s for s in range(60) if "BatchNormalization" in judge(graph(s)).ops]
    found = [s for s in seeds if any("differs" in w for w in judge(graph(s)).wrong)]
    assert len(found) >= 3


def test_shrink() -> None:
    def fails(model: onnx.ModelProto) -> bool:
        return any(n.op_type == "Conv" for n in model.graph.node)

    model = next(m for m in map(graph, range(100)) if fails(m) and len(m.graph.node) > 20)
    small = shrink(model, fails)
    assert len(small.graph.node) <= 3
    assert fails(small)


def test_every_pass_rewrites_something() -> None:
    found: Counter[str] = Counter()
    for seed in range(120):
        found.update(judge(graph(seed)).rewrites.keys())
    assert {r.name for r in EXACT} - found.keys() <= RARE


def test_a_verdict_tells_all() -> None:
    verdict = Verdict(Counter(), wrong=["a"], crashed="b", rolled_back=["c"], spared=["d"], rewrites={"x": 2, "y": 1})
    assert verdict.problems == ["a", "c", "b"]
    assert verdict.total == 3
