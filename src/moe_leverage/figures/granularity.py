"""Figures of chapter 05: EL against the granularity of experts (Equations 8 and 11, Figures 6, 8b).

G    granularity 2 d_model / d_expert
A    activation ratio
C    training compute, FLOPs
EL   efficiency leverage
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from moe_leverage import ledger
from moe_leverage.audit.claims import Measurement
from moe_leverage.audit.pairs import gaps, mean_and_half_width
from moe_leverage.page import sweeps, theme
from moe_leverage.page.drawing import (
    STUDY_RANGE,
    draw_points,
    log_axes,
    note,
    percent,
    plain_ticks,
    points,
    power,
    ranges,
)
from moe_leverage.page.notation import axis_label
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.paper import STUDY_BUDGETS_FLOPS
from moe_leverage.studies.ladder import LADDER
from moe_leverage.theory.laws import JointLaw

TABLE_8_GRANULARITY = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0)
TABLE_8_ACTIVATION = 3 / 65  # E = 64, E_a = 2, E_s = 1, and the same for finer experts
BEST_RANGE = (8.0, 12.0)  # Section 1, second finding
BEST_RANGE_WEAK_BALANCE = (6.0, 8.0)  # Appendix D, Figure 12
COARSE = 2.0  # experts as wide as the model
LEAST_PAIRS = 3
BALANCE_ROLES = ("measured", "accent")  # inks of the ladder's own balance loss and of a weak one
OPTIMUM_COLUMNS = ("training_flops", "granularity", "balance_coefficient")


@figure(
    "leverage-granularity",
    paper="Figures 6 and 8b, Equation 11",
    data=("paper/coefficients.toml", "fits/leverage.csv", "fits/joint.json"),
    studies=("isoflop", "granularity"),
    caption="Efficiency leverage against granularity at the activation ratio of Table 8. Left: at "
    "four budgets. Right: EL over its own maximum, one curve for all budgets, since in Equation 13 "
    "compute and granularity do not interact; and our points over the largest of their budget.",
)
def leverage(
    law: JointLaw, measured: pd.DataFrame | None = None, fitted: JointLaw | None = None
) -> Drawing:
    """EL over G, plain and over the maximum; measured points are divided by their own maximum."""
    runs = points(measured)
    grain = np.geomspace(1.5, 24, 97)
    best = law.optimum_granularity
    fig, axes = plt.subplots(1, 2, figsize=(theme.WIDTH_INCHES * 1.45, 4.2))
    tables = []
    inks = theme.sequential_colours(len(STUDY_BUDGETS_FLOPS))
    for ink, budget in zip(inks, STUDY_BUDGETS_FLOPS, strict=True):
        fixed = {"activation_ratio": TABLE_8_ACTIVATION, "compute": budget}
        drawn = law(**fixed, granularity=grain)
        relative = drawn / law(**fixed, granularity=best)
        axes[0].plot(grain, drawn, color=ink, label=power(budget))
        table = {"granularity": grain, "efficiency_leverage": drawn, "over_maximum": relative}
        tables.append(pd.DataFrame(table).assign(series="published", training_flops=budget))
    share = tables[0]["over_maximum"]  # that of any budget
    axes[1].plot(grain, share, color=theme.colour("published"), label="Table 2, any budget")
    if fitted is not None:
        top = fitted.optimum_granularity
        fixed = {"activation_ratio": TABLE_8_ACTIVATION, "compute": LADDER[-1]}
        curve = fitted(**fixed, granularity=grain) / fitted(**fixed, granularity=top)
        axes[1].plot(grain, curve, "--", color=theme.colour("measured"), label="our fit")
    if len(runs):
        budgets = runs["training_flops"].map(ledger.rung)
        top_of = runs.groupby(budgets)["efficiency_leverage"].transform("max")
        shown = runs.assign(over_maximum=runs["efficiency_leverage"] / top_of)
        ladder = sorted(set(budgets))
        for ink, budget in zip(theme.sequential_colours(len(ladder)), ladder, strict=True):
            group, label = shown[budgets == budget], f"measured, {power(budget)}"
            draw_points(axes[1], group, "granularity", "over_maximum", colour=ink, label=label)
        tables.append(shown.assign(series="measured"))
    axes[0].set_ylabel(axis_label("efficiency_leverage"))
    axes[1].set_ylabel("EL over its maximum")
    for ax in axes:
        ax.set_xscale("log", base=2)
        ax.set_xlabel(axis_label("granularity"))
        plain_ticks(ax.xaxis, TABLE_8_GRANULARITY)
        ax.axvspan(*BEST_RANGE, color=theme.colour("grid"), alpha=0.5, lw=0)
    axes[0].legend(title="FLOPs", fontsize=9)
    axes[1].legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    note(fig, ranges(STUDY_RANGE, runs))
    gain = tables[0].set_index("granularity")["over_maximum"]
    coarse = float(np.interp(TABLE_8_GRANULARITY[0], gain.index, gain))
    finding = (
        f"The law's leverage is largest at G = {best:.1f}, inside the printed range "
        f"{BEST_RANGE[0]:.0f} to {BEST_RANGE[1]:.0f} (shaded); at {power(STUDY_BUDGETS_FLOPS[0])} "
        f"FLOPs experts of G = 2 reach {coarse:.0%} of it, and the optimum is the same at every "
        f"budget."
    )
    return Drawing(fig, pd.concat(tables, ignore_index=True), finding)


@figure(
    "granularity-optimum",
    paper="Sections 4.1.2 and Appendix D, Figure 12",
    data=("paper/coefficients.toml",),
    studies=("granularity", "balance"),
    caption="The best granularity against compute: the printed ranges under full and under "
    "weakened load balancing (bands), the optimum that Table 2 implies (line), and ours.",
)
def optimum(law: JointLaw, measured: pd.DataFrame | None = None) -> Drawing:
    """Bands of the text, the law's constant optimum, and measured optima by balance coefficient."""
    runs = points(measured, OPTIMUM_COLUMNS)
    fig, ax = plt.subplots()
    paper_reach = [STUDY_BUDGETS_FLOPS[0], STUDY_BUDGETS_FLOPS[-1]]
    bands = {
        "text, balance 0.01": (BEST_RANGE, "published"),
        "text, balance 0.001": (BEST_RANGE_WEAK_BALANCE, "accent"),
    }
    for label, ((low, high), role) in bands.items():
        ink = theme.colour(role)
        ax.fill_between(paper_reach, low, high, color=ink, alpha=0.25, lw=0, label=label)
    best = law.optimum_granularity
    ax.plot([1e11, 1e22], [best, best], ":", color=theme.colour("published"), label="Table 2")
    strongest_first = list(runs.groupby("balance_coefficient"))[::-1]
    for role, (coefficient, group) in zip(BALANCE_ROLES, strongest_first, strict=False):
        label = f"measured, balance {coefficient:g}"
        ink = theme.colour(role)
        draw_points(ax, group, "training_flops", "granularity", colour=ink, label=label)
    log_axes(ax, "training_flops", "granularity")
    plain_ticks(ax.yaxis, TABLE_8_GRANULARITY)
    ax.set_ylim(1.7, 19)
    ax.legend(loc="lower right")
    note(fig, ranges(STUDY_RANGE, runs))
    finding = (
        f"Table 2 puts the best granularity at {best:.1f} for every compute and every activation "
        f"ratio; the text gives {BEST_RANGE[0]:.0f} to {BEST_RANGE[1]:.0f}, and "
        f"{BEST_RANGE_WEAK_BALANCE[0]:.0f} to {BEST_RANGE_WEAK_BALANCE[1]:.0f} where the balance "
        f"loss is ten times weaker."
    )
    for coefficient, group in strongest_first:
        least, most = group["granularity"].agg(["min", "max"])
        finding += f" With a balance loss of {coefficient:g} ours is lowest at G = {least:.3g}"
        finding += f" to {most:.3g}." if most > least else "."
    law_line = {"training_flops": paper_reach, "granularity": best, "series": "published"}
    return Drawing(fig, pd.concat([pd.DataFrame(law_line), runs], ignore_index=True), finding)


