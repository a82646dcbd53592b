"""Figures of chapter 07 on our own runs: leverage read four ways, what they leave of Equation 13.

A    activation ratio
G    granularity
C    training compute, FLOPs
EL   efficiency leverage
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from moe_leverage.analysis.fitted import Fit
from moe_leverage.page import theme
from moe_leverage.page.drawing import (
    draw_points,
    log_axes,
    note,
    percent,
    plain_ticks,
    power,
    ranges,
)
from moe_leverage.page.links import link_runs
from moe_leverage.page.phone import TITLE_TOP
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.theory.laws import JointLaw

LEVERAGE_TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5)
ESTIMATORS = (  # name, colour and marker, in the order of a row
    ("frontier", "measured", "o"),
    ("joint", "accent", "s"),
    ("power curves", "published", "^"),
    ("floored curves", "muted", "D"),
)
PANELS_ACROSS = 3  # more are too narrow for their ticks
TESTS = {"held out": "kept from the fit", "ten folds": "of one fold of ten"}
COEFFICIENT_SYMBOLS = {
    "gamma": "$\\gamma$", "beta": "$\\beta$", "a": "$a$", "d": "$d$",
    "a_start": "$A_\\text{start}$", "a_max": "$A_\\text{max}$",
}  # fmt: skip


@figure(
    "law-against-points",
    paper="Figure 9",
    data=("paper/coefficients.toml", "fits/leverage.csv", "fits/joint.json"),
    studies=("isoflop", "activation", "granularity", "joint"),
    caption="Measured leverage of our models against the value that Equation 13, fitted to our own "
    "points, gives for them; on the diagonal both are equal. The largest sixth and the joint study "
    "were kept from the fit. Bars: 90 % intervals of the noise between seeds.",
)
def against_points(table: pd.DataFrame) -> Drawing:
    """Measured over predicted EL; `table` comes from `measured.predicted_points`."""
    fig, ax = plt.subplots(figsize=(theme.WIDTH_INCHES, 4.8))
    roles = {"fitted": "muted", "largest sixth": "measured", "joint study": "accent"}
    sentences = []
    for part, role in roles.items():
        group = table[table["part"] == part]
        if group.empty:
            continue
        ink = theme.colour(role)
        draw_points(ax, group, "predicted_leverage", "efficiency_leverage", colour=ink, label=part)
        error = np.log(group["efficiency_leverage"] / group["predicted_leverage"])
        root = float(np.sqrt((error**2).mean()))
        named = "fitted points" if part == "fitted" else f"points of the {part}"
        sentences.append(f"{math.expm1(root):.0%} on {len(group)} {named}")
    ends = [float(table[name].min()) for name in ("predicted_leverage", "efficiency_leverage")]
    tops = [float(table[name].max()) for name in ("predicted_leverage", "efficiency_leverage")]
    ax.plot([min(ends), max(tops)], [min(ends), max(tops)], "--", color=theme.colour("muted"), lw=1)
    log_axes(ax, "efficiency_leverage", "efficiency_leverage")
    for axis, low, high in zip((ax.xaxis, ax.yaxis), ends, tops, strict=True):
        plain_ticks(axis, [tick for tick in LEVERAGE_TICKS if low / 1.3 <= tick <= high * 1.3])
    ax.set_xlabel("EL by our own fit of Equation 13")
    ax.legend()
    note(fig, ranges("no point is printed", table))
    inside = table["predicted_leverage"].between(table["leverage_low"], table["leverage_high"])
    apart = table["part"] != "fitted"
    finding = (
        f"The root mean square error of the law is {', '.join(sentences)}; the prediction lies in "
        f"the interval of {int((inside & apart).sum())} of {int(apart.sum())} held-out points."
    )
    return Drawing(fig, table, finding)


def by_budget(budgets: pd.DataFrame, failing: Sequence[str] = ()) -> str:
    """The reach of measured leverage at our smallest and at our largest budget, in words.

    Nothing follows while gates of the runs are `failing`.

    >>> found = pd.DataFrame({"lowest": [0.9, 1.2], "highest": [1.0, 1.5]})
    >>> by_budget(found).split(", ")[1].split(". ")[0]
    'at our largest the designs have leverages from 1.20 to 1.50'
    >>> by_budget(found, ["tuned"]).split(". ")[1]
    'Nothing follows from that, since gates of these runs fail: tuned.'
    """
    first, last = budgets.iloc[0], budgets.iloc[-1]
    at = [_reach(f"{row['lowest']:.2f}", f"{row['highest']:.2f}") for row in (first, last)]
    text = f"At our smallest budget {at[0]}, at our largest {at[1]}."
    if failing:
        fail = ", ".join(failing)
        return f"{text} Nothing follows from that, since gates of these runs fail: {fail}."
    return (
        f"{text} Whether one and the same design saves more at more compute is asked of them in "
        "{doc}`04-activation-ratio`."
    )


def _reach(low: str, high: str) -> str:
    if low == high:
        return f"the leverage is {low}"
    return f"the designs have leverages from {low} to {high}"


def rivals_table(scores: pd.DataFrame) -> pd.DataFrame:
    """The errors of the laws by test, in words; `scores` comes from `measured.table_of("rivals")`.

    >>> row = {"test": "held out", "law": "FlooredPowerLaw", "num_coefficients": 3, "error": 0.1,
    ...     "held_out_error": 0.2, "num_held_out": 9, "aic": -8.0}
    >>> rivals_table(pd.DataFrame([row])).loc[0, ["unseen points", "law"]].tolist()
    ['kept from the fit', 'Floored power law']
    """
    return pd.DataFrame(
        {
            "unseen points": scores["test"].replace(TESTS),
            "law": scores["law"].map(_law_in_words),
            "coefficients": scores["num_coefficients"],
            "error, fitted": scores["error"],
            "error, unseen": scores["held_out_error"],
            "number unseen": scores["num_held_out"],
            "AIC": scores["aic"],
        }
    )


def best_rivals(scores: pd.DataFrame) -> str:
    """Which law errs least on points that it has not seen, test by test, in words."""
    first = scores.sort_values("held_out_error").groupby("test").first()
    return " ".join(
        f"On points {TESTS[str(test)]} the {_law_in_words(row['law']).lower()} errs least, "
        f"by {row['held_out_error']:.3f} in ln EL."
        for test, row in first.iterrows()
    )


def _law_in_words(name: str) -> str:
    """The name of a class as words: FlooredPowerLaw as "Floored power law"."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).capitalize()


