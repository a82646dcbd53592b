"""Mathematics from the site's own files: one MathJax bundle and its fonts, no content network.

The bundle is the one with every TeX extension inside: a smaller one would fetch extensions on
demand, which are not there, and then draw no formula at all.
"""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

CARRIER = "sphinx-mathjax-offline"  # a distribution that holds the files of MathJax 3.2.2
BUNDLE = "tex-chtml-full.js"
FONTS = "output/chtml/fonts/woff-v2"


def setup(app: Sphinx) -> dict[str, Any]:
    """Point Sphinx at the local bundle and copy it once the pages are written."""
    app.connect("config-inited", _point, priority=100)
    app.connect("build-finished", _copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _point(app: Sphinx, config: Config) -> None:
    config.mathjax_path = f"mathjax/{BUNDLE}"


def _copy(app: Sphinx, exception: Exception | None) -> None:
    target = Path(app.outdir) / "_static" / "mathjax"
    if exception or app.builder.format != "html" or target.exists():
        return
    with resources.as_file(resources.files(CARRIER) / "static" / "mathjax") as source:
        shutil.copytree(source / FONTS, target / FONTS)
        shutil.copy(source / BUNDLE, target / BUNDLE)
