"""Random ONNX graphs that are rich in what simplifiers rewrite, the same for the same seed.

``graph(seed)`` gives a valid model of 5 to 40 nodes (a few more where a motif ends). Values stay near 1 in size and
nothing in it is discontinuous, so that two correct forms of a graph agree to rounding. ``graphs()`` is a Hypothesis
strategy over them. To debug a seed: ``python -m tests.random_graphs SEED`` prints its graph, what the pipeline makes
of it and, if something is wrong, the smallest graph found that still shows it (``shrink``).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.printer
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests import pipeline

Array = np.ndarray[Any, np.dtype[Any]]
OPSETS = (9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)
LEAST, MOST = 5, 40
_TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16}
_LARGEST = 6000  # elements of a value, without the batch


@dataclass(frozen=True)
class Value:
    """A float tensor of the graph: its name and dims; the first is the batch, the str ``N`` where it is open."""

    name: str
    dims: tuple[int | str, ...]

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def inner(self) -> tuple[int, ...]:
        """The dims but for the batch."""
        return tuple(d for d in self.dims[1:] if isinstance(d, int))

    def with_inner(self, *dims: int) -> tuple[int | str, ...]:
        return (self.dims[0], *dims)


class Builder:
    """Grows a graph, node by node."""

    def __init__(self, seed: int, size: int | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice(OPSETS))
        self.dtype = np.dtype(self.rng.choice(["float32", "float16", "float64"], p=[0.84, 0.1, 0.06]))
        self.batch: int | str = "N" if self.chance(0.4) else int(self.rng.integers(1, 4))
        self.size = size if size is not None else int(self.rng.integers(LEAST, MOST + 1))
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.pool: list[Value] = []
        self.stored: dict[tuple[Any, ...], list[str]] = {}
        self.made = 0
        self.depth = 0

    # Parts

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def fresh(self, base: str = "v") -> str:
        self.made += 1
        return f"{base}{self.made}"

    def raw(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> list[str]:
        """Append a node; the names of its outputs."""
        names = [self.fresh() for _ in range(outputs)]
        name = self.fresh(f"{op}_") if self.chance(0.8) else ""
        self.nodes.append(helper.make_node(op, list(inputs), names, name, **attributes))
        return names

    def op(self, op: str, inputs: Sequence[Value | str], dims: Sequence[int | str], **attributes: Any) -> Value:
        """Append a node of one output, of these dims, which joins the pool."""
        names = [i.name if isinstance(i, Value) else i for i in inputs]
        value = Value(self.raw(op, names, **attributes)[0], tuple(dims))
        self.pool.append(value)
        return value

    def store(self, array: Array) -> str:
        """A stored constant: an initializer, at times one that is there already, or a Constant node."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.shape)
        if array.dtype == self.dtype and array.size > 1 and key in self.stored and self.chance(0.15):
            return str(self.pick(self.stored[key]))
        if self.chance(0.15):
            return self.raw("Constant", [], value=numpy_helper.from_array(array))[0]
        name = self.fresh("c")
        self.initializers.append(numpy_helper.from_array(array, name))
        if array.dtype == self.dtype:
            self.stored.setdefault(key, []).append(name)
            if self.chance(0.02):  # it may be overridden
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                self.inputs.append(helper.make_tensor_value_info(name, kind, list(array.shape)))
        return name

    def weight(self, *shape: int, fan: int = 1) -> str:
        return self.store((self.rng.standard_normal(shape) / math.sqrt(fan)).astype(self.dtype))

    def near(self, *shape: int) -> str:
        """Positive values from 0.5 to 1.5."""
        return self.store(self.rng.uniform(0.5, 1.5, shape).astype(self.dtype))

    def scalar(self, value: float, form: Sequence[int] | None = None) -> str:
        shape = self.pick([(), (1,), (1, 1)]) if form is None else form
        return self.store(np.full(tuple(shape), value, self.dtype))

    def ints(self, *values: int) -> str:
        return self.store(np.array(values, np.int64))

    @contextmanager
    def body(self) -> Iterator[list[onnx.NodeProto]]:
        """Nodes appended inside go to a body of their own; what is made there is not seen outside."""
        outer, pool, stored = self.nodes, self.pool, self.stored
        self.nodes, self.pool, self.stored = [], list(pool), {k: list(v) for k, v in stored.items()}
        self.depth += 1
        try:
            yield self.nodes
        finally:
            self.nodes, self.pool, self.stored = outer, pool, stored
            self.depth -= 1

    # The whole

    def input(self, *dims: int) -> None:
        value = Value(self.fresh("x"), (self.batch, *dims))
        self.pool.append(value)
        kind = _TYPES[self.dtype.name]
        self.inputs.append(helper.make_tensor_value_info(value.name, kind, list(value.dims)))

    def step(self) -> None:
        """One motif, from a value that is likely a late one."""
        late = self.pool[-4:] if self.chance(0.8) else self.pool
        value = self.pick(late)
        moves = ANY + BY_RANK[value.rank] if self.chance(0.75) else BY_RANK[value.rank]
        self.pick(moves)(self, value)

    def model(self) -> onnx.ModelProto:
        """The finished model."""
        first = self.pick([(4, 8, 8), (6, 6, 5), (4, 8, 8), (5, 8), (8,)])
        self.input(*first)
        if self.chance(0.2):
            self.input(*first)
        while len(self.nodes) < self.size:
            self.step()
        read = {name for node in pipeline.all_nodes(helper.make_model(self._graph([]))) for name in node.input}
        ends = [v for v in self.pool if v.name not in read]
        outputs = ends + [v for v in self.pool if v.name in read and self.chance(0.06)]
        given = {i.name for i in self.inputs}
        outputs = [v for v in outputs if v.name not in given] or [self.op("Relu", [self.pool[0]], self.pool[0].dims)]
        model = helper.make_model(self._graph(outputs), opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 10 if self.opset > 20 else 8
        return model

    def _graph(self, outputs: Sequence[Value]) -> onnx.GraphProto:
        kind = _TYPES[self.dtype.name]
        infos = [helper.make_tensor_value_info(v.name, kind, list(v.dims)) for v in outputs]
        return helper.make_graph(self.nodes, "g", self.inputs, infos, self.initializers)


Move = Callable[[Builder, Value], Any]


# For values of any rank


def unary(b: Builder, x: Value) -> Value:
    return b.op(b.pick(["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Softplus", "LeakyRelu", "Elu"]), [x], x.dims)


def noop(b: Builder, x: Value) -> Value:
    kind = b.pick(["Identity", "Dropout", "Mul", "Add", "Div", "Sub", "Pow", "Transpose", "Cast", "Reshape", "Concat"])
    if kind == "Dropout":
        with_ratio = [b.store(np.array(0.5, np.float32))] if b.opset >= 12 and b.chance(0.5) else []
        return b.op(kind, [x, *with_ratio], x.dims)
    if kind in ("Mul", "Div", "Pow"):
        return b.op(kind, [x, b.scalar(1.0, (1,) * int(b.rng.integers(0, x.rank + 1)))], x.dims)
    if kind in ("Add", "Sub"):
        return b.op(kind, [x, b.scalar(0.0, (1,) * int(b.rng.integers(0, x.rank + 1)))], x.dims)
    if kind == "Transpose":
        return b.op(kind, [x], x.dims, perm=list(range(x.rank)))
    if kind == "Cast":
        return b.op(kind, [x], x.dims, to=_TYPES[b.dtype.name])
    if kind == "Reshape":
        return b.op(kind, [x, b.ints(*([0] * x.rank))], x.dims)
    return b.op(kind, [x], x.dims, **({"axis": 1} if kind == "Concat" else {}))


def affine(b: Builder, x: Value) -> Value:
    """A chain of scalar or channel-wise affine steps."""
    for _ in range(int(b.rng.integers(1, 4))):
        channels = (x.inner[0], *([1] * (x.rank - 2)))
        form = b.pick([(), (1,), channels, (1, *channels)])
        operator = b.pick(["Mul", "Add", "Sub", "Div"])
        constant = b.near(*form)
        flipped = operator in ("Mul", "Add") and b.chance(0.4)
        x = b.op(operator, [constant, x] if flipped else [x, constant], x.dims)
    return x


def clip(b: Builder, x: Value, low: float | None = None, high: float | None = None) -> Value:
    low = float(b.rng.choice([-1.0, 0.0, -0.5])) if low is None else low
    high = float(b.rng.choice([1.0, 6.0, 3.0])) if high is None else high
    if b.opset < 11:
        return b.op("Clip", [x], x.dims, min=low, max=high)
    if b.dtype.name == "float32" and b.chance(0.3):
        h = b.op("Min", [x, b.scalar(high, ())], x.dims)
        return b.op("Max", [h, b.scalar(low, ())], x.dims)
    if b.dtype.name != "float32" and b.opset < 12:
        return x
    return b.op("Clip", [x, b.scalar(low, ()), b.scalar(high, ())], x.dims)


def activation_chain(b: Builder, x: Value) -> Value:
    for _ in range(int(b.rng.integers(2, 4))):
        x = b.op("Relu", [x], x.dims) if b.chance(0.5) else clip(b, x)
    return x


def hard_swish(b: Builder, x: Value) -> Value:
    h = clip(b, b.op("Add", [x, b.scalar(3.0, ())], x.dims), 0.0, 6.0)
    if b.chance(0.5):
        return b.op("Div", [b.op("Mul", [x, h], x.dims), b.scalar(6.0, ())], x.dims)
    return b.op("Mul", [x, b.op("Div", [h, b.scalar(6.0, ())], x.dims)], x.dims)


def silu(b: Builder, x: Value) -> Value:
    return b.op("Mul", [x, b.op("Sigmoid", [x], x.dims)], x.dims)


def gelu(b: Builder, x: Value) -> Value:
    h = b.op("Div", [x, b.scalar(math.sqrt(2), ())], x.dims)
    h = b.op("Add", [b.op("Erf", [h], x.dims), b.scalar(1.0, ())], x.dims)
    return b.op("Mul", [b.op("Mul", [x, h], x.dims), b.scalar(0.5, ())], x.dims)


def duplicate(b: Builder, x: Value) -> Value:
    """The same thing twice, and both read."""
    op, other = b.pick(["Sigmoid", "Tanh", "Relu"]), b.pick(["Neg", "Abs", "Relu"])
    p, q = (b.op(other, [b.op(op, [x], x.dims)], x.dims) for _ in range(2))
    return b.op(b.pick(["Add", "Sub"]), [p, q], x.dims)


def combine(b: Builder, x: Value) -> Value:
    """Two values of equal dims."""
    same = [v for v in b.pool if v.dims == x.dims]
    other = b.pick(same)
    if b.chance(0.3):
        return b.op("Mul", [b.op("Sigmoid", [other], x.dims), x], x.dims)
    return b.op(b.pick(["Add", "Sub", "Max"] if b.opset >= 12 else ["Add", "Sub"]), [x, other], x.dims)


def wide_cast(b: Builder, x: Value) -> Value:
    if b.dtype.name == "float64":
        return noop(b, x)
    wide = b.raw("Cast", [x.name], to=TensorProto.DOUBLE)[0]
    return b.op("Cast", [wide], x.dims, to=_TYPES[b.dtype.name])


def softmax(b: Builder, x: Value) -> Value:
    return b.op("Softmax", [x], x.dims, axis=int(b.rng.integers(1, x.rank)))


def unsqueeze_squeeze(b: Builder, x: Value) -> Value:
    axis = int(b.rng.integers(0, x.rank + 1))
    up = {"axes": [axis]} if b.opset < 13 else {}
    name = b.raw("Unsqueeze", [x.name] if up else [x.name, b.ints(axis)], **up)[0]
    if b.chance(0.3):
        name = b.raw("Relu", [name])[0]
    return b.op("Squeeze", [name] if up else [name, b.ints(axis)], x.dims, **up)


def transposes(b: Builder, x: Value) -> Value:
    """A Transpose, perhaps something elementwise, and a Transpose back or on."""
    perm = [int(p) for p in b.rng.permutation(x.rank)]
    back = [int(p) for p in np.argsort(perm)]
    name = b.raw("Transpose", [x.name], perm=perm)[0]
    inner = b.rng.random()
    if inner < 0.3:
        name = b.raw(b.pick(["Relu", "Sigmoid"]), [name])[0]
    elif inner < 0.5 and x.dims[perm[-1]] != "N":
        last = x.dims[perm[-1]]
        assert isinstance(last, int)
        name = b.raw(b.pick(["Add", "Mul"]), [name, b.near(last)])[0]
    elif inner < 0.6:
        name = b.raw("Add", [b.raw("Sigmoid", [name])[0], name])[0]
    return b.op("Transpose", [name], x.dims, perm=back)


def reshapes(b: Builder, x: Value) -> Value:
    """Through another form and back."""
    total = math.prod(x.inner)
    lead = x.inner[0]
    middle = b.pick([[0, -1], [-1, total], [0, lead, -1]])
    name = b.raw("Reshape", [x.name, b.ints(*middle)])[0]
    return b.op("Reshape", [name, b.ints(*b.pick([[-1, *x.inner], [-1, *x.inner[:-1], x.inner[-1]]]))], x.dims)


def shape_reshape(b: Builder, x: Value) -> Value:
    """A Reshape to dims that are computed from the shape: [batch, -1]."""
    shape = b.raw("Shape", [x.name])[0]
    batch = b.raw("Gather", [shape, b.store(np.array(0, np.int64))], axis=0)[0]
    up = {"axes": [0]} if b.opset < 13 else {}
    batch = b.raw("Unsqueeze", [batch] if up else [batch, b.ints(0)], **up)[0]
    target = b.raw("Concat", [batch, b.ints(-1)], axis=0)[0]
    return b.op("Reshape", [x, target], x.with_inner(math.prod(x.inner)))


def expand_like(b: Builder, x: Value) -> Value:
    return b.op("Expand", [x, b.raw("Shape", [x.name])[0]], x.dims)


def split_concat(b: Builder, x: Value) -> Value:
    """Split the channels and put them together again, in order or not."""
    channels = x.inner[0]
    if channels < 2:
        return unary(b, x)
    first = int(b.rng.integers(1, channels))
    sizes = [first, channels - first]
    if b.opset < 13:
        names = b.raw("Split", [x.name], 2, axis=1, split=sizes)
    else:
        names = b.raw("Split", [x.name, b.ints(*sizes)], 2, axis=1)
    parts = [Value(n, x.with_inner(s, *x.inner[1:])) for n, s in zip(names, sizes, strict=True)]
    if b.chance(0.4):
        parts[0] = b.op("Relu", [parts[0]], parts[0].dims)
    if b.chance(0.3):
        parts = parts[::-1]
    return b.op("Concat", parts, x.dims, axis=b.pick([1, 1 - x.rank]))


def sliced(b: Builder, x: Value, axis: int, start: int, end: int, step: int = 1) -> Value:
    size = len(range(*slice(start, end, step).indices(x.inner[axis - 1])))
    dims = [*x.dims]
    dims[axis] = size
    if b.opset < 10:
        return b.op("Slice", [x], dims, axes=[axis], starts=[start], ends=[end])
    inputs = [b.ints(start), b.ints(end), b.ints(b.pick([axis, axis - x.rank]))]
    return b.op("Slice", [x, *inputs, *([b.ints(step)] if step != 1 or b.chance(0.5) else [])], dims)


def slices(b: Builder, x: Value) -> Value:
    """Slices of slices; or all parts of an axis, put together again."""
    axis = int(b.rng.integers(1, x.rank))
    size = x.inner[axis - 1]
    if size < 3:
        return unary(b, x)
    if b.chance(0.5):
        h = sliced(b, x, axis, 1, b.pick([size, 2**31 - 1, -1]) if size > 3 else size)
        return sliced(b, h, axis, 0, max(1, h.inner[axis - 1] - 1))
    middle = int(b.rng.integers(1, size))
    parts = [sliced(b, x, axis, 0, middle), sliced(b, x, axis, middle, size)]
    return b.op("Concat", parts, x.dims, axis=axis)


def concats(b: Builder, x: Value) -> Value:
    if math.prod(x.inner) * 3 > _LARGEST:
        return unary(b, x)
    h = b.op("Concat", [x, b.op("Relu", [x], x.dims)], x.with_inner(2 * x.inner[0], *x.inner[1:]), axis=1)
    return b.op("Concat", [h, x], x.with_inner(3 * x.inner[0], *x.inner[1:]), axis=1)


def reduced(b: Builder, x: Value, op: str, axes: Sequence[int], keep: int, dims: Sequence[int | str]) -> Value:
    as_input = b.opset >= (13 if op == "ReduceSum" else 18)
    if as_input:
        return b.op(op, [x, b.ints(*axes)], dims, keepdims=keep)
    return b.op(op, [x], dims, axes=list(axes), keepdims=keep)


def constant_branch(b: Builder, x: Value) -> Value:
    """Constants through a few nodes, then added."""
    size = x.inner[-1]
    name = b.raw(b.pick(["Tanh", "Sigmoid", "Neg"]), [b.weight(size)])[0]
    name = b.raw(b.pick(["Mul", "Add"]), [name, b.near(size)])[0]
    return b.op("Add", [x, name], x.dims)


def dead(b: Builder, x: Value) -> Value:
    """Something that nobody reads."""
    b.raw("Neg", [b.raw("Tanh", [x.name])[0]])
    return unary(b, x)


def branches(b: Builder, x: Value) -> Value:
    """An If whose bodies capture values; its condition is an input, a constant, or comes from a shape."""
    if b.depth or len(b.nodes) < 2:
        return unary(b, x)
    kind = b.rng.random()
    if kind < 0.5:
        cond = b.fresh("cond")
        b.inputs.append(helper.make_tensor_value_info(cond, TensorProto.BOOL, []))
    elif kind < 0.75:
        cond = b.store(np.array(b.chance(0.5)))
    else:
        rank = b.raw("Size", [b.raw("Shape", [x.name])[0]])[0]
        cond = b.raw("Less", [rank, b.store(np.array(b.pick([3, 9]), np.int64))])[0]
    bodies = []
    for word in ("then", "else"):
        with b.body() as nodes:
            h = x
            for _ in range(int(b.rng.integers(1, 4))):
                moves: list[Move] = [unary, noop, affine, activation_chain, transposes, duplicate, combine]
                if x.rank == 4:
                    moves += [conv_same, batch_norm]
                h = b.pick(moves)(b, h)
            if h.name == x.name:
                h = unary(b, h)
            out = helper.make_tensor_value_info(h.name, _TYPES[b.dtype.name], list(x.dims))
            bodies.append(helper.make_graph(nodes, word, [], [out]))
    return b.op("If", [cond], x.dims, then_branch=bodies[0], else_branch=bodies[1])


# Images


def convolved(b: Builder, x: Value, out: int, kernel: tuple[int, int], pads: Sequence[int], **attributes: Any) -> Value:
    """A Conv; ``group``, ``strides`` and ``auto_pad`` as attributes."""
    group = attributes.get("group", 1)
    strides = attributes.get("strides", (1, 1))
    channels, *sizes = x.inner
    weight = b.weight(out, channels // group, *kernel, fan=channels // group * math.prod(kernel))
    bias = [b.weight(out)] if b.chance(0.5) else []
    if "auto_pad" in attributes:
        spatial = [-(-s // t) for s, t in zip(sizes, strides, strict=True)]
    else:
        attributes["pads"] = list(pads)
        spatial = [(s + pads[k] + pads[k + 2] - kernel[k]) // strides[k] + 1 for k, s in enumerate(sizes)]
    if b.chance(0.7):
        attributes["kernel_shape"] = list(kernel)
    return b.op("Conv", [x, weight, *bias], x.with_inner(out, *spatial), **attributes)


def conv_same(b: Builder, x: Value) -> Value:
    """A Conv that keeps the dims."""
    group = b.pick([1, 1, x.inner[0]])
    if b.chance(0.2):
        return convolved(b, x, x.inner[0], (3, 3), (), group=group, auto_pad=b.pick(["SAME_UPPER", "SAME_LOWER"]))
    kernel, pads = b.pick([((1, 1), (0,) * 4), ((3, 3), (1,) * 4), ((1, 3), (0, 1, 0, 1)), ((3, 1), (1, 0, 1, 0))])
    return convolved(b, x, x.inner[0], kernel, pads, group=group)


def conv(b: Builder, x: Value) -> Value:
    kernel = b.pick([(1, 1), (3, 3), (3, 1)])
    pads = (1, 1, 1, 1) if min(x.inner[1:]) < 3 or b.chance(0.5) else (0, 0, 0, 0)
    strides = b.pick([[1, 1], [1, 1], [2, 2]])
    out = b.pick([2, 4, 6])
    group = b.pick([g for g in (1, 2) if x.inner[0] % g == 0 and out % g == 0])
    return convolved(b, x, out, kernel, pads, strides=strides, group=group)


def conv_transpose(b: Builder, x: Value) -> Value:
    channels, height, width = x.inner
    group = b.pick([g for g in (1, 2) if channels % g == 0])
    weight = b.weight(channels, 2, 2, 2, fan=channels)
    bias = [b.weight(2 * group)] if b.chance(0.5) else []
    dims = x.with_inner(2 * group, height + 1, width + 1)
    return b.op("ConvTranspose", [x, weight, *bias], dims, group=group)


def batch_norm(b: Builder, x: Value) -> Value:
    c = x.inner[0]
    return b.op("BatchNormalization", [x, b.near(c), b.weight(c), b.weight(c), b.near(c)], x.dims)


def conv_bn(b: Builder, x: Value) -> Value:
    first = b.pick([conv, conv, conv_same, conv_transpose])
    h = batch_norm(b, first(b, x))
    return b.op("Relu", [h], h.dims) if b.chance(0.5) else h


def conv_affine(b: Builder, x: Value) -> Value:
    return affine(b, b.pick([conv, conv_same, conv_transpose])(b, x))


def bn_conv(b: Builder, x: Value) -> Value:
    return b.pick([conv, conv_same])(b, b.pick([batch_norm, affine])(b, x))


def residual(b: Builder, x: Value) -> Value:
    h = b.op("Relu", [batch_norm(b, conv_same(b, x))], x.dims)
    return b.op("Add", [batch_norm(b, conv_same(b, h)), x], x.dims)


def multi_branch(b: Builder, x: Value) -> Value:
    """Branches of convolutions, summed: RepVGG, ACNet and their like."""
    parts = [conv_same(b, x) for _ in range(2)]
    if b.chance(0.5):
        parts = [batch_norm(b, p) for p in parts]
    if b.chance(0.4):
        parts.append(batch_norm(b, x))
    total = parts[0]
    for part in parts[1:]:
        total = b.op("Add", [total, part], x.dims)
    return total


def siblings(b: Builder, x: Value) -> Value:
    """Convolutions of one input, concatenated or not."""
    parts = [convolved(b, x, b.pick([2, 4]), (1, 1), (0,) * 4) for _ in range(int(b.rng.integers(2, 4)))]
    if b.chance(0.4):
        parts = [b.op("Relu", [p], p.dims) for p in parts]
    if b.chance(0.3):
        return parts[0]
    return b.op("Concat", parts, x.with_inner(sum(p.inner[0] for p in parts), *x.inner[1:]), axis=1)


def conv_chain(b: Builder, x: Value) -> Value:
    """Convolutions with nothing in between, one of them 1x1 or depthwise."""
    kernels: list[Any] = [(1, 1), (3, 3)]
    if b.chance(0.5):
        kernels = kernels[::-1]
    h = x
    for kernel in kernels:
        pad = 1 if kernel == (3, 3) and min(h.inner[1:]) < 3 else 0
        h = convolved(b, h, b.pick([2, 4, 6]), kernel, (pad,) * 4)
    return h


def pad(b: Builder, x: Value, pads: Sequence[int], value: float = 0.0, mode: str = "constant") -> Value:
    _, height, width = x.inner
    dims = x.with_inner(x.inner[0], height + pads[0] + pads[2], width + pads[1] + pads[3])
    whole = [0, 0, *pads[:2], 0, 0, *pads[2:]]
    if b.opset < 11:
        return b.op("Pad", [x], dims, pads=whole, mode=mode, value=value)
    if b.opset >= 18 and b.chance(0.5):
        return b.op("Pad", [x, b.ints(*pads), b.scalar(value, ()), b.ints(2, b.pick([3, -1]))], dims, mode=mode)
    given = [b.scalar(value, ())] if value or b.chance(0.5) else []
    return b.op("Pad", [x, b.ints(*whole), *given], dims, mode=mode)


def pad_reader(b: Builder, x: Value) -> Value:
    """A Pad and a Conv or pool that could take it in, or not."""
    value = float(b.rng.choice([0.0, 0.0, 0.0, 0.5]))
    mode = "constant" if b.chance(0.85) or min(x.inner[1:]) < 3 else "reflect"
    h = pad(b, x, b.pick([(1, 1, 1, 1), (0, 1, 1, 0), (2, 2, 2, 2)]), value, mode)
    if b.chance(0.2):
        h = pad(b, h, (1, 1, 0, 0))
    return pool(b, h) if b.chance(0.4) else conv(b, h)


def pool(b: Builder, x: Value) -> Value:
    if min(x.inner[1:]) < 3:
        return global_pool(b, x)
    op = b.pick(["MaxPool", "AveragePool"])
    more = {"count_include_pad": int(b.rng.integers(2))} if op == "AveragePool" else {}
    p = int(b.rng.integers(2))
    sizes = [(s + 2 * p - 3) // 2 + 1 for s in x.inner[1:]]
    return b.op(op, [x], x.with_inner(x.inner[0], *sizes), kernel_shape=[3, 3], strides=[2, 2], pads=[p] * 4, **more)


def global_pool(b: Builder, x: Value) -> Value:
    dims = x.with_inner(x.inner[0], 1, 1)
    if b.chance(0.5):
        return reduced(b, x, "ReduceMean", b.pick([[2, 3], [-1, -2]]), 1, dims)
    return b.op("GlobalAveragePool", [x], dims)


def flat(b: Builder, x: Value) -> Value:
    total = x.with_inner(math.prod(x.inner))
    kind = b.rng.random()
    if kind < 0.4:
        return b.op("Flatten", [x], total, axis=1)
    if kind < 0.7:
        return b.op("Reshape", [x, b.ints(*b.pick([[0, -1], [-1, math.prod(x.inner)]]))], total)
    return shape_reshape(b, x)


def head(b: Builder, x: Value) -> Value:
    """Global pooling, a form without space, a layer."""
    return gemm(b, flat(b, global_pool(b, x)))


def reduce_squeeze(b: Builder, x: Value) -> Value:
    h = reduced(b, x, b.pick(["ReduceMean", "ReduceMax", "ReduceSum"]), [3], 1, x.with_inner(*x.inner[:2], 1))
    up = {"axes": [3]} if b.opset < 13 else {}
    return b.op("Squeeze", [h] if up else [h, b.ints(3)], x.with_inner(*x.inner[:2]), **up)


def resize(b: Builder, x: Value) -> Value:
    if b.opset < 11 or b.dtype.name == "float64" or math.prod(x.inner) * 4 > _LARGEST:
        return unary(b, x)
    scale = b.pick([1, 2])
    scales = b.store(np.array([1, 1, scale, scale], np.float32))
    empty = b.store(np.array([], np.float32)) if b.opset < 13 else ""
    dims = x.with_inner(x.inner[0], x.inner[1] * scale, x.inner[2] * scale)
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return b.op("Resize", [x, empty, scales], dims, **how)


def focus(b: Builder, x: Value) -> Value:
    channels, height, width = x.inner
    if b.opset < 10 or height % 2 or width % 2:
        return unary(b, x)
    parts = []
    for i, j in ((0, 0), (1, 0), (0, 1), (1, 1)):
        h = sliced(b, x, 2, i, 2**31 - 1, 2)
        parts.append(sliced(b, h, 3, j, 2**31 - 1, 2))
    return b.op("Concat", parts, x.with_inner(4 * channels, height // 2, width // 2), axis=1)


def shuffle(b: Builder, x: Value) -> Value:
    channels, height, width = x.inner
    if channels % 2:
        return unary(b, x)
    name = b.raw("Reshape", [x.name, b.ints(0, 2, channels // 2, height, width)])[0]
    name = b.raw("Transpose", [name], perm=[0, 2, 1, 3, 4])[0]
    return b.op("Reshape", [name, b.ints(-1, channels, height, width)], x.dims)


def tokens(b: Builder, x: Value) -> Value:
    channels, height, width = x.inner
    name = b.raw("Reshape", [x.name, b.ints(0, channels, -1)])[0]
    return b.op("Transpose", [name], x.with_inner(height * width, channels), perm=[0, 2, 1])


# Sequences and vectors


def gemm(b: Builder, x: Value) -> Value:
    features = x.inner[0]
    out = b.pick([4, 6, 8])
    flip = int(b.rng.integers(2))
    weight = b.weight(*((out, features) if flip else (features, out)), fan=features)
    more = {"alpha": 0.5, "beta": 2.0} if b.chance(0.2) else {}
    bias = [b.pick([b.weight, b.near])(out)] if b.opset < 11 or b.chance(0.7) else []
    return b.op("Gemm", [x, weight, *bias], x.with_inner(out), transB=flip, **more)


def matmul(b: Builder, x: Value) -> Value:
    out = b.pick([4, 6, 8])
    dims = x.with_inner(*x.inner[:-1], out)
    h = b.op("MatMul", [x, b.weight(x.inner[-1], out, fan=x.inner[-1])], dims)
    return b.op("Add", [h, b.weight(out)] if b.chance(0.5) else [b.weight(out), h], dims) if b.chance(0.6) else h


def layers(b: Builder, x: Value) -> Value:
    """Two linear layers with nothing, or little, in between."""
    layer = b.pick([gemm, matmul]) if x.rank == 2 else matmul
    h = layer(b, x)
    if b.chance(0.5):
        h = b.pick([noop, affine])(b, h)
    return layer(b, h)


def layer_affine(b: Builder, x: Value) -> Value:
    h = (gemm if x.rank == 2 and b.chance(0.5) else matmul)(b, x)
    size = h.inner[-1]
    for _ in range(int(b.rng.integers(1, 3))):
        h = b.op(b.pick(["Mul", "Add", "Sub", "Div"]), [h, b.near(*b.pick([(), (size,), (1, size)]))], h.dims)
    return h


def gemm_bn(b: Builder, x: Value) -> Value:
    return batch_norm(b, gemm(b, x))


def bn_gemm(b: Builder, x: Value) -> Value:
    return gemm(b, batch_norm(b, x))


def projections(b: Builder, x: Value) -> Value:
    """Layers of one input: queries, keys, values."""
    size, out = x.inner[-1], b.pick([4, 6])
    dims = x.with_inner(*x.inner[:-1], out)
    parts = []
    for _ in range(3):
        h = b.op("MatMul", [x, b.weight(size, out, fan=size)], dims)
        parts.append(b.op("Add", [h, b.weight(out)], dims) if b.chance(0.5) else h)
    if x.rank == 3 and b.chance(0.6):
        length = x.inner[0]
        keys = b.op("Transpose", [parts[1]], x.with_inner(out, length), perm=[0, 2, 1])
        scores = b.op("MatMul", [parts[0], keys], x.with_inner(length, length))
        scores = b.op("Mul", [scores, b.scalar(1 / math.sqrt(out), ())], scores.dims)
        return b.op("MatMul", [b.op("Softmax", [scores], scores.dims, axis=2), parts[2]], dims)
    return b.op("Concat", parts, x.with_inner(*x.inner[:-1], 3 * out), axis=x.rank - 1)


def layer_norm(b: Builder, x: Value) -> Value:
    size = x.inner[-1]
    if size < 2:
        return unary(b, x)
    one = x.with_inner(*x.inner[:-1], 1)
    centred = b.op("Sub", [x, reduced(b, x, "ReduceMean", [-1], 1, one)], x.dims)
    if b.chance(0.5):
        square = b.op("Mul", [centred, centred], x.dims)
    else:
        square = b.op("Pow", [centred, b.scalar(2.0, ())], x.dims)
    variance = b.op("Add", [reduced(b, square, "ReduceMean", [-1], 1, one), b.scalar(1e-2, ())], one)
    h = b.op("Div", [centred, b.op("Sqrt", [variance], one)], x.dims)
    return b.op("Add", [b.op("Mul", [h, b.near(size)], x.dims), b.weight(size)], x.dims)


def lift(b: Builder, x: Value) -> Value:
    """A vector or sequence as an image."""
    up = {"axes": list(range(x.rank, 4))}
    dims = (*x.dims, *([1] * (4 - x.rank)))
    if b.opset < 13:
        return b.op("Unsqueeze", [x], dims, **up)
    return b.op("Unsqueeze", [x, b.ints(*up["axes"])], dims)


ANY: list[Move] = [
    unary, noop, noop, affine, affine, clip, activation_chain, hard_swish, silu, gelu, duplicate, combine, wide_cast,
    softmax, unsqueeze_squeeze, transposes, transposes, reshapes, shape_reshape, expand_like, split_concat, slices,
    concats, constant_branch, dead, branches,
]  # fmt: skip
BY_RANK: dict[int, list[Move]] = {
    2: [gemm, matmul, layers, layer_affine, gemm_bn, bn_gemm, projections, layer_norm, lift],
    3: [matmul, layers, layer_affine, projections, layer_norm, lift],
    4: [
        conv, conv_same, conv_bn, conv_bn, conv_affine, bn_conv, residual, multi_branch, siblings, conv_chain, batch_norm,
        pad_reader, pool, global_pool, flat, head, reduce_squeeze, resize, focus, shuffle, tokens, conv_transpose,
    ],
}  # fmt: skip


def graph(seed: int, size: int | None = None) -> onnx.ModelProto:
    """The graph of this seed; of about ``size`` nodes, else of 5 to 40."""
    return Builder(seed, size).model()


def graphs() -> st.SearchStrategy[onnx.ModelProto]:
    """Hypothesis shrinks the number of nodes; ``shrink`` gets further."""
    return st.builds(graph, st.integers(0, 2**32 - 1), st.integers(LEAST, MOST))


def text(model: onnx.ModelProto) -> str:
    """The model as text that onnx.parser reads, weights included."""
    return str(onnx.printer.to_text(model))


def shrink(model: onnx.ModelProto, fails: Callable[[onnx.ModelProto], bool]) -> onnx.ModelProto:
    """Drop outputs and nodes (a reader of the dropped one reads its first input instead) while it still fails."""

    def attempt(change: Callable[[onnx.GraphProto], None]) -> bool:
        nonlocal model
        candidate = onnx.ModelProto()
        candidate.CopyFrom(model)
        change(candidate.graph)
        _forget_unused(candidate.graph)
        try:
            onnx.checker.check_model(candidate, full_check=True)
            failed = fails(candidate)
        except Exception:  # noqa: BLE001 -- no valid model: not this way
            return False
        if failed:
            model = candidate
        return failed

    progress = True
    while progress:
        progress = False
        for k in reversed(range(len(model.graph.output))):
            progress |= len(model.graph.output) > 1 and attempt(lambda g, k=k: g.output.pop(k))  # type: ignore[misc]
        for k in reversed(range(len(model.graph.node))):
            if k < len(model.graph.node):
                progress |= attempt(lambda g, k=k: _bypass(g, k))  # type: ignore[misc]
                progress |= k < len(model.graph.node) and attempt(lambda g, k=k: _expose(g, k))  # type: ignore[misc]
    return model


def _bypass(graph: onnx.GraphProto, k: int) -> None:
    node = graph.node.pop(k)
    source = node.input[0] if node.input else ""
    for other in (*graph.node, *(n for m in graph.node for n in pipeline.inner_nodes(m))):
        for i, name in enumerate(other.input):
            if name in node.output:
                other.input[i] = source


def _expose(graph: onnx.GraphProto, k: int) -> None:
    """What the node reads becomes the only output."""
    source = graph.node[k].input[0]
    info = onnx.ValueInfoProto()
    info.CopyFrom(graph.output[0])
    info.name = source
    info.type.tensor_type.ClearField("shape")
    del graph.output[:]
    graph.output.append(info)


def _forget_unused(graph: onnx.GraphProto) -> None:
    outputs = {v.name for v in graph.output}
    while True:
        read = outputs | {n for node in graph.node for m in (node, *pipeline.inner_nodes(node)) for n in m.input}
        unread = [k for k, node in enumerate(graph.node) if not read & set(node.output)]
        if not unread:
            break
        for k in reversed(unread):
            graph.node.pop(k)
    for values in (graph.initializer, graph.input):
        for k in reversed(range(len(values))):
            if values[k].name not in read:
                values.pop(k)


def wrong(model: onnx.ModelProto) -> list[str]:
    """What the pipeline does wrong with this model."""
    from edgeopt import saving

    done = pipeline.simplified(model)
    after = saving.to_proto(done.model)
    found = pipeline.problems(model, done) + pipeline.differences(model, after, pipeline.feeds(model))
    before, now = len(pipeline.all_nodes(model)), len(pipeline.all_nodes(after))
    return found + ([f"{before} nodes became {now}"] if now > before else [])


if __name__ == "__main__":
    found = graph(int(sys.argv[1]))
    if said := wrong(found):
        found = shrink(found, lambda m: bool(wrong(m)))
        said += ["of the smallest graph:", *wrong(found)]
    print(text(found), *said, sep="\n")
