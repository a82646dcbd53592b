"""The rendered site, served as strictly as can be, and a browser that reaches nothing else."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from moe_leverage.paths import BUILD

SITE = BUILD / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:"
)


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


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files under a policy that allows no inline script and no other host."""

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what fails is seen by the browser."""


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        missing(request, f"no browser: none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--disable-background-networking", "--disable-component-update"],
        )
        yield launched
        launched.close()
