"""A page as a browser's parser takes it apart: its scripts, what it would load, its tables, its texts."""

from __future__ import annotations

import json
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Document(HTMLParser):
    """The text of each script element, as a browser separates them, every address that a page would load, and what it shows.

    `tables` has the cells of each table by its HTML id, without what stands in <small>; `texts` has the text of each element
    with an id. Elements that are not closed in their order are refused.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.loaded: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}
        self.tags: list[str] = []
        self._open: list[tuple[str, str | None]] = []
        self._table: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.loaded += [
            str(value) for name, value in attrs if name in ("src", "href") and not str(value).startswith(("data:", "#"))
        ]
        if tag in VOID:
            return
        self._open.append((tag, found.get("id")))
        if tag == "script":
            self.scripts.append((found, ""))
        elif tag == "table":
            self._table = self.tables.setdefault(str(found["id"]), [])
        elif tag == "tr":
            self._table.append([])
        elif tag in ("th", "td"):
            self._table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        opened, _ = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self._open]
        if "script" in tags:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
            return
        for _, key in self._open:
            if key is not None:
                self.texts[key] = self.texts.get(key, "") + data
        if ("td" in tags or "th" in tags) and "small" not in tags:
            self._table[-1][-1] = (self._table[-1][-1] + data).strip()

    def read(self, key: str) -> object:
        (text,) = (text for attributes, text in self.scripts if attributes.get("id") == key)
        return json.loads(text)

    def figures(self) -> dict[str, dict[str, object]]:
        """The figures of the page by their key."""
        return {figure["key"]: figure for figure in self.read("figure-data")}

    def rows(self, table: str) -> dict[str, list[str]]:
        """The rows of a table by their name; of rows with the same name the first."""
        found: dict[str, list[str]] = {}
        for name, *cells in self.tables[table]:
            found.setdefault(name, cells)
        return found
