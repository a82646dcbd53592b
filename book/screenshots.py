"""`make screenshots`: the pictures of the README, light and dark, from the site in build/html.

They are for people who meet the project before they open the site; few colours keep them small.
"""

from __future__ import annotations

import sys
from io import BytesIO

import browser as browsing
import serving
from chapters import ROOT
from PIL import Image
from playwright.sync_api import Browser
from publishing import SITE

PICTURES = ROOT / "book" / "_static" / "screenshots"
PAGES = {
    "landing": "book/intro.html",
    "calculator": "notebooks/tool-calculator.html",
    "explorer": "notebooks/tool-explorer.html",
    "chapter": "notebooks/07-joint-law.html#the-landscape",
}
SCHEMES = ("light", "dark")
VIEW = {"width": 1280, "height": 800}
MOST_BYTES = 150_000
COLOURS = (256, 128, 64, 32)  # tried in turn until a picture is small enough


def main() -> int:
    """Take every picture and say how large it is; a page that is not built is named and left."""
    if not (SITE / "index.html").is_file():
        print("screenshots: build/html = missing: run make book first", file=sys.stderr)
        return 2
    PICTURES.mkdir(parents=True, exist_ok=True)
    with serving.served(SITE) as address, browsing.launched() as browser:
        for name, page in PAGES.items():
            if not (SITE / page.partition("#")[0]).is_file():
                print(f"screenshots: {page}: not built, left as it is", file=sys.stderr)
                continue
            for scheme in SCHEMES:
                path = PICTURES / f"{name}-{scheme}.png"
                path.write_bytes(small(taken(browser, address + page, scheme)))
                print(f"{path.relative_to(ROOT)} ({path.stat().st_size / 1e3:.0f} kB)")
    return 0


def taken(browser: Browser, url: str, scheme: str) -> bytes:
    """What a reader sees of a page at first."""
    context = browser.new_context(viewport=VIEW, color_scheme=scheme)  # type: ignore[arg-type]
    page = browsing.opened(context.new_page(), url)
    page.wait_for_load_state("networkidle")
    picture = page.screenshot(animations="disabled")
    context.close()
    return picture


def small(picture: bytes) -> bytes:
    """The same picture in as many colours as the limit allows."""
    image = Image.open(BytesIO(picture)).convert("RGB")
    for colours in COLOURS:
        packed = BytesIO()
        reduced = image.quantize(colours, dither=Image.Dither.NONE)
        reduced.save(packed, "PNG", optimize=True)
        if len(packed.getvalue()) <= MOST_BYTES:
            return packed.getvalue()
    raise ValueError(f"screenshot = {len(packed.getvalue())} bytes: must be at most {MOST_BYTES}")


if __name__ == "__main__":
    sys.exit(main())
