"""The passes: one rewrite per file, graph in, graph out.

``EXACT`` is the pipeline of ``simplify``, in order; it is repeated until nothing changes.
"""

from __future__ import annotations

from edgeopt.passes.dead_code import DeadCode
from edgeopt.passes.fold_batchnorm import FoldBatchnorm
from edgeopt.passes.fold_constants import FoldConstants
from edgeopt.passes.fold_pad import FoldPad
from edgeopt.passes.fold_shapes import FoldShapes
from edgeopt.passes.fold_transpose_gemm import FoldTransposeGemm
from edgeopt.passes.inline_functions import InlineFunctions
from edgeopt.passes.inline_if import InlineIf
from edgeopt.passes.remove_noops import RemoveNoops
from edgeopt.passes.resolve_sequences import ResolveSequences
from edgeopt.passes.unroll_loop import UnrollLoop
from edgeopt.rewrite import Rule

EXACT: tuple[Rule, ...] = (
    InlineFunctions(),  # the other passes do not look into functions
    FoldConstants(),  # first: later passes ask for constants
    FoldShapes(),  # sizes that are open, and conditions on them
    InlineIf(),  # a condition that was folded; the other passes then see one graph
    UnrollLoop(),  # the same for loops
    ResolveSequences(),  # what unrolled loops collected in sequences
    RemoveNoops(),  # an Identity or Dropout in between hides a pair from the folds
    FoldPad(),  # needs constant pads and a direct reader
    FoldBatchnorm(),  # needs constant statistics and a direct producer
    FoldTransposeGemm(),  # needs a constant weight
    DeadCode(),  # last: drops what the others left behind
)
