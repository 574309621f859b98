"""The cheapest split of a graph into int8 and float, borders included: a minimum cut.

Every unit is on one of two sides. A unit on the int8 side pays its int8 price, on the float side its float price.
A value computed in int8 pays one DQ if anybody reads it in float; one computed in float pays one Q if anybody
reads it in int8, however many readers there are. Such a sum of unary and pairwise terms is submodular, so the
minimum over all 2ⁿ splits is a minimum s-t cut (Greig, Porteous and Seheult 1989; Kolmogorov and Zabih 2004,
doi:10.1109/TPAMI.2004.1262177):

1. source = int8, sink = float; source→u carries the float price of u, u→sink its int8 price
2. DQ of a value: producer→a carries the price, a→reader is unbounded (a is float as soon as one reader is)
3. Q of a value: b→producer carries the price, reader→b is unbounded (b is int8 as soon as one reader is)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgeopt.regions import Border, Regions

Price = Callable[[Border], float]
_UNIT = 1e6  # prices in milliseconds become whole nanoseconds: maximum flow is exact on integers only
_SOURCE, _SINK = "int8", "float"


def cheapest_split(
    regions: Regions,
    float_ms: Mapping[str, float],
    int8_ms: Mapping[str, float],
    quantize_ms: Price,
    dequantize_ms: Price,
) -> tuple[frozenset[str], float]:
    """The units that should run in int8, and the price of the whole split.

    Args:
        regions: Units and borders.
        float_ms: Unit to its price in float; missing ones cost nothing.
        int8_ms: Unit to its price in int8.
        quantize_ms: Price of handing a border over from float to int8.
        dequantize_ms: Price of handing it over from int8 to float.
    """
    import networkx  # slow to load: only where a search runs

    graph = networkx.DiGraph()
    graph.add_nodes_from((_SOURCE, _SINK))

    def add(start: object, end: object, price: float) -> None:
        capacity = max(0, round(price * _UNIT))
        if graph.has_edge(start, end):
            graph[start][end]["capacity"] += capacity
        else:
            graph.add_edge(start, end, capacity=capacity)

    def place(unit: str | None) -> object:
        return _SINK if unit is None else ("unit", unit)

    for unit in regions.units:
        add(_SOURCE, place(unit), float_ms.get(unit, 0.0))
        add(place(unit), _SINK, int8_ms.get(unit, 0.0))
    for border in regions.borders:
        if border.producer is not None:
            after = ("dequantized", border.tensor)
            add(place(border.producer), after, dequantize_ms(border))
            for reader in border.readers:
                graph.add_edge(after, place(reader))  # an edge without capacity is unbounded
        integer = [r for r in border.readers if r is not None]
        if integer:
            before = ("quantized", border.tensor)
            add(before, place(border.producer), quantize_ms(border))
            for reader in integer:
                graph.add_edge(place(reader), before)
    nanoseconds, (side, _) = networkx.minimum_cut(graph, _SOURCE, _SINK)
    return frozenset(u for u in regions.units if ("unit", u) in side), nanoseconds / _UNIT
