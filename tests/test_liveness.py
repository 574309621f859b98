"""Buffers and lifetimes: each rule of the docstring on the smallest graph that shows it."""

from __future__ import annotations

import onnx_ir as ir

from edgeopt.liveness import Buffer, Liveness, analyse
from edgeopt.static_shapes import resolve
from tests.models import model


def live(text: str) -> Liveness:
    return analyse(resolve(model(text)).model.graph)


def buffers(text: str) -> dict[str, tuple[int, int, int]]:
    """Name to (bytes, first step, last step)."""
    return {b.name: (b.size_bytes, b.first, b.last) for b in live(text).buffers}


def test_inputs_live_to_their_last_use_and_outputs_to_the_end() -> None:
    text = "g (float[4] a, float[8] unused) => (y, z) { h = Softmax(a) y = Softmax(h) z = Softmax(y) }"
    assert buffers(text) == {
        "a": (16, 0, 1),
        "unused": (32, 0, 0),
        "h": (16, 1, 2),
        "y": (16, 2, 4),  # step 4 is "outputs"
        "z": (16, 3, 4),
    }
    assert live(text).steps == ["inputs", "h", "y", "z", "outputs"]


def test_1_constants_and_what_follows_from_them_need_no_memory() -> None:
    text = """g (float[2] x) => (y) <float[2] w = {1,2}>
    { c = Constant<value_floats=[1.0,2.0]>() d = Add(w, c) e = Softmax(d) y = Softmax(x) }"""
    assert set(buffers(text)) == {"x", "y"}


def test_1_an_initializer_that_is_also_an_input_is_a_weight() -> None:
    m = model("g (float[2] x, float[2] w) => (y) { y = Sub(x, w) }")
    weight = m.graph.inputs[1]
    weight.const_value = ir.tensor([1.0, 2.0])
    m.graph.register_initializer(weight)
    assert {b.name for b in analyse(resolve(m).model.graph).buffers} == {"x", "y"}


def test_1_random_numbers_are_no_constants() -> None:
    assert set(buffers("g (float[2] x) => (y) { r = RandomNormal<shape=[2]>() y = Softmax(r) }")) == {"x", "r", "y"}


def test_2_views_share_the_buffer() -> None:
    text = """g (float[2,3] x) => (y) <int64[1] flat = {6}, int64[1] zero = {0}>
    { h = Softmax(x) v = Reshape(h, flat) w = Unsqueeze(v, zero) y = Softmax(w) }"""
    assert buffers(text) == {"x": (24, 0, 1), "h": (24, 1, 4), "y": (24, 4, 5)}


def test_2_an_output_that_views_an_input_is_copied() -> None:
    text = "g (float[2,3] x) => (y) { v = Identity(x) y = Flatten(v) }"
    assert buffers(text) == {"x": (24, 0, 2), "y": (24, 2, 3)}


def test_2_an_output_may_share_the_buffer_of_an_inner_tensor() -> None:
    text = "g (float[2,3] x) => (y) { h = Softmax(x) y = Flatten(h) }"
    assert buffers(text) == {"x": (24, 0, 1), "h": (24, 1, 3)}


QDQ = "<float s = {0.1}, uint8 z = {128}, int8[4,4] w = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}, int8 wz = {0}>"


def test_3_between_quantize_and_dequantize_tensors_are_bytes() -> None:
    text = f"""g (float[1,4] x) => (y) {QDQ}
    {{ xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) wd = DequantizeLinear(w, s, wz)
      m = MatMul(xd, wd) r = Relu(m) rq = QuantizeLinear(r, s, z) rd = DequantizeLinear(rq, s, z) y = Softmax(rd) }}"""
    found = buffers(text)
    assert found == {
        "x": (16, 0, 1),  # the float input itself
        "xq": (4, 1, 4),  # read by MatMul through DequantizeLinear
        "m": (4, 4, 7),  # MatMul, Relu and QuantizeLinear write the same four bytes
        "rd": (16, 7, 8),  # Softmax is the last and stays in float: its result leaves the graph
        "y": (16, 8, 9),
    }


def test_3_a_float_operator_beside_keeps_its_float_buffer() -> None:
    text = f"""g (float[1,4] x) => (y) {QDQ}
    {{ e = Exp(x) eq = QuantizeLinear(e, s, z) ed = DequantizeLinear(eq, s, z) y = Exp(ed) }}"""
    # Exp has no integer kernel: float before QuantizeLinear and after DequantizeLinear
    assert buffers(text) == {"x": (16, 0, 1), "e": (16, 1, 2), "eq": (4, 2, 3), "ed": (16, 3, 5)}


def test_3_a_tensor_that_floats_and_integers_read_has_both_forms() -> None:
    text = f"""g (float[1,4] x) => (y, yd) {QDQ}
    {{ xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) y = Softmax(xd)
      k = LeakyRelu(xd) kq = QuantizeLinear(k, s, z) yd = DequantizeLinear(kq, s, z) }}"""
    found = buffers(text)
    assert found["xq"][0] == 4
    assert found["xd"][0] == 16


