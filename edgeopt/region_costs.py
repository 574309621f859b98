"""What every unit costs in float and in int8, and what a border costs: read from onnxruntime's profile of the model.

1. The float model and the model with all in int8 give the units' prices in both precisions
2. A third model, in which int8 and float take turns from unit to unit, gives the price of borders: a fixed part (the
   cheapest Q or DQ seen) and a part per element, with the layout changes that onnxruntime adds at borders
3. Every split that is measured later can lower the prices of its units: neighbours change them (fusion, layout), and
   a disturbance of the machine only ever adds to them. What a profile does not show (a node melted into another) says
   nothing against an earlier price
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from edgeopt.node_times import NodeTime
from edgeopt.regions import Border, Regions

_LAYOUT = ("Transpose", "ReorderInput", "ReorderOutput")
_FIXED_MS = 0.003  # one small node, where the profile has no Q or DQ to learn from
_PER_ELEMENT_MS = 0.3e-6  # the same: about 3 elements a nanosecond


@dataclass(frozen=True)
class Line:
    """A price that grows with the size of the value: ``fixed_ms + elements * per_element_ms``."""

    fixed_ms: float = _FIXED_MS
    per_element_ms: float = _PER_ELEMENT_MS

    def __call__(self, border: Border) -> float:
        """The price of one border in milliseconds."""
        return self.fixed_ms + border.elements * self.per_element_ms


@dataclass
class Costs:
    """Prices in milliseconds.

    Attributes:
        float_ms: Unit to its time in float.
        int8_ms: Unit to its time in int8.
        quantize: Of handing a value over from float to int8.
        dequantize: Of handing it over from int8 to float.
    """

    float_ms: dict[str, float] = field(default_factory=dict)
    int8_ms: dict[str, float] = field(default_factory=dict)
    quantize: Line = field(default_factory=Line)
    dequantize: Line = field(default_factory=Line)

    def learn_units(self, regions: Regions, int8: Collection[str], times: Sequence[NodeTime]) -> None:
        """Cases 1 and 3: take over the times of the units of a profiled split."""
        unit_of = regions.unit_of()
        found = dict.fromkeys(regions.units, 0.0)
        for node in times:
            if node.name in unit_of:
                found[unit_of[node.name]] += node.latency_ms
        for unit, latency_ms in found.items():
            prices = self.int8_ms if unit in int8 else self.float_ms
            known = [price for price in (prices.get(unit, 0.0), latency_ms) if price]
            prices[unit] = min(known, default=0.0)

    def learn_borders(
        self, regions: Regions, int8: Collection[str], times: Sequence[NodeTime], layout_before_ms: float = 0.0
    ) -> None:
        """Case 2.

        Args:
            regions: Units and borders.
            int8: The units that were in int8.
            times: The profile of that split.
            layout_before_ms: Layout changes of the float model, which are not the borders' fault.
        """
        crossed = crossings(regions, int8)
        layout = max(0.0, layout_ms(regions, times) - layout_before_ms)
        per_element = layout / max(1, sum(b.elements for pair in crossed for b in pair))
        self.quantize = _fitted("QuantizeLinear", times, crossed[0], per_element)
        self.dequantize = _fitted("DequantizeLinear", times, crossed[1], per_element)

    def predicted_ms(self, regions: Regions, int8: Collection[str]) -> float:
        """Units and borders of a split; what is float for good is left out."""
        units = sum((self.int8_ms if u in int8 else self.float_ms).get(u, 0.0) for u in regions.units)
        quantized, dequantized = crossings(regions, int8)
        return units + sum(map(self.quantize, quantized)) + sum(map(self.dequantize, dequantized))


def crossings(regions: Regions, int8: Collection[str]) -> tuple[list[Border], list[Border]]:
    """The borders that pay a Q and those that pay a DQ when these units are in int8."""
    quantized = [b for b in regions.borders if b.producer not in int8 and any(r in int8 for r in b.readers)]
    dequantized = [b for b in regions.borders if b.producer in int8 and any(r not in int8 for r in b.readers)]
    return quantized, dequantized


def layout_ms(regions: Regions, times: Sequence[NodeTime]) -> float:
    """Time of the layout changes that onnxruntime has added."""
    unit_of = regions.unit_of()
    return sum(n.latency_ms for n in times if n.op in _LAYOUT and n.name not in unit_of)


def _fitted(op: str, times: Sequence[NodeTime], crossed: Sequence[Border], layout_per_element_ms: float) -> Line:
    """The line through the profiled nodes of one operator, which stand at the borders that were crossed."""
    found = [node.latency_ms for node in times if node.op == op]
    elements = sum(border.elements for border in crossed)
    if not found or not elements:
        return Line(_FIXED_MS, _PER_ELEMENT_MS + layout_per_element_ms)
    fixed = min(*found, _FIXED_MS)
    return Line(fixed, (sum(found) - fixed * len(found)) / elements + layout_per_element_ms)
