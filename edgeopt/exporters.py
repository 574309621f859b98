"""Ways in and out of ONNX: a torch module to ONNX (here), ONNX to ``.ort`` (``ort_format``). Nothing leaves unchecked.

A torch module goes through ``torch.onnx.export``, the newer exporter first (``dynamo``), the older tracing one
(``torchscript``) where that fails. What comes out runs in onnxruntime beside the module itself; a result that
disagrees counts as a failure too (``export_check``).
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir

from edgeopt import files
from edgeopt.errors import CheckError, EdgeoptError, ModelError, UsageError
from edgeopt.export_check import DisagreementError, check_torch
from edgeopt.graph import Names, graphs, opset
from edgeopt.ort_format import to_ort
from edgeopt.parity import is_float
from edgeopt.runtime import Level, Session
from edgeopt.torch_modules import (
    Inputs,
    arrays,
    batch_size,
    bind,
    evaluating,
    import_torch,
    leaf_names,
    quiet,
    random_like,
    reason,
    resolve_torch,
)

__all__ = ["ExportCheck", "from_torch", "resolve_torch", "to_ort"]

Exporter = Literal["dynamo", "torchscript"]
BATCH_AXIS = "N"
_MIN_OPSET = 7


@dataclass(frozen=True)
class ExportCheck:
    """How an export was made and how well onnxruntime agrees with torch on it.

    Attributes:
        max_abs_error: Largest difference of any output element, over all samples.
        relative_error: Largest difference as a share of the scale (largest magnitude) of the output it is in.
        samples: How many input sets were compared.
        exporter: Which of torch's exporters made the model.
        opset: Version of the standard operator set that it uses.
        dynamic_batch: Whether the first axis is open (named ``N``).
        fallbacks: What was tried before, and why it was not good enough.
        cautions: What the tracing exporter warned of: decisions in Python that it took for the example, and that
            the model now takes for every input. Random inputs do not prove that they are right everywhere.
    """

    max_abs_error: float
    relative_error: float
    samples: int
    exporter: Exporter
    opset: int
    dynamic_batch: bool
    fallbacks: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For the report; ``fallbacks`` and ``cautions`` only if there are any."""
        result = asdict(self)
        for key in ("fallbacks", "cautions"):
            if texts := result.pop(key):
                result[key] = list(texts)
        return result


