"""Reads ``dataset.toml``: sources with their preprocessing, labels and the score.

Sections: ``[input]``, or ``[inputs.NAME]`` for each of several inputs; ``[labels]``; ``[score]``. Relative paths
and modules are looked for from the toml's own folder; modules from the current folder too. All problems of a
file are reported at once, each with its ``$.path``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from edgeopt.calibration import preprocess, readers, toml_values
from edgeopt.calibration.elements import Element, normalise, to_label
from edgeopt.calibration.labels import open_labels
from edgeopt.calibration.metrics import Metric, resolve_metric
from edgeopt.calibration.preprocess import Preprocess
from edgeopt.calibration.readers import Located, Source
from edgeopt.calibration.toml_values import Problems
from edgeopt.errors import DataError
from edgeopt.graph import TensorSpec

_INPUT_KEYS = ("source", "layout", "model_layout", "resize", "center_crop", "color", "scale", "mean", "std")
_LABELS = "$labels"  # no model input is called so
_T = TypeVar("_T")


@dataclass(frozen=True)
class TomlDataset:
    """A checked dataset.toml.

    Attributes:
        source: Elements of all inputs together, with labels.
        preprocess: What is done to each input, by name.
        metric: From ``[score]``, or None.
        sources: Source of each input and of ``labels``, as written.
    """

    source: Source
    preprocess: dict[str, Preprocess]
    metric: Metric | None
    sources: dict[str, str]


def read_dataset_toml(path: Path, specs: Sequence[TensorSpec]) -> TomlDataset:
    """Read and check the file, and open its sources.

    Args:
        path: The file.
        specs: The model's required inputs.

    Raises:
        DataError: no TOML, or unknown keys, wrong values, missing sections or sources; all in one message.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"is not valid TOML: {error}", where=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error
    problems = Problems(path)
    folders = [path.resolve().parent, Path.cwd()]
    toml_values.unknown_keys(document, ("input", "inputs", "labels", "score"), "$", problems)
    dims = {s.name: s.dims for s in specs}
    scalars = [n for n, d in dims.items() if d == ()]
    steps: dict[str, Preprocess] = {}
    sources: dict[str, Source] = {}
    for name, (where, table) in _input_tables(document, specs, problems).items():
        steps[name] = _preprocess(table, where, problems)
        opener = partial(readers.open_source, names=[name], scalars=scalars, folders=folders)
        source = _resolved(table, "source", where, problems, opener)
        if source is not None:
            sources[name] = source
        if source is not None and source.images:
            if steps[name].layout not in (None, "NHWC"):
                problems.add(f"{where}.layout", "image files are read as NHWC; leave it out")
            assumed = preprocess.for_images(dims[name])
            steps[name] = replace(steps[name], layout="NHWC", color=steps[name].color or assumed.color)
    labels, metric = None, None
    if (found := toml_values.subtable(document, "labels", "$", problems)) is not None:
        toml_values.unknown_keys(found, ("source",), "$.labels", problems)
        labels = _resolved(found, "source", "$.labels", problems, partial(open_labels, folders=folders))
    if (found := toml_values.subtable(document, "score", "$", problems)) is not None:
        toml_values.unknown_keys(found, ("metric",), "$.score", problems)
        metric = _resolved(found, "metric", "$.score", problems, partial(resolve_metric, folders=folders))
    problems.raise_if_any()
    texts = {n: s.text for n, s in sources.items()} | ({"labels": labels.text} if labels else {})
    return TomlDataset(_joined(str(path), sources, labels), steps, metric, texts)


