"""Labels from a source of their own: an array file, a text file, or the user's callable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeopt.calibration import user_code
from edgeopt.calibration.npy_stream import ArrayFile, open_npy, open_npz
from edgeopt.calibration.readers import Located, Source, from_callable
from edgeopt.errors import DataError


def open_labels(text: str, folders: Sequence[Path]) -> Source:
    """The labels in order: ``x.npz:array``, ``x.npy``, a text file of one label per line, or ``module:callable``.

    Args:
        text: As written.
        folders: Where relative paths (first folder) and modules (all) are looked for.

    Raises:
        DataError: there is no such file or array, or it cannot be read.
    """
    path = folders[0] / text
    file, _, key = text.rpartition(":")
    if path.is_file() and path.suffix.lower() == ".npy":
        return _column(open_npy(path), text)
    if path.is_file() and path.suffix.lower() == ".npz":
        arrays = open_npz(path)
        found = arrays.get("labels") or (next(iter(arrays.values())) if len(arrays) == 1 else None)
        if found is None:
            raise DataError(
                f"does not tell which of its arrays holds the labels: {', '.join(arrays)}",
                where=text,
                hint=f'write "{text}:ARRAY"',
            )
        return _column(found, text)
    if path.is_file():
        values = read_label_text(path)
        return Source(text, lambda: ((f"{text}, line {i + 1}", v) for i, v in enumerate(values)), len(values))
    if file.endswith(".npz"):
        if not (folders[0] / file).is_file():
            raise DataError("there is no such file", where=file)
        arrays = open_npz(folders[0] / file)
        if key not in arrays:
            raise DataError(f"has no array {key!r}", where=file, hint=f"arrays there: {', '.join(arrays)}")
        return _column(arrays[key], text)
    if user_code.is_reference(text):
        return from_callable(user_code.load(text, folders), text, folders)
    raise DataError("there is no such file", where=text, hint="give a .npz:array, .npy, text file or module:callable")


def _column(array: ArrayFile, text: str) -> Source:
    if not array.shape:
        raise DataError("is a single number; its first axis must count the samples", where=text)

    def elements() -> Iterator[Located]:
        for i, value in enumerate(array.rows()):
            yield f"{text}, label {i}", value

    return Source(text, elements, array.shape[0])


def read_label_text(path: Path) -> list[Any]:
    """One label per line: whole numbers, else numbers, else text; blank lines at the end are dropped.

    Raises:
        DataError: the file cannot be read as UTF-8, or a line before the last label is blank.
    """
    try:
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as text: {error}", where=str(path)) from error
    if blank := [i + 1 for i, line in enumerate(lines) if not line.strip()]:
        raise DataError(f"line {blank[0]} is blank; expected one label per line", where=str(path))
    words = [line.strip() for line in lines]
    for convert in (int, float):
        try:
            return [np.asarray(convert(w))[()] for w in words]
        except ValueError:
            continue
    return list(words)
