"""What ``optimize`` decided: enough to make the shipped model again, to the byte, without measuring anything."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgeopt.calibration.statistics import RANGES

ORIGINAL, FLOAT, LAYOUT, INT8, MIXED = "original", "float", "layout", "int8", "mixed"
AUTO = "auto"  # ranges in the way that leaves the least noise at the outputs; an option, never a decision
CHOICES = (ORIGINAL, FLOAT, LAYOUT, INT8, MIXED)
_NUMBERED = re.compile(rf"{MIXED}(-[1-9]\d*)?")  # mixed, mixed-2, …: the gentler ones
_NAMES = ("keep_float", "depth_to_space", "absorb_split", "pad_channels", "without_passes")


@dataclass(frozen=True)
class Decisions:
    """One way to make a model.

    Attributes:
        choice: ``original``; ``float``: all exact passes; ``layout``: channels widened besides; ``int8``: all that
            can be; ``mixed`` (``mixed-2``, …): int8 in regions.
        range: How ranges are chosen (int8 and mixed).
        keep_float: Names of nodes that stay float, beyond what the options ask for.
        bias_correction: Whether the biases make up for the mean error of int8.
        depth_to_space: Places of this rewrite that were applied before.
        absorb_split: The same.
        pad_channels: The same.
        channel_block: What channels were padded to a multiple of; 0 if nothing was padded.
        without_passes: Exact passes that were left out, as they do not pay on the target.
    """

    choice: str
    range: str | None = None
    keep_float: tuple[str, ...] = ()
    bias_correction: bool = False
    depth_to_space: tuple[str, ...] = ()
    absorb_split: tuple[str, ...] = ()
    pad_channels: tuple[str, ...] = ()
    channel_block: int = 0
    without_passes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The choice without its number."""
        return MIXED if _NUMBERED.fullmatch(self.choice) else self.choice

    @property
    def is_int8(self) -> bool:
        """Whether anything is quantized."""
        return self.kind in (INT8, MIXED)

    def as_table(self) -> dict[str, Any]:
        """The keys of a recipe; those with their default are left out."""
        default = asdict(Decisions(self.choice))
        found = {k: v for k, v in asdict(self).items() if k == "choice" or v != default[k]}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


def read(table: Mapping[str, Any]) -> Decisions:
    """From a recipe's table without problems."""
    values: dict[str, Any] = {k: tuple(v) if k in _NAMES else v for k, v in table.items()}
    return Decisions(**values)


def problems(table: Mapping[str, Any], where: str) -> list[str]:
    """What is wrong with a recipe's table, each with its ``$.path``."""
    found = unknown(table, tuple(asdict(Decisions(ORIGINAL))), where)
    choice = table.get("choice")
    if choice not in CHOICES and not (isinstance(choice, str) and _NUMBERED.fullmatch(choice)):
        found.append(f"{where}.choice: expected one of {', '.join(CHOICES)}, found {choice!r}")
    if "range" in table and table["range"] not in RANGES:
        found.append(f"{where}.range: expected one of {', '.join(RANGES)}, found {table['range']!r}")
    for key in _NAMES:
        names = table.get(key, [])
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            found.append(f"{where}.{key}: expected a list of names, found {names!r}")
    if not isinstance(table.get("bias_correction", False), bool):
        found.append(f"{where}.bias_correction: expected true or false, found {table['bias_correction']!r}")
    block = table.get("channel_block", 0)
    if not isinstance(block, int) or isinstance(block, bool) or not 0 <= block <= 64:
        found.append(f"{where}.channel_block: expected a whole number up to 64, found {block!r}")
    return found


def unknown(table: Mapping[str, Any], known: Sequence[str], where: str) -> list[str]:
    """A line for each key that is not known, with the name that was probably meant."""
    found = []
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            found.append(f"{where}.{key}: unknown" + (f", did you mean {close[0]}?" if close else ""))
    return found
