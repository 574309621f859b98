from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgeopt.passes.slicing import (
    END,
    Part,
    combined,
    dim_at,
    part_of,
    parts_of,
    slice_operands,
    span_of,
    split_operands,
    split_sizes,
)
from tests.models import loaded
from tests.passes.tables import graph

BOUNDS = (-(2**63) + 1, -9, -4, -1, 0, 1, 2, 4, 9, 2**63 - 1)
STEPS = (-3, -2, -1, 1, 2, 3)
PARTS = [*itertools.product(BOUNDS, BOUNDS, STEPS)]


def taken(part: Part, size: int) -> list[int]:
    """As numpy slices, where the start is not clamped to the first element, and a stop before it is None."""
    start, stop, step = part
    if step < 0 and size:
        return [*range(size)][slice(max(start, -size), None if stop < -size else stop, step)]
    return [*range(size)][slice(start, stop, step)]


@pytest.mark.parametrize("size", [0, 1, 4, 5])
def test_span_of_is_what_the_part_takes(size: int) -> None:
    for part in PARTS:
        first, count, step = span_of(part, size)
        assert [first + k * step for k in range(count)] == taken(part, size)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_part_of_means_the_span(size: int) -> None:
    for part in PARTS:
        span = span_of(part, size)
        again = part_of(span)
        assert taken(again, size) == taken(part, size)
        assert max(abs(p) for p in again) < 2**31  # in 32 bits too


def test_combined_with_a_known_size() -> None:
    few = [p for p in PARTS if p[0] in (-9, -1, 0, 1, 9) and p[1] in (-4, 0, 2, 2**63 - 1)]
    for inner, outer in itertools.product(few[::2], few):
        both = combined(inner, outer, 5)
        assert both is not None
        first = taken(inner, 5)
        assert taken(both, 5) == [first[k] for k in taken(outer, len(first))]


def test_combined_with_an_open_size_holds_for_every_size() -> None:
    numbers = (0, 1, 2, 4, 2**63 - 1)
    for inner, outer in itertools.product(itertools.product(numbers, numbers), repeat=2):
        both = combined((*inner, 1), (*outer, 1), None)
        assert both is not None
        for size in range(7):
            first = taken((*inner, 1), size)
            assert taken(both, size) == [first[k] for k in taken((*outer, 1), len(first))]


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ((0, 4, 2), (0, 2, 1)),
        ((0, 4, 1), (0, 2, 2)),
        ((-3, 4, 1), (0, 2, 1)),
        ((0, -1, 1), (0, 2, 1)),
        ((0, 4, 1), (-2, 4, 1)),
        ((0, 4, 1), (0, -1, 1)),
        ((3, 0, -1), (0, 2, 1)),
    ],
)
def test_combined_depends_on_an_open_size(inner: Part, outer: Part) -> None:
    assert combined(inner, outer, None) is None


def slice_of(text: str, opset: int = 17, dims: str = "2,8,8") -> dict[int, Part] | None:
    model = loaded(graph(f"g (float[{dims}] x) => (float[] y) {text}", opset))
    return parts_of(next(n for n in model.graph if n.op_type == "Slice"), opset)


FORMS = {
    "attributes": ("{ y = Slice<starts = [1], ends = [3], axes = [2]>(x) }", 9, {2: (1, 3, 1)}),
    "attributes without axes": ("{ y = Slice<starts = [0, 1], ends = [2, 3]>(x) }", 9, {0: (0, 2, 1), 1: (1, 3, 1)}),
    "attributes, negative axis": ("{ y = Slice<starts = [1], ends = [3], axes = [-1]>(x) }", 9, {2: (1, 3, 1)}),
    "inputs": ("<int64[1] s = {1}, int64[1] e = {3}> { y = Slice(x, s, e) }", 10, {0: (1, 3, 1)}),
    "inputs with axes": (
        "<int64[1] s = {1}, int64[1] e = {3}, int64[1] a = {-1}> { y = Slice(x, s, e, a) }",
        13,
        {2: (1, 3, 1)},
    ),
    "inputs with steps": (
        "<int64[1] s = {-1}, int64[1] e = {-9}, int64[1] a = {1}, int64[1] t = {-2}> { y = Slice(x, s, e, a, t) }",
        17,
        {1: (-1, -9, -2)},
    ),
    "steps without axes": (
        "<int64[2] s = {1, 0}, int64[2] e = {2, 8}, int64[2] t = {1, 2}> { y = Slice(x, s, e, , t) }",
        21,
        {0: (1, 2, 1), 1: (0, 8, 2)},
    ),
    "32-bit positions": (
        "<int32[1] s = {1}, int32[1] e = {2147483647}, int32[1] a = {1}> { y = Slice(x, s, e, a) }",
        17,
        {1: (1, END, 1)},
    ),
    "Constant nodes": (
        "{ s = Constant<value_ints = [1]>() e = Constant<value_ints = [3]>() y = Slice(x, s, e) }",
        17,
        {0: (1, 3, 1)},
    ),
    "starts that are computed": ("<int64[1] e = {3}> { s = Shape<end = 1>(x) y = Slice(x, s, e) }", 17, None),
    "backwards to beyond the end, where runtimes disagree": (
        "<int64[1] s = {-1}, int64[1] e = {9223372036854775807}, int64[1] a = {0}, int64[1] t = {-1}>"
        " { y = Slice(x, s, e, a, t) }",
        17,
        None,
    ),
    "one axis twice": (
        "<int64[2] s = {0, 1}, int64[2] e = {3, 3}, int64[2] a = {1, -2}> { y = Slice(x, s, e, a) }",
        17,
        None,
    ),
}


