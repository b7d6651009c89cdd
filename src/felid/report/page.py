"""HTML pages of one file that need no network: style, plotly.js, figures and data are inside.

The templates escape every text; data for scripts stands in elements that are not run. A page runs the scripts whose digests its
policy names, which are plotly's and our own, and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from felid.report.drawing import Figure


def render(
    template: str, figures: Sequence[Figure], *, styles: Sequence[str] = (), scripts: Sequence[str] = (), **values: object
) -> str:
    """A whole page.

    Args:
        template: name of a template in `assets` that extends `page.html`.
        figures: everything that it draws.
        styles: files in `assets` after the style that all pages share.
        scripts: files in `assets` after the script that draws the figures.
        values: what the template reads.
    """
    plotly, script = get_plotlyjs(), "\n".join(_asset(name) for name in ("figures.js", *scripts))
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            figure_data=[{"key": figure.key, **figure.content} for figure in figures],
            style=Markup("\n".join(_asset(name) for name in ("page.css", *styles))),
            plotly=Markup(plotly),
            script=Markup(script),
            sources=" ".join(map(_source, (plotly, script))),
        )
    )


def _environment() -> Environment:
    loader = PackageLoader("felid.report", "assets")
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    return found


def _asset(name: str) -> str:
    loader = PackageLoader("felid.report", "assets")
    return loader.get_source(Environment(autoescape=True), name)[0]


def _source(script: str) -> str:
    """How a Content-Security-Policy names a script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
