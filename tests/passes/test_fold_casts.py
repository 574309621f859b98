from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.graph import op_histogram
from edgeopt.passes import fold_casts
from edgeopt.passes.fold_casts import FoldCasts, holds
from edgeopt.runtime import Level, Session
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import assert_caught, wired_to_its_input
from tests.passes.tables import assert_fires, assert_left_alone, graph

RULE = FoldCasts()
T = ir.DataType
NAMES = {
    **{T.FLOAT: "float", T.DOUBLE: "double", T.FLOAT16: "float16", T.BFLOAT16: "bfloat16", T.BOOL: "bool"},
    **{t: t.name.lower() for t in (T.INT8, T.INT16, T.INT32, T.INT64, T.UINT8, T.UINT16, T.UINT32, T.UINT64)},
}


def chain(*types: T, dims: str = "2,3", opset: int = 17) -> str:
    """x of the first type, Casts to all others, with something before and after that keeps the type."""
    casts = " ".join(f"t{k} = Cast<to = {t.value}>(t{k - 1})" for k, t in enumerate(types[1:], 1))
    first, last = NAMES[types[0]], NAMES[types[-1]]
    head = f"g ({first}[{dims}] x) => ({last}[{dims}] y) <int64[2] s = {{0, -1}}>"
    return graph(f"{head} {{ t0 = Reshape(x, s) {casts} y = Reshape(t{len(types) - 1}, s) }}", opset)


ONE = {"Cast": 1, "Reshape": 2}
NONE = {"Reshape": 2}

