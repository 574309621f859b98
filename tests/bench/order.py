"""What another order of the nodes saves in activation memory: ``python -m tests.bench.order``.

Every model of ``../shared/data`` and the nets of ``tests/order_nets.py``. Writes order.md
beside this file; exit code 1 if an order is worse than the one that came in, or invalid.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from edgeopt import files, shapes
from edgeopt.arena import activation_lower_bound
from edgeopt.errors import EdgeoptError
from edgeopt.node_order import Reordered, reorder
from tests import order_nets
from tests.bench.shared_data import HERE, shared_folder

NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "NASNet-like, 2 cells": lambda: order_nets.nasnet(2),
    "NASNet-like, 4 cells": order_nets.nasnet,
    "NASNet-like, 12 cells": lambda: order_nets.nasnet(12, every=4),
    "DenseNet-like, 2 blocks of 6": order_nets.densenet,
    "Inception-like, 3 modules": order_nets.inception,
    "Inception-like, 9 modules": lambda: order_nets.inception(9),
    "randomly wired, 32 nodes": order_nets.wired,
    "randomly wired, 100 nodes": lambda: order_nets.wired(100),
}
"""Each also with its nodes by levels, and in a random order."""


@dataclass
class Row:
    """One model: how many nodes, what the search found, and its seconds."""

    name: str
    nodes: int
    found: Reordered
    seconds: float


def inputs() -> Iterator[tuple[str, str, Callable[[], ir.Model]]]:
    """Group, name, and how to read or build the model."""
    for group in ("models", "corpus"):
        for path in sorted((shared_folder() / "data" / group).glob("*.onnx")):
            yield group, path.stem, lambda path=path: files.load(path).model  # type: ignore[misc]
    for name, build in NETS.items():
        yield "nets", name, lambda build=build: ir.from_proto(build())  # type: ignore[misc]
        for order, seed in (("by levels", None), ("at random", 0)):
            yield (
                "nets",
                f"{name}, {order}",
                lambda build=build, seed=seed: ir.from_proto(order_nets.scattered(build(), seed)),  # type: ignore[misc]
            )


def bench(name: str, model: ir.Model) -> Row:
    """Search with the types known, as ``simplify`` does."""
    typed = shapes.infer(model.clone())
    start = time.perf_counter()
    found = reorder(typed)
    return Row(name, sum(1 for _ in typed.graph.all_nodes()), found, time.perf_counter() - start)


def problems(row: Row) -> list[str]:
    """What breaks a promise."""
    found = row.found
    told = []
    if found.peak_bytes_after > found.peak_bytes_before or found.arena_bytes_after > found.arena_bytes_before:
        told.append("worse than before")
    if found.peak_bytes_after < found.lower_bound_bytes:
        told.append("below its bound")
    if found.changed and activation_lower_bound(found.model).size_bytes != found.peak_bytes_after:
        told.append("not the peak that it tells")
    return told


def markdown(rows: dict[str, list[Row]]) -> str:
    """The tables: all trained models and nets, of the corpus what changes."""
    text = [
        "# Order of the nodes: peak of activation memory before and after",
        "",
        "`make bench-order`. Bytes of activations that are alive at once, at the worst node; open dimensions at their",
        "default sizes. Bound: no order has a lower peak. Gap: how far the peak may be above the least; 0 is proven.",
    ]
    titles = {"models": "Trained models", "nets": "Generated nets", "corpus": "Corpus, models whose order changes"}
    for group, title in titles.items():
        found = [r for r in rows.get(group, []) if group != "corpus" or r.found.changed]
        text += [
            "",
            f"## {title}",
            "",
            "| model | nodes | before | after | saved | bound | gap | arena before | after | s |",
        ]
        text.append("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
        for row in found:
            f = row.found
            saved = 1 - f.peak_bytes_after / f.peak_bytes_before if f.peak_bytes_before else 0.0
            cells = [
                row.name, row.nodes, f.peak_bytes_before, f.peak_bytes_after, f"{saved:.1%}", f.lower_bound_bytes,
                f"{f.gap:.1%}", f.arena_bytes_before, f.arena_bytes_after, f"{row.seconds:.2f}",
            ]  # fmt: skip
            text.append("| " + " | ".join(str(c) for c in cells) + " |")
    corpus = [r.found for r in rows.get("corpus", [])]
    if corpus:
        proven = sum(f.optimal for f in corpus)
        text += ["", f"Of {len(corpus)} models of the corpus, {sum(f.changed for f in corpus)} change;"]
        text.append(
            f"{proven} peaks are proven to be the least, {sum(f.reason is not None for f in corpus)} are left alone."
        )
    return "\n".join(text) + "\n"


def main() -> int:
    """Run all and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.order", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="models whose name holds this; not saved")
    parser.add_argument("--out", type=Path, default=HERE / "order.md", metavar="FILE", help="where to save")
    asked = parser.parse_args()
    rows: dict[str, list[Row]] = {}
    bad = 0
    for group, name, load in inputs():
        if asked.only and not any(part in name for part in asked.only):
            continue
        try:
            row = bench(name, load())
        except EdgeoptError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        rows.setdefault(group, []).append(row)
        for problem in problems(row):
            print(f"{name}: {problem}", file=sys.stderr)
            bad = 1
    text = markdown(rows)
    print(text)
    if not asked.only:
        asked.out.write_text(text, encoding="utf-8")
    return bad


if __name__ == "__main__":
    sys.exit(main())