@figure(
    "granularity-sensitivity",
    paper="Equation 13, granularity term",
    data=("paper/coefficients.toml",),
    caption="What the best granularity is worth: leverage at the optimum over leverage at G = 2, "
    "against the activation ratio. Compute cancels.",
)
def sensitivity(law: JointLaw) -> Drawing:
    """Gain of the optimum over G = 2 as a function of A."""
    activation = np.geomspace(3 / 257, 1.0, 61)
    best = law.optimum_granularity
    fine = law(activation_ratio=activation, granularity=best, compute=1e20)
    coarse = law(activation_ratio=activation, granularity=2.0, compute=1e20)
    table = pd.DataFrame({"activation_ratio": activation, "gain": fine / coarse})
    fig, ax = plt.subplots()
    ax.plot(activation, table["gain"], color=theme.colour("published"), label="Eq. 13, Table 2")
    log_axes(ax, "activation_ratio")
    plain_ticks(ax.xaxis, (0.01, 0.03, 0.1, 0.3, 1.0))
    ax.set_ylabel("EL at the best $G$ over EL at $G = 2$")
    ax.legend()
    note(fig, f"Published: {STUDY_RANGE}.")
    finding = (
        f"Choosing G = {best:.1f} instead of 2 multiplies the law's leverage by "
        f"{table['gain'].iloc[0]:.2f} at A = {percent(activation[0])} and by "
        f"{table['gain'].iloc[-1]:.2f} at A = 100 %: the sparser the model, the more it is worth."
    )
    return Drawing(fig, table, finding)


