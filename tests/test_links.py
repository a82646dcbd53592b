"""Points that stand for runs lead to them in the page, and nowhere in a file that is taken away."""

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from moe_leverage.page import drawing as common
from moe_leverage.page import links, registry

POINTS = pd.DataFrame(
    {"x": [1.0, 2.0, 3.0], "y": [4.0, 5.0, 6.0], "run_id": ["c0ffee", "decade facade", None]}
)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """(SVG as saved, SVG in the page, SVG file) of three points, of which two name runs."""
    monkeypatch.setattr(registry, "ENTRIES", {})

    @registry.figure("sample", paper="none", caption="A sample.")
    def draw(table):
        fig, ax = plt.subplots()
        common.draw_points(ax, table, "x", "y")
        return registry.Drawing(fig, table, "Three points.")

    def make(table):
        saved = registry.save("sample", registry.draw("sample", table), tmp_path)
        plt.close("all")
        inline = registry.inline(saved, "sample", "Three points.")
        return saved, inline, (tmp_path / "sample.svg").read_text()

    return make


def test_each_point_that_names_a_run_leads_to_it(drawn):
    _, page, _ = drawn(POINTS)
    found = re.findall(r'<a href="([^"]+)" tabindex="-1" aria-label="([^"]+)"(.*?)>', page)
    assert found == [
        (f"{links.EXPLORER}#run=c0ffee", "run c0ffee", ""),
        (f"{links.EXPLORER}#run=decade", "2 runs, the first decade", ' data-runs="decade facade"'),
    ]
    assert 'role="group"' in page
    assert 'role="img"' not in page


def test_a_file_that_is_taken_away_has_no_links(drawn):
    saved, _, file = drawn(POINTS)
    assert links.names_runs(saved)
    assert not links.names_runs(file)
    assert "<a " not in file
    assert file.count("<use") == saved.count("<use")


@pytest.mark.parametrize(
    "table", [POINTS.drop(columns="run_id"), POINTS.assign(run_id=None)], ids=["no column", "empty"]
)
def test_without_runs_the_figure_is_an_image(drawn, table):
    saved, page, _ = drawn(table)
    assert not links.names_runs(saved)
    assert 'role="img"' in page
    assert "<a " not in page
