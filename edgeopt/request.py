"""Turns what a user passes to a verb (paths, shapes, names of devices, numbers) into what the verbs work on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgeopt import device as devices_
from edgeopt import files, saving, shapes
from edgeopt.device import Device
from edgeopt.effort import EFFORTS
from edgeopt.errors import DeviceError, UsageError
from edgeopt.files import Loaded
from edgeopt.oracle import PassReport
from edgeopt.quant import Scheme
from edgeopt.report import head, ratios_part, size_part, version
from edgeopt.result import Result

Shapes = Mapping[str, Sequence[int]] | Sequence[str]
_MOST_THREADS = 1024


def open_model(model: Any, input_shape: Shapes | None, fix_weights: bool = False) -> Loaded:
    """Load a model and fix its dynamic dimensions.

    ``fix_weights`` takes initializers off the list of the graph's inputs, so that nobody can override them.
    """
    loaded = files.load(model)
    if fix_weights:
        loaded = _with_fixed_weights(loaded)
    if not input_shape:
        return loaded
    if isinstance(input_shape, Mapping):
        pairs = [shapes.parse_shape(t) for t in shape_texts(input_shape) or ()]
    else:
        pairs = [shapes.parse_shape(t) for t in input_shape]
    wanted = dict(pairs)
    if len(wanted) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise UsageError("given twice", where=f"--input-shape {twice}")
    return replace(loaded, model=shapes.fix_dims(loaded.model.clone(), wanted), as_given=False, light=None)


def _with_fixed_weights(loaded: Loaded) -> Loaded:
    if loaded.untouchable or not any(v.is_initializer() for v in loaded.model.graph.inputs):
        return loaded
    model = loaded.model.clone()
    listed = [v for v in model.graph.inputs if v.is_initializer()]
    for value in listed:
        model.graph.inputs.remove(value)
    note = f"{len(listed)} initializers are no longer listed as inputs (--fix-weights)"
    return replace(loaded, model=model, as_given=False, light=None, repairs=(*loaded.repairs, note))


def overridable(loaded: Loaded) -> list[str]:
    """A warning if callers may override weights: neither edgeopt nor a runtime can then prepare them."""
    count = sum(v.is_initializer() for v in loaded.model.graph.inputs)
    if not count:
        return []
    return [
        f"{count} initializers are listed as inputs too, so that callers may override them: nothing is folded into "
        "them, and runtimes cannot prepare them; if nobody overrides them, --fix-weights makes them constants"
    ]


def host_device(name: str | Path) -> Device:
    """The device, which must be this machine: other targets cannot be measured from here.

    Raises:
        DeviceError: unknown, malformed, or another machine.
    """
    found = devices_.load(name)
    if found.kind != "host":
        raise DeviceError(
            f"{found.name!r} is a {found.kind}, and this command measures on the machine it runs on",
            where="--device",
            hint="use --device host",
        )
    return found


def scheme_of(name: str | Path) -> tuple[Device, Scheme]:
    """A device or integer-kernel preset, and the operand types that its kernels want.

    Raises:
        DeviceError: unknown, malformed, or without an integer preset.
    """
    found = devices_.load(name)
    q = found.quantization
    if q is None:
        raise DeviceError("states no integer preset, so nothing tells how to quantize for it", where=found.name)
    scheme = Scheme(q.activation_dtype, q.activation_symmetric, q.weight_dtype, q.weight_per_channel, q.weight_bits)
    return found, scheme


def shape_texts(shapes_: Shapes | None) -> list[str] | None:
    """Input shapes as the command line and recipes write them."""
    if shapes_ is None:
        return None
    if isinstance(shapes_, Mapping):
        return [f"{name}={','.join(map(str, d)) if isinstance(d, Iterable) else d}" for name, d in shapes_.items()]
    return list(shapes_)


def check_budgets(asked: Mapping[str, Any]) -> None:
    """Raise UsageError for a budget that makes no sense."""
    for name in ("max_drop", "max_latency_ms", "max_memory_bytes", "max_file_bytes"):
        value = asked.get(name)
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise UsageError(f"expected a number of at least 0, found {value!r}", where=f"--{name.replace('_', '-')}")


def check_effort(effort: str) -> None:
    """Raise UsageError for an unknown effort level."""
    if effort not in EFFORTS:
        raise UsageError(f"expected one of {', '.join(EFFORTS)}, found {effort!r}", where="--effort")


def check_threads(threads: int) -> None:
    """Raise UsageError for a number of threads that no machine has."""
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= _MOST_THREADS:
        raise UsageError(f"expected 1 to {_MOST_THREADS}, found {threads!r}", where="--threads")


def check_seed(seed: int) -> None:
    """Raise UsageError for a seed that random generators do not take."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise UsageError(f"expected a whole number from 0 to {2**32 - 1}, found {seed!r}", where="--seed")


def untouched(loaded: Loaded) -> Result:
    """The result for a model that the IR cannot carry: the original, with the reason."""
    size = size_part(loaded.model, loaded.file_bytes)
    warning = f"returned untouched: the model has a {loaded.untouchable}, which a rewrite would lose"
    report = head(loaded) | {
        "before": size,
        "after": size,
        "passes": [],
        "ratios": ratios_part(size, size, None),
        "verdict": "unchanged",
        "warnings": [warning],
    }
    return Result(loaded.model, report, unchanged=True, _loaded=loaded)


def finisher(loaded: Loaded, verb: str, passes: Sequence[PassReport] = ()) -> Callable[[ir.Model, str], ir.Model]:
    """A function that stamps metadata: which verb and version made the model, from what, and with which passes."""

    def finish(model: ir.Model, choice: str) -> ir.Model:
        done = {"version": version(), "verb": verb, "choice": choice, "source_sha256": loaded.sha256}
        hits = {p.name: len(p.hits) for p in passes if p.hits}
        saving.stamp(model, done | ({"passes": hits} if hits else {}))
        return model

    return finish
