"""The models of ONNX's own backend tests with their inputs, and what becomes of them in the pipeline.

Each as it is, with all inputs but the first as initializers, and with all inputs as initializers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgeopt import files
from edgeopt.errors import ModelError
from edgeopt.oracle import Oracle
from edgeopt.runtime import Level, Session
from edgeopt.simplifier import simplify

SUITES = ("node", "simple", "pytorch-converted", "pytorch-operator")
VARIANTS = ("as it is", "all inputs but the first constant", "all inputs constant")
RANDOM = ("bernoulli", "dropout", "random", "multinomial", "training")
# The expanded affine_grid gives Range vectors of one element, which onnx forbids; onnxruntime takes them only as long
# as an If, or an operator that it does not infer, hides their shapes.
INVALID = ("affine_grid", "Input to 'Range' op should be scalars")


@dataclass(frozen=True)
class BackendCase:
    """A model and its first set of inputs."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Any]


def cases(suite: str) -> list[BackendCase]:
    """All cases of a suite that give the same outputs in each run."""
    found = _node_cases() if suite == "node" else list(_stored_cases(suite))
    return [c for c in found if not any(word in c.name for word in RANDOM)]


def _node_cases() -> list[BackendCase]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflows in onnx's own examples
        state = np.random.get_state()  # noqa: NPY002 -- onnx draws from the global generator
        np.random.seed(0)  # noqa: NPY002
        found = collect_testcases(None)
        np.random.set_state(state)  # noqa: NPY002
    made = []
    for case in found:
        assert case.model is not None
        assert case.data_sets is not None
        made.append(BackendCase(case.name, case.model, _named(case.model, list(case.data_sets[0][0]))))
    return made


def _stored_cases(suite: str) -> Iterator[BackendCase]:
    import onnx.backend.test

    folder = Path(onnx.backend.test.__file__).parent / "data" / suite
    for path in sorted(folder.glob("*/model.onnx")):
        model = onnx.load(path)
        arrays: list[Any] = []
        stored = {t.name for t in model.graph.initializer}
        for k, value in enumerate(v for v in model.graph.input if v.name not in stored):
            message = path.parent / "test_data_set_0" / f"input_{k}.pb"
            arrays.append(_read(message, value) if message.exists() else None)
        yield BackendCase(path.parent.name, model, _named(model, arrays))


def _read(path: Path, value: onnx.ValueInfoProto) -> Any:
    if value.type.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(path.read_bytes()))
    if value.type.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(path.read_bytes()))
    return numpy_helper.to_array(onnx.load_tensor(path))


def _named(model: onnx.ModelProto, arrays: list[Any]) -> dict[str, Any]:
    stored = {t.name for t in model.graph.initializer}
    names = [v.name for v in model.graph.input if v.name not in stored]
    return {n: a for n, a in zip(names, arrays, strict=False) if a is not None}


def variants(case: BackendCase) -> Iterator[tuple[str, onnx.ModelProto, dict[str, Any]]]:
    """Title, model and feed; only what differs from the variants before."""
    yield VARIANTS[0], case.model, case.inputs
    sizes = {len(case.inputs)}
    for title, first in ((VARIANTS[1], 1), (VARIANTS[2], 0)):
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        stored = {t.name for t in model.graph.initializer}
        fixed, feed = set(), {}
        for k, value in enumerate(v for v in case.model.graph.input if v.name not in stored):
            tensor = _tensor(case.inputs.get(value.name), value) if k >= first else None
            if tensor is not None:
                model.graph.initializer.append(tensor)
                fixed.add(value.name)
            elif value.name in case.inputs:
                feed[value.name] = case.inputs[value.name]
        if model.ir_version >= 4:  # before, initializers have to be inputs
            kept = [v for v in model.graph.input if v.name not in fixed]
            del model.graph.input[:]
            model.graph.input.extend(kept)
        if len(feed) not in sizes:
            sizes.add(len(feed))
            yield title, model, feed


def _tensor(array: Any, value: onnx.ValueInfoProto) -> onnx.TensorProto | None:
    if not isinstance(array, np.ndarray) or not value.type.HasField("tensor_type"):
        return None
    tensor = numpy_helper.from_array(array, value.name)
    return tensor if tensor.data_type == value.type.tensor_type.elem_type else None


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


@dataclass(frozen=True)
class Outcome:
    """What became of one model.

    Attributes:
        problem: What goes wrong when the model is simplified, or None.
        runs: Whether onnxruntime runs the original.
        rewrites: How many were kept.
    """

    problem: str | None
    runs: bool = True
    rewrites: int = 0


def outcome(proto: onnx.ModelProto, feed: dict[str, Any]) -> Outcome:
    """Simplify the model and run both; crashes are problems too."""
    found = files.load(proto)
    try:
        before: dict[str, Any] | None = Session(found.model, Level.NONE).run(feed)
    except ModelError:
        before = None  # onnxruntime has no such kernel
    try:
        done = simplify(found.model, Oracle(found.model), checker_clean=found.checker_error is None)
    except Exception as error:  # noqa: BLE001 -- this is the question
        return Outcome(f"crash: {type(error).__name__}: {error}", before is not None)
    kept = sum(len(r.hits) for r in done.passes)
    bad = [
        f"{r.name} {s.node}: {s.reason}"
        for r in done.passes
        for s in r.rolled_back
        if "nor can the whole model" not in s.reason  # no random input can be found for it
        and not all(word in s.reason + proto.graph.name for word in INVALID)
    ]
    if (before is not None and bad) or any("itself failed" in b for b in bad):
        return Outcome(f"rolled back: {bad}", before is not None, kept)
    if any("all passes" in w for w in done.warnings):
        return Outcome(f"{done.warnings}", before is not None, kept)
    if before is None:
        return Outcome(None, False, kept)
    try:
        after = Session(done.model, Level.NONE).run(feed)
    except ModelError as error:
        return Outcome(f"does not run any more: {error}", True, kept)
    wrong = [name for name in before if name not in after or differs(before[name], after[name])]
    return Outcome(f"outputs {wrong} differ" if wrong or list(before) != list(after) else None, True, kept)
