from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt import api, optimizing
from edgeopt.decisions import CHOICES, Decisions
from edgeopt.effort import EFFORTS
from edgeopt.errors import RecipeError
from edgeopt.recipe import EFFORTS as EFFORT_NAMES
from edgeopt.recipe import OPTIONS, Recipe, read
from tests import fakes, tiny
from tests.test_optimizer import FAST_INT8, SLOW_INT8

OPTION_VALUES = st.fixed_dictionaries(
    {},
    optional={
        "device": st.sampled_from(["host", "my own.toml"]),
        "max_drop": st.floats(0, 1) | st.integers(0, 3),
        "max_latency_ms": st.floats(0, 1e6),
        "max_memory_bytes": st.integers(0, 2**40),
        "effort": st.sampled_from(EFFORT_NAMES),
        "keep_float": st.lists(
            st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=5), max_size=3
        ),
        "input_shape": st.lists(st.just('a "b"=1,2'), max_size=2),
        "fix_weights": st.booleans(),
        "threads": st.integers(1, 8),
    },
)


@given(OPTION_VALUES, st.none() | st.sampled_from(CHOICES))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any], choice: str | None) -> None:
    recipe = Recipe(options, Decisions(choice) if choice else None, "0" * 64 if choice else None)
    path = tmp_path_factory.getbasetemp() / "round_trip.toml"
    path.write_bytes(recipe.to_toml().encode())
    assert read(path) == recipe
    assert read(path).to_toml() == recipe.to_toml()


