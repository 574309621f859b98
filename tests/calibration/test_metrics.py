from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt.calibration.metrics import Metric, Outputs, class_id, gather, resolve_metric, stack_labels
from edgeopt.errors import DataError

TOP1, TOP5 = resolve_metric("top1", []), resolve_metric("top5", [])


def rows(*scores: Any, name: str = "y") -> list[dict[str, Any]]:
    return [{name: np.asarray(s, np.float32)} for s in scores]


def test_top1() -> None:
    outputs = rows([[0.1, 0.9]], [[0.8, 0.2]], [[0.4, 0.6]], [[0.5, 0.5]])
    assert TOP1(outputs, [1, 0, 0, 0]) == 0.75  # equal scores: the lower class
    assert TOP1(outputs, [np.array([1]), np.int64(0), 1.0, np.float32(1)]) == 0.75
    assert (TOP1.name, TOP1.higher_is_better, repr(TOP1)) == ("top1", True, "Metric('top1')")


def test_one_column_thresholds_at_a_half() -> None:
    outputs = rows([[0.4]], [[0.6]], [[0.5]], [0.9])
    assert TOP1(outputs, [0, 1, 0, True]) == 1.0
    assert TOP1(outputs, [1, 0, 1, 0]) == 0.0
    assert TOP5(outputs, [1, 0, 1, 0]) == 1.0


def test_top5() -> None:
    scores = np.arange(10.0)[None]
    assert TOP5(rows(scores, scores), [5, 4]) == 0.5
    assert TOP5(rows([[0.1, 0.2, 0.7]]), [0]) == 1.0


def test_other_shapes_of_scores() -> None:
    assert TOP1(rows([[[[0.1]], [[0.9]]]]), [1]) == 1.0  # [1, C, 1, 1]
    assert TOP1([{"boxes": np.zeros((1, 4, 4)), "a": np.array([[0, 1.0]]), "b": np.array([[1.0, 0]])}], [1]) == 1.0
    assert TOP1([{"y": np.array([[3, 9]], np.uint8)}], [1]) == 1.0
    assert TOP1([{"y": np.array([4])}, {"y": np.array([[7]])}], [4, 8]) == 0.5  # classes, not scores
    assert TOP1([{"label": np.array([4]), "probability": [{0: 0.5}]}], [4]) == 1.0  # scikit-learn's converters


def test_nan_predicts_nothing() -> None:
    assert TOP1(rows([[np.nan, 0.0]], [[0.0, 1.0]]), [0, 1]) == 0.5


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (rows([[0.1, 0.9]]), [2], "label 2, but the model has 2 classes (0 to 1)"),
        (rows([[0.1, 0.9]]), [-1], "found -1"),
        (rows([[0.1, 0.9]]), [0.5], "found 0.5"),
        (rows([[0.1, 0.9]]), ["cat"], "found 'cat'"),
        (rows([[0.1, 0.9]]), [np.array([0, 1])], "found shape (2,)"),
        (rows(np.zeros((1, 3, 4))), [0], "no output of shape [1, classes]"),
        (rows(np.zeros((2, 3))), [0], "no output of shape"),
        ([{"y": [1, 2]}], [0], "no output of shape"),
        ([{"a": np.zeros((1, 2, 2)), "b": np.zeros((1, 2, 2))}], [0], "no output of shape"),
        ([], [], "0 outputs and 0 labels"),
        (rows([[1.0, 0]]), [1, 0], "1 outputs and 2 labels"),
    ],
)
def test_what_top1_cannot_take(outputs: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        TOP1(outputs, labels)
    assert message in str(caught.value)


def test_top5_needs_scores() -> None:
    with pytest.raises(DataError, match="classes, not scores"):
        TOP5([{"y": np.array([4])}], [4])


def test_gather() -> None:
    joined = gather(rows(np.zeros((1, 3)), np.ones((1, 3))))
    assert joined.shape == (2, 3)
    assert gather(rows(np.zeros((4, 6)), np.ones((4, 6)))).shape == (2, 4, 6)
    assert gather(rows(1.0, 2.0)).shape == (2,)
    ragged = gather(rows(np.zeros((1, 3)), np.ones((1, 4))))
    assert [r.shape for r in ragged] == [(1, 3), (1, 4)]
    both = gather([{"a": np.zeros((1, 2)), "b": [1]}, {"a": np.ones((1, 2)), "b": [2]}])
    assert isinstance(both, Outputs)
    assert both["a"].shape == both[0].shape == (2, 2)
    assert both[-1] == both["b"] == [[1], [2]]
    assert list(both) == ["a", "b"]
    assert len(both) == 2


def test_stack_labels() -> None:
    assert stack_labels([1, np.int64(2)]).tolist() == [1, 2]
    assert stack_labels([np.zeros(2), np.ones(2)]).shape == (2, 2)
    assert isinstance(stack_labels([np.zeros(2), np.ones(3)]), list)
    assert stack_labels(["a", 1]) == ["a", 1]


def test_class_id() -> None:
    assert [class_id(v) for v in (3, 3.0, True, np.array([2]), np.array(1))] == [3, 3, 1, 2, 1]
    assert [class_id(v) for v in (3.5, -1, "3", None, np.array([1, 2]), np.array("a"))] == [None] * 6


def test_users_function(tmp_path: Path) -> None:
    (tmp_path / "met_mine.py").write_text(
        "import numpy as np\n"
        "def mean(outputs, labels):\n    return np.float32((outputs[:, 0] == labels).mean())\n"
        "def array(outputs, labels):\n    return np.array([0.5])\n"
        "def tensor(outputs, labels):\n    return type('T', (), {'item': lambda self: 0.25})()\n"
        "def nan(outputs, labels):\n    return float('nan')\n"
        "def text(outputs, labels):\n    return 'good'\n"
        "def vector(outputs, labels):\n    return np.zeros(3)\n"
        "def fails(outputs, labels):\n    return outputs['nothing']\n"
    )
    data = rows([[1.0]], [[2.0]]), [1, 3]
    assert resolve_metric("met_mine:mean", [tmp_path])(*data) == 0.5
    assert resolve_metric("met_mine.py:array", [tmp_path])(*data) == 0.5
    assert resolve_metric("met_mine:tensor", [tmp_path])(*data) == 0.25
    for name, message in {
        "nan": "returned nan, expected a finite number",
        "text": "returned a str",
        "vector": "returned a ndarray",
        "fails": "raised IndexError",
    }.items():
        with pytest.raises(DataError, match=message):
            resolve_metric(f"met_mine:{name}", [tmp_path])(*data)


def test_unknown_metrics() -> None:
    with pytest.raises(DataError, match="unknown metric 'accuracy'; expected top1, top5 or module:function"):
        resolve_metric("accuracy", [])
    with pytest.raises(DataError, match="no module"):
        resolve_metric("met_nowhere:f", [])


def test_a_metric_of_ones_own() -> None:
    assert Metric("constant", lambda outputs, labels: 3)([{}], [0]) == 3.0
