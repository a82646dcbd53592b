"""Turns what Sphinx rendered into the site, and puts it in place of the old one in one step.

Scripts move out of the pages into files of their own, so that a strict Content-Security-Policy
can be served. The notebooks for download are the executed ones, not the staged ones.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

import chapters
import execution
import fingerprint
from chapters import ROOT

from moe_leverage.paths import BUILD

SITE = BUILD / "html"
INLINE_SCRIPT = re.compile(r"<script(?![^>]*\bsrc=)([^>]*)>(.*?)</script>", re.DOTALL)
NOT_JAVASCRIPT = re.compile(r"""type=["'](?!text/javascript|module)""")
CLICK_HANDLER = re.compile(r"\sonclick=\"(?:window\.)?(\w+)\(\)\"")
REDIRECT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>A companion to Towards Greater Leverage</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="canonical" href="{target}">
<link rel="icon" href="{up}_static/favicon.svg">
<script src="{up}_static/moved.js" defer></script>
<noscript><meta http-equiv="refresh" content="0; url={target}"></noscript>
</head>
<body><p><a href="{target}" data-moved>A companion to Towards Greater Leverage</a></p></body>
</html>
"""
MOVED = tomllib.loads((ROOT / "book/moved.toml").read_text(encoding="utf-8"))  # old: new address
CITATION_ROLE = ('role="doc-biblioentry"', 'role="listitem"')  # the former is no part of a list
# pages that hold nothing of their own
UNLISTED = {"search.html", "genindex.html", *(f"{old}.html" for old in MOVED)}


def publish(rendered: Path, address: str) -> Path:
    """Make the site from the rendered pages and return its first page."""
    beside = SITE.with_name(".html.partial")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(rendered, beside)
    for page in sorted(beside.rglob("*.html")):
        if "_static" not in page.relative_to(beside).parts:
            page.write_text(_without_inline_scripts(page, beside), encoding="utf-8")
    for chapter in chapters.chapters():
        offered = beside / "_sources" / "notebooks" / chapter.notebook.name
        shutil.copyfile(execution.executed_path(chapter), offered)
    _redirect(beside)
    (beside / "sitemap.xml").write_text(_sitemap(beside, address), encoding="utf-8")
    (beside / ".nojekyll").touch()  # GitHub Pages would leave out folders with an underscore
    _swap(beside)
    return SITE / "index.html"


def _redirect(site: Path) -> None:
    """Leave a page that leads on wherever one has been; ValueError where it would lead nowhere."""
    for old, new in MOVED.items():
        if not (site / f"{new}.html").is_file():
            raise ValueError(f"moved.toml: {old} = {new!r}: the site has no such page")
        up = "../" * old.count("/")
        page = REDIRECT.format(target=f"{up}{new}.html", up=up)
        (site / f"{old}.html").write_text(page, encoding="utf-8")


def _swap(beside: Path) -> None:
    old = SITE.with_name(".html.old")
    shutil.rmtree(old, ignore_errors=True)
    if SITE.exists():
        SITE.rename(old)
    beside.rename(SITE)
    shutil.rmtree(old, ignore_errors=True)


def _without_inline_scripts(page: Path, site: Path) -> str:
    folder = site / "_static" / "inline"
    folder.mkdir(exist_ok=True)
    upwards = "../" * (len(page.relative_to(site).parts) - 1)

    def move(script: re.Match[str]) -> str:
        attributes, body = script.groups()
        if NOT_JAVASCRIPT.search(attributes) or not body.strip():
            return script.group()
        name = f"{fingerprint.of_values(body)}.js"
        (folder / name).write_text(body, encoding="utf-8")
        return f'<script{attributes} src="{upwards}_static/inline/{name}"></script>'

    text = INLINE_SCRIPT.sub(move, page.read_text(encoding="utf-8"))
    text = CLICK_HANDLER.sub(r' data-call="\1"', text)  # book.js listens instead
    return text.replace(*CITATION_ROLE)


def _sitemap(site: Path, address: str) -> str:
    pages = sorted(p.relative_to(site).as_posix() for p in site.rglob("*.html"))
    listed = [p for p in pages if not p.startswith("_static/") and p not in UNLISTED]
    locations = "\n".join(f"<url><loc>{escape(address + p)}</loc></url>" for p in listed)
    namespace = "http://www.sitemaps.org/schemas/sitemap/0.9"
    declaration = '<?xml version="1.0" encoding="utf-8"?>'
    return f'{declaration}\n<urlset xmlns="{namespace}">\n{locations}\n</urlset>\n'
