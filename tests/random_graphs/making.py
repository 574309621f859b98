"""Random ONNX graphs that are rich in what simplifiers rewrite, the same for the same seed.

``graph(seed)`` gives a valid model of 5 to 40 nodes (a few more where a motif ends). Values stay near 1 in size and
nothing in it is discontinuous, so that two correct forms of a graph agree to rounding. ``graphs()`` is a Hypothesis
strategy over them. To debug a seed: ``python -m tests.random_graphs SEED``.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from hypothesis import strategies as st

from tests.random_graphs import computed, control, general, images, layers, spatial, written
from tests.random_graphs.builder import LEAST, MOST, Builder, Move

ANY: list[Move] = [
    general.unary, general.noop, general.noop, general.affine, general.affine, general.clip, general.activation_chain,
    general.hard_swish, general.silu, general.gelu, general.duplicate, general.combine, general.wide_cast,
    general.softmax, general.unsqueeze_squeeze, general.transposes, general.transposes, general.reshapes,
    general.shape_reshape, general.expand_like, general.split_concat, general.slices, general.concats,
    general.constant_branch, general.dead, control.branches,
    control.branches, control.loop, control.sequence, control.function, control.where, computed.view, computed.zeros,
    computed.gathered, computed.repeated, computed.extremes, computed.constant_output, computed.embedding,
    spatial.newer_activation, spatial.normalized, spatial.quantized_input, written.written_softmax,
    written.written_softsign, written.requantized,
]  # fmt: skip
BY_RANK: dict[int, list[Move]] = {
    2: [
        layers.gemm, layers.matmul, layers.layers, layers.layer_affine, layers.gemm_bn, layers.bn_gemm,
        layers.projections, layers.layer_norm, layers.lift, computed.einsum,
        spatial.quantized_weight,
    ],
    3: [
        layers.matmul, layers.layers, layers.layer_affine, layers.projections, layers.layer_norm, layers.lift,
        written.attention, written.attention, written.channels_last_head, computed.einsum, computed.added_token,
        computed.masked, spatial.conv_nd, spatial.pool_nd,
        spatial.quantized_weight,
    ],
    4: [
        images.conv, images.conv_same, images.conv_bn, images.conv_bn, images.conv_affine, images.bn_conv,
        images.residual, images.multi_branch, images.siblings, images.conv_chain, general.batch_norm,
        images.pad_reader, images.pool, images.global_pool, images.flat, images.head, images.reduce_squeeze,
        images.resize, images.focus, images.shuffle, images.tokens, images.conv_transpose, written.channels_last_head,
        computed.masked, spatial.depth_space, spatial.pixel_shuffle, spatial.upsampled, spatial.quantized_weight,
    ],
    5: [general.batch_norm, images.flat, spatial.conv_nd, spatial.conv_nd, spatial.pool_nd],
}  # fmt: skip


def moves(rank: int) -> tuple[Sequence[Move], Sequence[Move]]:
    return ANY, BY_RANK[rank]


def graph(seed: int, size: int | None = None) -> onnx.ModelProto:
    """The graph of this seed; of about ``size`` nodes, else of 5 to 40."""
    return Builder(seed, size).model(moves)


def graphs() -> st.SearchStrategy[onnx.ModelProto]:
    """Hypothesis shrinks the number of nodes; ``shrink`` gets further."""
    return st.builds(graph, st.integers(0, 2**32 - 1), st.integers(LEAST, MOST))
