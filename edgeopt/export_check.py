"""Does onnxruntime compute what the original computes? The judgement that every export has to pass.

An output agrees when its error is at most 1e-5 (float32, see ``parity.exact_bound``) of the scale of each channel,
or when it is no further from the original in float64 than 4 times the original itself: small values that are left
over when large ones cancel have no correct digits to compare.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from edgeopt.graph import Array
from edgeopt.parity import channel_errors, exact_bound, is_float
from edgeopt.runtime import Session
from edgeopt.torch_modules import Inputs, array_of, arrays, batch_size, leaves, random_like, reason

_NOISE_FACTOR = 4.0
_FLOOR = 0.025  # of the bound: two units in the last place of the scale, should the original err less by luck


class DisagreementError(Exception):
    """The result is not the original's."""


def check_torch(
    torch: Any, module: Any, example: Inputs, session: Session, batch: int | None, seed: int
) -> tuple[float, float, int]:
    """Compare on the example, on random inputs in its range and beyond, and on a longer batch where it is open.

    Returns:
        Largest absolute and relative error, and the number of input sets.
    """
    size = batch_size(example)
    sets = [(True, example)]
    if batch is not None:
        sets.append((True, random_like(torch, example, size, batch + 2, seed)))
    sets.append((False, random_like(torch, example, size, size, seed + 1)))
    sets.append((False, random_like(torch, example, size, size, seed + 2, beyond=True)))
    worst, samples = [0.0, 0.0], 0
    for must_run, inputs in sets:
        try:
            expected = arrays(inputs.call(module))
        except Exception as error:
            if not must_run:
                continue  # the module may rightly refuse values that it is not made for
            raise DisagreementError(f"the module itself fails on another batch: {reason(error)}") from error
        feed = {k: array_of(v) for k, v in inputs.tensors.items() if k in session.input_names}
        found = [np.asarray(v) for v in leaves(session.run(feed))]
        if len(found) != len(expected):
            raise DisagreementError(f"torch returns {len(expected)} tensors, the model {len(found)}")
        exact = _lazy_float64(torch, module, inputs)
        for k, (a, b) in enumerate(zip(expected, found, strict=True)):
            worst = [max(x, y) for x, y in zip(worst, agree(a, b, k, exact), strict=True)]
        samples += 1
    return worst[0], worst[1], samples


def agree(expected: Array, found: Array, index: int, exact: Callable[[], list[Array] | None]) -> tuple[float, float]:
    """Absolute and relative error of one output; DisagreementError if it is too large (see the module's text)."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise DisagreementError(
            f"output {index} is {found.dtype}{list(found.shape)}, the original's is "
            f"{expected.dtype}{list(expected.shape)}"
        )
    if not is_float(expected.dtype):
        if np.array_equal(expected, found):
            return 0.0, 0.0
        raise DisagreementError(f"output {index} ({expected.dtype}) has other values than the original's")
    absolute, by_channel = channel_errors(expected, found)
    scale = _scale(expected)
    relative = absolute / scale
    bound = exact_bound(expected.dtype)
    if by_channel <= bound:
        return absolute, relative
    reference = exact() if np.isfinite(absolute) else None
    if reference is not None and index < len(reference):
        own = channel_errors(reference[index], expected.astype(np.float64))[0]
        other = channel_errors(reference[index], found.astype(np.float64))[0]
        if other <= max(_NOISE_FACTOR * own, bound * _FLOOR * scale):
            return absolute, relative
    raise DisagreementError(
        f"output {index} differs from the original's by {absolute:.3g} at a scale of {scale:.3g} "
        f"({by_channel:.2g} of the scale of a channel; allowed: {bound:g})"
    )


def _scale(array: Array) -> float:
    finite = array[np.isfinite(array)].astype(np.float64)
    return max(float(np.abs(finite).max()) if finite.size else 0.0, 1e-300)


def _lazy_float64(torch: Any, module: Any, inputs: Inputs) -> Callable[[], list[Array] | None]:
    """The module's outputs when everything is computed in float64, or None where it does not run so."""

    def run() -> list[Array] | None:
        double = {k: v.double() if torch.is_floating_point(v) else v for k, v in inputs.tensors.items()}
        try:
            outputs = arrays(inputs.replaced(double).call(copy.deepcopy(module).double()))
        except Exception:  # noqa: BLE001 -- user code may raise anything, and not every module knows float64
            return None
        return [o.astype(np.float64) for o in outputs]

    return run
