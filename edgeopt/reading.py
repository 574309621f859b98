"""The verbs that look at models: inspect, profile, compare.

Parameters that all verbs share: ``model`` is a path, bytes, ``onnx.ModelProto`` or ``onnx_ir.Model`` and is never
mutated; ``input_shape`` fixes dynamic dimensions, as ``{"name": (1, 3, 224, 224)}`` or ``["name=1,3,224,224"]``;
``threads`` are onnxruntime's intra-op threads; ``seed`` is that of random inputs; ``progress`` is called with a
line of text at each step. Every verb may raise ModelError (the model), UsageError (a parameter) and, where it
takes data, DataError.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeopt import latency, memory, node_times
from edgeopt.calibration import open_dataset
from edgeopt.errors import UsageError
from edgeopt.evaluation import compare as compare_sessions
from edgeopt.evaluation import output_json
from edgeopt.feeds import runnable_feed
from edgeopt.findings import findings
from edgeopt.graph import input_specs, op_histogram, output_specs
from edgeopt.node_order import reorder
from edgeopt.progress import Progress, counting, silent
from edgeopt.report import device_part, head, size_part
from edgeopt.request import Shapes, check_seed, check_threads, host_device, open_model
from edgeopt.runtime import Session
from edgeopt.static_shapes import dims_of_feed

_MEASURE_S = 3.0


def inspect(model: Any, *, input_shape: Shapes | None = None) -> dict[str, Any]:
    """Operators, inputs, parameters, MACs, bytes, and what is odd or could be improved.

    Open dimensions are assumed for ``macs`` (N = 1, others listed in ``assumed_dims``).
    """
    loaded = open_model(model, input_shape)
    size = size_part(loaded.model, loaded.file_bytes)
    bound = memory.estimate(loaded.model)
    return {
        **head(loaded),
        **size,
        "activation_lower_bound_bytes": bound.activation_lower_bound_bytes,
        "ops": op_histogram(loaded.model),
        "inputs": [{"name": s.name, "type": s.describe()} for s in input_specs(loaded.model)],
        "outputs": [{"name": s.name, "type": s.describe()} for s in output_specs(loaded.model)],
        "findings": findings(loaded),
        "groups": [],
    }


def profile(
    model: Any,
    *,
    device: str | Path | Sequence[str | Path] = "host",
    data: Any = None,
    measure: bool = True,
    input_shape: Shapes | None = None,
    threads: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Latency and memory, whole and per node, on each device.

    Latency is measured interleaved with nothing else, after warm-up: median, p90 and the 90 % interval of the
    median. Node times are rescaled so that they add up to the un-profiled median. Memory is a lower bound from
    liveness, an arena plan, what another order of the nodes would need, and the measured peak of a fresh process.

    Args:
        model: See the module.
        device: One device or several. Only this machine (``host``) can be measured.
        data: A data set whose first sample is fed; random inputs if missing.
        measure: False leaves out what has to run the model: only sizes and modelled memory remain.
        input_shape: See the module.
        threads: See the module.
        seed: See the module.
        progress: See the module.
    """
    check_threads(threads)
    check_seed(seed)
    targets = [host_device(d) for d in ([device] if isinstance(device, str | Path) else device)]
    loaded = open_model(model, input_shape)
    specs = input_specs(loaded.model)
    result = head(loaded) | size_part(loaded.model, loaded.file_bytes)
    result["profiles"] = []
    given = None
    if data is not None:
        given = next(iter(open_dataset(data, specs, model=loaded.model))).inputs
    for target in targets:
        entry: dict[str, Any] = {"device": device_part(target.name, threads)}
        if measure:
            progress(f"measuring on {target.name}")
            feed = given if given is not None else runnable_feed(Session(loaded.model, threads=threads), specs, seed)
            used = memory.measure(loaded.model, feed, threads=threads)
            order = reorder(loaded.model, dims_of_feed(loaded.model, feed))
            found = latency.measure({"model": Session(loaded.model, threads=threads)}, feed, budget_s=_MEASURE_S)[
                "model"
            ]
            nodes = node_times.per_node(loaded.model, feed, found.median_ms, threads)
            entry |= {"latency_ms": found.as_json(), "memory": used.as_json(), "nodes": [n.as_json() for n in nodes]}
        else:
            order = reorder(loaded.model)
            entry["memory"] = memory.estimate(loaded.model).as_json()
        entry["memory"]["node_order"] = order.as_json()
        result["profiles"].append(entry)
    return result


def compare(
    a: Any,
    b: Any,
    *,
    data: Any,
    metric: str | None = None,
    limit: int | None = None,
    input_shape: Shapes | None = None,
    threads: int = 1,
    progress: Progress = silent,
) -> dict[str, Any]:
    """How well model ``b`` agrees with model ``a`` on data; with labels also the score of both.

    Outputs are matched by position, inputs by name, or by position where names differ. Figures that are infinite
    (equal outputs have no noise) are left out.

    Args:
        a: The reference; see the module.
        b: The other model.
        data: Anything that ``--data`` takes, prepared for ``a``.
        metric: ``top1``, ``top5`` or ``module:function``, instead of what the data declares.
        limit: Use the first so many samples only.
        input_shape: See the module; for both models.
        threads: See the module.
        progress: See the module.

    Raises:
        ModelError: the outputs differ in number or shape.
    """
    check_threads(threads)
    first, second = open_model(a, input_shape), open_model(b, input_shape)
    specs = input_specs(first.model)
    others = input_specs(second.model)
    if len(specs) != len(others):
        raise UsageError(f"the first model has {len(specs)} inputs, the second {len(others)}", where="compare")
    dataset = open_dataset(data, specs, metric=metric, limit=limit, model=first.model)
    advance = counting(progress, "comparing", len(dataset))
    sessions = Session(first.model, threads=threads), Session(second.model, threads=threads)
    found = compare_sessions(*sessions, dataset, advance)
    result: dict[str, Any] = {
        **head(first),
        "other": head(second)["model"],
        "data": dataset.description,
        "samples": found.agreement.samples,
        "outputs": {name: output_json(d) for name, d in found.agreement.outputs.items()},
        "warnings": dataset.warnings,
    }
    if found.agreement.top1_agreement is not None:
        result["top1_agreement"] = found.agreement.top1_agreement
    if found.agreement.expected_drop is not None:
        result["expected_drop"] = found.agreement.expected_drop
    if found.first is not None and found.second is not None:
        result |= {"score_a": found.first.as_json(), "score_b": found.second.as_json()}
    return result
