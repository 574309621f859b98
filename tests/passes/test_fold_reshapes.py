from __future__ import annotations

import numpy as np
import pytest

from edgeopt.graph import constant, op_histogram
from edgeopt.passes.fold_reshapes import FoldReshapes
from tests.models import assert_same, checked, loaded
from tests.passes.sabotage import Patch, assert_caught


def net(body: str, *, x: str = "2,3,4", y: str = "A,B", more: str = "float unused", opset: int = 17) -> str:
    """x → views → v → Neg → y."""
    ir_version = 10 if opset > 19 else 8
    return (
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> g (float[{x}] x) => (float[{y}] y) '
        f"<{more}> {{ {body} y = Neg(v) }}"
    )


FOLDS = {  # text, operators left, the shape or axes that the last view asks for
    "1 there and back": (
        net("a = Flatten(x) [n] v = Reshape(a, s)", y="A,B,C", more="int64[3] s = {2,3,4}"),
        "Neg",
        None,
    ),
    "1 there and back, symbolic": (
        net("a = Unsqueeze(x, s) [n] v = Squeeze(a, s)", x="N,M", more="int64[1] s = {1}"),
        "Neg",
        None,
    ),
    "1 a Reshape alone, -1 in place": (net("[n] v = Reshape(x, s)", x="N,4", more="int64[2] s = {-1,4}"), "Neg", None),
    "1 a Reshape alone, 0 and -1": (
        net("[n] v = Reshape(x, s)", x="N,M,4", y="A,B,C", more="int64[3] s = {0,-1,4}"),
        "Neg",
        None,
    ),
    "1 edge 47: a Reshape alone, all copied": (
        net("[n] v = Reshape(x, s)", x="N,M,K", y="A,B,C", more="int64[3] s = {0,0,0}"),
        "Neg",
        None,
    ),
    "2 edge 48: Unsqueeze of Unsqueeze": (
        net(
            "a = Unsqueeze(x, s) [n] v = Unsqueeze(a, r)",
            x="N,M,K",
            y="A,B,C,D,E",
            more="int64[1] s = {1}, int64[1] r = {0}",
        ),
        "Unsqueeze Neg",
        [0, 2],
    ),
    "2 edge 48: Unsqueeze of Unsqueeze, axes in any order": (
        net(
            "a = Unsqueeze(x, s) [n] v = Unsqueeze(a, r)",
            x="3,4",
            y="A,B,C,D,E",
            more="int64[2] s = {3,0}, int64[1] r = {-2}",
        ),
        "Unsqueeze Neg",
        [0, 3, 4],
    ),
    "2 Unsqueeze of Unsqueeze, opset 11": (
        net("a = Unsqueeze<axes = [1]>(x) [n] v = Unsqueeze<axes = [1, 4]>(a)", x="3,4", y="A,B,C,D,E", opset=11),
        "Unsqueeze Neg",
        [1, 2, 4],
    ),
    "2 Squeeze of Squeeze": (
        net("a = Squeeze(x, s) [n] v = Squeeze(a, r)", x="N,1,M,1", more="int64[1] s = {3}, int64[1] r = {1}"),
        "Squeeze Neg",
        [1, 3],
    ),
    "2 Squeeze of Squeeze, negative axes": (
        net("a = Squeeze(x, s) [n] v = Squeeze(a, r)", x="N,1,M,1", more="int64[1] s = {1}, int64[1] r = {-1}"),
        "Squeeze Neg",
        [1, 3],
    ),
    "2 edge 48: Squeeze of all, then nothing is left to squeeze": (
        net("a = Squeeze(x, s) [n] v = Squeeze(a)", x="2,1,4,1", more="int64[1] s = {3}"),
        "Squeeze Neg",
        [1, 3],
    ),
    "3 Unsqueeze of Squeeze": (
        net("a = Squeeze(x, s) [n] v = Unsqueeze(a, s)", x="N,1,M", y="A,B,C", more="int64[1] s = {1}"),
        "Neg",
        None,
    ),
    "3 Squeeze of Unsqueeze, signs differ": (
        net("a = Unsqueeze(x, s) [n] v = Squeeze(a, r)", x="N,M", more="int64[1] s = {2}, int64[1] r = {-1}"),
        "Neg",
        None,
    ),
    "4 Reshape of Reshape": (
        net("a = Reshape(x, s) [n] v = Reshape(a, r)", more="int64[1] s = {-1}, int64[2] r = {4,6}"),
        "Reshape Neg",
        [4, 6],
    ),
    "4 edge 47: two sizes are not known": (
        net(
            "a = Reshape(x, s) [n] v = Reshape(a, r)",
            x="N,M,4",
            y="A,B",
            more="int64[2] s = {0,-1}, int64[2] r = {-1,2}",
        ),
        "Reshape Neg",
        [-1, 2],
    ),
    "4 Reshape of Flatten": (
        net("a = Flatten<axis = 2>(x) [n] v = Reshape(a, r)", more="int64[2] r = {-1,2}"),
        "Reshape Neg",
        [-1, 2],
    ),
    "5 edge 47: 0 behind a Reshape": (
        net(
            "a = Reshape(x, s) [n] v = Reshape(a, r)",
            x="2,3,4",
            y="A,B",
            more="int64[3] s = {6,2,2}, int64[2] r = {0,-1}",
        ),
        "Reshape Neg",
        [6, 4],
    ),
    "5 edge 47: 0 behind a Reshape, symbolic": (
        net(
            "a = Reshape(x, s) [n] v = Reshape(a, r)",
            x="N,3,4",
            y="A,B,C",
            more="int64[2] s = {0,12}, int64[3] r = {0,6,2}",
        ),
        "Reshape Neg",
        [0, 6, 2],
    ),
    "5 edge 47: permuted sizes": (
        net(
            "a = Unsqueeze(x, s) [n] v = Reshape(a, r)",
            x="N,3",
            y="A,B,C",
            more="int64[1] s = {0}, int64[3] r = {3,0,-1}",
        ).replace("{3,0,-1}", "{1,3,-1}"),
        "Reshape Neg",
        [1, 3, -1],
    ),
    "5 edge 53: Flatten of Flatten": (
        net("a = Flatten<axis = 2>(x) [n] v = Flatten<axis = 0>(a)", more="float u"),
        "Reshape Neg",
        [1, 24],
    ),
    "5 edge 53: Flatten at -1": (
        net("a = Unsqueeze(x, s) [n] v = Flatten<axis = -1>(a)", x="N,3,4", more="int64[1] s = {3}"),
        None,
        None,
    ),
    "5 Flatten of Reshape": (
        net("a = Reshape(x, s) [n] v = Flatten(a)", x="N,3,4", more="int64[4] s = {0,2,2,3}"),
        "Reshape Neg",
        [0, 12],
    ),
    "5 Flatten of Unsqueeze": (
        net("a = Unsqueeze(x, s) [n] v = Flatten(a)", x="N,12", y="A,B", more="int64[2] s = {2,3}"),
        "Neg",
        None,
    ),
    "5 Squeeze of Reshape": (
        net(
            "a = Reshape(x, s) [n] v = Squeeze(a, r)",
            x="N,12",
            y="A,B,C",
            more="int64[4] s = {0,3,1,4}, int64[1] r = {2}",
        ),
        "Reshape Neg",
        [0, 3, 4],
    ),
    "5 Unsqueeze of Flatten": (
        net("a = Flatten(x) [n] v = Unsqueeze(a, r)", x="N,3,4", y="A,B,C", more="int64[1] r = {1}"),
        "Reshape Neg",
        [0, 1, 12],
    ),
    "5 three in a row": (
        net(
            "a = Reshape(x, s) b = Unsqueeze(a, r) [n] v = Flatten(b)",
            x="N,3,4",
            more="int64[2] s = {0,12}, int64[1] r = {2}",
        ),
        "Reshape Neg",
        [0, 12],
    ),
    "6 element-wise in between": (
        net(
            "a = Reshape(x, s) b = Relu(a) c = Exp(b) [n] v = Reshape(c, r)",
            y="A,B,C",
            more="int64[2] s = {6,4}, int64[3] r = {2,3,4}",
        ),
        "Relu Exp Neg",
        None,
    ),
    "6 element-wise in between, another shape": (
        net("a = Flatten(x) b = Clip(a, lo) [n] v = Reshape(b, r)", more="float lo, int64[2] r = {4,6}"),
        "Clip Reshape Neg",
        [4, 6],
    ),
}


