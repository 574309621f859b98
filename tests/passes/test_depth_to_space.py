from __future__ import annotations

import numpy as np
import pytest

from edgeopt import saving
from edgeopt.graph import Array, op_histogram
from edgeopt.oracle import Oracle
from edgeopt.passes import depth_to_space
from edgeopt.passes.depth_to_space import Place, apply, places, shuffling_weight
from tests.models import loaded, outputs
from tests.passes.test_pad_channels import assert_inferred


def net(attributes: str, x: str = "2,12,4,5") -> str:
    return f"g (float[{x}] x) => (float[A,B,C,D] y) {{ s = Neg(x) [a] t = DepthToSpace<{attributes}>(s) y = Abs(t) }}"


REWRITTEN = {
    "1 CRD": (net('blocksize = 2, mode = "CRD"'), 3, 2),
    "1 CRD, one channel": (net('blocksize = 3, mode = "CRD"', "1,9,4,5"), 1, 3),
    "1 CRD, open sizes": (net('blocksize = 2, mode = "CRD"', "N,12,H,W"), 3, 2),
    "1 CRD, large blocks": (net('blocksize = 4, mode = "CRD"', "1,32,3,2"), 2, 4),
    "2 DCR": (net('blocksize = 2, mode = "DCR"'), 3, 2),
    "2 DCR by default": (net("blocksize = 2"), 3, 2),
    "2 DCR, opset 9": ('<ir_version: 8, opset_import: ["" : 9]>' + net("blocksize = 3", "1,18,4,5"), 2, 3),
    "an output of the graph": (
        "g (float[2,12,4,5] x) => (float[A,B,C,D] y) { s = Neg(x) [a] y = DepthToSpace<blocksize = 2>(s) }",
        3,
        2,
    ),
}

LEFT = {
    "3 float16": net("blocksize = 2").replace("float[", "float16["),
    "3 an unknown number of channels": net("blocksize = 2", "2,M,4,5"),
    "3 a block size of 1": net("blocksize = 1"),
    "3 in a body": (
        "g (float[2,12,4,5] x, bool c) => (float[A,B,C,D] y) { y = If(c) <then_branch = p () => (float[E,F,G,H] o) "
        "{ [a] o = DepthToSpace<blocksize = 2>(x) }, else_branch = q () => (float[I,J,K,L] o) { o = Abs(x) }> }"
    ),
    "channels that cannot be divided": net("blocksize = 5"),
    "another operator": "g (float[2,12,4,5] x) => (float[A,B,C,D] y) { [a] y = SpaceToDepth<blocksize = 1>(x) }",
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten(name: str) -> None:
    text, channels, block = REWRITTEN[name]
    model = loaded(text)
    start = saving.serialize(model)
    assert places(model) == [Place("a", ("a",), channels, block)]
    result = apply(model, ["a"])
    assert "DepthToSpace" not in op_histogram(result)
    assert [n.name for n in result.graph] == [n.name for n in model.graph]
    assert [v.name for n in result.graph for v in n.outputs] == [v.name for n in model.graph for v in n.outputs]
    assert Oracle(model).disagreement(result) == (None, 0.0)
    np.testing.assert_array_equal(outputs(result)["y"], outputs(model)["y"])
    assert_inferred(result)
    assert places(result) == []
    assert saving.serialize(model) == start
    assert saving.serialize(apply(model, ["a"])) == saving.serialize(result)


@pytest.mark.parametrize("text", LEFT.values(), ids=LEFT)
def test_left_alone(text: str) -> None:
    model = loaded(text)
    assert places(model) == []
    assert saving.serialize(apply(model, ["a"])) == saving.serialize(model.clone())


def test_names_that_are_no_places_are_passed_over() -> None:
    model = loaded(REWRITTEN["1 CRD"][0])
    assert saving.serialize(apply(model, ["b"])) == saving.serialize(model.clone())


def test_the_weights() -> None:
    separate = shuffling_weight(2, 3, True)
    assert separate.shape == (18, 1, 3, 3)
    assert separate[9 + 5, 0, 1, 2] == 1
    together = shuffling_weight(2, 3, False)
    assert together.shape == (18, 2, 3, 3)
    assert together[5 * 2 + 1, 1, 1, 2] == 1
    for weight in (separate, together):
        assert (weight.reshape(18, -1).sum(1) == 1).all()
        assert weight.dtype == np.float32


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_the_oracle_catches_a_wrong_order(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(net(f'blocksize = 2, mode = "{mode}"'))

    def turned(channels: int, block: int, separate: bool) -> Array:
        return shuffling_weight(channels, block, separate).swapaxes(2, 3)

    monkeypatch.setattr(depth_to_space, "shuffling_weight", turned)
    reason, _ = Oracle(model).disagreement(apply(model, ["a"]))
    assert reason is not None
    assert "differs" in reason
