"""Symbols and words explain themselves: the first use on a page links to its row of the notation.

The list is data/notation.toml. Where a symbol stands for the first time in running text, alone or
in front of a relation, it becomes a link with its meaning as the title, followed with a click or a
key and read aloud. A symbol that is a word, EL, is found as a word too, and so are the words of the
list. cards.js shows the meaning on hover, focus and touch; without scripts the title does.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.osutil import relative_uri

NOTATION = "book/notation"
LIST = Path(__file__).resolve().parents[2] / "data" / "notation.toml"
RELATION = r"(?:\\(?:le|ge|lt|gt|approx|in)\b|[=<>\[(]).*"
ELSEWHERE = (nodes.title, nodes.reference, nodes.table, nodes.figure, nodes.caption, nodes.legend)


def setup(app: Sphinx) -> dict[str, Any]:
    """Link symbols once every page is read."""
    app.add_post_transform(_LinkSymbols)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def symbols() -> list[dict[str, str]]:
    """The entries of the notation."""
    return list(tomllib.loads(LIST.read_text(encoding="utf-8"))["symbol"])


def words() -> list[dict[str, Any]]:
    """The words that have a card of their own."""
    return list(tomllib.loads(LIST.read_text(encoding="utf-8"))["word"])


def canonical(tex: str) -> str:
    r"""TeX without what does not change its meaning.

    >>> canonical(r"d_{model}"), canonical(r"\hat{A}")
    ('d_model', '\\hat A')
    """
    spaced = re.sub(r"(\\[A-Za-z]+)\{(\w)\}", r"\1 \2", tex)
    spaced = re.sub(r"\\(?:text|mathrm)\{(\w+)\}", r"\1", spaced)
    return " ".join(re.sub(r"[{}]|\\[,;]", "", spaced).split())


class _LinkSymbols(SphinxPostTransform):
    default_priority = 400

    def run(self, **kwargs: Any) -> None:
        page = self.env.docname
        if self.app.builder.format != "html" or page == NOTATION:
            return
        if NOTATION not in self.env.found_docs:
            return
        builder = self.app.builder
        address = relative_uri(builder.get_target_uri(page), builder.get_target_uri(NOTATION))
        wanted = {canonical(entry["tex"]): entry for entry in symbols()}
        for formula in list(_running(self.document)):
            name = next((n for n in wanted if _opens_with(formula.astext(), n)), None)
            if name is not None:
                entry = wanted.pop(name)
                _link(formula, _title(entry), _row(entry, address))
        for name in [n for n in wanted if n.isalpha() and len(n) > 1]:
            _link_word(self.document, name, _title(wanted[name]), _row(wanted[name], address))
        for entry in words():
            pattern = "|".join(map(re.escape, entry["names"]))
            place = f"{address}#word-{entry['code']}"
            _link_word(self.document, pattern, entry["meaning"], place)


def _running(document: nodes.document) -> Iterator[nodes.math]:
    """Formulas in running text, in their order."""
    return (formula for formula in document.findall(nodes.math) if _runs(formula))


def _runs(node: nodes.Node) -> bool:
    """Whether a node stands in running text: in a paragraph, outside of headings and tables."""
    parents = []
    parent = node.parent
    while parent is not None:
        parents.append(parent)
        parent = parent.parent
    in_paragraph = any(isinstance(parent, nodes.paragraph) for parent in parents)
    return in_paragraph and not any(isinstance(parent, ELSEWHERE) for parent in parents)


def _opens_with(tex: str, name: str) -> bool:
    """Whether a formula is this symbol, alone or in front of a relation or its arguments."""
    return re.fullmatch(rf"{re.escape(name)}\s*(?:{RELATION})?", canonical(tex)) is not None


def _link_word(document: nodes.document, pattern: str, title: str, address: str) -> None:
    """Link the first place where a word stands in running text."""
    for text in list(document.findall(nodes.Text)):
        found = re.search(rf"(?<![\w-])(?:{pattern})(?![\w-])", text.astext())
        if found and isinstance(text.parent, nodes.paragraph) and _runs(text):
            before, after = text.astext()[: found.start()], text.astext()[found.end() :]
            middle = nodes.inline("", found.group())
            text.parent.replace(text, [nodes.Text(before), middle, nodes.Text(after)])
            _link(middle, title, address)
            return


def _title(entry: dict[str, str]) -> str:
    return f"{entry['meaning']} ({entry['source']})"


def _row(entry: dict[str, str], address: str) -> str:
    return f"{address}#symbol-{entry['code'].replace('_', '-')}"


def _link(used: nodes.Element, title: str, address: str) -> None:
    link = nodes.reference(
        "", "", internal=True, refuri=address, reftitle=title, classes=["symbol"]
    )
    used.replace_self(link)
    link += used
