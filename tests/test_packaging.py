"""The wheel and the sdist, what an installed edgeopt finds, and the tree without git and without ../shared."""

from __future__ import annotations

import email
import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import project_tree
from tests.conftest import ROOT

PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION: str = PYPROJECT["project"]["version"]
INFO = f"edgeopt-{VERSION}.dist-info"


def run(*command: str | Path, cwd: Path, errors: bool = False) -> str:
    """Standard output of a child process that must succeed; `errors` adds its standard error."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=project_tree.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout + (result.stderr if errors else "")


def build(tree: Path, out: Path, *kinds: str) -> Path:
    options = ("--no-isolation", "--quiet", *kinds, "--outdir")
    output = run(sys.executable, "-m", "build", *options, out, tree, cwd=tree, errors=True)
    assert "warning" not in output.lower(), output  # "would be ignored", a missing file, a deprecated setting
    return out


def wheel_files(folder: Path) -> dict[str, bytes]:
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that was built from it, of a copy of the tree."""
    folder = tmp_path_factory.mktemp("dist")
    return build(project_tree.copy(folder / "tree"), folder / "dist")


def test_the_wheel_holds_the_four_folders_and_nothing_else(dist: Path) -> None:
    files = wheel_files(dist)
    assert {name.split("/")[0] for name in files} == {"edgeopt", INFO}
    code = {name: content for name, content in files.items() if not name.startswith(f"{INFO}/")}
    assert code == {name: source.read_bytes() for name, source in project_tree.packaged().items()}


@pytest.mark.parametrize(
    "pattern",
    [
        "edgeopt/__init__.py",
        "edgeopt/py.typed",
        "edgeopt/schema/*.json",
        "edgeopt/assets/digits.onnx",
        "edgeopt/assets/digits_*.toml",
        "edgeopt/assets/digits_*.npz",
        "edgeopt/passes/__init__.py",
        "edgeopt/passes/fold_batchnorm.py",
        "edgeopt/calibration/__init__.py",
        "edgeopt/calibration/dataset.py",
        "edgeopt/devices/host.toml",
    ],
)
def test_the_wheel_holds(pattern: str, dist: Path) -> None:
    assert [name for name in wheel_files(dist) if Path(name).match(pattern)]


