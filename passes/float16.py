"""Convert a model's float32 parts to float16, its inputs and outputs excepted.

Each node becomes float16 where the operator allows it; Casts stand where float16 meets float32. Weights are stored in
float16 where a float16 node reads them. Bodies of If, Loop and Scan are converted too, node by node; what goes in and
comes out of them stays float32.

Nodes that stay float32, with the reason:

1. what the caller names: nodes, or operator types
2. operators whose schema knows no float16 (at the model's opset), of other domains, or random
3. operators that add up or multiply so much that 11 bits lose too much, or that 65504 is soon passed: ``LOSSY``; a
   ReduceMean or ReduceSum of squares, and the squares (a variance written out)
4. a constant that float16 cannot hold: beyond 65504, all of it below the smallest normal number 2**-14, a divisor that
   would become 0, an epsilon that would
5. values whose type is unknown, and sequences
6. what computes sizes: float16 has no 2049

Inputs that an operator wants in float32 whatever the rest is (``scales`` of Resize) stay as they are. Not exact: the
caller compares (``conversions``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from edgeopt.graph import (
    STANDARD_DOMAINS,
    Names,
    attribute,
    constant,
    constant_tensor,
    graphs,
    has_subgraph,
    is_op,
    opset,
)
from edgeopt.ops import is_random
from edgeopt.shape_data import ShapeData

LARGEST, SMALLEST = 65504.0, 2.0**-14  # of float16, the smallest with all its bits
LOSSY = frozenset(
    {
        *("CumSum", "CumProd", "ReduceProd", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp", "LpNormalization"),
        *("LRN", "MeanVarianceNormalization", "LpPool", "GlobalLpPool", "Det", "NonMaxSuppression", "RoiAlign"),
        *("Range", "EyeLike", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    }
)
_Takers = tuple[list[bool], list[bool]]  # which inputs and which outputs are float16
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


@dataclass
class Halved:
    """What became of each node.

    Attributes:
        converted: How many nodes compute in float16.
        kept: Nodes that stay float32, with the reason; not those without any float.
        casts: How many Casts stand at the borders.
        unknown: Names that the caller gave and that are no node and no operator type.
    """

    converted: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    casts: int = 0
    unknown: list[str] = field(default_factory=list)


def to_float16(model: ir.Model, keep_float: Collection[str] = ()) -> Halved:
    """Convert in place.

    Args:
        model: With inferred types and without local functions.
        keep_float: Names of nodes, or operator types, that stay float32.
    """
    halves, found = _plan(model, keep_float)
    writer = _Writer(model, halves)
    for graph in list(graphs(model)):
        writer.graph(graph)
    found.casts = writer.casts
    return found


def round_to_float16(model: ir.Model, keep_float: Collection[str] = ()) -> None:
    """Make, in place, a float32 model that rounds to float16 wherever ``to_float16`` would compute in it.

    onnxruntime's CPU kernels compute most of a float16 model in float32 and round less often than a target that
    computes in float16: this model shows what such a target loses.
    """
    halves, _ = _plan(model, keep_float)
    names = Names(model)
    rounded: dict[tuple[ir.Graph | None, ir.Value], ir.Value] = {}

    def pair(value: ir.Value, graph: ir.Graph) -> list[ir.Node]:
        made: list[ir.Node] = []
        for dtype in (_HALF, _FLOAT):
            source = made[-1].outputs[0] if made else value
            cast = ir.Node("", "Cast", [source], [ir.AttrInt64("to", dtype.value)], name=names.fresh("round"))
            cast.outputs[0].name, cast.outputs[0].type = names.fresh(f"{value.name}/rounded"), ir.TensorType(dtype)
            cast.outputs[0].shape = value.shape
            made.append(cast)
        return made

    for graph in list(graphs(model)):
        for node in list(graph):
            if node not in halves:
                continue
            inputs, outputs = halves[node]
            for k, value in enumerate(node.inputs):
                producer = value.producer() if value is not None else None
                if value is None or not inputs[k] or not _is(value, _FLOAT) or value in rounded.values():
                    continue
                if (graph, value) not in rounded and producer not in halves:
                    made = pair(value, graph)
                    graph.insert_before(node, made)
                    rounded[graph, value] = made[-1].outputs[0]
                if (graph, value) in rounded:
                    node.replace_input_with(k, rounded[graph, value])
            for value, half in zip(node.outputs, outputs, strict=True):
                if half and _is(value, _FLOAT) and value.name:
                    made = pair(value, graph)
                    new = made[-1].outputs[0]
                    value.replace_all_uses_with(new, replace_graph_outputs=True)
                    made[0].replace_input_with(0, value)
                    graph.insert_after(node, made)
                    value.name, new.name = new.name, value.name


def _plan(model: ir.Model, keep_float: Collection[str]) -> tuple[dict[ir.Node, _Takers], Halved]:
    """Which nodes become float16."""
    version = opset(model)
    found = Halved()
    nodes = [n for g in graphs(model) for n in g]
    known = {n.name for n in nodes} | {n.op_type for n in nodes}
    found.unknown = sorted(set(keep_float) - {k for k in known if k})
    halves: dict[ir.Node, _Takers] = {}
    sizes = ShapeData(model)
    for node in nodes:
        if not any(_is(v, _FLOAT) or (v is not None and v.type is None and v.name) for v in _values(node)):
            continue
        if is_op(node, "Constant"):
            continue
        takers = _reason(node, version, keep_float, sizes)
        if not isinstance(takers, str):
            halves[node] = takers
        elif not has_subgraph(node):
            found.kept[node.name or ""] = takers
    found.converted = len(halves)
    return halves, found


def _values(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """Inputs and outputs; of a Shape or Size, whose work depends on no element, none."""
    return () if is_op(node, "Shape", "Size") else (*node.inputs, *node.outputs)


def _is(value: ir.Value | None, dtype: ir.DataType) -> bool:
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == dtype


def _reason(node: ir.Node, version: int, keep_float: Collection[str], sizes: ShapeData) -> _Takers | str:
    """Why the node stays float32, or which of its inputs and outputs become float16."""
    if node.name in keep_float or node.op_type in keep_float:
        return "asked for"
    if node.domain not in STANDARD_DOMAINS:
        return "of another domain"
    if has_subgraph(node):
        return "has a body"
    if is_random(node):
        return "draws random numbers"
    if node.op_type in LOSSY:
        return "loses too much in float16, or needs float32"
    if _squares(node):
        return "a mean or sum of squares passes 65504 soon"
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.name and not isinstance(value.type, ir.TensorType):
            return "the type of a value is unknown, or no tensor"
    if any(sizes.data(v) is not None for v in node.outputs):
        return "it computes sizes"
    takers = _takers(node, version)
    if takers is None:
        return f"{node.op_type} has no float16 at opset {version}"
    return _constants_problem(node, takers) or takers


def _squares(node: ir.Node) -> bool:
    """Case 3: the reduction, or the square in front of it."""
    if is_op(node, "ReduceMean", "ReduceSum"):
        producer = node.inputs[0].producer() if node.inputs[0] is not None else None
        return producer is not None and _is_square(producer)
    readers = [u.node for u in node.outputs[0].uses()] if node.outputs else []
    return _is_square(node) and any(is_op(r, "ReduceMean", "ReduceSum") for r in readers)


def _is_square(node: ir.Node) -> bool:
    if is_op(node, "Mul"):
        return node.inputs[0] is node.inputs[1]
    power = constant(node.inputs[1]) if is_op(node, "Pow") else None
    return power is not None and power.size == 1 and float(power.reshape(-1)[0]) == 2


def _takers(node: ir.Node, version: int) -> _Takers | None:
    """Which inputs and outputs may be float16; None if a float one of its outputs may not, or no input and output."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return None
    allowed = {c.type_param_str: "tensor(float16)" in c.allowed_type_strs for c in schema.type_constraints}

    def may(formal: Sequence[onnx.defs.OpSchema.FormalParameter], count: int) -> list[bool]:
        params = [formal[min(k, len(formal) - 1)] for k in range(count)] if formal else []
        return [allowed.get(p.type_str, p.type_str == "tensor(float16)") for p in params]

    inputs, outputs = may(schema.inputs, len(node.inputs)), may(schema.outputs, len(node.outputs))
    if not all(o for o, v in zip(outputs, node.outputs, strict=True) if _is(v, _FLOAT)):
        return None
    used = [
        t
        for t, v in (*zip(inputs, node.inputs, strict=True), *zip(outputs, node.outputs, strict=True))
        if _is(v, _FLOAT)
    ]
    return (inputs, outputs) if any(used) else None


