"""Random inputs for a model, as its input declarations ask for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeopt.errors import ModelError
from edgeopt.graph import Array, TensorSpec, shapes_with
from edgeopt.runtime import Session

# Sizes tried for open dimensions other than the batch, until the model runs.
_TRIED_SIZES = (32, 64, 224, 8, 16, 1, 2, 4, 3, 128, 512)
_TRIED_INTEGERS = ((1, 2), (1, 1), (0, 1), (0, 0))


def random_feed(
    specs: Sequence[TensorSpec],
    seed: int = 0,
    size: int = 32,
    assumed: Mapping[str, int] | None = None,
    integers: tuple[int, int] = (1, 2),
) -> dict[str, Array]:
    """Random inputs: N(0, 1) floats, small integers, random booleans, letters.

    Args:
        specs: What to feed. The first axis of an open batch becomes 1, other open dimensions ``size``.
        seed: Of numpy's default generator; the same seed gives the same arrays.
        size: For open dimensions that ``assumed`` does not name.
        assumed: Values of symbolic dimensions.
        integers: Smallest and largest integer; zero is left out at first, since some models divide by it.

    Raises:
        ModelError: an input is no tensor, or its rank is unknown.
    """
    rng = np.random.default_rng(seed)
    feed: dict[str, Array] = {}
    known = dict(assumed or {})
    for spec in specs:
        if spec.dtype is None or spec.dims is None:
            raise ModelError(f"cannot be fed at random: {spec.describe()}", where=f"input {spec.name!r}")
        if spec.dims and isinstance(spec.dims[0], str):
            known.setdefault(spec.dims[0], 1)
        dims = spec.dims if not spec.dims or spec.dims[0] is not None else (1, *spec.dims[1:])
        feed[spec.name] = random_array(rng, spec.dtype, shapes_with(dims, known, size), integers)
    return feed


def random_array(
    rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...], integers: tuple[int, int] = (1, 2)
) -> Array:
    """A random array of this type: N(0, 1), integers of a range, booleans or letters."""
    if dtype == np.dtype(object):
        return rng.choice(np.array(["a", "b"], dtype=object), size=shape)
    if dtype.kind == "b":
        return rng.integers(0, 2, size=shape).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(integers[0], integers[1] + 1, size=shape).astype(dtype)
    if dtype in (np.float32, np.float64):
        return rng.standard_normal(shape, dtype=dtype)
    return rng.standard_normal(shape).astype(dtype)


def runnable_feed(
    session: Session, specs: Sequence[TensorSpec], seed: int = 0, timeout_s: float = 60
) -> dict[str, Array]:
    """Random inputs with which the model runs; several sizes are tried for open dimensions.

    Args:
        session: The model.
        specs: Its inputs.
        seed: As in ``random_feed``.
        timeout_s: For all tries together.

    Raises:
        ModelError: it runs with none of them; the message is that of the first try.
    """
    deadline = time.monotonic() + timeout_s
    open_dims = any(d is None or isinstance(d, str) for s in specs for d in (s.dims or ())[1:])
    with_integers = any(s.dtype is not None and s.dtype.kind in "iu" for s in specs)
    first: ModelError | None = None
    for integers in _TRIED_INTEGERS if with_integers else _TRIED_INTEGERS[:1]:
        for size in _TRIED_SIZES if open_dims else _TRIED_SIZES[:1]:
            try:
                feed = random_feed(specs, seed, size, integers=integers)
                session.run(feed, timeout_s=max(deadline - time.monotonic(), 0.0))
                return feed
            except ModelError as error:
                first = first or error
            if time.monotonic() >= deadline:
                raise first
    assert first is not None  # at least one size was tried
    raise first
