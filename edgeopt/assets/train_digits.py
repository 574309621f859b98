"""Trains the demo's digit classifier and writes everything that ``edgeopt demo`` reads.

    python edgeopt/assets/train_digits.py --out DIR

Needs torch and scikit-learn (its bundled copy of the data: nothing is downloaded). Writes into DIR:

    digits.onnx         float32 net as an exporter leaves it: BatchNormalization not folded
    digits_calib.npz    200 images, disjoint from the images trained on
    digits_eval.npz     500 images, disjoint from both
    digits_calib.toml, digits_eval.toml    how to read them (edgeopt's data set format)

Images are stored raw: uint8 [N,8,8,1], grey levels 0 (paper) to 16 (ink). The net sees them resized to
16x16, as float32 in 0..1. The same seed and the same torch build on the same processor give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

SEED = 20260101
SIDE = 16  # pixels; the stored 8x8 images are stretched to this
SCALE = 1 / 16  # grey level 16 becomes 1.0
CALIB_SAMPLES, EVAL_SAMPLES = 200, 500
OPSET = 17
THREADS = 2  # fixed, because the order of summation depends on it

Array = np.ndarray[Any, np.dtype[Any]]


class Residual(nn.Module):
    """ReLU(x + BN(conv(ReLU(BN(conv(x)))))), float32 [N,in,H,W] to [N,out,H/stride,W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


class DigitNet(nn.Module):
    """A residual net in three stages: float32 [N,1,SIDE,SIDE] in 0..1 to logits [N,10]."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Sequential(nn.Conv2d(1, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.stage1 = Residual(first, first, 1)
        self.stage2 = Residual(first, second, 2)
        self.stage3 = Residual(second, third, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(third, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits, one row for each image."""
        x = self.stage3(self.stage2(self.stage1(self.stem(image))))
        return self.classifier(self.dropout(torch.flatten(self.pool(x), 1)))  # type: ignore[no-any-return]


def split() -> dict[str, tuple[Array, Array]]:
    """Images (uint8 [N,8,8,1]) and labels (int64 [N]): stratified, disjoint, the same on every run."""
    digits = load_digits()
    images = digits.images.astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    rest, held = train_test_split(np.arange(len(labels)), test_size=EVAL_SAMPLES, stratify=labels, random_state=SEED)
    train, calib = train_test_split(rest, test_size=CALIB_SAMPLES, stratify=labels[rest], random_state=SEED)
    parts = {"train": train, "calib": calib, "eval": held}
    return {name: (images[np.sort(index)], labels[np.sort(index)]) for name, index in parts.items()}


def preprocess(images: Array) -> Array:
    """Do what the TOML files declare, as edgeopt does it: uint8 [N,8,8,1] to float32 [N,1,SIDE,SIDE].

    Pixels are interpolated (bilinear, half-pixel centres) and rounded to whole grey levels, then times SCALE.
    """
    bilinear = Image.Resampling.BILINEAR
    planes = [np.asarray(Image.fromarray(i[..., 0]).resize((SIDE, SIDE), bilinear)) for i in images]
    return np.stack(planes)[:, None].astype(np.float32) * np.float32(SCALE)


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image turned by up to 12 degrees, scaled by up to 12 %, shifted by up to 1/8 of the side."""
    count = len(x)
    turn, grow, right, down = (torch.rand(4, count, generator=generator) * 2 - 1).unbind(0)
    angle, zoom = turn * np.deg2rad(12), 1 + grow * 0.12
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack([cos, -sin, right * 0.25, sin, cos, down * 0.25], 1).reshape(count, 2, 3)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def train(net: DigitNet, images: Tensor, labels: Tensor, epochs: int) -> None:
    """SGD with Nesterov momentum, one-cycle learning rate, label smoothing 0.05."""
    generator = torch.Generator().manual_seed(SEED)
    batch = 64
    steps = len(images) // batch
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.15, total_steps=epochs * steps)
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            loss = functional.cross_entropy(net(augment(images[rows], generator)), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    net.eval()


def accuracy(net: DigitNet, images: Array, labels: Array) -> float:
    """Share of the images whose largest logit is at the label."""
    with torch.no_grad():
        best = net(torch.from_numpy(preprocess(images))).argmax(1).numpy()
    return float((best == labels).mean())


def export(net: DigitNet, path: Path) -> None:
    """Write ONNX with every BatchNormalization left in, and no trace of this machine."""
    buffer = io.BytesIO()
    torch.onnx.export(
        net,
        (torch.zeros(1, 1, SIDE, SIDE),),
        buffer,  # type: ignore[arg-type]  # the TorchScript exporter takes a file object, its annotation does not say so
        dynamo=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        training=torch.onnx.TrainingMode.PRESERVE,  # EVAL would fold the batch norms
        do_constant_folding=False,
    )
    model = onnx.load_from_string(buffer.getvalue())
    model.graph.name = "digits"
    for node in model.graph.node:
        node.ClearField("doc_string")  # holds paths of source files
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_npz(path: Path, **arrays: Array) -> None:
    """Like ``np.savez_compressed``, but without the time of day, so that equal arrays give equal bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, buffer.getvalue())


def dataset_toml(name: str) -> str:
    """Text of the data set declaration that goes with ``digits_NAME.npz``."""
    return f"""\
# Grey levels 0 (paper) to 16 (ink), 8x8 pixels. Source and licence: README.md.
[input]
source = "digits_{name}.npz:images"   # uint8 [N,8,8,1]
layout = "NHWC"
resize = [{SIDE}, {SIDE}]                     # stretched to height, width
color = "GRAY"
scale = {SCALE}                        # 16 becomes 1.0

[labels]
source = "digits_{name}.npz:labels"

[score]
metric = "top1"
"""


def main() -> None:
    """Train, measure, write; one JSON line on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into; made if missing")
    parser.add_argument("--widths", type=int, nargs=3, default=(32, 48, 96), help="channels of the three stages")
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(THREADS)
    start = time.monotonic()
    data = split()
    net = DigitNet(tuple(options.widths))
    images, labels = data["train"]
    train(net, torch.from_numpy(preprocess(images)), torch.from_numpy(labels), options.epochs)
    export(net, options.out / "digits.onnx")
    for name in ("calib", "eval"):
        write_npz(options.out / f"digits_{name}.npz", images=data[name][0], labels=data[name][1])
        (options.out / f"digits_{name}.toml").write_text(dataset_toml(name), encoding="utf-8")
    result = {
        "widths": list(options.widths),
        "params": sum(p.numel() for p in net.parameters()),
        "samples": {name: len(labels) for name, (_, labels) in data.items()},
        "top1": {name: round(accuracy(net, *part), 4) for name, part in data.items()},
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
