"""Looks at the first samples and says what is odd about them: each finding is a warning, in one sentence.

What makes data unusable (NaN, wrong shapes or dtypes) is no finding but an error, raised for every sample where
it is read (``conform.py``).
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeopt.calibration.first_layer import FirstLayer, first_layer, response_rms, scales_input
from edgeopt.errors import DataError
from edgeopt.graph import Array, TensorSpec, attribute, constant_tensor

FIRST_LOOK = 64  # samples whose statistics are taken
FEW_SAMPLES = 16
_KEPT = 4  # samples run through the first layer
_RAW_RANGE = 20.0  # no usual normalization leaves larger values
_RAW_RESPONSE = 30.0  # see first_layer.py: 0.3 to 4 when right, above 67 when fed raw pixels
_CENTRED_RESPONSE = 100.0  # mean-subtracted but unscaled values are right for some old nets, which answer with 69
_BATCHNORM_RATIO = 10.0
_DECLARE = "declare scale, mean and std in a dataset.toml, as in training"


class FirstLook:
    """Statistics of one input over the first samples; memory is bounded."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.low, self.high = np.inf, -np.inf
        self.samples = 0
        self.constant = 0
        self.hashes: Counter[int] = Counter()
        self.kept: list[Array] = []
        self.shape: tuple[int, ...] = ()

    def add(self, value: Array) -> None:
        """Take in one conformed sample."""
        self.shape = value.shape
        self.samples += 1
        self.hashes[zlib.crc32(repr(value.tolist()).encode() if value.dtype == object else value.tobytes())] += 1
        if value.dtype == object or not value.size:
            return
        low, high = float(value.min()), float(value.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.constant += value.size > 1 and low == high
        if len(self.kept) < _KEPT:
            self.kept.append(value)

    @property
    def is_float(self) -> bool:
        """Whether the input takes floats; the range of whole numbers (token ids, say) means nothing here."""
        return self.spec.dtype is not None and self.spec.dtype.kind == "f"


def findings(looks: Sequence[FirstLook], total: int | None, model: ir.Model | None) -> list[str]:
    """What is odd about the data.

    Args:
        looks: The statistics of each input, over the same samples.
        total: Number of samples if known to be smaller than ``FIRST_LOOK``, else None.
        model: Where the first layers are looked at; None: they are not.

    Raises:
        DataError: the channels are on another axis than the model's first layer has them.
    """
    result: list[str] = []
    if total is not None and total < FEW_SAMPLES:
        result.append(f"only {total} sample{'s' if total > 1 else ''}; a few hundred give steadier ranges")
    result += _repetition(looks)
    for look in looks:
        if not look.is_float or not np.isfinite(look.low):
            continue
        few = 0 if len(looks) == 1 else look.samples // 2  # a state may begin at zero
        if look.constant > few:
            result.append(f"input {look.spec.name!r}: {look.constant} of {look.samples} samples are one constant value")
        result += _range(look, model)
        result += _channels(look, model)
    return result


def _repetition(looks: Sequence[FirstLook]) -> list[str]:
    """Samples that occur again; an input that never changes beside others that do (a rate, a state) is fine."""
    changing = max(looks, key=lambda k: len(k.hashes), default=None)
    if changing is None or changing.samples < 2:
        return []
    distinct, seen = len(changing.hashes), changing.samples
    if distinct == 1:
        return [f"all of the first {seen} samples are equal"]
    return [f"{seen - distinct} of the first {seen} samples are duplicates"] if distinct < seen else []


def _range(look: FirstLook, model: ir.Model | None) -> list[str]:
    name, low, high = look.spec.name, look.low, look.high
    largest = max(abs(low), abs(high))
    span = f"input {name!r}: values from {low:g} to {high:g}"
    if 0 < largest <= 1.001 / 255:
        return [f"{span}: were they divided by 255 twice?"]
    if model is None:
        if low >= 0 and _RAW_RANGE < largest <= 255:
            return [f"{span} look like raw pixels; unless the model normalizes them itself, {_DECLARE}"]
        return []
    layer = first_layer(model, name)
    if layer is None:
        if largest > _RAW_RANGE and low >= 0 and not scales_input(model, name):
            return [f"{span} look unnormalized, and the model does not begin with a scaling; {_DECLARE}"]
        return []
    return _response(look, model, layer, span, largest)


def _response(look: FirstLook, model: ir.Model, layer: FirstLayer, span: str, largest: float) -> list[str]:
    node = f"{layer.node.op_type} {layer.node.name!r}"
    if largest <= _RAW_RANGE and layer.expected_rms is None:
        return []
    response = response_rms(model, look.spec.name, layer, look.kept)
    if response is None:
        raw = largest > _RAW_RANGE and look.low >= 0
        return [f"{span} look unnormalized, and the first layer, {node}, takes them unscaled; {_DECLARE}"] * raw
    if layer.expected_rms is not None:
        ratio = response / layer.expected_rms if layer.expected_rms > 0 else 1.0
        if 1 / _BATCHNORM_RATIO < ratio < _BATCHNORM_RATIO:
            return []
        return [
            f"{span} make the first layer, {node}, answer {ratio:.3g} times as strongly as its BatchNormalization "
            f"saw in training: missing or wrong normalization; {_DECLARE}"
        ]
    limit = _RAW_RESPONSE if look.low >= 0 else _CENTRED_RESPONSE
    if response <= limit:
        return []
    return [
        f"{span} make the first layer, {node}, answer with values of order {response:.0f} (1 is usual): "
        f"missing normalization; {_DECLARE}"
    ]


def _channels(look: FirstLook, model: ir.Model | None) -> list[str]:
    """A channel axis in the wrong place that the model's open dimensions did not reveal."""
    if len(look.shape) != 4:
        return []
    _, first, _, last = look.shape
    layer = None if model is None else first_layer(model, look.spec.name)
    if layer is not None and layer.node.op_type == "Conv" and layer.node.inputs[0] is not None:
        weight = constant_tensor(layer.node.inputs[1])
        direct = layer.node.inputs[0].name == look.spec.name
        if direct and weight is not None and len(weight.shape) == 4:
            wanted = int(weight.shape.numpy()[1]) * int(attribute(layer.node, "group", 1))
            if first != wanted and last == wanted:
                raise DataError(
                    f"a sample has shape {look.shape}, but the first layer, Conv {layer.node.name!r}, takes {wanted} "
                    f"channels on axis 1",
                    where=f"input {look.spec.name!r}",
                    hint='this looks like NHWC data: transpose it by (0, 3, 1, 2), or declare layout = "NHWC"',
                )
            return []
    if look.spec.dims is not None and not isinstance(look.spec.dims[1], int) and last in (1, 3) and first > 4:
        where = "the model leaves it open which axis holds the channels"
        return [f"input {look.spec.name!r}: a sample has shape {look.shape}, which looks like NHWC, and {where}"]
    return []