def test_the_metadata_of_the_wheel(dist: Path) -> None:
    files = wheel_files(dist)
    head, _, body = files[f"{INFO}/METADATA"].decode("utf-8").partition("\n\n")
    fields = email.message_from_string(head)
    assert (fields["Name"], fields["Version"]) == ("edgeopt", VERSION)
    assert fields["License-Expression"] == "Apache-2.0"
    assert files[f"{INFO}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert body == (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(fields.get_all("Provides-Extra", [])) == set(PYPROJECT["project"]["optional-dependencies"])
    assert files[f"{INFO}/top_level.txt"].split() == [b"edgeopt"]
    assert files[f"{INFO}/entry_points.txt"].split() == [b"[console_scripts]", b"edgeopt", b"=", b"edgeopt.cli:main"]


def test_the_sdist_holds_what_a_wheel_is_built_from(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        members = [member for member in sdist.getmembers() if not member.isdir()]
    assert all(member.isfile() for member in members)  # no links: they do not survive everywhere
    names = {member.name for member in members}
    assert {name.split("/")[0] for name in names} == {f"edgeopt-{VERSION}"}
    names = {name.split("/", 1)[1] for name in names}
    top = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in", "PKG-INFO", "setup.cfg"}
    sources = {source.relative_to(ROOT).as_posix() for source in project_tree.packaged().values()}
    assert {name for name in names if not name.startswith("edgeopt.egg-info/")} == top | sources


@pytest.mark.parametrize("kind", ["copied", "text"])
def test_a_tree_without_the_links_builds_the_same_wheel(kind: str, dist: Path, tmp_path: Path) -> None:
    tree = project_tree.copy(tmp_path / "tree", links=False)
    if kind == "text":  # a checkout with core.symlinks=false
        for name in ("passes", "calibration"):
            shutil.rmtree(tree / "edgeopt" / name)
            (tree / "edgeopt" / name).write_text(f"../{name}", encoding="utf-8")
    assert wheel_files(build(tree, tmp_path / "dist", "--wheel")) == wheel_files(dist)


@pytest.mark.parametrize("name", ["passes", "calibration"])
def test_the_links_lead_to_the_folders(name: str) -> None:
    link = ROOT / "edgeopt" / name
    if link.is_symlink():
        assert link.readlink() == Path("..") / name
    else:  # unpacked by a tool that follows links: then both must hold the same
        files = {path.relative_to(ROOT / name): path.read_bytes() for path in (ROOT / name).rglob("*.py")}
        assert files == {path.relative_to(link): path.read_bytes() for path in link.rglob("*.py")}


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel, and sees this one's packages as its requirements."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (wheel,) = dist.glob("*.whl")
    options = ("--quiet", "--disable-pip-version-check", "install", "--no-deps", "--no-index", "--no-compile")
    run(sys.executable, "-m", "pip", "--python", python, *options, wheel, cwd=folder)
    # A line in a .pth file adds a folder without reading the .pth files in it, so an editable edgeopt stays unseen.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "requirements.pth").write_text("\n".join(sorted(paths)), encoding="utf-8")
    return folder / "bin"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A user's folder with modules of the names that would clash if edgeopt installed its folders as they are."""
    for name in ("passes", "calibration", "devices"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n", encoding="utf-8")
    return tmp_path


def test_the_installed_script_and_module_tell_the_version(installed: Path, elsewhere: Path) -> None:
    assert VERSION in run(installed / "edgeopt", "--version", cwd=elsewhere)
    assert VERSION in run(installed / "python", "-m", "edgeopt", "--version", cwd=elsewhere)


def test_the_installed_package_is_the_wheels_own(installed: Path, elsewhere: Path) -> None:
    code = (
        "import edgeopt, edgeopt.passes, edgeopt.calibration;"
        "print(*(m.__file__ for m in (edgeopt, edgeopt.passes, edgeopt.calibration)), sep='\\n')"
    )
    files = run(installed / "python", "-W", "error", "-c", code, cwd=elsewhere).split("\n")[:3]
    assert all(Path(file).is_relative_to(installed.parent) for file in files), files


def test_the_installed_package_finds_its_devices(installed: Path, elsewhere: Path) -> None:
    code = "from edgeopt import device; print(*device.known(), device.load('host').path)"
    *names, host = run(installed / "python", "-c", code, cwd=elsewhere).split()
    assert names == sorted(path.stem for path in (ROOT / "devices").glob("*.toml"))
    assert Path(host).is_relative_to(installed.parent)


def test_the_installed_package_finds_its_assets_and_schema(installed: Path, elsewhere: Path) -> None:
    code = (
        "import json; from importlib.resources import files;"
        "print(files('edgeopt') / 'assets' / 'digits.onnx');"
        "print(*(len(json.loads(file.read_bytes())) for file in (files('edgeopt') / 'schema').iterdir()))"
    )
    model, schemas = run(installed / "python", "-c", code, cwd=elsewhere).splitlines()
    assert schemas
    assert json.loads(run(installed / "edgeopt", "inspect", model, "--json", cwd=elsewhere))["params"] > 0


def test_the_tests_are_found_in_a_tree_without_git_and_shared(tmp_path: Path) -> None:
    tree = project_tree.copy(tmp_path / "edgeopt")
    assert not (tree / ".git").exists()
    assert not (tree.parent / "shared").exists()
    collected = run(sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider", cwd=tree)
    assert "tests/test_packaging.py" in collected
    assert VERSION in run(sys.executable, "-m", "edgeopt", "--version", cwd=tree)


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            assert "+" not in specifier.version, f"{line}: a local version exists on some machines only"
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


def direct_requirements() -> list[Requirement]:
    project = PYPROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in (*PYPROJECT["build-system"]["requires"], *project["dependencies"], *extras)]


def test_the_pins_are_what_the_project_accepts() -> None:
    pinned = pins()
    refused = [str(r) for r in direct_requirements() if not r.specifier.contains(pinned[canonicalize_name(r.name)])]
    assert refused == []
    assert pinned["torch"] == "2.13.0"


def test_the_pins_cover_what_the_requirements_require() -> None:
    pinned, todo, seen = pins(), direct_requirements(), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in (requirement.extras or {""})
        ):
            continue
        if name in seen:
            continue
        seen.add(name)
        if name == "torch":  # what it requires depends on the build: the CUDA libraries are not pinned here
            continue
        todo += [Requirement(line) for line in metadata.requires(name) or []]
    assert seen - set(pinned) == set()
    assert {"numpy", "protobuf", "pluggy"} <= seen


def test_the_licence_is_the_standard_text() -> None:
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # Apache-2.0, 11358 bytes
