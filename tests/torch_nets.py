"""Tiny torch modules for the tests of the exporters; import it only where torch is there (fixture ``nets``)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Conv, batch norm, ReLU, mean, linear; prints when it runs, as users' modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.norm.running_mean = torch.tensor([0.1, -0.2, 0.3, 0.0])

    def forward(self, image: Tensor) -> Tensor:
        print("running")
        return self.head(torch.relu(self.norm(self.conv(image))).mean((2, 3)))  # type: ignore[no-any-return]


class TwoInputs(nn.Module):
    def forward(self, left: Tensor, right: Tensor, scale: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        return left - right, {"double": left * 2 if scale is None else left * scale}


class Negated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


class Keywords(nn.Module):
    def forward(self, **named: Tensor) -> Tensor:
        return named["a"] - named["b"]


class Several(nn.Module):
    def forward(self, *several: Tensor) -> Tensor:
        return several[0] - several[1]


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)

    def forward(self, ids: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        return self.table(ids) * keep[..., None], ids.argmax(1)


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 6) * 3


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x * 3


class UnitRangeOnly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and bool(x.min() < 0):
            raise ValueError("negative")
        return x.sqrt()


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("out of order")


class NotATensor(nn.Module):
    def forward(self, x: Tensor) -> str:
        return "text"


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)  # type: ignore[no-any-return]


class Cancelling(nn.Module):
    """Large values that cancel: float32 keeps few digits of the result."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.linspace(-1000.0, 1000.0, 4001)
        self.weight = nn.Parameter(torch.stack([weight, weight.flip(0) * 1.00001]).T.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.weight).sum(1, keepdim=True) * 0 + x @ self.weight


class Blocks(nn.Module):
    """What exporters write in many ways: hard and smooth gates, five normalizations, a squeezed branch, an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.gate = nn.Sequential(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1), nn.Hardsigmoid())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Mish(), nn.SiLU(), nn.LeakyReLU(0.1))
        self.norms = nn.Sequential(nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(2, 8))
        self.tokens = nn.Sequential(
            nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8), nn.GELU(approximate="tanh")
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.norms(self.body(x * self.gate(x.mean((2, 3), keepdim=True))))
        t = x.flatten(2).transpose(1, 2)
        return torch.softmax(self.head((t + self.tokens(t)).mean(1)), -1)
