"""Run the two versions of rewritten places side by side, on random inputs, cut out of their graph.

All places of one pass go into one check model (in chunks), so that a pass costs two sessions rather than two
per place. A place passes when each output agrees within the bound of its element type, per channel
(``parity.channel_errors``), or when each channel of the new version is at most 4 times as far from a float64
evaluation (ONNX's reference implementation) as that of the old one, or as that evaluation moves when its inputs and
constants move by half of their last bit (where ONNX has no kernel: as onnxruntime's results move): rounding alone may
exceed the bound where values cancel. A folded constant is compared element by element: same kernels, same bits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from edgeopt.errors import ModelError
from edgeopt.feeds import random_array
from edgeopt.graph import STANDARD_DOMAINS, Array, dims_of, dtype_of, shapes_with
from edgeopt.parity import channel_errors, channel_shares, exact_bound, float_channel_errors, is_float, machine_epsilon
from edgeopt.protos import rename_bodies
from edgeopt.rewrite import Case
from edgeopt.runtime import Level, Session, as_array

_CHUNK_ELEMENTS = 8_000_000
_CHUNK_BYTES = 200_000_000
_BATCH_SIZE = 2  # for an open first axis
_OTHER_SIZE = 16  # for other open axes: larger than usual kernels; each further symbol is one more
_MAGNITUDES = (1.0, 30.0, 0.0)  # the second reaches clips and saturations that N(0, 1) does not; 0 / 0 and the like
_FLOAT64_FACTOR = 4.0
_NOISE_DRAWS = 3
_SIZES = (ir.DataType.INT32, ir.DataType.INT64)


@dataclass
class Verdict:
    """Outcome of the side-by-side runs, by anchor."""

    failed: dict[str, str] = field(default_factory=dict)
    unchecked: dict[str, str] = field(default_factory=dict)
    max_abs_error: float = 0.0


def check(cases: Sequence[Case], model: ir.Model, seed: int = 0) -> Verdict:
    """Check every case; ``model`` lends its opset imports and IR version."""
    verdict = Verdict()
    rng = np.random.default_rng(seed)
    ready: list[tuple[Case, dict[str, tuple[np.dtype[Any], tuple[int, ...]]]]] = []
    for case in cases:
        if not case.outputs:
            continue
        shapes = _input_shapes(case)
        if isinstance(shapes, str):
            verdict.unchecked[case.anchor] = case.uncheckable or shapes
        else:
            ready.append((case, shapes))
    for chunk in _chunks(ready):
        feeds = [
            [{n: _scaled(random_array(rng, *s), m) for n, s in shapes.items()} for _, shapes in chunk]
            for m in _MAGNITUDES
        ]
        try:
            results = _run_chunk([c for c, _ in chunk], feeds, model)
        except ModelError:
            results = []
        for k, (case, _) in enumerate(chunk):
            try:
                alone = results or _run_chunk([case], [[f[k]] for f in feeds], model)
            except ModelError as error:
                _by_reference_only(case, [f[k] for f in feeds], model, verdict, str(error))
                continue
            outputs = [r[k if results else 0] for r in alone]
            _judge(case, outputs, [f[k] for f in feeds], model, verdict)
    return verdict


def _scaled(array: Array, magnitude: float) -> Array:
    return np.asarray(array * magnitude, array.dtype) if is_float(array.dtype) else array


def _input_shapes(case: Case) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]] | str:
    """Concrete type and shape for each input of a case, or why there is none."""
    if case.uncheckable:
        return case.uncheckable
    shapes = {}
    symbols: dict[str, int] = {}
    for sizes in case.sizes.values():
        if sizes and isinstance(batch := sizes[0].symbol, str):
            symbols.setdefault(batch, _BATCH_SIZE)
    for name, value in case.inputs.items():
        dtype, dims = dtype_of(value), dims_of(value)
        if name in case.sizes:
            found = [
                size.value(lambda s: symbols.setdefault(s, _OTHER_SIZE + 8 * len(symbols))) for size in case.sizes[name]
            ]
            if any(d.denominator != 1 or d < 1 for d in found):
                return f"no sizes are known for which {value.name!r} is not empty"
            dims = tuple(int(d) for d in found)
        if dtype is None or dims is None:
            return f"the type or rank of {value.name!r} is unknown"
        for axis, dim in enumerate(dims):
            if isinstance(dim, str):  # distinct sizes, so that a rewrite that mistakes one for another shows
                symbols.setdefault(dim, _OTHER_SIZE + len(symbols) if axis else _BATCH_SIZE)
        dims = dims if not dims or dims[0] is not None else (_BATCH_SIZE, *dims[1:])
        shapes[name] = (dtype, shapes_with(dims, symbols, _OTHER_SIZE))
    return shapes


def _chunks(ready: Sequence[tuple[Case, Any]]) -> Iterator[list[tuple[Case, Any]]]:
    chunk: list[tuple[Case, Any]] = []
    elements = size = 0
    for case, shapes in ready:
        cost = sum(math.prod(s) for _, s in shapes.values()) * 2 + 1
        weight = sum(t.nbytes for t in case.constants.values())
        if chunk and (elements + cost > _CHUNK_ELEMENTS or size + weight > _CHUNK_BYTES):
            yield chunk
            chunk, elements, size = [], 0, 0
        chunk.append((case, shapes))
        elements += cost
        size += weight
    if chunk:
        yield chunk


def _renamed(node: onnx.NodeProto, prefix: str, name: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.input[:], copy.output[:]
    copy.input.extend(prefix + n if n else "" for n in node.input)
    copy.output.extend(prefix + n if n else "" for n in node.output)
    copy.name = name
    rename_bodies(copy, lambda name: prefix + name)
    return copy


def _as_model(nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto, model: ir.Model) -> onnx.ModelProto:
    graph.name = "check"
    graph.node.extend(nodes)
    proto = onnx.ModelProto(ir_version=max(model.ir_version, 4), graph=graph)
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    if any(n.domain not in STANDARD_DOMAINS for n in nodes):
        proto.functions.extend(ir.serde.serialize_function(f) for f in model.functions.values())
    return proto


def _trusted_batchnorm(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Evaluate BatchNormalization as of opset 15: onnx's reference takes the one of opsets 9 to 13 for training.

    Inference means the same in all of them, and so do the layers that it is folded into.
    """
    normalizations = [n for n in proto.graph.node if n.op_type == "BatchNormalization"]
    for node in normalizations:
        for attribute in [a for a in node.attribute if a.name not in ("epsilon", "momentum", "training_mode")]:
            node.attribute.remove(attribute)  # is_test, spatial: gone from later opsets
    if normalizations:
        for imported in proto.opset_import:
            if imported.domain in STANDARD_DOMAINS:
                imported.version = max(imported.version, 15)
    return proto


