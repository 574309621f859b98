"""What hangs together; which operators take part is tested with the pass that pads (test_pad_channels)."""

from __future__ import annotations

import numpy as np
import pytest

from edgeopt.passes.channel_groups import ChannelGroups, widened
from tests.models import loaded

NET = (
    "g (float[1,3,4,4] x) => (float[A,B,C,D] y) <float[5,3,1,1] w, float[5] b, float[6,5,1,1] v, float[11,1,3,3] d, "
    "float[2,11,1,1] u> { [a] s = Conv(x, w, b) [b] t = Conv(s, v) [c] q = Concat<axis = 1>(s, t)"
    " [d] r = Conv<group = 11>(q, d) [e] y = Conv(r, u) }"
)


def test_groups() -> None:
    found = ChannelGroups(loaded(NET))
    groups = list(found.groups().values())
    assert [(g.size, [n.name for n in g.producers], [n.name for n in g.nodes]) for g in groups] == [
        (5, ["a"], ["a", "b", "c", "d", "e"]),
        (6, ["b"], ["b", "c", "d", "e"]),
    ]
    sizes = {v.name: [s.size for s in layout] for v, layout in found.layouts.items()}
    assert sizes == {"x": [3], "s": [5], "t": [6], "q": [5, 6], "r": [5, 6], "y": [2]}
    assert [(n.name, [s.size for s in layout]) for n, layout in found.depthwise] == [("d", [5, 6])]
    edits = {(e.node.name, e.index, e.axis): [s.size for s in e.layout] for e in found.edits}
    assert edits[("a", 2, 0)] == [5]
    assert edits[("e", 1, 1)] == [5, 6]
    assert len(edits) == 2 * 3 + 1 + 1


def test_extra_channels_go_by_group() -> None:
    found = ChannelGroups(loaded(NET))
    first, _ = found.groups()
    layouts = {v.name: layout for v, layout in found.layouts.items()}
    assert found.with_extra(layouts["q"], {first: 3}) == [(5, 3), (6, 0)]


def test_frozen_channels_are_no_group() -> None:
    model = loaded(NET)
    found = ChannelGroups(model)
    found.freeze(found.layouts[model.graph.node("a").outputs[0]])
    assert [g.size for g in ChannelGroups(model).groups().values()] == [5, 6]
    assert [g.size for g in found.groups().values()] == [6]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_widened(axis: int) -> None:
    array = np.moveaxis(np.arange(24, dtype=np.float16).reshape(4, 2, 3), 0, axis)
    wide = np.moveaxis(widened(array, axis, [(1, 2), (3, 1), (0, 0)], -1), axis, 0)
    plain = np.moveaxis(array, axis, 0)
    np.testing.assert_array_equal(wide[[0, 3, 4, 5]], plain)
    assert (wide[[1, 2, 6]] == -1).all()
    assert wide.shape == (7, 2, 3)
    assert wide.dtype == np.float16
