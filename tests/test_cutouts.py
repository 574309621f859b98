from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import cutouts
from edgeopt.cutouts import check
from edgeopt.graph import Array
from edgeopt.rewrite import Case
from tests.models import model

HOST = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")


def value(kind: ir.DataType, *dims: int | str | None, name: str = "x") -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(dims))


def case(
    before: str, after: str, anchor: str = "n", constants: dict[str, Array] | None = None, **inputs: ir.Value
) -> Case:
    """Nodes written as in ONNX text, reading inputs and constants, giving ``old`` and ``new``."""

    def nodes(text: str) -> list[onnx.NodeProto]:
        return list(onnx.parser.parse_graph(f"g () => (float y) {{ {text} }}").node)

    tensors: dict[str, ir.TensorProtocol] = {n: ir.tensor(a) for n, a in (constants or {}).items()}
    given = inputs or {"x": value(ir.DataType.FLOAT, 2, 3)}
    return Case(anchor, nodes(before), nodes(after), [("old", "new")], tensors, given)


def test_the_same_twice() -> None:
    verdict = check([case("old = Neg(x)", "new = Neg(x)")], HOST)
    assert (verdict.failed, verdict.unchecked, verdict.max_abs_error) == ({}, {}, 0)


def test_rounding_is_allowed_and_reported() -> None:
    third = {"c": np.array(3, np.float32)}
    verdict = check([case("old = Div(x, c)", "r = Reciprocal(c) new = Mul(x, r)", constants=third)], HOST)
    assert verdict.failed == {}
    assert 0 < verdict.max_abs_error < 1e-4


def test_a_difference_is_found() -> None:
    verdict = check([case("old = Neg(x)", "new = Abs(x)")], HOST)
    assert list(verdict.failed) == ["n"]
    assert "of its channel's scale" in verdict.failed["n"]


def test_other_shapes_and_types_are_differences() -> None:
    shape = {"s": np.array([3, 2])}
    assert check([case("old = Neg(x)", "t = Neg(x) new = Reshape(t, s)", constants=shape)], HOST).failed
    assert check([case("old = Neg(x)", "t = Neg(x) new = Cast<to = 11>(t)")], HOST).failed


def test_scalars() -> None:
    scalar = value(ir.DataType.FLOAT)
    verdict = check(
        [case("old = Neg(x)", "new = Neg(x)", x=scalar), case("old = Exp(x)", "new = Abs(x)", "m", x=scalar)], HOST
    )
    assert (list(verdict.failed), verdict.unchecked) == (["m"], {})


def test_one_channel_wrong_by_a_thousandth() -> None:
    factors = np.array([1e6, 1, 1], np.float32)[:, None]
    wrong = factors.copy()
    wrong[1] *= 1.001
    made = case(
        "old = Mul(x, a)",
        "new = Mul(x, b)",
        constants={"a": factors, "b": wrong},
        x=value(ir.DataType.FLOAT, "N", 3, 5),
    )
    assert list(check([made], HOST).failed) == ["n"]


def test_saturations_are_reached() -> None:
    """N(0, 1) alone would never meet the bound."""
    bound = {"c": np.array(20, np.float32)}
    assert check([case("old = Clip(x, , c)", "new = Identity(x)", constants=bound)], HOST).failed


def test_the_guilty_among_the_innocent() -> None:
    good = [case("old = Neg(x)", "new = Neg(x)", f"good{k}") for k in range(5)]
    verdict = check([*good[:3], case("old = Neg(x)", "new = Exp(x)", "bad"), *good[3:]], HOST)
    assert list(verdict.failed) == ["bad"]


def test_cancellation_is_judged_against_float64() -> None:
    """(x + 1e4) - 1e4 loses bits in both versions; the order of the additions must not count as an error."""
    numbers = {"a": np.array(1e4, np.float32), "b": np.array(7e3, np.float32), "c": np.array(3e3, np.float32)}
    before = "t = Add(x, a) old = Sub(t, a)"
    good = case(before, "t1 = Add(x, b) t2 = Add(t1, c) new = Sub(t2, a)", constants=numbers)
    assert check([good], HOST).failed == {}
    wrong = case(
        before, "t1 = Mul(x, d) t2 = Add(t1, a) new = Sub(t2, a)", constants=numbers | {"d": np.array(1.05, np.float32)}
    )
    verdict = check([wrong], HOST)
    assert "away from float64" in verdict.failed["n"]


