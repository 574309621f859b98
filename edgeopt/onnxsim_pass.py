"""onnxsim as one opt-in pass (``--with onnxsim``): in a child process with a time-out, its result verified as a whole.

It is foreign native code that may crash, hang or miscompile, so it never runs in the caller's process, and what
it returns is taken only if the interface is unchanged and the oracle agrees.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx_ir as ir

from edgeopt import files, saving, shapes
from edgeopt.errors import EdgeoptError, UsageError
from edgeopt.graph import input_specs, op_histogram, output_specs
from edgeopt.oracle import Oracle, PassReport
from edgeopt.rewrite import Hit, Skip

_TIMEOUT_S = 300.0
_CHILD = """
import sys, onnx, onnxsim
model, ok = onnxsim.simplify(sys.argv[1])
onnx.save(model, sys.argv[2])
"""


def run_onnxsim(model: ir.Model, oracle: Oracle, timeout_s: float = _TIMEOUT_S) -> tuple[ir.Model, PassReport]:
    """Simplify with onnxsim; the input comes back, with the reason, when anything is wrong with the result.

    Raises:
        UsageError: onnxsim is not installed.
    """
    if importlib.util.find_spec("onnxsim") is None:
        raise UsageError("onnxsim is not installed", where="--with onnxsim", hint="pip install 'edgeopt[onnxsim]'")
    report = PassReport("onnxsim")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="edgeopt-") as folder:
        source, target = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        saving.save(model, source)
        command = [sys.executable, "-P", "-c", _CHILD, str(source), str(target)]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL
            )
            problem = None if done.returncode == 0 else f"it ended with code {done.returncode}"
        except subprocess.TimeoutExpired:
            problem = f"it took longer than {timeout_s:g} s"
        result, problem = _checked(model, target, oracle, problem)
    if problem is not None:
        report.rolled_back.append(Skip("*", problem))
    elif op_histogram(result) != op_histogram(model):
        report.hits.append(Hit("*", ()))
    report.seconds = time.perf_counter() - started
    return (model if problem is not None else result), report


def _checked(model: ir.Model, target: Path, oracle: Oracle, problem: str | None) -> tuple[ir.Model, str | None]:
    if problem is not None:
        return model, problem
    try:
        result = shapes.infer(files.load(target.read_bytes()).model)
    except (EdgeoptError, OSError) as error:
        return model, f"its result cannot be read: {error}"
    if [s.name for s in input_specs(result)] != [s.name for s in input_specs(model)]:
        return model, "it changed the inputs"
    if output_specs(result) != output_specs(model):
        return model, "it changed the outputs"
    if oracle.problem is not None:
        return model, f"its result cannot be verified: {oracle.problem}"
    return result, oracle.disagreement(result)[0]
