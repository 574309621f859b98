from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.passes.fold_requantize import FoldRequantize
from edgeopt.rewrite import Rewrite
from tests.passes.rewriting import assert_rewritten, assert_skipped
from tests.passes.sabotage import assert_caught

RULE = FoldRequantize()


def net(
    more: str = "float s = {0.1}, uint8 z = {3}",
    *,
    dq: str = "DequantizeLinear(q, s, z)",
    requantized: str = "QuantizeLinear(d, s, z)",
    kind: str = "uint8",
    tail: str = "y = DequantizeLinear(r, s, z)",
    opset: int = 17,
    ends: str = "float[A,B] y",
) -> str:
    return (
        f'<ir_version: 10, opset_import: ["" : {opset}]> '
        f"g ({kind}[2,3] q) => ({ends}) <{more}> {{ d = {dq} [n] r = {requantized} {tail} }}"
    )


CHANNELS = "float[3] s = {0.1, 0.2, 0.3}, int8[3] z = {0, 1, 2}"
FOLDS = {
    "1 one scale": net(),
    "1 one scale, opset 10": net(opset=10),
    "1 opset 21": net(opset=21),
    "1 int8": net("float s = {0.5}, int8 z = {-3}", kind="int8"),
    "1 per channel": net(CHANNELS, kind="int8"),
    "1 per channel of another axis": net(
        "float[2] s = {0.1, 0.2}, int8[2] z = {0, 1}",
        kind="int8",
        dq="DequantizeLinear<axis = 0>(q, s, z)",
        requantized="QuantizeLinear<axis = 0>(d, s, z)",
        tail="y = DequantizeLinear<axis = 0>(r, s, z)",
    ),
    "1 uint16": net("float s = {0.1}, uint16 z = {7}", kind="uint16", opset=21),
    "2 no zero points": net("float s = {0.1}", dq="DequantizeLinear(q, s)", requantized="QuantizeLinear(d, s)",
                            tail="y = DequantizeLinear(r, s)"),
    "2 one of the two left out": net("float s = {0.1}, uint8 z = {0}", dq="DequantizeLinear(q, s)"),
}  # fmt: skip


@pytest.mark.parametrize("text", FOLDS.values(), ids=FOLDS)
def test_folds(text: str) -> None:
    assert_rewritten(RULE, text, {"DequantizeLinear": 1})


def test_other_readers_keep_the_dequantized_value() -> None:
    text = net(tail="t = DequantizeLinear(r, s, z) y = Mul(t, d)")
    assert_rewritten(RULE, text, {"DequantizeLinear": 2, "Mul": 1})


STAYS = {
    "3 a tiny scale": (net("float s = {1e-35}, uint8 z = {3}"), "zero, negative, infinite or tiny"),
    "4 another scale": (
        net("float s = {0.1}, float t = {0.2}, uint8 z = {3}", requantized="QuantizeLinear(d, t, z)"),
        "another scale",
    ),
    "4 another zero point": (
        net("float s = {0.1}, uint8 z = {3}, uint8 v = {4}", requantized="QuantizeLinear(d, s, v)"),
        "another zero point",
    ),
    "4 another type": (
        net("float s = {0.1}, uint8 z = {3}, int8 v = {3}", requantized="QuantizeLinear(d, s, v)",
            tail="y = DequantizeLinear(r, s, v)"),
        "element type",
    ),
    "4 another axis": (
        net("float[3] s = {0.1, 0.2, 0.3}, int8[3] z = {0, 1, 2}", kind="int8",
            requantized="QuantizeLinear<axis = 0>(d, s, z)").replace("[2,3] q", "[3,3] q"),
        "another axis",
    ),
    "4 computed": (net("uint8 z = {3}").replace("[2,3] q)", "[2,3] q, float s)"), "not constant"),
    "4 a computed zero point": (net("float s = {0.1}").replace("[2,3] q)", "[2,3] q, uint8 z)"), "not constant"),
    "5 blocks": (
        net("float[2,1] s = {0.1, 0.2}, int8[2,1] z = {0, 0}", kind="int8", opset=21,
            dq="DequantizeLinear<block_size = 3>(q, s, z)", requantized="QuantizeLinear<block_size = 3>(d, s, z)",
            tail="y = DequantizeLinear<block_size = 3>(r, s, z)"),
        "blocks",
    ),
    "6 int32": (
        net("float s = {0.1}, uint8 z = {0}", kind="int32", dq="DequantizeLinear(q, s)"),
        None,
    ),
    "not after a DequantizeLinear": (net(dq="Cast<to = 1>(q)"), None),
}  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), STAYS.values(), ids=STAYS)
def test_stays(text: str, reason: str | None) -> None:
    assert_skipped(RULE, text, reason)


@pytest.mark.parametrize("bits", [8, 16])
def test_every_integer_comes_back(bits: int) -> None:
    """The formula's bound, over all integers and scales from one end to the other."""
    q = np.arange(2**bits, dtype=np.int64)
    for scale in np.geomspace(1.1e-30, 0.9e30, 301).astype(np.float32):
        for zero in (0, 3, 2**bits - 1):
            x = ((q - zero).astype(np.float32) * scale).astype(np.float32)
            assert (np.rint(x / scale).astype(np.int64) + zero == q).all()


def off_by_one(rewrite: Rewrite) -> Rewrite:
    """q + 1 in the place of q."""
    ((old, source),) = rewrite.outputs
    one = ir.Value(name="one", const_value=ir.tensor(np.array(1, np.uint8)), type=source.type, shape=ir.Shape([]))
    moved = ir.Node("", "Add", [source, one], num_outputs=1)
    moved.outputs[0].type = source.type
    return Rewrite(rewrite.nodes, (moved,), ((old, moved.outputs[0]),))


def test_sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_caught(RULE, net(opset=17), off_by_one, monkeypatch)