def from_torch(
    module: Any,
    example_inputs: Any,
    *,
    opset: int | None = None,
    dynamic_batch: bool = True,
    seed: int = 0,
) -> tuple[ir.Model, ExportCheck]:
    """Export a torch module in evaluation mode; its own mode is restored after.

    Args:
        module: The ``torch.nn.Module``.
        example_inputs: A tensor, a tuple or list of tensors (positional), or a dict of tensors (by name).
            Inputs of the model are named like ``forward``'s parameters, outputs ``output`` or ``output_0``, …, or
            by the keys of the dict that ``forward`` returns.
        opset: Version of the standard operator set; the exporter's own choice if None.
        dynamic_batch: Leave the first axis open, for every input whose first axis is as long as that of the
            first input. Where the module does not allow it, it stays fixed and ``fallbacks`` says why.
        seed: Of the random inputs it is compared on, besides the example (and with another batch size).

    Returns:
        The model, weights in memory, and how it was checked.

    Raises:
        UsageError: torch is missing, or the module, the inputs or the opset are none; the module fails on them.
        ModelError: neither exporter can export it.
        CheckError: an export was made, but none that computes what the module computes.
    """
    torch = import_torch()
    if opset is not None and not _MIN_OPSET <= opset <= onnx.defs.onnx_opset_version():
        raise UsageError(
            f"opset {opset} does not exist; expected {_MIN_OPSET} to {onnx.defs.onnx_opset_version()}", where="opset"
        )
    inputs = bind(torch, module, example_inputs)
    with evaluating(module), quiet(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        return _first_that_agrees(torch, module, inputs, opset, dynamic_batch, seed)


def _first_that_agrees(
    torch: Any, module: Any, example: Inputs, wanted_opset: int | None, dynamic_batch: bool, seed: int
) -> tuple[ir.Model, ExportCheck]:
    try:
        result = example.call(module)
        first, again = arrays(result), arrays(example.call(module))
    except EdgeoptError:
        raise
    except Exception as error:  # user code may raise anything
        raise UsageError(f"the module fails on its example inputs: {reason(error)}", where="module") from error
    if any(not np.array_equal(a, b, equal_nan=is_float(a.dtype)) for a, b in zip(first, again, strict=True)):
        raise CheckError(
            "the module gives another result each time, so no export can be compared with it",
            where="module",
            hint="does forward use random numbers in evaluation mode?",
        )
    batch = batch_size(example)
    names = {k for k, t in example.tensors.items() if t.ndim and int(t.shape[0]) == batch}
    attempts: list[tuple[Exporter, bool]] = [("dynamo", False), ("torchscript", False)]
    if dynamic_batch and batch is not None:
        attempts = [("dynamo", True), ("torchscript", True), *attempts]
    reasons: list[str] = []
    disagreed = False
    for exporter, dynamic in attempts:
        label = f"{exporter}, {'open' if dynamic else 'fixed'} batch"
        # A batch of one is a special case to the exporters, so an open axis is shown to them with two.
        shown = random_like(torch, example, batch, 2, seed) if dynamic and batch == 1 else example
        try:
            model, cautions = _export(torch, exporter, module, shown, wanted_opset, names if dynamic else set())
            session = Session(model, Level.NONE)
        except Exception as error:  # noqa: BLE001 -- neither torch's nor onnxruntime's errors have a common base
            reasons.append(f"{label}: {reason(error)}")
            continue
        try:
            absolute, relative, samples = check_torch(torch, module, example, session, batch if dynamic else None, seed)
        except (DisagreementError, ModelError) as error:
            disagreed = True
            reasons.append(f"{label}: {error}" + (f" (torch warned: {cautions[0]})" if cautions else ""))
            continue
        _name_outputs(model, leaf_names(result))
        version = opset(model)
        return model, ExportCheck(absolute, relative, samples, exporter, version, dynamic, tuple(reasons), cautions)
    failure = CheckError if disagreed else ModelError
    raise failure(
        "torch exports a model that does not compute the same" if disagreed else "torch cannot export the module",
        where="module",
        hint="what was tried: " + " | ".join(reasons),
    )


def _export(
    torch: Any, exporter: Exporter, module: Any, inputs: Inputs, wanted_opset: int | None, open_batch: set[str]
) -> tuple[ir.Model, tuple[str, ...]]:
    """One call of torch's exporter: the model, and what the tracer was not sure of.

    ``open_batch`` names the inputs whose first axis stays open.
    """
    names = list(inputs.tensors)
    open_axes = {name: {0: BATCH_AXIS} for name in names if name in open_batch}
    arguments: dict[str, Any] = {"input_names": names, "opset_version": wanted_opset, "verbose": False}
    if exporter == "dynamo":
        shapes = {name: open_axes.get(name) for name in names}
        arguments |= {"dynamo": True, "dynamic_shapes": None}
        if open_axes:
            arguments["dynamic_shapes"] = shapes if inputs.by_name else tuple(shapes.values())
        if inputs.by_name:
            arguments["kwargs"] = inputs.tensors
    else:
        arguments |= {"dynamo": False, "dynamic_axes": open_axes or None}
        module = _positional(torch, module, names) if inputs.by_name else module
    args = () if inputs.by_name and exporter == "dynamo" else tuple(inputs.tensors.values())
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        path = Path(folder) / "model.onnx"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.onnx.export(module, args, str(path), **arguments)
        model = ir.external_data.load_to_model(files.load(path).model)
    _forget_origin(model)
    if wanted_opset is not None and opset(model) != wanted_opset:
        raise ModelError(f"the exporter wrote opset {opset(model)}, {wanted_opset} was asked for")
    _fix_weights(model)
    if unknown := {v.name for v in model.graph.inputs} - set(names):
        raise ModelError(f"the exporter named inputs {sorted(map(str, unknown))}, expected {names}")
    unsure = [w for w in caught if issubclass(w.category, torch.jit.TracerWarning)]
    return model, tuple(dict.fromkeys(" ".join(str(w.message).split())[:200] for w in unsure))


def _positional(torch: Any, module: Any, names: list[str]) -> Any:
    """The same module taking its named arguments by position: the tracing exporter knows no others."""

    class Positional(torch.nn.Module):  # type: ignore[misc]  # torch is optional, so its type is Any
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Any) -> Any:
            return self.module(**dict(zip(names, tensors, strict=True)))

    return Positional().eval()


def _fix_weights(model: ir.Model) -> None:
    """Weights are constants: below opset 9 the exporter declares them as inputs that a caller may override."""
    for value in [v for v in model.graph.inputs if v.is_initializer()]:
        model.graph.inputs.remove(value)
        model.ir_version = max(model.ir_version, 4)  # before, every initializer had to be an input


def _name_outputs(model: ir.Model, names: list[str]) -> None:
    """The same names whichever exporter it was; an output that is an input or comes twice keeps its own."""
    taken = Names(model)
    renamed: set[int] = set()
    for value, name in zip(model.graph.outputs, names, strict=True):
        if value.name != name and value.producer() is not None and id(value) not in renamed:
            value.name = taken.fresh(name)
        renamed.add(id(value))


def _forget_origin(model: ir.Model) -> None:
    """Drop the exporter's notes: they hold stack traces with the paths of the user's machine."""
    holders: list[Any] = [model]
    for graph in graphs(model):
        holders += [graph, *graph.inputs, *graph.initializers.values()]
        for node in graph:
            holders += [node, *node.outputs]
    for holder in holders:
        holder.doc_string = None
        for key in [k for k in holder.metadata_props if k.startswith("pkg.")]:
            del holder.metadata_props[key]
