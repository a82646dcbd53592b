"""The rendered site, served as strictly as can be, and a browser that reaches nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser as browsing
import pytest
import serving
from playwright.sync_api import Browser

from moe_leverage.paths import BUILD

SITE = BUILD / "html"


def missing(request: pytest.FixtureRequest, what: str) -> None:
    """Skip for want of something, or fail where the site is required."""
    if request.config.getoption("--require-site"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Path:
    if not (SITE / "index.html").is_file():
        missing(request, "build/html is missing: run make book first")
    return SITE


@pytest.fixture(scope="session")
def runs(site: Path) -> list[dict[str, Any]]:
    """The runs that the explorer of this very site knows."""
    text = (site / "_static" / "explorer-data.js").read_text(encoding="utf-8")
    index = json.loads(text[text.index("{", text.index(".explorer = ")) :].rstrip(";\n"))
    return [dict(zip(index["columns"], row, strict=True)) for row in index["rows"]]


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    with serving.served(site) as address:
        yield address


@pytest.fixture(scope="session")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    if browsing.program() is None:
        missing(request, f"no browser: none of {', '.join(browsing.BROWSERS)} is installed")
    with browsing.launched() as browser:
        yield browser
