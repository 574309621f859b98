"""Data for calibration and scoring: any source, checked sample by sample, the same on every pass.

Samples and batches
  A ``Sample`` is what one run of the model takes. A model with an open batch dimension, or one of 1, is fed one
  sample at a time: batches that the source yields are cut, labels too. A model with a fixed batch b > 1 is fed
  b samples at a time; the last group is filled up by repeating its last sample, ``valid`` says how many are
  real, ``label`` is the list of all b labels, and ``rows`` cuts outputs and labels back into real samples.

Passes
  Every pass reads the source anew, one element in memory at a time, and gives the same samples in the same
  order. One-shot iterators are kept in memory instead, since they cannot be read twice. A source that begins
  with other samples on a second pass, or has another number of them, is an error.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.calibration.batches import Row, batch_axes, fixed_batch, split
from edgeopt.calibration.conform import conform
from edgeopt.calibration.dataset_toml import read_dataset_toml
from edgeopt.calibration.elements import normalise
from edgeopt.calibration.lint import FIRST_LOOK, FirstLook, findings
from edgeopt.calibration.metrics import Metric, class_id, resolve_metric
from edgeopt.calibration.preprocess import Preprocess, for_images
from edgeopt.calibration.readers import Source, open_source
from edgeopt.calibration.sample import Sample, rows
from edgeopt.errors import DataError, UsageError
from edgeopt.graph import Array, TensorSpec, output_specs


class Dataset:
    """A repeatable sequence of samples; made by :func:`open_dataset`.

    Attributes:
        has_labels: Whether the samples carry labels (then all do).
        metric: How outputs are scored against the labels; None without labels or without a known way.
        warnings: Findings about the data that are no errors.
    """

    def __init__(
        self,
        source: Source,
        inputs: Sequence[TensorSpec],
        preprocess: Mapping[str, Preprocess],
        *,
        limit: int | None = None,
    ) -> None:
        self._source = source
        self._specs = list(inputs)
        self._preprocess = dict(preprocess)
        self._limit = limit
        self._axes = batch_axes(inputs)
        self._batch = fixed_batch(inputs, self._axes)
        self._ranks = {n: r for n, p in preprocess.items() if (r := p.stored_rank) is not None}
        self._rows_per_element = 1
        self._samples: int | None = None
        self._groups: int | None = None
        self._start: int | None = None
        self._details: dict[str, Any] = {}
        self.has_labels = False
        self.metric: Metric | None = None
        self.warnings: list[str] = []

    def __iter__(self) -> Iterator[Sample]:
        samples = groups = 0
        for where, group in self._grouped():
            sample = self._sample(where, group)
            if groups == 0:
                self._check_start(sample)
            samples, groups = samples + len(group), groups + 1
            yield sample
        if groups == 0:
            raise DataError("holds no samples", where=self._source.text)
        if self._groups is not None and self._groups != groups:
            raise DataError(f"gave {self._groups} samples at first and {groups} now", where=self._source.text)
        self._samples, self._groups = samples, groups

    def __len__(self) -> int:
        """Number of :class:`Sample` in a pass; counting may need a pass over the source."""
        if self._groups is None:
            self._count()
        return self._groups or 0

    @property
    def samples(self) -> int:
        """Number of real samples, each counted once also where the model's batch is fixed."""
        if self._samples is None:
            self._count()
        return self._samples or 0

    @property
    def description(self) -> dict[str, Any]:
        """For the report: source, number of samples, preprocessing and metric; what is not known is left out."""
        steps = {n: d for n, p in self._preprocess.items() if (d := p.describe())}
        result: dict[str, Any] = {"source": self._source.text, **self._details, "samples": self.samples}
        if steps:
            result["preprocessing"] = steps
        if self.metric is not None:
            result["metric"] = self.metric.name
        return result

    def score(self, run: Callable[[dict[str, Array]], Mapping[str, Any]]) -> float:
        """The metric over a pass; ``run`` takes a sample's inputs and gives the outputs by name.

        Raises:
            DataError: there is no metric, or it cannot take these outputs.
        """
        if self.metric is None:
            raise DataError("has no labels or no metric to score with", where=self._source.text)
        pairs = [pair for sample in self for pair in rows(sample, run(sample.inputs))]
        return self.metric([o for o, _ in pairs], [label for _, label in pairs])

    def _count(self) -> None:
        if self._batch == 1 and self._source.count is not None:
            total = self._source.count * self._rows_per_element
            self._samples = self._groups = total if self._limit is None else min(total, self._limit)
            return
        sizes = [len(group) for _, group in self._grouped()]
        self._samples, self._groups = sum(sizes), len(sizes)

    def _rows(self) -> Iterator[tuple[str, Row]]:
        """Single samples as stored, with where they are; at most ``limit``."""
        names = [s.name for s in self._specs]
        given = 0
        for i, (where, value) in enumerate(self._source.elements()):
            element = normalise(value, names, where)
            cut = split(element, self._specs, self._axes, self._ranks, where)
            if i == 0:
                self._rows_per_element = len(cut)
            for k, row in enumerate(cut):
                if self._limit is not None and given >= self._limit:
                    return
                given += 1
                yield (f"{where}, row {k}" if len(cut) > 1 else where), row

    def _grouped(self) -> Iterator[tuple[str, list[Row]]]:
        """Rows that are fed together: one, or up to the model's fixed batch size."""
        pending: list[Row] = []
        place = ""
        for where, row in self._rows():
            if row.whole:
                if pending:
                    yield place, pending
                    pending = []
                yield where, [row]
                continue
            place = place if pending else where
            pending.append(row)
            if len(pending) == self._batch:
                yield place, pending
                pending = []
        if pending:
            yield place, pending

    def _sample(self, where: str, group: list[Row]) -> Sample:
        labels = [row.label for row in group]
        if any((label is not None) != self.has_labels for label in labels) and self._start is not None:
            found = "no label" if self.has_labels else "a label"
            raise DataError(f"{found}, unlike the samples before", where=where)
        if self._batch == 1 or group[0].whole:
            return Sample(self._conformed(group[0], self._specs, where), labels[0])
        opened = [self._open_batch(s) for s in self._specs]
        parts = [self._conformed(row, opened, f"{where} (+{i})") for i, row in enumerate(group)]
        missing = self._batch - len(parts)
        filled = parts + parts[-1:] * missing
        inputs = {
            s.name: filled[0][s.name]
            if (axis := self._axes[s.name]) is None
            else np.ascontiguousarray(np.concatenate([p[s.name] for p in filled], axis=axis))
            for s in self._specs
        }
        given = any(label is not None for label in labels)
        return Sample(inputs, labels + labels[-1:] * missing if given else None, len(parts), self._batch)

    def _open_batch(self, spec: TensorSpec) -> TensorSpec:
        axis = self._axes[spec.name]
        if axis is None or spec.dims is None:
            return spec
        return replace(spec, dims=(*spec.dims[:axis], 1, *spec.dims[axis + 1 :]))

    def _conformed(self, row: Row, specs: Sequence[TensorSpec], where: str) -> dict[str, Array]:
        result = {}
        for spec in specs:
            value = row.inputs[spec.name]
            if (steps := self._preprocess.get(spec.name)) is not None:
                value = steps.apply(value, spec.dims, f"{where}, input {spec.name!r}")
            result[spec.name] = conform(value, spec, self._axes[spec.name], where)
        return result

    def _check_start(self, sample: Sample) -> None:
        """Notice a source that shuffles or augments anew on each pass."""
        start = 0
        for value in sample.inputs.values():
            start = zlib.crc32(repr(value.tolist()).encode() if value.dtype == object else value.tobytes(), start)
        if self._start is None:
            self._start = start
            self.has_labels = sample.label is not None
        elif start != self._start:
            raise DataError(
                "gives other samples on each pass",
                where=self._source.text,
                hint="switch off shuffling and random augmentation, or give it a fixed seed",
            )


