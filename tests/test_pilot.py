"""The pilot page says of the ledger what the ledger holds."""

import matplotlib.pyplot as plt
import pytest

from moe_leverage import ledger
from moe_leverage.figures import pilot
from moe_leverage.page.chapter import runs_of
from moe_leverage.page.registry import draw
from moe_leverage.studies import catalogue as studies
from moe_leverage.studies import protocol


@pytest.fixture(scope="module")
def runs():
    return runs_of("pilot", directory=ledger.FIRST_LADDER)


@pytest.fixture(scope="module")
def noise():
    return pilot.difference_noise(runs_of("hparams", directory=ledger.FIRST_LADDER))


def test_a_run_of_the_pilot_stands_in_no_study():
    own = set(ledger.statuses(ledger.FIRST_LADDER / "pilot.jsonl"))
    for study in studies.STUDIES:
        assert not own & set(ledger.statuses(ledger.DIRECTORY / f"{study}.jsonl")), study


@pytest.mark.parametrize("name", ["pilot-gates", "pilot-rates"])
def test_every_run_drawn_is_a_run_of_the_pilot(runs, name):
    drawing = draw(name, runs)
    assert set(drawing.table["run_id"]) <= set(runs["run_id"])
    assert drawing.table["loss_nats"].between(3, 6).all()
    plt.close(drawing.figure)


def test_every_run_of_the_pilot_is_shown(runs):
    table = pilot.settings(runs)
    shown = {
        run_id
        for name in ("pilot-gates", "pilot-rates")
        for run_id in draw(name, runs).table.run_id
    }
    setting = ["budget_flops", "num_experts", "d_model", "batch_tokens", "learning_rate"]
    others = table.groupby(setting)["init_std"].transform(lambda tried: (tried != 0.02).any())
    shown |= set(table.loc[others, "run_id"])
    plt.close("all")
    assert shown == set(runs["run_id"])


def test_what_the_page_says_of_gates(runs, noise):
    table = pilot.settings(runs).query("batch_tokens == 2048 and init_std == 0.02")
    loss = table.pivot_table(
        index=["num_experts", "learning_rate"], columns="family", values="loss_nats"
    )
    gain = (loss[pilot.RAW] - loss[pilot.RENORMALISED]).dropna()
    assert gain[64].iloc[:2].min() > 3 * noise  # the two smaller rates that both were tried at
    assert gain[256].iloc[0] > gain[64][gain[256].index[0]] + 3 * noise
    assert loss.loc[64, pilot.RAW].idxmin() == loss.loc[64, pilot.RAW].dropna().index.min()
    assert protocol.RENORMALISE


def test_what_the_page_says_of_batches_and_rates(runs):
    table = pilot.settings(runs).query("budget_flops == 1e12 and init_std == 0.02")
    for family in (pilot.DENSE, pilot.RENORMALISED):
        mine = table[(table["family"] == family) & (table["num_experts"] <= 64)]
        assert mine.groupby("batch_tokens")["loss_nats"].min().is_monotonic_increasing
        rates = sorted(mine["learning_rate"].unique())
        best = mine.loc[mine["loss_nats"].idxmin()]
        assert rates[0] < best["learning_rate"] < rates[-1]
        assert best["learning_rate"] == pytest.approx(2**-9, rel=0.1)
        assert best["batch_tokens"] > 256


def test_what_the_page_says_of_init(runs, noise):
    found = pilot.init_contrast(runs)
    assert 0 < found["init_most"] < noise
    small = runs[(runs["init_std"] == pilot.PAPER_INIT_STD) & (runs["num_experts"] == 64)].iloc[0]
    same = runs[(runs["init_std"] == pilot.INIT_STD) & (runs["num_experts"] == 64)]
    same = same[(same["learning_rate"] == small["learning_rate"]) & same["routing.renormalise"]]
    assert found["init_paper_moe"] == pytest.approx(small["loss_nats"] - same["loss_nats"].item())
    assert found["init_most"] >= -min(found.values())
    assert protocol.Point(budget_flops=1e12).init_std == pilot.INIT_STD


def test_totals_count_each_run_once():
    whole = ledger.table()
    table = pilot.totals(whole)
    last = table.iloc[-1]
    assert last["study"] == "all"
    assert last["runs"] == whole["run_id"].nunique() == table["runs"].iloc[:-1].sum()
    once = whole.drop_duplicates("run_id")
    assert last["FLOPs"] == pytest.approx(once["training_flops"].sum())
    assert last["diverged"] == (once["status"] == "diverged").sum()
