"""The error tree. Every message says what is wrong, where, what was found and expected, and what to do.

EdgeoptError                exit code 1 if raised as such (it is not)
├── UsageError              2  an option or argument that makes no sense
├── ModelError              2  a model that cannot be read, or that the runtime refuses
│   └── ExternalDataError   2  weights outside the model file: missing, too short, or outside its folder
├── DataError               2  calibration or evaluation data
├── DeviceError             2  an unknown or malformed device profile
├── RecipeError             2  an unknown or malformed recipe
├── OutputError             2  a result that cannot be written
└── CheckError              4  a check failed and no safe result exists
"""

from __future__ import annotations


class EdgeoptError(Exception):
    """Base of all errors that edgeopt raises on purpose.

    Args:
        message: What is wrong: what was found and what was expected.
        where: The file, node, input or ``$.path`` concerned, if any.
        hint: What the user can do about it, if anything is known.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text


class UsageError(EdgeoptError):
    """An option or argument that makes no sense."""

    exit_code = 2


class ModelError(EdgeoptError):
    """A model that cannot be read, or that the runtime refuses."""

    exit_code = 2


class ExternalDataError(ModelError):
    """Weights outside the model file that are missing, too short, or outside the model's folder."""


class DataError(EdgeoptError):
    """Calibration or evaluation data that cannot be used."""

    exit_code = 2


class DeviceError(EdgeoptError):
    """An unknown or malformed device profile."""

    exit_code = 2


class RecipeError(EdgeoptError):
    """An unknown or malformed recipe."""

    exit_code = 2


class OutputError(EdgeoptError):
    """A result that cannot be written."""

    exit_code = 2


class CheckError(EdgeoptError):
    """A check failed and no safe result exists."""

    exit_code = 4


def root_cause(error: BaseException) -> str:
    """The message of the error at the start of the chain, on one line, shortened to 300 characters."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]
