from __future__ import annotations

import pytest

from edgeopt.graph import attribute
from edgeopt.passes.recognize_group_norm import RecognizeGroupNorm
from tests.passes.sabotage import assert_caught, scaled
from tests.passes.tables import assert_fires, assert_left_alone, graph

SHAPES = "int64[3] s = {0, 2, -1}, int64[4] t = {2, 4, 5, 6}"
OWN = "float[2] o = {1, 1}, float[2] z = {0, 0}"
GROUP = "a = Reshape(x, s) c = InstanceNormalization<epsilon = 0.001>(a, o, z) "
ALL = GROUP + "[n] d = Reshape(c, t) p = Mul(d, g) y = Add(p, b)"
RULE = RecognizeGroupNorm({"GroupNormalization"})


def net(
    body: str = ALL,
    *,
    own: str = OWN,
    more: str = "float[4,1,1] g, float[4,1,1] b",
    opset: int = 21,
    x: str = "float[2,4,5,6] x",
    y: str = "float[A,B,C,D] y",
) -> str:
    return graph(f"g ({x}) => ({y}) <{', '.join(p for p in (SHAPES, own, more) if p)}> {{ {body} }}", opset)


FIRES = {
    "1": net(),
    "1 no gamma and beta": net(GROUP + "[n] y = Reshape(c, t)", more="", y="float[2,4,5,6] y"),
    "1 no beta": net(GROUP + "[n] d = Reshape(c, t) y = Mul(d, g)", more="float[4,1,1] g"),
    "1 numbers of its own": net(own="float[2] o, float[2] z"),
    "1 a scalar gamma": net(more="float g, float[1,4,1,1] b"),
    "1 opset 22": net(opset=22),
}
LEFT = {
    "2 other groups of elements": net(
        ALL.replace("Reshape(x, s)", "Reshape(x, u)"), more="int64[3] u = {1,2,-1}, float[4,1,1] g, float[4,1,1] b"
    ),
    "3 open sizes": net(x="float[2,4,H,6] x"),
    "4 own scales are not constant": net(own="", x="float[2,4,5,6] x, float[2] o, float[2] z"),
    "5 an output": net(y="float[A,B,C,D] y, float[2,2,60] c"),
    "opset 20": net(opset=20),
}


@pytest.mark.parametrize("case", FIRES)
def test_fires(case: str) -> None:
    result = assert_fires(RULE, FIRES[case], {"GroupNormalization": 1}, ["n"])
    assert attribute(result.graph[0], "num_groups") == 2
    assert attribute(result.graph[0], "epsilon") == pytest.approx(0.001)


@pytest.mark.parametrize("case", LEFT)
def test_is_left_alone(case: str) -> None:
    assert_left_alone(RULE, LEFT[case])


def test_targets_without_it() -> None:
    assert_left_alone(RecognizeGroupNorm({"InstanceNormalization"}), net())
    assert_left_alone(RecognizeGroupNorm({"GroupNormalization"}, 20), net())


def test_a_broken_rewrite_is_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_caught(RULE, net(), scaled(1, 2, 1.001), monkeypatch)