def test_what_was_not_given_is_left_out() -> None:
    assert tomllib.loads(Recipe({"seed": 0, "max_latency_ms": None}).to_toml()) == {"schema": 1, "options": {"seed": 0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "$.schema: expected 1, found None"),
        ("schema = 2", "$.schema: expected 1, found 2"),
        ("schema = 1\nfoo = 1", "$.foo: unknown"),
        ("schema = 1\noption = {}", "$.option: unknown, did you mean options?"),
        ("schema = 1\noptions = 1", "$.options: expected a table, found int"),
        ("schema = 1\ndecisions = []", "$.decisions: expected a table, found list"),
        ("schema = 1\n[options]\nmax_drops = 1", "$.options.max_drops: unknown, did you mean max_drop?"),
        ("schema = 1\n[options]\nmax_drop = true", "$.options.max_drop: expected a number, found True"),
        ("schema = 1\n[options]\nmax_memory_bytes = 1.5", "$.options.max_memory_bytes: expected a whole number"),
        ("schema = 1\n[options]\nkeep_float = 'Conv'", "$.options.keep_float: expected a list of node names"),
        ("schema = 1\n[options]\nfix_weights = 1", "$.options.fix_weights: expected true or false, found 1"),
        ("schema = 1\n[options]\nkeep_float = [1]", "$.options.keep_float: expected a list of node names"),
        (
            "schema = 1\n[options]\neffort = 'huge'",
            "$.options.effort: expected one of fast, normal, best, found 'huge'",
        ),
        ("schema = 1\n[options]\nrange = 'best'", "$.options.range: expected one of auto, minmax"),
        (
            "schema = 1\n[decisions]\nchoice = 'int4'",
            "$.decisions.choice: expected one of original, float, layout, int8, mixed",
        ),
        ("schema = 1\n[decisions]\nchoices = 'int8'", "$.decisions.choices: unknown, did you mean choice?"),
        ("schema = 1\n[decisions]\nmodel_sha256 = 1", "$.decisions.model_sha256: expected text"),
        ("schema = 1\n[decisions]\npreset = 1", "$.decisions.preset: expected text"),
        ("schema = ", "is no TOML file"),
        ("schema = 1\nschema = 1", "is no TOML file"),
    ],
)
def test_a_wrong_recipe_is_told_by_its_path(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read(path)
    assert caught.value.where == str(path)
    assert message in caught.value.message


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[options]\nthreads = '1'\nsead = 1\n[decisions]\nchoice = 1\n")
    with pytest.raises(RecipeError) as caught:
        read(path)
    assert caught.value.message.split("; ") == [
        "$.schema: expected 1, found None",
        "$.options.sead: unknown, did you mean seed?",
        "$.options.threads: expected a whole number, found '1'",
        "$.decisions.choice: expected one of original, float, layout, int8, mixed, found 1",
    ]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read: No such file"), (b"\xff\xfe", "is no TOML file")]
)
def test_a_recipe_that_cannot_be_read(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        read(tmp_path / "r.toml")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_names_are_those_of_the_optimizer() -> None:
    assert tuple(EFFORTS) == EFFORT_NAMES
    assert set(optimizing.DEFAULTS) <= set(OPTIONS)


# replay


@pytest.mark.parametrize("times", [FAST_INT8, SLOW_INT8, {"original": 1.0, "float": 2.0, "int8": 2.0}])
def test_a_replay_gives_the_same_bytes(
    times: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is measured the second time."""
    files = tiny.write(tmp_path)
    fakes.install(monkeypatch, times)
    first = api.optimize(files.model, calib=files.data, output=tmp_path / "a")
    opposite = {name: 1 / value for name, value in times.items()}
    fakes.install(monkeypatch, opposite)
    again = api.optimize(files.model, calib=files.data, output=tmp_path / "b", recipe=tmp_path / "a" / "recipe.toml")
    assert again.report["choice"] == first.report["choice"]
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()
    assert (tmp_path / "a" / "recipe.toml").read_bytes() == (tmp_path / "b" / "recipe.toml").read_bytes()
    assert next(c for c in again.report["candidates"] if c["shipped"])["reason"] == "replayed from the recipe"


def test_a_replay_tells_of_missed_budgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tiny.write(tmp_path)
    fakes.install(monkeypatch, FAST_INT8)
    (tmp_path / "r.toml").write_text('schema = 1\n[options]\nmax_latency_ms = 1.0\n[decisions]\nchoice = "int8"\n')
    result = api.optimize(files.model, calib=files.data, recipe=tmp_path / "r.toml")
    assert (result.report["choice"], result.exit_code) == ("int8", 3)
    assert result.report["verdict"] == "budget missed: latency_ms"


def test_a_recipe_for_another_model_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tiny.write(tmp_path)
    fakes.install(monkeypatch, FAST_INT8)
    api.optimize(files.model, calib=files.data, output=tmp_path / "a")
    proto = tiny.net()
    proto.producer_name = "another"
    onnx.save(proto, tmp_path / "other.onnx")
    recipe = tmp_path / "a" / "recipe.toml"
    other = api.optimize(tmp_path / "other.onnx", calib=files.data, recipe=recipe)
    same = api.optimize(files.model, calib=files.data, recipe=recipe)
    warning = "the recipe's decisions were taken for another model"
    assert warning in other.report["warnings"]
    assert warning not in same.report["warnings"]


def test_a_choice_that_cannot_be_made_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tiny.write(tmp_path)
    fakes.install(monkeypatch, FAST_INT8)
    (tmp_path / "r.toml").write_text(
        'schema = 1\n[options]\nkeep_float = ["Conv", "Gemm"]\n[decisions]\nchoice = "int8"\n'
    )
    result = api.optimize(files.model, calib=files.data, recipe=tmp_path / "r.toml")
    assert result.report["choice"] == "float"
    assert any("the recipe's choice 'int8' cannot be made" in w for w in result.report["warnings"])


# precedence


def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str | None, **given: Any) -> dict[str, Any]:
    files = tiny.write(tmp_path)
    fakes.install(monkeypatch, FAST_INT8)
    if recipe is not None:
        (tmp_path / "r.toml").write_text("schema = 1\n[options]\n" + recipe)
        given["recipe"] = tmp_path / "r.toml"
    result = api.optimize(files.model, calib=files.data, **given)
    assert result.recipe is not None
    return result.recipe.options


def test_what_is_given_goes_before_the_recipe_and_that_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = 'effort = "fast"\nmax_drop = 0.5\nkeep_float = ["dense"]\n'
    options = asked(tmp_path, monkeypatch, recipe, max_drop=0.25, max_file_bytes=10**6)
    assert options == {
        **optimizing.DEFAULTS,
        "effort": "fast",
        "keep_float": ["dense"],
        "max_drop": 0.25,
        "max_file_bytes": 10**6,
    }


def test_a_zero_that_is_given_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(tmp_path, monkeypatch, "max_drop = 0.5\nseed = 3\n", max_drop=0.0, seed=0)["max_drop"] == 0.0


def test_an_empty_list_that_is_given_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(tmp_path, monkeypatch, 'keep_float = ["dense"]\n', keep_float=())["keep_float"] == []


def test_without_a_recipe_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(tmp_path, monkeypatch, None) == optimizing.DEFAULTS


def test_shapes_are_written_as_the_command_line_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = asked(tmp_path, monkeypatch, None, input_shape={"x": (1, 2, 8, 8)})
    assert options["input_shape"] == ["x=1,2,8,8"]
    assert "None" not in Recipe(options).to_toml()
