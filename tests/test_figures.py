"""Every registered figure is drawn: the published side alone, and measured rows beside it."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from moe_leverage import ledger, paper
from moe_leverage.analysis.fitting import fit
from moe_leverage.audit.claims import Measurement
from moe_leverage.config import ModelConfig, RunConfig
from moe_leverage.design import huggingface
from moe_leverage.design.designer import explain
from moe_leverage.design.limits import Limits
from moe_leverage.evidence import scores
from moe_leverage.evidence.sources import points_table
from moe_leverage.figures import (
    activation_ratio,
    flops_accounting,
    granularity,
    hyperparameter_laws,
    joint_law,
    limits,
    ling_mini_beta,
    other_choices,
    other_laws,
    second_pilot,
    shared_experts,
    trained,
    two_families,
)
from moe_leverage.figures.beyond_the_paper import frontier_table, gallery_table
from moe_leverage.model import counter
from moe_leverage.modules import import_modules
from moe_leverage.page import chapter as page
from moe_leverage.page import drawing, links, measured, theme
from moe_leverage.page import phone as narrow
from moe_leverage.page.notation import axis_label, notation
from moe_leverage.page.registry import ENTRIES, draw, save
from moe_leverage.paths import DATA
from moe_leverage.studies.catalogue import STUDIES
from moe_leverage.theory.laws import PUBLISHED, PowerLaw

import_modules("moe_leverage.figures")

PHONE_PIXELS = 342  # what the page leaves for a figure on a screen of 390
TABLE_7 = paper.table(7)
SMALL = {"vocab_size": 64, "num_layers": 1, "d_model": 16, "num_heads": 2, "num_kv_heads": 1}


def points(**columns):
    return pd.DataFrame(
        {
            "training_flops": [1e12, 1e13],
            "budget_flops": [1e12, 1e13],
            "activation_ratio": [3 / 65, 3 / 65],
            "granularity": [2.0, 8.0],
            "efficiency_leverage": [0.8, 1.1],
            "leverage_low": [0.7, 1.0],
            "leverage_high": [0.9, 1.3],
            "run_id": ["a" * 12, "b" * 12],
        }
        | columns
    )


def record(loss, **more):
    run = RunConfig(
        model=ModelConfig(**SMALL, d_ffn=48), corpus="smoke", sequence_length=8,
        batch_sequences=2, num_steps=3, learning_rate=1e-3,
    )  # fmt: skip
    results = {
        "validation_loss_nats": loss,
        "validation_standard_error_nats": 0.01,
        "training_loss_curve_nats": [4.0, 3.5, loss],
    }
    return ledger.describe(run) | results | more


def baseline(low=1.8, value=2.0, high=2.2):
    """EL of one design at three budgets: open below, a number, a number, and a bound at the top."""
    rows = {
        "training_flops": [1e11, 1e12, 1e13, 3e13],
        "efficiency_leverage": [1.0, 1.1, value, np.nan],
        "leverage_low": [0.0, 0.9, low, np.nan],
        "leverage_high": [1.2, 1.3, high, np.nan],
        "at_least": [np.nan, np.nan, np.nan, 1.0],
        "run_id": list("abcd"),
    }
    design = {"activation_ratio": 3 / 65, "granularity": 2.0, "estimator": "frontier"}
    other = pd.DataFrame(rows).assign(**design | {"estimator": "joint"}, leverage_low=9.0)
    return pd.concat([pd.DataFrame(rows).assign(**design, loss=3.0), other], ignore_index=True)


def best_sizes():
    return pd.DataFrame(
        {
            "family": ["dense", "moe"] * 2,
            "training_flops": [1e12, 1e12, 1e13, 1e13],
            "loss_nats": [3.4, 3.3, 2.7, 2.5],
            "loss_nats_low": [3.3, 3.2, 2.6, 2.4],
            "loss_nats_high": [3.5, 3.4, 2.8, 2.6],
            "run_id": list("abcd"),
        }
    )


def settings():
    table = TABLE_7.drop_duplicates("training_flops")
    return table.assign(batch_tokens=table["batch_sequences"] * 4096)


def allocation_laws():
    return {
        (family, column): getattr(PUBLISHED, f"{family}_{name}")
        for family in ("dense", "moe")
        for column, name in (("flops_per_token", "model"), ("num_tokens", "tokens"))
    }


def own_fits():
    compute = 10.0 ** np.arange(11, 16)
    table = pd.DataFrame(
        {"family": ["dense"] * 5 + ["moe"] * 5, "compute": np.tile(compute, 2)}
    ).assign(
        loss=lambda t: np.where(
            t["family"] == "dense", 9 * t["compute"] ** -0.03, 9.5 * t["compute"] ** -0.033
        )
    )
    fits = {
        family: fit(PowerLaw, group.to_dict("list"), "loss", resamples=50)
        for family, group in table.groupby("family")
    }
    return table, fits


JOINT = PUBLISHED.joint
RATE, BATCH = PUBLISHED.learning_rate, PUBLISHED.batch_tokens
SIZES = pd.concat([paper.counted(n).assign(table=n) for n in (7, 8)])
FLOPS = flops_accounting.flops_table(
    {f"width {m.d_model}": m for m in paper.models(7) if m.num_experts == 64}, 4096
)
CONVENTIONS = pd.DataFrame({"convention": ["one", "other"], "activation_ratio": [0.031, 0.034]})
OPTIMA = points(learning_rate=[1e-2, 8e-3], batch_tokens=[2048.0, 4096.0], family=["dense", "moe"])
MINIMA = points(flops_per_token=[1e6, 2e6], num_tokens=[1e6, 5e6], family=["dense", "moe"])


# name: (published inputs, measured rows or None where a figure has no measured side)
def course():
    names = ("balance loss", "selection bias", "no balancing")
    steps = [
        {"steps": step, "entropy": 0.9, "max_over_mean": 2.0, "idle_experts": step}
        for step in (0, 9)
    ]
    return pd.DataFrame([row | {"balancing": name} for name in names for row in steps])


INPUTS = {
    "flops-by-component": ((FLOPS, "Table 7"), None),
    "flops-conventions": ((FLOPS, "Table 7"), None),
    "hyperparameter-laws": ((RATE, BATCH, settings()), OPTIMA),
    "hyperparameter-plane": ((RATE, BATCH), OPTIMA),
    "allocation-laws": ((allocation_laws(),), MINIMA),
    "allocation-ratio": (
        (PUBLISHED.dense_model, PUBLISHED.moe_model, 1e14),
        points(model_ratio=[1.2, 0.9], model_ratio_low=[1.1, 0.8], model_ratio_high=[1.3, 1.1]),
    ),
    "saturation": ((JOINT, SIZES["activation_ratio"].drop_duplicates()), None),
    "leverage-activation": ((JOINT,), points()),
    "live-training": (({"dense": record(3.0), "moe": record(3.1)},), None),
    "leverage-granularity": ((JOINT,), points()),
    "granularity-optimum": ((JOINT,), points(balance_coefficient=[0.01, 0.001])),
    "granularity-sensitivity": ((JOINT,), None),
    "shared-optimum": ((paper.table(9),), points(shared_ratio=[0.1, 0.2])),
    "leverage-landscape": ((JOINT,), None),
    "leverage-compute": ((JOINT,), points()),
    "leverage-map": ((JOINT,), points(leverage_low=[0.7, 1.05])),
    "leverage-over-compute": ((JOINT,), baseline().query("estimator == 'frontier'")),
    "two-frontiers": ((best_sizes(), baseline()), None),
    "logarithm-bases": ((joint_law.bases_table(JOINT), ("10", "2")), None),
    "fit-points": ((SIZES, JOINT), None),
    "benchmark-profile": ((paper.table(4),), None),
    "ling-leverage": ((JOINT, CONVENTIONS, 10.7, 1e22, 6.0), None),
    "attention-share": (
        (paper.counted(11),),
        points(attention_share=[0.3, 0.4], flops_per_token=[5e5, 2e6]),
    ),
    "dense-first": ((paper.counted(10),), None),
    "open-models": (
        (
            gallery_table([explain(huggingface.load(n)) for n in ("DeepSeek-V3", "OLMoE-1B-7B")]),
            JOINT,
        ),
        None,
    ),
    "design-frontier": (
        (
            frontier_table({"as Table 1": Limits(compute=1e22)}),
            explain(huggingface.load("Ling-mini-beta")),
        ),
        None,
    ),
    "break-even": ((JOINT,), points()),
    "own-losses": (own_fits(), None),
    "router-balance": ((course(),), None),
    "public-leverage": ((points_table(),), None),
    "law-scores": ((scores.score_table(),), None),
    "leverage-by-law": (
        (other_laws.curves(other_laws.layouts(), np.geomspace(1e19, 1e23, 5)),),
        None,
    ),
}


def test_the_leverage_of_the_baseline_is_told_for_each_outcome():
    grows = two_families.in_words(baseline(), JOINT)
    assert "(A = 4.6 %, G = 2), dense models need 1.1 (0.9 to 1.3) times its compute" in grows
    assert "at 1e12 FLOPs and 2.0 (1.8 to 2.2) times at 1e13" in grows
    assert "mixtures win from 7e14 on" in grows
    assert "leverage grows" in grows
    assert "gives 0.68, below what was measured" in grows
    last = {"low": (1.8, 0.5, 1.0), "value": (2.0, 0.7, 1.2), "high": (2.2, 0.8, 1.5)}
    falls, open_ = (
        two_families.in_words(baseline(*(last[name][which] for name in last)), None)
        for which in (1, 2)
    )
    assert "leverage falls" in falls
    assert "leaves open" in open_
    inside = two_families.in_words(baseline(0.5, 0.7, 0.8), JOINT)
    assert "gives 0.68, inside" in inside
    above = two_families.in_words(baseline(0.3, 0.4, 0.5), JOINT)
    assert "above what was measured" in above
    unbounded = two_families.in_words(baseline(high=np.inf), None)
    assert "and 2.0 (at least 1.8) times at 1e13" in unbounded
    shut = two_families.in_words(baseline(), JOINT, ("sized", "complete"))
    assert "is not decided" in shut
    assert shut.endswith("this does not: sized, complete.")
    assert "No leverage" in two_families.in_words(baseline().iloc[:0], JOINT)


def sweep(axis, values, **more):
    """Runs of two budgets along an axis, the second seed of each with a little noise."""
    rows = [
        ledger.describe(RunConfig(
            model=ModelConfig(**SMALL, num_experts=8, num_active_experts=2, num_shared_experts=1,
                              d_expert=8),
            corpus="smoke", sequence_length=8, batch_sequences=2, num_steps=3, learning_rate=1e-3,
        )) | {"budget": budget, axis: value, "seed": seed, "number": place}
        for budget in (1e12, 3e12)
        for place, value in enumerate(values)
        for seed in (0, 1)
    ]  # fmt: skip
    frame = pd.DataFrame(rows).assign(
        status="ok", excluded=None, training_flops=lambda t: t["budget"],
        budget_flops=lambda t: t["budget"], family="moe", is_moe=True, sequence_length=8,
        config_id=lambda t: t["budget"].astype(str) + t["number"].astype(str), batch_tokens=32,
        attention_share=lambda t: 0.1 * t["number"], d_model=16, num_layers=1,
        flops_per_token=lambda t: t["number"] * 1e5 + 2e5, num_steps=3, num_tokens=48,
        loss_nats=lambda t: 4 - 0.1 * np.log10(t["budget"]) + 0.01 * (t["number"] - 2) ** 2
        + 0.002 * t["seed"],
        training_loss_curve_nats=[[4.0, 3.5, 3.0]] * len(rows),
        run_id=[f"{i:012x}" for i in range(len(rows))],
    )  # fmt: skip
    fixed = {
        "activation_ratio": 0.1, "granularity": 2.0, "learning_rate": 1e-3, "batch_sequences": 4,
        "num_steps": 3,
        "forward_flops.attention_projections": 1e5, "forward_flops.attention_scores": 1e4,
        "routing.balance_coefficient": 0.01, "routing.bias_update_rate": 0.0,
    }  # fmt: skip
    frame = frame.assign(**{name: value for name, value in fixed.items() if name != axis})
    return frame.assign(**{axis: [values[i] for i in frame["number"]]} | more)


RATES = sweep("learning_rate", [1e-3, 2e-3, 4e-3, 8e-3])
BOTH = sweep("activation_ratio", [0.02, 0.1, 0.3]).assign(
    family=lambda t: np.where(t["number"] == 1, "dense", "moe")
)
ALLOCATED = sweep("number", [0, 1, 2, 3, 4])
PAIR = sweep("seed", [0, 1]).assign(family=lambda t: np.where(t["number"] == 1, "moe", "dense"))
WAYS = pd.concat(
    points(agree=[True, False], estimator=name) for name in ("frontier", "joint", "power curves")
)
EIGHT = points(predicted_leverage=[0.9, 1.0], part=["fitted", "joint study"])
ROUTED = sweep("activation_ratio", [0.02, 0.1]).assign(
    **{"routing.bias_update_rate": lambda t: np.where(t["seed"] == 0, 0.0, 1e-3)}
)
SPREADS = second_pilot.spreads(second_pilot.noise_table(page.runs_of("noise-pilot")))
INPUTS |= {  # figures of our own runs alone
    "loss-landscape": ((RATES,), None),
    "loss-check": ((sweep("learning_rate", [1e-3, 2e-3, 4e-3]),), None),
    "loss-allocation": ((ALLOCATED, MINIMA.assign(loss=3.0), ALLOCATED), None),
    "loss-activation": ((BOTH,), None),
    "loss-granularity": ((sweep("granularity", [2.0, 4.0, 8.0, 12.0, 16.0]),), None),
    "loss-shared": ((sweep("shared_ratio", [0.0, 0.1, 0.3, 0.5]),), None),
    "loss-dense-first": ((sweep("num_dense_layers", [0, 1, 2]),), None),
    "loss-attention": ((sweep("forward_flops.attention_projections", [4e4, 8e4, 1e5]),), None),
    "loss-bias-routing": ((ROUTED,), None),
    "law-against-points": ((EIGHT,), None),
    "estimators": ((WAYS,), None),
    "nano-beta-curves": ((PAIR,), None),
    "pilot-gates": ((page.runs_of("pilot", directory=ledger.FIRST_LADDER),), None),
    "pilot-rates": ((page.runs_of("pilot", directory=ledger.FIRST_LADDER),), None),
    "routing-pilot": ((second_pilot.routing_table(page.runs_of("routing-pilot")),), None),
    "noise-pilot": ((SPREADS,), None),
    "loss-upcycled": ((page.runs_of("upcycling"),), None),
    "loss-by-domain": ((page.runs_of("upcycling"),), None),
    "journey-errors": ((page.runs_of("average-parameters"),), None),
    "journey-windows": ((page.runs_of("average-parameters"),), None),
    "seed-noise": ((limits.noise_of_ladders(trained.ladders()),), None),
    "router-loads": ((trained.loads(trained.ladders()),), None),
}
CURVES = {"nano-beta-curves"}  # of whole runs, without marks
COLOURED_BY_LAW = {"law-scores"}  # where a colour of our runs may be another group's law
MEASURED = [name for name, (_, rows) in INPUTS.items() if rows is not None]


def chapter_figures():
    ours = "moe_leverage.figures."
    return {name for name, entry in ENTRIES.items() if entry.function.__module__.startswith(ours)}


def marks(ax: Axes) -> int:
    return len(ax.lines) + len(ax.collections) + len(ax.patches) + len(ax.containers)


def require_sound(drawing):
    visible = [ax for ax in drawing.figure.axes if ax.get_visible()]
    assert visible
    for ax in visible:
        assert marks(ax) > 0
        assert any(panel.get_xlabel() for panel in ax.get_shared_x_axes().get_siblings(ax))
        assert ax.get_ylabel() or ax is not visible[0]
        assert not re.search(r"\b[a-z]+_[a-z]+\b", re.sub(r"\$.*?\$", "", ax.get_xlabel()))
    assert len(drawing.table) > 0
    assert drawing.finding.endswith(".")
    assert re.search(r"\d", drawing.finding)
    assert "nan" not in drawing.finding
    plt.close(drawing.figure)


def test_every_figure_has_inputs_here():
    assert chapter_figures() <= set(INPUTS) | {"leverage-calculator"} | {
        name for name, entry in ENTRIES.items() if "audit" in entry.function.__module__
    }


@pytest.mark.parametrize("name", list(INPUTS))
def test_a_figure_fits_a_phone(name):
    published, rows = INPUTS[name]
    drawing = draw(name, *published, *([] if rows is None else [rows]))
    grid = [ax for ax in drawing.figure.axes if ax.get_subplotspec() is not None]
    narrow.make_narrow(drawing.figure)
    drawing.figure.canvas.draw()
    assert drawing.figure.get_tightbbox().width <= 1.02 * narrow.NARROW_INCHES
    assert all(ax.get_subplotspec().get_gridspec().ncols == 1 for ax in grid)
    smallest = min(t.get_fontsize() for t in drawing.figure.findobj(Text) if t.get_text())
    assert smallest * PHONE_PIXELS / (72 * narrow.NARROW_INCHES) >= 9
    plt.close(drawing.figure)


@pytest.mark.parametrize("name", list(INPUTS))
def test_a_figure_wears_no_colour_that_the_dark_theme_lacks(name, tmp_path):
    published, rows = INPUTS[name]
    svg = save(name, draw(name, *published, *([] if rows is None else [rows])), tmp_path)
    seen = re.sub(r"fill: #[0-9a-f]{6}; fill-opacity: 0\b(?!\.)", "", svg)
    lights = {light for light, _ in theme.variables().values()}
    assert set(re.findall(r"#[0-9a-f]{6}\b", seen)) <= lights
    plt.close("all")


@pytest.mark.parametrize("name", [name for name in INPUTS if ENTRIES[name].studies])
def test_every_mark_of_our_runs_leads_to_them(name, tmp_path):
    published, rows = INPUTS[name]
    drawing = draw(name, *published, *([] if rows is None else [rows]))
    assert links.bare_marks(drawing.figure) == 0 or name in COLOURED_BY_LAW
    if name not in CURVES:
        is_of_runs = "run_id" in drawing.table
        assert links.names_runs(save(name, drawing, tmp_path)) == is_of_runs
    plt.close("all")


def test_a_heat_map_has_every_setting_and_frames_the_near_optimal():
    drawing = draw("loss-landscape", RATES)
    panel, drawn = drawing.figure.axes[-2], drawing.table  # MoE alone; the row above is dense
    mine = drawn[drawn["budget_flops"] == drawn["budget_flops"].min()]
    assert sorted(t.get_text() for t in panel.texts) == sorted(
        f"{excess:.1f}" for excess in mine["excess_percent"]
    )
    assert len(panel.patches) == (mine["excess_percent"] <= 0.25).sum() == 1
    plt.close(drawing.figure)


def test_each_panel_of_a_narrow_figure_names_its_axes():
    fig, grid = plt.subplots(2, 2, sharex=True, sharey=True)
    for ax in grid[:, 0]:
        ax.set_ylabel("EL")
    for ax in grid[-1]:
        ax.set_xlabel("compute")
    narrow.make_narrow(fig)
    assert [ax.get_xlabel() for ax in grid.flat] == 4 * ["compute"]
    assert [ax.get_ylabel() for ax in grid.flat] == 4 * ["EL"]
    plt.close(fig)


def test_an_empty_place_of_a_grid_is_no_gap_in_a_column():
    fig, grid = plt.subplots(2, 2, sharex=True)
    grid[1, 1].set_visible(False)
    narrow.make_narrow(fig)
    assert fig.axes == [grid[0, 0], grid[0, 1], grid[1, 0]]
    assert fig.get_size_inches()[1] == 3 * narrow.PANEL_INCHES
    plt.close(fig)


def test_a_narrow_panel_takes_the_label_of_the_axis_that_it_shares():
    fig, grid = plt.subplots(2, 2, sharex="col", sharey="row")
    for ax, label in zip(grid[-1], ("A", "G"), strict=True):
        ax.set_xlabel(label)
    for ax, label in zip(grid[:, 0], ("EL", "loss"), strict=True):
        ax.set_ylabel(label)
    narrow.make_narrow(fig)
    assert [ax.get_xlabel() for ax in grid.flat] == ["A", "G", "A", "G"]
    assert [ax.get_ylabel() for ax in grid.flat] == ["EL", "EL", "loss", "loss"]
    plt.close(fig)


def test_a_narrow_legend_keeps_its_title():
    drawing = draw("open-models", *INPUTS["open-models"][0])
    (ax,) = drawing.figure.axes
    title = ax.get_legend().get_title().get_text()
    narrow.make_narrow(drawing.figure)
    assert title == ax.get_legend().get_title().get_text() == axis_label("granularity")
    plt.close(drawing.figure)


@pytest.mark.parametrize("name", sorted(chapter_figures()))
def test_a_figure_says_what_it_is_computed_from(name):
    entry = ENTRIES[name]
    made_later = "fits/"  # by make fits, once runs suffice
    assert all((DATA / file).exists() or file.startswith(made_later) for file in entry.data)
    assert set(entry.studies) <= set(STUDIES)
    assert entry.data or entry.studies or name == "own-losses"  # made up in the page


@pytest.mark.parametrize("name", INPUTS)
def test_the_published_side_stands_alone(name):
    require_sound(draw(name, *INPUTS[name][0]))


@pytest.mark.parametrize("name", MEASURED)
def test_measured_rows_are_drawn_beside_it(name):
    published, rows = INPUTS[name]
    alone, both = draw(name, *published), draw(name, *published, rows)
    assert sum(map(marks, both.figure.axes)) > sum(map(marks, alone.figure.axes))
    drawn = both.table.merge(rows, on=[c for c in rows.columns if c in both.table.columns])
    assert len(drawn) == len(rows)
    require_sound(alone)
    require_sound(both)


@pytest.mark.parametrize(
    "name", ["leverage-activation", "leverage-granularity", "leverage-compute"]
)
def test_a_fit_of_ours_is_a_second_curve(name):
    law = JOINT.with_bases(compute=12, granularity=2)
    alone, both = draw(name, JOINT), draw(name, JOINT, None, law)
    assert sum(map(marks, both.figure.axes)) > sum(map(marks, alone.figure.axes))
    plt.close("all")


def test_the_range_of_measured_runs_is_stated():
    drawing = draw("leverage-compute", JOINT, points())
    assert "Ours: 1e12 to 1e13 FLOPs" in drawing.figure.get_supxlabel()
    plt.close(drawing.figure)


def test_measured_rows_without_a_column_are_refused():
    with pytest.raises(ValueError, match="lacks leverage_low"):
        draw("leverage-compute", JOINT, points().drop(columns="leverage_low"))


def test_counter_agrees_with_the_formula_by_component():
    shape = {"vocab_size": 128, "num_layers": 2, "d_model": 32, "num_heads": 4, "num_kv_heads": 2}
    moe = ModelConfig(
        **shape, num_experts=8, num_active_experts=2, num_shared_experts=1, d_expert=16
    )
    for model in (moe, ModelConfig(**shape, d_ffn=48)):
        table = counter.counter_table(model, 32)
        assert (table["formula_flops"] == table["counter_flops"]).all()
        assert counter.training_over_forward(model, 32) == 3.0


def test_axis_labels_come_from_the_notation():
    assert axis_label("loss_nats") == "Held-out loss $L$ (nats per token)"
    assert notation()["code"].is_unique
    with pytest.raises(ValueError, match="colour"):
        axis_label("colour")


# --- our own runs as tables -------------------------------------------------------------------


def ledger_rows(losses):
    """A ledger of dense and MoE runs on three budgets, under the names of the notation."""
    rows = []
    for budget, by_family in losses.items():
        for (family, fineness), loss in by_family.items():
            ratio = 1.0 if family == "dense" else 3 / 33
            rows.append(
                {
                    "run_id": f"{len(rows):012x}",
                    "status": "ok",
                    "excluded": None,
                    "training_flops": budget,
                    "budget_flops": budget,
                    "batch_tokens": 2048,
                    "attention_share": 0.3,
                    "loss_nats": loss,
                    "family": family,
                    "activation_ratio": ratio,
                    "granularity": fineness,
                    "shared_ratio": 0.0 if family == "dense" else 1 / 3,
                    "flops_per_token": 1e6,
                    "num_tokens": budget / 3e6,
                    "learning_rate": 1e-2,
                    "batch_sequences": 8,
                    "sequence_length": 256,
                    "routing.balance_coefficient": 0.01,
                    "forward_flops.attention_projections": 2e5,
                    "forward_flops.attention_scores": 1e5,
                }
            )
    return pd.DataFrame(rows)


def law_losses(budget):
    dense = 30 * budget**-0.08
    return {
        ("dense", 2.0): dense,
        **{
            ("moe", g): 30 * (2 * budget) ** -0.08 * (1 + 0.01 * abs(g - 8))
            for g in (2.0, 8.0, 16.0)
        },
    }


def test_leverage_is_read_from_the_fits_of_the_ledger(tmp_path):
    table = pd.DataFrame(
        {
            "estimator": ["frontier", "frontier", "joint", "frontier", "frontier", "frontier"],
            "variant": ["", "weak", "", "", "", ""],
            "activation_ratio": 3 / 65,
            "granularity": [2.0, 2.0, 2.0, 8.0, 2.0, 2.0],
            "compute": [1.01e12, 1e12, 1e12, 1e12, 1e12, 5e11],
            "efficiency_leverage": [1.5, 1.4, 1.6, 1.7, None, 1.2],
            "low": [1.1, 1.0, 1.0, 0.9, 1.0, 1.0],
            "high": 2.0,
            "held_out": [False, False, False, False, False, True],  # by the joint study
        }
    )
    table.to_csv(tmp_path / "leverage.csv", index=False)
    found = measured.leverage_points(tmp_path, granularity=2)
    assert found["efficiency_leverage"].tolist() == [1.5]
    assert len(measured.leverage_points(tmp_path)) == 3
    (budget,) = measured.leverage_by_budget(tmp_path).to_dict("records")
    assert (budget["designs"], budget["above"], budget["below"]) == (2, 1, 0)
    assert (budget["lowest"], budget["highest"]) == (1.5, 1.7)
    assert measured.joint_law(tmp_path) is None


def test_the_best_granularity_is_found_at_every_budget():
    runs = ledger_rows({budget: law_losses(budget) for budget in (1e12, 1e13)})
    moe = runs[runs["family"] == "moe"]
    assert measured.best_by_budget(moe, "granularity")["granularity"].tolist() == [8.0, 8.0]


def test_the_ratio_of_two_optima_carries_the_noise_of_both():
    ends = {"dense": (100.0, 80.0, 130.0), "moe": (50.0, 45.0, 60.0)}
    names = ["flops_per_token", "flops_per_token_low", "flops_per_token_high"]
    minima = pd.DataFrame(list(ends.values()), columns=names)
    minima = minima.assign(family=list(ends), training_flops=1e12, run_id=["a b", "c"])
    (row,) = measured.allocation_ratio(minima).to_dict("records")
    assert row["model_ratio"] == pytest.approx(0.5)
    down, up = np.hypot(np.log(50 / 45), np.log(1.3)), np.hypot(np.log(1.2), np.log(100 / 80))
    assert row["model_ratio_low"] == pytest.approx(0.5 * np.exp(-down))
    assert row["model_ratio_high"] == pytest.approx(0.5 * np.exp(up))


def test_no_runs_give_empty_tables(tmp_path):
    empty = pd.DataFrame()
    assert measured.leverage_points(tmp_path).empty
    assert measured.hyperparameter_optima(empty).empty
    assert measured.allocation_minima(empty).empty
    assert measured.allocation_ratio(empty).empty
    assert measured.best_by_budget(empty, "granularity").empty


def test_captions_know_the_ladder_that_is_trained():
    assert "by 5 to 6 powers of ten" in ENTRIES["leverage-activation"].caption


@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("hyperparameter-laws", {f"{family}_learning_rate": RATE for family in ("dense", "moe")}),
        ("allocation-laws", {"dense_model": PUBLISHED.dense_model}),
    ],
)
def test_the_law_that_was_used_is_drawn_beside_the_refit(name, used):
    inputs, measured = INPUTS[name]
    drawn = draw(name, *inputs, measured, used=used)
    above = drawn.figure.axes[:2]  # what they show stands again below, over the printed law
    dashes = [line for ax in above for line in ax.lines if line.get_linestyle() == "-."]
    assert len(dashes) == len(used)
    column = next(column for column in drawn.table if column.endswith("_used"))
    assert set(drawn.table.loc[drawn.table[column].notna(), "family"]) == {
        key.split("_")[0] for key in used
    }
    compute = dashes[0].get_xdata()
    np.testing.assert_allclose(dashes[0].get_ydata(), next(iter(used.values()))(compute))
    assert not any(column.endswith("_used") for column in draw(name, *inputs, measured).table)


def test_while_a_gate_fails_the_map_reads_nothing_off_our_points():
    runs = points(leverage_low=[0.7, 1.05])
    shut = draw("leverage-map", JOINT, runs, JOINT, ("tuned", "control"))
    assert "decide nothing, since gates of their runs fail: tuned, control." in shut.finding
    assert "break-even" not in shut.finding
    open_ = draw("leverage-map", JOINT, runs, JOINT)
    assert "Our own fit puts break-even" in open_.finding


def test_a_panel_below_shows_the_one_above_as_multiples_of_a_law():
    law = PowerLaw(2.0, 0.5)
    x = np.array([1e10, 1e12])
    _, (above, below) = plt.subplots(2, 1)
    above.errorbar(x, 3 * law(x), yerr=law(x), fmt="o", color="red")
    above.fill_between(x, law(x), 2 * law(x))
    above.set_xlim(1e9, 1e13)
    drawing.draw_over(below, above, law, "num_tokens", "Table 1")
    assert below.get_ylabel() == "$D$ over Table 1"
    (points,) = below.get_lines()
    np.testing.assert_allclose(points.get_xydata(), [[1e10, 3], [1e12, 3]])
    assert points.get_color() == "red"
    bars, band = (np.vstack([p.vertices for p in c.get_paths()]) for c in below.collections)
    assert set(bars[:, 1].round(9)) == {2.0, 4.0}
    assert set(band[:, 1].round(9)) == {1.0, 2.0}
    assert below.get_xlim() == above.get_xlim()
    assert below.get_legend_handles_labels() == ([], [])


def test_loads_are_those_of_the_worst_layer_averaged_over_budgets():
    runs = pd.DataFrame(
        {
            "granularity": [2.0, 2.001, 8.0],
            "routing.balance_coefficient": [0.01, 0.01, 0.001],
            "load.max_over_mean": [(3.0, 1.0), (1.0, 5.0), (9.0, 2.0)],
            "load.idle_experts": [(0, 1), (0, 0), (8, 2)],
            "num_experts": [10, 10, 32],
        }
    )
    found = granularity.loads(runs).set_index("G")
    assert found.loc[2.0, "busiest over mean, balance loss 0.01"] == 4.0
    assert found.loc[2.0, "idle (%), balance loss 0.01"] == 5.0
    assert found.loc[8.0, "idle (%), balance loss 0.001"] == 25.0
    assert np.isnan(found.loc[8.0, "busiest over mean, balance loss 0.01"])


def test_the_best_activation_ratio_is_told_for_each_outcome():
    runs = pd.DataFrame(
        {
            "training_flops": [1e13] * 3,
            "activation_ratio": [0.02, 0.05, 0.3],
            "efficiency_leverage": [2.0, 2.4, 1.3],
            "leverage_low": [1.8, 2.1, 1.1],
            "leverage_high": [2.2, 2.9, 1.5],
        }
    )
    told = activation_ratio.best_ratio(runs)
    assert "at 1e13 FLOPs the largest EL is 2.4 (90 % interval 2.1 to 2.9), at A = 5.0 %" in told
    assert told.endswith("the sparsest, A = 2.0 %, cannot be told from it.")
    clear = runs.assign(leverage_high=[2.05, 2.9, 1.5])
    assert activation_ratio.best_ratio(clear).endswith("has clearly less.")
    steady = runs.assign(efficiency_leverage=[2.6, 2.4, 1.3])
    assert activation_ratio.best_ratio(steady).endswith(", the sparsest design.")
    assert "decide nothing while gates of their runs fail: covered." in activation_ratio.best_ratio(
        runs, ["covered"]
    )
    later = pd.concat([runs, runs.head(2).assign(training_flops=3e13)])
    assert activation_ratio.best_ratio(later) == told  # two designs do not tell


def test_the_law_far_below_its_runs_is_held_against_our_designs_for_each_outcome():
    runs = pd.DataFrame({"activation_ratio": [0.02, 0.05, 1.0], "granularity": 2.0,
                         "training_flops": 1e13, "leverage_low": [1.8, 0.9, 0.1],
                         "leverage_high": [2.2, 1.2, 0.2]})  # fmt: skip
    against = activation_ratio.beside_the_law(runs, PUBLISHED.joint)
    assert against.startswith("The law would have 2 of our 2 mixtures")
    assert "1 of these win (their whole 90 % interval lies above 1), 0 lose (below 1)" in against
    assert against.endswith("errs against mixtures.")
    lower = runs.assign(leverage_low=0.5, leverage_high=0.7)
    assert "the law points the right way" in activation_ratio.beside_the_law(lower, PUBLISHED.joint)
    wide = runs.assign(leverage_low=0.5, leverage_high=1.7)
    assert activation_ratio.beside_the_law(wide, PUBLISHED.joint).endswith("that tells nothing.")
    silent = activation_ratio.beside_the_law(runs, PUBLISHED.joint, ["sized"])
    assert "gates of our runs fail: sized" in silent


def test_fine_experts_are_held_against_coarse_ones_for_each_outcome():
    at = {"budget_flops": 1e13, "seed": [0, 1, 2, 0, 1, 2, 0, 1, 2]}
    runs = pd.DataFrame({**at, "granularity": [2.0] * 3 + [8.0] * 3 + [16.0] * 3,
                         "loss_nats": [2.5, 2.6, 2.4, 2.55, 2.66, 2.44, 9, 9, 9]})  # fmt: skip
    worse = granularity.fine_against_coarse(runs, PUBLISHED.joint)
    assert "0.050 nats above that of experts as wide as the model (G = 2; +0.033 to" in worse
    assert worse.endswith("finer experts cost more than they give.")
    better = runs.assign(loss_nats=-runs["loss_nats"])
    assert "finer experts pay" in granularity.fine_against_coarse(better, PUBLISHED.joint)
    even = runs.assign(loss_nats=[2.5, 2.6, 2.4, 2.55, 2.66, 2.34, 9, 9, 9])  # above on average
    assert "cannot be told" in granularity.fine_against_coarse(even, PUBLISHED.joint)
    assert granularity.fine_against_coarse(runs[runs["seed"] < 2], PUBLISHED.joint) == ""
    assert "fail: sized" in granularity.fine_against_coarse(runs, PUBLISHED.joint, ["sized"])


def test_a_first_shared_expert_is_weighed_pair_by_pair():
    rows = [
        (1e12, 0, 0, 3.30), (1e12, 0, 1, 3.34), (1e12, 1, 0, 3.28), (1e12, 1, 1, 3.34),
        (1e13, 0, 0, 2.50), (1e13, 0, 1, 2.49), (1e13, 1, 1, 2.0), (1e13, 0, 4, 1.0),
    ]  # fmt: skip
    names = ["budget_flops", "seed", "num_shared_experts", "loss_nats"]
    runs = pd.DataFrame(rows, columns=names)
    said = shared_experts.first_expert(runs)
    assert "by +0.050 nats at 1e12 (2), -0.010 nats at 1e13 (1)," in said
    assert shared_experts.first_expert(runs.query("num_shared_experts > 0")) == ""
    assert shared_experts.first_expert(runs.iloc[:0]) == ""


def test_the_check_of_rates_says_what_another_setting_would_have_saved():
    cross = sweep("learning_rate", [1e-3, 2e-3, 4e-3]).query("seed == 0").assign(batch_tokens=4096)
    better = cross.assign(loss_nats=cross["learning_rate"].map({1e-3: 3.1, 2e-3: 3.0, 4e-3: 2.94}))
    said = hyperparameter_laws.check(better).finding
    assert "lowest loss of its cross at 0 of" in said
    assert "Most is saved by 2 times the predicted rate at A =" in said
    assert "2.0 % of the loss" in said
    worse = cross.assign(loss_nats=cross["learning_rate"].map({1e-3: 3.1, 2e-3: 3.0, 4e-3: 3.2}))
    assert "saved" not in hyperparameter_laws.check(worse).finding


def test_attention_s_share_is_weighed_from_end_to_end_for_each_outcome():
    rows = [
        (budget, seed, share, loss + 0.01 * seed + wobble)
        for budget, ends in ((1e12, (0.16, 0.48)), (1e13, (0.2, 0.5)))
        for seed, wobble in ((0, 0.0), (1, 0.002), (2, -0.002))
        for share, loss in zip((ends[0], 0.3, ends[1]), (3.4, 2.0, 3.3 + wobble), strict=True)
    ]
    runs = pd.DataFrame(rows, columns=["budget_flops", "seed", "attention_share", "loss_nats"])
    said = other_choices.more_attention(runs)
    assert "changes the loss by -0.100 nats at 1e12 FLOPs (from 16 % to 48 %)," in said
    assert "-0.100 nats at 1e13 FLOPs (from 20 % to 50 %)," in said
    assert "6 pairs of one seed" in said
    assert said.endswith("the largest tried is the best.")
    worse = other_choices.more_attention(runs.assign(loss_nats=-runs["loss_nats"]))
    assert worse.endswith("the smallest tried is the best.")
    sign = runs["seed"].map({0: 1.0, 1: -1.0, 2: 0.0})
    even = runs.assign(loss_nats=sign * runs["attention_share"])
    assert other_choices.more_attention(even).endswith("cannot be told.")
    assert other_choices.more_attention(runs.query("seed == 0")) == ""
    assert other_choices.more_attention(runs.iloc[:0]) == ""


def test_the_pair_says_of_its_law_whether_it_saves_more_for_each_outcome():
    rows = [
        (family, seed, flops, loss + 0.1 * seed, "ok")
        for seed in range(3)
        for family, flops, loss in (("moe", 1e13, 2.5 - 0.002 * seed), ("dense", 1.75e13, 2.54))
    ]
    names = ["family", "seed", "training_flops", "loss_nats", "status"]
    runs = pd.DataFrame(rows, columns=names).assign(excluded=None)
    said = ling_mini_beta.seed_by_seed(runs)
    assert "gave the dense partner 1.75 times the compute" in said
    assert "ends 0.042 nats below it (-0.045 to -0.039, 3 pairs): the mixture saves more" in said
    less = runs.assign(loss_nats=-runs["loss_nats"])
    assert "saves less than the law said" in ling_mini_beta.seed_by_seed(less)
    noisy = runs.assign(
        loss_nats=runs["loss_nats"] + 0.2 * runs["seed"] * (runs["family"] == "moe")
    )
    assert ling_mini_beta.seed_by_seed(noisy).endswith("cannot be told from level.")
    assert ling_mini_beta.seed_by_seed(runs.query("seed < 2")) == ""
    assert ling_mini_beta.seed_by_seed(runs.query("family == 'moe'")) == ""


def test_a_bend_is_held_against_that_of_the_published_law():
    """ln EL = k ln(A^) (log2 G)^2 + ... bends by gamma ln(A^) / ln(2)^2 in ln G."""
    law, dense = PUBLISHED.joint, pd.DataFrame({"compute": [1e12, 1e13], "loss": [3.4, 2.7]})
    fixed = {"activation_ratio": 3 / 65, "compute": 2e18}
    saved = np.log(law(**fixed, granularity=np.array([4.0, 8.0, 16.0])))
    slope, step = 0.7 / np.log(10), np.log(2)
    asked = -slope * (saved[0] - 2 * saved[1] + saved[2]) / step**2 / 2

    def told(low, high):
        bend = Measurement(effect=(low + high) / 2, low=low, high=high)
        return granularity.bent_as_published(law, bend, dense)

    flat = told(-0.5 * asked, 0.5 * asked)
    assert f"curvature would be {asked:.3f} nats; it is +0.000" in flat
    assert flat.endswith("further seeds would not bring it.")
    assert told(2 * asked, 3 * asked).endswith("the optimum is sharper here than the law's.")
    assert "about 9 times the runs would tell it from none" in told(-2 * asked, 4 * asked)
    assert "these runs should tell it from none" in told(0.5 * asked, 1.5 * asked)


def test_a_series_that_begins_at_a_later_budget_has_its_place_in_the_legend():
    cells = [(1e12, 0.1), (1e13, 0.1), (1e13, 0.001)]
    runs = pd.DataFrame([
        {"budget_flops": budget, "routing.balance_coefficient": loss, "granularity": grain,
         "seed": 0, "loss_nats": 3.0, "status": "ok", "excluded": None, "run_id": f"{place}{grain}",
         "config_id": f"{place}{grain}"}
        for place, (budget, loss) in enumerate(cells) for grain in (2.0, 4.0, 8.0)
    ])  # fmt: skip
    drawn = granularity.losses(runs)
    said = [text.get_text() for text in drawn.figure.axes[0].get_legend().get_texts()]
    assert {"balance loss 0.1", "balance loss 0.001"} <= set(said)


def test_while_a_gate_fails_no_arrow_of_leverage_is_drawn():
    told = draw("two-frontiers", best_sizes(), baseline())
    silent = draw("two-frontiers", best_sizes(), baseline(), failing=("balanced",))
    assert (told.table["series"] == "leverage").any()
    assert not (silent.table["series"] == "leverage").any()
    assert "EL" not in "".join(t.get_text() for t in silent.figure.axes[0].texts)


def test_the_run_that_lies_off_is_named_and_the_gap_given_without_it():
    pair = pd.concat([PAIR, PAIR.assign(seed=PAIR["seed"] + 2)], ignore_index=True)
    pair.loc[:, "loss_nats"] = np.where(pair["family"] == "moe", 2.9, 3.0)
    plain = ENTRIES["nano-beta-curves"].function(pair).finding
    assert "farthest" not in plain
    assert "less its dense partner's is -0.100 nats" in plain
    place = pair.index[pair["family"] == "dense"][-1]
    pair.loc[place, "loss_nats"] = 3.4
    told = ENTRIES["nano-beta-curves"].function(pair).finding
    assert f"Seed {pair.loc[place, 'seed']} of the dense model" in told
    assert "+0.400 nats" in told
    assert "without it the difference is -0.100 nats" in told
