"""The import direction, the ban on second copies, and the names that edgeopt exports."""

from __future__ import annotations

import ast
import pkgutil
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgeopt
from tests import project_tree
from tests.conftest import ROOT

BANNED = frozenset({"passes", "calibration", "devices"})
LINT = "from importlinter.cli import lint_imports_command as c; c(['--no-cache', '--no-logo'])"


def contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = settings["tool"]["importlinter"]["contracts"]
    return found


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    # -P and PYTHONPATH: the copy in `root`, not an installed edgeopt
    environment = project_tree.environment(PYTHONPATH=str(root), NO_COLOR="1", COLUMNS="200")
    command = [sys.executable, "-P", "-c", LINT]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


def test_every_layer_imports_only_downwards() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(contracts())} kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("edgeopt/errors.py", "from edgeopt import graph"),  # upwards
        ("edgeopt/graph.py", "def late() -> None:\n    import edgeopt.api"),  # upwards, later
        ("edgeopt/passes/__init__.py", "import edgeopt.calibration"),  # sideways, through the link
        ("edgeopt/calibration/__init__.py", "from edgeopt import passes"),
    ],
)
def test_a_planted_import_breaks_the_contract(file: str, line: str, tmp_path: Path) -> None:
    root = project_tree.copy(tmp_path / "edgeopt")
    with (root / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    result = lint_imports(root)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "1 broken" in result.stdout


def test_every_module_has_its_layer() -> None:
    layers = [name.strip() for contract in contracts() for layer in contract["layers"] for name in layer.split("|")]
    listed = [name.removeprefix("edgeopt.") for name in layers]
    assert len(listed) == len(set(listed))
    assert set(listed) == modules()


def banned_imports(source: str) -> Iterator[str]:
    """Imports of the top-level folders under their own names, each as it would stand in the code."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__", "importorskip"):
                names = [str(node.args[0].value)]
        yield from (name for name in names if name.split(".")[0] in BANNED)


def python_files() -> list[Path]:
    skip = shutil.ignore_patterns(*project_tree.ignored())
    names = [*project_tree.SOURCES.values(), "tests"]
    files = [path for name in names for path in sorted((ROOT / name).rglob("*.py"))]
    return [path for path in files if not skip("", list(path.relative_to(ROOT).parts))]


@pytest.mark.parametrize("folder", ["edgeopt", "passes", "calibration", "tests"])
def test_no_file_imports_a_folder_by_its_own_name(folder: str) -> None:
    files = [path for path in python_files() if path.relative_to(ROOT).parts[0] == folder]
    assert files
    found = {str(path): list(banned_imports(path.read_text(encoding="utf-8"))) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import passes", ["passes"]),
        ("import numpy, calibration.dataset as d", ["calibration.dataset"]),
        ("from passes.dead_code import x", ["passes.dead_code"]),
        ("def f():\n    from devices import host", ["devices"]),
        ("importlib.import_module('passes.dead_code')", ["passes.dead_code"]),
        ("__import__('calibration')", ["calibration"]),
        ("from edgeopt import passes, calibration", []),
        ("import edgeopt.passes as passes", []),
        ("from . import passes\nfrom .passes import x", []),
        ("passes = open('passes')", []),
    ],
)
def test_what_counts_as_importing_a_folder(source: str, names: list[str]) -> None:
    assert list(banned_imports(source)) == names


def modules() -> set[str]:
    """Everything with code that is imported as ``edgeopt.<name>``; folders of data have no ``__init__``."""
    return {module.name for module in pkgutil.iter_modules(edgeopt.__path__)}


def test_a_verb_and_a_module_never_share_a_name() -> None:
    # After `import edgeopt.profile`, the attribute would be the module and no longer the verb.
    assert set(edgeopt.__all__) & modules() == set()


def test_all_is_sorted() -> None:
    # The order of ruff's RUF022: constants, classes, the rest.
    def key(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2), name

    names = list(edgeopt.__all__)
    assert names == sorted(set(names), key=key)


def test_all_is_complete() -> None:
    missing = [name for name in edgeopt.__all__ if not hasattr(edgeopt, name)]
    assert missing == []
    tree = ast.parse((ROOT / "edgeopt" / "__init__.py").read_text(encoding="utf-8"))
    bound: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Assign):
            bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    assert {name for name in bound if not name.startswith("_")} <= set(edgeopt.__all__)
