"""Turns what Sphinx rendered into the site, and puts it in place of the old one in one step.

Scripts and styles move out of the pages into files of their own, so that every page can carry one
strict Content-Security-Policy; the styles of a page come as one file, scripts in a row as another.
The notebooks for download are the executed ones, not the staged ones.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

import chapters
import execution
import fingerprint
import icons
from chapters import ROOT
from serving import POLICY

from moe_leverage.paths import BUILD

SITE = BUILD / "html"
META_POLICY = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
PRELOADED = re.compile(r'<link rel="preload" as="script"[^>]*>\n?')  # by a name of their own
INLINE_SCRIPT = re.compile(r"<script(?![^>]*\bsrc=)([^>]*)>(.*?)</script>", re.DOTALL)
# in a row, without attributes but for a source; a page's own name does not join what all share
SCRIPTS = re.compile(
    r'(?:<script(?: src="[^":]*")?>(?:(?!</script>|\.pagename).)*</script>\s*){2,}', re.DOTALL
)
SCRIPT = re.compile(r'<script(?: src="([^"?]*)[^"]*")?>(.*?)</script>', re.DOTALL)
WRITES = re.compile(r"<script>\s*document\.write\(`([^`]*)`\);?\s*</script>")
SHEETS = re.compile(r'<link\b(?=[^>]*rel="stylesheet")[^>]*href="([^"?]*)[^"]*"[^>]*>\n?')
IMPORT = re.compile(r'@import "([^"]+)";')
RELATIVE = re.compile(r"""(url\(["']?)(?!["']?(?:data:|#))([^"')]+)""")
NOT_JAVASCRIPT = re.compile(r"""type=["'](?!text/javascript|module)""")
TAG = re.compile(  # one with attributes, which may hold any sign in quotes
    r"""<[a-zA-Z][\w:-]*(?:\s+[^\s=<>"'/]+(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'>]+))?)+\s*/?>"""
)
STYLE_ATTRIBUTE = re.compile(r"""\sstyle=(["'])(.*?)\1""", re.DOTALL)
CLASS_ATTRIBUTE = re.compile(r'\sclass="([^"]*)"')
STYLE_ELEMENT = re.compile(r"<style\b[^>]*>(.*?)</style>", re.DOTALL)
STYLES = "_static/inline/{}.css"  # what the head of a page links
GLYPHS = re.compile(r'<defs>((?:<path id="glyph-[^>]*></path>)*)</defs>')
GLYPH = re.compile(r'<path id="(glyph-[^"]*)"[^>]*></path>')
CLICK_HANDLER = re.compile(r"\sonclick=\"(?:window\.)?(\w+)\(\)\"")
REDIRECT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{policy}
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
# for any address that is no page: it may be asked for from any folder, so it stands on its own
NOWHERE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{policy}
<title>No such page: A companion to Towards Greater Leverage</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
</head>
<body><main><h1>There is no such page</h1>
<p>It may have moved. <a href="{address}index.html">The first page</a> leads to all others, and
<a href="{address}search.html">the search</a> finds words in them.</p></main></body>
</html>
"""
ADDRESSES = tomllib.loads((ROOT / "book/moved.toml").read_text(encoding="utf-8"))
MOVED = {old: new for old, new in ADDRESSES.items() if "#" not in old}  # old: new address
MOVED_PARTS = {  # page, beginning of a fragment: the page that has such parts now
    tuple(old.split("#")): new for old, new in ADDRESSES.items() if "#" in old
}
CITATION_ROLE = ('role="doc-biblioentry"', 'role="listitem"')  # the former is no part of a list
# pages that hold nothing of their own
UNLISTED = {"404.html", "search.html", "genindex.html", *(f"{old}.html" for old in MOVED)}


def publish(rendered: Path, address: str) -> Path:
    """Make the site from the rendered pages and return its first page."""
    beside = SITE.with_name(".html.partial")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(rendered, beside)
    (beside / "_static" / "inline").mkdir(exist_ok=True)
    drawings = icons.load(beside)
    rules = dict.fromkeys(icons.rules(beside, drawings))  # of all pages, each once, in their order
    pages = [p for p in sorted(beside.rglob("*.html")) if "_static" not in _within(p, beside).parts]
    texts = {p: _freed(p.read_text(encoding="utf-8"), p, beside, rules, drawings) for p in pages}
    own = "\n".join(rules)
    for page, text in texts.items():
        page.write_text(_with_one_sheet(text, page, beside, own), encoding="utf-8")
    icons.remove(beside)
    for chapter in chapters.chapters():
        offered = beside / "_sources" / "notebooks" / chapter.notebook.name
        shutil.copyfile(execution.executed_path(chapter), offered)
    _redirect(beside)
    _lead_on(beside)
    nowhere = NOWHERE.format(policy=META_POLICY, address=address)
    (beside / "404.html").write_text(nowhere, encoding="utf-8")  # as GitHub Pages looks for it
    (beside / "sitemap.xml").write_text(_sitemap(beside, address), encoding="utf-8")
    (beside / ".nojekyll").touch()  # GitHub Pages would leave out folders with an underscore
    _swap(beside)
    return SITE / "index.html"


def _within(page: Path, site: Path) -> Path:
    return page.relative_to(site)


def _freed(
    text: str, page: Path, site: Path, rules: dict[str, None], drawings: dict[str, icons.Icon]
) -> str:
    """The page under its policy: no script or style of its own, its icons and formulas drawn."""
    text = WRITES.sub(r"\1", icons.drawn(text, drawings))  # what scripts would write at once
    text = _without_inline_scripts(PRELOADED.sub("", text), page, site)
    text = _without_inline_styles(_with_glyphs_once(text), rules)
    return re.sub(r"<head>", f"<head>\n{META_POLICY}", text, count=1)


def _with_one_sheet(text: str, page: Path, site: Path, own: str) -> str:
    """The page with the style sheets of its head, and the rules of all pages, as one."""
    head, end, body = text.partition("</head>")
    sheets = [(page.parent / href).resolve() for href in SHEETS.findall(head)]
    content = "\n".join([*(_sheet(sheet, site / STYLES) for sheet in sheets), own])
    name = STYLES.format(fingerprint.of_values(content))
    (site / name).write_text(content, encoding="utf-8")
    upwards = "../" * (len(_within(page, site).parts) - 1)
    link = f'<link rel="stylesheet" href="{upwards}{name}">\n'
    first, *rest = SHEETS.split(head)[::2]
    return first + link + "".join(rest) + end + body


def _sheet(path: Path, place: Path) -> str:
    """A style sheet for another place, with what it imports in it."""
    text = path.read_text(encoding="utf-8")
    text = IMPORT.sub(lambda found: _sheet(path.parent / found[1], place), text)
    return RELATIVE.sub(lambda f: f[1] + os.path.relpath(path.parent / f[2], place.parent), text)


def _redirect(site: Path) -> None:
    """Leave a page that leads on wherever one has been; ValueError where it would lead nowhere."""
    for old, new in MOVED.items():
        if not (site / f"{new}.html").is_file():
            raise ValueError(f"moved.toml: {old} = {new!r}: the site has no such page")
        up = "../" * old.count("/")
        page = REDIRECT.format(target=f"{up}{new}.html", up=up, policy=META_POLICY)
        (site / f"{old}.html").write_text(page, encoding="utf-8")


def _lead_on(site: Path) -> None:
    """Have pages lead on from fragments that another page holds now; ValueError as above."""
    for (old, beginning), new in MOVED_PARTS.items():
        for name in (old, new):
            if not (site / f"{name}.html").is_file():
                raise ValueError(f"moved.toml: {old}#{beginning} = {new!r}: no such page: {name}")
        page, up = site / f"{old}.html", "../" * old.count("/")
        script = f'<script src="{up}_static/moved.js" data-beginning="{beginning}" '
        script += f'data-page="{up}{new}.html" defer></script>\n</head>'
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace("</head>", script, 1), encoding="utf-8")


def _swap(beside: Path) -> None:
    old = SITE.with_name(".html.old")
    shutil.rmtree(old, ignore_errors=True)
    if SITE.exists():
        SITE.rename(old)
    beside.rename(SITE)
    shutil.rmtree(old, ignore_errors=True)


def _without_inline_scripts(text: str, page: Path, site: Path) -> str:
    folder = site / "_static" / "inline"
    upwards = "../" * (len(_within(page, site).parts) - 1)

    def move(script: re.Match[str]) -> str:
        attributes, body = script.groups()
        if NOT_JAVASCRIPT.search(attributes) or not body.strip():
            return script.group()
        name = f"{fingerprint.of_values(body)}.js"
        (folder / name).write_text(body, encoding="utf-8")
        return f'<script{attributes} src="{upwards}_static/inline/{name}"></script>'

    def join(scripts: re.Match[str]) -> str:
        found = SCRIPT.findall(scripts.group())
        texts = [(page.parent / s).read_text(encoding="utf-8") if s else b for s, b in found]
        return "<script>" + "\n;\n".join(texts) + "</script>\n"

    text = INLINE_SCRIPT.sub(move, SCRIPTS.sub(join, text))
    text = CLICK_HANDLER.sub(r' data-call="\1"', text)  # book.js listens instead
    return text.replace(*CITATION_ROLE)


def _with_glyphs_once(text: str) -> str:
    """The page with each glyph of its formulas once, at its start.

    >>> a = '<defs><path id="glyph-a" d="M0"></path></defs>'
    >>> _with_glyphs_once(f"<body>{a}x{a}y</body>").partition("</svg>")[2]
    'xy</body>'
    """
    found = {g[1]: g[0] for defs in GLYPHS.finditer(text) for g in GLYPH.finditer(defs[1])}
    if not found:
        return text
    shared = f'<svg class="glyphs" aria-hidden="true"><defs>{"".join(found.values())}</defs></svg>'
    return re.sub(r"<body\b[^>]*>", lambda m: m[0] + shared, GLYPHS.sub("", text), count=1)


def _without_inline_styles(text: str, rules: dict[str, None]) -> str:
    """The page with a class for each style attribute; the rules that it needs are added.

    >>> rules = {}
    >>> _without_inline_styles('<p class="a" title=">" style="color: red">x</p>', rules)
    '<p class="a i-a2271961" title=">">x</p>'
    >>> list(rules)
    ['.i-a2271961.i-a2271961.i-a2271961 { color: red }']
    """

    def move(tag: re.Match[str]) -> str:
        found = STYLE_ATTRIBUTE.search(tag.group())
        if not found:
            return tag.group()
        style = html.unescape(found[2])
        name = f"i-{fingerprint.of_values(style)[:8]}"
        rules[f"{f'.{name}' * 3} {{ {style} }}"] = None  # above the rules of the style sheets
        rest = tag.group().replace(found.group(), "", 1)
        if CLASS_ATTRIBUTE.search(rest):
            return CLASS_ATTRIBUTE.sub(rf' class="\1 {name}"', rest, count=1)
        return re.sub(r"^<[\w:-]+", rf'\g<0> class="{name}"', rest)

    for sheet in STYLE_ELEMENT.findall(text):
        rules[sheet.strip()] = None
    return TAG.sub(move, STYLE_ELEMENT.sub("", text))


def _sitemap(site: Path, address: str) -> str:
    pages = sorted(p.relative_to(site).as_posix() for p in site.rglob("*.html"))
    listed = [p for p in pages if not p.startswith("_static/") and p not in UNLISTED]
    locations = "\n".join(f"<url><loc>{escape(address + p)}</loc></url>" for p in listed)
    namespace = "http://www.sitemaps.org/schemas/sitemap/0.9"
    declaration = '<?xml version="1.0" encoding="utf-8"?>'
    return f'{declaration}\n<urlset xmlns="{namespace}">\n{locations}\n</urlset>\n'