def test_a_noisy_channel_excuses_no_other() -> None:
    """Channel 0 loses bits in both versions, channel 1 is wrong by a thousandth."""
    shift = np.array([1e5, 0], np.float32)[:, None]
    wrong = np.array([1, 1.001], np.float32)[:, None]
    made = case(
        "t = Add(x, a) old = Sub(t, a)",
        "s = Mul(x, w) t2 = Add(a, s) new = Sub(t2, a)",
        constants={"a": shift, "w": wrong},
        x=value(ir.DataType.FLOAT, 2, 2, 50),
    )
    assert list(check([made], HOST).failed) == ["n"]


def test_constants_are_compared_element_by_element() -> None:
    numbers = {"a": np.array([1e6, 1], np.float32), "b": np.array([-1e6, -1.001], np.float32)}
    made = case("old = Neg(a)", "new = Identity(b)", constants=numbers)
    made.inputs.clear()
    assert list(check([made], HOST).failed) == ["n"]
    made = case("old = Neg(a)", "new = Identity(b)", constants=numbers | {"b": -numbers["a"]})
    made.inputs.clear()
    assert check([made], HOST).failed == {}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(ir.DataType.INT64, "new = Add(x, x)"), (ir.DataType.BOOL, "new = Not(x)"), (ir.DataType.FLOAT16, "new = Exp(x)")],
)
def test_other_types(kind: ir.DataType, wrong: str) -> None:
    given = value(kind, "N", 40)
    assert check([case("old = Identity(x)", "new = Identity(x)", x=given)], HOST).failed == {}
    assert list(check([case("old = Identity(x)", wrong, x=given)], HOST).failed) == ["n"]


def test_texts() -> None:
    given = value(ir.DataType.STRING, 40)
    assert check([case("old = Identity(x)", "new = Identity(x)", x=given)], HOST).failed == {}


def test_symbols_take_one_value_everywhere() -> None:
    made = case(
        "old = Add(x, z)",
        "new = Add(z, x)",
        x=value(ir.DataType.FLOAT, "N", "T"),
        z=value(ir.DataType.FLOAT, "N", "T", name="z"),
    )
    assert check([made], HOST).failed == {}


@pytest.mark.parametrize("unknown", [ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT)), ir.Value(name="x")])
def test_an_unknown_type_or_rank_cannot_be_checked(unknown: ir.Value) -> None:
    verdict = check([case("old = Neg(x)", "new = Exp(x)", x=unknown)], HOST)
    assert verdict.failed == {}
    assert "unknown" in verdict.unchecked["n"]


def test_what_is_said_to_be_uncheckable_is_not_checked() -> None:
    made = case("old = Neg(x)", "new = Exp(x)")
    made.uncheckable = "because"
    assert check([made], HOST).unchecked == {"n": "because"}


@pytest.mark.parametrize("other", ["Neg(x)", "Exp(x)"])
def test_bodies_are_checked(other: str) -> None:
    """Two cases whose bodies use the same names, inside of a body too."""
    branch = "{ t = Neg(x) a = If(c) <then_branch = r () => (float[2, 3] b) { b = Identity(t) }, "
    branch += "else_branch = o () => (float[2, 3] b) { b = Identity(t) }> }"
    text = (
        f"old = If(c) <then_branch = p () => (float[2, 3] a) {branch}, else_branch = q () => (float[2, 3] a) {branch}>"
    )
    inputs = {"x": value(ir.DataType.FLOAT, 2, 3), "c": value(ir.DataType.BOOL, name="c")}
    verdict = check(
        [case(text, f"new = {f}", anchor, None, **inputs) for anchor, f in (("n", other), ("m", "Neg(x)"))], HOST
    )
    assert verdict.unchecked == {}
    assert list(verdict.failed) == ([] if other == "Neg(x)" else ["n"])


