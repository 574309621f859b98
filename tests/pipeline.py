"""The whole exact pipeline on one model, and a judge of the result that shares no code with the oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from edgeopt import files, saving
from edgeopt.oracle import Oracle
from edgeopt.simplifier import Simplified, simplify

Array = np.ndarray[Any, np.dtype[Any]]
LEVELS = (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
TOLERANCE = {2: 2e-2, 4: 1e-4, 8: 1e-9}
"""Of the largest finite element, by bytes of the float type."""
NOISE_FACTOR = 4.0
INT8_SHARE = 0.05
_SMALLEST_SCALE = 1e-6


def simplified(proto: onnx.ModelProto) -> Simplified:
    """The model through ``EXACT``, verified."""
    found = files.load(proto)
    return simplify(found.model, Oracle(found.model), checker_clean=found.checker_error is None)


def problems(proto: onnx.ModelProto, done: Simplified) -> list[str]:
    """What is wrong without running anything: places rolled back, the interface, the checker."""
    found = [f"{r.name} rolled back {s.node!r}: {s.reason}" for r in done.passes for s in r.rolled_back]
    found += done.warnings
    after = saving.to_proto(done.model)
    found += [f"{what}: {a} became {b}" for what, a, b in _interface(proto, after) if a != b]
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return found
    try:
        onnx.checker.check_model(after, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        found.append(f"the checker refuses the result: {error}")
    return found


def _interface(a: onnx.ModelProto, b: onnx.ModelProto) -> list[tuple[str, list[str], list[str]]]:
    """Inputs and outputs with their types; of an output without a stated shape, name and element type only."""
    rows = []
    stored = {t.name for t in a.graph.initializer} if a.ir_version < 4 else set()  # had to be inputs, and were none
    for what in ("input", "output"):
        before, after = ([v for v in getattr(m.graph, what) if v.name not in stored] for m in (a, b))
        rows.append((what, [v.name for v in before], [v.name for v in after]))
        for v, w in zip(before, after, strict=False):
            rows.append((f"{what} {v.name}", [_text(v, True)], [_text(w, _has_shape(v))]))
    rows.append(("opsets", _opsets(a), _opsets(b)))
    return rows


def _opsets(model: onnx.ModelProto) -> list[str]:
    return sorted(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.HasField("shape") if value.type.HasField("tensor_type") else True


def _text(value: onnx.ValueInfoProto, with_shape: bool) -> str:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return value.type.WhichOneof("value") or ""
    dims = [d.dim_param or (d.dim_value if d.HasField("dim_value") else "?") for d in kind.shape.dim]
    return f"{onnx.TensorProto.DataType.Name(kind.elem_type)} {dims if with_shape and _has_shape(value) else 'any'}"


def feeds(proto: onnx.ModelProto, sizes: Sequence[int] = (1, 3, 2), seed: int = 7) -> list[dict[str, Array]]:
    """One random feed per size: that of symbolic dimensions that are a first axis somewhere; others are larger by 8."""
    found = []
    stored = {t.name for t in proto.graph.initializer}
    dims = [v.type.tensor_type.shape.dim for v in proto.graph.input]
    batches = {d[0].dim_param for d in dims if d}
    for k, size in enumerate(sizes):
        rng = np.random.default_rng([seed, k])
        feed: dict[str, Array] = {}
        for value in proto.graph.input:
            if value.name in stored:
                continue
            kind = value.type.tensor_type
            shape = []
            for d in kind.shape.dim:
                known = d.HasField("dim_value") and d.dim_value >= 0
                shape.append(d.dim_value if known else size if d.dim_param in batches else size + 8)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if dtype.kind == "b":
                array: Any = rng.integers(0, 2, shape)
            elif dtype.kind in "iu":
                array = rng.integers(1, 5, shape)
            else:
                array = rng.standard_normal(shape) * (1 + 2 * k)
            feed[value.name] = np.asarray(array).astype(dtype)
        found.append(feed)
    return found


def run(proto: onnx.ModelProto, feed: Mapping[str, Array], level: Any) -> dict[str, Any]:
    """Outputs by name; whatever onnxruntime raises."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    data = proto.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feed)), strict=True))


def distance(a: Any, b: Any, allowed: float = 0.0) -> str | None:
    """How two values differ, or None: types, shapes, NaN and infinities in place, the rest within TOLERANCE.

    ``allowed``: an absolute error that is none.
    """
    if isinstance(a, list) or isinstance(b, list):
        if not (isinstance(a, list) and isinstance(b, list) and len(a) == len(b)):
            return "another sequence"
        return next((d for x, y in zip(a, b, strict=True) if (d := distance(x, y)) is not None), None)
    x, y = np.asarray(a), np.asarray(b)
    if (x.dtype, x.shape) != (y.dtype, y.shape):
        return f"{x.dtype}{list(x.shape)} became {y.dtype}{list(y.shape)}"
    if x.dtype.kind not in "fV":
        return None if np.array_equal(x, y) else f"{int(np.sum(x != y))} of {x.size} elements differ"
    tolerance = TOLERANCE.get(x.dtype.itemsize, 1e-4)
    x, y = x.astype(np.float64), y.astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    if not ((x == y) | (np.isnan(x) & np.isnan(y)) | finite).all():
        return "NaN or infinity in other places"
    scale = float(np.abs(x[finite]).max(initial=_SMALLEST_SCALE))
    error = float(np.abs(x[finite] - y[finite]).max(initial=0))
    return f"differs by {error / scale:.2g} of its scale" if error > max(tolerance * scale, allowed) else None