FOLDED = {
    "1 bool to float": (chain(T.BOOL, T.INT32, T.FLOAT), ONE),
    "1 bool through float to bool": (chain(T.BOOL, T.FLOAT, T.BOOL), NONE),
    "1 bool through uint8 to double": (chain(T.BOOL, T.UINT8, T.DOUBLE), ONE),
    "1 bool through float16": (chain(T.BOOL, T.FLOAT16, T.INT64), ONE),
    "2 float through double": (chain(T.FLOAT, T.DOUBLE, T.FLOAT), NONE),
    "2 float16 through float": (chain(T.FLOAT16, T.FLOAT, T.FLOAT16), NONE),
    "2 int32 through int64": (chain(T.INT32, T.INT64, T.INT32), NONE),
    "2 int8 through float": (chain(T.INT8, T.FLOAT, T.INT8), NONE),
    "2 int32 through double": (chain(T.INT32, T.DOUBLE, T.INT32), NONE),
    "2 uint8 through int16": (chain(T.UINT8, T.INT16, T.UINT8), NONE),
    "3 int32 through int64 to float": (chain(T.INT32, T.INT64, T.FLOAT), ONE),
    "3 int8 through int32 to int64": (chain(T.INT8, T.INT32, T.INT64), ONE),
    "3 uint8 through float to double": (chain(T.UINT8, T.FLOAT, T.DOUBLE), ONE),
    "3 uint8 through int32 to uint16": (chain(T.UINT8, T.INT32, T.UINT16), ONE),
    "4 float16 through float to double": (chain(T.FLOAT16, T.FLOAT, T.DOUBLE), ONE),
    "4 float through double to float16": (chain(T.FLOAT, T.DOUBLE, T.FLOAT16), ONE),
    "4 float16 through float to int64": (chain(T.FLOAT16, T.FLOAT, T.INT64), ONE),
    "4 float16 through float to bool": (chain(T.FLOAT16, T.FLOAT, T.BOOL), ONE),
    "5 edge 61: low bits, twice": (chain(T.INT64, T.INT32, T.INT8), ONE),
    "5 signed to unsigned": (chain(T.INT32, T.UINT16, T.INT8), ONE),
    "5 as many bits": (chain(T.INT64, T.UINT64, T.INT64), NONE),
    "three of them": (chain(T.FLOAT16, T.FLOAT, T.DOUBLE, T.FLOAT), ONE),
    "four of them": (chain(T.FLOAT, T.DOUBLE, T.FLOAT, T.DOUBLE, T.FLOAT), NONE),
    "open dims": (chain(T.FLOAT, T.DOUBLE, T.FLOAT16, dims="N,M"), ONE),
    "opset 9": (chain(T.FLOAT, T.DOUBLE, T.FLOAT16, opset=9), ONE),
    "opset 13": (chain(T.FLOAT, T.DOUBLE, T.FLOAT16, opset=13), ONE),
    "opset 21": (chain(T.FLOAT, T.DOUBLE, T.FLOAT16, opset=21), ONE),
    "6 int32 indices": (
        graph(
            "g (float[4,3] x, int32[2] i) => (float[2,3] y) <int32 a = {-4}, int32 b = {3}>"
            " { k = Clip(i, a, b) c = Cast<to = 7>(k) y = Gather(x, c) }"
        ),
        {"Clip": 1, "Gather": 1},
    ),
    "6 of GatherElements": (
        graph(
            "g (float[4,3] x, int32[2,3] i) => (float[2,3] y) <int32 a = {-4}, int32 b = {3}>"
            " { k = Clip(i, a, b) c = Cast<to = 7>(k) y = GatherElements<axis = 0>(x, c) }"
        ),
        {"Clip": 1, "GatherElements": 1},
    ),
    "there and back between an input and an output": (
        graph("g (float[2] x) => (float[2] y) { t = Cast<to = 11>(x) y = Cast<to = 1>(t) }"),
        {"Identity": 1},
    ),
    "there and back between two outputs": (
        graph("g (float[2] x) => (float[2] y, float[2] z) { z = Neg(x) t = Cast<to = 11>(z) y = Cast<to = 1>(t) }"),
        {"Identity": 1, "Neg": 1},
    ),
    "in a branch": (
        graph(
            "g (float[2] x, bool c) => (float[2] y) { y = If(c) <then_branch = p () => (float[2] a) {"
            " s = Exp(x) t = Cast<to = 11>(s) u = Cast<to = 1>(t) a = Neg(u) },"
            " else_branch = q () => (float[2] b) { b = Abs(x) }> }"
        ),
        {"Abs": 1, "Exp": 1, "If": 1, "Neg": 1},
    ),
    "a branch's Casts of an outer value": (
        graph(
            "g (float[2] x, bool c) => (float[2] y) { s = Exp(x) y = If(c) <then_branch = p () => (float[2] a) {"
            " t = Cast<to = 11>(s) a = Cast<to = 1>(t) },"
            " else_branch = q () => (float[2] b) { b = Abs(s) }> }"
        ),
        {"Abs": 1, "Exp": 1, "Identity": 1, "If": 1},
    ),
    "nothing is left of both, although others read the first": (
        graph(
            "g (float[2] x) => (float[2] y, double[2] z) { s = Exp(x) t = Cast<to = 11>(s) u = Cast<to = 1>(t)"
            " y = Neg(u) z = Neg(t) }"
        ),
        {"Cast": 1, "Exp": 1, "Neg": 2},
    ),
}


@pytest.mark.parametrize("case", FOLDED)
def test_folded(case: str) -> None:
    text, ops = FOLDED[case]
    assert_fires(RULE, text, ops)


