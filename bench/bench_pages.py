"""How long the site keeps a reader waiting: tasks that hold the page, and answers to single keys.

    long task     work of the page that keeps it from answering, from 50 ms on (Long Tasks API)
    interaction   from a key stroke to the picture that answers it, 8 ms a step (Event Timing API)

python -m bench pages, once `make book` has built the site; on a machine that does nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page

from moe_leverage.paths import BUILD

sys.path.append(str(Path(__file__).parents[1] / "book"))

import browser as browsing
import serving

SITE = BUILD / "html"
TASK_MILLISECONDS, ANSWER_MILLISECONDS = 100, 100
LEAST_MILLISECONDS = 16  # an interaction that is shorter is not reported; it counts as so long
SETTLED_MILLISECONDS = 3_000
WATCH = f"""() => {{
  window.seen = {{ tasks: [], answers: new Map() }};
  const watch = (type, take, more) => new PerformanceObserver((list) =>
    list.getEntries().forEach(take)).observe({{ type, buffered: true, ...more }});
  watch("longtask", (entry) => window.seen.tasks.push(entry.duration));
  watch("event", (entry) => {{
    const longest = Math.max(entry.duration, window.seen.answers.get(entry.interactionId) || 0);
    if (entry.interactionId) window.seen.answers.set(entry.interactionId, longest);
  }}, {{ durationThreshold: {LEAST_MILLISECONDS} }});
}}"""
# page, what has the focus, the keys that are pressed there one by one
VISITS: dict[str, list[tuple[str, list[str]]]] = {
    "book/intro.html": [],
    "notebooks/07-joint-law.html": [("[data-calculator] [name=A]", [*"0.05", "Backspace"])],
    "notebooks/claims.html": [(".table-filter input", [*"granularity", *["Backspace"] * 11])],
    "notebooks/tool-calculator.html": [
        ("[data-calculator] input[type=range]", ["ArrowRight"] * 30),
        ("[data-calculator] [name=C]", [*"1e21", "Backspace", "2"]),
        ("[data-calculator] .ml-map-frame", ["ArrowLeft"] * 10),
    ],
    "notebooks/tool-explorer.html": [
        ("#explorer-y", ["ArrowDown"] * 3),
        ("[data-sort=loss]", ["Enter"] * 6),
        ("[data-explorer] tbody a", ["ArrowDown"] * 10),
    ],
    "notebooks/tool-router.html": [
        ("[data-router] input[type=range]", ["ArrowLeft"] * 30),
        ("[data-router] .ml-squares", ["ArrowRight"] * 10),
    ],
}


def run() -> list[dict[str, Any]]:
    """Two rows a page: its longest task, and the 95th percentile of its answers."""
    if not (SITE / "index.html").is_file():
        print("bench pages: build/html = missing: run make book first", file=sys.stderr)
        return []
    with serving.served(SITE) as address, browsing.launched() as browser:
        return [row for name in VISITS for row in visited(browser, address, name)]


def visited(browser: Browser, address: str, name: str) -> list[dict[str, Any]]:
    """A page loaded and used, and what it took."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script(f"({WATCH})()")
    page = browsing.opened(context.new_page(), address + name)
    page.wait_for_timeout(SETTLED_MILLISECONDS)
    tasks = page.evaluate("() => window.seen.tasks")
    rows = [row("longest task on arrival", name, max(tasks, default=0.0), TASK_MILLISECONDS)]
    if pressed := sum(press(page, *part) for part in VISITS[name]):
        page.wait_for_timeout(SETTLED_MILLISECONDS)
        seen = page.evaluate("() => [...window.seen.answers.values()]")
        answers = [*seen, *[LEAST_MILLISECONDS] * (pressed - len(seen))]
        percentile = float(np.percentile(answers, 95))
        shape = f"{name}, {pressed} keys"
        rows.append(row("answer, 95th percentile", shape, percentile, ANSWER_MILLISECONDS))
    context.close()
    return rows


def press(page: Page, where: str, keys: list[str]) -> int:
    """Press the keys there, each once the page has answered the one before; how many there were."""
    page.locator(where).first.focus()
    for key in keys:
        page.keyboard.press(key)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    return len(keys)


def row(name: str, shape: str, milliseconds: float, most: int) -> dict[str, Any]:
    """A figure as the other benches give theirs; no other program draws these pages."""
    return {
        "name": name,
        "shape": shape,
        "value": float(milliseconds),
        "unit": "ms",
        "peer": None,
        "ratio": None,
        "target": f"<= {most} ms",
        "met": milliseconds <= most,
    }
