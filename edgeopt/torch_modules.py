"""The user's torch module and its example inputs: where they come from, under which names, how they run.

torch is an optional dependency: it is imported when a module is to be exported, and its objects are ``Any`` here.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.calibration import user_code
from edgeopt.errors import DataError, EdgeoptError, UsageError
from edgeopt.graph import Array

_EXAMPLE = "write net.py with `def export(): return Net(), torch.zeros(1, 3, 224, 224)` and give net:export"


@dataclass(frozen=True)
class Inputs:
    """Example inputs by name, in the order of ``forward``'s parameters."""

    tensors: dict[str, Any]
    by_name: bool

    def replaced(self, tensors: dict[str, Any]) -> Inputs:
        """Other tensors under the same names."""
        return Inputs(tensors, self.by_name)

    def call(self, module: Any) -> Any:
        """What the module returns for them."""
        return module(**self.tensors) if self.by_name else module(*self.tensors.values())


def import_torch() -> Any:
    """The torch package.

    Raises:
        UsageError: it is not installed, or does not load.
    """
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise UsageError(
            f"exporting a torch module needs torch, which cannot be imported: {error}",
            hint="pip install edgeopt[torch]",
        ) from error


def resolve_torch(spec: str) -> tuple[Any, Any]:
    """The module and its example inputs behind ``module:callable`` or ``file.py:callable``.

    The callable takes no arguments and returns ``(torch.nn.Module, example inputs)``; see ``from_torch`` for the
    inputs. The current folder is importable. What the user's code prints goes to stderr.

    Raises:
        UsageError: the spec, what it names, or what that returns is not usable.
    """
    torch = import_torch()
    folders = [Path.cwd()]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            function = user_code.load(spec, folders)
            with user_code.guarded(spec, folders):
                result = function()
    except DataError as error:
        raise UsageError(error.message, where=error.where, hint=error.hint or _EXAMPLE) from error
    if not isinstance(result, tuple) or len(result) != 2:
        found = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise UsageError(f"returned {found}, expected (module, example inputs)", where=spec, hint=_EXAMPLE)
    try:
        bind(torch, *result)
    except UsageError as error:
        where = f"{spec}: {error.where}"
        raise UsageError(error.message, where=where, hint=error.hint or _EXAMPLE) from error
    return result[0], result[1]


def bind(torch: Any, module: Any, given: Any) -> Inputs:
    """The example inputs under the names of ``forward``'s parameters, in their order.

    Raises:
        UsageError: no module, not tensors, or not those that ``forward`` takes.
    """
    if not isinstance(module, torch.nn.Module):
        kind = f"the class {module.__name__}" if isinstance(module, type) else f"a {type(module).__name__}"
        raise UsageError(
            f"expected a torch.nn.Module, found {kind}",
            where="module",
            hint="hand over an instance: Net(), not Net" if isinstance(module, type) else None,
        )
    if isinstance(given, torch.Tensor):
        given = (given,)
    if not isinstance(given, (tuple, list, dict)):
        raise UsageError(
            f"expected a tensor, a tuple or a dict of tensors, found a {type(given).__name__}", where="example inputs"
        )
    items = given.items() if isinstance(given, dict) else enumerate(given)
    for key, value in items:
        if not isinstance(value, torch.Tensor):
            raise UsageError(
                f"expected a tensor, found a {type(value).__name__}",
                where=f"example input {key!r}",
                hint="wrap the module in one that sets all other arguments itself",
            )
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(**given) if isinstance(given, dict) else signature.bind(*given)
    except TypeError as error:
        names = list(given) if isinstance(given, dict) else len(given)
        raise UsageError(f"forward{signature} does not take them ({names}): {error}", where="example inputs") from error
    tensors: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        if isinstance(value, tuple):
            tensors |= {f"{name}_{k}": v for k, v in enumerate(value)}
        else:
            tensors |= value if isinstance(value, dict) else {name: value}
    if not tensors:
        raise UsageError("there are none; a model without inputs computes a constant", where="example inputs")
    return Inputs(tensors, isinstance(given, dict))


@contextlib.contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Evaluation mode inside the block; after it, each part of the module is back in its own mode."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what torch (and ``forward``, once per run) prints, logs and warns of: stdout is for results."""
    sink = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def batch_size(inputs: Inputs) -> int | None:
    """Length of the first axis of the first input that has axes."""
    return next((int(t.shape[0]) for t in inputs.tensors.values() if t.ndim), None)


def random_like(
    torch: Any, example: Inputs, batch: int | None, size: int | None, seed: int, beyond: bool = False
) -> Inputs:
    """Random inputs within the range of the example (so that indices stay valid); ``batch`` becomes ``size``.

    ``beyond``: floats from N(0, 1) instead, whatever the example holds.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, tensor in example.tensors.items():
        array = array_of(tensor)
        open_axis = array.ndim and batch is not None and size is not None and array.shape[0] == batch
        shape = (size, *array.shape[1:]) if open_axis else array.shape
        low, high = (array.min(), array.max()) if array.size else (0, 0)
        values: Any
        if array.dtype.kind == "b":
            values = rng.integers(0, 2, shape)
        elif array.dtype.kind in "iu":
            values = rng.integers(int(low), int(high), shape, endpoint=True)
        elif not beyond and low < high and np.isfinite([low, high]).all():
            values = rng.uniform(float(low), float(high), shape)
        else:
            values = rng.standard_normal(shape)
        tensors[name] = torch.from_numpy(np.asarray(values).astype(array.dtype)).to(tensor.device)
    return example.replaced(tensors)


def leaves(value: Any) -> list[Any]:
    """Tensors of a nested result in order; None, which an optional output may be, is left out."""
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in leaves(item)]
    return [] if value is None else [value]


def leaf_names(value: Any, base: str = "output") -> list[str]:
    """A name for each of ``leaves``: keys of a dict, else ``output``, with the positions in tuples appended."""
    if isinstance(value, Mapping):
        return [name for key, item in value.items() for name in leaf_names(item, str(key))]
    if isinstance(value, (list, tuple)):
        return [name for k, item in enumerate(value) for name in leaf_names(item, f"{base}_{k}")]
    return [] if value is None else [base]


def arrays(result: Any) -> list[Array]:
    """The tensors of a module's result as arrays, in order."""
    return [array_of(leaf) for leaf in leaves(result)]


def array_of(value: Any) -> Array:
    """A tensor's values.

    Raises:
        UsageError: not a tensor, or of a type that numpy does not have.
    """
    if not hasattr(value, "detach"):
        raise UsageError(
            f"forward returns a {type(value).__name__}, expected tensors", where="module", hint="wrap the module"
        )
    try:
        return np.array(value.detach().cpu().numpy())
    except TypeError as error:
        raise UsageError(
            f"numpy has no counterpart of {value.dtype}", where="module", hint="convert the module and inputs: .float()"
        ) from error


def reason(error: BaseException) -> str:
    """Type and text of the innermost cause, which is where torch says what is the matter; shortened."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join((error.message if isinstance(error, EdgeoptError) else str(error)).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