@pytest.mark.parametrize("case", FOLDS)
def test_folds(case: str) -> None:
    text, left, asked = FOLDS[case]
    model = loaded(text)
    result, report = checked(FoldReshapes(), model)
    assert report.rolled_back == []
    assert report.hits
    if left is not None:
        assert sorted(n.op_type for n in result.graph) == sorted(left.split())
    if asked is not None:
        node = next(n for n in result.graph if n.op_type in ("Reshape", "Squeeze", "Unsqueeze"))
        found = constant(node.inputs[1]) if len(node.inputs) > 1 else np.array(node.attributes["axes"].value)
        assert found is not None
        assert found.tolist() == asked
    assert_same(model, result)
    again, second = checked(FoldReshapes(), result)
    assert again is result
    assert second.hits == []


SKIPS = {  # text, part of the reason
    "7 read elsewhere": (
        net("a = Flatten(x) z = Exp(a) [n] v = Reshape(a, r)", more="int64[2] r = {4,6}").replace(
            "y) <", "y, float[C,D] z) <"
        ),
        "read by other nodes too",
    ),
    "7 an output": (
        net("z = Flatten(x) [n] v = Reshape(z, r)", more="int64[2] r = {4,6}").replace("y) <", "y, float[C,D] z) <"),
        "is an output of the graph",
    ),
    "9 edge 47: two open sizes": (
        net(
            "a = Unsqueeze(x, s) [n] v = Reshape(a, r)",
            x="3,N,M",
            y="A,B,C",
            more="int64[1] s = {0}, int64[3] r = {-1,3,0}",
        ),
        None,
    ),
    "11 a shape that is calculated": (
        net("a = Flatten(x) k = Shape(q) [n] v = Reshape(a, k)").replace("x) =>", "x, float[A,B] q) =>"),
        "is calculated",
    ),
    "12 edge 47: allowzero": (
        net("a = Flatten(x) [n] v = Reshape<allowzero = 1>(a, r)", x="0,3,4", y="A,B,C", more="int64[3] r = {3,0,4}"),
        "a dimension of 0",
    ),
}