def protocol(full: pd.DataFrame, weak: pd.DataFrame) -> str:
    """What the two studies of granularity trained, from their runs, as one sentence."""
    if full.empty:
        return "No study of granularity has a finished run yet."
    grains = sorted(set(full["granularity"].round(1)))
    repeats = "; the one that repeats them with a weak balance loss has no run yet"
    if len(weak):
        repeats = f"; `{weak['study'].iloc[0]}` repeats them {_where(weak)}"
    return (
        f"The study `{full['study'].iloc[0]}` trains granularities from {grains[0]:g} to "
        f"{grains[-1]:g} {_where(full)}{repeats}. Every other setting is that of "
        "{doc}`what-we-trained`."
    )


def fine_against_coarse(runs: pd.DataFrame, law: JointLaw, failing: Sequence[str] = ()) -> str:
    """Losses of the best range of G less those of G = 2, at equal budget and seed, in words.

    Mean and 90 % interval are those of `audit.pairs`. Nothing is said while a gate fails, nor
    without three pairs.
    """
    if failing:
        return f"Nothing is said of it while gates of our runs fail: {', '.join(failing)}."
    at = ["budget_flops", "seed"]
    fine = runs[runs["granularity"].between(*BEST_RANGE)].groupby(at)["loss_nats"].mean()
    coarse = runs[runs["granularity"].round() == COARSE].groupby(at)["loss_nats"].mean()
    found = gaps(fine, coarse)
    if len(found) < LEAST_PAIRS:
        return ""
    mean, wide = mean_and_half_width(found)
    fixed = {"activation_ratio": TABLE_8_ACTIVATION, "compute": STUDY_BUDGETS_FLOPS[0]}
    saved = law(**fixed, granularity=BEST_RANGE[0]) / law(**fixed, granularity=COARSE) - 1
    side = "above" if mean > 0 else "below"
    start = (
        f"At equal budget and seed the loss of experts of the paper's best range (G = "
        f"{BEST_RANGE[0]:g} to {BEST_RANGE[1]:g}) ends {abs(mean):.3f} nats {side} that of experts "
        f"as wide as the model (G = {COARSE:g}; {mean - wide:+.3f} to {mean + wide:+.3f}, "
        f"{len(found)} pairs), where by the law they have at least {saved:.0%} more leverage"
    )
    if mean - wide > 0:
        return f"{start}: in models this small finer experts cost more than they give."
    if mean + wide < 0:
        return f"{start}: finer experts pay in small models too."
    return f"{start}: which of the two is better cannot be told."