def noise(proto: onnx.ModelProto, feed: Mapping[str, Array], wanted: Mapping[str, Any]) -> dict[str, float]:
    """How far each output moves when floats of the feed and of the stored weights move by their last bit.

    At least by the last bit of 1: what lies in between is of that size.
    """
    kinds = {n: np.asarray(v).dtype for n, v in wanted.items() if not isinstance(v, list)}
    found = {n: float(np.finfo(kinds[n]).eps) if n in kinds and kinds[n].kind == "f" else 0.0 for n in wanted}
    for seed in range(3):
        rng = np.random.default_rng(seed)

        def moved(array: Array, rng: np.random.Generator = rng) -> Array:
            if array.dtype.kind != "f":
                return array
            factor = 1 + rng.uniform(-1, 1, array.shape) * np.finfo(array.dtype).eps
            return np.asarray((array.astype(np.float64) * factor).astype(array.dtype))

        other = onnx.ModelProto()
        other.CopyFrom(proto)
        for tensor in other.graph.initializer:
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved(onnx.numpy_helper.to_array(tensor)), tensor.name))
        try:
            values = run(other, {n: moved(a) for n, a in feed.items()}, LEVELS[0])
        except Exception:  # noqa: BLE001 -- the scales of a Resize give other sizes, say
            continue
        for name, value in values.items():
            a, b = np.asarray(wanted[name]), np.asarray(value)
            if a.dtype.kind == "f" and a.shape == b.shape:
                finite = np.isfinite(a) & np.isfinite(b)
                error = np.abs(a[finite].astype(np.float64) - b[finite]).max(initial=0)
                found[name] = max(found[name], float(error))
    return found


def differences(a: onnx.ModelProto, b: onnx.ModelProto, given: Sequence[Mapping[str, Array]]) -> list[str]:
    """Where the outputs of ``b`` are not those of ``a`` without optimizations, at either level.

    ``a`` must run on each feed. Where onnxruntime's own optimizations spoil ``a`` itself, ``b`` may fail too. They
    quantize activations before a weight of int8, where they recognize one: then ``b`` is not judged to the last digit.
    """
    found = []
    int8 = any(n.op_type == "DequantizeLinear" for n in all_nodes(b))
    for k, feed in enumerate(given):
        wanted = run(a, feed, LEVELS[0])
        for level in LEVELS:
            why = _difference(b, feed, level, wanted)
            if why is not None and "of its scale" in why:  # what cancels to nothing is rounding
                allowed = {n: NOISE_FACTOR * e for n, e in noise(a, feed, wanted).items()}
                if int8 and level != LEVELS[0]:
                    allowed = {n: max(e, INT8_SHARE * _scale(wanted[n])) for n, e in allowed.items()}
                why = _difference(b, feed, level, wanted, allowed)
            if why is not None and (level == LEVELS[0] or _difference(a, feed, level, wanted) is None):
                found.append(f"feed {k}, {level.name}: {why}")
    return found


def _scale(value: Any) -> float:
    array = np.asarray(value)
    return float(np.abs(array[np.isfinite(array)]).max(initial=0)) if array.dtype.kind == "f" else 0.0


def _difference(
    model: onnx.ModelProto,
    feed: Mapping[str, Array],
    level: Any,
    wanted: Mapping[str, Any],
    allowed: Mapping[str, float] | None = None,
) -> str | None:
    try:
        values = run(model, feed, level)
    except Exception as error:  # noqa: BLE001 -- onnxruntime raises many kinds
        return f"does not run: {error}"[:300]
    if list(values) != list(wanted):
        return f"outputs {list(values)} instead of {list(wanted)}"
    reasons = ((name, distance(value, values[name], (allowed or {}).get(name, 0.0))) for name, value in wanted.items())
    return next((f"output {name!r} {why}" for name, why in reasons if why is not None), None)


def all_nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes of all graphs, bodies and local functions included."""
    top = [*proto.graph.node, *(n for f in proto.functions for n in f.node)]
    return [m for n in top for m in (n, *inner_nodes(n))]


def missed(proto: onnx.ModelProto, goal: str) -> list[str]:
    """The demands that the model does not meet.

    Args:
        proto: The model.
        goal: Demands, separated by ``; ``: ``no Op``, ``has Op``, ``N Op`` (exactly) and ``N nodes``: at most N,
            those of bodies, of local functions and Constant nodes included.
    """
    found = [node.op_type for node in all_nodes(proto)]
    lacking = []
    for demand in filter(None, goal.split("; ")):
        word, name = demand.split()
        if name == "nodes":
            kept = len(found) <= int(word)
        elif word.isdecimal():
            kept = found.count(name) == int(word)
        else:
            assert word in ("no", "has")
            kept = (name in found) == (word == "has")
        if not kept:
            lacking.append(f"{demand}: {' '.join(found)}")
    return lacking


def inner_nodes(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes of the node's bodies, at any depth."""
    found = []
    for attribute in node.attribute:
        for body in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs):
            found += [m for n in body.node for m in (n, *inner_nodes(n))]
    return found