def test_3_matmul_takes_integers_and_hands_out_floats() -> None:
    text = f"""g (float[1,4] x) => (y) {QDQ}
    {{ xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
      wd = DequantizeLinear(w, s, wz) y = MatMul(xd, wd) }}"""
    assert buffers(text) == {"x": (16, 0, 1), "xq": (4, 1, 4), "y": (16, 4, 5)}


def test_3_a_convolution_without_quantize_behind_it_runs_in_float() -> None:
    text = """g (float[1,1,2,2] x) => (y) <float s = {0.1}, uint8 z = {128}, int8[1,1,1,1] w = {1}, int8 wz = {0}>
    { xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) wd = DequantizeLinear(w, s, wz) y = Conv(xd, wd) }"""
    assert buffers(text)["xd"] == (16, 2, 4)


def test_3_values_with_two_readers_stay_float() -> None:
    text = f"""g (float[1,4] x) => (y, yq) {QDQ}
    {{ xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) wd = DequantizeLinear(w, s, wz)
      m = MatMul(xd, wd) yq = QuantizeLinear(m, s, z) y = Softmax(m) }}"""
    found = buffers(text)
    assert found["m"][0] == 16
    assert found["yq"][0] == 1 * 4


def test_3_pooling_and_reshaping_between_integers() -> None:
    text = """g (float[1,1,4,4] x) => (y) <float s = {0.1}, uint8 z = {128}, int64[2] flat = {1,4}>
    { xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
      p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(xd) r = Reshape(p, flat) y = QuantizeLinear(r, s, z) }"""
    assert buffers(text) == {"x": (64, 0, 1), "xq": (16, 1, 3), "p": (4, 3, 6)}


def test_3_a_quantized_graph_input_read_by_nothing_else() -> None:
    text = "g (uint8[4] x) => (y) <float s = {0.1}, uint8 z = {128}> { d = DequantizeLinear(x, s, z) y = Softmax(d) }"
    assert buffers(text) == {"x": (4, 0, 1), "d": (16, 1, 2), "y": (16, 2, 3)}


def test_4_element_wise_operators_write_over_a_dying_operand() -> None:
    text = "g (float[4] x) => (y) { a = Softmax(x) b = Softmax(x) c = Add(a, b) y = Relu(c) }"
    # c takes the buffer of a, y takes that of c
    assert buffers(text) == {"x": (16, 0, 2), "a": (16, 1, 5), "b": (16, 2, 3)}


def test_4_but_not_over_an_operand_that_lives_on_or_has_another_size() -> None:
    text = "g (float[2,4] x) => (y) { a = Softmax(x) c = Exp(a) m = ReduceMax(a) y = Add(c, m) }"
    found = buffers(text)
    assert found["a"] == (32, 1, 3)
    assert found["c"] == (32, 2, 5)  # a is still read by ReduceMax; y takes c's buffer, not m's four bytes


def test_4_nor_over_a_graph_input() -> None:
    assert buffers("g (float[4] x) => (y) { y = Relu(x) }") == {"x": (16, 0, 1), "y": (16, 1, 2)}


def test_bodies_keep_outer_tensors_alive_and_are_listed() -> None:
    text = """g (float[4] x, bool c) => (y)
    { h = Softmax(x) k = Softmax(x)
      y = If(c) <then_branch = a () => (p) { p = Softmax(h) }, else_branch = b () => (q) { q = Neg(k) }> }"""
    found = live(text)
    ends = {b.name: b.last for b in found.buffers}
    assert (ends["h"], ends["k"]) == (3, 3)
    assert [g.name for g in found.bodies[3]] == ["a", "b"]
    assert found.written[3] == 16


def test_inputs_of_a_body_and_outer_tensors_belong_to_the_graph_around_it() -> None:
    text = """g (float[4] x, int64 n, bool go) => (y)
    { h = Softmax(x)
      y = Loop(n, go, h) <body = l (int64 i, bool ci, float[4] s) => (bool co, float[4] t)
        { co = Identity(ci) v = Identity(h) u = Add(s, v) t = Softmax(u) }> }"""
    m = resolve(model(text)).model
    body = next(iter(m.graph.subgraphs()))
    found = {b.name: b.size_bytes for b in analyse(body, is_body=True).buffers}
    assert found.pop("co") == 1
    assert {k: v for k, v in found.items() if v} == {"u": 16, "t": 16}


def test_tensors_of_unknown_size_are_listed() -> None:
    text = "g (float[4] x) => (y) { i = NonZero(x) y = Relu(x) }"
    found = live(text)
    assert found.unknown == ["i"]
    assert Buffer("i", 0, 1, 1) in found.buffers


def test_optional_outputs_left_out_need_nothing() -> None:
    text = """g (float[1,1,2] x, float[1,4,2] w, float[1,4,1] r) => (h)
    { , h = LSTM<hidden_size=1>(x, w, r) }"""
    assert set(buffers(text)) == {"x", "w", "r", "h"}
