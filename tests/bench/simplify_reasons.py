"""Why a peer's file has fewer nodes, or is faster, on models where that is known."""

from __future__ import annotations

_OUTPUTS = (
    "Constant nodes whose value is an output of the graph or of a branch are kept: an initializer as an output is "
    "valid ONNX, but not every runtime takes it"
)
_GENERATED = (
    "its weights are made by ConstantOfShape, so that the file is small; folded, it would be larger than the input by "
    "more than 1 % + 4 KiB"
)
REASONS = {
    "015_light_inception_v2": _GENERATED,
    "016_light_shufflenet": _GENERATED,
    "017_light_squeezenet": _GENERATED,
    "018_light_zfnet512": _GENERATED,
    "028_all_dtypes": _OUTPUTS,
    "032_opset_09": _OUTPUTS,
    "033_opset_11": _OUTPUTS,
    "034_opset_13": _OUTPUTS,
    "035_opset_15": _OUTPUTS,
    "036_opset_16": _OUTPUTS,
    "038_opset_21": _OUTPUTS,
    "039_opset_24": _OUTPUTS,
    "062_where_shape_all_shapes": _OUTPUTS,
    "057_scan_axis1": "a Scan of three steps is unrolled: more nodes, less time",
    "060_nested_if_loop_if_scan": "a Scan of two steps is unrolled, and an Identity that copies an input of a Loop's "
    "body to its output is kept",
    "qkv": "onnxsim writes com.microsoft's Attention; edgeopt stays with standard operators",
    "inception": "the 1×1 Convs of one input could be one Conv and a Split, which measured 12 % slower",
}
