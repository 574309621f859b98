from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.calibration import Dataset, open_dataset
from edgeopt.errors import DataError
from edgeopt.evaluation import Comparison, Score, agreement_json, compare, compare_all, output_json
from edgeopt.graph import input_specs
from edgeopt.parity import Agreement, Difference
from edgeopt.runtime import Session
from tests import models, tiny


def sessions(factor: float = 1.0, dims: str = "N,4") -> tuple[ir.Model, Session, Session]:
    text = f"g (float[{dims}] x) => (float[{dims}] y) {{ y = Identity(x) }}"
    other = f"g (float[{dims}] z) => (float[{dims}] u) {{ k = Constant<value = float {{{factor}}}>() u = Mul(z, k) }}"
    first = models.model(text)
    return first, Session(first), Session(models.model(other))


def dataset(model: ir.Model, x: object, labels: object = None) -> Dataset:
    return open_dataset({"x": x, "labels": labels} if labels is not None else {"x": x}, input_specs(model), model=model)


X = np.eye(4, dtype=np.float32)


def test_inputs_and_outputs_are_matched_by_position() -> None:
    model, a, b = sessions(2.0)
    found = compare(a, b, dataset(model, X, np.arange(4)))
    assert found.agreement.samples == 4
    assert found.agreement.outputs["y"].max_abs_error == 1.0
    assert (found.first, found.second) == (Score("top1", 1.0, 4), Score("top1", 1.0, 4))
    assert found.drop() == 0.0


def test_scores_are_those_of_each_model() -> None:
    model, a, b = sessions(-1.0)
    found = compare(a, b, dataset(model, X, np.arange(4)))
    assert found.first is not None
    assert found.second is not None
    assert (found.first.value, found.second.value) == (1.0, 0.0)
    assert found.drop() == 1.0
    assert not found.safe(0.99)
    assert found.safe(1.0)


def test_a_fixed_batch_counts_real_samples_only() -> None:
    model, a, b = sessions(1.0, "3,4")
    told: list[int] = []
    found = compare(a, b, dataset(model, X, np.arange(4)), lambda: told.append(1))
    assert found.agreement.samples == 4
    assert found.first == Score("top1", 1.0, 4)
    assert len(told) == 2


def test_several_models_in_one_pass() -> None:
    model, a, b = sessions(-1.0)
    told: list[int] = []
    same, other = compare_all(a, [a, b], dataset(model, X, np.arange(4)), lambda: told.append(1))
    assert same.drop() == 0.0
    assert other.drop() == 1.0
    assert len(told) == 4


def test_without_labels_a_classifier_is_judged_by_its_own_probabilities() -> None:
    model, a, b = sessions(-1.0)
    scores = np.array([[0.7, 0.1, 0.1, 0.1]], np.float32)
    found = compare(a, b, dataset(model, np.repeat(scores, 4, axis=0)))
    assert (found.first, found.second) == (None, None)
    assert found.drop() == pytest.approx(0.6)


def test_without_labels_other_outputs_are_judged_by_sqnr() -> None:
    model, a, b = sessions(1.02, "N,4,5")
    found = compare(a, b, dataset(model, np.ones((3, 4, 5), np.float32)))
    assert found.drop() is None
    worst = found.agreement.worst()
    assert worst is not None
    assert worst.sqnr_db == pytest.approx(20 * math.log10(1 / 0.02), abs=0.01)  # 33.98
    assert not found.safe(1.0)
    _, a, c = sessions(1.005, "N,4,5")  # 46 dB
    assert compare(a, c, dataset(model, np.ones((3, 4, 5), np.float32))).safe(0.0)


@pytest.mark.parametrize(
    ("drop", "budget", "safe"), [(0.72 - 0.71, 0.01, True), (0.011, 0.01, False), (-1.0, 0.0, True)]
)
def test_a_drop_at_the_budget_is_safe(drop: float, budget: float, safe: bool) -> None:
    found = Comparison(Agreement(), Score("m", drop, 1), Score("m", 0.0, 1))
    assert found.safe(budget) == safe


def test_what_no_figure_covers_is_not_safe() -> None:
    found = Agreement()
    found.add({"s": [np.zeros(2)]}, {"s": [np.zeros(2)]})
    assert not Comparison(found, None, None).safe(1.0)
    found.add({"y": np.ones((1, 2, 2)), "s": [np.zeros(2)]}, {"y": np.ones((1, 2, 2)), "s": [np.ones(2)]})
    assert not Comparison(found, None, None).safe(1.0)
    assert Comparison(found, None, None).equivalent(0.0)  # what the oracle has compared
    assert Comparison(found, Score("m", 1.0, 2), Score("m", 1.0, 2)).safe(0.0)


def test_a_metric_that_cannot_take_the_outputs() -> None:
    model, a, b = sessions(1.0)
    data = dataset(model, X, np.arange(4) + 9)
    with pytest.raises(DataError):
        compare(a, b, data)


def test_figures_that_are_infinite_are_left_out() -> None:
    equal = Difference()
    equal.add(np.ones(3), np.ones(3))
    assert output_json(equal) == pytest.approx({"max_abs_error": 0.0, "cosine": 1.0})
    broken = Difference()
    broken.add(np.ones(3), np.array([1.0, np.nan, 1.0]))
    assert output_json(broken) == pytest.approx({"cosine": 1.0})
    agreement = Agreement(outputs={"y": equal, "z": broken}, samples=1)
    assert agreement_json(agreement) == pytest.approx({"samples": 1, "cosine": 1.0})


def test_the_agreement_is_that_of_the_worst_output_and_the_largest_error() -> None:
    near, far = Difference(), Difference()
    near.add(np.full(4, 100.0), np.full(4, 101.0))
    far.add(np.full(4, 0.1), np.full(4, 0.2))
    found = agreement_json(Agreement(outputs={"a": near, "b": far}, samples=2))
    assert found["sqnr_db"] == pytest.approx(0.0)
    assert found["max_abs_error"] == 1.0


def test_a_score_as_json() -> None:
    assert Score("top5", 0.5, 8).as_json() == {"metric": "top5", "value": 0.5, "samples": 8}


def test_the_tiny_net_agrees_with_itself() -> None:
    model = ir.from_proto(tiny.net())
    x, labels = tiny.decided()
    found = compare(Session(model), Session(model), dataset(model, x, labels))
    assert found.agreement.top1_agreement == 1.0
    assert found.first == found.second == Score("top1", 1.0, tiny.SAMPLES)
