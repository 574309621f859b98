from __future__ import annotations

from typing import Any

import onnx
import pytest

from edgeopt import files, findings, saving
from edgeopt.errors import ModelError
from edgeopt.findings import findings as find
from tests import models, tiny


def texts(source: Any) -> list[str]:
    return [f"{f['kind']}: {f['text']}" for f in find(files.load(source))]


def found(source: Any, part: str) -> bool:
    return any(part in text for text in texts(source))


def test_a_net_that_can_be_improved() -> None:
    assert texts(tiny.net()) == [
        "improvable: pass fold_batchnorm would rewrite 1 places",
        "improvable: pass merge_conv_sum would rewrite 1 places",
    ]


def test_a_net_with_nothing_to_say() -> None:
    text = "g (float[N,4] x) => (float[N,3] y) <float[4,3] w> { [dense] y = MatMul(x, w) }"
    assert texts(models.filled(text)) == []


def test_nothing_is_changed() -> None:
    loaded = files.load(tiny.net())
    before = saving.serialize(loaded.model)
    find(loaded)
    assert saving.serialize(loaded.model) == before


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("g (float[N] x) => (float[N] y) { y = Relu(x) }", "repair: 1 nodes without a name of their own were named"),
        ("g (float[N] x, float u) => (float[N] y) { [r] y = Relu(x) }", "odd: inputs that nothing reads: 'u'"),
        ("g (float[N] x) => (float[N] y) { [r] y = Relu(x) [d] z = Exp(x) }", "improvable: pass dead_code"),
        ("g (float[N] x) => (float[N] y) { [i] z = Identity(x) [r] y = Relu(z) }", "improvable: pass remove_noops"),
        (
            '<ir_version: 6, opset_import: ["" : 9]> g (float[N] x) => (float[N] y) { [r] y = Relu(x) }',
            "odd: opset 9 is old; int8 per channel needs 13, quantize converts it",
        ),
        ("g (float[N] x) => (float[N] y) { [r] y = Relu<alpha=1>(x) }", "odd: the ONNX checker refuses the model: "),
    ],
)
def test_what_is_found(text: str, part: str) -> None:
    assert found(models.filled(text), part), texts(models.filled(text))


def test_initializers_that_callers_may_override() -> None:
    proto = models.filled("g (float[N,4] x) => (float[N,3] y) <float[4,3] w> { [dense] y = MatMul(x, w) }")
    proto.graph.input.add().CopyFrom(onnx.helper.make_tensor_value_info("w", 1, [4, 3]))
    assert found(proto, "odd: 1 initializers are graph inputs too: callers may override them, so nothing folds")


def test_ranks_that_cannot_be_inferred() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17, "com.acme" : 1]> g (float[N] x) => (float[] y)\
 { z = com.acme.F(x) [r] y = Relu(z) }'
    proto = models.filled(text)
    proto.graph.value_info.add().CopyFrom(onnx.helper.make_tensor_value_info("z", 1, None))
    assert found(proto, "odd: the rank of 2 tensors cannot be inferred")


def test_a_model_that_cannot_be_rewritten(tmp_path: Any) -> None:
    assert found(tiny.sparse(tmp_path), "odd: sparse initializer 'w': rewriting verbs return the model untouched")


def test_a_pass_that_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(rule: Any, *_: Any, **__: Any) -> None:
        raise ModelError("an attribute is missing")

    monkeypatch.setattr(findings, "apply", refuse)
    assert found(tiny.net(), "odd: pass fold_batchnorm does not apply: an attribute is missing")
