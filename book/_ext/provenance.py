"""The last line of every page: which commit, data and versions it was built from."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the footer into the theme's options, so that a change rewrites every page."""
    app.connect("config-inited", _footer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _footer(app: Sphinx, config: Config) -> None:
    facts = json.loads((Path(app.srcdir) / "provenance.json").read_text(encoding="utf-8"))
    items = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
    config.html_theme_options["extra_footer"] = f'<dl class="provenance">{"".join(items)}</dl>'
