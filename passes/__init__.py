"""The passes: one rewrite per file, graph in, graph out.

``EXACT`` is the pipeline of ``simplify``, in order; it is repeated until nothing changes.
"""

from __future__ import annotations

from edgeopt.passes.canonicalize import Canonicalize
from edgeopt.passes.common_subexpressions import CommonSubexpressions
from edgeopt.passes.constants_to_initializers import ConstantsToInitializers
from edgeopt.passes.dead_code import DeadCode
from edgeopt.passes.dedupe_initializers import DedupeInitializers
from edgeopt.passes.fold_batchnorm import FoldBatchnorm
from edgeopt.passes.fold_casts import FoldCasts
from edgeopt.passes.fold_clips import FoldClips
from edgeopt.passes.fold_concat import FoldConcat
from edgeopt.passes.fold_constants import FoldConstants
from edgeopt.passes.fold_gathers import FoldGathers
from edgeopt.passes.fold_pad import FoldPad
from edgeopt.passes.fold_pads import FoldPads
from edgeopt.passes.fold_resize import FoldResize
from edgeopt.passes.fold_slices import FoldSlices
from edgeopt.passes.fold_transpose_gemm import FoldTransposeGemm
from edgeopt.passes.remove_noops import RemoveNoops
from edgeopt.rewrite import Rule

EXACT: tuple[Rule, ...] = (
    FoldConstants(),  # first: later passes ask for constants
    ConstantsToInitializers(),  # one kind of constant from here on
    DedupeInitializers(),  # equal inputs become one value, which the next but one compares
    RemoveNoops(),  # an Identity or Dropout in between hides a pair from the folds
    CommonSubexpressions(),  # twins gone, more values have a single reader, which the folds ask for
    Canonicalize(),  # one form of each thing for the folds to look for
    FoldCasts(),  # before the folds that stop at a Cast
    FoldConcat(),  # hands operands on to the readers
    FoldGathers(),  # makes Slices of neighbours, which the next merges
    FoldSlices(),  # gives Splits, which the Concats of the next round undo
    FoldPads(),  # one Pad for FoldPad to look at
    FoldClips(),  # a single activation behind each layer
    FoldResize(),  # asks for constant sizes
    FoldPad(),  # needs constant pads and a direct reader
    FoldBatchnorm(),  # needs constant statistics and a direct producer
    FoldTransposeGemm(),  # needs a constant weight
    DeadCode(),  # last: drops what the others left behind
)