def _constants_problem(node: ir.Node, takers: _Takers) -> str | None:
    """Case 4."""
    for k, value in enumerate(node.inputs):
        array = constant(value) if _is(value, _FLOAT) and takers[0][k] else None
        if array is None or not array.size or value is None:
            continue
        finite = np.abs(array[np.isfinite(array)])
        largest = float(finite.max(initial=0))
        if largest > LARGEST:
            return f"{value.name!r} holds {largest:.3g}, beyond the 65504 of float16"
        if 0 < largest < SMALLEST:
            return f"{value.name!r} is below {SMALLEST:.2g} throughout, where float16 loses its bits"
        if is_op(node, "Div") and k == 1 and bool(((array != 0) & (array.astype(np.float16) == 0)).any()):
            return f"a divisor in {value.name!r} would become 0"
    epsilon = attribute(node, "epsilon")
    if epsilon is not None and epsilon > 0 and np.float16(epsilon) == 0:
        return f"its epsilon {epsilon:.3g} would become 0"
    return None


class _Writer:
    """Rewires one graph after the other: types of values, stored constants, Casts at the borders."""

    def __init__(self, model: ir.Model, halves: Mapping[ir.Node, _Takers]) -> None:
        self.casts = 0
        self._halves, self._model = halves, model
        self._names = Names(model)
        self._halved: set[ir.Value] = set()
        self._stored: dict[ir.Value, ir.Value] = {}
        self._cast: dict[tuple[ir.Graph, ir.Value, ir.DataType], ir.Value] = {}

    def graph(self, graph: ir.Graph) -> None:
        """Its nodes in order, then its outputs."""
        for node in list(graph):
            takers = self._halves.get(node)
            for k, value in enumerate(node.inputs):
                if value is None or not isinstance(value.type, ir.TensorType):
                    continue
                wants = _HALF if takers is not None and takers[0][k] else _FLOAT
                if is_op(node, "Shape", "Size"):  # any type will do
                    continue
                ours = value in self._halved if wants == _FLOAT else value.dtype == _FLOAT
                if ours:  # what the model itself has in float16 stays, for readers of any kind
                    node.replace_input_with(k, self._as(value, wants, node, graph))
            if takers is None:
                continue
            for k, value in enumerate(node.outputs):
                if _is(value, _FLOAT) and takers[1][k]:
                    self._halve(value, node, graph)
            if is_op(node, "Cast") and attribute(node, "to") == _FLOAT.value:
                node.attributes["to"] = ir.AttrInt64("to", _HALF.value)
            held = attribute(node, "value") if is_op(node, "ConstantOfShape") else None
            if is_op(node, "ConstantOfShape") and (held is None or held.dtype == _FLOAT):
                array = np.zeros(1, np.float16) if held is None else held.numpy().astype(np.float16)
                node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(array))

    def _halve(self, value: ir.Value, node: ir.Node, graph: ir.Graph) -> None:
        """The node's output is float16 from now on; an output of the graph gets a Cast and keeps its name."""
        value.type = ir.TensorType(_HALF)
        self._halved.add(value)
        if not value.is_graph_output():
            return
        name, shape = value.name, value.shape
        value.name = self._names.fresh(f"{name}/half")
        cast = self._caster(value, _FLOAT, f"{name}/to_float")
        cast.outputs[0].name, cast.outputs[0].shape = name, shape
        graph.insert_after(node, [cast])
        for k, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[k] = cast.outputs[0]
        self._cast[graph, value, _FLOAT] = cast.outputs[0]

    def _as(self, value: ir.Value, wants: ir.DataType, node: ir.Node, graph: ir.Graph) -> ir.Value:
        """The value in the other type."""
        tensor = constant_tensor(value)
        if tensor is not None and wants == _HALF:
            return self._constant(value, tensor)
        key = (graph, value, wants)
        if key not in self._cast:
            kind = "half" if wants == _HALF else "float"
            made = self._caster(value, wants, f"{value.name}/to_{kind}")
            made.outputs[0].name = self._names.fresh(f"{value.name}/{kind}")
            graph.insert_before(node, [made])
            self._cast[key] = made.outputs[0]
        return self._cast[key]

    def _caster(self, value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
        self.casts += 1
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", to.value)], name=self._names.fresh(name))
        cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(to), value.shape
        return cast

    def _constant(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        """A float16 twin of a constant, in the main graph: bodies see it too."""
        if value not in self._stored:
            with np.errstate(over="ignore"):
                array = ir.Tensor(np.ascontiguousarray(tensor.numpy().astype(np.float16)))
            name = self._names.fresh(f"{value.name}/half")
            new = ir.Value(name=name, const_value=array, type=ir.TensorType(_HALF), shape=ir.Shape(array.shape))
            self._model.graph.register_initializer(new)
            self._stored[value] = new
        return self._stored[value]
