"""The published JSON Schemas (2020-12) of what ``--json`` prints: one for each kind of document, in ``schema/``.

The files refer to ``schema/common.json``; ``load`` returns documents that stand on their own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeopt.errors import UsageError

KINDS = ("report", "inspect", "profile", "compare", "export", "error")
_FOLDER = Path(__file__).resolve().parent / "schema"
_COMMON = "common.json"


def load(kind: str) -> dict[str, Any]:
    """The schema of one kind of document, self-contained.

    Args:
        kind: ``report`` (simplify, quantize, optimize, demo), ``inspect``, ``profile``, ``compare``, ``export`` or
            ``error`` (any command that fails).

    Raises:
        UsageError: there is no such kind.
    """
    if kind not in KINDS:
        raise UsageError(f"expected one of {', '.join(KINDS)}, found {kind!r}", where="schemas.load")
    result: dict[str, Any] = _local(_read(f"{kind}.json"))
    used = _local(_read(_COMMON)["$defs"])
    return result | {"$defs": used}


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((_FOLDER / name).read_text(encoding="utf-8"))
    return document


def _local(part: Any) -> Any:
    """The same with references into the common file turned into references into this document."""
    if isinstance(part, dict):
        return {k: v.removeprefix(_COMMON) if k == "$ref" else _local(v) for k, v in part.items()}
    return [_local(v) for v in part] if isinstance(part, list) else part
