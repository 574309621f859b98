"""Profiles: the arithmetic on events made by hand, and real runs whose parts must add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt import node_times
from edgeopt.errors import ModelError, UsageError
from edgeopt.node_times import NodeTime, Originals, bound_of, by_run, per_node
from tests.models import model


def kernel(name: str, ts: int, dur: int, op: str = "Relu", index: int = 0) -> dict[str, Any]:
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": ts,
        "dur": dur,
        "args": {"op_name": op, "node_index": str(index)},
    }


def run(ts: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": 90}


WARM = [run(0), run(100), run(200)]


def times(events: list[dict[str, Any]]) -> dict[str, list[float]]:
    return {name: [t for t, _ in found] for (name, _, _), found in by_run(WARM + events).items()}


def test_warm_up_runs_are_left_out_and_runs_are_told_apart() -> None:
    events = [kernel("a", 10, 50), run(300), kernel("a", 310, 5), run(400), kernel("a", 410, 7), kernel("b", 420, 1)]
    assert times(events) == {"a": [5, 7], "b": [1]}


def test_other_events_do_not_count() -> None:
    events = [run(300), {**kernel("a", 310, 5), "name": "a_fence_before"}, {**kernel("a", 310, 5), "cat": "Api"}]
    assert times(events) == {}


def test_time_in_a_body_belongs_to_its_nodes() -> None:
    # If (20) holds a (6) and Loop (8), which holds two rounds of b (2 and 3)
    events = [
        run(300),
        kernel("a", 311, 6),
        kernel("b", 321, 2),
        kernel("b", 324, 3),
        kernel("loop", 320, 8, "Loop"),
        kernel("if", 310, 20, "If"),
        kernel("after", 330, 4),
    ]
    found = times(events)
    assert found == {"if": [6], "a": [6], "loop": [3], "b": [5], "after": [4]}
    assert sum(v[0] for v in found.values()) == 24  # what the outermost nodes took


def test_nodes_of_one_name_are_told_apart_by_their_index() -> None:
    events = [run(300), kernel("", 310, 5, index=1), kernel("", 320, 6, index=2)]
    assert [[t for t, _ in v] for v in by_run(WARM + events).values()] == [[5], [6]]


FUSED = """g (float[1,2,4,4] x) => (y)
<float[2,2,1,1] w = {1,2,3,4}, float[4] half = {1,1,1,1}>
{ [conv] c = Conv(x, w)  [act] r = Relu(c)  [add] s = Add(r, x)  [last] y = Softmax(s) }"""


@pytest.mark.parametrize(
    ("executed", "op", "expected"),
    [
        ("conv", "Conv", "conv"),
        ("fused conv", "FusedConv", "conv"),
        ("conv_token_12", "Conv", "conv"),
        ("last/MatMulAddFusion", "FusedGemm", "last"),
        ("r_nchwc", "Conv", "conv"),  # named after the value that the last node melted into it writes
        ("s_nchwc", "Conv", "conv"),
        ("r_nchwc", "MaxPool", "act"),  # no such operator behind it: the writer of that value
        ("ReorderOutput_token_3", "ReorderOutput", "ReorderOutput_token_3"),
    ],
)
def test_names_of_the_model(executed: str, op: str, expected: str) -> None:
    assert Originals(model(FUSED)).name(executed, op) == expected


@pytest.mark.parametrize(
    ("macs", "op", "touched", "expected"),
    [
        (10**9, "Conv", 10**6, "compute"),
        (10**6, "Conv", 10**8, "memory"),
        (10, "Conv", 10, "dispatch"),
        (0, "Relu", 10**7, "memory"),
        # 4 · 10⁵ MACs: 8 µs in float, 2 µs in integers, which is below the cost of any node
        (4 * 10**5, "Conv", 0, "compute"),
        (4 * 10**5, "QLinearConv", 0, "dispatch"),
    ],
)
def test_bound(macs: int, op: str, touched: int, expected: str) -> None:
    sizes = {"activation_size": str(touched), "parameter_size": "0", "output_size": "0"}
    assert bound_of(macs, op, sizes) == expected


MLP = """g (float[1,256] x) => (y)
{ w = RandomUniform<shape=[256,256], seed=1.0>()  h = MatMul(x, w)  r = Relu(h)  y = Softmax(r) }"""


def test_parts_add_up_to_the_total() -> None:
    found = per_node(model(MLP), {"x": np.ones((1, 256), np.float32)}, total_ms=7.5, runs=3)
    assert {"w", "h", "y"} <= {n.name for n in found}  # names of nodes without one: their first output
    assert sum(n.latency_ms for n in found) == pytest.approx(7.5, rel=1e-12)
    assert sum(n.share for n in found) == pytest.approx(1.0, rel=1e-12)
    assert all(n.latency_ms >= 0 for n in found)
    assert {n.bound for n in found} <= {"compute", "memory", "dispatch"}


def test_the_callers_model_is_not_changed() -> None:
    m = model(MLP)
    per_node(m, {"x": np.ones((1, 256), np.float32)}, total_ms=1.0, runs=1)
    assert [n.name for n in m.graph if n.name] == []


def test_nodes_without_a_name_get_different_ones() -> None:
    m = model("g (float[2] x) => (y, z) { [y] z = Softmax(x) y = LogSoftmax(x) }")
    found = per_node(m, {"x": np.ones(2, np.float32)}, total_ms=1.0, runs=1)
    assert sorted(n.name for n in found) == ["y", "y_1"]


def test_a_body() -> None:
    m = model(
        """g (float[64] x, bool c) => (y)
        { [if] y = If(c) <then_branch = a () => (p) { [inner] p = Softmax(x) },
          else_branch = b () => (q) { q = Neg(x) }> }"""
    )
    found = per_node(m, {"x": np.ones(64, np.float32), "c": np.array(True)}, total_ms=2.0, runs=2)
    assert {n.name for n in found} == {"if", "inner"}
    assert sum(n.latency_ms for n in found) == pytest.approx(2.0)


def test_a_model_of_constants_has_no_nodes_to_time() -> None:
    m = model("g (float[2] x) => (y, z) { y = Constant<value_float=1.0>() z = Constant<value_float=2.0>() }")
    assert per_node(m, {"x": np.ones(2, np.float32)}, total_ms=1.0, runs=1) == []


def test_times_below_the_resolution_are_shared_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [*WARM, run(300), kernel("p", 310, 0), kernel("q", 320, 0)]
    monkeypatch.setattr(node_times, "_profile", lambda *_: by_run(events))
    m = model("g (float[2] x) => (q) { [p] p = Relu(x) [q] q = Neg(p) }")
    found = per_node(m, {"x": np.ones(2, np.float32)}, total_ms=1.0)
    assert [(n.name, n.latency_ms) for n in found] == [("p", 0.5), ("q", 0.5)]


def test_a_node_that_the_runtime_made_is_judged_by_the_shapes_of_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    def event(op: str, ts: int, inputs: list[list[int]], outputs: list[list[int]]) -> dict[str, Any]:
        made = kernel(f"made_{ts}", ts, 5, op)
        made["args"] |= {
            "input_type_shape": [{"float": s} for s in inputs],
            "output_type_shape": [{"float": s} for s in outputs],
        }
        return made

    image, weights = [1, 64, 32, 32], [64, 64, 3, 3]
    events = [
        *WARM,
        run(300),
        event("Conv", 310, [image, weights], [image]),
        event("QLinearConv", 320, [image, [], [], weights], [image]),
        event("MatMul", 330, [[512, 512], [512, 512]], [[512, 512]]),
        event("QLinearMatMul", 340, [[512, 512], [], [], [512, 512]], [[512, 512]]),
        event("ConvTranspose", 350, [image, weights], [image]),
        event("Conv", 360, [], []),
        event("ReorderInput", 370, [image], [image]),
    ]
    monkeypatch.setattr(node_times, "_profile", lambda *_: by_run(events))
    found = per_node(model("g (float[2] x) => (y) { y = Relu(x) }"), {"x": np.ones(2, np.float32)}, total_ms=1.0)
    assert [n.bound for n in found] == ["compute"] * 4 + ["dispatch"] * 3


def test_a_name_taken_twice_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [*WARM, run(300), kernel("p", 310, 1, index=1), kernel("p_token_7", 320, 1, "ReorderInput", index=2)]
    monkeypatch.setattr(node_times, "_profile", lambda *_: by_run(events))
    m = model("g (float[2] x) => (p) { [p] p = Relu(x) }")
    assert [n.name for n in per_node(m, {"x": np.ones(2, np.float32)}, 1.0)] == ["p", "p_token_7"]


def test_wrong_arguments_and_models() -> None:
    m = model("g (float[2] x) => (y) { y = Relu(x) }")
    feed = {"x": np.ones(2, np.float32)}
    with pytest.raises(UsageError, match="found 0 and 20"):
        per_node(m, feed, total_ms=0)
    with pytest.raises(UsageError, match=r"found 1\.0 and 0"):
        per_node(m, feed, total_ms=1.0, runs=0)
    with pytest.raises(ModelError, match="cannot run the model"):
        per_node(m, {"x": np.ones(3, np.float32)}, total_ms=1.0)
    with pytest.raises(ModelError, match="cannot load the model"):
        per_node(model("g (float[2,3] a) => (float[9] y) { y = MatMul(a, a) }"), feed, total_ms=1.0)


def test_json() -> None:
    found = NodeTime("n", "Conv", 0.5, 0.25, "compute").as_json()
    assert found == {"name": "n", "op": "Conv", "latency_ms": 0.5, "share": 0.25, "bound": "compute"}


def test_real_models(shared: Path) -> None:
    listed = json.loads((shared / "data" / "models.json").read_text())
    for name in ("cifar10_resnet20", "kws_dscnn", "person_mobilenetv2_035_128"):
        m = ir.load(shared / "data" / listed[name]["file"])
        dims = [d if isinstance(d, int) else 1 for d in m.graph.inputs[0].shape or ()]
        found = per_node(m, {m.graph.inputs[0].name or "": np.zeros(dims, np.float32)}, total_ms=3.0, runs=3)
        assert sum(n.latency_ms for n in found) == pytest.approx(3.0, rel=1e-12), name
        assert len({n.name for n in found}) == len(found), name
        # only layout changes, which the runtime adds, have names of its own
        own = {n.name for n in m.graph}
        assert {n.op for n in found if n.name not in own} <= {"ReorderInput", "ReorderOutput"}, name