def _run_chunk(
    cases: Sequence[Case], feeds: Sequence[Sequence[Mapping[str, Array]]], model: ir.Model
) -> list[list[list[tuple[Array, Array]]]]:
    """For each feed (one mapping per case), for each case its pairs (before, after), one per output."""
    graph = onnx.GraphProto()
    nodes: list[onnx.NodeProto] = []
    for k, (case, values) in enumerate(zip(cases, feeds[0], strict=True)):
        prefix = f"{k}/"
        for name, tensor in case.constants.items():
            proto = ir.serde.serialize_tensor(_inline(tensor))
            proto.name = prefix + name
            graph.initializer.append(proto)
        for name, array in values.items():
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            graph.input.append(onnx.helper.make_tensor_value_info(prefix + name, kind, array.shape))
        for side, members in (("before", case.before), ("after", case.after)):
            nodes += [_renamed(n, prefix, f"{prefix}{side}/{j}") for j, n in enumerate(members)]
        for j, (old, new) in enumerate(case.outputs):
            for side, name in (("old", old), ("new", new)):
                out = f"{prefix}{side}{j}"
                nodes.append(onnx.helper.make_node("Identity", [prefix + name], [out], name=out))
                graph.output.append(onnx.ValueInfoProto(name=out))
    session = Session(_as_model(nodes, graph, model).SerializeToString(), Level.NONE)
    runs = []
    for chosen in feeds:
        found = session.run({f"{k}/{name}": a for k, values in enumerate(chosen) for name, a in values.items()})
        given = {name: a for name, value in found.items() if (a := as_array(value)) is not None}
        if len(given) < len(found):
            raise ModelError("an output is no tensor")
        runs.append(
            [
                [(given[f"{k}/old{j}"], given[f"{k}/new{j}"]) for j in range(len(case.outputs))]
                for k, case in enumerate(cases)
            ]
        )
    return runs


