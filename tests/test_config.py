from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from felid.config import Config, as_tree, digest, load_tree, merge, parse_overrides, validate
from felid.errors import RecipeError


class Schedule(Config):
    warmup_steps: int = 100
    """Steps."""


class Biased(Config):
    bias: float = 0.0


class Small(Config):
    kind: Literal["small"] = "small"
    width: int = Field(8, ge=1)
    """Units."""


class Large(Config):
    kind: Literal["large"] = "large"
    width: int = 64
    num_heads: int = 4
    schedule: Schedule = Schedule()


class Recipe(Config):
    model: Annotated[Small | Large, Field(discriminator="kind")] = Small()
    epochs: int = 3
    """Passes over the data."""


def refused(tree: dict) -> str:
    with pytest.raises(RecipeError) as caught:
        validate(Recipe, tree)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"epoch": 5}, "unknown key 'epoch'; did you mean 'epochs'?"),
        ({"model": {"kind": "small", "widht": 5}}, "unknown key 'model.widht'; did you mean 'width'?"),
        ({"model": {"kind": "large", "heads": 5}}, "unknown key 'model.heads'; did you mean 'num_heads'?"),
        (
            {"model": {"kind": "large", "schedule": {"warmup": 5}}},
            "unknown key 'model.schedule.warmup'; did you mean 'warmup_steps'?",
        ),
        ({"model": {"kind": "small", "zzz": 5}}, "unknown key 'model.zzz'; known keys: kind, width"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name_at_its_place(tree: dict, message: str) -> None:
    assert refused(tree) == message


def test_every_complaint_names_its_path_without_the_tag_of_the_union() -> None:
    text = refused({"epochs": "many", "model": {"kind": "small", "width": 0}})
    assert "epochs: Input should be a valid integer" in text
    assert "(got 'many')" in text
    assert "model.width: Input should be greater than or equal to 1 (got 0)" in text


def test_an_unknown_kind_lists_the_kinds() -> None:
    text = refused({"model": {"kind": "tiny"}})
    assert text.startswith("model: ")
    assert "'small', 'large'" in text


def test_a_field_of_another_kind_is_unknown() -> None:
    assert refused({"model": {"kind": "small", "num_heads": 2}}).startswith("unknown key 'model.num_heads'")


def test_numbers_are_finite() -> None:
    """Infinity and NaN have no JSON and no digest."""
    for value in (".inf", "-.inf", ".nan"):
        with pytest.raises(RecipeError, match="bias: Input should be a finite number"):
            validate(Biased, parse_overrides([f"bias={value}"]))


def test_configs_are_frozen_and_described() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().epochs = 4
    assert Recipe.model_fields["epochs"].description == "Passes over the data."


def test_overrides_are_typed_nested_and_the_last_wins() -> None:
    got = parse_overrides(["epochs=5", "model.width=16", "model.width=32", "a.b.c=[1, x]", "name=a=b", "off=null"])
    assert got == {"epochs": 5, "model": {"width": 32}, "a": {"b": {"c": [1, "x"]}}, "name": "a=b", "off": None}


def test_a_change_reaches_its_own_place_only(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a: &same {x: 1, y: 1}\nb: *same\n")
    tree = load_tree(path)
    assert merge(tree, {"a": {"x": 2}}) == {"a": {"x": 2, "y": 1}, "b": {"x": 1, "y": 1}}
    assert tree == {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 1}}


def test_changing_the_kind_drops_the_keys_of_the_other_kind() -> None:
    base = {"model": {"kind": "large", "num_heads": 2}}
    assert merge(base, {"model": {"kind": "small"}})["model"] == {"kind": "small"}
    assert merge(base, {"model": {"kind": "large"}})["model"] == {"kind": "large", "num_heads": 2}
    assert merge(base, {"model": {"kind": "small", "width": 3}})["model"] == {"kind": "small", "width": 3}


@pytest.mark.parametrize("overrides", [["model.width=3", "model.kind=small"], ["model.kind=small", "model.width=3"]])
def test_no_override_is_lost_whatever_their_order(overrides: list[str]) -> None:
    change = parse_overrides(overrides)
    assert merge(as_tree(Recipe(model=Large())), change)["model"] == {"kind": "small", "width": 3}


def test_a_value_in_the_place_of_a_section_is_refused_and_the_reverse() -> None:
    assert refused(merge(as_tree(Recipe()), parse_overrides(["epochs.width=5"]))).startswith("epochs: ")
    assert refused(merge(as_tree(Recipe()), parse_overrides(["model=5"]))).startswith("model: ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "is not of the form key=value"),
        ("=5", "is not of the form key=value"),
        ("model..width=5", "is not of the form key=value"),
        ("epochs=[1", "is not valid YAML"),
    ],
)
def test_a_malformed_override_is_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse_overrides([override])
    assert "\n" not in str(caught.value)


def test_a_date_is_a_complaint_about_its_key_and_no_crash() -> None:
    assert refused(merge(as_tree(Recipe()), parse_overrides(["epochs=2014-07-23"]))).startswith("epochs: ")


def test_yaml_and_json_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model:\n  kind: large\nepochs: 4\n")
    (tmp_path / "r.json").write_text('{"model": {"kind": "large"}, "epochs": 4}')
    assert load_tree(tmp_path / "r.yaml") == load_tree(tmp_path / "r.json")
    assert validate(Recipe, load_tree(tmp_path / "r.json")).model == Large()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1, 2", "is neither YAML nor JSON"),
        (b"\xff\xfe\x00", "is neither YAML nor JSON"),
        (b"- a\n- b\n", "holds a list, expected a mapping"),
        (b"", "holds a NoneType, expected a mapping"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message) as caught:
        load_tree(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        load_tree(tmp_path / "none.yaml")


@given(st.integers(1, 9), st.integers(-9, 9))
def test_a_config_survives_yaml_and_keeps_its_digest(width: int, epochs: int) -> None:
    recipe = Recipe(model=Large(width=width), epochs=epochs)
    tree = yaml.safe_load(yaml.safe_dump(as_tree(recipe)))
    assert validate(Recipe, tree) == recipe
    assert digest(tree) == digest(dict(reversed(as_tree(recipe).items())))
    assert digest(tree) != digest(as_tree(Recipe(model=Large(width=width + 1), epochs=epochs)))
