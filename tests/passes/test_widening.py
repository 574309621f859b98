from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeopt.graph import constant
from edgeopt.passes.widening import Replacements
from tests.models import loaded

TEXT = (
    "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> "
    "{ k = Constant<value = float[2] {3, 4}>() [a] s = Add(x, w) [b] t = Add(s, w) [c] y = Add(t, k) }"
)
NEW = np.array([5, 6], np.float32)


def prepared(text: str = TEXT) -> tuple[ir.Model, dict[str, ir.Node], Replacements]:
    model = loaded(text)
    return model, {n.name or "": n for n in model.graph}, Replacements(model)


def test_other_readers_keep_the_old_constant() -> None:
    model, nodes, replacements = prepared()
    replacements.put(nodes["a"], 1, NEW)
    replacements.finish()
    assert [constant(nodes[n].inputs[1]) is not None for n in "ab"] == [True, True]
    np.testing.assert_array_equal(np.asarray(constant(nodes["a"].inputs[1])), [5, 6])
    np.testing.assert_array_equal(np.asarray(constant(nodes["b"].inputs[1])), [1, 2])
    assert list(model.graph.initializers) == ["w", "a/w"]


def test_equal_replacements_are_stored_once_under_the_old_name() -> None:
    model, nodes, replacements = prepared()
    for name in "ab":
        replacements.put(nodes[name], 1, NEW.copy())
    replacements.finish()
    assert nodes["a"].inputs[1] is nodes["b"].inputs[1]
    assert list(model.graph.initializers) == ["w"]
    np.testing.assert_array_equal(np.asarray(constant(nodes["a"].inputs[1])), [5, 6])


def test_different_replacements_are_stored_apart() -> None:
    model, nodes, replacements = prepared()
    replacements.put(nodes["a"], 1, NEW)
    replacements.put(nodes["b"], 1, NEW + 1)
    replacements.finish()
    assert {n: constant(v).tolist() for n, v in model.graph.initializers.items()} == {  # type: ignore[union-attr]
        "w": [5, 6],
        "b/w": [6, 7],
    }


def test_a_constant_replaced_twice_leaves_nothing_behind() -> None:
    model, nodes, replacements = prepared()
    for name in "ab":
        for array in (NEW, NEW + 1):
            replacements.put(nodes[name], 1, array)
    replacements.finish()
    assert list(model.graph.initializers) == ["w"]
    np.testing.assert_array_equal(np.asarray(constant(nodes["b"].inputs[1])), [6, 7])


def test_a_constant_node_makes_way() -> None:
    model, nodes, replacements = prepared()
    replacements.put(nodes["c"], 1, NEW)
    replacements.finish()
    assert [n.op_type for n in model.graph] == ["Add"] * 3
    assert list(model.graph.initializers) == ["w", "k"]
    np.testing.assert_array_equal(np.asarray(constant(nodes["c"].inputs[1])), [5, 6])


def test_a_constant_that_is_an_output_stays() -> None:
    model, nodes, replacements = prepared(
        "g (float[2] x) => (float[2] y, float[2] w) <float[2] w = {1, 2}> { [a] y = Add(x, w) }"
    )
    replacements.put(nodes["a"], 1, NEW)
    replacements.finish()
    assert list(model.graph.initializers) == ["w", "a/w"]


def test_nothing_reads_the_replacement() -> None:
    model, nodes, replacements = prepared()
    replacements.put(nodes["c"], 1, NEW)
    nodes["c"].replace_input_with(1, nodes["a"].inputs[1])
    replacements.finish()
    assert list(model.graph.initializers) == ["w"]
    assert [n.op_type for n in model.graph] == ["Add"] * 3