@pytest.mark.parametrize("case", FORMS)
def test_parts_of(case: str) -> None:
    text, opset, wanted = FORMS[case]
    assert slice_of(text, opset) == wanted


def test_parts_of_a_value_of_unknown_rank() -> None:
    text = (
        "g (float[2,8] x, int64[R] r) => (float[] y) <int64[1] s = {0}, int64[1] e = {1}, int64[1] a = {%d}>"
        " { z = Reshape(x, r) y = Slice(z, s, e, a) }"
    )
    for axis, wanted in ((1, {1: (0, 1, 1)}), (-1, None)):
        model = loaded(graph(text % axis))
        assert parts_of(model.graph[-1], 17) == wanted


@pytest.mark.parametrize("opset", [9, 10, 13, 21])
def test_slice_operands_are_read_as_they_were_written(opset: int) -> None:
    source = loaded(graph("g (float[2,8] x) => (float[2,8] y) { y = Neg(x) }")).graph.inputs[0]
    parts = {1: (1, 3, 1), 0: (0, END, 1)}
    found = slice_operands(source, parts, opset, "n")
    assert found is not None
    inputs, attributes = found
    assert inputs[0] is source
    assert (len(inputs), len(attributes)) == ((1, 3) if opset < 10 else (4, 0))
    if opset < 10:
        assert [[*a.value] for a in attributes] == [[0, 1], [END, 3], [0, 1]]


def test_slice_operands_with_steps() -> None:
    found = slice_operands(None, {1: (3, 1, -1)}, 10, "n")
    assert found is not None
    stored = [v.const_value for v in found[0][1:] if v is not None]
    assert [t.numpy().tolist() for t in stored if t is not None] == [[3], [1], [1], [-1]]
    assert slice_operands(None, {1: (3, 1, -1)}, 9, "n") is None  # attributes have no steps


def sizes_of(text: str, opset: int, dims: str = "2,7") -> list[int] | None:
    model = loaded(graph(f"g (float[{dims}] x) => (float[] a) {text}", opset))
    return split_sizes(next(n for n in model.graph if n.op_type == "Split"), opset)


SPLITS = {
    "attribute": ("{ a, b = Split<axis = 1, split = [3, 4]>(x) }", 11, [3, 4]),
    "attribute, equal parts": ("{ a, b = Split(x) }", 11, [1, 1]),
    "input": ("<int64[2] s = {3, 4}> { a, b = Split<axis = 1>(x, s) }", 13, [3, 4]),
    "input, equal parts": ("{ a, b = Split<axis = -2>(x) }", 17, [1, 1]),
    "edge 50: num_outputs": ("{ a, b, c = Split<axis = 1, num_outputs = 3>(x) }", 18, [3, 3, 1]),
    "sizes that are computed": ("{ s = Shape(x) a, b = Split<axis = 1>(x, s) }", 17, None),
}


@pytest.mark.parametrize("case", SPLITS)
def test_split_sizes(case: str) -> None:
    text, opset, wanted = SPLITS[case]
    assert sizes_of(text, opset) == wanted


def test_split_sizes_of_an_open_axis() -> None:
    assert sizes_of("{ a, b = Split(x) }", 17, "N,2") is None
    assert sizes_of("<int64[2] s = {1, 2}> { a, b = Split(x, s) }", 17, "N,2") == [1, 2]


def test_split_of_opset_1_is_another_operator() -> None:
    model = loaded(graph("g (float[2,4] x) => (float[2,2] a) { a, b = Split<axis = 1>(x) }", 11))
    assert split_sizes(model.graph[0], 1) is None


@pytest.mark.parametrize("opset", [2, 11, 13, 21])
def test_split_operands(opset: int) -> None:
    source = loaded(graph("g (float[2,8] x) => (float[2,8] y) { y = Neg(x) }")).graph.inputs[0]
    inputs, attributes = split_operands(source, [3, 5], 1, opset, "n")
    assert inputs[0] is source
    assert attributes[0].value == 1
    if opset < 13:
        assert [*attributes[1].value] == [3, 5]
    else:
        assert inputs[1] is not None
        assert inputs[1].const_value is not None
        assert np.array_equal(inputs[1].const_value.numpy(), [3, 5])


def test_dim_at() -> None:
    model = loaded(graph("g (float[2,N] x, int64[R] r) => (float[] y) { y = Reshape(x, r) }"))
    x, y = model.graph.inputs[0], model.graph.outputs[0]
    assert [dim_at(x, k) for k in (-3, -2, -1, 0, 1, 2)] == [None, 2, None, 2, None, None]
    assert dim_at(None, 0) is None
    assert dim_at(y, 0) is None
