"""The README's commands, run as written.

In a fenced block tagged ``console``, a line that starts with ``$ `` is a command; a backslash at its end continues
it on the next line. The other lines are its output, for the reader. The commands run in order, in the root of a
copy of the tree, with ``edgeopt`` and ``python`` on the PATH and in .venv/bin. Each must end with exit code 0, or with
the one that a comment at its end states: ``# exit 3``. ``make ...`` is left out (it is what runs this test).
A block tagged ``python`` is a program, and runs in the same place. ``no-run`` after either tag leaves the block out.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeopt.passes import EXACT
from tests import project_tree
from tests.conftest import ROOT

FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*(.*)")
EXIT = re.compile(r"#\s*exit (\d+)\s*$")
SECONDS = 600  # a hang, not a slow command, is what this is for


@dataclass(frozen=True)
class Command:
    """One command of a document: its line, what the shell is given, and the exit code that is promised."""

    line: int
    text: str
    code: int = 0


def commands(document: str) -> list[Command]:
    """The commands of the blocks that are to be run, in order.

    Raises:
        ValueError: a block that is not closed, or a console block without a command.
    """
    found: list[Command] = []
    lines = enumerate(document.splitlines(), start=1)
    for opening, line in lines:
        fence = FENCE.fullmatch(line)
        if fence is None:
            continue
        block: list[tuple[int, str]] = []
        for number, inner in lines:
            if re.fullmatch(rf"\s*{fence[1][0]}{{{len(fence[1])},}}\s*", inner):
                break
            block.append((number, inner))
        else:
            raise ValueError(f"line {opening}: the block is not closed")
        tags = fence[2].split()
        if tags[:1] == ["console"]:
            parsed = _parse(block)
            if not parsed:
                raise ValueError(f"line {opening}: a console block without a line that starts with '$ '")
            if "no-run" not in tags:
                found += [command for command in parsed if not re.match(r"make\b", command.text)]
        elif tags == ["python"]:
            program = textwrap.dedent("\n".join(inner for _, inner in block))
            found.append(Command(opening, f"python -c {shlex.quote(program)}"))
    return found


def _parse(block: list[tuple[int, str]]) -> list[Command]:
    found: list[Command] = []
    rest = iter(block)
    for number, raw in rest:
        line = raw.strip()
        if not line.startswith("$ "):
            continue
        text = line[2:]
        while text.endswith("\\"):
            _, more = next(rest, (0, ""))
            text = text[:-1].rstrip() + " " + more.strip().removeprefix("> ").lstrip()
        stated = EXIT.search(text)
        found.append(Command(number, EXIT.sub("", text).strip(), int(stated[1]) if stated else 0))
    return found


SAMPLE = """\
# Title

    $ indented text is no block

```console
$ make demo
$ edgeopt inspect a.onnx   # what is in it
ops  12
$ edgeopt optimize a.onnx -o out \\
>     --calib c.npz --max-latency-ms 0.001   # exit 3
```

```python
if True:
    print("it's")
```

```text
$ not a console
```

~~~console
$ edgeopt --version
~~~

1. In a list:
   ```console
   $ make_more
   ```

```console no-run
$ pip install edgeopt
```

```python no-run
import elsewhere
```
"""


def test_the_commands_of_a_document() -> None:
    assert commands(SAMPLE) == [
        Command(7, "edgeopt inspect a.onnx   # what is in it"),
        Command(9, "edgeopt optimize a.onnx -o out --calib c.npz --max-latency-ms 0.001", 3),
        Command(13, "python -c " + shlex.quote('if True:\n    print("it\'s")')),
        Command(23, "edgeopt --version"),
        Command(28, "make_more"),
    ]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("```console\n$ a\n", "line 1: the block is not closed"),
        ("\n```console\nedgeopt demo\n```\n", "line 2: a console block without"),
        ("```console no-run\n```\n", "line 1: a console block without"),
        ("~~~~console\n$ a\n~~~\n", "line 1: the block is not closed"),
    ],
)
def test_a_document_with_a_broken_block(document: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        commands(document)


def run_all(todo: list[Command], folder: Path) -> None:
    """Runs the commands in the folder.

    Raises:
        AssertionError: one ended with another exit code than it states.
    """
    scripts = folder / ".venv" / "bin"
    scripts.mkdir(parents=True)
    for name, arguments in {"python": "", "edgeopt": "-m edgeopt"}.items():
        (scripts / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', encoding="utf-8")
        (scripts / name).chmod(0o755)
    environment = project_tree.environment(PATH=f"{scripts}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=str(folder))
    for command in todo:
        result = subprocess.run(
            ["bash", "-c", command.text],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        if result.returncode != command.code:
            raise AssertionError(
                f"line {command.line}: {command.text}\n"
                f"exit code {result.returncode}, expected {command.code}\n{result.stdout[-4000:]}"
            )


def test_commands_run_in_order_in_one_folder(tmp_path: Path) -> None:
    run_all(
        [Command(1, "echo 1 > a"), Command(2, "grep 1 a"), Command(3, "grep 2 a", 1), Command(4, "exit 3", 3)], tmp_path
    )
    assert (tmp_path / "a").read_text(encoding="utf-8") == "1\n"


@pytest.mark.parametrize(
    ("text", "code", "seen"), [("ls nowhere", 0, "nowhere"), ("true", 3, "exit code 0, expected 3")]
)
def test_another_exit_code_fails_and_shows_the_output(text: str, code: int, seen: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=f"(?s)line 7: {text}.*{seen}"):
        run_all([Command(7, text, code)], tmp_path)


def test_the_commands_of_the_readme_work(tmp_path: Path) -> None:
    todo = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert todo, "README.md holds no console block that can be run"
    run_all(todo, project_tree.copy(tmp_path / "edgeopt"))


def test_the_table_of_passes_is_the_pipeline() -> None:
    """In order, each with the first line of its module."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(
        r"^\| `(\w+)` \| (.*) \|$", text.split("| pass, in this order |")[1].split("\n\n")[0], re.MULTILINE
    )
    expected = []
    for rule in EXACT:
        doc = importlib.import_module(type(rule).__module__).__doc__ or ""
        expected.append((rule.name, doc.splitlines()[0].rstrip(".").replace("``", "`")))
    assert listed == expected
