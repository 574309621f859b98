from __future__ import annotations

import numpy as np

from edgeopt.calibration.sample import Sample, rows


def test_one_sample_per_run() -> None:
    outputs = {"y": np.zeros((4, 2))}
    assert list(rows(Sample({}, "label"), outputs)) == [(outputs, "label")]


def test_a_fixed_batch_is_cut_into_its_real_samples() -> None:
    outputs = {"y": np.arange(6).reshape(3, 2), "shared": np.zeros(5), "list": [1, 2, 3]}
    found = list(rows(Sample({}, ["a", "b", "b"], valid=2, batch=3), outputs))
    assert [label for _, label in found] == ["a", "b"]
    assert [o["y"].tolist() for o, _ in found] == [[[0, 1]], [[2, 3]]]
    assert found[0][0]["shared"].shape == (5,)
    assert found[0][0]["list"] == [1, 2, 3]
    assert [label for _, label in rows(Sample({}, None, valid=2, batch=3), outputs)] == [None, None]
