"""Copies of the project's tree, for tests that build it, run it or spoil it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.conftest import ROOT

SOURCES = {"edgeopt": "edgeopt", "edgeopt/passes": "passes", "edgeopt/calibration": "calibration"}
DATA = {"edgeopt/devices": "devices"}


def ignored() -> list[str]:
    """The patterns of .gitignore as names, which is all that they are; no git is needed to follow them."""
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    names = [line.strip().rstrip("/") for line in lines if line.strip() and not line.startswith("#")]
    unsupported = [name for name in names if "/" in name or name.startswith("!")]
    if unsupported:
        raise ValueError(f".gitignore: plain names only, as tests/project_tree.py reads it, but found {unsupported}")
    return names


def copy(destination: Path, *, links: bool = True) -> Path:
    """The tree as an archive of it holds it: no .git, nothing ignored; ``links=False`` as ``cp -rL`` copies it."""
    shutil.copytree(ROOT, destination, symlinks=links, ignore=shutil.ignore_patterns(".git", *ignored()))
    return destination


def packaged() -> dict[str, Path]:
    """Path inside a wheel to the source file, for everything in the four folders of code and data."""
    skip = shutil.ignore_patterns(*ignored())
    found: dict[str, Path] = {}
    for package, name in {**SOURCES, **DATA}.items():
        for folder, folders, files in os.walk(ROOT / name):
            inside = Path(folder)
            folders[:] = [sub for sub in folders if sub not in skip(folder, folders) and not _is_link(inside / sub)]
            for file in set(files) - skip(folder, files):
                found[f"{package}/{(inside / file).relative_to(ROOT / name).as_posix()}"] = inside / file
    return found


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what a surrounding make, pytest or Python would change a child by."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHON", "ARGS", "CURDIR")
    kept = {k: v for k, v in os.environ.items() if k not in dropped and not k.startswith(("MAKE", "MFLAGS", "PYTEST"))}
    return {**kept, **changes}


def _is_link(folder: Path) -> bool:
    """Whether it is one of the two links, also where an archive was unpacked with copies in their place."""
    return folder.parent == ROOT / "edgeopt" and f"edgeopt/{folder.name}" in SOURCES
