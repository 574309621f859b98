"""A torch DataLoader, walked so that every pass gives the same samples; torch itself is never imported here.

A shuffling loader draws its order, and augmentations their parameters, from torch's global generator (or from
the loader's own). Both are put to the same state at the start of each pass, and the caller's state is put back
between the elements. Randomness from elsewhere (Python's ``random``, worker processes) is not caught here; the
Dataset notices when a second pass starts with other samples.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

_SEED = 0


def is_loader(source: Any) -> bool:
    """Whether it is a torch DataLoader or a class derived from it."""
    return any(k.__name__ == "DataLoader" and k.__module__.startswith("torch.") for k in type(source).__mro__)


def repeatable(loader: Any) -> Callable[[], Iterator[Any]]:
    """A function that starts a pass; all passes see the same random numbers."""
    torch: Any = sys.modules["torch"]  # the loader's class came from there
    own = getattr(loader, "generator", None)
    start = own.get_state() if own is not None else None

    def make() -> Iterator[Any]:
        if own is not None:
            own.set_state(start)
        inside = torch.Generator().manual_seed(_SEED).get_state()
        iterator: Iterator[Any] | None = None
        while True:
            outside = torch.get_rng_state()
            torch.set_rng_state(inside)
            try:
                if iterator is None:
                    iterator = iter(loader)
                value = next(iterator)
            except StopIteration:
                return
            finally:
                inside = torch.get_rng_state()
                torch.set_rng_state(outside)
            yield value

    return make
