"""The user's own readers and metrics: ``module:callable`` and ``file.py:callable``.

A module is looked for in the given folders first (the dataset.toml's, then the current one), then where Python
always looks. Whatever the user's code raises becomes a DataError that names it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeopt.errors import DataError, EdgeoptError

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_MODULE = re.compile(rf"(?P<module>{_NAME}):(?P<name>{_NAME})")
_FILE = re.compile(rf"(?P<file>.+\.py):(?P<name>{_NAME})")


def is_reference(text: str) -> bool:
    """Whether the text has the form ``module:callable`` or ``path/file.py:callable``."""
    return bool(_MODULE.fullmatch(text) or _FILE.fullmatch(text))


@contextlib.contextmanager
def importable(folders: Sequence[Path]) -> Iterator[None]:
    """Let imports find modules in these folders, first folder first, for the duration of the block."""
    added = [str(f) for f in folders]
    sys.path[:0] = added
    try:
        yield
    finally:
        for entry in added:
            with contextlib.suppress(ValueError):  # the user's code may have removed it
                sys.path.remove(entry)


@contextlib.contextmanager
def guarded(reference: str, folders: Sequence[Path] = ()) -> Iterator[None]:
    """Run user code: its folders are importable, and what it raises becomes a DataError.

    Raises:
        DataError: the code raised, or tried to leave the program.
    """
    try:
        with importable(folders):
            yield
    except EdgeoptError:
        raise
    except (Exception, SystemExit) as error:
        text = f"raised {type(error).__name__}: {error}" if str(error) else f"raised {type(error).__name__}"
        raise DataError(text, where=reference) from error


def load(reference: str, folders: Sequence[Path]) -> Callable[..., Any]:
    """The object behind a reference.

    Args:
        reference: ``module:callable``, or ``path/file.py:callable`` with a path relative to the first folder.
        folders: Where modules are looked for before Python's own path.

    Raises:
        DataError: no such module, file or name, the import fails, the object is not callable, or a module of
            that name from another place is loaded already.
    """
    if (match := _FILE.fullmatch(reference)) is not None:
        module = _load_file(Path(match["file"]), reference, folders)
    elif (match := _MODULE.fullmatch(reference)) is not None:
        module = _load_module(match["module"], reference, folders)
    else:
        raise DataError("is not of the form module:callable", where=reference)
    found: Any = module
    for part in match["name"].split("."):
        if not hasattr(found, part):
            names = sorted(n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_"))
            raise DataError(f"has no {part!r}", where=reference, hint=f"callables there: {', '.join(names) or 'none'}")
        found = getattr(found, part)
    if not callable(found):
        raise DataError(f"is a {type(found).__name__}, not something that can be called", where=reference)
    return found  # type: ignore[no-any-return]


def _load_module(name: str, reference: str, folders: Sequence[Path]) -> ModuleType:
    wanted = [
        candidate.resolve()
        for folder in folders
        for candidate in (folder / (name.replace(".", "/") + ".py"), folder / name.replace(".", "/") / "__init__.py")
        if candidate.is_file()
    ]
    try:
        with guarded(reference, folders):
            module = importlib.import_module(name)
    except DataError as error:
        if isinstance(error.__cause__, ModuleNotFoundError) and error.__cause__.name == name.split(".")[0]:
            places = ", ".join(str(f) for f in folders)
            raise DataError(
                f"there is no module {name!r}", where=reference, hint=f"looked in {places} and in Python's own path"
            ) from error
        raise
    loaded = getattr(module, "__file__", None)
    if wanted and loaded is not None and Path(loaded).resolve() not in wanted:
        # Python keeps one module per name: taking the cached one would silently read someone else's data.
        raise DataError(
            f"a module {name!r} is loaded already from {loaded}, but {wanted[0]} is meant",
            where=reference,
            hint=f"rename one of them, or write the file: {wanted[0].name}:…",
        )
    return module


def _load_file(path: Path, reference: str, folders: Sequence[Path]) -> ModuleType:
    full = path if path.is_absolute() or not folders else folders[0] / path
    full = full.resolve()
    if not full.is_file():
        raise DataError(f"there is no file {full}", where=reference)
    name = f"_edgeopt_user_{full.stem}_{zlib.crc32(str(full).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None:  # pragma: no cover -- a .py file always has a loader
        raise DataError("cannot be imported", where=reference)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        with guarded(reference, [full.parent, *folders]):
            spec.loader.exec_module(module)
    except DataError:
        del sys.modules[name]
        raise
    return module
