"""The report for people: before → after, what each pass did, what stayed float, warnings."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

_MAX_ROWS = 12
_PLAIN_WIDTH = 160  # columns where the output is no terminal: tables are not folded for a log file


class Status:
    """A progress bar on a terminal's stderr; silent elsewhere."""

    def __init__(self, *, enabled: bool) -> None:
        console = Console(stderr=True)
        self._bar: RichProgress | None = None
        if enabled and console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            self._bar = RichProgress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Status:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, text: str, done: int = 0, total: int = 0) -> None:
        """Show what is being done; a ``Progress``."""
        if self._bar is not None:
            counted = f" {done}/{total}" if total else ""
            self._bar.update(self._task, description=escape(text) + counted, completed=done, total=total or None)


def print_report(command: str, report: dict[str, Any], *, output: str | None = None, verbose: bool = False) -> None:
    """Print the report of a verb on stdout."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    show = {"inspect": _inspect, "profile": _profile, "compare": _compare, "export": _export}.get(command, _rewritten)
    show(console, report, verbose)
    for warning in report.get("warnings", []):
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    if output is not None:
        console.print(f"written: {escape(str(output))}")


def size_text(count: float | None) -> str:
    """Bytes for people: 1023 B, 1.5 KiB, 12.3 MiB."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def count_text(count: float | None) -> str:
    """Counts for people: 950, 12.3 k, 40.6 M."""
    if count is None:
        return "-"
    for unit in ("", " k", " M", " G"):
        if count < 1000:
            return f"{count:.0f}{unit}" if not unit else f"{count:.2f}{unit}"
        count /= 1000
    return f"{count:.2f} T"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 else "right", overflow="fold")
    return table


def _heading(console: Console, report: dict[str, Any]) -> None:
    model = report["model"]
    console.print(
        f"[bold]{escape(model.get('path', 'model'))}[/]  opset {model['opset']}  sha256 {model['sha256'][:12]}"
    )
    for repair in model.get("repairs", []):
        console.print(f"repaired: {escape(repair)}")


def _rewritten(console: Console, report: dict[str, Any], verbose: bool) -> None:
    _heading(console, report)
    if "device" in report:
        device = report["device"]
        console.print(f"device {device['name']}: {device['runtime']}, {device['threads']} thread(s)")
    _before_after(console, report)
    if "agreement" in report:
        console.print("agreement with the original: " + _agreement_text(report["agreement"]))
    _candidates(console, report)
    _passes(console, report, verbose)
    if "node_order" in report:
        console.print(f"activations: {_order_text(report['node_order'])}")
    if "int8" in report:
        _int8(console, report["int8"], verbose)
    console.print(f"verdict: [bold]{escape(report['verdict'])}[/]")


def _before_after(console: Console, report: dict[str, Any]) -> None:
    before, after = report["before"], report["after"]
    table = _table("", "before", "after", "ratio")
    rows: list[tuple[str, Any, Any, str]] = []

    def add(label: str, key: str, text: Any) -> None:
        a, b = before.get(key), after.get(key)
        if a is not None and b is not None:
            rows.append((label, text(a), text(b), f"{a / b:.2f}×" if b else ""))

    if "score" in before and "score" in after:
        a, b = before["score"], after["score"]
        rows.append((f"score ({a['metric']}, n={a['samples']})", f"{a['value']:.4f}", f"{b['value']:.4f}", ""))
    if "latency_ms" in before and "latency_ms" in after:
        for key, label in (("median", "latency, median"), ("p90", "latency, p90")):
            a, b = before["latency_ms"][key], after["latency_ms"][key]
            ratio = report["ratios"].get("latency") if key == "median" else a / b
            rows.append((label, f"{a:.3f} ms", f"{b:.3f} ms", f"{ratio:.2f}×" if ratio else ""))
    add("file", "file_bytes", size_text)
    add("weights", "weight_bytes", size_text)
    add("parameters", "params", count_text)
    add("MACs", "macs", count_text)
    add("nodes", "nodes", str)
    if "memory" in before and "memory" in after:
        for key, label in (
            ("runtime_peak_bytes", "memory, measured peak"),
            ("arena_bytes", "memory, activation arena"),
            ("activation_lower_bound_bytes", "memory, activation lower bound"),
        ):
            a, b = before["memory"].get(key), after["memory"].get(key)
            if a is not None and b is not None:
                rows.append((label, size_text(a), size_text(b), f"{a / b:.2f}×" if b else ""))
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _order_text(order: dict[str, Any]) -> str:
    before, after = order["peak_bytes_before"], order["peak_bytes_after"]
    if "reason" in order:
        return f"peak {size_text(before)}; no other order of the nodes was looked for: {escape(order['reason'])}"
    least = "the least of any order" if order["optimal"] else f"at most {order['gap']:.1%} above the least of any order"
    change = f"{size_text(before)} → {size_text(after)} by another order of the nodes" if after < before else ""
    return f"peak {change or size_text(after)}, {least}; arena {size_text(order['arena_bytes_after'])}"


