"""Nodes that have an int8 kernel only in another form, rewritten for the plan; exact but for rounding.

    1. HardSwish(x)                = x · share,  share = bounded / 6,  bounded = Clip(x + 3, 0, 6)
    2. HardSigmoid(x), alpha, beta = alpha · bounded,  bounded = Clip(x + beta / alpha, 0, 1 / alpha)
    3. x - c                       = x + (-c)
    4. x / c                       = x · (1 / c)
    5. ReduceMean over all of the space = GlobalAveragePool, and Reshape where the axes are not kept
    6. Gemm with alpha, beta       = Gemm with alpha · B and beta · C
    7. AveragePool over all of the space = GlobalAveragePool
    8. AveragePool, every window of the same size = depthwise Conv with weights 1 / size: the int8 kernel of
       AveragePool takes 5 to 30 times as long as the float one, that of a depthwise Conv less than it

In 1 and 2 the range of ``bounded`` is known, its Clip is computed by its quantization, and the product with a
number is another scale in the DQ (``int8_plan``, case 5): what runs is one QLinearAdd, and one QLinearMul in 1.

The last node of each keeps the name of the node it stands for; the others are called after it (``Plan.parts``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgeopt.graph import Array, Names, attribute, constant, constant_value, dims_of, input_or_none, is_op
from edgeopt.passes.int8_plan import Plan


def lower(model: ir.Model, plan: Plan) -> Plan:
    """Rewrite the planned nodes in place, and return the plan for the result; the one given is left as it is."""
    result = replace(
        plan,
        nodes=set(plan.nodes),
        tensors=list(plan.tensors),
        tied=dict(plan.tied),
        fused=dict(plan.fused),
        fixed=dict(plan.fixed),
        rescaled=dict(plan.rescaled),
        parts=dict(plan.parts),
    )
    names = Names(model)
    for node in [n for n in model.graph if n.name in plan.nodes]:
        if is_op(node, "HardSwish", "HardSigmoid"):
            _hard(node, result, names)
        elif is_op(node, "Sub", "Div"):
            _by_constant(node, names, plan)
        elif is_op(node, "ReduceMean"):
            _mean(node, result, names)
        elif is_op(node, "Gemm"):
            _factors(node, names)
        elif is_op(node, "AveragePool"):
            _windows(node, names)
    return result


class _Chain:
    """New nodes in front of one node, which they will replace."""

    def __init__(self, node: ir.Node, names: Names) -> None:
        self.node, self.names = node, names
        self.added: list[str] = []

    def constant(self, array: Array, base: str) -> ir.Value:
        value = constant_value(self.names.fresh(f"{self.node.name}/{base}"), array)
        if self.node.graph is not None:
            self.node.graph.register_initializer(value)
        return value

    def add(self, op: str, inputs: list[ir.Value | None], base: str, like: ir.Value) -> ir.Value:
        """A node of its own name, in front; its output has type and shape of ``like``."""
        output = ir.Value(name=self.names.fresh(f"{self.node.name}/{base}/output"), type=like.type, shape=like.shape)
        node = ir.Node("", op, inputs, outputs=[output], name=self.names.fresh(f"{self.node.name}/{base}"))
        if self.node.graph is not None:
            self.node.graph.insert_before(self.node, node)
        self.added.append(node.name or "")
        return output

    def last(self, op: str, inputs: list[ir.Value | None], attributes: Sequence[ir.Attr] = ()) -> None:
        """The node itself becomes another: same name, same output."""
        old = self.node.outputs[0]
        output = ir.Value(name=old.name, type=old.type, shape=old.shape)
        node = ir.Node("", op, inputs, attributes, outputs=[output], name=self.node.name)
        old.name = self.names.fresh(f"{old.name}/was")
        if self.node.graph is not None:
            self.node.graph.insert_before(self.node, node)
            old.replace_all_uses_with(output, replace_graph_outputs=True)
            self.node.graph.remove(self.node, safe=True)


def _hard(node: ir.Node, plan: Plan, names: Names) -> None:
    """Cases 1 and 2."""
    x, y = node.inputs[0], node.outputs[0]
    if x is None:
        return
    swish = node.op_type == "HardSwish"
    alpha = 1 / 6 if swish else float(attribute(node, "alpha", 0.2))
    shift = 3.0 if swish else float(attribute(node, "beta", 0.5)) / alpha
    name, old = y.name or "", node.name or ""
    chain = _Chain(node, names)
    shifted = chain.add("Add", [x, chain.constant(_number(shift), "three")], "shift", y)
    limits = [chain.constant(_number(v), base) for v, base in ((0.0, "low"), (1 / alpha, "high"))]
    bounded = chain.add("Clip", [shifted, *limits], "bound", y)
    factor = chain.constant(_number(alpha), "factor")
    plan.fixed[bounded.name or ""] = (0.0, float(_number(1 / alpha)))
    plan.fused[chain.added[0]] = bounded.name or ""
    place = plan.tensors.index(name)
    if swish:
        share = chain.add("Mul", [bounded, factor], "share", y)
        plan.rescaled[share.name or ""] = (bounded.name or "", float(_number(alpha)))
        plan.tensors.insert(place, bounded.name or "")
        chain.last("Mul", [x, share])
    else:
        plan.rescaled[name] = (bounded.name or "", float(_number(alpha)))
        plan.tensors[place] = bounded.name or ""
        plan.fused.pop(old, None)
        plan.fixed.pop(name, None)
        chain.last("Mul", [bounded, factor])
    plan.nodes.update(chain.added)
    plan.parts[old] = tuple(chain.added)


def _number(value: float) -> Array:
    return np.array(value, np.float32)


def _by_constant(node: ir.Node, names: Names, plan: Plan) -> None:
    """Cases 3 and 4; a Div that only changes a scale stays for ``quantize_int8`` to take out."""
    array = constant(node.inputs[1])
    if array is None or node.outputs[0].name in plan.rescaled:
        return
    chain = _Chain(node, names)
    if node.op_type == "Sub":
        chain.last("Add", [node.inputs[0], chain.constant(np.asarray(-array), "negated")])
    else:
        inverse = (1 / array.astype(np.float64)).astype(np.float32)
        chain.last("Mul", [node.inputs[0], chain.constant(np.asarray(inverse), "inverse")])


def _mean(node: ir.Node, plan: Plan, names: Names) -> None:
    """Case 5."""
    x, y = node.inputs[0], node.outputs[0]
    dims = dims_of(x) if x is not None else None
    if x is None or dims is None:
        return
    chain, old, name = _Chain(node, names), node.name or "", y.name or ""
    if attribute(node, "keepdims", 1):
        chain.last("GlobalAveragePool", [x])
        return
    pooled = chain.add("GlobalAveragePool", [x], "mean", ir.Value(type=y.type, shape=None))
    kept = ir.Shape([*(x.shape or ())][:2] + [1] * (len(dims) - 2))
    pooled.shape = kept
    chain.last("Reshape", [pooled, chain.constant(np.array([0, 0], np.int64), "shape")])
    plan.nodes.update(chain.added)
    plan.parts[old] = tuple(chain.added)
    plan.tied[pooled.name or ""] = name
    plan.tensors.insert(plan.tensors.index(name), pooled.name or "")


def _factors(node: ir.Node, names: Names) -> None:
    """Case 6; the factors stay where they are without constant weights."""
    for key, index in (("alpha", 1), ("beta", 2)):
        factor = float(attribute(node, key, 1.0))
        array = constant(input_or_none(node, index))
        if factor == 1:
            continue
        if array is not None:
            chain = _Chain(node, names)
            node.replace_input_with(
                index, chain.constant((array * np.float64(factor)).astype(array.dtype), f"{key}_times_input{index}")
            )
        node.attributes[key] = ir.AttrFloat32(key, 1.0)


def _windows(node: ir.Node, names: Names) -> None:
    """Cases 7 and 8."""
    x = node.inputs[0]
    dims = dims_of(x) if x is not None else None
    kernel = [int(k) for k in attribute(node, "kernel_shape", ())]
    padded = any(attribute(node, "pads", ())) or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if x is None or dims is None or len(dims) != len(kernel) + 2:
        return
    chain = _Chain(node, names)
    if not padded and list(dims[2:]) == kernel and set(attribute(node, "dilations", (1,))) == {1}:
        chain.last("GlobalAveragePool", [x])
        return
    channels = dims[1]
    same_size = not padded or attribute(node, "count_include_pad", 0)
    if not isinstance(channels, int) or not same_size or attribute(node, "ceil_mode", 0):
        return
    weight = np.full((channels, 1, *kernel), 1 / math.prod(kernel), np.float32)
    kept = [a for key, a in node.attributes.items() if key not in ("count_include_pad", "ceil_mode")]
    chain.last("Conv", [x, chain.constant(weight, "window")], [*kept, ir.AttrInt64("group", channels)])
