"""Grows a random graph node by node; values stay near 1 in size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import pipeline

Array = np.ndarray[Any, np.dtype[Any]]
OPSETS = (9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)
LEAST, MOST = 5, 40
TYPES = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16}
FIRST = [(4, 8, 8), (6, 6, 5), (4, 8, 8), (6, 6), (5, 8), (8,), (2, 4, 3, 4)]  # dims of inputs, without the batch
LOCAL = "local"  # domain of the model's own functions
LARGEST = 6000  # elements of a value, without the batch


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
        self.extra: list[onnx.ValueInfoProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.pool: list[Value] = []
        self.stored: dict[tuple[Any, ...], list[str]] = {}
        self.made = 0
        self.depth = 0

    @property
    def double(self) -> bool:
        """Of float64, for which onnxruntime has few kernels."""
        return bool(self.dtype.name == "float64")

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

    def store(self, array: Array, *, share: bool = True, tag: str = "") -> str:
        """A stored constant: an initializer or a Constant node; at times one of this tag that is there (``share``)."""
        array = np.asarray(array, order="C")
        key = (tag, array.dtype.str, array.shape)
        if share and array.dtype == self.dtype and array.size > 1 and key in self.stored and self.chance(0.15):
            return str(self.pick(self.stored[key]))
        if self.chance(0.15):
            return self.raw("Constant", [], value=numpy_helper.from_array(array))[0]
        name = self.fresh("c")
        self.initializers.append(numpy_helper.from_array(array, name))
        if array.dtype == self.dtype:
            self.stored.setdefault(key, []).append(name)
            if self.depth == 0 and self.chance(0.02):  # it may be overridden
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                self.inputs.append(helper.make_tensor_value_info(name, kind, list(array.shape)))
        return name

    def weight(self, *shape: int, fan: int = 1) -> str:
        return self.store((self.rng.standard_normal(shape) / math.sqrt(fan)).astype(self.dtype))

    def near(self, *shape: int) -> str:
        """Positive values from 0.5 to 1.5."""
        return self.store(self.rng.uniform(0.5, 1.5, shape).astype(self.dtype), tag="positive")

    def scalar(self, value: float, form: Sequence[int] | None = None) -> str:
        shape = self.pick([(), (1,), (1, 1)]) if form is None else form
        return self.store(np.full(tuple(shape), value, self.dtype))

    def ints(self, *values: int) -> str:
        return self.store(np.array(values, np.int64))

    @contextmanager
    def body(self) -> Iterator[tuple[list[onnx.NodeProto], list[onnx.TensorProto]]]:
        """Nodes appended inside go to a body of their own; what is made there is not seen outside.

        The constants stored inside belong to the body, or to the main graph.
        """
        outer, pool, stored, initializers = self.nodes, self.pool, self.stored, self.initializers
        self.nodes, self.pool, self.stored = [], list(pool), {k: list(v) for k, v in stored.items()}
        own: list[onnx.TensorProto] = []
        if self.chance(0.5):
            self.initializers = own
        self.depth += 1
        try:
            yield self.nodes, own
        finally:
            self.nodes, self.pool, self.stored, self.initializers = outer, pool, stored, initializers
            self.depth -= 1

    # The whole

    def input(self, *dims: int) -> None:
        value = Value(self.fresh("x"), (self.batch, *dims))
        self.pool.append(value)
        kind = TYPES[self.dtype.name]
        self.inputs.append(helper.make_tensor_value_info(value.name, kind, list(value.dims)))

    def model(self, moves: Callable[[int], tuple[Sequence[Move], Sequence[Move]]]) -> onnx.ModelProto:
        """The finished model.

        Args:
            moves: Motifs for a value of this rank: those for any, and those for this one.
        """
        first = self.pick([(5, 8), (8,)] if self.double else FIRST)
        self.input(*first)
        if self.chance(0.2):
            self.input(*first)
        while len(self.nodes) < self.size:
            value = self.pick(self.pool[-4:] if self.chance(0.8) else self.pool)  # likely a late one
            common, own = moves(value.rank)
            self.pick([*common, *own] if self.chance(0.7) else own)(self, value)
        read = {name for node in pipeline.all_nodes(helper.make_model(self._graph([]))) for name in node.input}
        ends = [v for v in self.pool if v.name not in read]
        outputs = ends + [v for v in self.pool if v.name in read and self.chance(0.06)]
        given = {i.name for i in self.inputs}
        outputs = [v for v in outputs if v.name not in given] or [self.op("Relu", [self.pool[0]], self.pool[0].dims)]
        imports = [helper.make_opsetid("", self.opset)]
        if self.functions:
            imports.append(helper.make_opsetid(LOCAL, 1))
        model = helper.make_model(self._graph(outputs), opset_imports=imports, functions=self.functions)
        model.ir_version = 10 if self.opset > 20 else 8
        return model

    def _graph(self, outputs: Sequence[Value]) -> onnx.GraphProto:
        kind = TYPES[self.dtype.name]
        infos = [helper.make_tensor_value_info(v.name, kind, list(v.dims)) for v in outputs] + self.extra
        return helper.make_graph(self.nodes, "g", self.inputs, infos, self.initializers)


Move = Callable[[Builder, Value], Any]
