"""The options of each sub-command. Their names are the parameters of the verb of the same name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import shtab

from edgeopt.calibration.statistics import RANGES
from edgeopt.decisions import AUTO
from edgeopt.effort import EFFORTS

COMMANDS = {
    "inspect": "show operators, sizes, MACs, and what is odd or could be improved",
    "simplify": "apply all exact passes, each rewrite checked against the original",
    "quantize": "quantize all that can be to int8, from calibration data",
    "profile": "measure latency and memory on this machine, whole and per node",
    "compare": "how well a second model agrees with the first one, on data",
    "export": "torch module to ONNX; ONNX to onnxruntime's .ort, another opset, or float16",
    "optimize": "do it all: pull every lever, measure, ship the fastest model within the budgets",
    "demo": "optimize the embedded example end to end",
}
_DATA = "x.npz, a folder, dataset.toml, or module:callable"


def add_options(command: str, sub: argparse.ArgumentParser) -> None:
    """Add the options of one sub-command."""
    _ADDERS[command](sub)


def _file(sub: argparse.ArgumentParser, name: str, text: str) -> None:
    sub.add_argument(name, metavar=name.upper(), help=text).complete = shtab.FILE  # type: ignore[attr-defined]


def _model(sub: argparse.ArgumentParser) -> None:
    _file(sub, "model", "an .onnx file")


def _output(sub: argparse.ArgumentParser, text: str = "the file to write", required: bool = True) -> None:
    sub.add_argument("-o", "--output", required=required, metavar="OUT", help=text)


def _run(sub: argparse.ArgumentParser, *, defaults: bool = True, seed: bool = True) -> None:
    sub.add_argument("--threads", type=int, default=1 if defaults else None, help="onnxruntime's threads (default 1)")
    if seed:
        sub.add_argument("--seed", type=int, default=0 if defaults else None, help="of random inputs (default 0)")


def _shapes(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--input-shape",
        action="append",
        metavar="NAME=1,3,224,224",
        help="fix the dynamic dimensions of an input; may be repeated",
    )


def _fix_weights(sub: argparse.ArgumentParser, *, defaults: bool = True) -> None:
    sub.add_argument(
        "--fix-weights",
        action="store_true" if defaults else argparse.BooleanOptionalAction,
        default=False if defaults else None,
        help="initializers that are listed as inputs become constants, which nobody can override any more",
    )


def _data(sub: argparse.ArgumentParser, name: str, text: str, required: bool = True) -> None:
    sub.add_argument(name, required=required, metavar="DATA", help=f"{text}: {_DATA}")


def _effort(sub: argparse.ArgumentParser, defaults: bool = True) -> None:
    default = "normal" if defaults else None
    sub.add_argument("--effort", choices=tuple(EFFORTS), default=default, help="how much work to do (default normal)")


def _range(sub: argparse.ArgumentParser, choices: Sequence[str], default: str | None, text: str) -> None:
    sub.add_argument("--range", choices=choices, default=default, help=f"how ranges are chosen (default {text})")


def _keep_float(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--keep-float",
        action="append",
        metavar="NODE",
        help="a node, or an operator type, that stays float; may be repeated",
    )


def _inspect(sub: argparse.ArgumentParser) -> None:
    _model(sub)
    _shapes(sub)


def _simplify(sub: argparse.ArgumentParser) -> None:
    _model(sub)
    _output(sub)
    sub.add_argument("--explain", action="store_true", help="list every rewritten node, and why others were skipped")
    sub.add_argument("--no-verify", dest="verify", action="store_false", help="trust the rewrites, check nothing")
    sub.add_argument(
        "--with", dest="with_", action="append", default=[], choices=["onnxsim"], help="run a foreign simplifier first"
    )
    sub.add_argument("--device", help="leave out what does not pay there; on host, by measuring")
    sub.add_argument("--opset", type=int, help="convert to this ONNX opset, up or down (default: keep)")
    _shapes(sub)
    _fix_weights(sub)
    _run(sub)


def _quantize(sub: argparse.ArgumentParser) -> None:
    _model(sub)
    _output(sub)
    _data(sub, "--calib", "calibration data")
    sub.add_argument("--device", default="host", help="a device or integer-kernel preset (default host)")
    _range(sub, RANGES, "minmax", "minmax")
    _effort(sub)
    _keep_float(sub)
    _shapes(sub)
    _fix_weights(sub)
    _run(sub)


def _profile(sub: argparse.ArgumentParser) -> None:
    _model(sub)
    sub.add_argument("--device", action="append", default=None, help="where; may be repeated (default host)")
    _data(sub, "--data", "data whose first sample is fed (default: random inputs)", required=False)
    sub.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the model (default); --no-measure prints sizes and modelled memory only",
    )
    _shapes(sub)
    _run(sub)


def _compare(sub: argparse.ArgumentParser) -> None:
    _file(sub, "a", "the reference, an .onnx file")
    _file(sub, "b", "the other model")
    _data(sub, "--data", "what both run on, with labels for scores")
    sub.add_argument("--metric", help="top1, top5 or module:function")
    sub.add_argument("--limit", type=int, help="use the first so many samples only")
    _shapes(sub)
    _run(sub, seed=False)


def _export(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("source", metavar="SRC", help="an .onnx file, or module:callable giving (torch module, inputs)")
    _output(sub)
    sub.add_argument("--format", choices=("onnx", "ort"), help="default: by the ending of OUT")
    sub.add_argument("--opset", type=int, help="ONNX opset: of an exported torch module, or to convert a model to")
    sub.add_argument(
        "--precision", choices=("fp32", "fp16"), default="fp32", help="fp16: float16 inside (default fp32)"
    )
    _keep_float(sub)
    _shapes(sub)
    sub.add_argument("--seed", type=int, default=0, help="of random inputs (default 0)")


def _optimize(sub: argparse.ArgumentParser) -> None:
    _model(sub)
    _output(sub, "the folder to write: model.onnx, report.json, recipe.toml")
    _data(sub, "--calib", "calibration data")
    _data(sub, "--eval", "data to score on (default: the calibration data)", required=False)
    sub.add_argument("--metric", help="top1, top5 or module:function")
    sub.add_argument("--device", help="where to measure (default host)")
    sub.add_argument("--max-drop", type=float, help="largest loss of score (default 0.01)")
    sub.add_argument("--max-latency-ms", type=float, help="budget: median latency")
    sub.add_argument("--max-memory-bytes", type=int, help="budget: peak memory of the runtime")
    sub.add_argument("--max-file-bytes", type=int, help="budget: size of the model file")
    _effort(sub, defaults=False)
    _range(sub, (AUTO, *RANGES), None, "auto: by the noise at the outputs")
    _keep_float(sub)
    sub.add_argument("--recipe", metavar="R.toml", help="replay the options and decisions of an earlier run")
    _shapes(sub)
    _fix_weights(sub, defaults=False)
    _run(sub, defaults=False)


def _demo(sub: argparse.ArgumentParser) -> None:
    _output(sub, "the folder to write (default edgeopt-demo)", required=False)
    sub.set_defaults(output="edgeopt-demo")
    _effort(sub)
    _run(sub, seed=False)


_ADDERS = {
    "inspect": _inspect,
    "simplify": _simplify,
    "quantize": _quantize,
    "profile": _profile,
    "compare": _compare,
    "export": _export,
    "optimize": _optimize,
    "demo": _demo,
}
