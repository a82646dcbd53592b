"""The theme's icons as drawings in the pages and the style sheet, in place of 0.8 MB of fonts.

The theme brings Font Awesome as fonts and as a script that draws every icon there is. The site
keeps the few that its pages show: an element of the theme becomes an SVG, an icon that a style
sheet sets before or after a text becomes a mask of the text's colour.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

VENDOR = "_static/vendor/fontawesome"
SHEET = "_static/styles/pydata-sphinx-theme.css"
LICENCE = "Icons: Font Awesome Free, https://fontawesome.com/license/free, CC BY 4.0"
# in the script: name: [width, height, [other names and ligatures], code point, path]
ENTRY = re.compile(
    r'(?:"([\w-]+)"|([\w-]+)):\[(\d+),(\d+),\[([^\]]*)\],"(\w+)","(M[^"]+)"\]', re.ASCII
)
LOADED = re.compile(rf"<(?:link|script)\b[^>]*/{VENDOR.split('/')[-1]}/[^>]*>(?:</script>)?\n?")
ELEMENT = re.compile(r'<(i|span) class="([^"]*\bfa-([a-z-]+)[^"]*)"([^>]*)></\1>')
SIZES = {"solid", "brands", "regular", "lg"}
SET_ICON = re.compile(r"([^{}]+)\{[^{}]*content:var\((--pst-icon-[\w-]+)\)")
CODE_POINT = re.compile(r'(--pst-icon-[\w-]+):"(?:\\([0-9a-f]{4})|([\ue000-\uf8ff]))"')
MASK = (
    'content: ""; display: inline-block; width: 1em; height: 1em; box-sizing: content-box; '
    "background: currentColor content-box; mask: var({icon}) center / contain no-repeat content-box"
)


@dataclass(frozen=True)
class Icon:
    """A drawing one em high; its size is in the units of its path."""

    width: int
    height: int
    path: str

    def svg(self, attributes: str) -> str:
        """The drawing as an element that assistive technology passes over."""
        return (
            f'<svg {attributes} viewBox="0 0 {self.width} {self.height}" aria-hidden="true" '
            f'width="{self.width / self.height:.4g}em" height="1em">'
            f'<path fill="currentColor" d="{self.path}"></path></svg>'
        )

    def address(self) -> str:
        """The drawing as an address of its own, for a style sheet."""
        alone = self.svg('xmlns="http://www.w3.org/2000/svg"')
        return f"data:image/svg+xml,{quote(alone)}"


def load(site: Path) -> dict[str, Icon]:
    """The icons by name, other name and code point, from the script that the theme brings."""
    (script,) = (site / VENDOR).glob("*/js/all.min.js")
    found: dict[str, Icon] = {}
    for quoted, plain, width, height, others, code, path in ENTRY.findall(
        script.read_text(encoding="utf-8")
    ):
        icon = Icon(int(width), int(height), path)
        names = [quoted or plain, code, *re.findall(r'"([\w-]+)"', others)]
        found |= dict.fromkeys(names, icon)  # the solid ones come last and win
    return found


def drawn(page: str, icons: dict[str, Icon]) -> str:
    """The page with a drawing for each icon, and without what the theme loads for them.

    >>> drawn('<i class="fa-solid fa-dot fa-lg" data-x="1"></i>', {"dot": Icon(2, 4, "M0 0")})
    ... # doctest: +ELLIPSIS
    '<svg class="fa-solid fa-dot fa-lg icon" data-x="1" viewBox="0 0 2 4" aria-hidden="true" ...
    """

    def draw(element: re.Match[str]) -> str:
        _, classes, _, rest = element.groups()
        name = next(n for n in re.findall(r"\bfa-([a-z-]+)", classes) if n not in SIZES)
        if name not in icons:
            raise ValueError(f"icon = {name!r}: the theme has none of this name")
        kept = rest.replace(' aria-hidden="true"', "")
        return icons[name].svg(f'class="{classes} icon"{kept}')

    return ELEMENT.sub(draw, LOADED.sub("", page))


def rules(site: Path, icons: dict[str, Icon]) -> list[str]:
    """Style rules for the icons that the theme's style sheet sets before and after texts."""
    sheet = (site / SHEET).read_text(encoding="utf-8")
    addresses = [
        f'{name}: url("{icons[code or f"{ord(character):x}"].address()}")'
        for name, code, character in CODE_POINT.findall(sheet)
    ]
    masks = (f"{s.strip()} {{ {MASK.format(icon=name)} }}" for s, name in SET_ICON.findall(sheet))
    return [f"/* {LICENCE} */", f"html {{ {'; '.join(addresses)} }}", *masks]


def remove(site: Path) -> None:
    """Leave the fonts and the script out of the site."""
    shutil.rmtree(site / VENDOR)