@pytest.mark.parametrize("other", ["Neg(x)", "Exp(x)"])
def test_calls_of_local_functions_are_checked(other: str) -> None:
    host = model(
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]> g (float[2] x) => (float[2] y) { y = local.f(x) }'
        ' <domain: "local", opset_import: ["" : 17]> f (a) => (b) { b = Neg(a) }'
    )
    verdict = check([case("old = local.f(x)", f"new = {other}")], host)
    assert verdict.unchecked == {}
    assert list(verdict.failed) == ([] if other == "Neg(x)" else ["n"])


def test_a_sequence_is_left_to_the_reference_implementation() -> None:
    made = case("old = SequenceConstruct(x)", "t = Neg(x) new = SequenceConstruct(t)")
    assert list(check([made], HOST).failed) == ["n"]
    ragged = case("t = Concat<axis = 0>(x, x) old = SequenceConstruct(x, t)", "new = SequenceConstruct(x)")
    assert check([ragged], HOST).unchecked == {"n": "an output is no tensor"}


def test_a_case_without_outputs_needs_no_check() -> None:
    made = case("old = Neg(x)", "new = Exp(x)")
    made.outputs.clear()
    verdict = check([made], HOST)
    assert (verdict.failed, verdict.unchecked) == ({}, {})


def test_without_a_kernel_the_reference_implementation_decides() -> None:
    """onnxruntime has no Conv for double."""
    given = value(ir.DataType.DOUBLE, 1, 2, 5, 5)
    weights = {"w": np.ones((2, 2, 3, 3)), "v": np.ones((2, 2, 3, 3)) * 1.001}
    good = case("old = Conv(x, w)", "new = Conv(x, w)", "good", constants=weights, x=given)
    bad = case("old = Conv(x, w)", "new = Conv(x, v)", "bad", constants=weights, x=given)
    other = case("old = Neg(x)", "new = Neg(x)", "other")
    verdict = check([good, bad, other], HOST)
    assert list(verdict.failed) == ["bad"]
    assert "in float64" in verdict.failed["bad"]
    assert verdict.unchecked == {}


def test_the_reference_implementation_compares_shapes() -> None:
    given = value(ir.DataType.DOUBLE, 1, 2, 5, 5)
    weights = {"w": np.ones((2, 2, 3, 3)), "v": np.ones((2, 2, 2, 2))}
    assert check([case("old = Conv(x, w)", "new = Conv(x, v)", constants=weights, x=given)], HOST).failed


def test_what_nobody_can_run_is_unchecked() -> None:
    verdict = check([case("old = NoSuchOperator(x)", "new = Neg(x)")], HOST)
    assert verdict.failed == {}
    assert "onnxruntime cannot load" in verdict.unchecked["n"]


def test_many_cases_run_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    run_chunk = cutouts._run_chunk

    def counted(cases: Any, feeds: Any, host: ir.Model) -> Any:
        runs.append(len(cases))
        return run_chunk(cases, feeds, host)

    monkeypatch.setattr(cutouts, "_run_chunk", counted)
    cases = [case("old = Neg(x)", "new = Neg(x)", f"n{k}") for k in range(10)]
    check(cases, HOST)
    assert runs == [10]  # one session for all magnitudes
    runs.clear()
    monkeypatch.setattr(cutouts, "_CHUNK_ELEMENTS", 40)
    check(cases, HOST)
    assert sum(runs) == 10
    assert max(runs) < 10
    runs.clear()
    monkeypatch.setattr(cutouts, "_CHUNK_BYTES", 10)
    monkeypatch.setattr(cutouts, "_CHUNK_ELEMENTS", 10**9)
    check([case("old = Neg(x)", "new = Neg(x)", f"n{k}", {"c": np.zeros(2, np.float32)}) for k in range(3)], HOST)
    assert runs == [1, 1, 1]


def test_the_same_seed_gives_the_same_verdict() -> None:
    third = {"c": np.array(3, np.float32)}
    made = case("old = Div(x, c)", "r = Reciprocal(c) new = Mul(x, r)", constants=third)
    assert check([made], HOST, 5) == check([made], HOST, 5)