def _agreement_text(agreement: dict[str, Any]) -> str:
    parts = []
    if "top1_agreement" in agreement:
        parts.append(f"top-1 {agreement['top1_agreement']:.2%}")
    if "sqnr_db" in agreement:
        parts.append(f"SQNR {agreement['sqnr_db']:.1f} dB")
    elif agreement.get("max_abs_error") == 0:
        parts.append("outputs equal")
    else:  # an infinite SQNR is left out of the report whatever its sign
        parts.append("no SQNR (NaN, other shapes, a zero reference, or nothing that can be compared)")
    if "cosine" in agreement:
        parts.append(f"cosine {agreement['cosine']:.6f}")
    if "max_abs_error" in agreement:
        parts.append(f"max error {agreement['max_abs_error']:.3g}")
    return ", ".join(parts) + f" over {agreement['samples']} samples"


def _candidates(console: Console, report: dict[str, Any]) -> None:
    if not report.get("candidates"):
        return
    table = _table("choice", "median", "speed-up", "90 % interval", "drop", "file", "why")
    table.columns[-1].justify = "left"
    for c in report["candidates"]:
        interval = c.get("speedup_interval_90")
        table.add_row(
            f"{'→ ' if c['shipped'] else '  '}{c['choice']}",
            f"{c['latency_ms']['median']:.3f} ms" if "latency_ms" in c else "",
            f"{c['speedup']:.2f}×" if "speedup" in c else "",
            f"{interval[0]:.2f}–{interval[1]:.2f}" if interval else "",
            f"{c['drop']:+.4f}" if "drop" in c else "",
            size_text(c["file_bytes"]),
            escape(c["reason"]),
        )
    console.print(table)


def _passes(console: Console, report: dict[str, Any], verbose: bool) -> None:
    if not report.get("passes"):
        return
    table = _table("pass", "hits", "skips", "rolled back", "max error")
    idle = 0
    for p in report["passes"]:
        found = p["hits"] or p["skips"] or p["rolled_back"] or p["removed_initializers"]
        if not found and not verbose:
            idle += 1
            continue
        table.add_row(
            p["name"], str(p["hits"]), str(len(p["skips"])), str(len(p["rolled_back"])), f"{p['max_abs_error']:.1e}"
        )
    if idle < len(report["passes"]):
        console.print(table)
    if idle:
        console.print(f"{idle} {'more ' if idle < len(report['passes']) else ''}passes found nothing to do")
    for p in report["passes"]:
        for entry in p["rolled_back"]:
            console.print(f"[red]rolled back[/] {p['name']} at {escape(entry['node'])}: {escape(entry['reason'])}")
        for rewrite in p.get("rewrites", []):
            made = f" → {', '.join(rewrite['made'])}" if rewrite["made"] else ""
            text = escape(", ".join(rewrite["replaced"]) + made)
            console.print(f"  {p['name']} at {escape(rewrite['node'])}: {text}")
        if verbose or "rewrites" in p:
            for entry in p["skips"]:
                console.print(f"  {p['name']} skipped {escape(entry['node'])}: {escape(entry['reason'])}")


def _int8(console: Console, int8: dict[str, Any], verbose: bool) -> None:
    share = int8["macs_int8_share"]
    console.print(f"int8: {int8['nodes_int8']} nodes, {share:.1%} of the MACs; float: {int8['nodes_float']} nodes")
    if verbose:
        for n in int8["float_nodes"]:
            console.print(f"  float {escape(n['node'])} ({n['op']}): {escape(n['reason'])}")
        return
    counts = Counter((n["op"], n["reason"]) for n in int8["float_nodes"])
    for (op, reason), number in counts.most_common(_MAX_ROWS):
        console.print(f"  {number} × {op}: {escape(reason)}")
    if len(counts) > _MAX_ROWS:
        console.print(f"  … and {len(counts) - _MAX_ROWS} more reasons (--verbose lists every node)")


