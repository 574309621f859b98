from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeopt import files, saving
from edgeopt.errors import ModelError, UsageError
from edgeopt.graph import dims_of, dtype_of, graphs, input_specs, opset
from edgeopt.shapes import as_stated, convert_opset, fix_dims, forget_inferred, infer, parse_shape, stated
from tests.models import assert_same, filled, model


def dims(text: str, name: str = "t") -> object:
    found = infer(files.load(filled(text)).model)
    return next(dims_of(v) for g in graphs(found) for n in g for v in n.outputs if v.name == name)


INFERRED = {
    "a layer": ("g (float[2,3] x) => (float[2,4] y) <float[3,4] w> { t = MatMul(x, w) y = Neg(t) }", (2, 4)),
    "symbols are kept": ("g (float[N,3] x) => (float[N,4] y) <float[3,4] w> { t = MatMul(x, w) y = Neg(t) }", ("N", 4)),
    "through a computed shape": (
        "g (float[2,3] x) => (float[6] y) { s = Shape(x) p = Gather<axis = 0>(s, i) q = Unsqueeze(p, z)"
        " t = Expand(o, q) y = Neg(t) }".replace(
            "=> (float[6] y) {", "=> (float[2] y) <int64 i = {0}, int64[1] z = {0}, float[1] o = {1}> {"
        ),
        (2,),
    ),
    "inside a body": (
        "g (float[2,3] x, bool c) => (float[2,3] y) { y = If(c) <then_branch = p () => (float[2,3] u) {"
        " t = Neg(x) u = Exp(t) }, else_branch = q () => (float[2,3] u) { u = Neg(x) }> }",
        (2, 3),
    ),
    "an unknown domain": (
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[2] x) => (float[2] y) { t = my.Op(x) y = Neg(t) }',
        None,
    ),
    "behind an unknown domain": (
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]>'
        " g (float[2] x) => (float[2] y) { s = my.Op(x) t = Neg(x) y = Add(s, t) }",
        (2,),
    ),
}


@pytest.mark.parametrize("case", INFERRED)
def test_infer(case: str) -> None:
    text, wanted = INFERRED[case]
    assert dims(text) == wanted


def test_infer_keeps_what_the_interface_states() -> None:
    found = infer(model("g (float[M,3] x) => (float[K,3] y) { y = Neg(x) }"))
    assert dims_of(found.graph.outputs[0]) == ("K", 3)
    assert dims_of(found.graph.inputs[0]) == ("M", 3)


def test_infer_of_a_contradiction_infers_nothing() -> None:
    text = "g (float[2,3] x) => (float[2,3] y) <float[5,7] w> { t = MatMul(x, w) y = Add(t, x) }"
    assert dims(text) is None


def test_infer_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("cannot")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", fail)
    assert dims("g (float[2] x) => (float[2] y) { t = Neg(x) y = Neg(t) }") is None


def test_infer_with_large_weights_and_overridable_ones() -> None:
    text = "g (float[N,300] x, float[300,40] v) => (float[N,40] y) <float[300,40] v, float[300,40] w>"
    message = filled(text + " { s = Add(v, w) t = MatMul(x, s) y = Neg(t) }")
    message.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((300, 40), np.float32), "v"))
    found = infer(files.load(message).model)
    value = next(v for n in found.graph for v in n.outputs if v.name == "t")
    assert dims_of(value) == ("N", 40)
    assert dtype_of(value) == np.float32
    assert [v.name for v in found.graph.inputs] == ["x", "v"]
    assert sorted(found.graph.initializers) == ["v", "w"]


def test_infer_gives_sequences_their_type() -> None:
    found = infer(
        model("g (float[2] x) => (float[2] y) { t = SequenceConstruct(x, x) y = ConcatFromSequence<axis = 0>(t) }")
    )
    value = next(iter(found.graph)).outputs[0]
    assert dtype_of(value) is None
    assert "Sequence" in str(value.type)


def test_forget_inferred() -> None:
    text = "g (float[2] x) => (float[2] y) <float[2] t> { t = Neg(x) u = Exp(t) y = Neg(u) }"
    made = model(text)
    known = stated(made)
    assert known == {"t", "y"}
    infer(made)
    forget_inferred(made, known)
    assert [v.type is None for n in made.graph for v in n.outputs] == [False, True, False]


