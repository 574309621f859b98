from __future__ import annotations

from edgeopt.passes.int8_plan import plan
from edgeopt.regions import Border, Regions, regions
from edgeopt.shapes import infer
from tests import models

NET = """
agraph (float[1,4,8,8] x) => (float[1,4,8,8] y, float[1,4,8,8] z)
<float[4,4,1,1] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}>
{
  [conv1] a = Conv(x, w)
  [relu1] b = Relu(a)
  [conv2] c = Conv(b, w)
  [add] s = Add(b, c)
  [tanh] y = Tanh(s)
  [conv3] z = Conv(s, w)
}
"""


def of(text: str, **sizes: int) -> Regions:
    model = infer(models.model(text))
    return regions(model, plan(model), sizes)


def test_case_1_an_absorbed_activation_belongs_to_its_layer() -> None:
    assert of(NET).units == {
        "conv1": ("conv1", "relu1"),
        "conv2": ("conv2",),
        "add": ("add",),
        "conv3": ("conv3",),
    }


def test_case_1_a_chain_of_moves_is_one_unit() -> None:
    found = of("""
agraph (float[1,4,8,8] x) => (float[1,4,8,8] y)
<float[4,4,1,1] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}, int64[5] split = {1,2,2,8,8}, int64[4] join = {1,4,8,8}>
{
  [conv1] a = Conv(x, w)
  [split] b = Reshape(a, split)
  [shuffle] c = Transpose<perm = [0,2,1,3,4]>(b)
  [join] d = Reshape(c, join)
  [conv2] y = Conv(d, w)
}
""")
    assert found.units == {"conv1": ("conv1",), "split": ("split", "shuffle", "join"), "conv2": ("conv2",)}
    assert [b.tensor for b in found.borders] == ["x", "a", "d", "y"]  # b and c are handed on within the unit


def test_case_2_values_between_units() -> None:
    assert of(NET, b=256).borders == (
        Border("x", None, ("conv1",), 0),
        Border("b", "conv1", ("conv2", "add"), 256),
        Border("c", "conv2", ("add",), 0),
        Border("s", "add", (None, "conv3"), 0),
        Border("z", "conv3", (None,), 0),
    )


def test_case_3_what_cannot_run_in_int8_is_float_for_good() -> None:
    found = of(NET)
    assert "tanh" not in found.unit_of()
    assert all(b.tensor != "y" for b in found.borders)  # handed over in float, whatever is chosen


def test_the_shape_of_a_value_is_no_reader() -> None:
    found = of("""
agraph (float[1,4,8,8] x) => (float[1,4,8,8] y, int64[4] n)
<float[4,4,1,1] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}>
{
  [conv1] a = Conv(x, w)
  [shape] n = Shape(a)
  [conv2] y = Conv(a, w)
}
""")
    assert Border("a", "conv1", ("conv2",), 0) in found.borders


def test_a_body_reads_in_float() -> None:
    found = of("""
agraph (float[1,4,8,8] x, bool c) => (float[1,4,8,8] y)
<float[4,4,1,1] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}>
{
  [conv1] a = Conv(x, w)
  [if] y = If (c) <then_branch = t () => (float[1,4,8,8] p) { [neg] p = Neg(a) },
                   else_branch = e () => (float[1,4,8,8] q) { [abs] q = Abs(a) }>
}
""")
    assert Border("a", "conv1", (None,), 0) in found.borders


def test_keep_float_names_the_nodes_of_all_other_units() -> None:
    found = of(NET)
    assert found.keep_float(["conv2", "add"]) == {"conv1", "relu1", "conv3"}
    assert found.int8_units({"conv2", "relu1", "tanh"}) == {"conv2"}