def _inline(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """External tensors are read: the check model has no folder."""
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype) if isinstance(tensor, ir.ExternalTensor) else tensor


def _judge(
    case: Case,
    runs: Sequence[Sequence[tuple[Array, Array]]],
    feeds: Sequence[Mapping[str, Array]],
    model: ir.Model,
    verdict: Verdict,
) -> None:
    by_element = not case.inputs and all(n.op_type in ("Constant", "Identity") for n in case.after)  # a folded constant
    for pairs, feed in zip(runs, feeds, strict=True):
        exact: list[Array] | None = None
        for j, (old, new) in enumerate(pairs):
            absolute, relative = channel_errors(old, new, by_element=by_element)
            bound = exact_bound(old.dtype)
            if relative <= bound:
                verdict.max_abs_error = max(verdict.max_abs_error, absolute)
                continue
            text = f"output differs by {relative:.3g} of its channel's scale, the bound is {bound:g}"
            if math.isfinite(relative):
                exact = exact or _reference(case.before, [o for o, _ in case.outputs], case, feed, model)
                if exact is None and not by_element:
                    shares = channel_shares(old.astype(np.float64), new.astype(np.float64))
                    if _within(shares, _noise_as_run(old, j, case, feed, model), bound):
                        verdict.max_abs_error = max(verdict.max_abs_error, absolute)
                        continue
                if exact is not None and exact[j].shape == old.shape:
                    shares_old = channel_shares(exact[j], old.astype(np.float64), by_element=by_element)
                    shares_new = channel_shares(exact[j], new.astype(np.float64), by_element=by_element)
                    if _within(shares_new, shares_old, bound) or (
                        not by_element and _within(shares_new, _noise(exact[j], j, case, feed, model), bound)
                    ):
                        verdict.max_abs_error = max(verdict.max_abs_error, absolute)
                        continue
                    text += f"; a channel is {max(s.max() for s in shares_new):.3g} away from float64"
            verdict.failed[case.anchor] = text
            return


def _within(shares: Sequence[Array], noise: Sequence[Array], bound: float) -> bool:
    return bool(noise) and all(
        (s <= np.maximum(_FLOAT64_FACTOR * n, bound)).all() for s, n in zip(shares, noise, strict=True)
    )


def _noise(exact: Array, j: int, case: Case, feed: Mapping[str, Array], model: ir.Model) -> list[Array]:
    """How far each channel of output ``j`` moves with the last bit of what it is computed from; [] if unknown."""
    rng = np.random.default_rng(0)
    found: list[list[Array]] = []
    for _ in range(_NOISE_DRAWS):
        moved = _reference(case.before, [o for o, _ in case.outputs], case, feed, model, rng)
        if moved is None or moved[j].shape != exact.shape:
            return []
        found.append(list(channel_shares(exact, moved[j])))
    return [np.maximum.reduce(shares) for shares in zip(*found, strict=True)]


