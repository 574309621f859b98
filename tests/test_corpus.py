"""Every real model at hand, through all exact passes: never a crash, never another result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from edgeopt import files, saving
from edgeopt.errors import EdgeoptError
from edgeopt.graph import graphs
from edgeopt.ops import is_random
from edgeopt.oracle import Oracle
from edgeopt.simplifier import simplify

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
MODELS = sorted([*DATA.glob("corpus/*.onnx"), *DATA.glob("models/*.onnx")])
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feeds(runner: ort.InferenceSession) -> list[dict[str, Any]]:
    """Two random inputs, with other sizes and another generator than edgeopt's own."""
    found = []
    for seed, size in ((20261, 1), (20262, 2)):
        rng = np.random.RandomState(seed)
        feed: dict[str, Any] = {}
        for value in runner.get_inputs():
            shape = [d if isinstance(d, int) and d > 0 else size if k == 0 else 16 for k, d in enumerate(value.shape)]
            if value.type == "tensor(string)":
                feed[value.name] = np.full(shape, "text", dtype=object)
                continue
            dtype = np.dtype(DTYPES[value.type])
            array = rng.uniform(-1, 1, shape) if dtype.kind == "f" else rng.randint(1, 3, shape)
            feed[value.name] = np.asarray(array).astype(dtype)
        found.append(feed)
    return found


def results(model: bytes) -> list[dict[str, Any] | None]:
    """Outputs for each feed, None where onnxruntime refuses."""
    try:
        runner = session(model)
        inputs = feeds(runner)
    except Exception:  # noqa: BLE001 -- whatever it is, then the model cannot be compared
        return []
    found: list[dict[str, Any] | None] = []
    for feed in inputs:
        try:
            found.append(dict(zip([o.name for o in runner.get_outputs()], runner.run(None, feed), strict=True)))
        except Exception:  # noqa: BLE001
            found.append(None)
    return found


def assert_close(before: Any, after: Any, where: str) -> None:
    if isinstance(before, list):
        assert len(before) == len(after), where
        for a, b in zip(before, after, strict=True):
            assert_close(a, b, where)
    elif isinstance(before, dict):
        assert before.keys() == after.keys(), where
        for key in before:
            assert_close(before[key], after[key], where)
    else:
        a, b = np.asarray(before), np.asarray(after)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), where
        if a.dtype.kind != "f":
            assert np.array_equal(a, b), where
            return
        scale = float(np.abs(a[np.isfinite(a)]).max(initial=0))
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * scale, err_msg=where)


def interface(model: ir.Model) -> list[tuple[str | None, str, str]]:
    return [(v.name, str(v.type), str(v.shape)) for v in (*model.graph.inputs, *model.graph.outputs)]


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_simplify(path: Path) -> None:
    try:
        found = files.load(path)
    except EdgeoptError:
        pytest.fail("every model of the corpus can be read")
    start = saving.serialize(found.model)
    done = simplify(found.model, Oracle(found.model), checker_clean=found.checker_error is None)
    assert saving.serialize(found.model) == start
    assert interface(done.model) == interface(found.model)
    for report in done.passes:
        assert report.rolled_back == [], report.name
        assert all(s.reason for s in report.skips)
    assert not [w for w in done.warnings if "rolled back" in w]
    if any(is_random(node) for graph in graphs(found.model) for node in graph if node.domain == ""):
        return
    originals = results(path.read_bytes())
    if not originals:
        return  # nobody runs the original
    for k, (before, after) in enumerate(zip(originals, results(saving.serialize(done.model)), strict=True)):
        if before is not None:
            assert after is not None, f"feed {k}: the simplified model does not run"
            assert list(before) == list(after)
            for name in before:
                assert_close(before[name], after[name], f"feed {k}, output {name}")


def test_the_corpus_is_there(shared: Path) -> None:
    assert shared.samefile(DATA.parent)
    assert len(MODELS) > 50