def bent_as_published(law: JointLaw, bend: Measurement, dense: pd.DataFrame) -> str:
    """How sharply a loss would bend in ln G if the law held, beside how it does, in words.

    The law's ln EL has the curvature c in ln G at A = 4.6 %, whatever the compute; a loss that
    falls by s nats per ln C loses s |c|. `bend` is the curvature that was measured, `dense` the
    budgets and the lowest dense losses that s is read off.
    """
    if bend.effect is None or len(dense) < 2:
        return ""
    grain = np.geomspace(TABLE_8_GRANULARITY[0], TABLE_8_GRANULARITY[-1], 50)
    fixed = {"activation_ratio": TABLE_8_ACTIVATION, "compute": STUDY_BUDGETS_FLOPS[0]}
    saved = np.log(law(**fixed, granularity=grain))
    slope = np.polyfit(np.log(dense["compute"]), dense["loss"], 1)[0]
    asked = float(slope * np.polyfit(np.log(grain), saved, 2)[0])
    start = (
        f"If the loss bent in ln G as the published law's leverage does, at the {-slope:.2f} nats "
        f"that our dense models gain per ln C, its curvature would be {asked:.3f} nats; it is "
        f"{bend.effect:+.3f} ({bend.low:+.3f} to {bend.high:+.3f})"
    )
    if asked > bend.high:
        return (
            f"{start}. An optimum as sharp as the law's would have been seen with these runs: what "
            "is missing is the bend, and further seeds would not bring it."
        )
    if asked < bend.low:
        return f"{start}, so that the optimum is sharper here than the law's."
    times = ((bend.high - bend.low) / 2 / asked) ** 2
    rest = f"about {times:.0f} times the runs would tell" if times > 1 else "these runs should tell"
    return f"{start}, which leaves room for such an optimum; {rest} it from none."


def _where(runs: pd.DataFrame) -> str:
    """At which budgets and with which balance loss."""
    budgets = ", ".join(map(power, sorted(set(runs["budget_flops"]))))
    losses = ", ".join(f"{value:g}" for value in sorted(set(runs["routing.balance_coefficient"])))
    return f"at {budgets} FLOPs with a balance loss of {losses}"


@figure(
    "loss-granularity",
    paper="Figures 6a and 12",
    studies=("granularity", "balance"),
    caption="Held-out loss against granularity at each budget of our ladder, with full and with "
    "weakened balance loss. Points: means over seeds, with the 90 % interval of the noise "
    "between seeds. Dashed: parabolas in log G. Band: where the text puts the best.",
)
def losses(runs: pd.DataFrame, repeated: pd.DataFrame | None = None) -> Drawing:
    """Loss over G, a panel a budget; `runs` are those of the two studies of granularity."""
    strongest_first = sorted(set(runs["routing.balance_coefficient"]), reverse=True)
    names = {value: f"balance loss {value:g}" for value in strongest_first}
    labels = runs["routing.balance_coefficient"].map(names)
    axis = sweeps.Axis(
        name="granularity", label=axis_label("granularity"), symbol="G", band=BEST_RANGE,
        ticks=TABLE_8_GRANULARITY,
    )  # fmt: skip
    means = sweeps.means_of(runs, axis.name, labels, repeated)
    roles = dict(zip(names.values(), BALANCE_ROLES, strict=False))
    return sweeps.draw(means, axis, roles, fits=tuple(roles))


def loads(runs: pd.DataFrame) -> pd.DataFrame:
    """How evenly the experts of these runs are used: G by balance loss, means over all budgets.

    `busiest` is the load of the busiest expert over the mean of its layer, `idle` the share of
    experts that no token visits, each of the worst layer and on held-out text.
    """
    kept = runs.assign(
        G=runs["granularity"].round(2),
        balance=runs["routing.balance_coefficient"].map("balance loss {:g}".format),
        busiest=runs["load.max_over_mean"].map(max),
        idle=100 * runs["load.idle_experts"].map(max) / runs["num_experts"],
    )
    names = {"busiest": "busiest over mean", "idle": "idle (%)"}
    parts = [
        kept.pivot_table(index="G", columns="balance", values=of).add_prefix(f"{name}, ")
        for of, name in names.items()
    ]
    return pd.concat(parts, axis=1).reset_index()
