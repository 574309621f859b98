"""What counts as allowed, and the table; the models themselves are the benchmark's."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests import models, tiny
from tests.bench.coverage import Coverage, allowed, covered, table


@pytest.mark.parametrize(
    ("body", "inputs", "weights", "wanted"),
    [
        ("y = Conv(x, w)", "float[1,2,8,8] x", "float[2,2,3,3] w", True),
        ("y = Conv(x, w)", "float[1,2,8,8] x, float[2,2,3,3] w", "float b", False),
        ("y = Conv(x, w, b)", "float[1,2,8,8] x, float[2] b", "float[2,2,3,3] w", False),
        ("y = Gemm(x, w)", "float[1,4] x", "float[4,3] w", True),
        ("y = Gemm<alpha=0.5>(x, w)", "float[1,4] x", "float[4,3] w", False),
        ("y = Gemm<transA=1>(x, w)", "float[4,1] x", "float[4,3] w", False),
        ("y = MatMul(x, w)", "float[2,5,4] x, float[2,4,5] w", "float b", True),
        ("y = MatMul(x, w)", "float[4] x", "float[4,3] w", False),
        ("y = MatMul(x, w)", "double[1,4] x", "double[4,3] w", False),
        ("y = MatMul(v, w)", "float[1] x", "float[3,4] v, float[4,3] w", False),
    ],
)
def test_allowed(body: str, inputs: str, weights: str, wanted: bool) -> None:
    output = "double[] y" if "double" in inputs else "float[] y"
    model = models.loaded(f"g ({inputs}) => ({output}) <{weights}> {{ {body} }}")
    assert [allowed(n) for n in model.graph] == [wanted]


def test_covered(tmp_path: Path) -> None:
    onnx.save(tiny.net(), tmp_path / "net.onnx")
    row = covered(tmp_path / "net.onnx")
    assert (row.model, row.error, row.why) == ("net", "", [])
    assert row.nodes == (3, 3, 3)
    assert row.macs[0] == row.macs[2] == 64 * 4 * 18 + 64 * 4 * 36 + 192


def test_what_stays_float_is_told(tmp_path: Path) -> None:
    text = "g (float[1,2,8,8] x, float[2,2,3,3] w) => (float[] y) <float[2,2,3,3] v> { h = Conv(x, w) y = Conv(h, v) }"
    onnx.save(models.filled(text), tmp_path / "net.onnx")
    row = covered(tmp_path / "net.onnx")
    assert row.nodes == (1, 1, 2)
    assert row.why == ["1 × Conv (not allowed): its weights are not constant"]
    assert row.short == ""


def test_a_model_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"no model")
    assert covered(tmp_path / "net.onnx").error


@pytest.mark.parametrize(
    ("nodes", "macs", "wanted"),
    [
        ((9, 10, 12), (98, 100, 200), ""),
        ((8, 10, 10), (99, 100, 100), "80.0% of the nodes"),
        ((10, 10, 10), (97, 100, 100), "97.0% of the MACs"),
        ((0, 0, 3), (0, 0, 7), ""),
    ],
)
def test_what_falls_short(nodes: tuple[int, int, int], macs: tuple[int, int, int], wanted: str) -> None:
    assert Coverage("net", nodes, macs).short == wanted


def test_the_table() -> None:
    rows = [
        Coverage("a", (9, 10, 12), (99_000_000, 100_000_000, 120_000_000), ["1 × Conv: a reason"]),
        Coverage("b", (0, 0, 2), (0, 0, 5)),
        Coverage("c"),
        Coverage("d", error="cannot be read"),
    ]
    text = table(rows)
    assert "| a | 9 / 10 / 12 | 90.0% | 100.00 | 99.0% | 1 × Conv: a reason |\n" in text
    assert "| b | 0 / 0 / 2 | - | - | - | - |\n" in text
    assert "| **all** | 9 / 10 / 14 | 90.0% | 100.00 | 99.0% | |\n" in text
    assert "Without any such node: 1 models." in text
    assert text.endswith("Not quantized:\n\n- d: cannot be read\n")
