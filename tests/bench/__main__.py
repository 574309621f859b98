"""The benchmarks: ``python -m tests.bench``, from the project's root.

Writes optimize.md and optimize.json; exit code 1 if any model breaks a promise (see ``optimize_all.problems``).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from edgeopt.effort import EFFORTS
from tests.bench import timing
from tests.bench.optimize_all import Row, bench, problems
from tests.bench.optimize_table import markdown
from tests.bench.shared_data import HERE, SETS, shared_folder


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="edgeopt optimize on trained models")
    parser.add_argument("--models", nargs="+", choices=SETS, metavar="MODEL", help="some only; saved only with --out")
    parser.add_argument("--effort", choices=EFFORTS, default="normal", help="of optimize (default normal)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to save (default tests/bench/results)")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="do not run the peers' quantizers")
    parser.add_argument(
        "--rivals", type=Path, metavar="FOLDER", help="int8 files that other tools made: FOLDER/TOOL/MODEL.onnx"
    )
    asked = parser.parse_args()
    if not (shared_folder() / "data" / "models.json").exists():
        _say("the benchmarks need ../shared/data (trained models and labelled data), which is not beside this checkout")
        return 2
    machine, rows = timing.machine(), list[Row]()
    with tempfile.TemporaryDirectory(prefix="edgeopt-bench-") as folder:
        for name in asked.models or SETS:
            options = {"peers": asked.peers, "rivals": asked.rivals, "say": _say}
            rows.append(bench(name, asked.effort, Path(folder), **options))
            _say(f"{name}: {'; '.join(problems(rows[-1])) or 'keeps its promises'}, {rows[-1].seconds:.0f} s")
    text = markdown(rows, machine, {"effort": asked.effort})
    print(text)
    out = asked.out or (None if asked.models else HERE / "results")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        body = {
            "machine": machine,
            "effort": asked.effort,
            "rows": [asdict(row) | {"problems": problems(row)} for row in rows],
        }
        (out / "optimize.md").write_text(text, encoding="utf-8")
        (out / "optimize.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    return 1 if any(problems(row) for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
