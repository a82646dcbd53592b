"""The site served on this machine, under a strict policy, and a Chromium that looks at it.

The site's tests, the screenshots and the printed book use the same two.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:"
)
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
DRAWN = """() => document.readyState === 'complete'
  && [...document.querySelectorAll('.math')].every((f) => f.querySelector('mjx-container'))"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files under a policy that allows no inline script and no other host."""

    def end_headers(self) -> None:
        """Send the policy with every file."""
        self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what fails is seen by the browser."""


def program() -> str | None:
    """The path of a browser on this machine, if there is one."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address at which a folder is served for as long as the context lasts."""
    handler = functools.partial(Handler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser without a window."""
    path = program()
    if path is None:
        raise ValueError(f"browser = none: install one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def opened(page: Page, url: str) -> Page:
    """The page with all its formulas drawn."""
    page.goto(url, wait_until="load")
    page.wait_for_function(DRAWN)
    return page