def _input_tables(
    document: Mapping[str, Any], specs: Sequence[TensorSpec], problems: Problems
) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """The table of each input, with its ``$.path``."""
    names = [s.name for s in specs]
    listed = ", ".join(repr(n) for n in names)
    if ("input" in document) == ("inputs" in document):
        found = "both [input] and [inputs.…] are given" if "input" in document else "there is no [input]"
        problems.add("$", f"{found}; expected [input] with its source, or [inputs.NAME] for each of {listed}")
        return {}
    if "input" in document:
        single = toml_values.subtable(document, "input", "$", problems)
        if len(names) != 1:
            problems.add("$.input", f"the model has {len(names)} inputs; write [inputs.NAME] for each of {listed}")
            return {}
        return {} if single is None else {names[0]: ("$.input", single)}
    tables: dict[str, tuple[str, Mapping[str, Any]]] = {}
    inputs = toml_values.subtable(document, "inputs", "$", problems) or {}
    for key in inputs:
        table = toml_values.subtable(inputs, key, "$.inputs", problems)
        if key not in names:
            problems.add(f"$.inputs.{key}", f"the model has no such input; its inputs: {listed}")
        elif table is not None:
            tables[key] = (f"$.inputs.{key}", table)
    for name in names:
        if name not in inputs:
            problems.add(f"$.inputs.{name}", "missing; the model needs this input")
    return tables


def _preprocess(table: Mapping[str, Any], where: str, problems: Problems) -> Preprocess:
    toml_values.unknown_keys(table, _INPUT_KEYS, where, problems)
    crop = toml_values.pixels(table, "center_crop", where, problems)
    return Preprocess(
        layout=toml_values.choice(table, "layout", tuple(preprocess.LAYOUTS), where, problems),
        model_layout=toml_values.choice(table, "model_layout", preprocess.MODEL_LAYOUTS, where, problems),
        resize=toml_values.pixels(table, "resize", where, problems),
        center_crop=(crop, crop) if isinstance(crop, int) else crop,
        color=toml_values.choice(table, "color", preprocess.COLORS, where, problems),
        scale=toml_values.factor(table, "scale", where, problems),
        mean=toml_values.per_channel(table, "mean", where, problems),
        std=toml_values.per_channel(table, "std", where, problems, positive=True),
    )


def _resolved(
    table: Mapping[str, Any], key: str, where: str, problems: Problems, resolve: Callable[[str], _T]
) -> _T | None:
    """What the text under ``key`` names; a DataError on the way is one of the file's problems."""
    written = toml_values.text(table, key, where, problems)
    if written is None:
        return None
    try:
        return resolve(written)
    except DataError as error:
        problems.add(f"{where}.{key}", str(error).replace("\n", "\n  "))
        return None


def _joined(text: str, inputs: Mapping[str, Source], labels: Source | None) -> Source:
    """Walk the sources side by side; they must have the same number of elements."""
    parts = {**inputs, **({_LABELS: labels} if labels else {})}
    counts = {s.text: s.count for s in parts.values() if s.count is not None}
    if len(set(counts.values())) > 1:
        raise DataError(f"the sources have different numbers of samples: {counts}", where=text)

    def elements() -> Iterator[Located]:
        walks = {n: s.elements() for n, s in parts.items()}
        i = 0
        while True:
            found = {n: item for n, w in walks.items() if (item := next(w, None)) is not None}
            if not found:
                return
            if len(found) < len(walks):
                short = ", ".join(parts[n].text for n in walks if n not in found)
                raise DataError(f"{short} ends after {i} samples, before the others", where=text)
            place = next(where for n, (where, _) in found.items() if n != _LABELS)
            yield place, _join(found, place)
            i += 1

    count = next(iter(counts.values())) if len(counts) == len(parts) else None
    return Source(text, elements, count, images=any(s.images for s in inputs.values()))


def _join(found: Mapping[str, Located], where: str) -> Element:
    inputs: dict[str, Any] = {}
    labels = [found[_LABELS][1]] if _LABELS in found else []
    for name, (place, value) in found.items():
        if name != _LABELS:
            part = normalise(value, [name], place)
            inputs |= part.inputs
            labels += [] if part.label is None else [part.label]
    if len(labels) > 1:
        raise DataError("more than one source gives labels", where=where, hint="drop [labels], or yield inputs only")
    return Element(inputs, to_label(labels[0]) if labels else None)