@pytest.mark.parametrize(
    ("text", "name", "shape"),
    [("x=1,3,224,224", "x", (1, 3, 224, 224)), ("a=b:0=1, 2", "a=b:0", (1, 2)), ("scalar=", "scalar", ())],
)
def test_parse_shape(text: str, name: str, shape: tuple[int, ...]) -> None:
    assert parse_shape(text) == (name, shape)


@pytest.mark.parametrize("text", ["", "x", "=1,2", "x=1,,2", "x=1,-2", "x=0", "x=1.5", "x=a", "1,2,3"])
def test_parse_shape_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="expected NAME=D0,D1"):
        parse_shape(text)


def test_fix_dims() -> None:
    made = model(
        "g (float[N,3,H,?] x, float[H,2] z) => (float[N,3] y, float[H,2] w) {"
        " t = Neg(x) y = ReduceMean<axes = [2, 3], keepdims = 0>(t) w = Neg(z) }"
    )
    fix_dims(made, {"x": (2, 3, 8, 9)})
    assert [s.dims for s in input_specs(made)] == [(2, 3, 8, 9), (8, 2)]
    assert [dims_of(v) for v in made.graph.outputs] == [(2, 3), (8, 2)]
    assert dims_of(next(iter(made.graph)).outputs[0]) == (2, 3, 8, 9)


def test_fix_dims_of_an_unknown_rank() -> None:
    made = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    made.graph.inputs[0].shape = None
    fix_dims(made, {"x": (4, 5)})
    assert dims_of(made.graph.inputs[0]) == (4, 5)


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ({"no": (1,)}, "no such input"),
        ({"x": (1, 2)}, "2 dimensions given, the model's input has 3"),
        ({"x": (1, 4, 5)}, "axis 1 is fixed to 3"),
        ({"x": (1, 3, 5), "z": (7, 2)}, "symbol 'H' cannot be both 5 and 7"),
        ({"x": (0, 3, 5)}, "at least 1"),
        ({"x": (-1, 3, 5)}, "at least 1"),
    ],
)
def test_fix_dims_refuses(shapes: dict[str, tuple[int, ...]], text: str) -> None:
    made = model("g (float[N,3,H] x, float[H,2] z) => (float[N,3,H] y) { y = Neg(x) }")
    before = saving.serialize(made)
    with pytest.raises(UsageError, match=text) as caught:
        fix_dims(made, shapes)
    assert str(caught.value).startswith("--input-shape")
    assert saving.serialize(made) == before


def test_convert_opset() -> None:
    made = model(
        '<ir_version: 7, opset_import: ["" : 11]> g (float[1,2,1] x) => (float[1,2] y) { y = Squeeze<axes = [2]>(x) }'
    )
    made.metadata_props["k"] = "v"
    found = convert_opset(made, 13)
    assert (opset(found), opset(made)) == (13, 11)
    assert found.metadata_props["k"] == "v"
    assert_same(made, found, 0)
    same = convert_opset(made, 9)
    assert same is not made
    assert opset(same) == 11


def test_convert_opset_refuses(tmp_path: Path) -> None:
    function = model(
        '<ir_version: 8, opset_import: ["" : 11, "local" : 1]> g (float[2] x) => (float[2] y) { y = local.f(x) }'
        ' <domain: "local", opset_import: ["" : 11]> f (a) => (b) { b = Neg(a) }'
    )
    with pytest.raises(ModelError, match="local functions"):
        convert_opset(function, 17)
    text = '<ir_version: 7, opset_import: ["" : 11]> g (float[2] x) => (float[2] y) <float[2] w> { y = Add(x, w) }'
    onnx.save(filled(text), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(ModelError, match="outside of the model file"):
        convert_opset(files.load(tmp_path / "m.onnx").model, 17)
    strange = model('<ir_version: 7, opset_import: ["" : 11]> g (float[2] x) => (float[2] y) { y = NoSuchOperator(x) }')
    with pytest.raises(ModelError, match=r"opset 11 → 17: cannot be converted"):
        convert_opset(strange, 17)


def test_as_stated_is_a_copy_without_what_inference_added() -> None:
    original = model("g (float[2] x) => (float[2] y) { t = Neg(x) y = Exp(t) }")
    inferred = infer(original.clone())
    found = as_stated(inferred, original)
    assert inferred.graph[0].outputs[0].type is not None
    assert found.graph[0].outputs[0].type is None
    assert found.graph.outputs[0].type is not None