def _inspect(console: Console, report: dict[str, Any], verbose: bool) -> None:
    _heading(console, report)
    for kind in ("inputs", "outputs"):
        for value in report[kind]:
            console.print(f"{kind[:-1]} {escape(value['name'])}: {escape(value['type'])}")
    console.print(
        f"{count_text(report['params'])} parameters, {count_text(report['macs'])} MACs, weights "
        f"{size_text(report['weight_bytes'])}, file {size_text(report['file_bytes'])}, activations at least "
        f"{size_text(report['activation_lower_bound_bytes'])}"
    )
    if report.get("assumed_dims"):
        assumed = ", ".join(f"{k} = {v}" for k, v in report["assumed_dims"].items())
        console.print(f"assumed for MACs and memory: {escape(assumed)}")
    ops = sorted(report["ops"].items(), key=lambda item: -item[1])
    console.print("operators: " + escape(", ".join(f"{n} × {op}" for op, n in ops)))
    for finding in (f for f in report["findings"] if f["kind"] != "repair"):  # the heading tells of repairs
        console.print(f"{finding['kind']}: {escape(finding['text'])}")


def _profile(console: Console, report: dict[str, Any], verbose: bool) -> None:
    _heading(console, report)
    for profile in report["profiles"]:
        device = profile["device"]
        console.print(f"[bold]{device['name']}[/]: {device['runtime']}, {device['threads']} thread(s)")
        if "latency_ms" in profile:
            t = profile["latency_ms"]
            console.print(
                f"latency {t['median']:.3f} ms median ({t['interval_90'][0]:.3f}–{t['interval_90'][1]:.3f} with 90 %), "
                f"p90 {t['p90']:.3f} ms, {t['runs']} runs, {t['evidence']}"
            )
        m = profile["memory"]
        peak = f", measured peak {size_text(m['runtime_peak_bytes'])}" if "runtime_peak_bytes" in m else ""
        console.print(
            f"memory: activations at least {size_text(m['activation_lower_bound_bytes'])}, arena "
            f"{size_text(m['arena_bytes'])}{peak}"
        )
        if "node_order" in m:
            console.print(f"order of the nodes: {_order_text(m['node_order'])}")
        nodes = sorted(profile.get("nodes", []), key=lambda n: -n["latency_ms"])
        if nodes:
            table = _table("node", "op", "ms", "share", "bound")
            for n in nodes if verbose else nodes[:_MAX_ROWS]:
                table.add_row(
                    escape(n["name"]), n["op"], f"{n['latency_ms']:.4f}", f"{n['share']:.1%}", n.get("bound", "")
                )
            console.print(table)
            if len(nodes) > _MAX_ROWS and not verbose:
                console.print(f"… and {len(nodes) - _MAX_ROWS} more nodes (--verbose)")


def _compare(console: Console, report: dict[str, Any], verbose: bool) -> None:
    table = _table("output", "max error", "SQNR", "cosine")
    for name, d in report["outputs"].items():
        sqnr = f"{d['sqnr_db']:.2f} dB" if "sqnr_db" in d else "equal" if d.get("max_abs_error") == 0 else "-"
        table.add_row(escape(name), f"{d.get('max_abs_error', float('inf')):.4g}", sqnr, f"{d.get('cosine', 1.0):.6f}")
    console.print(table)
    if "top1_agreement" in report:
        console.print(f"top-1 agreement {report['top1_agreement']:.2%} over {report['samples']} samples")
    if "score_a" in report:
        a, b = report["score_a"], report["score_b"]
        console.print(f"score ({a['metric']}, n={a['samples']}): {a['value']:.4f} → {b['value']:.4f}")


def _export(console: Console, report: dict[str, Any], verbose: bool) -> None:
    _heading(console, report)
    console.print(f"format {report['format']}, {size_text(report['file_bytes'])}")
    for key, value in report.get("check", {}).items():
        if value not in ((), [], None):
            console.print(f"{key}: {escape(str(value))}")
