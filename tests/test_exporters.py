from __future__ import annotations

import importlib
import json
import sys
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt import exporters, saving
from edgeopt.errors import CheckError, ModelError, UsageError
from edgeopt.exporters import from_torch
from edgeopt.graph import input_specs, op_histogram, opset, output_specs
from edgeopt.runtime import Level, Session


@pytest.fixture(scope="module")
def nets() -> ModuleType:
    pytest.importorskip("torch", reason="needs torch (pip install edgeopt[torch])")
    return importlib.import_module("tests.torch_nets")


@pytest.fixture
def torch(nets: ModuleType) -> Any:
    module = importlib.import_module("torch")
    module.manual_seed(0)
    return module


def run(model: ir.Model, **feed: Any) -> list[Any]:
    return list(Session(model, Level.NONE).run({k: v.numpy() for k, v in feed.items()}).values())


def described(model: ir.Model) -> list[tuple[str, Any]]:
    return [(s.name, s.dims) for s in [*input_specs(model), *output_specs(model)]]


def test_a_net_in_train_mode_is_exported_in_eval_mode_and_left_as_it_was(nets: ModuleType, torch: Any) -> None:
    net = nets.ConvNet()
    net.conv.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    image = torch.rand(1, 3, 8, 8)
    model, check = from_torch(net, image)
    assert net.training
    assert net.norm.training
    assert not net.conv.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert described(model) == [("image", ("N", 3, 8, 8)), ("output", ("N", 2))]
    assert check.exporter == "dynamo"
    assert check.dynamic_batch
    assert check.samples == 4
    assert check.opset == opset(model)
    assert check.fallbacks == ()
    assert check.cautions == ()
    assert 0 < check.max_abs_error < 1e-5
    assert 0 <= check.relative_error < 1e-5
    five = torch.rand(5, 3, 8, 8)
    net.eval()
    np.testing.assert_allclose(run(model, image=five)[0], net(five).detach().numpy(), atol=1e-5)


