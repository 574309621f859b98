"""The passes: one rewrite per file, graph in, graph out.

``EXACT`` is the pipeline of ``simplify``, in order; it is repeated until nothing changes.
"""

from __future__ import annotations

from edgeopt.passes.dead_code import DeadCode
from edgeopt.passes.fold_batchnorm import FoldBatchnorm
from edgeopt.passes.fold_constants import FoldConstants
from edgeopt.passes.fold_expand import FoldExpand
from edgeopt.passes.fold_pad import FoldPad
from edgeopt.passes.fold_reduce_shape import FoldReduceShape
from edgeopt.passes.fold_reshapes import FoldReshapes
from edgeopt.passes.fold_transpose_gemm import FoldTransposeGemm
from edgeopt.passes.fold_transpose_pairs import FoldTransposePairs
from edgeopt.passes.remove_noops import RemoveNoops
from edgeopt.passes.sink_transposes import SinkTransposes
from edgeopt.rewrite import Rule

EXACT: tuple[Rule, ...] = (
    FoldConstants(),  # first: later passes ask for constants
    RemoveNoops(),  # an Identity or Dropout in between hides a pair from the folds
    FoldPad(),  # needs constant pads and a direct reader
    FoldBatchnorm(),  # needs constant statistics and a direct producer
    FoldTransposePairs(),  # the plain pairs; what it leaves is a region's business
    SinkTransposes(),  # after what hides readers and producers is gone
    FoldReshapes(),  # Transposes that became views join the chains of views
    FoldReduceShape(),  # a view behind a reduction that was not folded into another view
    FoldExpand(),  # needs the sizes that the folds of views state
    FoldTransposeGemm(),  # needs a constant weight
    DeadCode(),  # last: drops what the others left behind
)