def left_open(profiles: pd.DataFrame) -> str:
    """How many coefficients of Equation 13 our runs leave open, and what then stands, in words.

    >>> found = pd.DataFrame({"fit": "joint", "coefficient": ["a", "d"],
    ...     "verdict": ["not identified", "identified"]})
    >>> left_open(found).split(": ")[0]
    'Our runs leave open 1 of its 2 coefficients ($a$)'
    >>> left_open(found.assign(verdict="identified"))
    'Our runs tell all 2 of its coefficients.'
    """
    kept = profiles[profiles["fit"] == "joint"]
    loose = kept.loc[kept["verdict"] != "identified", "coefficient"]
    if loose.empty:
        return f"Our runs tell all {len(kept)} of its coefficients."
    return (
        f"Our runs leave open {len(loose)} of its {len(kept)} coefficients "
        f"({', '.join(map(_symbol, loose))}): values far apart fit alike. So a single coefficient "
        "of our fit says little; what it says is its value inside the range of the runs, with its "
        "interval."
    )


def coefficients_table(fitted: Fit, published: JointLaw, profiles: pd.DataFrame) -> pd.DataFrame:
    """Each coefficient of Equation 13: as printed, as our runs give it, and what they leave open.

    `profiles` has the 90 % range of the profile likelihood of each, open where nothing ends it.
    """
    kept = profiles[profiles["fit"] == "joint"].reset_index(drop=True)
    left = [_left_open(low, high) for low, high in zip(kept["low"], kept["high"], strict=True)]
    return pd.DataFrame(
        {
            "coefficient": kept["coefficient"].map(_symbol),
            "published": published.coefficients,
            "ours": fitted.law.coefficients,
            "left open by our runs": left,
        }
    )


