"""ONNX's own backend tests through the pipeline, each as it is and with inputs as initializers.

About 1,700 models of single operators and 150 of exporters' layers, in up to three variants. The default run takes
every eleventh; EDGEOPT_SLOW=1 takes them all.
"""

from __future__ import annotations

import os

import pytest

from tests.backend_cases import SUITES, BackendCase, cases, outcome, variants

STRIDE = 1 if os.environ.get("EDGEOPT_SLOW") else 11
PARTS = 8


@pytest.fixture(scope="module")
def node_cases() -> list[BackendCase]:
    return cases("node")


def problems(chosen: list[BackendCase]) -> dict[str, str]:
    found = {}
    for case in chosen:
        for title, model, feed in variants(case):
            problem = outcome(model, feed).problem
            if problem is not None:
                found[f"{case.name}, {title}"] = problem
    return found


@pytest.mark.parametrize("part", range(PARTS))
def test_nodes(node_cases: list[BackendCase], part: int) -> None:
    assert problems(node_cases[::STRIDE][part::PARTS]) == {}


@pytest.mark.parametrize("suite", [s for s in SUITES if s != "node"])
def test_layers(suite: str) -> None:
    assert problems(cases(suite)[::STRIDE]) == {}


def test_there_are_many(node_cases: list[BackendCase]) -> None:
    assert len(node_cases) > 1000
    assert sum(len(cases(s)) for s in SUITES if s != "node") > 100


def test_variants() -> None:
    case = next(c for c in cases("simple") if len(c.inputs) == 2)
    found = list(variants(case))
    assert [sorted(feed) for _, _, feed in found] == [sorted(case.inputs), list(case.inputs)[:1], []]
    for _, model, feed in found:
        stored = {t.name for t in model.graph.initializer}
        assert {v.name for v in model.graph.input} - stored == set(feed)
