"""Addresses that follow from the repository's in `_config.yml`: the site's own, and its releases'.

What link previews say is here too.
"""

from __future__ import annotations

import html
import re
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config


def setup(app: Sphinx) -> dict[str, Any]:
    """Fill in the address before any builder or extension reads it."""
    app.connect("config-inited", _fill_in, priority=100)
    app.connect("html-page-context", _describe_preview, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def pages_address(repository: str) -> str:
    """Where GitHub Pages serves the site of a repository.

    >>> pages_address("https://github.com/someone/something")
    'https://someone.github.io/something/'
    """
    owner, name = urlsplit(repository).path.strip("/").split("/")
    return f"https://{owner}.github.io/{name}/"


def _fill_in(app: Sphinx, config: Config) -> None:
    repository = config.html_theme_options["repository_url"]
    # the list of releases stands from the first day on, a file of theirs from the first release on
    config.myst_substitutions = {
        **(config.myst_substitutions or {}),
        "latest_release": f"[the latest release]({repository}/releases/latest)",
    }
    config.html_baseurl = pages_address(repository)
    config.ogp_site_url = config.html_baseurl
    config.ogp_image = f"{config.html_baseurl}_static/social.png"
    config.ogp_site_name = config.html_title


def _describe_preview(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Give previews the page's own description, not the start of its text with raw TeX in it."""
    found = re.search(r'<meta content="([^"]*)" name="description"', context.get("metatags", ""))
    if found and context.get("meta") is not None:
        context["meta"]["og:description"] = html.unescape(found.group(1))
