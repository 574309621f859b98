"""ONNX's own backend node tests, each as it is and with its inputs (but the first) as initializers.

About 1,900 models. The default run takes every eleventh; EDGEOPT_SLOW=1 takes them all.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase as NodeCase

from edgeopt import files
from edgeopt.errors import ModelError
from edgeopt.oracle import Oracle
from edgeopt.runtime import Level, Session
from edgeopt.simplifier import simplify

STRIDE = 1 if os.environ.get("EDGEOPT_SLOW") else 11
RANDOM = ("bernoulli", "dropout", "random", "multinomial", "training")
PARTS = 8


@pytest.fixture(scope="module")
def cases() -> list[NodeCase]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflows in onnx's own examples
        state = np.random.get_state()  # noqa: NPY002 -- onnx draws from the global generator
        np.random.seed(0)  # noqa: NPY002
        found = collect_testcases(None)
        np.random.set_state(state)  # noqa: NPY002
    return [c for c in found if not any(word in c.name for word in RANDOM)]


# affine_grid gives Range vectors of one: onnxruntime takes them only while an If hides their shapes
_SLOPPY = ("does not run", "Input to 'Range' op should be scalars")


def variants(case: NodeCase) -> list[tuple[str, onnx.ModelProto, dict[str, Any]]]:
    """Title, model and feed: as it is, and with all inputs but the first as initializers."""
    inputs = list(case.data_sets[0][0])  # type: ignore[index]
    assert case.model is not None
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    given = {v.name: a for v, a in zip(model.graph.input, inputs, strict=False)}
    found = [(case.name, model, given)]
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    kept = {}
    del fixed.graph.input[:]
    for k, value in enumerate(model.graph.input):
        array = given.get(value.name)
        kind = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else None
        if k and isinstance(array, np.ndarray) and kind is not None:
            tensor = numpy_helper.from_array(array, value.name)
            if tensor.data_type == kind:
                fixed.graph.initializer.append(tensor)
                continue
        fixed.graph.input.append(value)
        if array is not None:
            kept[value.name] = array
    if len(kept) < len(given):
        found.append((f"{case.name} with initializers", fixed, kept))
    return found


def differs(before: Any, after: Any) -> bool:
    if isinstance(before, list):
        return len(before) != len(after) or any(differs(a, b) for a, b in zip(before, after, strict=True))
    a, b = np.asarray(before), np.asarray(after)
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return True
    if a.dtype.kind != "f":
        return not np.array_equal(a, b)
    with np.errstate(invalid="ignore"):  # inf - inf
        tolerance = {2: 1e-2, 4: 1e-4, 8: 1e-7}[a.dtype.itemsize]
        return not np.allclose(b, a, rtol=tolerance, atol=tolerance, equal_nan=True)


def problem(proto: onnx.ModelProto, feed: dict[str, Any]) -> str | None:
    """What goes wrong when the model is simplified, or None."""
    found = files.load(proto)
    try:
        before: dict[str, Any] | None = Session(found.model, Level.NONE).run(feed)
    except ModelError:
        before = None  # onnxruntime has no such kernel
    done = simplify(found.model, Oracle(found.model), checker_clean=found.checker_error is None)
    rolled_back = [(r.name, s) for r in done.passes for s in r.rolled_back if "nor can the whole model" not in s.reason]
    rolled_back = [(name, s) for name, s in rolled_back if not all(text in s.reason for text in _SLOPPY)]
    bad = [f"{name} {s.node}: {s.reason}" for name, s in rolled_back]  # not: what no random input can be found for
    if before is not None and bad:
        return f"rolled back: {bad}"
    if any("itself failed" in b for b in bad) or any("all passes" in w for w in done.warnings):
        return f"{bad} {done.warnings}"
    if before is None:
        return None
    try:
        after = Session(done.model, Level.NONE).run(feed)
    except ModelError as error:
        return f"does not run any more: {error}"
    wrong = [name for name in before if name not in after or differs(before[name], after[name])]
    return f"outputs {wrong} differ" if wrong or list(before) != list(after) else None


@pytest.mark.parametrize("part", range(PARTS))
def test_backend_nodes(cases: list[NodeCase], part: int) -> None:
    chosen = cases[::STRIDE][part::PARTS]
    found = {t: p for case in chosen for t, model, feed in variants(case) if (p := problem(model, feed)) is not None}
    assert found == {}


def test_there_are_many(cases: list[NodeCase]) -> None:
    assert len(cases) > 1000
