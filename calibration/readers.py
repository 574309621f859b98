"""Sources of samples: files, folders, the user's callables, and Python objects.

A :class:`Source` gives a fresh pass over its elements each time it is asked, one element in memory at a time;
what an element may look like is said in ``elements.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from edgeopt.calibration import images, user_code
from edgeopt.calibration.elements import LABEL_KEYS, is_array_like, match_names, to_array
from edgeopt.calibration.npy_stream import ArrayFile, open_npy, open_npz
from edgeopt.calibration.torch_loader import is_loader, repeatable
from edgeopt.errors import DataError
from edgeopt.graph import Array

Located = tuple[str, Any]  # where it is, for messages, and the element


@dataclass(frozen=True)
class Source:
    """A repeatable source of elements.

    Attributes:
        text: How the user named it.
        elements: Starts a pass; yields ``(where, element)``.
        count: Number of elements, when known without a pass and all have the same batch size.
        images: Whether the elements are decoded image files (uint8 [H, W, 3], RGB).
    """

    text: str
    elements: Callable[[], Iterator[Located]]
    count: int | None = None
    images: bool = False


def open_source(source: Any, names: Sequence[str], scalars: Sequence[str], folders: Sequence[Path]) -> Source:
    """Recognise what the user gave.

    Args:
        source: A path, ``file.npz:array``, a glob, ``module:callable``, or a Python object.
        names: Inputs that each element must feed, in order.
        scalars: Those of them that have rank 0: a single stored number feeds every sample.
        folders: Where relative paths (first folder) and modules (all) are looked for.

    Raises:
        DataError: it does not exist, cannot be read, or is of no known kind.
    """
    if isinstance(source, str | os.PathLike):
        return _from_text(os.fspath(source), names, scalars, folders)
    if isinstance(source, Mapping):
        return columns({k: _column(v, str(k)) for k, v in source.items()}, "dict", names, scalars)
    if is_array_like(source):
        return columns({"array": _column(source, "array")}, "array", names, scalars)
    if callable(source) and not hasattr(source, "__iter__"):
        return from_callable(source, getattr(source, "__qualname__", type(source).__name__), ())
    if isinstance(source, Iterable):
        return _from_iterable(source)
    raise DataError(
        f"a {type(source).__name__} is no data source",
        hint="give a path, an array, a dict of arrays, or an iterable of samples",
    )


def _column(value: Any, name: str) -> Array | None:
    return None if value is None else to_array(value, name)


def columns(
    arrays: Mapping[str, Array | ArrayFile | None], text: str, names: Sequence[str], scalars: Sequence[str]
) -> Source:
    """Arrays whose first axis counts the samples; ``labels`` beside the inputs is optional.

    Raises:
        DataError: an input has no array, an array no input, or the arrays differ in length.
    """
    label_key = next((k for k in LABEL_KEYS if k in arrays and k not in names), None)
    label = None if label_key is None else arrays[label_key]
    keys = match_names([k for k in arrays if k != label_key], names, text)
    inputs = {n: array for n, k in keys.items() if (array := arrays[k]) is not None}
    shared = {n: _all_of(a) for n, a in inputs.items() if n in scalars and len(a.shape) == 0}
    streamed = {n: a for n, a in inputs.items() if n not in shared}
    lengths = {keys[n]: a.shape[0] if a.shape else None for n, a in streamed.items()}
    if label is not None and label_key is not None:
        lengths[label_key] = label.shape[0] if label.shape else None
    if None in lengths.values():
        bad = next(k for k, v in lengths.items() if v is None)
        raise DataError(f"{bad!r} is a single number; its first axis must count the samples", where=text)
    if len(set(lengths.values())) > 1:
        raise DataError(f"the arrays have different numbers of samples: {lengths}", where=text)
    count = next(iter(lengths.values()), 1) or 0

    def elements() -> Iterator[Located]:
        streams = {n: _rows_of(a) for n, a in streamed.items()}
        labels = None if label is None else _rows_of(label)
        for i in range(count):
            row = {n: next(s) for n, s in streams.items()} | shared
            value: Any = (row, next(labels)) if labels is not None else row
            yield f"{text}, sample {i}", value

    return Source(text, elements, count)


def _rows_of(array: Array | ArrayFile) -> Iterator[Any]:
    return array.rows() if isinstance(array, ArrayFile) else iter(array)


def _all_of(array: Array | ArrayFile) -> Array:
    return array.whole() if isinstance(array, ArrayFile) else array


def _from_iterable(source: Iterable[Any]) -> Source:
    text = type(source).__name__
    make: Callable[[], Iterator[Any]]
    if is_loader(source):
        make = repeatable(source)
    else:
        with user_code.guarded(text):
            once = iter(source) is source
            walked = list(source) if once else source  # an iterator can be walked once only
        make = partial(iter, walked)
    return Source(text, lambda: _numbered(make, text, ()))


def _numbered(make: Callable[[], Iterator[Any]], text: str, folders: Sequence[Path]) -> Iterator[Located]:
    """Count the elements; whatever the user's code raises on the way is reported as its own error."""
    with user_code.guarded(text, folders):
        iterator = iter(make())
    i = 0
    while True:
        with user_code.guarded(f"{text}, element {i}", folders):
            try:
                value = next(iterator)
            except StopIteration:
                return
        yield f"{text}, element {i}", value
        i += 1


