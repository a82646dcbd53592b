"""A reader's table in the page: chosen by keyboard, dropped by mouse, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from moe_leverage.analysis.leverage import estimate
from moe_leverage.your_runs.reading import read_runs

pytestmark = [pytest.mark.site, pytest.mark.slow]
PAGE, ROOT = "notebooks/tool-calculator.html", "[data-your-table]"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# files as a mouse brings them, from their names and bytes
DROP = """([root, files]) => {
  const data = new DataTransfer();
  for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name));
  const node = document.querySelector(root);
  for (const kind of ["dragenter", "dragover", "drop"]) {
    const event = new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
    node.dispatchEvent(event);
    if (kind !== "dragenter" && !event.defaultPrevented) throw new Error(`${kind} leaves the page`);
  }
}"""
LARGE = """(root) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(4 * 2 ** 20 + 1)], "a.csv"));
  const given = { dataTransfer: data, bubbles: true, cancelable: true };
  document.querySelector(root).dispatchEvent(new DragEvent("drop", given));
}"""
OPACITY = "(node) => getComputedStyle(node).opacity"
expect.set_options(timeout=30_000)


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    """The page, wide and light or narrow and dark; once it is there it asks for nothing more."""
    size = WIDE if request.param == "light" else PHONE
    context = browser.new_context(viewport=size, color_scheme=request.param)
    page = context.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(address + PAGE, wait_until="load")
    page.wait_for_selector(f"{ROOT} input")
    page.on("request", lambda asked: trouble.append(asked.url))
    yield page
    assert page.evaluate(OVERFLOW) <= 0
    assert trouble == []
    context.close()


def table(path: Path) -> Path:
    """Runs of three designs with two seeds each, their losses on a power law with noise."""
    rng = np.random.default_rng(0)
    rows = [
        (kind, ratio, grain, compute, 30 * (compute * gain) ** -0.055 * noise, seed)
        for compute in np.geomspace(1e18, 1e21, 4)
        for kind, ratio, grain, gain in (
            ("dense", 1.0, np.nan, 1.0), ("moe", 0.25, 2.0, 1.6), ("moe", 0.05, 4.0, 2.5),
        )
        for seed, noise in enumerate(np.exp(0.002 * rng.standard_normal(2)))
    ]  # fmt: skip
    names = ["kind", "A", "G", "FLOPs", "val_loss", "seed"]
    pd.DataFrame(rows, columns=names).to_csv(path, index=False)
    return path


def drop(page: Page, *files: tuple[str, bytes]) -> None:
    """Drop files, each of its name and bytes."""
    page.evaluate(DROP, [ROOT, [[name, list(content)] for name, content in files]])


def headline(page: Page) -> Locator:
    return page.locator(f"{ROOT} .ml-headline")


def rows_of(page: Page) -> list[list[str]]:
    found = page.locator(f"{ROOT} tbody tr").all()
    return [row.locator("td").all_inner_texts() for row in found]


def test_a_table_is_chosen_by_keyboard_and_dropped_by_mouse(page: Page, tmp_path: Path) -> None:
    path = table(tmp_path / "runs.csv")
    field = page.locator(f"{ROOT} input[type=file]")
    with page.expect_file_chooser(timeout=90_000) as chooser:
        field.press("Enter")
    chooser.value.set_files(path)
    expect(headline(page)).to_contain_text("your mixtures save a factor of")
    chosen = rows_of(page)
    said = headline(page).inner_text()
    frame = read_runs(path).runs.drop(columns=["row", "config_id"])
    wanted = estimate(frame, floor=0.0, resamples=20).points
    wanted = wanted[wanted["estimator"] == "frontier"]
    shown = [row[4] for row in chosen if not row[4].startswith("at ")]
    known = wanted["efficiency_leverage"].dropna()
    assert len(chosen) == len(wanted) == 8
    assert sorted(map(float, shown)) == pytest.approx(sorted(known), rel=5e-3)
    assert page.locator(f"{ROOT} [role=alert]").inner_text() == ""
    drop(page, ("again.csv", path.read_bytes()))
    expect(page.locator(f"{ROOT} .ml-map-text")).to_contain_text("moe-leverage fit again.csv")
    assert (headline(page).inner_text(), rows_of(page)) == (said, chosen)


def test_what_is_no_table_is_refused_in_a_line_and_the_last_answer_stays(
    page: Page, tmp_path: Path
) -> None:
    good = table(tmp_path / "runs.csv").read_bytes()
    drop(page, ("runs.csv", good))
    expect(headline(page)).to_contain_text("your mixtures save")
    said, rows = headline(page).inner_text(), rows_of(page)
    problem = page.locator(f"{ROOT} [role=alert]")
    text = good.decode()
    bad: dict[str, tuple[list[tuple[str, bytes]], str]] = {
        "two files": ([("a.csv", good), ("b.csv", good)], "2 files: drop one"),
        "a picture": ([("a.png", b"\x89PNG\r\n")], "a.png: drop a CSV or TSV"),
        "a config": ([("config.json", b"{}")], "config.json: drop a CSV or TSV"),
        "bytes": ([("a.csv", b"\x00\x01\x02")], "a.csv: is no text"),
        "nothing": ([("a.csv", b"")], "a.csv, the table has no rows"),
        "a letter": ([("a.csv", b"Dear reader,\nhow are you?\n")], "a.csv, no column of loss"),
        "an unended quote": ([("a.csv", b'"a,b\n1,2')], "a quoted cell does not end"),
        "another kind": ([("a.csv", text.replace("dense", "constructor").encode())], "constructor"),
        "no dense run": ([("a.csv", text.replace("dense", "moe").encode())], "a.csv, "),
        "a loss of 99": (
            [("a.csv", b"kind,FLOPs,loss\ndense,1e20,99\n")],
            "loss = 99: must be from",
        ),
    }
    for name, (files, wanted) in bad.items():
        drop(page, *files)
        expect(problem, name).to_contain_text(wanted)
        assert "\n" not in problem.inner_text(), name
        assert len(problem.inner_text()) < 250, name
        assert (headline(page).inner_text(), rows_of(page)) == (said, rows), name
        for part in (headline(page), page.locator(f"{ROOT} .ml-map-text")):
            assert float(part.evaluate(OPACITY)) < 0.5, name
    page.evaluate(LARGE, ROOT)
    expect(problem).to_contain_text("a.csv: larger than 4 MB; the command does more")
    drop(page, ("runs.csv", good))
    expect(problem).to_have_text("")
    assert float(headline(page).evaluate(OPACITY)) == 1


def test_a_word_of_the_file_is_text_and_never_markup(page: Page) -> None:
    words = "<img src=x onerror=alert(1)>"
    drop(page, (f"{words}.csv", f"kind,FLOPs,loss\n{words},1e20,3\n".encode()))
    problem = page.locator(f"{ROOT} [role=alert]")
    expect(problem).to_contain_text("must say moe or dense")
    assert problem.locator("*").count() == 0


def test_the_words_for_a_mixture_are_those_of_the_package(page: Page) -> None:
    """The data that the page was built with, not a copy of it."""
    from moe_leverage.instruments import your_table

    given: dict[str, Any] = page.evaluate("() => window.moeLeverage.tableData")
    assert given == json.loads(json.dumps(your_table.payload()))
