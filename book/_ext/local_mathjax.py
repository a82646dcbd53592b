"""Mathematics from the site's own files: one MathJax bundle and its fonts, no content network.

The bundle is the one with every TeX extension inside: a smaller one would fetch extensions on
demand, which are not there, and then draw no formula at all.
"""

from __future__ import annotations

import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

CARRIER = "sphinx-mathjax-offline"  # a distribution that holds the files of MathJax 3.2.2
BUNDLE = "tex-chtml-full.js"
FONTS = "output/chtml/fonts/woff-v2"
FIRST_FONTS = ("MathJax_Main-Regular", "MathJax_Math-Italic")  # that nearly every formula needs
TALL = re.compile(r"\\(d?frac|sum|prod|int|begin|sqrt)\b")


def setup(app: Sphinx) -> dict[str, Any]:
    """Point Sphinx at the local bundle and copy it once the pages are written."""
    app.connect("config-inited", _point, priority=100)
    app.add_js_file("strict.js", priority=400, loading_method="defer")  # before the bundle
    app.connect("doctree-resolved", _mark_tall_formulas)
    app.connect("html-page-context", _preload_fonts)
    app.connect("build-finished", _copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _point(app: Sphinx, config: Config) -> None:
    config.mathjax_path = f"mathjax/{BUNDLE}"


def _mark_tall_formulas(app: Sphinx, doctree: nodes.document, name: str) -> None:
    """Tell formulas of more than one line apart: the style keeps room for them (book.css)."""
    for formula in doctree.findall(nodes.math_block):
        if TALL.search(formula.astext()):
            formula["classes"].append("tall")


def _preload_fonts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Have the fonts of formulas there when they are drawn, so that none changes its size."""
    if doctree is None or doctree.next_node(nodes.math) is None:
        return
    root = context["pathto"]("_static/mathjax", resource=True)
    tags = (
        f'<link rel="preload" as="font" type="font/woff" crossorigin '
        f'href="{root}/{FONTS}/{font}.woff">'
        for font in FIRST_FONTS
    )
    context["metatags"] = context.get("metatags", "") + "\n".join(tags)


def _copy(app: Sphinx, exception: Exception | None) -> None:
    target = Path(app.outdir) / "_static" / "mathjax"
    if exception or app.builder.format != "html" or target.exists():
        return
    with resources.as_file(resources.files(CARRIER) / "static" / "mathjax") as source:
        shutil.copytree(source / FONTS, target / FONTS)
        shutil.copy(source / BUNDLE, target / BUNDLE)
