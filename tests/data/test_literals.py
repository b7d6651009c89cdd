"""Lines of Python literals: the fast reading agrees with Python's own, and nothing in a line is run."""

from __future__ import annotations

import ast
import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felid.data.sources.literals import mapping, numbered_lines, some_fields, spellings
from felid.errors import DataError

NAMES = ("user", "item")
KEYS = spellings(NAMES)
values = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none())
nested = st.one_of(values, st.lists(values, max_size=3), st.dictionaries(st.text(), values, max_size=2))


@given(st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text()), nested, max_size=6))
def test_fields_are_those_that_python_reads(row: dict[str, object]) -> None:
    line = repr(row) + "\n"
    assert some_fields(line, KEYS, "line 1") == {name: row[name] for name in NAMES if name in row}


@pytest.mark.parametrize(
    "line",
    [
        r"""{u'user': u'\xc9mile \u2665', u'text': u"it's u'user': u'another'", u'n': -1.5e-7, u'item': u'7'}""",
        r"""{"user": 'a\'b', "user": "c", 'item': "\\"}""",
        "{'user': 'a' 'b', 'item': (1, 2)}  # read slowly",
        "{}",
    ],
)
def test_both_pythons_ways_of_writing_a_dict(line: str) -> None:
    expected = ast.literal_eval(line)
    assert some_fields(line, KEYS, "line 1") == {name: expected[name] for name in NAMES if name in expected}


@pytest.mark.parametrize(
    "line",
    [
        "{'user': __import__('os').getcwd(), 'item': '1'}",
        "{'user': 'a', 'item': ",
        "{'user': 'a' 'item': 'b'}",
        "{'user': '\\x4', 'item': 'b'}",
        "('user', 'item')",
        '{"user": true}',
        "(" * 5000,
    ],
)
def test_what_is_no_literal_is_named_and_not_run(line: str) -> None:
    for read in (lambda: some_fields(line, KEYS, "line 9 of x"), lambda: mapping(line, "line 9 of x")):
        with pytest.raises(DataError, match=r"^line 9 of x (is not a Python literal|holds a tuple, expected a dict)"):
            read()


def test_lines_are_numbered_as_an_editor_does(tmp_path: Path) -> None:
    content = "a\n\n  \nb\u2028c\n"
    (tmp_path / "x.txt").write_text(content, encoding="utf-8")
    (tmp_path / "x.gz").write_bytes(gzip.compress(content.encode()))
    for name in ("x.txt", "x.gz"):
        assert list(numbered_lines(tmp_path / name)) == [(1, "a\n"), (4, "b\u2028c\n")]
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"x\.txt is not a file of UTF-8 text"):
        list(numbered_lines(tmp_path / "x.txt"))
