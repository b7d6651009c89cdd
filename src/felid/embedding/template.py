"""One text per item, written from the columns of the items table."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from felid.config import Config
from felid.errors import EmbeddingError, FelidWarning


class TextConfig(Config):
    """Which columns become an item's text, and how they are joined."""

    columns: tuple[str, ...] = ("title", "price", "brand", "categories")
    """Columns in the order of the text (TIGER, section 4); a column that the items lack is skipped."""
    separator: str = "; "
    """Text between two columns."""
    labels: bool = True
    """Write `title: ` etc. before values; text kNN Recall@10, Beauty validation, MiniLM: .066 with, .063 without."""
    templates: dict[str, str] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Column -> what is written for it instead of label and value, such as `It costs {}.`, with the value in place of `{}`. Where
    it is null it is not written, so that item texts of versions without it are still known."""

    @model_validator(mode="after")
    def _templates_are_used(self) -> Self:
        for column, template in (self.templates or {}).items():
            if template.count("{}") != 1:
                raise ValueError(f"the template of {column} is {template!r}; write {{}} once, where the value stands")
            if column not in self.columns:
                text = f"text.templates has {column}, which is none of text.columns ({_listed(self.columns)}), and has no effect"
                warnings.warn(f"{text}; add the column, or leave the template out", FelidWarning, stacklevel=2)
        return self


@dataclass(frozen=True, eq=False)
class ItemTexts:
    """Texts of a catalogue, row = item_index.

    Attributes:
        item_ids: (N,) ids as the data gives them (int64 or str objects).
        texts: N texts; an item without any text has "".
        fit_rows: (N,) True for warm items. Whatever is fitted to texts (vocabulary, idf, SVD) sees these rows only.
    """

    item_ids: NDArray[np.generic]
    texts: list[str]
    fit_rows: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if not len(self.item_ids) == len(self.texts) == len(self.fit_rows):
            raise EmbeddingError(
                f"got {len(self.item_ids)} ids, {len(self.texts)} texts and {len(self.fit_rows)} fit rows; "
                "expected one of each per item"
            )


def item_texts(columns: Mapping[str, Sequence[object]], config: TextConfig) -> tuple[list[str], tuple[str, ...]]:
    """Write the texts of all items, such as `title: Red Shatter; brand: OPI; categories: Makeup > Nails`.

    Args:
        columns: name -> one value per item, all of the same length. `None`, NaN, blank text and empty lists are skipped; the
            values of a list are joined by commas.
        config: the template.

    Returns:
        One text per row, and sentences that say which columns are absent and how many items have no text.

    Raises:
        EmbeddingError: none of the columns exists, or no item has a text.
    """
    present = [name for name in config.columns if name in columns]
    if not present:
        raise EmbeddingError(
            f"none of the text columns {_listed(config.columns)} exists; the items have {_listed(columns)}: "
            "name some of these in text.columns"
        )
    rows = zip(*(columns[name] for name in present), strict=True)
    texts = [_text(present, row, config) for row in rows]
    empty = sum(not text for text in texts)
    if empty == len(texts):
        raise EmbeddingError(f"all {empty} items have empty {_listed(present)}; name columns that hold text in text.columns")
    absent = [name for name in config.columns if name not in columns]
    notes = []
    if absent:
        notes.append(f"item text without {_listed(absent)}: the items have no such column")
    if empty:
        notes.append(f"{empty} of {len(texts)} items have no text in {_listed(present)}; their vectors say nothing about them")
    return texts, tuple(notes)


def _text(names: Sequence[str], values: Sequence[object], config: TextConfig) -> str:
    written = ((name, _written(value)) for name, value in zip(names, values, strict=True))
    return config.separator.join(_phrase(name, text, config) for name, text in written if text)


def _phrase(name: str, text: str, config: TextConfig) -> str:
    template = (config.templates or {}).get(name)
    if template is not None:
        return template.replace("{}", text)
    return f"{name}: {text}" if config.labels else text


def _written(value: object) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return ", ".join(text for text in map(_written, value) if text)
    return " ".join(str(value).split())


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(names) or "no columns"
