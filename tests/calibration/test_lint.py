from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from edgeopt.calibration.lint import FirstLook, findings
from edgeopt.errors import DataError
from edgeopt.graph import Array, TensorSpec, input_specs
from tests.calibration.specs import spec
from tests.models import model

SIZE = ("N", 3, 8, 8)


def look_at(values: Sequence[Array], one: TensorSpec) -> FirstLook:
    look = FirstLook(one)
    for value in values:
        look.add(value)
    return look


def images(scale: float = 1.0, offset: float = 0.0, count: int = 20) -> list[Array]:
    rng = np.random.default_rng(0)
    return [(rng.uniform(0, 1, (1, 3, 8, 8)) * scale + offset).astype(np.float32) for _ in range(count)]


def net(weight: float, before: str = "p = Identity(x)", after: str = "y = Relu(c)", dims: str = "N,3,8,8") -> ir.Model:
    values = ",".join([str(weight), str(-weight)] * 27)
    return model(
        f"agraph (float[{dims}] x) => (float[N,2,A,B] y)\n"
        "<float s = {255}, float[2] one = {1,1}, float[2] zero = {0,0}, "
        f"float[2,3,3,3] w = {{{values}}}>\n{{ {before}\n c = Conv(p, w)\n {after} }}"
    )


def found(values: Sequence[Array], net_or_none: ir.Model | None = None, total: int | None = None) -> list[str]:
    return findings([look_at(values, spec("x", *SIZE))], total, net_or_none)


def test_good_data_has_no_findings() -> None:
    for values in (images(), images(2, -1), images(5, -2.5)):
        assert found(values, net(0.2)) == []
        assert found(values) == []


def test_few_samples() -> None:
    assert found(images(count=3), None, 3) == ["only 3 samples; a few hundred give steadier ranges"]
    assert found(images(count=1), None, 1)[0].startswith("only 1 sample;")
    assert found(images(count=16), None, 16) == []


def test_constant_samples() -> None:
    flat = [np.full((1, 3, 8, 8), i / 20, np.float32) for i in range(3)]
    assert found(images() + flat) == ["input 'x': 3 of 23 samples are one constant value"]


def test_a_state_may_begin_at_zero() -> None:
    states = [np.zeros((1, 3, 8, 8), np.float32), *images(count=19)]
    both = [look_at(images(), spec("x", *SIZE)), look_at(states, spec("s", *SIZE))]
    assert findings(both, None, None) == []


def test_duplicates() -> None:
    values = images()
    assert found([*values, values[0], values[3]]) == ["2 of the first 22 samples are duplicates"]
    assert found([values[0]] * 20) == ["all of the first 20 samples are equal"]


def test_an_input_that_never_changes_beside_one_that_does() -> None:
    rates = look_at([np.array(16000)] * 20, spec("sr", dtype=np.int64))
    assert findings([look_at(images(), spec("x", *SIZE)), rates], None, None) == []


def test_raw_pixels_into_a_net_that_expects_normalized_ones() -> None:
    (warning,) = found(images(255), net(0.5))
    assert "missing normalization" in warning
    assert "answer with values of order" in warning
    assert found(images(255), net(0.5 / 255)) == []  # the weights have absorbed the scale
    assert found(images(255), net(0.5, "p = Div(x, s)")) == []
    (warning,) = found(images(255), net(0.5, "p = Relu(x)"))
    assert "the model does not begin with a scaling" in warning
    (warning,) = found(images(255))
    assert "look like raw pixels" in warning


def test_mean_subtracted_pixels_are_trusted_further() -> None:
    rms_of_70 = 0.13
    assert found(images(255, -120), net(rms_of_70)) == []
    assert len(found(images(255), net(rms_of_70))) == 1
    assert len(found(images(255, -120), net(0.5))) == 1


@pytest.mark.parametrize(("scale", "warned"), [(1.0, False), (255.0, True), (0.01, True)])
def test_batchnorm_statistics_are_compared(scale: float, warned: bool) -> None:
    seen = 27 * 0.2**2 * np.mean([np.square(v).mean() for v in images()])  # about the mean square of the response
    trained = net(
        0.2,
        after=f"m = Constant<value_floats=[0.0,0.0]>()\n v = Constant<value_floats=[{seen},{seen}]>()\n"
        "y = BatchNormalization(c, one, zero, m, v)",
    )
    result = found(images(scale), trained)
    assert ["its BatchNormalization saw in training" in r for r in result] == [True] * warned


def test_divided_twice() -> None:
    (warning,) = found(images(1 / 255), net(0.2))
    assert "divided by 255 twice" in warning


def test_a_first_layer_that_cannot_be_run_alone() -> None:
    broken = net(0.5, dims="N,5,8,8")  # the data do not fit this one
    result = findings([look_at(images(255), spec("x", *SIZE))], None, broken)
    assert ["takes them unscaled" in r for r in result] == [True]
    assert findings([look_at(images(255, -120), spec("x", *SIZE))], None, broken) == []


def test_channels_on_the_wrong_axis() -> None:
    last = [v.transpose(0, 2, 3, 1) for v in images()]
    open_net = net(0.2, dims="N,C,H,W")
    open_spec = input_specs(open_net)[0]
    direct = model(
        "agraph (float[N,C,H,W] x) => (float[N,2,A,B] y)\n"
        f"<float[2,3,1,1] w = {{{','.join(['1'] * 6)}}}>\n{{ y = Conv(x, w) }}"
    )
    with pytest.raises(DataError, match="takes 3 channels on axis 1\n  hint: this looks like NHWC"):
        findings([look_at(last, open_spec)], None, direct)
    assert findings([look_at(images(), open_spec)], None, direct) == []
    (warning,) = findings([look_at(last, open_spec)], None, None)
    assert "looks like NHWC" in warning
    assert findings([look_at(images(), open_spec)], None, None) == []


def test_whole_numbers_and_text_have_no_range() -> None:
    ids = look_at([np.full((1, 5), i * 1000) for i in range(20)], spec("ids", "N", 5, dtype=np.int64))
    words = look_at([np.array([[str(i)]], dtype=object) for i in range(20)], spec("w", "N", 1, dtype=object))
    assert findings([ids], None, None) == []
    assert findings([words], None, None) == []
