"""What every row of a pass's test tables is checked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgeopt.graph import op_histogram
from edgeopt.rewrite import Rule
from tests.models import assert_same, checked, loaded


def graph(text: str, opset: int = 17) -> str:
    """The text with a header for this opset."""
    return f'<ir_version: {10 if opset > 19 else 8}, opset_import: ["" : {opset}]> {text}'


def assert_fires(rule: Rule, text: str, ops: Mapping[str, int] | None, hits: Sequence[str] | None = None) -> ir.Model:
    """The rule has hits (at these nodes), leaves these operators, the same results, and nothing for a second run."""
    model = loaded(text)
    result, report = checked(rule, model)
    assert report.rolled_back == []
    assert report.changed
    if hits is not None:
        assert [h.anchor for h in report.hits] == list(hits)
    if ops is not None:
        assert op_histogram(result) == dict(sorted(ops.items()))
    assert_same(model, result, 4e-3 if "float16" in text else 1e-5)
    again, second = checked(rule, result)
    assert again is result
    assert second.hits == []
    return result


def assert_left_alone(rule: Rule, text: str, reason: str | None = None) -> None:
    """The rule has no hit, and says why if it should."""
    model = loaded(text)
    result, report = checked(rule, model)
    assert result is model
    assert report.rolled_back == []
    if reason is None:
        assert report.skips == []
    else:
        assert any(reason in s.reason for s in report.skips), report.skips
