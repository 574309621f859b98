"""The rows of ``optimize_all`` as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from tests.bench.optimize_all import Int8, Row, allowed_loss, problems
from tests.bench.timing import Speedup

NOTHING = "–"


def markdown(rows: Sequence[Row], machine: Mapping[str, str], options: Mapping[str, str]) -> str:
    """The whole result: machine, three tables, and the promises that were broken."""
    facts = " · ".join(f"{key}: {value}" for key, value in {**machine, **options}.items())
    parts = [
        "# `edgeopt optimize` on the trained models",
        facts,
        "Speed-up: how many times faster than the original file, measured by the bench itself in fresh onnxruntime "
        "sessions, in turn (median of the paired ratios, 90 % interval; the middle one of three repeats). Scores "
        "and drop: as scored by the bench from the files. Points are hundredths of the score, dB for PSNR.",
        _table(_SHIPPED, [_shipped(r) for r in rows]),
        "## What the passes did",
        _passes(rows),
        "## int8, shipped or not, beside onnxruntime's own (`ort-minmax`)",
        "Original, edgeopt's int8 model and the peer's were measured in the same rounds. The peer: "
        "`quantize_static`, QDQ, uint8 activations, int8 weights per channel, min-max, 128 calibration samples.",
        _table(_INT8, [_int8(r) for r in rows]),
        *_rivals(rows),
        "## Promises",
        f"Exit code 0 or an explained 3; the fp32 score is that of models.json; at most 1 point lost "
        f"({allowed_loss('psnr_y'):g} dB of PSNR); not slower than fp32 by more than 3 %; at most 10 minutes.",
        _promises(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    ruled = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in ruled)


_SHIPPED = (
    "model", "exit", "verdict", "fp32 score", "= models.json", "shipped", "score after", "drop",
    "speed-up", "ms", "KB", "nodes", "seconds",
)  # fmt: skip


def _shipped(row: Row) -> list[str]:
    before, after = row.measured or (None, None)
    reported = row.reported[0] if row.reported else None
    return [
        row.model,
        str(row.exit_code),
        row.verdict,
        score(row, reported),
        "yes" if row.reproduced else f"no: {score(row, row.published)}",
        row.choice or NOTHING,
        score(row, after),
        NOTHING if before is None or after is None else drop(row, before - after),
        speedup(row.speedup),
        f"{row.speedup.before_ms:.3g} → {row.speedup.after_ms:.3g}" if row.speedup else NOTHING,
        f"{row.file_bytes[0] / 1000:.0f} → {row.file_bytes[1] / 1000:.0f}" if row.file_bytes else NOTHING,
        f"{row.nodes[0]} → {row.nodes[1]}" if row.nodes else NOTHING,
        f"{row.seconds:.0f}",
    ]


def _passes(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.passes))
    lines = []
    for row in rows:
        share = row.int8_share
        lines.append(
            [
                row.model,
                *(_pass(row.passes.get(name)) for name in names),
                f"{share[0]} / {share[1]}" if share else NOTHING,
                f"{share[2]:.1%}" if share else NOTHING,
            ]
        )
    head = ["model", *names, "nodes int8 / float", "MACs in int8"]
    return "Hits (rolled back).\n\n" + _table(head, lines)


def _pass(counts: tuple[int, int] | None) -> str:
    if counts is None:
        return NOTHING
    return str(counts[0]) if not counts[1] else f"{counts[0]} ({counts[1]})"


_INT8 = (
    "model", "fp32 score", "edgeopt int8", "score", "drop", "ort-minmax", "score", "drop", "int8 not shipped because",
)  # fmt: skip


def _int8(row: Row) -> list[str]:
    before = row.measured[0] if row.measured else None
    own = [speedup(row.int8.speedup), *_loss(row, row.int8, before)]
    peer = [row.peer.note or speedup(row.peer.speedup), *_loss(row, row.peer, before)]
    return [row.model, score(row, before), *own, *peer, NOTHING if row.choice == "int8" else row.int8.note or NOTHING]


def _rivals(rows: Sequence[Row]) -> list[str]:
    """What was shipped beside the int8 files of other tools; empty where there were none."""
    tools = list(dict.fromkeys(tool for row in rows for tool in row.rivals))
    if not tools:
        return []
    lines, gains = [], []
    for row in rows:
        found = row.against_best
        if found is not None:
            gains.append(found.ratio)
        cells = [_rival(row, row.rivals[tool]) if tool in row.rivals else NOTHING for tool in tools]
        lines.append([row.model, *cells, speedup(row.speedup), row.best_rival or NOTHING, speedup(found)])
    mean = math.exp(sum(map(math.log, gains)) / len(gains)) if gains else 1.0
    return [
        "## Beside the int8 files of other tools",
        "Speed-up over fp32 (score). The best: the fastest of fp32 and those files that keep the score within 1 point "
        "(0.1 dB); what edgeopt ships was measured against it in rounds of their own.",
        _table(["model", *tools, "edgeopt optimize", "the best", "edgeopt against the best"], lines),
        f"Geometric mean of the last column: {mean:.3f}×.",
    ]


def _rival(row: Row, rival: Int8) -> str:
    if rival.speedup is None:
        return rival.note or NOTHING
    return f"{rival.speedup.ratio:.2f}× ({score(row, rival.score)})"


def _loss(row: Row, int8: Int8, before: float | None) -> tuple[str, str]:
    if int8.score is None or before is None:
        return NOTHING, NOTHING
    return score(row, int8.score), drop(row, before - int8.score)


def _promises(rows: Sequence[Row]) -> str:
    lines = [f"- {row.model}: {problem}" for row in rows for problem in problems(row)]
    return "\n".join(lines) if lines else f"All {len(rows)} models keep them."


def score(row: Row, value: float | None) -> str:
    """With the digits of models.json."""
    return NOTHING if value is None else f"{value:.{row.digits}f}"


def drop(row: Row, lost: float) -> str:
    """In points or dB; negative where the score rose."""
    if row.metric == "psnr_y":
        return f"{round(lost, 3) + 0.0:.3f} dB"  # + 0.0: no "-0.000"
    return f"{round(lost * 100, 2) + 0.0:.2f}"


def speedup(found: Speedup | None) -> str:
    """Ratio and interval."""
    if found is None:
        return NOTHING
    low, high = found.interval_90
    return f"{found.ratio:.2f}× ({low:.2f} to {high:.2f})"
