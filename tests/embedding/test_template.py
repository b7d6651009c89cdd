from __future__ import annotations

import numpy as np
import pytest

from felid.config import as_tree, validate
from felid.embedding import ItemTexts, TextConfig, item_texts
from felid.errors import EmbeddingError, FelidWarning, RecipeError

COLUMNS = {
    "item_id": [1, 2, 3],
    "title": ["Red  Shatter\n Polish", None, "Balm"],
    "price": [9.99, float("nan"), 12.0],
    "brand": ["OPI", "", "  "],
    "categories": [["Makeup", "Nails"], [], "Face > Cream"],
}


def test_text_names_its_columns_and_skips_empty_values():
    texts, notes = item_texts(COLUMNS, TextConfig())
    assert texts == [
        "title: Red Shatter Polish; price: 9.99; brand: OPI; categories: Makeup, Nails",
        "",
        "title: Balm; price: 12; categories: Face > Cream",
    ]
    assert notes == ("1 of 3 items have no text in title, price, brand, categories; their vectors say nothing about them",)


def test_absent_columns_are_skipped_and_said_so():
    texts, notes = item_texts({"title": ["a", "b"], "year": [1995.0, 2001]}, TextConfig(columns=("title", "price", "year")))
    assert texts == ["title: a; year: 1995", "title: b; year: 2001"]
    assert notes == ("item text without price: the items have no such column",)


def test_labels_and_separator_can_change():
    texts, _ = item_texts(COLUMNS, TextConfig(columns=("brand", "title"), labels=False, separator=" | "))
    assert texts == ["OPI | Red Shatter Polish", "", "Balm"]


def test_a_template_stands_for_label_and_value():
    """Braces of values are values; columns without a template, and empty ones, are written as before."""
    wanted = {"title": "Item '{}'.", "price": "It costs {}.", "brand": "By {}."}
    columns = {**COLUMNS, "title": ["Red", None, "Balm {} {0}"]}
    texts, _ = item_texts(columns, TextConfig(separator=" ", templates=wanted))
    assert texts == [
        "Item 'Red'. It costs 9.99. By OPI. categories: Makeup, Nails",
        "",
        "Item 'Balm {} {0}'. It costs 12. categories: Face > Cream",
    ]


@pytest.mark.parametrize("template", ["It costs.", "{} or {}", ""])
def test_a_template_without_one_place_for_the_value_is_refused(template: str):
    with pytest.raises(RecipeError, match=r"template of price.*write \{\} once"):
        validate(TextConfig, {"templates": {"price": template}})


def test_a_template_of_no_column_is_said_to_have_no_effect():
    with pytest.warns(FelidWarning, match=r"text\.templates has titel, which is none of text\.columns \(title, price"):
        assert TextConfig(templates={"titel": "Item {}."}).templates


def test_settings_without_templates_are_written_as_they_were_before_there_were_any():
    assert set(as_tree(TextConfig())) == {"columns", "separator", "labels"}


def test_no_known_column_is_an_error_that_names_those_present():
    with pytest.raises(EmbeddingError, match=r"none of the text columns title, .* exists; the items have name, genre: name some"):
        item_texts({"name": ["a"], "genre": ["b"]}, TextConfig())


def test_only_empty_text_is_an_error():
    with pytest.raises(EmbeddingError, match="all 2 items have empty title"):
        item_texts({"title": ["", None]}, TextConfig())


def test_item_texts_must_match_row_by_row():
    with pytest.raises(EmbeddingError, match="got 2 ids, 1 texts and 2 fit rows"):
        ItemTexts(np.arange(2), ["a"], np.ones(2, bool))
