"""The site's own address, derived from the repository's, which `_config.yml` states once."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.config import Config


def setup(app: Sphinx) -> dict[str, Any]:
    """Fill in the address before any builder or extension reads it."""
    app.connect("config-inited", _fill_in, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def pages_address(repository: str) -> str:
    """Where GitHub Pages serves the site of a repository.

    >>> pages_address("https://github.com/someone/something")
    'https://someone.github.io/something/'
    """
    owner, name = urlsplit(repository).path.strip("/").split("/")
    return f"https://{owner}.github.io/{name}/"


def _fill_in(app: Sphinx, config: Config) -> None:
    config.html_baseurl = pages_address(config.html_theme_options["repository_url"])
    config.ogp_site_url = config.html_baseurl
    config.ogp_image = f"{config.html_baseurl}_static/social.png"
    config.ogp_site_name = config.html_title
