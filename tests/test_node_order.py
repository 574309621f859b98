"""Orders of least peak: valid, never worse, with the same outputs; what must stay in place stays."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import api, files, node_order, shapes
from edgeopt.arena import activation_lower_bound, arena_plan
from edgeopt.graph import captured_values, graphs
from edgeopt.node_order import reorder
from tests import order_nets
from tests.models import assert_same, filled, model

# Each branch makes a large tensor of a small one: one after the other is better than both at once.
BRANCHES = """g (float[1,8] x) => (float[1,1] y) <float[8,512] w>
{ [a] a = MatMul(x, w) [b] b = MatMul(x, w) [c] c = ReduceMax(a) [d] d = ReduceMax(b) [y] y = Add(c, d) }"""
LARGE = 512 * 4


def names(graph: ir.Graph) -> list[str]:
    return [n.name or "" for n in graph]


def assert_valid(m: ir.Model) -> None:
    """Every node comes after what it reads, from inside its bodies too."""
    for graph in graphs(m):
        place = {node: i for i, node in enumerate(graph)}
        for node, i in place.items():
            for value in [*node.inputs, *captured_values(node)]:
                producer = None if value is None else value.producer()
                assert producer is None or place.get(producer, -1) < i


def assert_better(m: ir.Model, before: int, after: int) -> ir.Model:
    given = [names(g) for g in graphs(m)]
    found = reorder(m)
    assert [names(g) for g in graphs(m)] == given
    assert (found.peak_bytes_before, found.peak_bytes_after, found.lower_bound_bytes) == (before, after, after)
    assert (found.method, found.gap, found.optimal) == ("exact", 0, True)
    assert activation_lower_bound(found.model).size_bytes == after
    assert arena_plan(found.model).arena_bytes == found.arena_bytes_after <= found.arena_bytes_before
    assert_valid(found.model)
    onnx.checker.check_model(ir.to_proto(found.model))
    again = reorder(found.model)
    assert again.method == "given"
    assert again.model is found.model
    return found.model


def test_branches_run_one_after_the_other() -> None:
    m = ir.from_proto(filled(BRANCHES))
    done = assert_better(m, 32 + 2 * LARGE, 32 + LARGE + 4)
    assert names(done.graph) == ["a", "c", "b", "d", "y"]
    assert_same(m, done)


def test_open_dimensions_are_assumed() -> None:
    m = ir.from_proto(filled(BRANCHES.replace("float[1,8] x", "float[N,8] x")))
    assert reorder(m).peak_bytes_before == 32 + 2 * LARGE
    found = reorder(m, {"N": 4})
    assert found.peak_bytes_before == 4 * (32 + 2 * LARGE)
    assert found.optimal
    assert names(found.model.graph) == ["a", "c", "b", "d", "y"]


def test_bodies_are_ordered_and_what_they_capture_comes_first() -> None:
    text = """g (float[1,8] x, bool k) => (float[1,1] y) <float[8,512] w>
    { [far] far = MatMul(x, w) [near] near = Softmax(x)
      [if] y = If(k) <then_branch = t () => (float[1,1] p) {
        [a] a = MatMul(near, w) [b] b = MatMul(x, w) [c] c = ReduceMax(a) [d] d = ReduceMax(b) [p] p = Add(c, d) },
      else_branch = e () => (float[1,1] q) { [q] q = ReduceMax(far) }> }"""
    m = ir.from_proto(filled(text))
    done = assert_better(m, 32 + 32 + 1 + 3 * LARGE + 4, 32 + 32 + 1 + 2 * LARGE + 8)
    inner = [names(g) for g in graphs(done)]
    assert ["a", "c", "b", "d", "p"] in inner or ["b", "d", "a", "c", "p"] in inner
    for value in (True, False):
        assert_same(m, done, k=np.array(value))


def test_random_nodes_keep_their_order() -> None:
    text = BRANCHES.replace("MatMul(x, w)", "RandomUniform<shape = [1, 512]>()", 1)
    text = text.replace("[b] b = MatMul(x, w)", "[r] r = RandomUniform<shape = [1, 8]>() [b] b = MatMul(r, w)")
    done = reorder(ir.from_proto(filled(text)))
    assert done.changed
    order = names(done.model.graph)
    assert order.index("a") < order.index("r")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[8] x) => (y) { i = NonZero(x) y = Concat<axis=0>(i, i) }", "the size of 'i' is unknown"),
        (
            '<ir_version: 8, opset_import: ["" : 17, "f" : 1]> g (float[8] x) => (y) { y = f.twice(x) }\n'
            '<domain: "f", opset_import: ["" : 17]> twice (x) => (y) { y = Add(x, x) }',
            "the model has local functions",
        ),
    ],
)
def test_left_alone(text: str, reason: str) -> None:
    m = model(text)
    found = reorder(m)
    assert found.model is m
    assert found.reason == reason
    assert found.as_json()["reason"] == reason
    assert "gap" not in found.as_json()
    assert all(not node.meta for node in m.graph)


def test_an_order_that_costs_arena_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = iter([100, 101])
    monkeypatch.setattr(node_order, "plan", lambda live: type("Plan", (), {"arena_bytes": next(plans)}))
    m = ir.from_proto(filled(BRANCHES))
    found = node_order.reorder(m)
    assert (found.method, found.optimal) == ("given", False)
    assert found.model is m
    assert found.gap > 0.9


NETS: dict[str, tuple[Callable[[], onnx.ModelProto], float]] = {
    "nasnet, two cells": (lambda: order_nets.nasnet(2), 0.1),
    "nasnet, by levels": (lambda: order_nets.scattered(order_nets.nasnet(2)), 0.3),
    "densenet": (lambda: order_nets.densenet(4), 0),
    "densenet, at random": (lambda: order_nets.scattered(order_nets.densenet(4), 0), 0),
    "inception": (lambda: order_nets.inception(2), 0.25),
    "inception, by levels": (lambda: order_nets.scattered(order_nets.inception(2)), 0.25),
    "wired at random": (lambda: order_nets.scattered(order_nets.wired(), 0), 0),
}


@pytest.mark.parametrize("net", NETS)
def test_nets(net: str) -> None:
    build, saving = NETS[net]
    m = ir.from_proto(build())
    found = reorder(m)
    assert found.peak_bytes_after <= (1 - saving) * found.peak_bytes_before
    assert found.lower_bound_bytes <= found.peak_bytes_after == activation_lower_bound(found.model).size_bytes
    assert found.arena_bytes_after <= found.arena_bytes_before
    assert names(reorder(m).model.graph) == names(found.model.graph)
    assert_valid(found.model)
    assert_same(m, found.model)


def test_within_its_limit_the_search_gives_the_best_it_found() -> None:
    m = ir.from_proto(order_nets.scattered(order_nets.nasnet(3)))
    found = reorder(m, evaluations=100_000)
    assert found.method == "heuristic"
    assert 0 < found.gap < 1
    assert found.peak_bytes_after < found.peak_bytes_before
    assert found.peak_bytes_after <= reorder(m, evaluations=0).peak_bytes_after < found.peak_bytes_before


def test_simplify_orders_the_nodes_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(order_nets.inception(2), path)
    done = api.simplify(path)
    part = done.report["node_order"]
    assert part["peak_bytes_after"] == part["lower_bound_bytes"] < part["peak_bytes_before"]
    assert (part["gap"], part["optimal"], part["method"]) == (0, True, "exact")
    assert activation_lower_bound(done.model).size_bytes == part["peak_bytes_after"]
    done.save(tmp_path / "out.onnx")
    assert api.simplify(tmp_path / "out.onnx").report["verdict"] == "unchanged"
    profiled = api.profile(path, measure=False)["profiles"][0]["memory"]
    assert profiled["node_order"]["peak_bytes_after"] < profiled["activation_lower_bound_bytes"]


def test_a_chain_of_20000_nodes_takes_no_time() -> None:
    chain = "".join(f" v{i + 1} = Softmax(v{i})" for i in range(20_000))
    m = shapes.infer(model(f"g (float[4] v0) => (v20000) {{{chain} }}"))
    started = time.process_time()
    found = reorder(m)
    assert found.optimal
    assert time.process_time() - started < 3  # nearly all of it for liveness and the arena


def test_real_models(shared: Path) -> None:
    for path in sorted((shared / "data" / "models").glob("*.onnx")):
        found = reorder(shapes.infer(files.load(path).model))
        assert found.optimal, path.name
        assert found.peak_bytes_after <= found.peak_bytes_before
        assert found.arena_bytes_after <= found.arena_bytes_before
