"""Resize in its plainest form, and two enlargements in one.

1. Constant sizes that are whole multiples of the fixed dimensions: scales (a Resize by 1 goes by ``remove_noops``)
2. nearest by whole factors, centres of pixels aligned (half_pixel, pytorch_half_pixel) and rounding to the nearest:
   element i comes from floor(i / s), since (i + 1/2) / s - 1/2 lies less than 1/2 from it; written as asymmetric
   and floor, for which onnxruntime has a faster kernel
3. Two of those in a row: floor(floor(i / s) / t) = floor(i / (s t)), one Resize
4. A region of interest in a mode that ignores it: dropped (opset 13 and later)

Not folded: sizes or scales that are not constant (5), open dimensions (6), fractions (7), other modes, and roundings
for which element i does not come from floor(i / s) (8), axes of opset 18, keep_aspect_ratio_policy, antialias (9), a
first Resize that others read or that is an output (10). Upsample (up to opset 9) and Resize of opset 10 have other
rules (11).
Exact: elements are copied.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.graph import attribute, constant, constant_value, input_or_none, is_op, opset, static_shape
from edgeopt.passes.replacing import by_node, private
from edgeopt.rewrite import EVERYWHERE, Answer, Rewrite, Skip

_CENTRED = ("half_pixel", "pytorch_half_pixel")
_NEAREST = ("round_prefer_floor", "round_prefer_ceil")
_LARGEST = 64  # factors up to here: positions are computed in float32


class FoldResize:
    """The rule (see the module's docstring)."""

    name = "fold_resize"
    ops = frozenset({"Resize"})
    pays = EVERYWHERE

    def prepare(self, model: ir.Model) -> int:
        """The opset: Resize of 10 has no coordinate modes."""
        return opset(model)

    def finish(self, model: ir.Model) -> int:
        """Nothing to clean up."""
        return 0

    def match(self, node: ir.Node, state: Any) -> Answer:
        """Simplify this Resize, or merge it with the one before."""
        if not is_op(node, "Resize") or state < 11 or not node.inputs or node.inputs[0] is None:
            return None
        coordinates = attribute(node, "coordinate_transformation_mode", "half_pixel")
        if coordinates in ("tf_crop_and_resize", "half_pixel_symmetric"):
            return None
        if any(n in node.attributes for n in ("axes", "keep_aspect_ratio_policy", "antialias")):
            return None
        factors = _factors(node)
        if factors is not None and _copies(node):
            before = node.inputs[0].producer()
            inner = _factors(before) if is_op(before, "Resize") and before is not None and _copies(before) else None
            if inner is not None and before is not None and before.graph is node.graph:
                product = [a * b for a, b in zip(factors, inner, strict=True)]
                if max(product) > _LARGEST:
                    return None
                if not private(before.outputs[0], node):
                    return Skip(node.name or "", f"Resize {before.name!r} before it is read elsewhere too")
                return _by_scales((node, before), before.inputs[0], product, state)
            if attribute(node, "nearest_mode", "round_prefer_floor") != "floor":
                return _by_scales((node,), node.inputs[0], factors, state)
        if factors is not None and input_or_none(node, 3) is not None:
            return _with_scales(node, factors, state)
        if state >= 13 and input_or_none(node, 1) is not None:
            inputs = [node.inputs[0], None, *node.inputs[2:]]
            return by_node((node,), "Resize", inputs, node.attributes.values())
        return None


def _factors(node: ir.Node) -> list[int] | None:
    """The whole number by which each dimension grows; None if unknown or a fraction."""
    sizes, scales = input_or_none(node, 3), constant(input_or_none(node, 2))
    if sizes is None:
        if scales is None or not scales.size or not ((scales >= 1) & (scales <= _LARGEST)).all():
            return None
        return [int(s) for s in scales] if (scales == np.round(scales)).all() else None
    wanted = constant(sizes)
    shape = static_shape(node.inputs[0]) if node.inputs[0] is not None else None
    if wanted is None or shape is None or len(wanted) != len(shape) or 0 in shape:
        return None
    pairs = [divmod(int(w), s) for w, s in zip(wanted, shape, strict=True)]
    return [q for q, _ in pairs] if all(r == 0 and 1 <= q <= _LARGEST for q, r in pairs) else None


def _copies(node: ir.Node) -> bool:
    """Whether element i comes from floor(i / s), for whole factors s."""
    if attribute(node, "mode", "nearest") != "nearest":
        return False
    if attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return False
    if any(n in node.attributes for n in ("axes", "keep_aspect_ratio_policy", "antialias")):
        return False
    coordinates = attribute(node, "coordinate_transformation_mode", "half_pixel")
    rounding = attribute(node, "nearest_mode", "round_prefer_floor")
    return (coordinates == "asymmetric" and rounding == "floor") or (coordinates in _CENTRED and rounding in _NEAREST)


def _scales(base: str, factors: list[int]) -> ir.Value:
    return constant_value(f"{base}/scales", np.array(factors, np.float32))


def _empty(base: str, version: int) -> ir.Value | None:
    """Up to opset 12 the region of interest is no optional input."""
    return None if version >= 13 else constant_value(f"{base}/roi", np.zeros(0, np.float32))


def _by_scales(nodes: tuple[ir.Node, ...], source: ir.Value | None, factors: list[int], version: int) -> Rewrite:
    """Cases 2 and 3."""
    base = nodes[0].name or ""
    attributes = [
        ir.AttrString("mode", "nearest"),
        ir.AttrString("coordinate_transformation_mode", "asymmetric"),
        ir.AttrString("nearest_mode", "floor"),
    ]
    return by_node(nodes, "Resize", [source, _empty(base, version), _scales(base, factors)], attributes)


def _with_scales(node: ir.Node, factors: list[int], version: int) -> Rewrite:
    """Case 1."""
    base = node.name or ""
    inputs = [node.inputs[0], _empty(base, version), _scales(base, factors)]
    return by_node((node,), "Resize", inputs, node.attributes.values())