@pytest.mark.parametrize("case", SKIPS)
def test_skips(case: str) -> None:
    text, reason = SKIPS[case]
    model = loaded(text)
    result, report = checked(FoldReshapes(), model)
    assert report.rolled_back == []
    if reason is None:
        assert_same(model, result)
        return
    assert result is model
    assert [s.node for s in report.skips] == ["n"]
    assert reason in report.skips[0].reason


def test_an_inner_view_that_others_read_is_passed_by() -> None:
    """Case 1 with another reader: the outer one goes, the inner one stays."""
    model = loaded(
        net("a = Flatten(x) z = Exp(a) [n] v = Reshape(a, r)", y="A,B,C", more="int64[3] r = {2,3,4}").replace(
            "y) <", "y, float[C,D] z) <"
        )
    )
    result, report = checked(FoldReshapes(), model)
    assert [h.nodes for h in report.hits] == [("n",)]
    assert op_histogram(result) == {"Exp": 1, "Flatten": 1, "Neg": 1}
    assert_same(model, result)


def test_two_flattens_of_one_input() -> None:
    """Edge 53."""
    model = loaded(
        "g (float[N,3,4] x) => (float[A,B] y, float[C,D] z) { a = Flatten(x) b = Flatten(x) y = Neg(a) z = Flatten<axis = 0>(b) }"
    )
    result, report = checked(FoldReshapes(), model)
    assert report.rolled_back == []
    assert_same(model, result)
    for batch in (1, 5):
        assert_same(model, result, x=np.random.default_rng(0).standard_normal((batch, 3, 4)).astype(np.float32))


@pytest.mark.parametrize("kind", ["float16", "double", "int64", "uint8", "bool"])
def test_types(kind: str) -> None:
    model = loaded(
        f"g ({kind}[2,3,4] x) => ({kind}[A,B] y) <int64[2] r = {{4,6}}> {{ a = Flatten(x) [n] v = Reshape(a, r) y = Concat<axis = 0>(v, v) }}"
    )
    result, report = checked(FoldReshapes(), model)
    assert len(report.hits) == 1
    assert_same(model, result)


@pytest.mark.parametrize("opset", [5, 7, 11, 13, 18, 21])
def test_opsets(opset: int) -> None:
    text = net("a = Flatten(x) [n] v = Reshape(a, r)", more="int64[2] r = {4,6}", opset=opset)
    result, report = checked(FoldReshapes(), loaded(text))
    assert len(report.hits) == 1
    assert op_histogram(result) == {"Neg": 1, "Reshape": 1}


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_an_empty_batch(batch: int) -> None:
    """Edge 47: N = 0 at run time."""
    model = loaded(
        net(
            "a = Reshape(x, s) [n] v = Reshape(a, r)",
            x="N,3,4",
            y="A,B,C",
            more="int64[2] s = {0,12}, int64[3] r = {0,6,2}",
        )
    )
    result, report = checked(FoldReshapes(), model)
    assert len(report.hits) == 1
    assert_same(model, result, x=np.ones((batch, 3, 4), np.float32))


def test_in_a_body_and_across_its_border() -> None:
    text = (
        "g (float[2,3,4] x, bool c) => (float[A,B] y) <int64[2] r = {4,6}, int64[2] s = {6,4}> { o = Flatten(x) y = If(c) <"
        "then_branch = p () => (float[A,B] a) { t = Flatten<axis = 0>(x) [i] u = Reshape(t, r) a = Neg(u) }, "
        "else_branch = q () => (float[A,B] b) { [j] v = Reshape(o, r) b = Exp(v) }> }"
    )
    model = loaded(text)
    result, report = checked(FoldReshapes(), model)
    assert [h.anchor for h in report.hits] == ["i"]
    assert [(s.node, "another graph" in s.reason) for s in report.skips] == [("j", True)]
    assert_same(model, result)


def test_sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
    text = net("a = Reshape(x, s) [n] v = Reshape(a, r)", y="A,B", more="int64[3] s = {6,2,2}, int64[2] r = {0,-1}")
    import edgeopt.passes.fold_reshapes as module

    assert_caught(FoldReshapes(), text, Patch(module, "view_shape", lambda a, b: [4, 6]), monkeypatch)
