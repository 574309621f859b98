"""The folder that ``optimize`` writes: model.onnx, report.json, recipe.toml, each atomically.

Whenever the run is stopped, the folder holds a valid model or none: the model is replaced as a whole, and what
belongs to an earlier model is removed before. Where weights lie in a file of their own, an earlier model goes first:
it must not meet the weights of the new one.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir

from edgeopt import saving
from edgeopt.errors import OutputError
from edgeopt.result import Result

MODEL, REPORT, RECIPE = "model.onnx", "report.json", "recipe.toml"
_WEIGHTS = f"{MODEL}.data"  # see saving.save


class OutputFolder:
    """Writes the results of one run.

    Args:
        path: The folder; made with the first model, its parents must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._source: Path | None = None
        self._weights: Path | None = None  # as this run wrote them

    def check(self, source: Path | None) -> None:
        """Refuse early what could not be written.

        Raises:
            OutputError: a parent is missing, the path is a file, or the model in it is the input.
        """
        self._source = source
        if self.path.exists() and not self.path.is_dir():
            raise OutputError("is a file, expected a folder", where=str(self.path))
        if self.path.is_dir():
            for name in (MODEL, REPORT, RECIPE):
                saving.check_output(self.path / name, inputs=[source])
        else:
            saving.check_output(self.path)

    def _begin(self) -> None:
        """Make the folder, and drop reports of an earlier model; not before there is a model to write.

        Raises:
            OutputError: it cannot be made.
        """
        try:
            self.path.mkdir(exist_ok=True)
            apart = (self.path / _WEIGHTS).exists()
            for name in (REPORT, RECIPE, MODEL) if apart else (REPORT, RECIPE):
                (self.path / name).unlink(missing_ok=True)
            if self._weights is not None:
                self._weights.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot be written: {error.strerror}", where=str(self.path)) from error

    def save_model(self, model: ir.Model) -> None:
        """Put a model that is safe to ship in place."""
        self._begin()
        written = saving.save(model, self.path / MODEL, inputs=[self._source])
        self._weights = next((p for p in written if p.name == _WEIGHTS), None)

    def finish(self, result: Result) -> None:
        """Write the model that was chosen, the report and the recipe."""
        self._begin()
        result.save(self.path / MODEL)
        report = json.dumps(result.report, indent=1, allow_nan=False) + "\n"
        saving.write_atomically(self.path / REPORT, report.encode())
        if result.recipe is not None:
            saving.write_atomically(self.path / RECIPE, result.recipe.to_toml().encode())
