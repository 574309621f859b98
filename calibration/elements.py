"""What a source yields, brought into one form: inputs by name, and a label.

An element may be
  1. an array (numpy, a torch tensor, anything with ``.numpy()`` or ``__array__``), for a model with one input;
  2. a tuple or list with one entry per model input, in the model's order;
  3. the same with exactly one entry more: the last one is then the label;
  4. ``(inputs, label)`` where inputs is a dict, or a tuple of one entry per input;
  5. a dict by input name, with an optional ``labels`` or ``label``; with one model input and one entry beside
     the label, the entry's name does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeopt.errors import DataError
from edgeopt.graph import Array

LABEL_KEYS = ("labels", "label")


@dataclass(frozen=True)
class Element:
    """Inputs by name, as stored, and the label (None without one)."""

    inputs: dict[str, Array]
    label: Any | None


def is_array_like(value: Any) -> bool:
    """Whether the value is an array or tensor of some library (torch is recognised without importing it)."""
    return isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__") or hasattr(value, "numpy")


def to_array(value: Any, where: str) -> Array:
    """The value as a numpy array; tensors are detached and brought to the CPU.

    Raises:
        DataError: it is no array of numbers or strings, or its rows have different lengths.
    """
    if isinstance(value, np.ndarray):
        array: Array = value
    else:
        try:
            if hasattr(value, "detach"):
                value = value.detach().cpu()
                value = value.float() if str(value.dtype) == "torch.bfloat16" else value  # numpy has no bfloat16
            array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        except (ValueError, TypeError, RuntimeError) as error:
            raise DataError(f"cannot be made into an array: {error}", where=where) from error
    if array.dtype.names is not None or array.dtype.kind in "mMc" or (array.dtype == object and not _strings(array)):
        found = f"an array of {array.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise DataError(f"expected an array of numbers, found {found}", where=where)
    return array


def _strings(array: Array) -> bool:
    return all(isinstance(v, str) for v in array.flat)


def to_label(value: Any) -> Any | None:
    """Tensors become numpy arrays; anything else stays what it is."""
    if value is None or isinstance(value, np.ndarray) or not is_array_like(value):
        return value
    return to_array(value, "label")


def normalise(value: Any, names: Sequence[str], where: str) -> Element:
    """Bring one element of a source into the common form (see the cases above).

    Args:
        value: What the source yielded.
        names: The model's required inputs, in order.
        where: For messages.

    Raises:
        DataError: the element has too few, too many or unknown entries, or an entry is no array.
    """
    if isinstance(value, Element):
        return value
    if isinstance(value, Mapping):
        return _from_mapping(value, names, where)
    if isinstance(value, tuple | list):
        return _from_sequence(value, names, where)
    if len(names) != 1:
        raise DataError(
            f"one {type(value).__name__} for a model with {len(names)} inputs",
            where=where,
            hint=f"give a dict with {_listed(names)}, or a tuple in that order",
        )
    return Element({names[0]: to_array(value, where)}, None)


def _from_mapping(value: Mapping[Any, Any], names: Sequence[str], where: str) -> Element:
    label_key = next((k for k in LABEL_KEYS if k in value and k not in names), None)
    label = to_label(value[label_key]) if label_key is not None else None
    keys = match_names([k for k in value if k != label_key], names, where)
    return Element({n: to_array(value[k], f"{where}, {k!r}") for n, k in keys.items()}, label)


def match_names(found: Sequence[Any], names: Sequence[str], where: str) -> dict[str, Any]:
    """Which array feeds which input: by name, or any name when there is one of each.

    Raises:
        DataError: an input has no array, or an array has no input.
    """
    if len(names) == 1 and len(found) == 1:
        return {names[0]: found[0]}
    missing = [n for n in names if n not in found]
    unknown = [k for k in found if k not in names]
    if missing or unknown:
        parts = [f"no array for input {_listed(missing)}"] if missing else []
        parts += [f"unknown {_listed(unknown)}"] if unknown else []
        raise DataError(
            "; ".join(parts),
            where=where,
            hint=f"the model's inputs: {_listed(names)}; labels are called 'labels'",
        )
    return {n: n for n in names}


def _from_sequence(value: Sequence[Any], names: Sequence[str], where: str) -> Element:
    n = len(names)
    if len(value) == 2 and isinstance(value[0], Mapping):
        return Element(_from_mapping(value[0], names, where).inputs, to_label(value[1]))
    if n > 1 and len(value) == 2 and isinstance(value[0], tuple | list) and len(value[0]) == n:
        return Element(_from_sequence(value[0], names, where).inputs, to_label(value[1]))
    if len(value) not in (n, n + 1):
        raise DataError(
            f"a {type(value).__name__} of {len(value)}, expected {n} (inputs) or {n + 1} (inputs and label)",
            where=where,
            hint=f"the model's inputs: {_listed(names)}; turn a list of numbers into a numpy array first",
        )
    inputs = {name: to_array(v, f"{where}, {name!r}") for name, v in zip(names, value, strict=False)}
    return Element(inputs, to_label(value[n]) if len(value) == n + 1 else None)


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(repr(n) for n in names)
