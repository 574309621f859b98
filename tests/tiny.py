"""A network of three layers with its data, for tests of whole commands."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from edgeopt.graph import Array
from tests import models

TEXT = """
net (float[N,2,8,8] x) => (float[N,3] y)
<float[4,2,3,3] w1, float[4] g, float[4] b, float[4] m, float[4] var, float[4,4,3,3] w2, float[4] b2,
 float[3,64] w3, float[3] b3>
{
    [conv1] c1 = Conv<pads=[1,1,1,1]>(x, w1)
    [norm] n1 = BatchNormalization(c1, g, b, m, var)
    [relu1] r1 = Relu(n1)
    [conv2] c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
    [add] a = Add(c2, r1)
    [relu2] r2 = Relu(a)
    [pool] p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(r2)
    [flat] f = Flatten(p)
    [dense] y = Gemm<transB=1>(f, w3, b3)
}
"""
SAMPLES = 20


@dataclass(frozen=True)
class Files:
    """Paths of a model and of data for it, with and without labels; the labels are the model's own decisions."""

    model: Path
    data: Path
    unlabelled: Path


def net() -> onnx.ModelProto:
    return models.filled(TEXT)


@functools.cache
def decided() -> tuple[Array, Array]:
    """Inputs [20,2,8,8] that the model decides clearly, so that int8 decides them alike, and its decisions."""
    x = np.random.default_rng(0).standard_normal((400, 2, 8, 8)).astype(np.float32)
    y = models.outputs(ir.from_proto(net()), x=x)["y"]
    best = np.sort(y, axis=1)
    clear = np.argsort(best[:, -2] - best[:, -1])[:SAMPLES]
    return x[clear], y[clear].argmax(1)


def inputs() -> Array:
    return decided()[0]


def write(folder: Path) -> Files:
    x, labels = decided()
    onnx.save(net(), folder / "net.onnx")
    np.savez(folder / "data.npz", x=x, labels=labels)
    np.savez(folder / "unlabelled.npz", x=x)
    return Files(folder / "net.onnx", folder / "data.npz", folder / "unlabelled.npz")


def sparse(folder: Path) -> Path:
    """A model that the IR cannot carry."""
    proto = models.filled("g (float[N,4] x) => (float[N,2] y) <float[4,2] w> { y = MatMul(x, w) }")
    values = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = onnx.helper.make_tensor("w_indices", onnx.TensorProto.INT64, [2], [1, 6])
    del proto.graph.initializer[:]
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [4, 2]))
    onnx.save(proto, folder / "sparse.onnx")
    return folder / "sparse.onnx"
