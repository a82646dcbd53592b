"""The page of what we trained: tables from the ledger, and departures that are really there."""

from __future__ import annotations

import chapters
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from moe_leverage import ledger
from moe_leverage.analysis.gates import MOST_LOAD, gates
from moe_leverage.figures import granularity, limits, trained
from moe_leverage.page import registry
from moe_leverage.page.chapter import runs_of


@pytest.fixture(scope="module")
def ladders():
    return trained.ladders()


@pytest.fixture(scope="module")
def first(ladders):
    return ladders["first ladder"]


def test_a_ladder_holds_no_pilot_and_each_run_once(ladders):
    for protocol, runs in enumerate(ladders.values(), 1):
        assert set(runs["protocol"]) == {protocol}
        assert "pilot" not in set(runs["role"])
        assert runs["run_id"].is_unique


def test_no_law_and_no_claim_reads_the_archive():
    """Whatever a table of the ledger is asked for, it has no run of the first ladder."""
    old, now = (set(ledger.table(directory=of)["run_id"]) for of in trained.LADDERS.values())
    assert old
    assert not old & now
    assert ledger.verify(ledger.FIRST_LADDER) == []


def test_designs_count_every_run_of_the_ladder(first):
    rows = trained.designs(first)
    assert rows["runs"].sum() == len(first)
    assert rows["designs"].le(rows["runs"]).all()
    dense = rows[rows["family"] == "dense"]
    assert set(dense["experts"]) == {"–"}
    at_a_rung = first[first["role"] != "held out"]
    assert len(rows) == len(at_a_rung.groupby(["is_moe", "budget_flops"])) + 1


def test_a_span_is_one_word_where_nothing_varies(first):
    (row,) = trained.designs(first.head(1)).to_dict("records")
    assert " to " not in row["tokens"]


def test_gates_that_fail_come_first(first):
    studies = set(first["study"])
    rows = trained.gates_table(gates(first), studies)
    holds = rows["holds"].tolist()
    assert holds == sorted(holds)  # "no" before "yes"
    assert set(rows["study"]) <= studies


def test_a_departure_is_one_and_no_setting_of_the_paper_is_listed(ladders):
    rows, second = (trained.departures(of).set_index("setting") for of in ladders.values())
    assert rows.loc["initial standard deviation", "our runs"] == "0.02"
    assert "weight decay" not in rows.index
    assert "coefficient of the balance loss" not in rows.index  # the first ladder kept the paper's
    assert second.loc["coefficient of the balance loss", "our runs"] == "0.1"


def test_every_page_says_of_the_recipe_what_the_page_of_it_says(ladders):
    line = trained.recipe_line()
    for setting in trained.departures(ladders["second ladder"])["setting"]:
        assert setting.split(" (")[0] in line
    assert "coefficient of the balance loss (0.1 for 0.01)" in line
    for name in ("what-we-trained", "13-limits", "appendix-build-an-moe"):
        assert "trained.recipe_line()" in chapters.Chapter(name).text.read_text("utf-8")


def test_the_studies_of_granularity_say_what_they_trained():
    full, weak = runs_of("granularity"), runs_of("balance")
    said = granularity.protocol(full, weak)
    assert said.startswith("The study `granularity` trains granularities from 2 to 16 at ")
    assert "FLOPs with a balance loss of 0.1; `balance` repeats them at" in said
    assert "with a balance loss of 0.001. Every" in said
    assert "a weak balance loss has no run yet" in granularity.protocol(full, weak.iloc[:0])
    assert "no study" in granularity.protocol(full.iloc[:0], weak).lower()


def test_the_settings_tried_are_those_of_the_searches_alone():
    table = ledger.table()
    tried = limits.tuning(table)
    pd.testing.assert_frame_equal(tried, limits.tuning(table[table["role"] == "search"]))
    assert tried["settings tried"].max() < table["config_id"].nunique() / 4


def test_the_figure_counts_the_runs_beyond_the_limit(ladders):
    found = trained.loads(ladders)
    drawing = registry.draw("router-loads", found)
    first = found[found["ladder"] == "first ladder"]
    beyond = int((first["busiest_over_mean"] > MOST_LOAD).sum())
    assert f"{beyond} of {len(first)} runs of the first ladder" in drawing.finding
    second = found[(found["ladder"] == "second ladder") & (found["busiest_over_mean"] > MOST_LOAD)]
    weak = runs_of("balance")["run_id"]
    assert f"({second['run_id'].isin(weak).sum()} of them to study weak" in drawing.finding
    plt.close(drawing.figure)


def test_the_second_ladder_tunes_dense_models_no_worse(ladders):
    both = trained.dense_bests(ladders)
    assert (both["gap"] == both["first ladder"] - both["second ladder"]).all()
