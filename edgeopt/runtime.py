"""onnxruntime sessions: one place for options, time-outs and readable errors.

Every session runs on the CPU provider. ``Level.NONE`` (no graph optimization) is for comparing what two
graphs mean; ``Level.DEFAULT`` is what a user of the shipped model gets.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from edgeopt.errors import ModelError
from edgeopt.graph import Array, stored_tensors
from edgeopt.watchdog import Watchdog

ort.set_default_logger_severity(4)  # its errors reach us as exceptions; the copies on stderr help nobody

INLINE_LIMIT_BYTES = 1_500_000_000  # a protobuf message ends at 2 GiB; leave room for the rest of the graph
DEFAULT_TIMEOUT_S = 120.0
_WATCHDOG = Watchdog()


class Level(Enum):
    """How much onnxruntime may rewrite the graph before it runs."""

    NONE = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    DEFAULT = ort.GraphOptimizationLevel.ORT_ENABLE_ALL


def version() -> str:
    """Such as ``onnxruntime 1.31.1``."""
    return f"onnxruntime {ort.__version__}"


def options(level: Level = Level.DEFAULT, threads: int = 1) -> ort.SessionOptions:
    """Session options: the default ones but for threads (see DESIGN: device ``host``)."""
    result = ort.SessionOptions()
    result.graph_optimization_level = level.value
    result.intra_op_num_threads = threads
    result.inter_op_num_threads = 1
    result.log_severity_level = 4
    return result


def external_folder(model: ir.Model) -> str | None:
    """The folder that holds the weights stored outside of the model file; None if all are inside."""
    folders = {str(Path(t.base_dir).resolve()) for t in stored_tensors(model) if isinstance(t, ir.ExternalTensor)}
    if len(folders) > 1:
        raise ModelError(f"weights lie in several folders: {sorted(folders)}", hint="save the model anew first")
    return folders.pop() if folders else None


def inline_bytes(model: ir.Model) -> int:
    """Bytes of the weights that serializing the model would put into the message itself."""
    return sum(t.nbytes for t in stored_tensors(model) if not isinstance(t, ir.ExternalTensor))


def fits_message(model: ir.Model) -> bool:
    """Whether all of the model goes into one message: no weights in other files, and not too many."""
    total = 0
    for tensor in stored_tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            return False
        total += tensor.nbytes
    return total <= INLINE_LIMIT_BYTES


class Session:
    """An onnxruntime session over a model, with a time-out on each run.

    Args:
        model: The model; its weights are shared, not copied, where they lie in external files.
        level: How much onnxruntime may rewrite it.
        threads: Intra-op threads.
        session_options: Overrides ``level`` and ``threads`` (profiling, for example).

    Raises:
        ModelError: onnxruntime refuses the model; the message is its own, shortened.
    """

    def __init__(
        self,
        model: ir.Model | bytes | Path,
        level: Level = Level.DEFAULT,
        threads: int = 1,
        *,
        session_options: ort.SessionOptions | None = None,
    ) -> None:
        so = session_options or options(level, threads)
        if isinstance(model, ir.Model) and (folder := external_folder(model)) is not None:
            so.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        try:
            if isinstance(model, ir.Model) and inline_bytes(model) > INLINE_LIMIT_BYTES:
                with tempfile.TemporaryDirectory(prefix="edgeopt-") as name:
                    path = Path(name, "model.onnx")
                    ir.save(model.clone(), path, external_data="model.data")
                    so.add_session_config_entry("session.model_external_initializers_file_folder_path", name)
                    self.ort = _open(str(path), so)
            elif isinstance(model, ir.Model):
                self.ort = _open(ir.to_proto(model).SerializeToString(), so)
            else:
                self.ort = _open(model if isinstance(model, bytes) else str(model), so)
        except Exception as error:
            raise ModelError(f"onnxruntime cannot load the model: {short(error)}") from error
        self.output_names = [o.name for o in self.ort.get_outputs()]
        self.input_names = [i.name for i in self.ort.get_inputs()]

    def run(
        self, feed: Mapping[str, Array], outputs: Sequence[str] | None = None, *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> dict[str, Any]:
        """Run once; the outputs by name (arrays, or lists and dicts for sequences and maps).

        Raises:
            ModelError: the run fails or takes longer than ``timeout_s``.
        """
        names = list(outputs) if outputs is not None else self.output_names
        if not names:
            return {}  # onnxruntime would take an empty list for all outputs
        values = self._guarded(lambda run_options: self.ort.run(names, dict(feed), run_options), timeout_s)
        return dict(zip(names, values, strict=True))

    def writing_into(self, arrays: Mapping[str, Array]) -> Callable[[Mapping[str, Array]], None]:
        """A function that runs once on its argument and writes outputs into arrays that the caller owns.

        It raises ModelError if the run fails, takes too long, or an output has another shape than its array.

        Args:
            arrays: By name of an output; contiguous, of the type and exactly the shape of the output's value.
        """
        binding = self.ort.io_binding()
        for name, array in arrays.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

        def run(feed: Mapping[str, Array]) -> None:
            given = {name: np.ascontiguousarray(value) for name, value in feed.items()}  # must outlive the run

            def bound(run_options: ort.RunOptions) -> None:
                for name, value in given.items():
                    binding.bind_cpu_input(name, value)
                self.ort.run_with_iobinding(binding, run_options)

            self._guarded(bound, DEFAULT_TIMEOUT_S)

        return run

    def _guarded(self, run: Callable[[ort.RunOptions], Any], timeout_s: float) -> Any:
        """What ``run`` gives, with a time-out and readable errors."""
        run_options = ort.RunOptions()
        run_options.log_severity_level = 4
        expired = threading.Event()

        def stop() -> None:
            expired.set()
            run_options.terminate = True

        try:
            with _WATCHDOG.guard(timeout_s, stop):
                return run(run_options)
        except Exception as error:
            if expired.is_set():
                raise ModelError(f"the model ran longer than {timeout_s:g} s and was stopped") from error
            raise ModelError(f"onnxruntime cannot run the model: {short(error)}") from error


def _open(source: str | bytes, session_options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(source, session_options, providers=["CPUExecutionProvider"], enable_fallback=0)


def short(error: BaseException) -> str:
    """onnxruntime's message without its status prefix, source locations and line breaks."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/\S+/onnxruntime/\S+ ", "", text)
    text = re.sub(r"^Load model from \S+ failed:\s*", "", text)
    return text if len(text) <= 400 else text[:397] + "..."


def as_array(value: Any) -> Array | None:
    """The run's result as an array, or None for sequences, maps and empty optionals."""
    return value if isinstance(value, np.ndarray) else None
