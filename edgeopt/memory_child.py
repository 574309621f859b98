"""The process that ``memory.measure_peak`` starts: load one model, run it, report its own peak memory as JSON.

    python -m edgeopt.memory_child JOB.json

On Linux the high-water mark (``VmHWM`` of /proc/self/status) is reset to the present size before the model is
loaded (writing 5 to /proc/self/clear_refs, see proc(5)). Where that is not allowed, the peak of the whole life of
the process is used, which can only be larger; elsewhere ``getrusage`` gives that.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # noqa: F401 -- part of the baseline

from edgeopt.errors import ModelError
from edgeopt.runtime import Session, options

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def status_bytes(text: str, key: str) -> int | None:
    """The figure of one line of /proc/PID/status, which is in KiB, in bytes."""
    for line in text.splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


def reset_peak() -> bool:
    """Set the high-water mark to the present size; False where the system does not allow it."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def sizes() -> tuple[int, int, str]:
    """Resident bytes now, the highest so far, and where both come from."""
    try:
        text = _STATUS.read_text(encoding="ascii")
    except OSError:
        text = ""
    now, peak = status_bytes(text, "VmRSS"), status_bytes(text, "VmHWM")
    if now is not None and peak is not None:
        return now, peak, "VmHWM of /proc/self/status"
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak, peak, "ru_maxrss of getrusage, as /proc/self/status has no VmHWM here"


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Do what the job says: ``model``, ``feed``, ``names``, ``threads``, ``runs``, ``external_folder``."""
    gc.collect()
    was_reset = reset_peak()
    baseline, _, method = sizes()
    session_options = options(threads=int(job["threads"]))
    if job.get("external_folder"):
        key = "session.model_external_initializers_file_folder_path"
        session_options.add_session_config_entry(key, str(job["external_folder"]))
    try:
        session = Session(Path(job["model"]), session_options=session_options)
        with np.load(job["feed"], allow_pickle=False) as stored:
            feed = {name: stored[f"a{i}"] for i, name in enumerate(job["names"])}
        for _ in range(int(job["runs"])):
            session.run(feed)
    except ModelError as error:
        return {"error": error.message}
    now, peak, _ = sizes()
    return {
        "peak_bytes": max(0, peak - baseline),
        "steady_bytes": max(0, now - baseline),
        "baseline_bytes": baseline,
        "method": f"{method}, {'reset' if was_reset else 'not reset'} after the imports",
    }


def main() -> int:
    """Read the job that the first argument names, print the answer."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps(measure(job)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