def open_dataset(
    source: Any,
    inputs: Sequence[TensorSpec],
    *,
    metric: str | None = None,
    limit: int | None = None,
    model: ir.Model | None = None,
) -> Dataset:
    """Open data for a model and take a first look at it (at most 64 samples).

    Args:
        source: A path (``.npz``, ``.npy``, ``dataset.toml``, a folder), a glob of images, ``module:callable``,
            or a Python object: an array or a dict of arrays (first axis: samples), an iterable of arrays, tuples
            or dicts, a torch DataLoader, or a function that returns one. An iterator that can be walked only
            once is kept in memory.
        inputs: The model's required inputs (``graph.input_specs``).
        metric: ``top1``, ``top5`` or ``module:function``; overrides the one of a dataset.toml. Default: top1 if
            the labels are class numbers and the model, if given, has an output that looks like class scores.
        limit: Use the first so many samples only.
        model: Lets the lint compare the values with what the first layers expect.

    Raises:
        DataError: nothing there, not readable, NaN or Inf, a wrong shape or dtype; for the samples behind the
            first 64 it is raised while iterating.
        UsageError: ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}, expected 1 or more")
    if isinstance(source, Dataset):
        raise UsageError("this is a Dataset already; pass what it was opened from")
    if not inputs:
        raise DataError("the model has no inputs, so it takes no data")
    folders = [Path.cwd()]
    metric_of_file = None
    details: dict[str, Any] = {}
    if isinstance(source, str | os.PathLike) and os.fspath(source).endswith(".toml"):
        path = Path(os.fspath(source))
        declared = read_dataset_toml(path, inputs)
        opened, steps, metric_of_file = declared.source, declared.preprocess, declared.metric
        details = {"sources": declared.sources}
        folders.insert(0, path.resolve().parent)
    else:
        opened = open_source(source, [s.name for s in inputs], [s.name for s in inputs if s.dims == ()], folders)
        steps = {s.name: for_images(s.dims) for s in inputs} if opened.images else {}
    dataset = Dataset(opened, inputs, steps, limit=limit)
    dataset._details = details
    labels = _first_look(dataset, inputs, model)
    if opened.images and not details:
        shown = ", ".join(f"{k} = {v}" for k, v in next(iter(steps.values())).describe().items())
        dataset.warnings.insert(
            0, f"images are prepared by assumption ({shown}; values 0 to 255); a dataset.toml says how"
        )
    chosen = resolve_metric(metric, [Path.cwd(), *folders]) if metric is not None else metric_of_file
    if chosen is not None and not dataset.has_labels:
        raise DataError(f"metric {chosen.name} needs labels, and there are none", where=opened.text)
    dataset.metric = chosen or _default_metric(dataset.has_labels, labels, model)
    return dataset


def _first_look(dataset: Dataset, inputs: Sequence[TensorSpec], model: ir.Model | None) -> list[Any]:
    looks = [FirstLook(s) for s in inputs]
    labels: list[Any] = []
    seen = 0
    for sample in dataset:
        seen += sample.valid
        labels += sample.label[: sample.valid] if sample.batch > 1 and sample.label else [sample.label]
        for look in looks:
            look.add(sample.inputs[look.spec.name])
        if seen >= FIRST_LOOK:
            break
    dataset.warnings = findings(looks, seen if seen < FIRST_LOOK else None, model)
    return labels


def _default_metric(has_labels: bool, labels: Sequence[Any], model: ir.Model | None) -> Metric | None:
    if not has_labels or any(class_id(label) is None for label in labels):
        return None
    if model is not None:
        dims = [s.dims for s in output_specs(model)]
        if not any(d is None or len(d) == 2 or (len(d) == 4 and d[2:] == (1, 1)) for d in dims):
            return None
    return resolve_metric("top1", [])
