"""Formulas drawn when the site is built: MathJax on Node, each once, kept for the next build.

A page needs no script and no font for them, nothing moves while it arrives, and a formula that
MathJax cannot read fails the build. The TeX stays in the page as `data-tex`.
"""

from __future__ import annotations

import hashlib
import html
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

from moe_leverage.paths import BUILD, write_atomically

SCRIPT = Path(__file__).with_suffix(".mjs")
PACKAGES = SCRIPT.parents[2] / "node_modules"  # what package.json pins
INSTALL = "install Node.js 18 or later with npm, then run make book, or npm install"
KEPT = BUILD / "formulas.json"
_log = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Let Sphinx draw its formulas here."""
    app.add_html_math_renderer("drawn", (_inline, None), (_block, None))
    app.connect("build-finished", lambda app, exception: _painter.close())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def require() -> None:
    """Refuse to draw where Node or its packages are missing.

    Raises:
        ValueError: in one line that names what is missing.
    """
    if shutil.which("node") is None:
        raise ValueError(f"node = none found: {INSTALL}")
    if not (PACKAGES / "mathjax").is_dir():
        raise ValueError(f"mathjax = not in {PACKAGES.name}: {INSTALL}")


class _Painter:
    """Draws what was not drawn before; Node starts with the first such formula."""

    def __init__(self) -> None:
        self._node: subprocess.Popen[str] | None = None
        self._ground = ""
        self._drawn: dict[str, str] = {}

    def draw(self, tex: str, display: bool) -> str:
        """The formula as SVG and MathML; ValueError where MathJax cannot read it."""
        self._open()
        request = json.dumps({"tex": tex, "display": display})
        key = hashlib.sha256((self._ground + request).encode()).hexdigest()
        if key not in self._drawn:
            answer = json.loads(self._ask(request))
            if "error" in answer:
                raise ValueError(answer["error"])
            self._drawn[key] = answer["drawn"]
        return self._drawn[key]

    def close(self) -> None:
        """Keep what was drawn and let Node end."""
        if self._node is None:
            return
        self._node.communicate()
        self._node = None
        write_atomically(KEPT, json.dumps(self._drawn))

    def _open(self) -> None:
        if self._ground:
            return
        version = (PACKAGES / "mathjax" / "package.json").read_text(encoding="utf-8")
        self._ground = SCRIPT.read_text(encoding="utf-8") + version
        if KEPT.is_file():
            self._drawn = json.loads(KEPT.read_text(encoding="utf-8"))

    def _ask(self, request: str) -> str:
        if self._node is None:
            command = ["node", str(SCRIPT)]
            self._node = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
            )
        assert self._node.stdin is not None
        assert self._node.stdout is not None
        self._node.stdin.write(f"{request}\n")
        self._node.stdin.flush()
        if not (answer := self._node.stdout.readline()):
            raise ValueError("node ended without an answer, see above")
        return answer


_painter = _Painter()


def _markup(node: nodes.Element, tex: str, display: bool) -> str:
    """The drawing, or the TeX itself beside a warning, which a strict build does not forgive."""
    try:
        return _painter.draw(tex, display)
    except ValueError as error:
        _log.warning("formula = %r: %s", tex, error, location=node)
        return html.escape(tex)


def _attributes(tex: str) -> dict[str, Any]:
    return {"class": "math notranslate nohighlight", "data-tex": tex}


def _inline(self: HTML5Translator, node: nodes.math) -> None:
    tex = node.astext()
    start = self.starttag(node, "span", "", **_attributes(tex))
    self.body.append(f"{start}{_markup(node, tex, display=False)}</span>")
    raise nodes.SkipNode


def _block(self: HTML5Translator, node: nodes.math_block) -> None:
    tex = _display_tex(node)
    self.body.append(self.starttag(node, "div", "", **_attributes(tex)))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(f"{_markup(node, tex, display=True)}</div>\n")
    raise nodes.SkipNode


def _display_tex(node: nodes.math_block) -> str:
    """The TeX of a display as Sphinx gives it to MathJax: its lines under one another."""
    tex = node.astext().strip()
    if node["nowrap"] or "amsmath" in node.get("classes", []):
        return tex
    parts = [part for part in tex.split("\n\n") if part.strip()]
    lines = [rf"\begin{{split}}{p}\end{{split}}" if r"\\" in p else p for p in parts]
    if len(lines) == 1:
        return lines[0]
    return r"\begin{align}\begin{aligned}" + r"\\".join(lines) + r"\end{aligned}\end{align}"