def from_callable(function: Callable[..., Any], text: str, folders: Sequence[Path]) -> Source:
    """A source over the user's function, called anew for each pass: a generator function can be walked again."""

    def make() -> Iterator[Any]:
        result = function()
        if isinstance(result, Mapping):
            raise DataError(
                "returned a dict; expected an iterable of samples", where=text, hint="yield one dict per sample"
            )
        if callable(result) and not hasattr(result, "__iter__"):
            result = result()
        if not isinstance(result, Iterable) and not hasattr(result, "__getitem__"):
            raise DataError(f"returned a {type(result).__name__}; expected an iterable of samples", where=text)
        return repeatable(result)() if is_loader(result) else iter(result)

    return Source(text, lambda: _numbered(make, text, folders))


def _from_text(text: str, names: Sequence[str], scalars: Sequence[str], folders: Sequence[Path]) -> Source:
    path = folders[0] / Path(text).expanduser()
    if path.is_dir():
        return _from_folder(path, text)
    if path.is_file():
        return _from_file(path, text, names, scalars)
    file, _, key = text.rpartition(":")
    if file.endswith((".npz", ".npy")):
        return _from_member(folders[0] / file, key, text, names, scalars)
    if user_code.is_reference(text):
        return from_callable(user_code.load(text, folders), text, folders)
    if has_magic(text):
        matches = glob(str(path), recursive=True)  # noqa: PTH207 -- Path.glob takes no absolute pattern
        found = sorted(p for m in matches if (p := Path(m)).is_file())
        if not found:
            raise DataError("no file matches", where=text)
        return _from_files(found, text)
    raise DataError(
        "there is no such file or folder",
        where=text,
        hint="give a .npz, a folder, a dataset.toml, or module:callable",
    )


def _from_file(path: Path, text: str, names: Sequence[str], scalars: Sequence[str]) -> Source:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return columns(open_npz(path), text, names, scalars)
    if suffix == ".npy":
        return columns({"array": open_npy(path)}, text, names, scalars)
    if images.is_image(path):
        return _from_files([path], text)
    raise DataError(
        f"a file of kind {suffix or 'without suffix'!r} is no data set",
        where=text,
        hint="give a .npz, a .npy, a folder, a dataset.toml, or module:callable",
    )


def _from_member(path: Path, key: str, text: str, names: Sequence[str], scalars: Sequence[str]) -> Source:
    if not path.is_file():
        raise DataError("there is no such file", where=str(path))
    arrays = open_npz(path) if path.suffix == ".npz" else {}
    if key not in arrays:
        raise DataError(f"has no array {key!r}", where=str(path), hint=f"arrays there: {', '.join(arrays) or 'none'}")
    if len(names) != 1:
        raise DataError(f"one array for {len(names)} inputs", where=text, hint="name each input's source")
    return columns({names[0]: arrays[key]}, text, names, scalars)


def _from_folder(path: Path, text: str) -> Source:
    files = sorted(p for p in path.iterdir() if p.is_file() and (_kind(p) != "other"))
    if not files:
        raise DataError(
            "the folder has no .npy, .npz or image files",
            where=text,
            hint='sub-folders are not searched; a dataset.toml can name a glob such as "val/**/*.jpg"',
        )
    return _from_files(files, text)


def _kind(path: Path) -> str:
    return "image" if images.is_image(path) else {".npy": "npy", ".npz": "npz"}.get(path.suffix.lower(), "other")


def _from_files(files: Sequence[Path], text: str) -> Source:
    """One sample (or one batch) per file, in the order of their names."""
    kinds = {_kind(p) for p in files}
    if "other" in kinds:
        bad = next(p for p in files if _kind(p) == "other")
        raise DataError(f"{bad.name} is neither .npy, .npz nor an image", where=text)
    if len(kinds) > 1:
        raise DataError(
            f"holds files of several kinds: {', '.join(sorted(kinds))}", where=text, hint="keep one kind per folder"
        )
    kind = kinds.pop()

    def elements() -> Iterator[Located]:
        for path in files:
            yield str(path), _read_file(path, kind)

    return Source(text, elements, len(files) if kind == "image" else None, images=kind == "image")


def _read_file(path: Path, kind: str) -> Any:
    if kind == "image":
        return images.read(path)
    if kind == "npy":
        return open_npy(path).whole()
    return {k: a.whole() for k, a in open_npz(path).items()}
