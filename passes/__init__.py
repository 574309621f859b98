"""The passes: one rewrite per file, graph in, graph out.

``EXACT`` is the pipeline of ``simplify``, in order; it is repeated until nothing changes.
"""

from __future__ import annotations

from edgeopt.passes.attention_axes import AttentionAxes
from edgeopt.passes.canonicalize import Canonicalize
from edgeopt.passes.common_subexpressions import CommonSubexpressions
from edgeopt.passes.constants_to_initializers import ConstantsToInitializers
from edgeopt.passes.dead_code import DeadCode
from edgeopt.passes.decide_squeeze import DecideSqueeze
from edgeopt.passes.dedupe_initializers import DedupeInitializers
from edgeopt.passes.einsum import WriteEinsum
from edgeopt.passes.fold_affine_after import FoldAffineAfter
from edgeopt.passes.fold_affine_before import FoldAffineBefore
from edgeopt.passes.fold_affine_chain import FoldAffineChain
from edgeopt.passes.fold_batchnorm import FoldBatchnorm
from edgeopt.passes.fold_casts import FoldCasts
from edgeopt.passes.fold_clips import FoldClips
from edgeopt.passes.fold_concat import FoldConcat
from edgeopt.passes.fold_constants import FoldConstants
from edgeopt.passes.fold_expand import FoldExpand
from edgeopt.passes.fold_gathers import FoldGathers
from edgeopt.passes.fold_pad import FoldPad
from edgeopt.passes.fold_pads import FoldPads
from edgeopt.passes.fold_reduce_shape import FoldReduceShape
from edgeopt.passes.fold_requantize import FoldRequantize
from edgeopt.passes.fold_reshapes import FoldReshapes
from edgeopt.passes.fold_resize import FoldResize
from edgeopt.passes.fold_shapes import FoldShapes
from edgeopt.passes.fold_slices import FoldSlices
from edgeopt.passes.fold_transpose_gemm import FoldTransposeGemm
from edgeopt.passes.fold_transpose_pairs import FoldTransposePairs
from edgeopt.passes.gemm import WriteGemm
from edgeopt.passes.inline_functions import InlineFunctions
from edgeopt.passes.inline_if import InlineIf
from edgeopt.passes.merge_conv_sum import MergeConvSum
from edgeopt.passes.merge_linear_chain import MergeLinearChain
from edgeopt.passes.merge_parallel_layers import MergeParallelLayers
from edgeopt.passes.recognize_gates import RecognizeGates
from edgeopt.passes.recognize_norms import RecognizeNorms
from edgeopt.passes.recognize_slopes import RecognizeSlopes
from edgeopt.passes.recognize_softmax import RecognizeSoftmax
from edgeopt.passes.reduce_to_pool import ReduceToPool
from edgeopt.passes.remove_noops import RemoveNoops
from edgeopt.passes.resolve_sequences import ResolveSequences
from edgeopt.passes.sink_transposes import SinkTransposes
from edgeopt.passes.space_depth import SpaceDepth
from edgeopt.passes.unroll_loop import UnrollLoop
from edgeopt.rewrite import Rule

EXACT: tuple[Rule, ...] = (
    InlineFunctions(),  # the other passes do not look into functions
    FoldConstants(),  # first: later passes ask for constants
    FoldShapes(),  # sizes that are open, and conditions on them
    DecideSqueeze(),  # conditions on open sizes that can only hold
    InlineIf(),  # a condition that was folded; the other passes then see one graph
    UnrollLoop(),  # the same for loops
    ResolveSequences(),  # what unrolled loops collected in sequences
    WriteEinsum(),  # the MatMul that it is can be merged with others
    ConstantsToInitializers(),  # one kind of constant from here on
    DedupeInitializers(),  # equal inputs become one value, which the next compares
    CommonSubexpressions(),  # before the folds that stop where a value has two readers
    RemoveNoops(),  # an Identity or Dropout in between hides a pair from the folds
    Canonicalize(),  # one form of each thing for the folds to look for
    FoldCasts(),  # before the folds that stop at a Cast
    FoldRequantize(),  # before what stops at a DequantizeLinear
    FoldClips(),  # a chain of clamps hides what could be merged with a layer
    RecognizeGates(),  # before the folds of affine maps, which would take parts of the formulas into layers
    RecognizeSlopes(),  # likewise
    RecognizeSoftmax(),  # likewise
    RecognizeNorms(),  # before ReduceToPool, which would take the means of its formula
    FoldConcat(),  # hands operands on to the readers
    FoldGathers(),  # makes Slices of neighbours, which the next merges
    FoldSlices(),  # gives Splits, which the Concats of the next round undo
    FoldPads(),  # one Pad for FoldPad to look at
    FoldResize(),  # asks for constant sizes
    ReduceToPool(),  # a pool can take a Pad over
    FoldPad(),  # needs constant pads and a direct reader
    FoldBatchnorm(),  # needs constant statistics and a direct producer
    FoldAffineAfter(),  # all other maps behind a layer, also with nodes in between
    FoldAffineBefore(),  # what no layer before takes in, the layers behind may
    FoldTransposePairs(),  # the plain pairs; what it leaves is a region's business
    SinkTransposes(),  # after what hides readers and producers is gone
    FoldReshapes(),  # Transposes that became views join the chains of views
    FoldReduceShape(),  # a view behind a reduction that was not folded into another view
    FoldExpand(),  # needs the sizes that the folds of views state
    FoldTransposeGemm(),  # needs a constant weight
    MergeConvSum(),  # after the normalizations of the branches are folded
    FoldAffineChain(),  # what no layer has taken in; a normalization in a sum is a Conv's business
    MergeLinearChain(),  # a sum of branches may have been between two layers
    SpaceDepth(),  # after a Pad in front of the Conv is gone
    MergeParallelLayers(),  # what is left beside each other
    WriteGemm(),  # last of these: the others know MatMul and Add apart
    AttentionAxes(),  # over the Reshapes and Transposes that are left
    DeadCode(),  # last: drops what the others left behind
)