def test_stdout_stays_clean_and_no_path_is_left_in_the_model(
    nets: ModuleType, torch: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    model, _ = from_torch(nets.ConvNet(), torch.rand(2, 3, 8, 8))
    assert capfd.readouterr().out == ""
    text = saving.serialize(model)
    assert b"torch_nets" not in text.replace(b"tests.torch_nets.ConvNet", b"")
    assert b".py" not in text
    assert b"site-packages" not in text


def test_same_input_same_bytes(nets: ModuleType, torch: Any) -> None:
    net, image = nets.ConvNet(), torch.rand(2, 3, 8, 8)
    first, second = (from_torch(net, image) for _ in range(2))
    assert saving.serialize(first[0]) == saving.serialize(second[0])
    assert first[1] == second[1]


def test_two_inputs_and_a_nested_result(nets: ModuleType, torch: Any) -> None:
    left, right = torch.rand(3, 4), torch.rand(3, 4)
    model, _ = from_torch(nets.TwoInputs(), (left, right))
    assert described(model) == [
        ("left", ("N", 4)),
        ("right", ("N", 4)),
        ("output_0", ("N", 4)),
        ("double", ("N", 4)),
    ]
    np.testing.assert_array_equal(run(model, left=left, right=right)[0], (left - right).numpy())


def test_inputs_by_name_in_any_order(nets: ModuleType, torch: Any) -> None:
    left, right, scale = torch.rand(3, 4), torch.rand(3, 4), torch.rand(4)
    model, _ = from_torch(nets.TwoInputs(), {"scale": scale, "right": right, "left": left})
    assert [s.name for s in input_specs(model)] == ["left", "right", "scale"]
    found = run(model, left=left, right=right, scale=scale)
    np.testing.assert_array_equal(found[0], (left - right).numpy())
    np.testing.assert_array_equal(found[1], (left * scale).numpy())
    assert input_specs(model)[2].dims == (4,)


@pytest.mark.parametrize("kind", ["Several", "Keywords"])
def test_variable_arguments_fall_back_to_tracing(nets: ModuleType, torch: Any, kind: str) -> None:
    a, b = torch.rand(2, 3), torch.rand(2, 3)
    given: Any = [a, b] if kind == "Several" else {"b": b, "a": a}
    names = ["several_0", "several_1"] if kind == "Several" else ["b", "a"]
    model, check = from_torch(getattr(nets, kind)(), given)
    assert check.exporter == "torchscript"
    assert check.fallbacks[0].startswith("dynamo, open batch: ")
    assert [s.name for s in input_specs(model)] == names
    feed = dict(zip(names, [a, b] if kind == "Several" else [b, a], strict=True))
    np.testing.assert_array_equal(run(model, **feed)[0], (a - b).numpy())


def test_indices_stay_within_the_example(nets: ModuleType, torch: Any) -> None:
    model, check = from_torch(nets.Lookup(), (torch.tensor([[0, 4, 2]]), torch.tensor([[True, False, True]])))
    assert check.samples == 4
    assert [s.dtype for s in input_specs(model)] == [np.dtype(np.int64), np.dtype(bool)]


def test_a_module_for_one_batch_size_gets_a_fixed_axis_and_the_reason(nets: ModuleType, torch: Any) -> None:
    model, check = from_torch(nets.FixedBatch(), torch.rand(2, 2, 3))
    assert described(model) == [("x", (2, 2, 3)), ("output", (2, 6))]
    assert not check.dynamic_batch
    assert [f.split(":")[0] for f in check.fallbacks] == ["dynamo, open batch", "torchscript, open batch"]
    assert "fails on another batch" in check.fallbacks[1]
    document = check.as_json()
    assert json.loads(json.dumps(document)) == document
    assert document["fallbacks"] == list(check.fallbacks)
    assert "cautions" not in document
    assert document["dynamic_batch"] is False


def test_fixed_batch_on_request(nets: ModuleType, torch: Any) -> None:
    model, check = from_torch(nets.ConvNet(), torch.rand(1, 3, 8, 8), dynamic_batch=False)
    assert described(model) == [("image", (1, 3, 8, 8)), ("output", (1, 2))]
    assert not check.dynamic_batch
    assert check.fallbacks == ()


@pytest.mark.parametrize("wanted", [7, 13, 18])
def test_the_opset_asked_for_is_the_opset_written(nets: ModuleType, torch: Any, wanted: int) -> None:
    model, check = from_torch(nets.ConvNet(), torch.rand(1, 3, 8, 8), opset=wanted)
    assert opset(model) == check.opset == wanted
    assert [s.name for s in input_specs(model)] == ["image"]
    assert not any(v.is_initializer() for v in model.graph.inputs)  # weights are no inputs


@pytest.mark.parametrize("wrong", [6, onnx.defs.onnx_opset_version() + 1])
def test_an_opset_that_does_not_exist(nets: ModuleType, torch: Any, wrong: int) -> None:
    with pytest.raises(UsageError, match=f"opset {wrong} does not exist"):
        from_torch(nets.ConvNet(), torch.rand(1, 3, 8, 8), opset=wrong)


def test_a_branch_on_values_is_not_exported_silently(nets: ModuleType, torch: Any) -> None:
    with pytest.raises(CheckError, match="does not compute the same") as caught:
        from_torch(nets.Branch(), torch.rand(2, 3))  # the example, and all in its range, take one branch
    assert "torch warned" in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_module_may_refuse_values_beyond_the_example(nets: ModuleType, torch: Any) -> None:
    _, check = from_torch(nets.UnitRangeOnly(), torch.rand(2, 3))
    assert check.samples == 3


def test_values_that_cancel_are_judged_by_float64(nets: ModuleType, torch: Any) -> None:
    _, check = from_torch(nets.Cancelling(), torch.rand(2, 4001) + 1)
    assert check.samples == 4


def test_a_random_module_cannot_be_compared(nets: ModuleType, torch: Any) -> None:
    with pytest.raises(CheckError, match="another result each time"):
        from_torch(nets.Random(), torch.rand(2, 3))


def test_torchs_random_state_is_left_alone(nets: ModuleType, torch: Any) -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(CheckError):
        from_torch(nets.Random(), torch.rand(2, 3, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_module_that_fails_by_itself(nets: ModuleType, torch: Any) -> None:
    with pytest.raises(UsageError, match="fails on its example inputs: ValueError: out of order"):
        from_torch(nets.Broken(), torch.rand(2, 3))


def test_a_result_that_is_no_tensor(nets: ModuleType, torch: Any) -> None:
    with pytest.raises(UsageError, match="returns a str"):
        from_torch(nets.NotATensor(), torch.rand(2, 3))


def test_an_operator_that_onnx_does_not_have(nets: ModuleType, torch: Any) -> None:
    with pytest.raises(ModelError, match="cannot export") as caught:
        from_torch(nets.Unexportable(), torch.rand(2, 3))
    for attempt in ("dynamo, open", "torchscript, open", "dynamo, fixed", "torchscript, fixed"):
        assert f"{attempt} batch: " in str(caught.value)


def test_sabotage_wrong_weights_are_caught(nets: ModuleType, torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel of one weight wrong by 1e-3: both exporters are sabotaged, so nothing safe is left."""
    genuine = exporters._export

    def sabotaged(*args: Any, **options: Any) -> Any:
        model, cautions = genuine(*args, **options)
        value = next(node for node in model.graph if node.op_type == "Conv").inputs[1]
        assert value is not None
        assert value.const_value is not None
        weight = value.const_value.numpy().copy()
        weight[1] *= 1.001
        value.const_value = ir.tensor(weight, name=value.name)
        return model, cautions

    monkeypatch.setattr(exporters, "_export", sabotaged)
    with pytest.raises(CheckError, match="does not compute the same") as caught:
        from_torch(nets.ConvNet(), torch.rand(1, 3, 8, 8))
    assert str(caught.value).count("output 0 differs") == 4


def test_sabotage_of_one_exporter_falls_back_to_the_other(
    nets: ModuleType, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = torch.onnx.export

    def sabotaged(module: Any, *args: Any, **options: Any) -> Any:
        return genuine(nets.FixedBatch() if options["dynamo"] else module, *args, **options)

    monkeypatch.setattr(torch.onnx, "export", sabotaged)
    _, check = from_torch(torch.nn.Flatten(), torch.rand(2, 2, 3))
    assert check.exporter == "torchscript"
    assert check.fallbacks[0].startswith("dynamo, open batch: ")


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        ("agraph (float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Neg(x) z = Neg(x) }", "torch returns 1 tensors"),
        ("agraph (float[N,3] other) => (float[N,3] y) { y = Neg(other) }", "named inputs"),
        ("agraph (float[N,3] x) => (double[N,3] y) { y = Cast<to=11>(x) }", "is float64"),
        ("agraph (float[N,3] x) => (float[N,3,1] y) {k = Constant<value_ints=[2]>() y = Unsqueeze(x, k)}", "3, 1]"),
        ("agraph (float[N,3] x) => (float[N,3] y) { y = Unheard(x) }", "Unheard"),
    ],
)
def test_sabotage_of_the_interface(
    nets: ModuleType, torch: Any, monkeypatch: pytest.MonkeyPatch, result: str, complaint: str
) -> None:
    proto = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + result)

    def sabotaged(module: Any, args: Any, path: str, **options: Any) -> None:
        onnx.save(proto, path)

    monkeypatch.setattr(torch.onnx, "export", sabotaged)
    with pytest.raises((CheckError, ModelError)) as caught:
        from_torch(nets.Negated(), torch.rand(2, 3))
    assert complaint in str(caught.value)


def test_torch_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match="needs torch") as caught:
        from_torch(None, None)
    assert "pip install edgeopt[torch]" in str(caught.value)


def test_the_module_keeps_its_hands_off_warnings(nets: ModuleType, torch: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = from_torch(nets.ConvNet(), torch.rand(2, 3, 8, 8), opset=17)
    assert op_histogram(model)["Conv"] == 1
