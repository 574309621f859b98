"""What every test of a rewrite asserts: where it fires and what it leaves, or why it does not."""

from __future__ import annotations

import onnx_ir as ir

from edgeopt import files
from edgeopt.graph import graphs, op_histogram
from edgeopt.oracle import Oracle, run_checked
from edgeopt.rewrite import Rule
from tests.models import assert_same, checked, loaded


def assert_rewritten(
    rule: Rule, text: str, histogram: dict[str, int], *, run: bool = True, tolerance: float = 1e-5
) -> ir.Model:
    """The rule leaves these operators, valid and with the same outputs, and finds nothing more to do.

    Args:
        rule: The rule.
        text: Of the model; its weights are filled in.
        histogram: Operators afterwards, of all graphs.
        run: Whether onnxruntime has kernels for the model.
        tolerance: Share of the outputs' scale.
    """
    model = loaded(text)
    clean = files.checker_error(model) is None
    result, report = checked(rule, model)
    assert report.rolled_back == []
    assert not [s for s in report.skips if s.node == "*"], report.skips
    assert report.hits
    assert op_histogram(result) == dict(sorted(histogram.items()))
    assert not clean or files.checker_error(result) is None
    if run:
        assert_same(model, result, tolerance)
    again, second = run_checked(rule, result, Oracle(result))
    assert second.hits == []
    assert again is result
    return result


def assert_skipped(rule: Rule, text: str, reason: str | None, node: str = "n") -> None:
    """Nothing is rewritten, and the rule says so at ``node`` in words that contain ``reason`` (None: it is silent)."""
    model = loaded(text)
    assert any(n.name == node for g in graphs(model) for n in g) or reason is None
    result, report = checked(rule, model)
    assert result is model
    assert report.rolled_back == []
    if reason is None:
        assert report.skips == []
    else:
        assert [s.node for s in report.skips] == [node], report.skips
        assert reason in report.skips[0].reason
