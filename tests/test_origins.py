from __future__ import annotations

import pytest

from edgeopt import api, files, origins, saving
from edgeopt.rewrite import ORIGIN_KEY
from tests.models import filled, proto

LONG = "a_long_name_" * 20


def chain(length: int) -> str:
    nodes = " ".join(f"[{LONG}{k}] t{k + 1} = Relu(t{k})" for k in range(length))
    return f"g (float[2] t0) => (float[2] t{length}) {{ {nodes} }}"


@pytest.mark.parametrize(("given", "allowed"), [(0, 4096), (100, 4197), (10**6, 1_014_096)])
def test_allowed_bytes(given: int, allowed: int) -> None:
    assert origins.allowed_bytes(given) == allowed


@pytest.mark.parametrize(
    ("spare", "left", "told"),
    [
        (10**6, {"p: a, b, c"}, None),
        (-4096, {"p: a"}, "shortened"),
        (-4600, {None}, "left out"),
        (-(10**4), {None}, "larger than the input"),
    ],
)
def test_fit(spare: int, left: set[str | None], told: str | None) -> None:
    model = files.load(proto(chain(20))).model
    for node in model.graph:
        node.metadata_props[ORIGIN_KEY] = "p: a, b, c"
    message = saving.made(model)
    limit = message.size + spare
    found, warnings = origins.fit(model, message, int((limit) / 1.01))
    assert {n.metadata_props.get(ORIGIN_KEY) for n in model.graph} == left
    assert found.tobytes() == saving.serialize(model)
    assert (told is None) == (not warnings)
    assert told is None or told in " ".join(warnings)


def test_small_models_stay_small() -> None:
    """Forty long names that one node would carry on."""
    branches = " ".join(f"[{LONG}{k}] t{k} = Mul(x, c{k % 2})" for k in range(40))
    pairs = " ".join(f"[{LONG}n{k}] u{k} = Neg(t{k}) [{LONG}m{k}] y{k} = Neg(u{k})" for k in range(40))
    outputs = ", ".join(f"float[2] z{k}" for k in range(40))
    ends = " ".join(f"[{LONG}z{k}] z{k} = Abs(y{k})" for k in range(40))
    given = filled(f"g (float[2] x) => ({outputs}) <float[2] c0, float[2] c1> {{ {branches} {pairs} {ends} }}")
    data = given.SerializeToString()
    result = api.simplify(data)
    assert len(saving.serialize(result.model)) <= origins.allowed_bytes(len(data))
