from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeopt.calibration.dataset import open_dataset
from edgeopt.calibration.torch_loader import is_loader
from tests.calibration.specs import FLAT, noise

torch = pytest.importorskip("torch", reason="needs torch")
X = noise(20, 4)


def loader(**options: Any) -> Any:
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.arange(20))
    return torch.utils.data.DataLoader(data, **options)


def test_is_loader() -> None:
    assert is_loader(loader())
    assert not is_loader([1])


@pytest.mark.parametrize("batch_size", [1, 8, 20])
def test_batches_are_cut(batch_size: int) -> None:
    dataset = open_dataset(loader(batch_size=batch_size), [FLAT])
    np.testing.assert_array_equal(np.concatenate([s.inputs["x"] for s in dataset]), X)
    assert [int(s.label) for s in dataset if s.label is not None] == list(range(20))
    assert len(dataset) == 20
    assert dataset.metric is not None


@pytest.mark.parametrize("own", [False, True])
def test_a_shuffling_loader_gives_the_same_order_on_every_pass(own: bool) -> None:
    generator = torch.Generator().manual_seed(3) if own else None
    dataset = open_dataset(loader(batch_size=8, shuffle=True, generator=generator), [FLAT])
    first, second = [[int(s.label or 0) for s in dataset] for _ in range(2)]
    assert first == second
    assert sorted(first) == list(range(20))
    assert first != list(range(20))


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dataset = open_dataset(loader(batch_size=8, shuffle=True), [FLAT])
    found = [torch.rand(1) for _, _ in zip(dataset, range(3), strict=False)]
    assert torch.equal(torch.cat(found), expected)


def test_a_function_that_makes_a_loader() -> None:
    dataset = open_dataset(lambda: loader(batch_size=8, shuffle=True), [FLAT])
    assert [int(s.label or 0) for s in dataset] == [int(s.label or 0) for s in dataset]


def test_other_tensors() -> None:
    rows = [(torch.tensor(row, requires_grad=True), i) for i, row in enumerate(X)]
    np.testing.assert_array_equal(np.concatenate([s.inputs["x"] for s in open_dataset(rows, [FLAT])]), X)
    half = open_dataset([torch.ones(4, dtype=torch.bfloat16)], [FLAT])
    assert next(iter(half)).inputs["x"].tolist() == [[1, 1, 1, 1]]
    whole = open_dataset(torch.tensor(X), [FLAT])
    assert len(whole) == 20
