"""The command line: argparse, one sub-command per verb; printing and exit codes, no logic.

Exit codes: 0 done · 1 internal error · 2 bad usage or bad input · 3 done, but a budget could not be met ·
4 a check failed and no safe result exists · 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import shtab

from edgeopt import api, saving
from edgeopt.cli_options import COMMANDS, add_options
from edgeopt.errors import EdgeoptError, OutputError, UsageError
from edgeopt.report import SCHEMA, version
from edgeopt.terminal import Status, print_report


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that usage errors go the way of all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    result = _Parser(
        prog="edgeopt", description="Make a trained ONNX model smaller and faster, with proof.", allow_abbrev=False
    )
    result.add_argument("--version", action="version", version=f"edgeopt {version()}")
    shtab.add_argument_to(result, "--print-completion", help="print a completion script for this shell")
    commands = result.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        add_options(name, sub)
        sub.add_argument("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
        sub.add_argument("--quiet", action="store_true", help="print errors only")
        sub.add_argument("--verbose", action="store_true", help="print skips of passes too, and tracebacks of errors")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    as_json, verbose = "--json" in given, "--verbose" in given
    try:
        arguments = vars(parser().parse_args(given))
        return _run(arguments)
    except EdgeoptError as error:
        return _fail(error, error.exit_code, as_json, verbose)
    except SystemExit as stop:  # --help, --version, --print-completion
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("edgeopt: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has gone: nothing is left to say
        _discard_stdout()
        return 0
    except MemoryError as error:
        return _fail(UsageError(f"memory ran out: {error}", hint="use a smaller model or input"), 2, as_json, verbose)
    except OSError as error:  # no space, no temporary folder, too many open files: the machine's state, no bug
        text = f"the system refused: {error.strerror or error}"
        where = str(error.filename) if error.filename else None
        code = _fail(OutputError(text, where=where, hint="--verbose shows where"), 2, as_json, verbose)
        try:
            sys.stdout.flush()
        except OSError:  # it was stdout that failed: what is left in its buffer must not fail again at exit
            _discard_stdout()
        return code
    except Exception as error:  # noqa: BLE001 -- the last line of defence: a bug is reported as one
        return _fail(error, 1, as_json, verbose)


def _discard_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: Exception, code: int, as_json: bool, verbose: bool) -> int:
    """Report an error on stderr, and with --json on stdout too."""
    if verbose:
        traceback.print_exception(error)
    text = str(error)
    if code == 1:
        text = f"internal error: {type(error).__name__}: {error}\n  hint: this is a bug in edgeopt, please report it"
        text += "" if verbose else "; --verbose shows where"
    print(f"edgeopt: {text}", file=sys.stderr)
    if as_json:
        body: dict[str, Any] = {"type": type(error).__name__, "message": str(error), "exit_code": code}
        if isinstance(error, EdgeoptError):
            body |= {"message": error.message, "where": error.where, "hint": error.hint}
        with contextlib.suppress(OSError):  # stdout itself may be what failed
            text = json.dumps({"schema": SCHEMA, "error": {k: v for k, v in body.items() if v is not None}})
            print(text, flush=True)
    return code


def _run(arguments: dict[str, Any]) -> int:
    command = arguments.pop("command")
    as_json, quiet, verbose = (arguments.pop(k) for k in ("json", "quiet", "verbose"))
    output = arguments.get("output")
    if output is not None and command not in ("optimize", "demo"):
        del arguments["output"]
        saving.check_output(Path(output), inputs=[_input_path(arguments)])
    arguments.pop("print_completion", None)
    arguments = {k: v for k, v in arguments.items() if v is not None}  # the verbs have the same defaults
    if command == "export" and "format" not in arguments:
        arguments["format"] = "ort" if str(output).endswith(".ort") else "onnx"
    verb: Callable[..., Any] = getattr(api, command)
    positional = [arguments.pop(k) for k in ("model", "source", "a", "b") if k in arguments]
    with Status(enabled=not quiet and not as_json) as status:
        if command != "inspect":  # too quick to tell of progress
            arguments["progress"] = status.update
        result = verb(*positional, **arguments)
        if output is not None and command not in ("optimize", "demo"):
            result.save(output)
    report = result if isinstance(result, dict) else result.report
    if as_json:
        print(json.dumps(report, indent=1, allow_nan=False))
    elif not quiet:
        print_report(command, report, output=output, verbose=verbose)
    sys.stdout.flush()  # here and not at exit, where nothing could be said of a full disk or a closed pipe
    return int(getattr(result, "exit_code", 0))


def _input_path(arguments: dict[str, Any]) -> Path | None:
    source = arguments.get("model", arguments.get("source"))
    return Path(source) if isinstance(source, str) and Path(source).is_file() else None