MAY_DIFFER = "may differ from"
KEPT = {
    "7 edge 61: float to int": (chain(T.FLOAT, T.INT32, T.FLOAT), "FLOAT → INT32 → FLOAT may differ"),
    "7 edge 61: float16 in between": (chain(T.FLOAT, T.FLOAT16, T.FLOAT), MAY_DIFFER),
    "7 bfloat16 in between": (chain(T.FLOAT16, T.BFLOAT16, T.FLOAT), MAY_DIFFER),
    "7 edge 61: int32 in between": (chain(T.INT64, T.INT32, T.INT64), MAY_DIFFER),
    "7 int64 through float": (chain(T.INT64, T.FLOAT, T.INT64), MAY_DIFFER),
    "7 int32 through float": (chain(T.INT32, T.FLOAT, T.INT32), MAY_DIFFER),
    "7 edge 61: bool in between": (chain(T.FLOAT, T.BOOL, T.FLOAT), MAY_DIFFER),
    "7 bool between integers": (chain(T.INT64, T.BOOL, T.INT64), MAY_DIFFER),
    "7 unsigned in between": (chain(T.INT8, T.UINT8, T.INT32), MAY_DIFFER),
    "7 uint64 in between": (chain(T.INT64, T.UINT64, T.FLOAT), MAY_DIFFER),
    "7 wider again": (chain(T.INT64, T.INT16, T.INT32), MAY_DIFFER),
    "8 double to an integer": (chain(T.FLOAT, T.DOUBLE, T.INT32), MAY_DIFFER),
    "8 double to bool": (chain(T.FLOAT, T.DOUBLE, T.BOOL), MAY_DIFFER),
    "9 read elsewhere": (
        graph("g (float16[2] x) => (double[2] y, float[2] z) { t = Cast<to = 1>(x) y = Cast<to = 11>(t) z = Neg(t) }"),
        "is read by other nodes too",
    ),
    "9 read by a branch": (
        graph(
            "g (float16[2] x, bool c) => (double[2] y, float[2] z) { t = Cast<to = 1>(x) y = Cast<to = 11>(t) z = If(c)"
            " <then_branch = p () => (float[2] a) { a = Neg(t) }, else_branch = q () => (float[2] b) { b = Abs(t) }> }"
        ),
        "is read by other nodes too",
    ),
    "9 an output": (
        graph("g (float16[2] x) => (double[2] y, float[2] t) { t = Cast<to = 1>(x) y = Cast<to = 11>(t) }"),
        "or is an output of the graph",
    ),
    "9 the indices are read elsewhere": (
        graph(
            "g (float[4,3] x, int32[2] i) => (float[2,3] y, int64[2] z) { k = Abs(i) c = Cast<to = 7>(k)"
            " y = Gather(x, c) z = Neg(c) }"
        ),
        "before its indices is read by other nodes too",
    ),
    "6 indices from int8": (
        graph("g (float[4,3] x, int8[2] i) => (float[2,3] y) { c = Cast<to = 7>(i) y = Gather(x, c) }"),
        None,
    ),
    "6 the data of a Gather": (
        graph("g (int32[4,3] x) => (int64[2,3] y) <int64[2] i = {0, 2}> { c = Cast<to = 7>(x) y = Gather(c, i) }"),
        None,
    ),
    "10 8-bit floats": (
        graph("g (float[2] x) => (float[2] y) { t = Cast<to = 17>(x) y = Cast<to = 1>(t) }", 21),
        MAY_DIFFER,
    ),
    "10 text": (
        graph("g (int64[2] x) => (int64[2] y) { t = Cast<to = 8>(x) y = Cast<to = 7>(t) }"),
        MAY_DIFFER,
    ),
    "a lone Cast": (graph("g (float[2] x) => (int64[2] y) { t = Neg(x) y = Cast<to = 7>(t) }"), None),
    "the first in the outer graph": (
        graph(
            "g (float16[2] x, bool c) => (double[2] y) { t = Cast<to = 1>(x) y = If(c) <then_branch = p () =>"
            " (double[2] a) { a = Cast<to = 11>(t) }, else_branch = q () => (double[2] b) { b = Cast<to = 11>(t) }> }"
        ),
        None,
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    text, reason = KEPT[case]
    assert_left_alone(RULE, text, reason)


def test_a_type_given_by_name_as_up_to_opset_5() -> None:
    model = loaded(chain(T.FLOAT, T.DOUBLE, T.FLOAT))
    for node in model.graph:
        if node.op_type == "Cast":
            node.attributes["to"] = ir.AttrString("to", "FLOAT")
    for node in model.graph:
        assert RULE.match(node, None) is None


INTEGERS = (T.INT8, T.INT16, T.INT32, T.INT64, T.UINT8, T.UINT16, T.UINT32, T.UINT64)
WIDE = {T.INT8: 127, T.INT16: 32767, T.INT32: 2**31 - 1, T.UINT8: 255, T.UINT16: 65535, T.UINT32: 2**32 - 1}
WIDE |= {T.INT64: 2**63 - 1, T.UINT64: 2**64 - 1}


def test_holds_all_values_of_integers() -> None:
    """Against the ends of each range, and an odd number that needs every bit."""
    for narrow, wide in itertools.product(INTEGERS, INTEGERS):
        low = -WIDE[narrow] - 1 if narrow.name.startswith("INT") else 0
        floor = -WIDE[wide] - 1 if wide.name.startswith("INT") else 0
        assert holds(wide, narrow) == (floor <= low and WIDE[narrow] <= WIDE[wide])
    for narrow, wide in itertools.product(INTEGERS, (T.FLOAT, T.DOUBLE)):
        assert holds(wide, narrow) == (int(np.array(WIDE[narrow]).astype(wide.numpy())) == WIDE[narrow])


def extremes(dtype: T) -> np.ndarray:
    if dtype == T.BOOL:
        return np.array([False, True, False, True])
    if dtype in INTEGERS:
        low, high = int(np.iinfo(dtype.numpy()).min), int(np.iinfo(dtype.numpy()).max)
        whole = [low, low + 1, 0, 1, 2, 100, high - 1, high, high // 2, high // 3, low // 3, high // 257]
        return np.array(whole, dtype.numpy())
    info = np.finfo(dtype.numpy())
    some = [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -1.5,
        1 / 3,
        100.7,
        -100.7,
        float(info.tiny),
        float(info.smallest_subnormal),
    ]
    return np.array([*some, float(info.max), float(info.min), np.inf, -np.inf, np.nan], dtype.numpy())


KINDS = (T.BOOL, T.INT8, T.UINT8, T.INT32, T.UINT32, T.INT64, T.FLOAT16, T.FLOAT, T.DOUBLE)


@pytest.mark.parametrize("first", [t for t in KINDS if t != T.DOUBLE], ids=lambda t: t.name)
def test_every_chain_that_folds_gives_the_same_for_extreme_values(first: T) -> None:
    folded = 0
    for middle, last in itertools.product(KINDS, KINDS):
        if middle in (first, last) or not fold_casts._same(first, middle, last):
            continue
        given = extremes(first)
        if last in INTEGERS and first in (T.FLOAT, T.DOUBLE, T.FLOAT16):
            given = given[np.abs(given) <= 100]  # what is out of range is the runtime's choice
        text = chain(first, middle, last, dims=f"1,{len(given)}")
        model = loaded(text)
        result, report = checked(RULE, model)
        assert len(report.hits) == 1, (middle, last)
        assert report.rolled_back == []
        one, two = (Session(m, Level.NONE).run({"x": given.reshape(1, -1)})["y"] for m in (model, result))
        np.testing.assert_array_equal(one, two, err_msg=f"{first.name} {middle.name} {last.name}")
        folded += 1
    assert folded >= 2


def test_metadata_of_the_outer_cast_stays() -> None:
    model = loaded(chain(T.INT32, T.INT64, T.FLOAT))
    outer = [n for n in model.graph if n.op_type == "Cast"][-1]
    outer.metadata_props["note"] = "kept"
    result, _ = checked(RULE, model)
    assert [n.metadata_props.get("note") for n in result.graph if n.op_type == "Cast"] == ["kept"]
    assert_same(model, result)
    assert op_histogram(result) == ONE


def test_sabotage_a_middle_that_loses_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float through an integer taken for nothing."""
    text = graph(
        "g (float[2,3] x) => (float[2,3] y, float[2,3] z) { a = Exp(x) t = Cast<to = 6>(a) y = Cast<to = 1>(t)"
        " e = Abs(x) d = Cast<to = 11>(e) f = Cast<to = 1>(d) z = Neg(f) }"
    )
    model = loaded(text)
    monkeypatch.setattr(fold_casts, "_same", lambda *types: True)
    result, report = checked(RULE, model)
    assert [s.node for s in report.rolled_back] == ["Cast_y"]
    assert [h.anchor for h in report.hits] == ["Cast_f"]
    assert_same(model, result)


def test_sabotage_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    text = graph(
        "g (float[2,3] x) => (float[2,3] y, double[2,3] z) { a = Exp(x) t = Cast<to = 11>(a) [n] u = Cast<to = 10>(t)"
        " y = Cast<to = 1>(u) b = Abs(x) h = Cast<to = 10>(b) f = Cast<to = 1>(h) z = Cast<to = 11>(f) }"
    )
    assert_caught(RULE, text, wired_to_its_input, monkeypatch)
