"""One-file HTML pages that open offline: templates with escaping, and the libraries that tables and charts need.

DataTables (from itables) draws the tables, and Vega-Lite (from vl-convert) the charts. The page contains the JavaScript of both.
"""

from __future__ import annotations

import base64
import json
import math
import re
from importlib import resources
from pathlib import Path
from typing import Any

ENDS_SCRIPT = re.compile(r"</script|<!--|<script", re.IGNORECASE)


def render(template: Path, **values: Any) -> str:
    """Render a Jinja template; all text in `values` is escaped.

    The template has the filters `number` (formats a number; a dash if there is none) and `script_json` (JSON inside a script).
    """
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(template.parent), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    environment.filters["script_json"] = _script_json
    return environment.get_template(template.name).render(**values)


def libraries(style: Path, script: Path) -> dict[str, Any]:
    """Styles and scripts by their names in templates: those of the page, and the bundles of the two libraries."""
    import vl_convert
    from markupsafe import Markup

    itables = resources.files("itables") / "html"
    texts = {
        "tables_style": (itables / "dt_bundle.css").read_text(encoding="utf-8"),
        # in base64, because the source contains "<script", which would confuse the page's parser
        "tables_script": base64.b64encode((itables / "dt_bundle.js").read_bytes()).decode(),
        "vega_script": vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"),
        "style": style.read_text(encoding="utf-8"),
        "script": script.read_text(encoding="utf-8"),
    }
    if broken := [name for name, text in texts.items() if ENDS_SCRIPT.search(text)]:
        raise RuntimeError(f"{', '.join(broken)} would end the page's script; another version of the library is needed")
    return {name: Markup(text) for name, text in texts.items()}


def _script_json(value: Any) -> Any:
    """JSON in which no text can end the script element around it."""
    from markupsafe import Markup

    return Markup(json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))


def _number(value: Any, form: str = "{:.3f}") -> str:
    return "–" if value is None or value == "" or math.isnan(value) else form.format(value)
