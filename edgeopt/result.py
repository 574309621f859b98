"""What a verb that rewrites returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from edgeopt import saving
from edgeopt.collecting import without_collecting
from edgeopt.files import Loaded
from edgeopt.message import Message
from edgeopt.recipe import Recipe


@dataclass
class Result:
    """What a verb that rewrites returns.

    Attributes:
        model: The rewritten model; for a model that the IR cannot carry, the densified view of the original.
        report: What ``--json`` prints.
        exit_code: 0, or 3 when a budget could not be met.
        recipe: The recipe that replays this run (``optimize`` only).
        unchanged: Nothing was done to the model: saving writes the bytes that were given, where they are known.
    """

    _model: ir.Model
    report: dict[str, Any]
    exit_code: int = 0
    recipe: Recipe | None = None
    unchanged: bool = False
    _loaded: Loaded | None = field(default=None, repr=False)
    _message: Message | None = field(default=None, repr=False)

    @property
    def model(self) -> ir.Model:
        """The model itself, not a copy."""
        self._message = None  # it may be changed from here on
        return self._model

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The model as a protobuf message, made when first asked for."""
        data = self._verbatim()
        if data is not None:
            return onnx.load_from_string(data)
        return saving.to_proto(self.model)

    @without_collecting
    def save(self, path: str | Path) -> None:
        """Write the model atomically.

        Raises:
            OutputError: it cannot be written, or is the input file.
        """
        source = self._loaded.path if self._loaded is not None else None
        data = self._verbatim()
        if data is not None:
            saving.check_output(Path(path), inputs=[source])
            saving.write_atomically(Path(path), data)
        else:
            saving.save(self._model, Path(path), inputs=[source], message=self._message)

    def _verbatim(self) -> bytes | None:
        return self._loaded.verbatim() if self._loaded is not None and self.unchanged else None


@dataclass
class Exported:
    """What ``export`` returns.

    Attributes:
        model: The model in ONNX terms.
        data: The bytes of an ``.ort`` file; None for ONNX.
        report: What ``--json`` prints.
    """

    model: ir.Model
    data: bytes | None
    report: dict[str, Any]
    _source: Path | None = field(default=None, repr=False)

    def save(self, path: str | Path) -> None:
        """Write the export atomically.

        Raises:
            OutputError: it cannot be written, or is the input file.
        """
        if self.data is None:
            saving.save(self.model, Path(path), inputs=[self._source])
        else:
            saving.check_output(Path(path), inputs=[self._source])
            saving.write_atomically(Path(path), self.data)
