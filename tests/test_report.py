"""The pages of a report: bounds and open ends drawn, families left out said, legible on a phone."""

import re
from dataclasses import replace

import browser as browsing
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from moe_leverage.analysis.findings import examine
from moe_leverage.theory.rivals import FlooredPowerLaw
from moe_leverage.your_runs import document, drawing, report
from moe_leverage.your_runs.reading import read_runs

DENSE = FlooredPowerLaw(1.6, 330.0, -0.19)
HOSTILE = '<img src=x onerror="document.title=1">$\\frac{1}{2}$_^{&amp;}'
WIDTH = 390  # of a phone, in pixels
SMALLEST_LETTER = 8.5  # pixels


def runs(families=1, beyond=True):
    """Six dense budgets and mixtures of EL 2; with `beyond` some lie off the dense frontier."""
    rows = [("dense", 1.0, 2.0, c, DENSE.evaluate(compute=c)) for c in np.geomspace(3e11, 3e14, 6)]
    for place in range(families):
        share = 0.5 * 0.8**place
        at = [1e12, 1e13, *((1e9, 3e14, 1.4e14) if beyond else ())]
        rows += [("moe", share, 4.0, c, DENSE.evaluate(compute=2 * c)) for c in at]
    table = pd.DataFrame(rows, columns=["kind", "A", "G", "flops", "loss"])
    noise = np.exp(0.004 * np.random.default_rng(0).standard_normal(len(table)))
    return table.assign(loss=table["loss"] * noise)


def page(tmp_path, table, title="Leverage"):
    path = tmp_path / "runs.csv"
    table.to_csv(path, index=False)
    read = read_runs(path)
    found = examine(read.runs, resamples=100)
    return document.page(title, found, report.summary(read, found))


def test_bounds_and_open_ends_are_drawn_and_said(tmp_path):
    text = page(tmp_path, runs(families=3))
    assert "a hollow mark with an arrow is a bound" in text
    assert "an arrow on an interval says that this end is open" in text
    sound = page(tmp_path, runs(beyond=False))
    assert "hollow mark" not in sound
    assert "is open" not in sound


def test_families_that_are_not_drawn_are_counted(tmp_path):
    count = drawing.MOST_FAMILIES + 3
    text = page(tmp_path, runs(families=count, beyond=False))
    for there in (count, count + 1):  # mixtures, and with the dense runs
        assert f"{drawing.MOST_FAMILIES + 1} of {there} families are drawn" in text
    assert text.count("<svg") == 2


def test_other_readings_of_leverage_stand_beside_it(tmp_path):
    path = tmp_path / "runs.csv"
    runs(beyond=False).to_csv(path, index=False)
    read = read_runs(path)
    found = examine(read.runs, resamples=20)
    record = report.summary(read, found)
    assert "with outliers" not in document.page("Leverage", found, record)
    record["leverage"][0]["with_outliers"] = 6.125
    text = document.page("Leverage", found, record)
    assert "with outliers</th>" in text
    assert "<td>6.125</td>" in text
    assert "over optimum" not in text


def test_an_answer_and_a_reason_that_hold_markup_are_text(tmp_path):
    path = tmp_path / "runs.csv"
    runs(beyond=False).to_csv(path, index=False)
    read = read_runs(path)
    found = examine(read.runs, resamples=20)
    record = report.summary(read, found) | {"answer": [HOSTILE]}
    bare = replace(found, leverage=None, skipped={"leverage": HOSTILE})
    for own in (record, record | {"answer": ["none"], "skipped": {}}):
        text = document.page("Leverage", bare, own)
        assert "<img" not in text
        assert "&lt;img" in text


@pytest.mark.parametrize(("high", "between"), [(6.3e19, False), (8e18, True)])
def test_only_powers_of_ten_are_labelled_where_there_is_one(high, between):
    _, ax = plt.subplots(figsize=drawing.SIZE_INCHES)
    compute = np.geomspace(1.6e18, high, 5)
    ax.plot(compute, compute, "o")
    ax.set(xscale="log")
    drawing._compute_axis(ax, pd.DataFrame({"compute": compute}))
    ax.figure.canvas.draw()
    minor = [text.get_text() for text in ax.get_xticklabels(minor=True) if text.get_text()]
    assert bool(minor) == between
    plt.close(ax.figure)


def test_mixtures_of_one_budget_stand_side_by_side():
    """Their intervals would hide each other; no family reaches the place of the next budget."""
    budgets = [1e18, 1e19, 3e19]
    groups = [pd.DataFrame({"compute": budgets}) for _ in range(5)]
    shifts = drawing._side_by_side(groups)
    assert len(np.unique(shifts)) == 5
    places = np.outer(shifts, budgets)
    assert (places.max(axis=0)[:-1] < places.min(axis=0)[1:]).all()
    alone = [pd.DataFrame({"compute": [budget]}) for budget in budgets]
    assert (drawing._side_by_side(alone) == 1).all()


@pytest.mark.skipif(browsing.program() is None, reason="no browser is installed")
def test_the_answer_of_each_row_is_on_a_phone_without_scrolling(tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page(tmp_path, runs(families=3)), "utf-8")
    with browsing.launched() as browser:
        view = browser.new_page(viewport={"width": WIDTH, "height": 844})
        view.goto(file.as_uri())
        ends = view.evaluate(
            "[...document.querySelector('table').querySelectorAll('th')]"
            ".map(h => [h.textContent, h.getBoundingClientRect().right])"
        )
    seen = [name for name, end in ends if end <= WIDTH]
    assert seen[:5] == ["A", "G", "C, FLOPs", "EL", "90% interval"]


@pytest.mark.skipif(browsing.program() is None, reason="no browser is installed")
def test_a_report_on_a_phone_is_legible_and_hostile_names_stay_text(tmp_path):
    table = runs(families=3).assign(variant=lambda own: np.where(own["A"] < 0.35, HOSTILE, ""))
    table = table.rename(columns={"kind": "family"})
    file = tmp_path / "report.html"
    file.write_text(page(tmp_path, table), "utf-8")
    with browsing.launched() as browser:
        view = browser.new_page(viewport={"width": WIDTH, "height": 844})
        asked = []
        view.on("request", lambda request: asked.append(request.url))
        view.goto(file.as_uri())
        wide = view.evaluate("document.documentElement.scrollWidth")
        shown = view.evaluate("[...document.querySelectorAll('svg')].map(s => s.clientWidth)")
        title, text = view.title(), view.inner_text("body")
        pictures = view.evaluate("document.images.length")
    assert wide <= WIDTH
    assert asked == [file.as_uri()]
    assert (title, pictures) == ("Leverage", 0)
    assert "onerror" in text
    points = 72 * drawing.SIZE_INCHES[0]  # of the picture, whose letters are 9.5 of them or more
    for pixels in shown:
        assert 9.5 * pixels / points >= SMALLEST_LETTER


def test_a_report_loads_nothing_and_runs_nothing(tmp_path):
    text = page(tmp_path, runs(), title="<script>alert(1)</script>")
    assert text.count("&lt;script&gt;alert(1)") == 2
    assert not re.search(r'(src|href)="(?!#)', text)
    assert "<script" not in text
