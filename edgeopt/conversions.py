"""Other versions of the operator set, and float16: conversions of a whole model, each compared with the source."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_ir as ir

from edgeopt import files, rewrite, shapes
from edgeopt.errors import CheckError, EdgeoptError, ModelError, UsageError
from edgeopt.feeds import runnable_feed
from edgeopt.files import Loaded
from edgeopt.graph import input_specs, opset, output_specs
from edgeopt.oracle import Oracle
from edgeopt.parity import Agreement
from edgeopt.passes.dead_code import DeadCode
from edgeopt.passes.float16 import Halved, round_to_float16, to_float16
from edgeopt.passes.inline_functions import InlineFunctions
from edgeopt.passes.remove_noops import RemoveNoops
from edgeopt.runtime import Level, Session

PRECISIONS = ("fp32", "fp16")
LOWEST_OPSET = 7
_SEEDS = 3
_CAUTION_DB = 40.0
_HINT = "simplify --opset folds layers first, which leaves less to convert"


@dataclass
class Converted:
    """A converted model, how it was checked, and what the user should know."""

    model: ir.Model
    check: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def check_opset(target: int) -> None:
    """Raise UsageError for a version of the operator set that no converter knows."""
    highest = onnx.defs.onnx_opset_version()
    if not isinstance(target, int) or isinstance(target, bool) or not LOWEST_OPSET <= target <= highest:
        raise UsageError(f"expected {LOWEST_OPSET} to {highest}, found {target!r}", where="--opset")


def to_opset(loaded: Loaded, model: ir.Model, target: int, *, seed: int = 0) -> Converted:
    """The model at another version of the standard operator set, up or down; itself (a copy) if it is there.

    ONNX's own converter does it; the result is compared with the source on random inputs, and must pass the ONNX
    checker where the source does.

    Args:
        loaded: The source: what to compare with.
        model: The source, or what was made of it; not mutated.
        target: The version.
        seed: Of random inputs.

    Raises:
        UsageError: no such version.
        ModelError: the converter knows no way, or the runtime refuses what it makes.
        CheckError: the result computes something else, or cannot be compared.
    """
    check_opset(target)
    current = opset(model)
    where = f"opset {current} → {target}"
    if current == target:
        return Converted(model.clone(), {"compared": f"nothing: the model is at opset {target}"})
    if loaded.untouchable:
        raise ModelError(f"cannot be converted: it would lose its {loaded.untouchable}", where=where)
    source = _without_functions(model)
    if source.functions:
        raise ModelError("cannot be converted: the model has local functions", where=where)
    if any(isinstance(v.const_value, ir.ExternalTensor) for v in source.graph.initializers.values()):
        raise ModelError("cannot be converted: the weights lie outside of the model file", where=where)
    try:
        message = onnx.version_converter.convert_version(ir.to_proto(source), target)
        message.ir_version = max(
            message.ir_version, onnx.helper.find_min_ir_version_for(message.opset_import, ignore_unknown=True)
        )
        result = files.load(message).model
    except EdgeoptError as error:
        raise ModelError(f"cannot be converted: {error.message}", where=where) from error
    except Exception as error:  # the converter raises RuntimeError, ValueError and its own ConvertError
        text = re.sub(r"^\S+:\d+: ", "", " ".join(str(error).split()))[:300]  # without the converter's source line
        raise ModelError(f"cannot be converted: {text}", where=where, hint=_HINT) from error
    result.metadata_props.update(model.metadata_props)  # the converter drops them
    if loaded.checker_error is None and (problem := files.checker_error(result)) is not None:
        raise ModelError(f"cannot be converted: the ONNX checker refuses the result: {problem}", where=where)
    if input_specs(result) != input_specs(loaded.model) or output_specs(result) != output_specs(loaded.model):
        raise CheckError("the conversion changes the inputs or outputs", where=where)
    oracle = Oracle(loaded.model, seed=seed)
    if oracle.problem is not None:
        raise CheckError(f"the conversion cannot be verified: {oracle.problem}", where=where)
    reason, worst = oracle.disagreement(result)
    if reason is not None:
        raise CheckError(f"the converted model is not the same: {reason}", where=where)
    return Converted(
        result, {"compared": "the converted model with the source, on random inputs", "max_abs_error": worst}
    )


def to_half(loaded: Loaded, model: ir.Model, keep_float: Collection[str] = (), *, seed: int = 0) -> Converted:
    """The model in float16, compared with the source on random inputs.

    Compared is what a target computes that rounds each value to float16: onnxruntime on a CPU does not.

    Args:
        loaded: The source: what to compare with.
        model: The source, or what was made of it; not mutated.
        keep_float: Names of nodes, or operator types, that stay float32.
        seed: Of random inputs.

    Raises:
        ModelError: there is nothing to convert, or the runtime refuses the result.
        CheckError: where the source gives numbers, the result gives none.
    """
    if loaded.untouchable:
        raise ModelError(f"cannot be converted to float16: it would lose its {loaded.untouchable}")
    result = shapes.infer(_without_functions(model))
    if result.functions:
        raise ModelError("cannot be converted to float16: it has local functions that cannot be inlined")
    found = to_float16(result, keep_float)
    if not found.converted:
        raise ModelError("cannot be converted to float16: no node computes in float32 that could")
    for rule in (RemoveNoops(), DeadCode()):
        rewrite.apply(rule, result, cases=False)
    shapes.forget_inferred(result, frozenset())
    if loaded.checker_error is None and (problem := files.checker_error(result)) is not None:
        raise ModelError(f"cannot be converted to float16: the ONNX checker refuses the result: {problem}")
    Session(result).run(runnable_feed(Session(loaded.model), input_specs(loaded.model), seed))  # it runs at all
    rounded = shapes.infer(_without_functions(model))
    round_to_float16(rounded, keep_float)
    agreement = _agreement(loaded.model, rounded, seed)
    check: dict[str, Any] = {
        "compared": "the source with all values rounded to float16, on random inputs",
        "samples": agreement.samples,
        "float16_nodes": found.converted,
        "casts": found.casts,
        "float_nodes": [{"node": n, "reason": r} for n, r in found.kept.items()],
    }
    floats = {s.name for s in output_specs(loaded.model) if s.dtype is not None and s.dtype.kind == "f"}
    judged = [d for name, d in agreement.outputs.items() if name in floats]
    if judged:
        check["max_abs_error"] = max(d.max_abs_error for d in judged)
        ratio = min(d.sqnr_db for d in judged)
        check |= {"sqnr_db": ratio} if math.isfinite(ratio) else {}
    return Converted(result, check, _cautions(found, check))


def _agreement(source: ir.Model, result: ir.Model, seed: int) -> Agreement:
    first, second = Session(source), Session(result, Level.NONE)
    agreement = Agreement()
    for k in range(_SEEDS):
        feed = runnable_feed(first, input_specs(source), seed + k)
        agreement.add(first.run(feed), second.run(feed))
    for name, difference in agreement.outputs.items():
        if not math.isfinite(difference.noise):
            raise CheckError(
                f"output {name!r} has infinite or undefined numbers in float16, where the source has none",
                where="--precision fp16",
                hint="a value passes 65504 on the way; name its node with --keep-float",
            )
    return agreement


def _cautions(found: Halved, check: dict[str, Any]) -> list[str]:
    cautions = [f"--keep-float {name}: no node and no operator type has that name" for name in found.unknown]
    held = [f"{n} ({r})" for n, r in found.kept.items() if "float16 loses" in r or "beyond" in r or "become 0" in r]
    if held:
        more = f" and {len(held) - 5} more" if len(held) > 5 else ""
        cautions.append(f"kept in float32 for their constants: {', '.join(held[:5])}{more}")
    if check.get("sqnr_db", math.inf) < _CAUTION_DB:
        cautions.append(f"the outputs are {check['sqnr_db']:.1f} dB from the source's: compare on real data")
    return cautions


def _without_functions(model: ir.Model) -> ir.Model:
    """A copy whose calls of local functions are inlined, where that can be."""
    result = model.clone()
    if result.functions:
        rewrite.apply(InlineFunctions(), result, cases=False)
    return result
