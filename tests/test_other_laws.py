"""Chapters 14 and 15 on the page: the laws drawn and tabled side by side."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from moe_leverage.design import huggingface
from moe_leverage.design.designer import explain
from moe_leverage.evidence import scores
from moe_leverage.figures import other_laws, public_runs
from moe_leverage.page.registry import draw
from moe_leverage.theory.laws import PUBLISHED
from moe_leverage.theory.printed import printed_laws


@pytest.fixture(scope="module")
def curves():
    return other_laws.curves(other_laws.layouts(), np.geomspace(1e18, 1e24, 13))


def test_what_is_solid_lies_within_the_runs_of_its_law(curves):
    drawing = draw("leverage-by-law", curves)
    solid = [
        line
        for ax in drawing.figure.axes
        for line in ax.lines
        if line.get_linestyle() == "-" and line.get_linewidth() > 2
    ]
    drawn = sum(int(np.isfinite(line.get_ydata()).sum()) for line in solid)
    assert drawn == int(curves["in_domain"].sum()) > 0
    tian = curves[(curves["law"] == "tian-2025") & curves["in_domain"]]
    low, high = PUBLISHED.joint.domain["compute"]
    assert tian["training_flops"].between(low * 0.999, high * 1.001).all()
    plt.close(drawing.figure)


def test_laws_within_their_runs_are_not_far_apart(curves):
    assert 1 < other_laws.apart_inside(curves) < 3


def test_a_printed_leverage_lies_where_its_law_is(curves):
    near = curves[curves["law"] == "krajewski-2024"].query("layout.str.startswith('1 in 64')")
    at = near.iloc[(np.log(near["training_flops"] / 1e20)).abs().argmin()]
    point = other_laws.POINTS.query("compute == 1e20")["efficiency_leverage"].iloc[0]
    assert at["efficiency_leverage"] == pytest.approx(point, rel=0.1)


def test_the_spread_over_laws_grows_with_compute():
    table = other_laws.spread(other_laws.layouts(), (1e20, 1e22, 1e24))
    for _, group in table.groupby("layout"):
        assert group["most over least"].is_monotonic_increasing
        assert (group["least"] <= group["median"]).all()
        assert (group["at own optimum"] <= group["most over least"]).all()
    assert table["most over least"].max() > 100


def test_laws_agree_on_sparsity_and_part_over_compute():
    trends = other_laws.trends().set_index("law")
    assert (trends["A halved"] > 1).all()
    fixed = trends.index.str.startswith("Clark")
    assert (trends["C times 100"][fixed] < 1).all()
    assert (trends["C times 100"][~fixed] > 1).all()
    knowing = trends[trends["G doubled"] != 1]
    assert len(knowing) == 2
    assert (knowing["G from 16 to 32"] < 1).all()


def test_the_gallery_marks_what_is_extrapolated():
    table = other_laws.gallery_under_every_law([explain(huggingface.load("Mixtral-8x7B"))])
    titles = [law.title for law in other_laws.answering()]
    assert set(titles) < set(table.columns)
    assert all(table[title].iloc[0].endswith("*") for title in titles)
    assert table["this book's own runs"].iloc[0] == "–"


def test_every_law_has_a_row_and_the_silent_ones_their_reason():
    table = other_laws.laws_table()
    assert len(table) == len(printed_laws())
    silent = table[table["variables"] == ""]
    assert len(silent) == 2
    reasons = {law.missing for law in printed_laws() if not law.form}
    assert set(silent["read so, or silent since"]) == reasons
    assert min(map(len, reasons)) > 10
    assert other_laws.remarks().count("\n- ") == len(table) - 1
    assert public_runs.remarks().count("Counted: ") == len(public_runs.sources_table()) == 3


def test_the_table_of_worth_is_sorted_and_leaves_open_what_is_open():
    table = public_runs.scores_wide()
    factors = table[scores.PUBLIC].str.split().str[0].astype(float)
    assert factors.is_monotonic_increasing
    assert not table[scores.RANGES[0][0]].str.contains(r"\(").any()
    assert table[scores.PUBLIC].str.contains(r"\(").all()
