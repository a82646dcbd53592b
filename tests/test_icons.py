"""The theme's icons become drawings, and nothing of its fonts stays behind."""

from __future__ import annotations

from pathlib import Path

import icons
import pytest

SCRIPT = (
    'x={dot:[2,4,[],"f111","M0 0"],"two-dots":[8,4,[9679,"dots"],"f142","M1 1"]};'
    'y={dot:[4,4,[],"f111","M2 2"]}'
)
SHEET = (
    'html{--pst-icon-dot:"\\f111";--pst-icon-pair:"\uf142";--pst-icon-note:var(--pst-icon-dot)}'
    ".note>p:after{color:red;content:var(--pst-icon-note);font:var(--fa-font-solid)}"
)
LOADED = """<link href="../_static/vendor/fontawesome/6.5.2/all.css?digest=1" rel="stylesheet" />
<link rel="preload" as="font" crossorigin href="../_static/vendor/fontawesome/6.5.2/a.woff2" />
<script src="../_static/vendor/fontawesome/6.5.2/js/all.min.js?digest=1"></script>
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name, text in {
        f"{icons.VENDOR}/6.5.2/js/all.min.js": SCRIPT,
        icons.SHEET: SHEET,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_an_icon_is_found_by_each_of_its_names_and_the_solid_one_wins(site: Path) -> None:
    found = icons.load(site)
    assert found["dot"] == found["f111"] == icons.Icon(4, 4, "M2 2")
    assert found["two-dots"] == found["dots"] == found["f142"] == icons.Icon(8, 4, "M1 1")


def test_an_element_becomes_a_drawing_and_keeps_what_the_theme_reads(site: Path) -> None:
    page = f'<head>{LOADED}</head><span class="fas fa-dots fa-lg" data-mode="dark"></span>'
    drawn = icons.drawn(page, icons.load(site))
    assert drawn.startswith('<head></head><svg class="fas fa-dots fa-lg icon" data-mode="dark" ')
    assert 'width="2em" height="1em"' in drawn
    assert "fontawesome" not in drawn


def test_an_unknown_icon_is_named(site: Path) -> None:
    with pytest.raises(ValueError, match=r"^icon = 'gone': the theme has none of this name$"):
        icons.drawn('<i class="fa-solid fa-gone"></i>', icons.load(site))


def test_what_the_style_sheet_sets_becomes_a_mask(site: Path) -> None:
    licence, addresses, mask = icons.rules(site, icons.load(site))
    assert "CC BY" in licence
    assert addresses.count("data:image/svg+xml,") == 2
    assert mask.startswith('.note>p:after { content: ""; ')
    assert "mask: var(--pst-icon-note)" in mask


def test_nothing_of_the_fonts_stays(site: Path) -> None:
    icons.remove(site)
    assert not (site / icons.VENDOR).exists()
