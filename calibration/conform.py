"""Brings one value into the form that a model input takes, or says precisely why it cannot.

Rank: the input's, or one less (the batch axis is inserted). Dtype: equal, or a conversion that loses nothing
that matters: any number to a float type that can hold it, whole numbers to an integer type whose range holds
them, 0 and 1 to bool. Every float must be finite.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from edgeopt.errors import DataError
from edgeopt.graph import Array, Dims, TensorSpec

_TRANSPOSES = ((0, 3, 1, 2), "NHWC", "NCHW"), ((0, 2, 3, 1), "NCHW", "NHWC")


def fits(shape: tuple[int, ...], dims: Dims) -> bool:
    """Whether a shape agrees with the fixed dimensions."""
    return len(shape) == len(dims) and all(not isinstance(d, int) or d == n for n, d in zip(shape, dims, strict=True))


def conform(value: Array, spec: TensorSpec, batch_axis: int | None, where: str) -> Array:
    """The value as the model takes it: with batch axis, of the input's dtype, C-contiguous, checked.

    Args:
        value: One sample, with or without its batch axis.
        spec: The model input; pass a copy with an open batch dimension to collect rows of a fixed batch.
        batch_axis: Where a missing batch axis goes; None: the first place where it fits.
        where: For messages.

    Raises:
        DataError: wrong rank or shape, a dtype that cannot be converted without loss, NaN or Inf.
    """
    where = f"{where}, input {spec.name!r}"
    if spec.dtype is None:
        raise DataError("the model wants a sequence or map here; datasets hold tensors only", where=where)
    shaped = _with_rank(value, spec, batch_axis, where)
    return np.ascontiguousarray(_with_dtype(shaped, spec.dtype, where)).reshape(shaped.shape)


def _with_rank(value: Array, spec: TensorSpec, batch_axis: int | None, where: str) -> Array:
    if spec.dims is None:
        return value
    rank = len(spec.dims)
    if value.ndim == rank - 1:
        places = range(rank) if batch_axis is None else [batch_axis]
        options = [np.expand_dims(value, p) for p in places]
        value = next((o for o in options if fits(o.shape, spec.dims)), options[0])
    elif value.ndim != rank:
        expected = f"{rank}" if rank == 0 else f"{rank}, or {rank - 1} (the batch axis is then added)"
        hint = 'declare layout = "NHW" in a dataset.toml, or add the channel axis' if rank - value.ndim == 2 else None
        raise DataError(
            f"a sample of shape {value.shape} has rank {value.ndim}; the model takes {spec.describe()}: "
            f"rank {expected}",
            where=where,
            hint=hint,
        )
    if not fits(value.shape, spec.dims):
        raise DataError(
            f"a sample has shape {value.shape}, the model takes {spec.describe()}",
            where=where,
            hint=_transpose_hint(value.shape, spec.dims),
        )
    if 0 in value.shape:
        raise DataError(f"a sample of shape {value.shape} is empty", where=where)
    return value


def _transpose_hint(shape: tuple[int, ...], dims: Dims) -> str | None:
    for order, stored, wanted in _TRANSPOSES:
        if len(shape) == 4 and fits(tuple(shape[i] for i in order), dims):
            return (
                f"this looks like {stored} data for a model that takes {wanted}: transpose it by {order}, "
                f'or declare layout = "{stored}" in a dataset.toml'
            )
    if len(shape) == 4 and len(dims) == 4:
        return "resize and center_crop in a dataset.toml bring images to the model's size"
    return None


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)  # bfloat16 and float8 are kind V


def _with_dtype(value: Array, target: np.dtype[Any], where: str) -> Array:
    source = value.dtype
    text = target.kind == "O"
    if text or source.kind in "OSU":
        if text and source.kind in "OU":
            return value.astype(object)
        raise DataError(f"found {source}, the model takes {'strings' if text else target}", where=where)
    if _is_float(source):
        _check_finite(value, where)
    if source == target:
        return value
    with np.errstate(over="ignore", invalid="ignore"):
        result = value.astype(target)
    if _is_float(target):
        if not np.isfinite(result.astype(np.float32)).all():
            raise DataError(f"values up to {_largest(value):g} do not fit into {target}", where=where)
        return result
    if _is_float(source) and not bool((value == np.trunc(value)).all()):
        bad = value[value != np.trunc(value)].flat[0]
        raise DataError(
            f"found {source} with fractions (such as {float(bad):g}), the model takes {target}",
            where=where,
            hint="round and clip the values first, if they are meant to be whole numbers",
        )
    low, high = (0, 1) if target.kind == "b" else _limits(target)
    if value.size and not (low <= value.min() and value.max() <= high):
        raise DataError(
            f"values from {value.min():g} to {value.max():g} do not fit into {target} ({low} to {high})", where=where
        )
    return result


def _limits(target: np.dtype[Any]) -> tuple[int, int]:
    info: Any = ml_dtypes.iinfo(target)  # type: ignore[no-untyped-call]
    return int(info.min), int(info.max)


def _largest(value: Array) -> float:
    return float(np.abs(value.astype(np.float64)).max())


def _check_finite(value: Array, where: str) -> None:
    finite = np.isfinite(value)
    if not finite.all():
        nans = int(np.isnan(value).sum())
        raise DataError(
            f"{nans} NaN and {int((~finite).sum()) - nans} Inf among {value.size} values",
            where=where,
            hint="remove or repair this sample; statistics over it would be meaningless",
        )
