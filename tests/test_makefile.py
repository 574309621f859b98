"""How `make venv` decides what to do, shown with an interpreter that only writes down what it is asked; .ci/run."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import project_tree
from tests.conftest import ROOT

# Answers `-c` as the real Python does, and `-m venv --clear DIR` by a DIR/bin/python that is this script again.
# It writes its arguments to the file $LOG, and fails where they hold $FAIL.
FAKE = """\
#!/bin/sh
echo "$*" >> "$LOG"
if [ -n "$FAIL" ]; then case "$*" in *$FAIL*) exit 1;; esac; fi
case "$1 $2" in
    "-c "*) exec {python} "$@";;
    "-m venv") rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python";;
esac
"""


class Checkout:
    """A copy of the tree, whose `make` uses the fake interpreter.

    Attributes:
        root: The copy.
        log: What the interpreter was asked since the last `make`, one line each.
    """

    def __init__(self, root: Path) -> None:
        self.root = project_tree.copy(root)
        self.log: list[str] = []
        self._python = root.parent / "python"
        self._python.write_text(FAKE.format(python=sys.executable), encoding="utf-8")
        self._python.chmod(0o755)

    def make(self, *arguments: str, code: int = 0, fail: str = "", python: Path | None = None) -> str:
        log = self.root.parent / "log"
        log.write_text("", encoding="utf-8")
        result = subprocess.run(
            ["make", "--no-print-directory", f"PYTHON={python or self._python}", *arguments],
            cwd=self.root,
            env=project_tree.environment(LOG=str(log), FAIL=fail),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert result.returncode == code, result.stdout
        self.log = log.read_text(encoding="utf-8").splitlines()
        return result.stdout

    @property
    def stamp(self) -> Path:
        return self.root / ".venv" / ".stamp"

    @property
    def cleared(self) -> bool:
        return any(line.startswith("-m venv --clear") for line in self.log)

    @property
    def installed(self) -> list[str]:
        return [line for line in self.log if " install " in line]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "edgeopt")


def test_venv_installs_the_project_with_all_extras_under_the_constraints(checkout: Checkout) -> None:
    checkout.make("venv")
    assert checkout.cleared
    assert checkout.stamp.is_file()
    assert all("-c constraints.txt" in line for line in checkout.installed)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert checkout.installed[-1].endswith(f"-e .[{','.join(extras)}]")


def test_a_finished_venv_is_left_alone(checkout: Checkout) -> None:
    checkout.make("venv")
    checkout.make("-q", "venv")
    checkout.make("venv")
    assert checkout.log == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_renew_the_venv_in_place(name: str, checkout: Checkout) -> None:
    checkout.make("venv")
    later = checkout.stamp.stat().st_mtime + 5
    os.utime(checkout.root / name, (later, later))
    checkout.make("-q", "venv", code=1)
    assert "renewing" in checkout.make("venv")
    assert not checkout.cleared
    assert checkout.installed


@pytest.mark.parametrize("fail", ["venv", "install", "--no-build-isolation"])
def test_an_interrupted_set_up_starts_again_from_nothing(fail: str, checkout: Checkout) -> None:
    checkout.make("venv", code=2, fail=fail)
    assert not checkout.stamp.exists()
    checkout.make("venv")
    assert checkout.cleared
    assert checkout.stamp.is_file()


def test_an_interrupted_renewal_starts_again_from_nothing(checkout: Checkout) -> None:
    checkout.make("venv")
    later = checkout.stamp.stat().st_mtime + 5
    os.utime(checkout.root / "constraints.txt", (later, later))
    checkout.make("venv", code=2, fail="install")
    checkout.make("venv")
    assert checkout.cleared


def test_a_venv_that_was_copied_along_is_made_anew(checkout: Checkout) -> None:
    checkout.make("venv")
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    checkout.make("-q", "venv", code=1)
    checkout.make("venv")
    assert checkout.cleared


def test_a_venv_whose_interpreter_is_gone_is_made_anew(checkout: Checkout) -> None:
    checkout.make("venv")
    (checkout.root / ".venv" / "bin" / "python").unlink()
    later = checkout.stamp.stat().st_mtime + 5
    os.utime(checkout.root / "constraints.txt", (later, later))
    checkout.make("venv")
    assert checkout.cleared


def test_an_old_python_is_refused_by_name(checkout: Checkout) -> None:
    old = checkout.root.parent / "python3.9"
    script = f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9); $2"\n'
    old.write_text(script, encoding="utf-8")
    old.chmod(0o755)
    output = checkout.make("venv", code=2, python=old)
    assert "edgeopt needs Python 3.11 or newer" in output
    assert not checkout.stamp.exists()


BENCHES = ["bench", "bench-simplify", "bench-random", "bench-order"]


@pytest.mark.parametrize("target", ["demo", "test", "lint", *BENCHES, "dist"])
def test_every_target_that_needs_the_venv_makes_it(target: str, checkout: Checkout) -> None:
    assert "install" in checkout.make("-n", target)
    checkout.make("venv")
    assert "install" not in checkout.make("-n", target)


def test_clean_leaves_what_an_archive_holds(checkout: Checkout) -> None:
    before = set(checkout.root.rglob("*"))
    checkout.make("venv")
    for name in project_tree.ignored():
        (checkout.root / name.replace("*", "x")).mkdir(exist_ok=True)
    (checkout.root / "passes" / "__pycache__").mkdir()
    checkout.make("clean")
    assert set(checkout.root.rglob("*")) == before


def test_make_alone_lists_the_targets(checkout: Checkout) -> None:
    output = checkout.make()
    targets = [line.split()[1] for line in output.splitlines()]
    assert targets == [
        "help",
        "venv",
        "demo",
        "test",
        "lint",
        "bench",
        "bench-simplify",
        "bench-random",
        "bench-order",
        "dist",
        "clean",
    ]


@pytest.mark.parametrize(("fail", "steps"), [("", ["venv", "lint", "test"]), ("lint", ["venv", "lint"])])
def test_ci_runs_lint_and_tests_from_any_folder(fail: str, steps: list[str], checkout: Checkout) -> None:
    folder = checkout.root.parent
    make = folder / "make"
    make.write_text(f'#!/bin/sh\necho "$PWD $2"; cat; [ "$2" != "{fail}" ]\n', encoding="utf-8")
    make.chmod(0o755)
    result = subprocess.run(
        [checkout.root / ".ci" / "run"],
        cwd=folder,
        env=project_tree.environment(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}"),
        input="what a terminal would say",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout.splitlines() == [f"{checkout.root} {step}" for step in steps]
    assert result.returncode == (1 if fail else 0)
