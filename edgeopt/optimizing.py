"""The verb that does it all: optimize, and its demonstration.

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

from edgeopt import recipe as recipes
from edgeopt.calibration import Dataset, open_dataset
from edgeopt.calibration.statistics import check_range
from edgeopt.decisions import AUTO, ORIGINAL, Decisions
from edgeopt.device import channel_block
from edgeopt.effort import EFFORTS
from edgeopt.files import Loaded
from edgeopt.graph import input_specs
from edgeopt.levers import Budget
from edgeopt.optimizer import Optimizer, Outcome
from edgeopt.output_folder import OutputFolder
from edgeopt.progress import Progress, silent
from edgeopt.recipe import Recipe
from edgeopt.report import device_part, head
from edgeopt.request import (
    Shapes,
    check_budgets,
    check_effort,
    check_seed,
    check_threads,
    finisher,
    host_device,
    open_model,
    overridable,
    scheme_of,
    shape_texts,
    untouched,
)
from edgeopt.result import Result

DEFAULTS: dict[str, Any] = {
    "device": "host",
    "max_drop": 0.01,
    "effort": "normal",
    "range": AUTO,
    "keep_float": [],
    "threads": 1,
    "seed": 0,
}
ASSETS = Path(__file__).resolve().parent / "assets"


def optimize(
    model: Any,
    *,
    calib: Any,
    output: str | Path | None = None,
    eval: Any = None,
    metric: str | None = None,
    device: str | Path | None = None,
    max_drop: float | None = None,
    max_latency_ms: float | None = None,
    max_memory_bytes: int | None = None,
    max_file_bytes: int | None = None,
    effort: str | None = None,
    keep_float: Sequence[str] | None = None,
    range: str | None = None,
    recipe: str | Path | None = None,
    input_shape: Shapes | None = None,
    fix_weights: bool | None = None,
    threads: int | None = None,
    seed: int | None = None,
    progress: Progress = silent,
) -> Result:
    """Pull every lever, measure, and ship the fastest model that keeps all budgets.

    What is given here goes before what the recipe says, and that before the defaults (device ``host``, max_drop
    0.01, effort ``normal``, range ``auto``, 1 thread, seed 0).

    Args:
        model: See the module.
        calib: Calibration data; labels are used only if ``eval`` is missing and they can be scored.
        output: Folder for model.onnx, report.json and recipe.toml; made if missing, its parents are not.
        eval: Data to score or compare on; ``calib`` if missing.
        metric: ``top1``, ``top5`` or ``module:function``, instead of what the data declares.
        device: Where to measure: ``host``.
        max_drop: Largest loss of score; without labels see "Without labels" in the README.
        max_latency_ms: Median latency on the device.
        max_memory_bytes: Measured peak of the runtime.
        max_file_bytes: Size of the model file.
        effort: ``fast``, ``normal`` or ``best``.
        keep_float: Names of nodes, or operator types, that stay float.
        range: How ranges are chosen: ``minmax``, ``moving-average``, ``percentile``, ``entropy``, ``mse``, or ``auto``:
            the one of them that leaves the least noise at the outputs.
        recipe: A recipe.toml: options, and decisions that are replayed instead of taken by measuring.
        input_shape: See the module.
        fix_weights: Take initializers off the list of the graph's inputs, so that nobody can override them.
        threads: See the module.
        seed: See the module.
        progress: See the module.

    Returns:
        The result; ``exit_code`` is 3 when a budget could not be met (the best model is there all the same).
    """
    given = {
        "device": str(device) if device is not None else None,
        "max_drop": max_drop,
        "max_latency_ms": max_latency_ms,
        "max_memory_bytes": max_memory_bytes,
        "max_file_bytes": max_file_bytes,
        "effort": effort,
        "range": range,
        "keep_float": list(keep_float) if keep_float is not None else None,
        "metric": metric,
        "input_shape": shape_texts(input_shape),
        "fix_weights": fix_weights,
        "threads": threads,
        "seed": seed,
    }
    replayed = recipes.read(Path(recipe)) if recipe is not None else Recipe()
    asked = DEFAULTS | replayed.options | {k: v for k, v in given.items() if v is not None}
    check_threads(asked["threads"])
    check_effort(asked["effort"])
    if asked["range"] != AUTO:
        check_range(asked["range"])
    check_seed(asked["seed"])
    check_budgets(asked)
    target = host_device(asked["device"])
    preset = replayed.preset or target.preset or target.name  # a replay quantizes as the first run did
    _, scheme = scheme_of(preset)
    folder = OutputFolder(Path(output)) if output is not None else None
    loaded = open_model(model, asked.get("input_shape"), bool(asked.get("fix_weights")))
    if folder is not None:
        folder.check(loaded.path)
    specs = input_specs(loaded.model)
    data = open_dataset(calib, specs, model=loaded.model, metric=asked.get("metric") if eval is None else None)
    judged = data
    if eval is not None:
        judged = open_dataset(eval, specs, model=loaded.model, metric=asked.get("metric"))
    if loaded.untouchable:
        result = untouched(loaded)
        result.recipe = Recipe(asked, Decisions(ORIGINAL), loaded.sha256, preset)
    else:
        run = Optimizer(
            loaded,
            data,
            judged,
            scheme,
            Budget(
                asked["max_drop"],
                asked.get("max_latency_ms"),
                asked.get("max_memory_bytes"),
                asked.get("max_file_bytes"),
            ),
            EFFORTS[asked["effort"]],
            ranges=asked["range"],
            keep_float=frozenset(asked["keep_float"]),
            threads=asked["threads"],
            seed=asked["seed"],
            block=channel_block(),
            replayed=replayed.decisions,
            target=target.name,
            finish=finisher(loaded, "optimize"),
            save=folder.save_model if folder is not None else lambda _: None,
            progress=progress,
        )
        outcome = run.run()
        result = _optimized(loaded, outcome, asked, data, judged, preset)
        result.report["device"] = device_part(target.name, asked["threads"])
        result.report["warnings"] += overridable(loaded)
        if replayed.model_sha256 and replayed.model_sha256 != loaded.sha256:
            result.report["warnings"].append("the recipe's decisions were taken for another model")
    if folder is not None:
        progress("writing")
        folder.finish(result)
    return result


def _optimized(
    loaded: Loaded, outcome: Outcome, asked: dict[str, Any], data: Dataset, judged: Dataset, preset: str
) -> Result:
    """Put the outcome into a result."""
    shipped, missed = outcome.shipped, outcome.solution.missed
    verdict = "ok"
    if missed:
        verdict = "budget missed: " + ", ".join(missed)
    elif shipped.choice == ORIGINAL:
        verdict = "unchanged"
    report = head(loaded) | outcome.parts
    report |= {
        "calibration": data.description,
        "evaluation": judged.description,
        "choice": shipped.choice,
        "decisions": shipped.decisions.as_table(),
        "verdict": verdict,
        "warnings": [*data.warnings, *(w for w in judged.warnings if w not in data.warnings), *outcome.warnings],
    }
    recipe = Recipe(asked, shipped.decisions, loaded.sha256, preset)
    same = shipped.choice == ORIGINAL
    return Result(shipped.model, report, 3 if missed else 0, recipe, unchanged=same, _loaded=loaded)


def demo(
    *, output: str | Path | None = None, effort: str = "normal", threads: int = 1, progress: Progress = silent
) -> Result:
    """Optimize the embedded example (a small CNN for handwritten digits) end to end.

    Args:
        output: Folder for the results; nothing is written if missing.
        effort: As in ``optimize``.
        threads: See the module.
        progress: See the module.
    """
    return optimize(
        ASSETS / "digits.onnx",
        calib=ASSETS / "digits_calib.toml",
        eval=ASSETS / "digits_eval.toml",
        output=output,
        effort=effort,
        threads=threads,
        progress=progress,
    )
