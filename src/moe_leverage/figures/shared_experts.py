"""Figure of chapter 06: the best share of shared experts (Equation 9, Figure 7, Table 9).

S    shared-expert ratio E_s / (E_a + E_s)
C    training compute, FLOPs
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd

from moe_leverage.page import sweeps, theme
from moe_leverage.page.drawing import (
    STUDY_RANGE,
    draw_points,
    log_axes,
    note,
    percent,
    points,
    power,
    ranges,
)
from moe_leverage.page.notation import axis_label
from moe_leverage.page.registry import Drawing, figure
from moe_leverage.paper import STUDY_BUDGETS_FLOPS

# Section 4.1.3: best S up to the turning compute, and above it
BEST_BELOW, BEST_ABOVE, TURN_FLOPS = 0.167, 0.083, 1e20
OPTIMUM_COLUMNS = ("training_flops", "shared_ratio")


@figure(
    "shared-optimum",
    paper="Figure 7 and Table 9",
    data=("paper/table_09.csv",),
    studies=("shared",),
    caption="The best shared-expert ratio against compute: as the text states it (steps), the "
    "ratios that Table 9 lists (thin lines, with the number of its rows), and ours.",
)
def optimum(table_9: pd.DataFrame, measured: pd.DataFrame | None = None) -> Drawing:
    """Stated optimum, tested ratios and measured optima over compute."""
    runs = points(measured, OPTIMUM_COLUMNS)
    active = table_9["num_active_experts"] + table_9["num_shared_experts"]
    tested = (table_9["num_shared_experts"] / active).value_counts().sort_index()
    fig, ax = plt.subplots()
    for share, rows in tested.items():
        value = float(str(share))
        ax.axhline(value, color=theme.colour("muted"), lw=0.7)
        ax.text(2.2e21, value, f"{percent(value)}, {rows} rows", fontsize=8.5, va="bottom")
    low, high = STUDY_BUDGETS_FLOPS[0], STUDY_BUDGETS_FLOPS[-1]
    steps = [BEST_BELOW, BEST_BELOW, BEST_ABOVE, BEST_ABOVE]
    stated = pd.DataFrame(
        {"training_flops": [low, TURN_FLOPS, TURN_FLOPS, high], "shared_ratio": steps}
    )
    ink = theme.colour("published")
    label = "best, Section 4.1.3"
    ax.plot(stated["training_flops"], stated["shared_ratio"], color=ink, lw=3, label=label)
    if len(runs):
        draw_points(ax, runs, "training_flops", "shared_ratio")
    log_axes(ax, "training_flops")
    ax.set_xlim(1e11, 1e23)
    ax.set_ylabel(axis_label("shared_ratio"))
    ax.grid(visible=False)
    ax.legend(loc="upper left")
    note(fig, ranges(STUDY_RANGE, runs))
    nearest = min(map(float, tested.index.to_numpy()), key=lambda share: abs(share - BEST_BELOW))
    finding = (
        f"The text puts the best shared ratio at {percent(BEST_BELOW)} up to {power(TURN_FLOPS)} "
        f"FLOPs and at {percent(BEST_ABOVE)} above; the row of Table 9 nearest to the first is "
        f"{percent(nearest)}, which {tested[nearest]} of {len(table_9)} rows list."
    )
    return Drawing(fig, pd.concat([stated, runs], ignore_index=True), finding)


def first_expert(runs: pd.DataFrame) -> str:
    """What a first shared expert does to the loss, pair by pair of budget and seed, in words."""
    if runs.empty:
        return ""
    number = runs["num_shared_experts"]
    losses = runs[number <= 1].pivot_table(
        index=["budget_flops", "seed"], columns=number, values="loss_nats"
    )
    if not {0, 1} <= set(losses.columns):
        return ""
    gaps = (losses[1] - losses[0]).dropna().groupby(level=0).agg(["mean", "size"])
    said = [f"{row['mean']:+.3f} nats at {power(float(str(at)))} ({row['size']:.0f})" for at, row in
            gaps.iterrows()]  # fmt: skip
    return (
        "Seeds share their text and its order, so that designs can be held against each other pair "
        f"by pair: a first shared expert changes the loss by {', '.join(said)}, with the number of "
        "pairs in brackets. Designs whose routers stay unbalanced are left out."
    )


@figure(
    "loss-shared",
    paper="Figure 7a",
    studies=("shared",),
    caption="Held-out loss against the shared-expert ratio at each budget of our study: means "
    "over seeds, with the 90 % interval of the noise between them. Dashed: parabolas in S. "
    "Band: the two ratios that the text calls best.",
)
def losses(runs: pd.DataFrame, repeated: pd.DataFrame | None = None) -> Drawing:
    """Loss over S, a panel a budget; `runs` are those of the study `shared`."""
    axis = sweeps.Axis(
        name="shared_ratio", label=axis_label("shared_ratio"), is_log=False, symbol="S", unit=" %",
        scale=100, band=(BEST_ABOVE, BEST_BELOW),
    )  # fmt: skip
    means = sweeps.means_of(runs, axis.name, repeated=repeated)
    return sweeps.draw(means, axis, {"ours": "measured"}, fits=("ours",))
