"""Typed, frozen configuration: YAML or JSON plus `key=value` overrides in, validated objects out.

A config class is a pydantic model that lives beside the code it configures. Unknown keys are refused with the nearest
right name; a section that is a union is told apart by its `kind`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from felid.errors import RecipeError

Tree = dict[str, Any]
C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every config class: frozen, unknown keys refused, attribute docstrings become field descriptions."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


def load_tree(path: Path) -> Tree:
    """Read a YAML or JSON file (JSON is a subset of YAML) whose top level is a mapping."""
    if not path.is_file():
        raise RecipeError(f"recipe file {path} does not exist; give a YAML or JSON file, or a name from `felid recipes`")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds a {type(tree).__name__}, expected a mapping such as `dataset: {{kind: ...}}`")
    return tree


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> Tree:
    """`base` with the values of `change`, section by section.

    A section whose `kind` changes starts empty, since its other keys belong to the kind that was there before.
    """
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            same_kind = "kind" not in old or value.get("kind", old["kind"]) == old["kind"]
            result[key] = merge(old if same_kind else {}, value)
        else:
            result[key] = value
    return result


def parse_overrides(overrides: Iterable[str]) -> Tree:
    """Turn `a.b=value` arguments into a tree; values are read as YAML, later ones win."""
    result: Tree = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise RecipeError(f"override {override!r} is not of the form key=value, for example training.epochs=5")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"the value in {override!r} is not valid YAML: {' '.join(str(error).split())}") from error
        for key in reversed(keys):
            value = {key: value}
        result = merge(result, value)
    return result


def validate(cls: type[C], tree: Mapping[str, Any]) -> C:
    """Build `cls` from plain data, turning every pydantic complaint into one `RecipeError`."""
    try:
        return cls.model_validate(dict(tree))
    except ValidationError as error:
        raise RecipeError("; ".join(_explain(cls, dict(detail)) for detail in error.errors())) from error


def as_tree(config: Config) -> Tree:
    """Plain JSON-able data of a config, defaults included."""
    tree: Tree = config.model_dump(mode="json")
    return tree


def digest(value: object) -> str:
    """Hex SHA-256 of a JSON-able value; equal values give equal digests whatever their key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _explain(cls: type[BaseModel], detail: Mapping[str, Any]) -> str:
    location = [str(part) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        names = _field_names(cls, location[:-1])
        near = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(names))}"
        return f"unknown key {'.'.join(_without_tags(cls, location))!r}; {hint}"
    where = ".".join(_without_tags(cls, location)) or "recipe"
    got = "" if detail["type"] == "missing" else f" (got {detail['input']!r})"
    return f"{where}: {detail['msg']}{got}"


def _models(annotation: object) -> list[type[BaseModel]]:
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [model for part in get_args(annotation) for model in _models(part)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _walk(cls: type[BaseModel], location: list[str]) -> tuple[list[type[BaseModel]], list[str]]:
    """Follow an error location down the model; returns the models there and the path without union tags."""
    models, path = [cls], []
    for part in location:
        tagged = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        if len(models) > 1 and tagged:
            models = tagged
            continue
        path.append(part)
        fields = [m.model_fields[part] for m in models if part in m.model_fields]
        models = [m for field in fields for m in _models(field.annotation)]
    return models, path


def _field_names(cls: type[BaseModel], location: list[str]) -> set[str]:
    return {name for model in _walk(cls, location)[0] for name in model.model_fields}


def _without_tags(cls: type[BaseModel], location: list[str]) -> list[str]:
    return _walk(cls, location)[1]