def _symbol(name: str) -> str:
    """The symbol of a coefficient of Equation 13, its name where it has none."""
    return COEFFICIENT_SYMBOLS.get(name, name)


def _left_open(low: float, high: float) -> str:
    """A range of the profile likelihood in words.

    >>> _left_open(-198.2, -152.4), _left_open(0.9364, math.inf), _left_open(-math.inf, math.inf)
    ('-198 to -152', 'all above 0.936', 'any value')
    """
    ends = (math.isfinite(low), math.isfinite(high))
    words = {
        (True, True): f"{low:.3g} to {high:.3g}",
        (True, False): f"all above {low:.3g}",
        (False, True): f"all below {high:.4g}",
        (False, False): "any value",
    }
    return words[ends]


@figure(
    "estimators",
    paper="Section 4.2, estimated in four ways",
    data=("fits/leverage.csv",),
    studies=("isoflop", "activation", "granularity"),
    caption="Leverage of our models by each way of reading it off the losses, with 90 % intervals: "
    "the designs that were trained at enough budgets for a curve, one panel a budget.",
)
def estimators(table: pd.DataFrame) -> Drawing:
    """EL of a design at a budget by every estimator; `table` comes from `measured.estimates`."""
    keys = ["activation_ratio", "granularity"]
    designs = table[keys].drop_duplicates().sort_values(keys).reset_index(drop=True)
    placed = table.merge(designs.reset_index(names="row"), on=keys)
    budgets = sorted(placed["budget_flops"].unique())
    num_rows = math.ceil(len(budgets) / PANELS_ACROSS)
    size = (theme.WIDTH_INCHES * 1.2, num_rows * (0.9 + 0.3 * len(designs)))
    across = math.ceil(len(budgets) / num_rows)
    fig, grid = plt.subplots(
        num_rows, across, figsize=size, sharex=True, sharey=True, squeeze=False
    )
    axes = grid.ravel()
    for ax in axes[len(budgets) :]:
        ax.remove()
    for ax, budget in zip(axes, budgets, strict=False):
        for number, (name, role, marker) in enumerate(ESTIMATORS):
            rows = placed[(placed["estimator"] == name) & (placed["budget_flops"] == budget)]
            rows = rows.assign(height=rows["row"] + 0.2 * (number - 1.5))
            value = rows["efficiency_leverage"]
            bars = np.abs([value - rows["leverage_low"], rows["leverage_high"] - value])
            ax.errorbar(
                value, rows["height"], xerr=bars, fmt=marker, ms=4, color=theme.colour(role),
                elinewidth=1, label=name,
            )  # fmt: skip
            link_runs(ax, rows, "efficiency_leverage", "height")
        ax.axvline(1.0, ls="--", lw=1, color=theme.colour("muted"))
        ax.set_title(f"{power(budget)} FLOPs")
        log_axes(ax, "efficiency_leverage")
        ax.set_xlabel("EL")
    labels = [f"{percent(a)}, {g:.2g}" for a, g in designs.itertuples(index=False)]
    axes[0].set_yticks(range(len(designs)), labels)
    axes[0].set_ylim(len(designs) - 0.4, -0.6)
    for ax in grid[:, 0]:
        ax.set_ylabel("$A$, $G$ of the design")
    low, high = placed["leverage_low"].min(), placed["leverage_high"].max()
    plain_ticks(axes[0].xaxis, [t for t in (0.5, 1, 2, 4, 8) if low <= t <= high])
    axes[0].legend(loc="lower center", bbox_to_anchor=(0.45, TITLE_TOP), ncols=2, fontsize=9)
    apart = ~placed.drop_duplicates([*keys, "budget_flops"])["agree"].astype(bool)
    finding = (
        f"At {int(apart.sum())} of {len(apart)} points the 90 % intervals of the estimators have "
        f"no value in common."
    )
    return Drawing(fig, placed.drop(columns="row"), finding)