def _noise_as_run(old: Array, j: int, case: Case, feed: Mapping[str, Array], model: ir.Model) -> list[Array]:
    """The same by onnxruntime, for what the reference implementation lacks."""
    rng = np.random.default_rng(0)
    found: list[list[Array]] = []
    for _ in range(_NOISE_DRAWS):
        constants: dict[str, ir.TensorProtocol] = {
            n: ir.Tensor(_moved(np.asarray(t.numpy()), rng), dtype=t.dtype) for n, t in case.constants.items()
        }
        moved = replace(case, constants=constants)
        try:
            pairs = _run_chunk([moved], [[{n: _moved(a, rng) for n, a in feed.items()}]], model)[0][0]
        except ModelError:
            return []
        found.append(list(channel_shares(old.astype(np.float64), pairs[j][0].astype(np.float64))))
    return [np.maximum.reduce(shares) for shares in zip(*found, strict=True)]


def _moved(array: Array, rng: np.random.Generator) -> Array:
    """Floats moved by up to one unit in the last place."""
    if not is_float(array.dtype):
        return array
    wide = array.astype(np.float64)
    step = machine_epsilon(array.dtype)
    return np.asarray(wide * (1 + rng.uniform(-step, step, wide.shape))).astype(array.dtype)


def _guessed(case: Case) -> bool:
    """Whether sizes were assumed: those of its inputs, or integers that may be sizes."""
    values = case.inputs.values()
    return any(v.dtype in _SIZES or not all(isinstance(d, int) for d in dims_of(v) or (None,)) for v in values)


def _by_reference_only(
    case: Case, feeds: Sequence[Mapping[str, Array]], model: ir.Model, verdict: Verdict, why: str
) -> None:
    """onnxruntime cannot run the cut-out (float16 kernels, say): compare both versions in float64."""
    for feed in feeds:
        old = _reference(case.before, [o for o, _ in case.outputs], case, feed, model)
        new = _reference(case.after, [n for _, n in case.outputs], case, feed, model)
        misfit = old is not None and new is not None and [a.shape for a in old] != [b.shape for b in new]
        if old is None or new is None or (misfit and _guessed(case)):  # the runtime refused sizes that cannot be
            verdict.unchecked[case.anchor] = why
            return
        for a, b in zip(old, new, strict=True):
            bounds = [exact_bound(t.dtype.numpy()) for t in case.constants.values() if t.dtype.is_floating_point()]
            absolute, relative = float_channel_errors(a, b) if a.shape == b.shape else (math.inf, math.inf)
            if relative > max(bounds, default=exact_bound(np.dtype(np.float32))):
                verdict.failed[case.anchor] = f"output differs by {relative:.3g} of its channel's scale in float64"
                return
            verdict.max_abs_error = max(verdict.max_abs_error, absolute)


def _reference(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str],
    case: Case,
    feed: Mapping[str, Array],
    model: ir.Model,
    rng: np.random.Generator | None = None,
) -> list[Array] | None:
    """Evaluate in float64 with ONNX's reference implementation; None if it cannot.

    With ``rng``, all inputs and constants are moved by up to half of their last bit.
    """

    def widened(array: Array) -> Array:
        if not is_float(array.dtype):
            return array
        wide = array.astype(np.float64)
        if rng is not None:
            wide = wide * (1 + rng.uniform(-0.5, 0.5, wide.shape) * machine_epsilon(array.dtype))
        return np.asarray(wide)

    values = {n: widened(np.asarray(t.numpy())) for n, t in case.constants.items()}
    values |= {n: widened(a) for n, a in feed.items()}
    graph = onnx.GraphProto()
    for name in values:
        graph.input.append(onnx.ValueInfoProto(name=name))
    for name in outputs:
        graph.output.append(onnx.ValueInfoProto(name=name))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            proto = _trusted_batchnorm(_as_model(nodes, graph, model))
            found = onnx.reference.ReferenceEvaluator(proto).run(list(outputs), values)
        return [np.asarray(f).astype(np.float64) for f in found]
    except Exception:  # noqa: BLE001 -- a missing or failing reference kernel only costs the second opinion
        return None
