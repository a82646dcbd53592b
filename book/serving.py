"""`make serve`: the site on this machine, under the one policy that its pages carry too.

The site's tests, the screenshots and the printed book look at it through the same server.
"""

from __future__ import annotations

import functools
import http.server
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HOST = "127.0.0.1"
# What a page may load and run: files of the site, and pictures that stand in a style sheet.
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
ONLY_IN_HEADERS = "; frame-ancestors 'none'"  # a rule that a page cannot state of itself


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files under a policy that allows no inline script or style and no other host."""

    def end_headers(self) -> None:
        """Send the policy with every file."""
        self.send_header("Content-Security-Policy", POLICY + ONLY_IN_HEADERS)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what fails is seen by the browser."""


def server(site: Path, port: int = 0) -> http.server.ThreadingHTTPServer:
    """A server of a folder; port 0 is any that is free."""
    handler = functools.partial(Handler, directory=str(site))
    return http.server.ThreadingHTTPServer((HOST, port), handler)


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address at which a folder is served for as long as the context lasts."""
    with server(site) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://{HOST}:{running.server_address[1]}/"
        finally:
            running.shutdown()
            thread.join()


def main(arguments: Sequence[str]) -> int:
    """Serve build/html at a port until Ctrl-C; 2 where there is no site or no such port."""
    site = Path(__file__).resolve().parents[1] / "build" / "html"
    if not (site / "index.html").is_file():
        print("serve: build/html = missing: run make book first", file=sys.stderr)
        return 2
    (port,) = arguments
    if not (port.isdecimal() and int(port) < 2**16):
        print(f"serve: PORT = {port[:60]!r}: must be from 0 to 65535", file=sys.stderr)
        return 2
    try:
        with server(site, int(port)) as running:
            print(f"http://{HOST}:{running.server_address[1]}/", flush=True)
            running.serve_forever()
    except OSError as error:
        print(f"serve: PORT = {port}: {error.strerror}; make serve PORT=8001", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
