"""How much of each model ``quantize`` brings into integer kernels: ``python -m tests.bench.coverage``.

Counted are Conv, Gemm and MatMul nodes: those that have an int8 kernel at all (``allowed``, written here anew from
the rules of onnxruntime, not asked of the pass), and of these the ones that onnxruntime's own optimized graph
computes in integers. Ranges come from random inputs, which is enough for this. Writes results/coverage.md; exit code 1
if a model falls short: 98 % of the MACs, 90 % of the nodes.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from edgeopt import files
from edgeopt.calibration import Sample
from edgeopt.errors import EdgeoptError
from edgeopt.feeds import runnable_feed
from edgeopt.graph import attribute, constant_tensor, dims_of, graphs, input_or_none, input_specs, is_op
from edgeopt.kernels import kernels
from edgeopt.ops import count
from edgeopt.oracle import Oracle
from edgeopt.quant import Scheme
from edgeopt.quantizer import quantize
from edgeopt.runtime import Session
from edgeopt.simplifier import simplify
from tests.bench.shared_data import HERE, shared_folder

MACS_WANTED, NODES_WANTED = 0.98, 0.90
_SAMPLES = 4
_LONGEST = 120  # characters of an error


@dataclass
class Coverage:
    """One model.

    Attributes:
        model: Its name.
        nodes: Conv, Gemm and MatMul nodes: in int8, allowed, all.
        macs: Their multiply-accumulates, in the same order.
        why: Operator and reason of those that stay float, with their number; the allowed ones first.
        error: Why the model could not be quantized at all.
    """

    model: str
    nodes: tuple[int, int, int] = (0, 0, 0)
    macs: tuple[int, int, int] = (0, 0, 0)
    why: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def short(self) -> str:
        """Which share is too small, or nothing."""
        (made, allowed, _), (done, possible, _) = self.nodes, self.macs
        if done < MACS_WANTED * possible:
            return f"{done / possible:.1%} of the MACs"
        return f"{made / allowed:.1%} of the nodes" if made < NODES_WANTED * allowed else ""


def allowed(node: ir.Node) -> bool:
    """Whether onnxruntime has an int8 kernel for this Conv, Gemm or MatMul of a float model's main graph."""
    x, weight = input_or_none(node, 0), input_or_none(node, 1)
    if x is None or weight is None or any(v.dtype != ir.DataType.FLOAT for v in (x, weight)):
        return False
    stored = [constant_tensor(v) is not None for v in (x, weight)]
    if all(stored) or (node.op_type == "Conv" and not stored[1]):
        return False
    bias = input_or_none(node, 2)
    if bias is not None and constant_tensor(bias) is None:
        return False
    if is_op(node, "Gemm"):
        factors = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
        return not attribute(node, "transA", 0) and factors == (1.0, 1.0)
    return is_op(node, "Conv") or all(len(dims_of(v) or (0, 0)) > 1 for v in (x, weight))


def covered(path: Path) -> Coverage:
    """Simplify and quantize one model, and look at what onnxruntime makes of it."""
    row = Coverage(path.stem)
    try:
        loaded = files.load(path)
        simplified = simplify(loaded.model, Oracle(loaded.model)).model
        session = Session(simplified)
        feeds = [runnable_feed(session, input_specs(simplified), seed) for seed in range(_SAMPLES)]
        samples = [Sample(feed, None) for feed in feeds]
        result = quantize(simplified, samples, Scheme(), Oracle(simplified, feeds[:1]))
        made = kernels(result.model).integer if not result.nothing_to_do else {}
    except EdgeoptError as error:
        row.error = error.message.splitlines()[0][:_LONGEST]
        return row
    macs, reasons = count(simplified).by_node, {n["node"]: n["reason"] for n in result.int8["float_nodes"]}
    inner = {n.name for g in list(graphs(simplified))[1:] for n in g}
    layers = [n for g in graphs(simplified) for n in g if is_op(n, "Conv", "Gemm", "MatMul")]
    possible = [n for n in layers if n.name not in inner and allowed(n)]
    in_int8 = [n for n in possible if n.name in made]
    row.nodes = len(in_int8), len(possible), len(layers)
    done, may, everything = (sum(macs.get(n.name or "", 0) for n in of) for of in (in_int8, possible, layers))
    row.macs = done, may, everything
    left = [n for n in layers if n.name not in made]
    left.sort(key=lambda n: n not in possible)
    counted = Counter(
        (n.op_type, n in possible, reasons.get(n.name or "", "not found in the optimized graph")) for n in left
    )
    row.why = [f"{k} × {op}{'' if known else ' (not allowed)'}: {why}" for (op, known, why), k in counted.items()]
    return row


def table(rows: list[Coverage]) -> str:
    """Markdown; shares are of what is allowed, MACs in millions."""
    done = [r for r in rows if not r.error and r.nodes[2]]
    lines = [
        "# int8 coverage of `quantize`",
        "",
        "Conv, Gemm and MatMul nodes that run in integer kernels, read from onnxruntime's optimized graph, of those",
        "that have such a kernel (`python -m tests.bench.coverage`).",
        "",
        "| model | nodes int8 / allowed / all | share | MACs allowed (M) | share int8 | what stays float |",
        "|---|---|---|---|---|---|",
    ]
    for row in done:
        (made, possible, everything), (macs, may, _) = row.nodes, row.macs
        shares = f"{made / possible:.1%} | {may / 1e6:.2f} | {macs / may:.1%}" if possible and may else "- | - | -"
        lines.append(f"| {row.model} | {made} / {possible} / {everything} | {shares} | {'; '.join(row.why) or '-'} |")
    sums = [sum(r.nodes[k] for r in done) for k in (0, 1, 2)], [sum(r.macs[k] for r in done) for k in (0, 1)]
    (made, possible, everything), (macs, may) = sums
    if possible and may:
        shares = f"{made / possible:.1%} | {may / 1e6:.2f} | {macs / may:.1%}"
        lines.append(f"| **all** | {made} / {possible} / {everything} | {shares} | |")
    lines += ["", f"Without any such node: {len([r for r in rows if not r.error and not r.nodes[2]])} models."]
    if failed := [r for r in rows if r.error]:
        lines += ["", "Not quantized:", "", *(f"- {r.model}: {r.error}" for r in failed)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run on all models, or those named."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", metavar="NAME", help="some only; not saved")
    asked = parser.parse_args()
    found = [p for name in ("models", "corpus") for p in sorted((shared_folder() / "data" / name).glob("*.onnx"))]
    if not found:
        print("the benchmark needs ../shared/data, which is not beside this checkout", file=sys.stderr)
        return 2
    rows = []
    for path in [p for p in found if not asked.models or p.stem in asked.models]:
        rows.append(covered(path))
        last = rows[-1]
        print(f"{last.model}: {last.nodes} nodes, {last.error or last.short or 'enough'}", file=sys.stderr, flush=True)
    text = table(rows)
    print(text)
    if not asked.models:
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / "coverage.md").write_text(text, encoding="utf-8")
    return 1 if any(r.short for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
